"""What `precompute="auto"` means: whether features of the frozen layers save work and change nothing."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minilearner.callbacks.averaging import EMA, SWA
from minilearner.callbacks.bn_freeze import BnFreeze
from minilearner.callbacks.logger import Logger
from minilearner.callbacks.row_loggers import CSVLogger, JSONLinesLogger
from minilearner.callbacks.tracking import Tracker
from minilearner.data.batch_transforms import BatchTransform, FunctionTransform
from minilearner.data.item_loader import ItemLoader
from minilearner.data.loader import DerivedLoader, Loader
from minilearner.errors import DataError
from minilearner.models.groups import NORMS
from minilearner.models.restore import evaluation_mode, restore_buffers
from minilearner.models.tensors import read_extra_state
from minilearner.runtime import isolate_rng, rng_state
from minilearner.training.callback import Callback
from minilearner.training.precompute import check_features, check_repeats, check_room, split_fixed_part
from minilearner.training.run import Run
from minilearner.tree import Tree, digest, map_tensors
from minilearner.tree import n_items as count_items

__all__ = ["saves_work"]

_LOOK_ON = (BnFreeze, CSVLogger, EMA, JSONLinesLogger, Logger, SWA, Tracker)
"""Our callbacks that see neither the inputs of a batch nor what the frozen layers do."""

_ROUNDING = 0.01
"""How far features may be apart, as a fraction of the largest, if they differ only by rounding."""


def saves_work(run: Run, callbacks: Sequence[Callback], n_epochs: int) -> bool:
    """Returns whether a run of so many epochs is faster on features, and certain to end with the same weights.

    One epoch is not faster, since each item goes through the frozen layers once anyway. Weights are the same, to float
    tolerance, if no transform can draw, if the model begins with frozen layers that compute the same in training as in
    evaluation and for each item alone, and if no callback sees inputs.

    Args:
        run: a fresh one, whose data were checked.
        callbacks: those of the run.
        n_epochs: how many epochs it has left.
    """
    if n_epochs < 2 or run.step.n_processes > 1 or run.step.network is not run.model:  # the last: it is compiled
        return False
    if _may_draw(run.dls.train) or not all(map(_only_looks_on, callbacks)):
        return False
    loaders = {"train": run.dls.train, "valid": run.dls.valid}
    try:
        fixed, rest = split_fixed_part(run.model)
        if any(not parameter.requires_grad for parameter in rest.parameters()):
            return False  # a norm layer learns early, so that little of the work would be saved
        checked = [check_repeats(loader, name) for name, loader in loaders.items() if loader is not None]
        return _computes_the_same(run, fixed, checked[0].first_batch()[0], sum(loader.n_items for loader in checked))
    except (DataError, IndexError, RuntimeError, ValueError):  # layers may need more than one item
        return False


def _only_looks_on(callback: Callback) -> bool:
    return isinstance(callback, _LOOK_ON) and _is_ours(callback)


def _may_draw(loader: Loader) -> bool:
    """Whether a transform may change items at random, even if so seldom that `check_repeats` would not notice.

    A random crop leaves square images whole. Functions, and transforms of other people, do not say what they do.
    """
    if not isinstance(loader, DerivedLoader) or not loader.training:
        return False
    steps = loader.batch_tfms.steps(training=True)
    is_known = all(_is_ours(step) and not isinstance(step, FunctionTransform) for step in steps)
    return not is_known or (isinstance(loader, ItemLoader) and not loader.dataset.item_tfms.is_fixed)


def _is_ours(one: Callback | BatchTransform) -> bool:
    return type(one).__module__.startswith("minilearner.")


def _computes_the_same(run: Run, fixed: nn.Module, x: Tree, n_items: int) -> bool:
    """Returns whether these layers give the same bits in training as in evaluation, and leave no trace.

    Their output for one item must not depend on the others in its batch, since a precomputed batch has other items.
    Whatever draws a random number, as dropout does, moves a generator. Hooks would see fewer passes.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in fixed.modules()):
        return False
    body = copy.copy(run.step)
    body.network = fixed
    with torch.no_grad(), isolate_rng(), restore_buffers(fixed), evaluation_mode(run.model):
        plain, before = body.predict(x), _digest_state(fixed)
        check_features(plain, count_items(x))
        check_features(body.predict(map_tensors(lambda t: t[:1], x)), 1)  # the last batch may be that short
        check_room((n_items, *plain.shape[1:]), plain)
        half = -(-len(plain) // 2)
        beside_others = body.predict(map_tensors(lambda t: torch.cat((t[:half], t[:half]))[: len(t)], x))
        if not _are_close(beside_others[:half], plain[:half]):
            return False
        for module in fixed.modules():
            module.training = not isinstance(module, NORMS)  # those with weights are frozen
        trained = body.predict(x)
        return torch.equal(plain, trained) and _digest_state(fixed) == before


def _are_close(some: Tensor, others: Tensor) -> bool:
    """Whether features differ by no more than rounding."""
    return torch.allclose(some, others, rtol=0.0, atol=_ROUNDING * float(others.abs().max()))


def _digest_state(layers: nn.Module) -> str:
    """Returns a digest of what a pass may change: the global generators, buffers and extra state."""
    rng = rng_state()
    generators = rng["python"], rng["numpy"], rng["torch"], *(rng["cuda"] or ())
    return digest(*generators, *layers.buffers(), read_extra_state(layers))
