"""The results of inference: for one batch, a whole set, and one item."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, overload

import numpy as np
import torch
from torch import Tensor
from typing_extensions import NamedTuple, TypeVar

from minilearner import processes
from minilearner.errors import DataError, FileFormatError
from minilearner.files import make_parent
from minilearner.glance import PublicNames
from minilearner.keywords import suggest_keywords
from minilearner.packing import pack, unpack
from minilearner.results.origins import Origins
from minilearner.tensor_file import TensorFile, name_file, write_tensor_file
from minilearner.tree import Tree, map_tensors

__all__ = ["BatchPrediction", "Prediction", "PredictionWithInput", "Predictions", "find_images", "join", "join_batches"]

_Label = TypeVar("_Label", default=Any)


@suggest_keywords
@dataclass(frozen=True)
class Predictions(PublicNames):
    """The predictions for a whole set, on the CPU, in its order.

    Unpacks to ``preds, targets``, with what else was asked for in fastai's order: ``inputs, preds, targets, decoded,
    losses``. Type checkers take these for tensors; the fields of a model with several outputs may hold any tree.
    """

    preds: Tree
    """(items, ...): the model's outputs after the activation of its loss; None if there are none."""
    targets: Tree
    """(items, ...), or None for data without targets."""
    inputs: Tree = None
    """(items, ...), with ``with_input=True``."""
    losses: Tensor | None = None
    """(items,): the loss of each item, with ``with_loss=True``."""
    decoded: Any = None
    """(items,): what the predictions mean, such as class numbers, with ``with_decoded=True``."""
    indices: Tensor | None = None
    """(items,): the position of each item in its dataset."""
    vocab: tuple[Any, ...] | None = None
    """The label of each class, if the loaders know them."""
    origins: Origins | None = None
    """The files of the items and the columns of their table, if the items come from files."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._parts())

    def __len__(self) -> int:
        """The number of parts that it unpacks to."""
        return len(self._parts())

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Tensor, ...]: ...

    def __getitem__(self, index: int | slice) -> Tree:
        """Returns the part at this place of what it unpacks to."""
        return self._parts()[index]

    def _parts(self) -> tuple[Tree, ...]:
        before = () if self.inputs is None else (self.inputs,)
        after = (part for part in (self.decoded, self.losses) if part is not None)
        return (*before, self.preds, self.targets, *after)

    @classmethod
    def from_batches(
        cls,
        batches: Iterable[BatchPrediction],
        *,
        with_input: bool = False,
        with_decoded: bool = False,
        with_loss: bool = False,
        decode: Callable[[Tree], Any] | None = None,
    ) -> Predictions:
        """Joins batches on the CPU. Parts that are not wanted are dropped batch by batch.

        Args:
            batches: in the order of the set.
            with_input: whether to keep the inputs.
            with_decoded: whether to decode the predictions.
            with_loss: whether to keep the losses.
            decode: returns what activated predictions mean. None takes the index of the largest in the last dimension,
                or the predictions themselves if targets are numbers to regress.

        Raises:
            DataError: there is no batch, a batch has no losses and they are wanted, or the batches differ in structure.
        """
        how: dict[str, Any] = {"with_input": with_input, "with_decoded": with_decoded, "with_loss": with_loss}
        return join_batches(batches, None, decode=decode, **how)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes everything to one safetensors file with JSON, whole or not at all, and returns its path.

        The file holds the paths of the items, not their images. With several processes, only process 0 writes.

        Args:
            path: the file. Its folder is made if there is none.

        Raises:
            TypeError: the decoded predictions or the vocabulary hold something that is not data.
            ValueError: the file cannot be written.
        """
        path = Path(path)
        content = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "origins"}
        content["origins"] = None if self.origins is None else _to_bytes(self.origins.as_data())
        if processes.is_first():
            make_parent(path, "path")
            write_tensor_file(path, _KIND, content, {}, prefix=_PREFIX)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictions:
        """Reads a file that `save` wrote. Neither the model, the loaders nor the items' files are needed.

        Args:
            path: the file.

        Raises:
            FileNotFoundError: there is no such file.
            FileFormatError: the file is damaged, or holds something else. Names the file.
        """
        path = Path(path)
        file = TensorFile(path, (_KIND,))
        file.tensors()  # checks their digest
        content = file.content(_PREFIX, most_bytes=8 * path.stat().st_size)
        with name_file(path):
            origins = content.pop("origins", None)
            unknown = content.keys() - {field.name for field in fields(cls)}
            if unknown or not {"preds", "targets"} <= content.keys():
                raise FileFormatError("it does not hold what predictions consist of.")
            return cls(**content, origins=None if origins is None else _read_origins(origins))


def find_images(predictions: Predictions) -> Callable[[Sequence[int]], list[Tensor | str]] | None:
    """Returns what gives the items at some positions as images: the inputs, or else the files. None without both.

    A text in place of an image says why it is missing.
    """
    inputs, origins = predictions.inputs, predictions.origins
    if isinstance(inputs, Tensor) and inputs.ndim == 4:
        return lambda indices: list(inputs[list(indices)])
    return None if origins is None else lambda indices: [origins.image(i) for i in indices]


_KIND, _PREFIX = "predictions", "data/"


def _to_bytes(data: Any) -> Tensor:
    """Returns data as the bytes of JSON: the header of a file is too small for the paths of a million items."""
    text = json.dumps(pack(data, {}), allow_nan=False, separators=(",", ":"))
    return torch.from_numpy(np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8).copy())


def _read_origins(content: Any) -> Origins:
    try:
        text = content.numpy().tobytes().decode("utf-8", "surrogatepass")
        data = unpack(json.loads(text), {})
        paths, columns = data["paths"], data["columns"]
        if not isinstance(paths, list) or any(len(values) != len(paths) for values in columns.values()):
            raise ValueError("not one value for each item")
        return Origins(paths, columns)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise FileFormatError(f"what it says about the items cannot be read: {str(error)[:80]}.") from error


@dataclass(frozen=True)
class BatchPrediction:
    """The result of inference for one batch, on the device that computed it."""

    x: Tree
    """The inputs, (batch, ...)."""
    preds: Tree
    """(batch, ...): the outputs after the activation, such as probabilities of classes."""
    targets: Tree = None
    """(batch, ...), or None for data without targets."""
    losses: Tensor | None = None
    """(batch,): the loss of each item, or None."""
    n_items: int = 0
    """The number of items in the batch."""


class Prediction(NamedTuple, Generic[_Label]):
    """The result of `predict` for one item. Unpacks to ``label, index, probabilities``."""

    label: _Label
    """The decoded prediction, from the vocabulary if there is one."""
    index: Tensor  # type: ignore[assignment]  # tuples have a method of this name
    """The prediction in the form of the loss: a class number."""
    probabilities: Tensor
    """(classes,): the output after the activation."""

    @property
    def input(self) -> None:
        """None; `with_input=True` returns a `PredictionWithInput`."""


class PredictionWithInput(NamedTuple, Generic[_Label]):
    """The result of `predict(item, with_input=True)`. Unpacks to ``input, label, index, probabilities``."""

    input: Tensor
    """The item as the model saw it, but in its real colours: (channels, height, width)."""
    label: _Label
    """As in `Prediction`."""
    index: Tensor  # type: ignore[assignment]  # tuples have a method of this name
    """As in `Prediction`."""
    probabilities: Tensor
    """As in `Prediction`."""


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()


def _are_numbers(targets: Tree) -> bool:
    return isinstance(targets, Tensor) and targets.is_floating_point()


def _keep(preds: Tree) -> Tree:
    return preds


def _argmax(preds: Tree) -> Tree:
    return map_tensors(lambda t: t.argmax(-1), preds)


def join_batches(
    batches: Iterable[BatchPrediction],
    n_items: int | None,
    *,
    with_input: bool = False,
    with_decoded: bool = False,
    with_loss: bool = False,
    decode: Callable[[Tree], Any] | None = None,
) -> Predictions:
    """Joins batches; see `Predictions.from_batches`.

    Args:
        batches, with_input, with_decoded, with_loss, decode: as there.
        n_items: how many items to make room for. If None, or too few, the batches are joined at the end, which takes
            twice the memory.

    Raises:
        DataError: as there.
    """
    kept = tuple(_Joined(n_items or 0) for _ in range(4))
    n = 0
    for batch in batches:
        n += batch.n_items
        if with_loss and batch.losses is None:
            raise DataError("`with_loss=True` needs a loss for each item, and so targets: these batches have none.")
        x, losses = batch.x if with_input else None, batch.losses if with_loss else None
        for joined, part in zip(kept, (batch.preds, batch.targets, x, losses), strict=True):
            joined.add(part)
    if kept[0].is_empty:
        raise DataError("There is nothing to predict: the loader has no batch.")
    preds, targets, inputs, joined_losses = (joined.take() for joined in kept)
    decoded = (decode or (_keep if _are_numbers(targets) else _argmax))(preds) if with_decoded else None
    return Predictions(preds, targets, inputs, joined_losses, decoded, torch.arange(n, device="cpu"))


class _Joined:
    """Joins batches on the CPU as they come, so that they do not need room beside the whole.

    Args:
        n_items: how many items there will be. What does not fit, such as a structure of tensors, is joined by `take`.
    """

    def __init__(self, n_items: int) -> None:
        self.n_items, self.n_filled = n_items, 0
        self.whole: Tensor | None = None
        self.parts: list[Tree] = []

    @property
    def is_empty(self) -> bool:
        return self.whole is None and not self.parts

    def add(self, part: Tree) -> None:
        """Appends a batch."""
        if self.is_empty and _is_plain(part) and part.ndim and 0 < len(part) < self.n_items:
            self.whole = torch.empty((self.n_items, *part.shape[1:]), dtype=part.dtype, device="cpu")
        if self._fits(part):
            self.whole[self.n_filled : self.n_filled + len(part)] = part.detach()  # type: ignore[index]
            self.n_filled += len(part)
        else:
            self.parts.append(map_tensors(_to_cpu, part))

    def _fits(self, part: Tree) -> bool:
        if self.whole is None or self.parts or not _is_plain(part) or part.dtype != self.whole.dtype:
            return False
        return part.shape[1:] == self.whole.shape[1:] and self.n_filled + len(part) <= self.n_items

    def take(self) -> Tree:
        """Returns all batches as one. Nothing can be added afterwards."""
        whole, self.whole = self.whole, None
        if whole is None:
            return join(tuple(self.parts))
        if not self.parts and self.n_filled == self.n_items:
            return whole
        return join((whole[: self.n_filled], *self.parts))


def _is_plain(part: Tree) -> bool:
    """Whether it is a tensor whose entries can be copied into another: of no subclass, not sparse, not quantized."""
    return type(part) is Tensor and part.layout is torch.strided and not part.is_quantized


def join(parts: tuple[Tree, ...]) -> Tree:
    """Concatenates equal structures along their first dimension. Leaves that are not tensors become a list."""
    first = parts[0]
    if any(type(part) is not type(first) for part in parts):
        kinds = sorted({type(part).__name__ for part in parts})
        raise DataError(f"All batches must have the same structure. Received: {', '.join(kinds)} in the same place.")
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat([part.reshape(1) if part.ndim == 0 else part for part in parts])
    if isinstance(first, Mapping):
        return {key: join(tuple(part[key] for part in parts)) for key in first}
    if isinstance(first, (tuple, list)):
        joined = [join(column) for column in zip(*parts, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    return list(parts)
