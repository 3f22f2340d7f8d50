"""Predictions of each item by a model that was not trained on it: k fits, each of which leaves out one fold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from minilearner.callbacks.progress import Output
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.folds import ItemPool, split_folds
from minilearner.data.loader import Loader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.errors import DataError, plural
from minilearner.glance import enumerate_names
from minilearner.results.origins import Origins
from minilearner.results.predictions import Predictions, join
from minilearner.runtime import derive_seed, isolate_rng, set_seed
from minilearner.training.item_origins import origins_of
from minilearner.tree import Tree, map_tensors

__all__ = ["FoldLearner", "cross_validate", "fit_briefly"]


class FoldLearner(Protocol):
    """The part of a learner that a fold needs."""

    dls: Any
    _output: Output

    def get_preds(self, ds_idx: int = 1, *, with_loss: bool = False) -> Predictions:
        """Predicts a set."""


def cross_validate(
    pool: ItemPool,
    k: int,
    make_learner: Callable[[DataLoaders], FoldLearner],
    fit: Callable[[Any], Any],
    *,
    seed: int,
    output: Output,
) -> Predictions:
    """Returns the predictions of all items of the pool, in its order, with losses and origins.

    Args:
        pool: the items.
        k: the number of folds.
        make_learner: makes a learner that has not seen the items.
        fit: trains it.
        seed: decides the folds, and all that is random in each fit.
        output: where a line for each fold is written, and bars are shown.

    Raises:
        ValueError: `k` is below 2 or above the number of items.
        TypeError: `make_learner` returns no learner.
        DataError: a learner does not validate on the items that it got.
    """
    folds = split_folds(pool.y, len(pool), k, seed)
    _name_rare_classes(pool, output)
    found: list[Predictions] = []
    with isolate_rng():
        for number, held in enumerate(folds, 1):
            set_seed(derive_seed(seed, "fold", number) % 2**32)
            learner = make_learner(pool.leave_out(held))
            _check_learner(learner, len(held))
            with learner._output.hide(bar=not output.bar, table=True):
                fit(learner)
                found.append(learner.get_preds(1, with_loss=True))
            output.say(f"fold {number} of {k}: {plural(len(held), 'item')} left out, loss {_mean_loss(found[-1]):.4f}")
    places = torch.from_numpy(np.argsort(np.concatenate(folds), kind="stable"))
    preds, targets, losses = (_join_in_order([getattr(one, part) for one in found], places) for part in _PARTS)
    indices = torch.arange(len(pool))
    return Predictions(preds, targets, None, losses, None, indices, found[0].vocab, _join_origins(pool.sets))


def fit_briefly(learner: Any, n_epoch: int) -> None:
    """Trains a learner with `fine_tune` if a part of its model is frozen, or else with `fit_one_cycle`."""
    is_frozen = not all(weight.requires_grad for weight in learner.model.parameters())
    (learner.fine_tune if is_frozen else learner.fit_one_cycle)(n_epoch)


_PARTS = ("preds", "targets", "losses")


def _name_rare_classes(pool: ItemPool, output: Output) -> None:
    """Names the classes with one item: a model that predicts this item has never seen its class."""
    vocab, y = pool.dls.vocab, pool.y
    if vocab is None or y is None or y.ndim != 1 or y.is_floating_point():
        return
    rare = [vocab[i] for i, n in enumerate(torch.bincount(y.cpu(), minlength=len(vocab)).tolist()) if n == 1]
    if rare:
        output.note(
            f"{plural(len(rare), 'class')} of one item: {enumerate_names(rare)}. The model that predicts this item has "
            "never seen its class, so the label looks wrong."
        )


def _check_learner(learner: Any, n_held: int) -> None:
    if not hasattr(learner, "get_preds") or not hasattr(learner, "dls"):
        raise TypeError(
            "`make_learner` must be a function that takes loaders and returns a learner. "
            f"Received: a function that returned a {type(learner).__name__}."
        )
    valid = learner.dls.valid
    n = None if valid is None else valid.n_items
    if n != n_held:
        raise DataError(
            "`make_learner` must make a learner of the loaders that it gets: Learner(dls, ...). "
            f"Received: a learner that validates on {n} items in place of {n_held}."
        )


def _mean_loss(predictions: Predictions) -> float:
    return float("nan") if predictions.losses is None else float(predictions.losses.mean())


def _join_in_order(parts: list[Tree], places: Tensor) -> Tree:
    return map_tensors(lambda tensor: tensor[places], join(tuple(parts)))


def _join_origins(sets: list[Loader]) -> Origins | None:
    found = [_origins(loader) for loader in sets]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None
    names = [name for name in known[0].columns if all(name in one.columns for one in known)]
    columns = {name: [value for one in known for value in one.columns[name]] for name in names}
    return Origins([source for one in known for source in one.sources], columns)


def _origins(loader: Loader) -> Origins | None:
    """Returns where the items come from. Images in memory are their own origins, so that they can be shown."""
    if isinstance(loader, MemoryLoader) and loader.x.ndim == 4:
        return Origins(loader.x.cpu())  # type: ignore[arg-type]
    return origins_of(loader)
