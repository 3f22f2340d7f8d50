"""A table of a model's layers, from one batch that passes through it. The model stays as it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minilearner.glance import AtAGlance, Glance
from minilearner.models.hooks import ForwardHooks
from minilearner.models.inputs import spread_inputs
from minilearner.models.restore import evaluation_mode, restore_buffers
from minilearner.runtime import isolate_rng
from minilearner.threads import turn_of
from minilearner.tree import Tree, n_items

__all__ = ["LayerSummary", "ModelSummary", "summarize"]

_COLUMNS = ("Layer", "Type", "Output shape", "Parameters", "Trainable")


def summarize(model: nn.Module, x: Tree, settings: Mapping[str, Any] | None = None) -> ModelSummary:
    """Passes `x` through `model` once, in evaluation mode and without gradients, and describes each layer.

    Layers are the modules without children, and those that have children and parameters of their own. A module or a
    parameter that is used in several places counts once, in the first place.

    Afterwards everything is as before, even if the model raises: training flags, parameters, gradients, buffers and the
    random generators. No hook stays.

    Example: ``print(summarize(model, torch.zeros(1, 1, 28, 28)))``

    Args:
        model: any module.
        x: a batch on the model's device. Several inputs are spread over the arguments; see `spread_inputs`.
        settings: how the model is trained, for the lines below the table.

    Raises:
        Exception: whatever the model raises for `x`.
    """
    inputs, named = spread_inputs(model, x)
    outputs: dict[nn.Module, Tree] = {}
    multiply_adds: dict[nn.Module, int] = {}

    layers = [(path, module) for path, module in model.named_modules() if _is_layer(module)]

    def note(index: int, output: Tree) -> None:
        _, module = layers[index]
        outputs.setdefault(module, _shapes(output))
        multiply_adds[module] = multiply_adds.get(module, 0) + _multiply_adds(module, output)

    with (
        evaluation_mode(model),
        turn_of(model),  # before the hooks, which see no other thread's pass then
        ForwardHooks((layer for _, layer in layers), note),
        restore_buffers(model),
        isolate_rng(),
        torch.no_grad(),
    ):
        model(*inputs, **named)
    n = n_items(x) or 1
    seen: set[Tensor] = set()
    rows = tuple(
        _row(path, layer, outputs.get(layer), multiply_adds.get(layer, 0) // n, seen=seen) for path, layer in layers
    )
    notes = tuple(f"{name}: {value}" for name, value in (settings or {}).items())
    return ModelSummary(type(model).__name__, _shapes(x), rows, sum(b.numel() for b in model.buffers()), notes)


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a `ModelSummary`."""

    path: str
    """Its name in the model, as in ``model.get_submodule(path)``. Empty for the model itself."""
    type: str
    output_shape: Tree
    """The shape of its first output: a tuple, batch first, or a list or dictionary of tuples. None if it never ran."""
    parameters: int
    """How many weights it has that no layer above it has counted."""
    trainable: int
    """How many of these weights require a gradient."""
    multiply_adds: int
    """For one item, all calls together. Counts convolutions (not transposed ones) and linear layers; 0 for others."""


@dataclass(frozen=True, repr=False)
class ModelSummary(AtAGlance):
    """The result of `summarize`. Its text is a table, at most 100 characters wide."""

    name: str
    input_shape: Tree
    layers: tuple[LayerSummary, ...]
    buffers: int
    """How many numbers the buffers hold, such as batch norm's running statistics."""
    notes: tuple[str, ...] = ()
    """Lines below the table."""

    @property
    def parameters(self) -> int:
        """How many weights the model has."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def trainable(self) -> int:
        """How many of the weights require a gradient."""
        return sum(layer.trainable for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one item in convolutions and linear layers."""
        return sum(layer.multiply_adds for layer in self.layers)

    def __repr__(self) -> str:
        return str(self)

    def glance(self) -> Glance:
        """Returns the table for a notebook."""
        rows = [
            (one.path or "(model)", one.type, _text(one.output_shape), f"{one.parameters:,}", _mark(one))
            for one in self.layers
        ]
        title = f"{self.name}, input {_text(self.input_shape)}"
        return Glance(title, columns=_COLUMNS, rows=rows, after=[*self._totals(), *self.notes])

    def __str__(self) -> str:
        """Returns the table, at most 100 characters wide."""
        head = _line(*_COLUMNS)
        rule = "-" * len(head)
        body = [
            _line(layer.path or "(model)", layer.type, _text(layer.output_shape), f"{layer.parameters:,}", _mark(layer))
            for layer in self.layers
        ]
        return "\n".join(
            [
                _fit(f"{self.name}, input {_text(self.input_shape)}", len(head)).rstrip(),
                rule,
                head,
                rule,
                *body,
                rule,
                *self._totals(),
                *self.notes,
            ]
        )

    def _totals(self) -> list[str]:
        return [
            f"Parameters: {self.parameters:,} ({self.trainable:,} trainable, "
            f"{self.parameters - self.trainable:,} frozen); buffers: {self.buffers:,}",
            f"Multiply-adds of one item: {self.multiply_adds / 1e6:,.1f} million",
        ]


def _row(path: str, layer: nn.Module, shape: Tree, multiply_adds: int, *, seen: set[Tensor]) -> LayerSummary:
    own = [parameter for parameter in layer.parameters(recurse=False) if parameter not in seen]
    seen.update(own)
    trainable = sum(parameter.numel() for parameter in own if parameter.requires_grad)
    return LayerSummary(path, type(layer).__name__, shape, sum(p.numel() for p in own), trainable, multiply_adds)


def _is_layer(module: nn.Module) -> bool:
    return next(module.children(), None) is None or next(module.parameters(recurse=False), None) is not None


def _multiply_adds(module: nn.Module, output: Tree) -> int:
    if not isinstance(output, Tensor):
        return 0
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return output.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)
    return output.numel() * module.in_features if isinstance(module, nn.Linear) else 0


def _shapes(tree: Tree) -> Tree:
    if isinstance(tree, Tensor):
        return tuple(tree.shape)
    if isinstance(tree, Mapping):
        return {key: _shapes(value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return [_shapes(value) for value in tree]  # a list, since a tuple is a shape
    return type(tree).__name__


def _text(shapes: Tree) -> str:
    if isinstance(shapes, Mapping):
        return "{" + ", ".join(f"{key}: {_text(value)}" for key, value in shapes.items()) + "}"
    if isinstance(shapes, list):
        return "[" + ", ".join(map(_text, shapes)) + "]"
    return "(not used)" if shapes is None else str(shapes)


def _mark(layer: LayerSummary) -> str:
    if not layer.parameters:
        return ""
    return "yes" if layer.trainable == layer.parameters else "partly" if layer.trainable else "no"


def _line(path: str, kind: str, shape: str, parameters: str, trainable: str) -> str:
    return f"{_fit(path, 32, left=True)} {_fit(kind, 18)} {_fit(shape, 25)} {parameters:>12} {trainable:>9}"


def _fit(text: str, width: int, *, left: bool = False) -> str:
    """Pads or cuts to `width` characters. `left` cuts on the left, so that a path keeps its last names."""
    if len(text) <= width:
        return text.ljust(width)
    return f"…{text[1 - width :]}" if left else f"{text[: width - 1]}…"
