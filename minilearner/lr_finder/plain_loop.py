"""The parts of a hand-written training loop: its batches, its step, and a cache for its state."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, IterableDataset

from minilearner.models.restore import evaluation_mode
from minilearner.training.run import Run
from minilearner.training.step import LossFunction, ScaledStep, TrainStep
from minilearner.tree import map_tensors, n_items

__all__ = [
    "DataLoaderIter",
    "Feed",
    "PlainScaledStep",
    "PlainStep",
    "StateCacher",
    "TrainDataLoaderIter",
    "ValDataLoaderIter",
]


class PlainStep(TrainStep):
    """The step of a hand-written loop: whatever the inputs are, they are the model's one argument.

    Of the batches of one update each counts alike, as in `loss / accumulation_steps`, also a short one.
    """

    def predict(self, x: Any) -> Any:
        """Returns `model(x)`, also where `x` is a tuple."""
        return self.model(x)

    def backward(self, loss: Tensor, n_items: int) -> None:
        """Adds the gradients of one batch out of `n_accumulate`."""
        super().backward(loss, 1)


class PlainScaledStep(PlainStep, ScaledStep):
    """The same under the caller's own autocast settings and gradient scaler."""

    def __init__(
        self,
        model: nn.Module,
        loss_func: LossFunction,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        config: Mapping[str, Any],
    ):
        ScaledStep.__init__(self, model, loss_func, optimizer, scaler)
        self.config = config

    def predict(self, x: Any) -> Any:
        """Returns `model(x)`, in whatever precision it comes."""
        with torch.amp.autocast(**self.config):
            return self.model(x)

    def compute_loss(self, pred: Any, y: Any) -> Tensor:
        """Returns the loss, computed under autocast too."""
        with torch.amp.autocast(**self.config):
            return super().compute_loss(pred, y)


class Feed:
    """Batches as the loop wants them: on the device, and in passes of `n_batches`, wherever the data begin anew."""

    def __init__(self, batches: Iterator[tuple[Any, Any]], n_batches: int, *, device: torch.device, non_blocking: bool):
        self.batches = batches
        self.n_batches = n_batches
        self.device = device
        self.non_blocking = non_blocking

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for _ in range(self.n_batches):
            try:
                x, y = next(self.batches)
            except StopIteration:
                raise ValueError(
                    "`train_loader` came to its end before the sweep did. Lower `num_iter` or leave auto_reset=True."
                ) from None
            yield self._moved(x), self._moved(y)

    def mean_loss(self, run: Run, batches: Iterator[tuple[Any, Any]]) -> float:
        """The loss over all items of `batches`, by the model in evaluation mode."""
        total, n = 0.0, 0
        with evaluation_mode(run.model), torch.no_grad():
            for x, y in batches:
                x, y = self._moved(x), self._moved(y)
                size = n_items(y) or n_items(x)
                total, n = total + float(run.step.compute_loss(run.step.predict(x), y)) * size, n + size
        if not n:
            raise ValueError("`val_loader` has no items.")
        return total / n

    def _moved(self, tree: Any) -> Any:
        if hasattr(tree, "to"):  # tensors, and what else knows how to move, such as a tokenizer's batch
            return tree.to(self.device, non_blocking=self.non_blocking)
        return map_tensors(lambda t: t.to(self.device, non_blocking=self.non_blocking), tree)


class DataLoaderIter:
    """One pass over a loader, as `(inputs, labels)`.

    Args:
        data_loader: a torch `DataLoader`, or any other re-iterable of batches.

    Raises:
        ValueError: `data_loader` yields no batches, for it is a dataset, or cannot be iterated.
    """

    def __init__(self, data_loader: Any) -> None:
        is_items = isinstance(data_loader, Dataset) and not isinstance(data_loader, IterableDataset)
        if is_items or not hasattr(data_loader, "__iter__"):
            raise ValueError(
                "`data_loader` must yield batches, as a torch DataLoader does. "
                f"Received: a {type(data_loader).__name__}. Wrap a dataset in a DataLoader."
            )
        self.data_loader = data_loader
        self._iterator: Iterator[Any] = iter(data_loader)

    @property
    def dataset(self) -> Any:
        """The loader's data set."""
        return self.data_loader.dataset

    def inputs_labels_from_batch(self, batch_data: Any) -> tuple[Any, Any]:
        """Takes a batch apart: its first two parts. Override this for batches of another form, such as dictionaries::

            class Batches(TrainDataLoaderIter):
                def inputs_labels_from_batch(self, batch_data):
                    return batch_data["image"], batch_data["label"]

        Raises:
            ValueError: the batch is no list or tuple of at least two parts.
        """
        if not isinstance(batch_data, (list, tuple)) or len(batch_data) < 2:
            keys = f" with keys {list(batch_data)}" if isinstance(batch_data, dict) else ""
            raise ValueError(
                "A batch must be a tuple or list (inputs, labels, ...). "
                f"Received: a {type(batch_data).__name__}{keys}. Derive a class from `TrainDataLoaderIter` or "
                "`ValDataLoaderIter` whose `inputs_labels_from_batch` returns the two, and pass that over your loader."
            )
        return batch_data[0], batch_data[1]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self

    def __next__(self) -> tuple[Any, Any]:
        return self.inputs_labels_from_batch(next(self._iterator))


class TrainDataLoaderIter(DataLoaderIter):
    """Training batches without end: the loader begins anew when it ends, unless ``auto_reset=False``."""

    def __init__(self, data_loader: Any, auto_reset: bool = True) -> None:
        super().__init__(data_loader)
        self.auto_reset = auto_reset

    def __next__(self) -> tuple[Any, Any]:
        try:
            batch = next(self._iterator)
        except StopIteration:
            if not self.auto_reset:
                raise
            self._iterator = iter(self.data_loader)
            batch = next(self._iterator)
        return self.inputs_labels_from_batch(batch)


class ValDataLoaderIter(DataLoaderIter):
    """Validation batches: each new `for` goes over all of them once more."""

    def __init__(self, data_loader: Any) -> None:
        super().__init__(data_loader)
        self.run_limit = len(data_loader)
        self.run_counter = 0

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        if self.run_counter >= self.run_limit:
            self._iterator = iter(self.data_loader)
            self.run_counter = 0
        return self

    def __next__(self) -> tuple[Any, Any]:
        self.run_counter += 1
        return super().__next__()


class StateCacher:
    """Keeps states, such as `state_dict()` gives, by name: copies in memory, or their tensors in safetensors files.

    The files live in a folder of their own below `cache_dir` (the system's temporary folder when None) and go with
    this object.

    Raises:
        ValueError: `cache_dir` is no folder.
    """

    def __init__(self, in_memory: bool, cache_dir: str | os.PathLike[str] | None = None):
        if cache_dir is not None and not Path(cache_dir).is_dir():
            raise ValueError(f"`cache_dir` must be a folder that exists. Received: cache_dir={os.fspath(cache_dir)!r}.")
        self.in_memory = in_memory
        self.cache_dir = cache_dir
        self._kept: dict[str, Any] = {}
        if not in_memory:
            self._folder = Path(tempfile.mkdtemp(prefix="minilearner-state-", dir=cache_dir))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def store(self, key: str, state: Mapping[str, Any]) -> None:
        """Keeps `state` as it is now."""
        if self.in_memory:
            self._kept[key] = copy.deepcopy(state)
            return
        tensors: dict[str, Tensor] = {}

        def leave_a_gap(t: Tensor) -> Tensor:
            tensors[str(len(tensors))] = t.detach().cpu().clone(memory_format=torch.contiguous_format)
            return t.new_empty(0)

        self._kept[key] = copy.deepcopy(map_tensors(leave_a_gap, state))
        save_file(tensors, self._folder / f"{key}.safetensors")

    def retrieve(self, key: str) -> Any:
        """Returns a copy of what was kept, which the receiver may change.

        Raises:
            KeyError: nothing was kept by this name.
        """
        if key not in self._kept:
            raise KeyError(f"no state {key!r} was stored; there are {sorted(self._kept)}.")
        if self.in_memory:
            return copy.deepcopy(self._kept[key])
        tensors = load_file(self._folder / f"{key}.safetensors")
        numbers = iter(range(len(tensors)))
        return map_tensors(lambda _: tensors[str(next(numbers))], copy.deepcopy(self._kept[key]))
