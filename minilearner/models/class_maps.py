"""Where in an image a model finds the evidence for a class: Grad-CAM and Grad-CAM++.

The maps come from one layer with spatial extent, by default the last one. `results.evidence` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from minilearner.checks import check_choice
from minilearner.errors import DataError, closest
from minilearner.models.inputs import spread_inputs
from minilearner.models.restore import evaluation_mode, restore_buffers
from minilearner.tree import Tree, map_tensors, tensors_of

__all__ = ["ClassMaps", "Method", "class_maps"]

Method = Literal["gradcam", "gradcam++"]

_MOST_PREFIX_TOKENS = 8  # before the tokens of the grid: class, distillation and register tokens
_MOST_TRIES = 8  # normalizations at the end of a transformer, of which the last ones may act on class tokens alone
_IS_NO_FEATURE = (nn.Sequential, nn.Identity, nn.Dropout, nn.Flatten)
"""Modules whose output another one made: the last child, or the module before."""


@dataclass(frozen=True)
class ClassMaps:
    """The evidence for one class in each image."""

    maps: Tensor
    """(items, height, width): at the size of the layer's output, at least 0."""
    layer: str
    """The path of the layer in the model, such as "layer4.1"."""
    classes: Tensor
    """(items,): the class number that each map is about."""
    depends: Tensor
    """(items,): whether the score of the class depends on the layer's output at all. If not, the map is all 0."""


def class_maps(
    model: nn.Module,
    x: Tree,
    classes: Tensor | None = None,
    *,
    layer: str | nn.Module | None = None,
    method: Method = "gradcam",
) -> ClassMaps:
    """Computes where in each image the model finds the evidence for a class.

    It computes without autocast, so precisions below fp32 give the same maps unless the weights themselves have one.
    The model, its gradients and its buffers stay as they are. In-place layers, views, and frozen weights do no harm,
    because gradients are taken with respect to a copy of the layer's output.

    Sources: Selvaraju et al., "Grad-CAM", 2017; Chattopadhyay et al., "Grad-CAM++", 2018.

    Args:
        model: returns scores (items, classes), a single score for each item, or a tuple, a mapping or an object with
            `logits` that has them first.
        x: a batch of images, or of several inputs with images first.
        classes: (items,) class numbers. None takes the class with the largest score of each item.
        layer: a layer or its path. None takes the last one with spatial extent. In a transformer, that is the last
            normalization of its tokens on which the scores depend.
        method: "gradcam" weighs channels by their mean gradient; "gradcam++" finds several objects of a class better.

    Raises:
        ValueError: there is no such layer, or `method` is unknown.
        DataError: no layer has a spatial extent, or the output has no scores of classes.
    """
    check_choice(method, "method", ("gradcam", "gradcam++"))
    named = dict(model.named_modules())
    with evaluation_mode(model), restore_buffers(model), torch.autocast(_device_of(model).type, enabled=False):
        x = map_tensors(lambda t: _match(t, model), x)
        size = _image_size(x)
        candidates = [_path_of(layer, named)] if layer is not None else _find_layers(model, x, size)
        found: list[ClassMaps] = []
        for path in candidates:
            seen, gradient, classes = _differentiate(model, x, classes, named[path], size)
            if seen is not None:
                depends = gradient.flatten(1).any(1)
                found.append(ClassMaps(_weigh(seen.float(), gradient.float(), method), path, classes, depends))
                if bool(depends.any()):
                    return found[-1]
    if found:  # the scores depend on none of them, as with a head whose weights are all 0
        return found[0]
    what = "the output of this layer has" if layer is not None else "the outputs of this model's layers have"
    raise DataError(
        f"Grad-CAM needs a layer with a spatial output, and {what} no height and width. "
        "Give one with `layer=`: its output must be (items, channels, height, width) or tokens of a grid."
    )


class _Grid(NamedTuple):
    """How a layer's output lies in the image."""

    kind: Literal["channels first", "channels last", "tokens"]
    height: int
    width: int
    n_before: int = 0  # tokens that are no places

    def as_planes(self, t: Tensor) -> Tensor:
        """Returns an output as (items, channels, height, width)."""
        if self.kind == "channels first":
            return t
        if self.kind == "tokens":
            t = t[:, self.n_before :].reshape(len(t), self.height, self.width, -1)
        return t.permute(0, 3, 1, 2)


def _grid_of(output: Any, size: tuple[int, int]) -> _Grid | None:
    """Returns how an output lies in an image of this size. None if it has no spatial extent."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.ndim == 4:
        _, a, b, c = output.shape
        if _fits(b, c, size):
            return _Grid("channels first", b, c)
        return _Grid("channels last", a, b) if _fits(a, b, size) else None
    if output.ndim != 3:
        return None
    for n_before in range(_MOST_PREFIX_TOKENS + 1):
        n = output.shape[1] - n_before
        for height in range(2, n + 1):
            if (
                n % height == 0
                and _fits(height, n // height, size)
                and size[0] % height == size[1] % (n // height) == 0
            ):
                return _Grid("tokens", height, n // height, n_before)
    return None


def _fits(height: int, width: int, size: tuple[int, int]) -> bool:
    """Whether a grid of more than one place can cover an image: its cells are about square."""
    if height * width <= 1 or height > size[0] or width > size[1]:
        return False
    return abs(height - width * size[0] / size[1]) < 1.5


def _find_layers(model: nn.Module, x: Tree, size: tuple[int, int]) -> list[str]:
    """Returns the paths of layers to try, the best first."""
    called: list[tuple[str, nn.Module, _Grid]] = []

    def note(path: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            grid = _grid_of(_first_tensor(output), size)
            if grid is not None:
                called.append((path, module, grid))

        return module.register_forward_hook(hook)

    handles = [note(path, module) for path, module in model.named_modules() if path and _makes_features(module)]
    try:
        with torch.no_grad():
            _call(model, x)
    finally:
        for handle in handles:
            handle.remove()
    tokens = [
        path for path, module, grid in called if grid.kind == "tokens" and "norm" in type(module).__name__.lower()
    ]
    planes = [path for path, _, grid in called if grid.kind != "tokens"]
    is_transformer = bool(tokens) and (not planes or _last(called, tokens) > _last(called, planes))
    norms = [*dict.fromkeys(reversed(tokens))][:_MOST_TRIES]
    return norms if is_transformer else [*planes[-1:], *norms]


def _makes_features(module: nn.Module) -> bool:
    return not isinstance(module, _IS_NO_FEATURE) and "Pool" not in type(module).__name__


def _last(called: Sequence[tuple[str, Any, Any]], paths: Sequence[str]) -> int:
    return max(i for i, (path, _, _) in enumerate(called) if path == paths[-1])


def _differentiate(
    model: nn.Module, x: Tree, classes: Tensor | None, layer: nn.Module, size: tuple[int, int]
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Returns the layer's output as planes, the gradient of the classes' scores by it, and the classes."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, inputs: Any, output: Any) -> Any:
        first = _first_tensor(output)
        if first is None:
            return output
        kept.append(first.detach().clone().requires_grad_())
        return _replace_first(output, kept[-1].clone())  # a later layer may change it in place

    handle = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            scores = _scores(_call(model, x))
            chosen, classes = _choose(scores, classes)
            grid = _grid_of(kept[-1], size) if kept else None
            if grid is None:
                return None, scores, classes
            gradients: Sequence[Tensor | None] = torch.autograd.grad(chosen.sum(), kept[-1:], allow_unused=True)
    finally:
        handle.remove()
    gradient = torch.zeros_like(kept[-1]) if gradients[0] is None else gradients[0]
    return grid.as_planes(kept[-1].detach()), grid.as_planes(gradient), classes


def _choose(scores: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns the score of each item's class, and the classes. A single score is that of class 1 against class 0."""
    if scores.shape[1] == 1:
        single = scores[:, 0]
        classes = (single > 0).long() if classes is None else classes.to(scores.device)
        return torch.where(classes == 1, single, -single), classes
    classes = scores.argmax(1) if classes is None else classes.to(scores.device)
    if len(classes) != len(scores) or bool(((classes < 0) | (classes >= scores.shape[1])).any()):
        raise DataError(
            f"There must be one class number from 0 to {scores.shape[1] - 1} for each of {len(scores)} images. "
            f"Received: {classes.tolist()}."
        )
    return scores.gather(1, classes[:, None])[:, 0], classes


def _scores(output: Any) -> Tensor:
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("logits")
    scores = found if isinstance(found, Tensor) else next(iter(tensors_of(output)), None)
    if isinstance(scores, Tensor) and scores.ndim == 1:
        scores = scores[:, None]
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(output).__name__
        raise DataError(f"Grad-CAM needs a model that returns scores of shape (items, classes). Received: {shape}.")
    return scores


def _weigh(seen: Tensor, gradient: Tensor, method: Method) -> Tensor:
    if method == "gradcam":
        weights = gradient.mean((2, 3), keepdim=True)
    else:
        square = gradient**2
        below = 2 * square + seen.sum((2, 3), keepdim=True) * gradient**3
        alpha = torch.where(below != 0, square / below.where(below != 0, torch.ones_like(below)), 0)
        weights = (alpha * gradient.relu()).sum((2, 3), keepdim=True)
    return (weights * seen).sum(1).relu()


def _call(model: nn.Module, x: Tree) -> Any:
    inputs, named = spread_inputs(model, x)
    return model(*inputs, **named)


def _path_of(layer: str | nn.Module, named: Mapping[str, nn.Module]) -> str:
    paths = [path for path, module in named.items() if module is layer or path == layer]
    if not paths:
        hint = closest(layer, named) if isinstance(layer, str) else ""
        raise ValueError(f"`layer` must be a layer of the model, or its path.{hint} Received: layer={layer!r:.80}.")
    return paths[0]


def _image_size(x: Tree) -> tuple[int, int]:
    for t in tensors_of(x):
        if t.ndim == 4:
            return int(t.shape[2]), int(t.shape[3])
    raise DataError("Grad-CAM needs images as inputs, (items, channels, height, width). Received: none.")


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    return output[0] if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor) else None


def _replace_first(output: Any, first: Tensor) -> Any:
    if isinstance(output, Tensor):
        return first
    rest = (first, *output[1:])
    return type(output)(*rest) if hasattr(output, "_fields") else type(output)(rest)


def _match(t: Tensor, model: nn.Module) -> Tensor:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    return t if parameter is None or not t.is_floating_point() else t.to(parameter.dtype)


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
