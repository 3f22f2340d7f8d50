"""Several fits of one kind: k of them, each of which leaves out one fold of the items; or one for each seed.

The result is the predictions of each item by a model that was not trained on it, or the scores of the fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from minilearner import processes
from minilearner.callbacks.progress import Output
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.folds import Fold, ItemPool, change_seed, hold_same_items
from minilearner.data.loader import Loader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.errors import DataError, plural
from minilearner.glance import enumerate_names
from minilearner.results.origins import Origins
from minilearner.results.predictions import Predictions, join
from minilearner.results.score_table import ScoreTable
from minilearner.runtime import derive_seed, isolate_rng, set_seed
from minilearner.training.item_origins import origins_of
from minilearner.tree import Tree, digest, map_tensors

__all__ = ["FoldLearner", "fit_briefly", "predict_folds", "score_folds", "score_seeds"]

_Result = TypeVar("_Result")


class FoldLearner(Protocol):
    """The part of a learner that a fit needs."""

    dls: Any
    model: nn.Module
    metrics: dict[str, Any]
    _output: Output

    def validate(self) -> list[float]:
        """Returns the loss and the metrics of the validation set."""

    def get_preds(self, ds_idx: int = 1, *, with_loss: bool = False) -> Predictions:
        """Predicts a set."""


def predict_folds(
    pool: ItemPool,
    folds: Sequence[Fold],
    make_learner: Callable[[DataLoaders], FoldLearner],
    fit: Callable[[Any], Any],
    *,
    seed: int,
    output: Output,
) -> Predictions:
    """Returns the predictions of all items of the pool, in its order, with losses and origins.

    Args:
        pool: the items.
        folds: which items each model trains on, and which it predicts. Each item is predicted once.
        make_learner: makes a learner that has not seen the items.
        fit: trains it.
        seed: decides all that is random in each fit.
        output: where a line for each fold is written, and bars are shown.

    Raises:
        TypeError: `make_learner` returns no learner.
        DataError: a learner does not validate on the items that it got.
    """
    how = make_learner, fit, _predict
    found = _fit_folds(pool, folds, *how, lambda preds: f"loss {_mean_loss(preds):.4f}", seed=seed, output=output)
    places = torch.from_numpy(np.argsort(np.concatenate([fold.held for fold in folds]), kind="stable"))
    preds, targets, losses = (_join_in_order([getattr(one, part) for one in found], places) for part in _PARTS)
    indices = torch.arange(len(pool))
    return Predictions(preds, targets, None, losses, None, indices, found[0].vocab, _join_origins(pool.sets))


def score_folds(
    pool: ItemPool,
    folds: Sequence[Fold],
    make_learner: Callable[[DataLoaders], FoldLearner],
    fit: Callable[[Any], Any],
    *,
    seed: int,
    output: Output,
) -> ScoreTable:
    """Returns the scores of each fold's model on the items that it was not trained on; see `predict_folds`."""
    found = _fit_folds(pool, folds, make_learner, fit, _validate, _say, seed=seed, output=output)
    sizes = [(len(fold.train), len(fold.held)) for fold in folds]
    overlap = float(np.mean([n_held / n_train for n_train, n_held in sizes]))
    return _as_table("fold", range(1, len(folds) + 1), [n_held for _, n_held in sizes], found, overlap)


def score_seeds(
    dls: DataLoaders,
    seeds: Sequence[int],
    make_learner: Callable[[DataLoaders], FoldLearner],
    fit: Callable[[Any], Any],
    *,
    output: Output,
) -> ScoreTable:
    """Returns the scores of one fit for each seed, which decides all that is random in it.

    Args:
        dls: the loaders, whose validation set scores each fit.
        seeds: one for each fit.
        make_learner: makes a learner that has not seen the items.
        fit: trains it.
        output: where a line for each seed is written, and bars are shown.
    """
    n_held, found = dls.loader(1).n_items, []
    for seed in seeds:
        with isolate_rng():
            learner = _fit_one(change_seed(dls, seed), seed, make_learner, fit, output)
            found.append(_validate(learner))
        output.say(f"seed {seed}: {_say(found[-1])}")
    return _as_table("seed", seeds, [n_held] * len(seeds), found)


def _fit_folds(
    pool: ItemPool,
    folds: Sequence[Fold],
    make_learner: Callable[[DataLoaders], FoldLearner],
    fit: Callable[[Any], Any],
    judge: Callable[[FoldLearner], _Result],
    say: Callable[[_Result], str],
    *,
    seed: int,
    output: Output,
) -> list[_Result]:
    """Returns what `judge` makes of each fold's learner, which validates on the items that it has not seen.

    Writes a line for each fold, which ends with what `say` makes of that.
    """
    _name_rare_classes(pool, output)
    found: list[_Result] = []
    for number, fold in enumerate(folds, 1):
        own_seed, n_held = derive_seed(seed, "fold", number) % 2**32, len(fold.held)
        with isolate_rng():
            learner = _fit_one(pool.loaders_of(fold), own_seed, make_learner, fit, output)
            found.append(judge(learner))
        output.say(f"fold {number} of {len(folds)}: {plural(n_held, 'item')} left out, {say(found[-1])}")
    return found


def _fit_one(
    dls: DataLoaders,
    seed: int,
    make_learner: Callable[[DataLoaders], FoldLearner],
    fit: Callable[[Any], Any],
    output: Output,
) -> FoldLearner:
    set_seed(seed)
    learner = make_learner(dls)
    _check_learner(learner, dls.loader(1))
    before = _digest_weights(learner.model)
    with learner._output.hide(bar=not output.bar, table=True):
        fit(learner)
    if _digest_weights(learner.model) == before:
        output.note(
            "`fit` changed no weight of the learner that it got, so this is the score of an untrained model. It must "
            "train its argument: fit=lambda one: one.fit_one_cycle(3)."
        )
    return learner


def _digest_weights(model: nn.Module) -> str:
    return digest(*(processes.whole(weight.detach()) for weight in model.parameters() if not is_lazy(weight)))


def _validate(learner: FoldLearner) -> dict[str, float]:
    with learner._output.hide(bar=True, table=True):
        return dict(zip(("valid_loss", *learner.metrics), learner.validate(), strict=True))


def _predict(learner: FoldLearner) -> Predictions:
    return learner.get_preds(1, with_loss=True)


def _say(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


def _as_table(
    by: str, keys: Sequence[int], n_items: Sequence[int | None], found: Sequence[dict[str, float]], overlap: float = 0.0
) -> ScoreTable:
    names = dict.fromkeys(name for one in found for name in one)  # `make_learner` may give each learner its own metrics
    scores = {name: tuple(one.get(name, math.nan) for one in found) for name in names}
    return ScoreTable(by, tuple(keys), tuple(n_items), scores, overlap)


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


def _check_learner(learner: Any, held: Loader) -> None:
    if not hasattr(learner, "get_preds") or not hasattr(learner, "dls"):
        raise TypeError(
            "`make_learner` must be a function that takes loaders and returns a learner. "
            f"Received: a function that returned a {type(learner).__name__}."
        )
    valid = learner.dls.valid
    if valid is None or not hold_same_items(valid, held):
        n = None if valid is None else valid.n_items
        found = f"{n} other items" if n == held.n_items else f"{n} items in place of {held.n_items}"
        raise DataError(
            "`make_learner` must make a learner of the loaders that it gets: Learner(dls, ...). "
            f"Received: a learner that validates on {found}."
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
