"""Train the last layers of a model on what its frozen first layers give, computed once.

`fixed_part` finds the layers whose output never changes, `FeatureLoader` serves that output, and `Features` lends it to
a learner for some runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minilearner.data.batch_transforms import FunctionTransform, run_steps
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.item_loader import ItemLoader
from minilearner.data.loader import Loader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.errors import DataError
from minilearner.models.groups import NORMS
from minilearner.models.heads import AdaptiveConcatPool2d
from minilearner.runtime import available_memory, derived_generator
from minilearner.training.inference import predict_batches
from minilearner.training.run import Run
from minilearner.training.step import TrainStep
from minilearner.tree import tensors_of

__all__ = ["FeatureLoader", "Features", "check_repeats", "fixed_part"]

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


_N_TRIED, _N_DRAWS = 4, 64


class FeatureLoader(MemoryLoader):
    """Serves features in the batches in which another loader serves its items, from the pass on where that stands.

    Args:
        source: that loader.
        x: (items, ...) features in the order of `source.in_order()`.
        y: (items, ...) targets.
    """

    def __init__(self, source: MemoryLoader | ItemLoader, x: Tensor, y: Tensor | None) -> None:
        options: dict[str, Any] = {name: getattr(source, name) for name in ("bs", "shuffle", "drop_last", "seed")}
        super().__init__(x, y, training=source.training, device=source.device, **options)
        self.source = source
        self.load_state_dict(source.state_dict())

    def fingerprint(self) -> dict[str, Any]:
        """Returns what tells the items from others: features differ in their last bits from machine to machine."""
        return {**self.source.fingerprint(), "features": "precomputed"}

    def name_item(self, position: int) -> str:
        """Returns how an error names an item."""
        return self.source.name_item(position)


def check_repeats(loader: Loader, name: str) -> MemoryLoader | ItemLoader:
    """Returns a loader that gives each item alike in every pass, and in an order that it can tell.

    Known by what its transforms say, and by trial: a batch of the next pass must be what validation makes of it, and
    functions, which do not say whether they draw, are run many times on some of its items.

    Raises:
        DataError: it does not; says what changes.
    """
    if not isinstance(loader, (MemoryLoader, ItemLoader)):
        raise DataError(
            f"features can be precomputed of arrays in memory and of items that are read; {name} is a {loader!r:.200}, "
            "which tells no order. Build the loaders with `DataLoaders.from_arrays`, or from files."
        )
    if not loader.training:
        return loader
    random = [repr(transform) for transform in loader.batch_tfms.transforms if transform.train_only]
    if not random and not _is_as_in_validation(loader):
        random = [repr(loader.dataset.item_tfms if isinstance(loader, ItemLoader) else loader.batch_tfms)]
    if random:
        raise DataError(
            "features can be precomputed where each item is the same in every pass; here augmentation changes "
            f"{name}: {', '.join(random)}. Leave it out (Resize(size, method='squish') does not cut at random), or "
            "train without precomputing."
        )
    return loader


def _is_as_in_validation(loader: MemoryLoader | ItemLoader) -> bool:
    x, _ = loader.first_batch()
    chosen = loader.indices(loader.epoch)[: loader.bs]
    in_validation, _ = loader.pick(chosen).first_batch()
    return all(map(torch.equal, tensors_of(x), tensors_of(in_validation))) and not _draws(loader, chosen[:_N_TRIED])


def _draws(loader: MemoryLoader | ItemLoader, chosen: Tensor) -> bool:
    steps = loader.batch_tfms.steps(training=True)
    if not any(isinstance(step, FunctionTransform) for step in steps):
        return False
    inputs = tensors_of(loader.items(chosen)[0])
    first, *others = ([run_steps(steps, t, derived_generator(seed)) for t in inputs] for seed in range(_N_DRAWS))
    return not all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


_WITHOUT_CHANCE = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.Flatten,
    nn.Identity,
    nn.ReLU,
    AdaptiveConcatPool2d,
)
"""Layers without parameters that give the same in training and in evaluation: not dropout, not a norm."""


def fixed_part(model: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """Returns the frozen layers that a model begins with, and those after them; one after the other they are the model.

    The first part ends with the last frozen layer before any that learns, and with the pooling and flattening behind
    it, so that what it gives is small. Both are made of the model's own modules.

    Raises:
        ValueError: the model is no row of layers (`nn.Sequential`), or its first layer learns, or none does, or norm
            layers learn where all else is frozen.
    """
    layers = list(_in_a_row("", model))
    learning = next((i for i, (_, layer) in enumerate(layers) if _learns(layer)), None)
    if learning is None:
        raise ValueError("nothing of the model learns: all its parameters are frozen.")
    frozen = [i for i, (_, layer) in enumerate(layers[:learning]) if next(layer.parameters(), None) is not None]
    if not frozen:
        name = layers[learning][0] or "the whole model"
        raise ValueError(
            f"the model must be a row of layers (nn.Sequential) that begins with frozen ones; here {name!r} "
            f"({type(layers[learning][1]).__name__}) learns and nothing before it is frozen. Freeze first, which "
            "takes a `splitter` where the layers are one group; norm layers learn while frozen too, unless the learner "
            "has train_bn=False."
        )
    _check_norms_rest(layers[learning:])
    end = frozen[-1] + 1
    while end < learning and type(layers[end][1]) in _WITHOUT_CHANCE:
        end += 1
    fixed, rest = ([layer for _, layer in part] for part in (layers[:end], layers[end:]))
    return nn.Sequential(*fixed), nn.Sequential(*rest)


def _in_a_row(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Gives the layers of nested `nn.Sequential`s by name; one that is called in another way counts as one layer."""
    is_row = type(module).forward is nn.Sequential.forward and "forward" not in vars(module)
    if not isinstance(module, nn.Sequential) or not is_row or module._forward_hooks or module._forward_pre_hooks:
        yield name, module
        return
    for child_name, child in zip(module._modules, module, strict=True):  # `named_children` gives each only once
        yield from _in_a_row(f"{name}.{child_name}".lstrip("."), child)


def _check_norms_rest(layers: list[tuple[str, nn.Module]]) -> None:
    name, first = layers[0]
    norms = [norm for norm in first.modules() if isinstance(norm, NORMS) and _learns(norm)]
    if norms and any(not parameter.requires_grad for _, layer in layers for parameter in layer.parameters()):
        raise ValueError(
            f"norm layers learn in {name!r}, amid frozen ones, so that next to nothing could be precomputed. Give the "
            "learner train_bn=False; batch norm without weights, or without running statistics, never rests."
        )


def _learns(module: nn.Module) -> bool:
    norms = (norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._NormBase))
    return any(parameter.requires_grad for parameter in module.parameters()) or any(map(_takes_batches_in, norms))


def _takes_batches_in(norm: nn.modules.batchnorm._NormBase) -> bool:
    """Whether training differs from evaluation also where nothing learns: `BnFreeze` lets norms with weights rest."""
    if norm.track_running_stats:
        return next(norm.parameters(), None) is None
    return isinstance(norm, nn.modules.batchnorm._BatchNorm)
