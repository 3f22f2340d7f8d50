"""Train the last layers of a model on the features that its frozen first layers compute once.

`split_fixed_part` finds the layers whose output never changes, `FeatureLoader` serves that output, and `Features` gives
it to a learner's runs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minilearner.data.batch_transforms import FunctionTransform, run_steps
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.item_loader import ItemLoader
from minilearner.data.loader import Loader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.errors import DataError, plural
from minilearner.models.groups import NORMS
from minilearner.models.heads import AdaptiveConcatPool2d
from minilearner.runtime import available_memory, derive_generator
from minilearner.training.inference import predict_batches
from minilearner.training.run import Run
from minilearner.training.step import Step
from minilearner.tree import tensors_of

__all__ = ["FeatureLoader", "Features", "check_features", "check_repeats", "check_room", "split_fixed_part"]

Watch = Callable[[Any], Iterable[Any]]


@dataclass(frozen=True)
class _Computed:
    """Features, and what they belong to.

    Attributes:
        dls: loaders of the features.
        source: the loaders that they were computed from.
        fixed, rest: the layers that computed them, and those that train on them.
        state: the model as it was then; see `_frozen_state`.
    """

    dls: DataLoaders
    source: DataLoaders
    fixed: nn.Module
    rest: nn.Module
    state: Any


class _RestOfModel:
    """The layers that train on features, as a step calls them.

    A plain callable, for `Step.network`: `settings` become part of the run's settings.
    """

    settings: ClassVar = {"features": "precomputed"}

    def __init__(self, layers: nn.Module) -> None:
        self.layers = layers

    def __call__(self, *inputs: Any) -> Any:
        return self.layers(*inputs)


class Features:
    """The features of a learner's data, for as long as they are in use. At first there are none."""

    def __init__(self) -> None:
        self._computed: _Computed | None = None

    @contextmanager
    def precompute(self, run: Run, watch: Watch = iter) -> Iterator[None]:
        """Computes the features, which runs use inside; see `split_fixed_part`.

        Each item goes once through the frozen layers, in evaluation mode and in the run's precision. Afterwards the
        loaders are where training on them would have left them.

        Args:
            run: a fresh one, whose data were checked.
            watch: receives a loader and yields its batches, for instance to show progress.

        Raises:
            ValueError: the model does not begin with frozen layers, several processes train together, or features are
                in use already.
            DataError: training sees an item differently in each pass, or the features would not fit in memory.
        """
        self.check_not_in_use()
        if run.step.n_processes > 1:
            raise ValueError("features can be precomputed in one process only; here several train together.")
        dls, body = run.dls, copy.copy(run.step)
        fixed, rest = split_fixed_part(run.model)
        body.network = fixed
        loaders = {name: check_repeats(loader, name) for name, loader in _list_loaders(dls)}
        served = copy.copy(dls)
        for name, loader in loaders.items():
            setattr(served, name, _compute_features(body, loader, watch))
        self._computed = _Computed(served, dls, fixed, rest, _frozen_state(run.model, fixed))
        try:
            yield
        finally:
            self._computed = None
            for name, loader in loaders.items():
                loader.load_state_dict(getattr(served, name).state_dict())

    def check_not_in_use(self) -> None:
        """Raises a ValueError if features are in use: they would no longer be those of the model."""
        if self._computed is not None:
            raise ValueError("features were precomputed for the layers that are frozen now. Leave `precompute` first.")

    def serve(self, run: Run) -> Run:
        """Returns the run. If features are in use, they become its data, and its steps call the rest of the model.

        Raises:
            ValueError: layers were frozen or unfrozen since then, or the model, its frozen weights or the loaders were
                changed.
        """
        now = self._computed
        if now is None:
            return run
        if now.state != _frozen_state(run.model, now.fixed):
            raise ValueError(
                "features were precomputed for other frozen layers than are frozen now, or for other weights of them. "
                "Freeze and load before `precompute`, and unfreeze after it."
            )
        if now.source is not run.dls:
            raise ValueError("features were precomputed for other loaders. Change `dls` before `precompute`.")
        run.dls, run.step.network = now.dls, _RestOfModel(now.rest)
        return run


def _frozen_state(model: nn.Module, fixed: nn.Module) -> Any:
    """Returns what must stay as it is: which parameters learn, and the sums of the frozen layers' weights."""
    learning = [(id(parameter), parameter.requires_grad) for parameter in model.parameters()]
    sums = [t.detach().sum(dtype=torch.float64) for t in (*fixed.parameters(), *fixed.buffers())]
    return learning, torch.stack(sums).float().tolist()  # so rounded they are the same in any layout


def _list_loaders(dls: DataLoaders) -> list[tuple[str, Any]]:
    return [("train", dls.train), *([] if dls.valid is None else [("valid", dls.valid)])]


def _compute_features(body: Step, loader: MemoryLoader | ItemLoader, watch: Watch) -> FeatureLoader:
    x, done = torch.empty(0), 0
    for batch in predict_batches(body, loader.in_order(), watch=watch):
        if not done:
            check_features(batch.preds, batch.n_items)
            x = _allocate(loader.n_items, batch.preds)
        x[done : done + batch.n_items] = batch.preds
        done += batch.n_items
    return FeatureLoader(loader, x, loader.y)


def check_features(features: Any, n_items: int) -> None:
    """Raises a DataError unless this is a tensor with an entry for each of so many items."""
    if not isinstance(features, Tensor) or features.shape[:1] != (n_items,):
        found = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise DataError(
            f"the frozen layers must give one tensor with an entry for each item. Received: {found} for "
            f"{plural(n_items, 'item')}. Train without precomputing."
        )


def _allocate(n: int, features: Tensor) -> Tensor:
    shape = (n, *features.shape[1:])
    check_room(shape, features)
    return torch.empty(shape, dtype=features.dtype, device=features.device)


def check_room(shape: tuple[int, ...], features: Tensor) -> None:
    """Raises a DataError if a tensor of this shape, of the same kind as `features`, takes over half of the memory."""
    needed, there = math.prod(shape) * features.element_size(), available_memory(features.device)
    if needed > there // 2:
        raise DataError(
            f"precomputed features of shape {shape} would take {needed / 2**30:.1f} GiB, more than half of the "
            f"{there / 2**30:.1f} GiB available. Pool and flatten them at the start of the head, or train without."
        )


_N_TRIED, _N_DRAWS = 4, 64


class FeatureLoader(MemoryLoader):
    """Serves features in the same batches as another loader serves its items, beginning with that loader's next pass.

    Args:
        source: the other loader.
        x: (items, ...) features in the order of `source.in_order()`.
        y: (items, ...) targets.
    """

    def __init__(self, source: MemoryLoader | ItemLoader, x: Tensor, y: Tensor | None) -> None:
        options: dict[str, Any] = {name: getattr(source, name) for name in ("bs", "shuffle", "drop_last", "seed")}
        super().__init__(x, y, training=source.training, device=source.device, **options)
        self.source, self.weights = source, source.weights
        self.load_state_dict(source.state_dict())

    def fingerprint(self) -> dict[str, Any]:
        """Returns the fingerprint of the items. The features differ in their last bits from machine to machine."""
        return {**self.source.fingerprint(), "features": "precomputed"}

    def name_item(self, position: int) -> str:
        """Returns how an error names an item."""
        return self.source.name_item(position)


def check_repeats(loader: Loader, name: str) -> MemoryLoader | ItemLoader:
    """Returns a loader if it yields each item unchanged in every pass, and in an order that it knows.

    Its transforms say whether they are random. It is also tried out: a batch of the next pass must equal the same batch
    in validation. Functions of batches, which do not say whether they are random, are run many times on some items. A
    change to single items that is rare, such as a random crop when nearly all images are square, may go unnoticed.

    Raises:
        DataError: items change from pass to pass. Says through what.
    """
    if not isinstance(loader, (MemoryLoader, ItemLoader)):
        raise DataError(
            f"features can be precomputed for arrays in memory and for items that are read; {name} is a "
            f"{loader!r:.200}, whose order is not known. Build the loaders with `DataLoaders.from_arrays`, or from "
            "files."
        )
    if not loader.training:
        return loader
    random = [repr(transform) for transform in loader.batch_tfms.transforms if transform.train_only]
    if not random and not _equals_validation(loader):
        random = [repr(loader.dataset.item_tfms if isinstance(loader, ItemLoader) else loader.batch_tfms)]
    if random:
        raise DataError(
            "features can be precomputed if each item is the same in every pass; here augmentation changes "
            f"{name}: {', '.join(random)}. Leave it out (Resize(size, method='squish') does not cut at random), or "
            "train without precomputing."
        )
    return loader


def _equals_validation(loader: MemoryLoader | ItemLoader) -> bool:
    x, _ = loader.first_batch()
    chosen = loader.indices(loader.epoch)[: loader.bs]
    in_validation, _ = loader.pick(chosen).first_batch()
    are_equal = all(map(torch.equal, tensors_of(x), tensors_of(in_validation)))
    return are_equal and not _has_random_function(loader, chosen[:_N_TRIED])


def _has_random_function(loader: MemoryLoader | ItemLoader, chosen: Tensor) -> bool:
    steps = loader.batch_tfms.steps(training=True)
    if not any(isinstance(step, FunctionTransform) for step in steps):
        return False
    inputs = tensors_of(loader.items(chosen)[0])
    first, *others = ([run_steps(steps, t, derive_generator(seed)) for t in inputs] for seed in range(_N_DRAWS))
    return not all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


_DETERMINISTIC = (
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
"""Layers without parameters that compute the same in training and in evaluation: not dropout, not a norm."""


def split_fixed_part(model: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """Returns the frozen layers that a model begins with, and the layers after them. In sequence they are the model.

    The first part ends with the last frozen layer before the first that learns, and with the pooling and flattening
    after it, so that its features are small. Both parts consist of the model's own modules.

    Raises:
        ValueError: the model is not a sequence of layers (`nn.Sequential`), or its first layer learns, or no layer
            does, or norm layers learn among frozen layers.
    """
    layers = list(_list_layers("", model))
    learning = next((i for i, (_, layer) in enumerate(layers) if _learns(layer)), None)
    if learning is None:
        raise ValueError("nothing in the model learns: all its parameters are frozen.")
    frozen = [i for i, (_, layer) in enumerate(layers[:learning]) if next(layer.parameters(), None) is not None]
    if not frozen:
        name = layers[learning][0] or "the whole model"
        raise ValueError(
            f"the model must be a sequence of layers (nn.Sequential) that begins with frozen ones; here {name!r} "
            f"({type(layers[learning][1]).__name__}) learns and nothing before it is frozen. Freeze first, which needs "
            "a `splitter` if the layers are one group. Frozen norm layers learn too, unless the learner has "
            "train_bn=False."
        )
    _check_no_norm_learns(layers[learning:])
    end = frozen[-1] + 1
    while end < learning and type(layers[end][1]) in _DETERMINISTIC:
        end += 1
    fixed, rest = ([layer for _, layer in part] for part in (layers[:end], layers[end:]))
    return nn.Sequential(*fixed), nn.Sequential(*rest)


def _list_layers(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the layers of nested `nn.Sequential`s by name; one that is called in another way counts as one layer."""
    is_sequence = type(module).forward is nn.Sequential.forward and "forward" not in vars(module)
    if not isinstance(module, nn.Sequential) or not is_sequence or module._forward_hooks or module._forward_pre_hooks:
        yield name, module
        return
    for child_name, child in zip(module._modules, module, strict=True):  # `named_children` gives each only once
        yield from _list_layers(f"{name}.{child_name}".lstrip("."), child)


def _check_no_norm_learns(layers: list[tuple[str, nn.Module]]) -> None:
    name, first = layers[0]
    norms = [norm for norm in first.modules() if isinstance(norm, NORMS) and _learns(norm)]
    if norms and any(not parameter.requires_grad for _, layer in layers for parameter in layer.parameters()):
        raise ValueError(
            f"norm layers learn in {name!r}, among frozen ones, so next to nothing could be precomputed. Give the "
            "learner train_bn=False; batch norm without weights, or without running statistics, always changes."
        )


def _learns(module: nn.Module) -> bool:
    norms = (norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._NormBase))
    return any(parameter.requires_grad for parameter in module.parameters()) or any(map(_depends_on_batch, norms))


def _depends_on_batch(norm: nn.modules.batchnorm._NormBase) -> bool:
    """Whether training differs from evaluation even if nothing learns. `BnFreeze` keeps norms with weights fixed."""
    if norm.track_running_stats:
        return next(norm.parameters(), None) is None
    return isinstance(norm, nn.modules.batchnorm._BatchNorm)
