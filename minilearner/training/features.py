"""Training the rest of a model on what its frozen layers give, which is computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _InForce:
    """Features, and what they belong to.

    Attributes:
        dls: loaders of the features.
        whole: the loaders that they were computed from.
        fixed, rest: the layers that computed them, and those that train on them.
        stood: the model as it was then; see `_standing`.
    """

    dls: DataLoaders
    whole: DataLoaders
    fixed: nn.Module
    rest: nn.Module
    stood: Any


class Features:
    """What a model's frozen first layers give for its data. Where that is in force, runs train on it; at first not."""

    def __init__(self) -> None:
        self._in_force: _InForce | None = None

    @contextmanager
    def precomputed(self, run: Run, watch: Watch = iter) -> Iterator[None]:
        """Computes them, in force inside; see `fixed_part`. The loaders stand afterwards as if trained on.

        Each item goes once through the frozen layers, in evaluation mode and in the run's precision.

        Args:
            run: a fresh one, whose data were checked.
            watch: is given a loader and passes its batches on, showing progress for instance.

        Raises:
            ValueError: the model does not begin with frozen layers, several processes train together, or features are
                in force already.
            DataError: training sees an item differently in each pass, or features would not fit into memory.
        """
        self.check_idle()
        if run.step.n_processes > 1:
            raise ValueError("features are precomputed in one process; here several train together.")
        dls, body = run.dls, copy.copy(run.step)
        fixed, rest = fixed_part(run.model)
        body.network = fixed
        loaders = {name: check_repeats(loader, name) for name, loader in _named(dls)}
        served = copy.copy(dls)
        for name, loader in loaders.items():
            setattr(served, name, _computed(body, loader, watch))
        self._in_force = _InForce(served, dls, fixed, rest, _standing(run.model, fixed))
        try:
            yield
        finally:
            self._in_force = None
            for name, loader in loaders.items():
                loader.load_state_dict(getattr(served, name).state_dict())

    def check_idle(self) -> None:
        """Raises a ValueError where features are in force, which would no longer be those of the model."""
        if self._in_force is not None:
            raise ValueError("features are precomputed for the layers that are frozen now. Leave `precompute` first.")

    def served_in(self, run: Run) -> Run:
        """Returns the run; where features are in force, they are its data, and its steps call the rest of the model.

        Raises:
            ValueError: layers were frozen or unfrozen since, or model, frozen weights or loaders are others.
        """
        now = self._in_force
        if now is None:
            return run
        if now.stood != _standing(run.model, now.fixed):
            raise ValueError(
                "features were precomputed for other frozen layers than are frozen now, or for other weights of them. "
                "Freeze and load before `precompute`, and unfreeze after it."
            )
        if now.whole is not run.dls:
            raise ValueError("features were precomputed for other loaders. Change `dls` before `precompute`.")
        run.dls, run.step.network = now.dls, now.rest
        return run


def _standing(model: nn.Module, fixed: nn.Module) -> Any:
    """What must stay as it is: which parameters learn, and the frozen layers' weights, told by their sums."""
    learning = [(id(parameter), parameter.requires_grad) for parameter in model.parameters()]
    sums = [t.detach().sum(dtype=torch.float64) for t in (*fixed.parameters(), *fixed.buffers())]
    return learning, torch.stack(sums).float().tolist()  # so rounded they are the same in any layout


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
