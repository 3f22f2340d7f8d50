"""The parts of a hand-written training loop: its batches, how it trains one, and a cache for its state."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from minilearner.files import is_left_over, name_for_owner
from minilearner.keywords import suggest_keywords
from minilearner.models.restore import evaluation_mode
from minilearner.training.callback import Callback
from minilearner.training.precision import ScaledFp16
from minilearner.training.run import Run
from minilearner.training.step import Step
from minilearner.tree import map_tensors, n_items

__all__ = [
    "DataLoaderIter",
    "Feed",
    "GivenAutocast",
    "PlainLoop",
    "StateCacher",
    "TrainDataLoaderIter",
    "ValDataLoaderIter",
]


class PlainLoop(Callback):
    """Trains each batch as hand-written loops do.

    Whatever the inputs are, they are the model's one argument. Every batch in an update has the same weight, as in
    `loss / accumulation_steps`, even a short one.
    """

    def before_fit(self, run: Run) -> None:
        run.step.measures_loss = False
        run.process_batch = partial(self._train, run)

    def _train(self, run: Run) -> None:
        run.pred, run.loss = compute_pred_and_loss(run.step, run.x, run.y)
        run.step.backward(run.loss, 1)


def compute_pred_and_loss(step: Step, x: Any, y: Any) -> tuple[Any, Tensor]:
    """Returns the model's output for the one argument `x`, and its loss, both in the step's precision."""
    pred = step.predict((x,))
    return pred, step.precision.call(step.compute_loss, pred, y)


class GivenAutocast(ScaledFp16):
    """Computes under the caller's own autocast settings, with the caller's gradient scaler.

    Args:
        scaler: the scaler of the caller's loop.
        config: the arguments of `torch.amp.autocast`.
    """

    def __init__(self, scaler: torch.amp.GradScaler, config: Mapping[str, Any]):
        super().__init__(str(config.get("device_type")), scaler)
        self.config = config

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns `function(*args)`, in whatever precision it comes."""
        with torch.amp.autocast(**self.config):
            return function(*args)


class Feed:
    """Batches for the loop: on the device, in passes of `n_batches`, regardless of where the data restart."""

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
                    "`train_loader` ended before the sweep did. Lower `num_iter` or leave auto_reset=True."
                ) from None
            yield self._move(x), self._move(y)

    def mean_loss(self, run: Run, batches: Iterator[tuple[Any, Any]]) -> float:
        """Returns the loss over all items of `batches`, of the model in evaluation mode."""
        total, n = 0.0, 0
        with evaluation_mode(run.model), torch.no_grad():
            for x, y in batches:
                x, y = self._move(x), self._move(y)
                size = n_items(y) or n_items(x)
                _, loss = compute_pred_and_loss(run.step, x, y)
                total, n = total + float(loss) * size, n + size
        if not n:
            raise ValueError("`val_loader` has no items.")
        return total / n

    def _move(self, tree: Any) -> Any:
        if hasattr(tree, "to"):  # tensors and everything else that can move, such as a tokenizer's batch
            return tree.to(self.device, non_blocking=self.non_blocking)
        return map_tensors(lambda t: t.to(self.device, non_blocking=self.non_blocking), tree)


class DataLoaderIter:
    """One pass over a loader, as `(inputs, labels)`.

    Args:
        data_loader: a torch `DataLoader`, or any other re-iterable of batches.

    Raises:
        ValueError: `data_loader` is a dataset, which yields no batches, or cannot be iterated.
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
        """Returns the first two parts of a batch. Override this for batches of another form, such as dictionaries::

            class Batches(TrainDataLoaderIter):
                def inputs_labels_from_batch(self, batch_data):
                    return batch_data["image"], batch_data["label"]

        Raises:
            ValueError: the batch is not a list or tuple of at least two parts.
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


@suggest_keywords
class TrainDataLoaderIter(DataLoaderIter):
    """Training batches without end: the loader starts again when it ends, unless ``auto_reset=False``."""

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


@suggest_keywords
class ValDataLoaderIter(DataLoaderIter):
    """Validation batches: each new `for` goes over all of them again."""

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
    """Keeps states, such as those of `state_dict()`, by name: copies in memory, or their tensors in safetensors files.

    The files are in a folder of their own below `cache_dir` (the system's temporary folder if None). They are removed
    together with this object, and those of a process that was killed by the next object with the same `cache_dir`.

    Raises:
        ValueError: `cache_dir` is not a folder.
    """

    def __init__(self, in_memory: bool, cache_dir: str | os.PathLike[str] | None = None):
        if cache_dir is not None and not Path(cache_dir).is_dir():
            raise ValueError(f"`cache_dir` must be a folder that exists. Received: cache_dir={os.fspath(cache_dir)!r}.")
        self.in_memory = in_memory
        self.cache_dir = cache_dir
        self._kept: dict[str, Any] = {}
        if not in_memory:
            self._folder = _make_folder(Path(cache_dir or tempfile.gettempdir()))
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
        """Returns a copy of what was stored, which the receiver may change.

        Raises:
            KeyError: nothing was stored under this name.
        """
        if key not in self._kept:
            raise KeyError(f"no state {key!r} was stored; there are {sorted(self._kept)}.")
        if self.in_memory:
            return copy.deepcopy(self._kept[key])
        tensors = load_file(self._folder / f"{key}.safetensors")
        numbers = iter(range(len(tensors)))
        return map_tensors(lambda _: tensors[str(next(numbers))], copy.deepcopy(self._kept[key]))


def _make_folder(parent: Path) -> Path:
    """Makes a folder whose name says which process owns it, and removes those whose process has ended."""
    for folder in parent.glob(f"{_FOLDER}*"):
        if is_left_over(folder, _FOLDER):
            shutil.rmtree(folder, ignore_errors=True)
    folder = parent / name_for_owner(_FOLDER)
    folder.mkdir(mode=0o700)
    return folder


_FOLDER = "minilearner-state-"
