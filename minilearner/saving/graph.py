"""A model as a graph for other runtimes: ONNX, and torch's own exported programs.

The graph takes inputs of their final size in [0, 1], normalises them as the loaders do, and returns what
`learn.get_preds` returns, such as probabilities. Decoding and resizing are left to the caller.
"""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from minilearner.data.batch_transforms import BatchTransform
from minilearner.data.dataloaders import DataLoaders
from minilearner.errors import DataError
from minilearner.files import replace_file
from minilearner.models.inputs import spread_inputs
from minilearner.models.tensors import unwrap
from minilearner.runtime import isolate_rng
from minilearner.saving.preparation import METADATA, describe_preparation
from minilearner.threads import hold

__all__ = ["RELATIVE_TOLERANCE", "TOLERANCE", "write_onnx", "write_torch_export"]

TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 1e-3
"""How far outputs may be from the model's output b: TOLERANCE + RELATIVE_TOLERANCE * |b|."""

Activation: TypeAlias = Callable[[Any], Any]
"""Turns the model's outputs into predictions."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # in the messages of torch's exporters


@runtime_checkable
class _Normalizes(Protocol):
    mean: Tensor
    std: Tensor


@runtime_checkable
class _Resizes(Protocol):
    def size_after(self, size: tuple[int, int]) -> tuple[int, int]: ...


class _Graph(nn.Module):
    """What is exported: the normalisation, the model and the activation."""

    def __init__(self, dls: DataLoaders, model: nn.Module, activate: Activation | None) -> None:
        super().__init__()
        self.resizes, normalizes = _split_steps(dls.train.batch_tfms.steps(training=False))
        self.statistics = [(t.mean, t.std) for t in normalizes]
        self.model, self.activate = model, activate

    def forward(self, *inputs: Tensor) -> Any:
        pred = self.model(*map(self._normalize, inputs))
        return pred if self.activate is None else self.activate(pred)

    def _normalize(self, x: Tensor) -> Tensor:
        for mean, std in self.statistics:
            shape = (1, -1, *(1,) * (x.ndim - 2))
            x = (x - mean.view(shape)) / std.view(shape)
        return x


def write_onnx(path: Path, dls: DataLoaders, model: nn.Module, activate: Activation | None, loss_func: Any) -> Path:
    """Writes an ONNX file with a dynamic batch dimension, and compares its outputs with the model's in onnxruntime.

    Its metadata say how images become inputs, and what outputs mean; see `preparation`. Its input is called "input" and
    its output "output". Several inputs are called as the arguments of the model.

    Raises:
        ImportError: the extra `onnx` is not installed.
        ValueError: a batch transform cannot be part of a graph, or the loaders have no batch to try the graph on.
        DataError: the model cannot be turned into a graph, or the graph's outputs differ from the model's.
    """
    try:
        import onnxruntime  # an extra, as is what torch needs to write the file
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            f"format='onnx' needs {error.name}, which is not installed: pip install 'minilearner[onnx]'."
        ) from error
    graph, inputs = _prepare(dls, model, activate)
    own_names = list(inspect.signature(graph.model.forward).parameters)
    names = ["input"] if len(inputs) == 1 else [*own_names, *map(str, range(len(inputs)))][: len(inputs)]
    preparation = describe_preparation(dls, loss_func, graph.resizes)
    how: dict[str, Any] = {"input_names": names, "output_names": ["output"], "dynamo": True, "verbose": False}
    with replace_file(path) as temporary:
        with _silence(), _explain_failure("onnx"):
            program: Any = torch.onnx.export(graph, inputs, dynamic_shapes=_dynamic(inputs), **how)
            program.model.metadata_props[METADATA] = preparation
            program.save(str(temporary), include_initializers=True, external_data=False)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        for sample in _make_batches(inputs):
            given = dict(zip(names, (t.numpy() for t in sample), strict=True))
            _compare(graph(*sample), torch.from_numpy(session.run(None, given)[0]), "ONNX")
    return path


def write_torch_export(path: Path, dls: DataLoaders, model: nn.Module, activate: Activation | None) -> Path:
    """Writes a program for `torch.export.load` with a dynamic batch dimension, and compares it with the model.

    Raises:
        ValueError, DataError: as `write_onnx`.
    """
    graph, inputs = _prepare(dls, model, activate)
    with replace_file(path) as temporary:
        named = temporary.with_suffix(".pt2")  # torch insists on the suffix
        with _silence(), _explain_failure("torch_export"):
            program = torch.export.export(graph, inputs, dynamic_shapes=_dynamic(inputs))
            torch.export.save(program, named)
            loaded = torch.export.load(named).module()
        for sample in _make_batches(inputs):
            _compare(graph(*sample), loaded(*sample), "exported program")
        named.replace(temporary)
    return path


def _prepare(dls: DataLoaders, model: nn.Module, activate: Activation | None) -> tuple[_Graph, tuple[Tensor, ...]]:
    """Returns the graph, on the CPU in fp32, and a batch to try it on."""
    with hold(model):
        own = copy.deepcopy(unwrap(model))
    own = own.cpu().float().eval()
    graph = _Graph(dls, own, activate).requires_grad_(False)
    graph.statistics = [(mean.cpu(), std.cpu()) for mean, std in graph.statistics]
    x: Any = dls.sample_input()
    inputs, named = spread_inputs(graph.model, x)
    if named:  # by the order of the model's arguments
        bound = inspect.signature(graph.model.forward).bind(**named)
        bound.apply_defaults()
        inputs = bound.args
    if not all(isinstance(t, Tensor) for t in inputs):
        raise ValueError(f"a graph takes tensors. Received from the loaders: {type(x).__name__}.")
    return graph, tuple(_denormalize(graph, t[:2].cpu()) for t in inputs)


def _denormalize(graph: _Graph, x: Tensor) -> Tensor:
    for mean, std in reversed(graph.statistics):
        shape = (1, -1, *(1,) * (x.ndim - 2))
        x = x * std.view(shape) + mean.view(shape)
    return x


def _dynamic(inputs: tuple[Tensor, ...]) -> Any:
    """Returns the description of a batch dimension of any length for the graph's `*inputs`."""
    return (tuple({0: torch.export.Dim("batch")} for _ in inputs),)


def _split_steps(steps: Sequence[BatchTransform]) -> tuple[list[BatchTransform], list[_Normalizes]]:
    """Returns what resizes images, which is left to the caller, and what normalises them, which the graph does."""
    resizes: list[BatchTransform] = []
    found: list[_Normalizes] = []
    for step in steps:
        if isinstance(step, _Normalizes):
            found.append(step)
        elif isinstance(step, _Resizes) and not found:
            resizes.append(step)
        else:
            raise ValueError(
                f"no graph can hold the batch transform {step!r}: only Normalize goes into it, and what resizes "
                "images before is left to the caller. Do it in the model, or export as safetensors."
            )
    return resizes, found


def _make_batches(inputs: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """Returns batches of one, two and three items."""
    return [tuple(torch.cat([x] * (-(-n // len(x))))[:n] for x in inputs) for n in (1, 2, 3)]


def _compare(expected: Any, found: Any, what: str) -> None:
    if not isinstance(expected, Tensor):
        raise DataError(f"a graph returns one tensor. The model returns a {type(expected).__name__}.")
    if expected.shape != found.shape or not torch.allclose(found, expected, RELATIVE_TOLERANCE, TOLERANCE):
        far = float((found - expected).abs().max()) if expected.shape == found.shape else float("nan")
        raise DataError(
            f"the {what} returns other outputs than the model: {tuple(found.shape)} against {tuple(expected.shape)}, "
            f"at most {far:.3g} apart. Nothing was written. A model that decides by the values of its inputs cannot be "
            "turned into a graph."
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Silences the warnings of torch's exporters, and undoes their draws of random numbers."""
    with isolate_rng(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _explain_failure(format: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever torch's exporters raise
        said = _COLOUR.sub("", str(error)).strip()
        raise DataError(f"this model cannot be exported with format={format!r}: {said[:500]}") from error
