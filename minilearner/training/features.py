"""Training the rest of a model on what its frozen layers give, which is computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from minilearner.data.features import FeatureLoader, check_repeats
from minilearner.data.item_loader import ItemLoader
from minilearner.data.loaders import DataLoaders
from minilearner.data.memory import MemoryLoader
from minilearner.errors import DataError
from minilearner.models.fixed import fixed_part
from minilearner.runtime import available_memory
from minilearner.training.inference import predict_batches
from minilearner.training.run import Run
from minilearner.training.step import TrainStep

__all__ = ["Features"]

Watch = Callable[[Any], Iterable[Any]]


class Features:
    """What a model's frozen first layers give for its data. Where that is in force, runs train on it; at first not."""

    def __init__(self) -> None:
        self._dls: DataLoaders | None = None
        self._rest = nn.Sequential()
        self._frozen: list[tuple[int, bool]] = []

    @contextmanager
    def precomputed(self, step: TrainStep, dls: DataLoaders, watch: Watch = iter) -> Iterator[None]:
        """Computes them, in force inside; see `fixed_part`. `dls` stand afterwards as if they had been trained on.

        Each item goes once through the frozen layers, in evaluation mode and in the precision of `step`.

        Args:
            watch: is given a loader and passes its batches on, showing progress for instance.

        Raises:
            ValueError: the model does not begin with frozen layers, or several processes train together.
            DataError: training sees an item differently in each pass, or features would not fit into memory.
        """
        if step.n_processes > 1:
            raise ValueError("features are precomputed in one process; here several train together.")
        body = copy.copy(step)
        body.network, rest = fixed_part(step.model)
        loaders = {name: check_repeats(loader, name) for name, loader in _named(dls)}
        served = copy.copy(dls)
        for name, loader in loaders.items():
            setattr(served, name, _computed(body, loader, watch))
        before = vars(self).copy()
        self._dls, self._rest, self._frozen = served, rest, _frozen(step.model)
        try:
            yield
        finally:
            vars(self).update(before)
            for name, loader in loaders.items():
                loader.load_state_dict(getattr(served, name).state_dict())

    def served_in(self, run: Run) -> Run:
        """Returns the run; where features are in force, they are its data, and its steps call the rest of the model.

        Raises:
            ValueError: layers were frozen or unfrozen since, or the model is another one.
        """
        if self._dls is None:
            return run
        if self._frozen != _frozen(run.model):
            raise ValueError(
                "features were precomputed for other frozen layers than are frozen now. Freeze before `precompute`, "
                "and unfreeze after it."
            )
        run.dls, run.step.network = self._dls, self._rest
        return run


def _frozen(model: nn.Module) -> list[tuple[int, bool]]:
    return [(id(parameter), parameter.requires_grad) for parameter in model.parameters()]


def _named(dls: DataLoaders) -> list[tuple[str, Any]]:
    return [("train", dls.train), *([] if dls.valid is None else [("valid", dls.valid)])]


def _computed(body: TrainStep, loader: MemoryLoader | ItemLoader, watch: Watch) -> FeatureLoader:
    x, done = torch.empty(0), 0
    for batch in predict_batches(body, loader.in_order(), watch=watch):
        if not isinstance(batch.preds, Tensor):
            raise DataError(f"the frozen layers must give one tensor. Received: {type(batch.preds).__name__}.")
        if not done:
            x = _room_for(loader.n_items, batch.preds)
        x[done : done + batch.n_items] = batch.preds
        done += batch.n_items
    return FeatureLoader(loader, x, loader.y)


def _room_for(n: int, features: Tensor) -> Tensor:
    shape = (n, *features.shape[1:])
    needed, there = n * features[0].numel() * features.element_size(), available_memory(features.device)
    if needed > there // 2:
        raise DataError(
            f"precomputed features of shape {shape} would take {needed / 2**30:.1f} GiB, more than half of the "
            f"{there / 2**30:.1f} GiB at hand. Pool and flatten them at the start of the head, or train without."
        )
    return torch.empty(shape, dtype=features.dtype, device=features.device)
