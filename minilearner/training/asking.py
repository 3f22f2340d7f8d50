"""A model and its data, ready to be asked: for whole sets, single items, augmented passes, and samples to show.

Asking leaves no trace: see `inference.predict_batches`, which does it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minilearner.data.loaders import DataLoaders, Loader
from minilearner.data.showing import first_batch, sample, show_predictions
from minilearner.results.predictions import BatchPrediction, Prediction, Predictions
from minilearner.training.inference import predict_batches
from minilearner.training.step import TrainStep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Asking"]

_ONE_AT_A_TIME = threading.RLock()  # reentrant: a transform may itself ask another model


@dataclass(frozen=True)
class Asking:
    """What is asked, and about what.

    Args:
        step: predicts in its own precision.
        dls: the sets by number, and what their labels mean.
        watch: is given a loader and passes its batches on, showing progress for instance.
    """

    step: TrainStep
    dls: DataLoaders
    watch: Callable[[Any], Iterable[Any]] = iter

    def loader(self, ds_idx: int, dl: Any = None) -> Loader:
        """Returns `dl`, or else the set number `ds_idx`: every item in order, without augmentation."""
        return self.dls.in_order(ds_idx) if dl is None else self.dls.from_other(dl).in_order()

    def batches(
        self, loader: Loader, *, act: Callable[[Any], Any] | None = None, with_loss: bool = False
    ) -> Iterator[BatchPrediction]:
        """Yields the predictions of one batch after another, activated by `act` or as belongs to the target."""
        target = self.dls.target
        activate = act if act is not None or target is None else target.activate
        return predict_batches(self.step, loader, activate=activate, with_loss=with_loss, watch=self.watch)

    def predictions(
        self, loader: Loader, *, act: Callable[[Any], Any] | None = None, with_loss: bool = False, **kept: bool
    ) -> Predictions:
        """Returns the predictions of a whole loader; `kept` as in `Predictions.from_batches`."""
        decode = None if self.dls.target is None else self.dls.target.decode
        batches = self.batches(loader, act=act, with_loss=with_loss)
        return Predictions.from_batches(batches, decode=decode, with_loss=with_loss, **kept)

    def item(self, item: Any, *, with_input: bool = False) -> Prediction:
        """Returns the prediction for one item of whatever kind `dls.test_dl` takes.

        Threads wait for each other here: the model's flags and the random generators belong to all of them.
        """
        target = self.dls.target
        with _ONE_AT_A_TIME:
            loader = self.dls.test_dl([item])
            (batch,) = replace(self, watch=iter).batches(loader)
        preds = batch.preds.cpu()
        index = self._decoded(preds)[0]
        seen = loader.decode(batch.x)[0].cpu() if with_input else None
        return Prediction(index if target is None else target.label(index), index, preds[0], seen)

    def augmented(
        self, loader: Loader, n: int, *, item_tfms: Any, batch_tfms: Any, beta: float | None, use_max: bool
    ) -> Predictions:
        """Returns plain predictions p joined with those of `n` augmented passes, of mean a: a + beta (p - a).

        With `use_max` the largest of all of them; without a `beta` the pair (a, p).
        """
        passes = [loader.augmented(i, item_tfms=item_tfms, batch_tfms=batch_tfms) for i in range(n)]
        plain, *others = [self.predictions(one) for one in (loader, *passes)]
        if use_max:
            return replace(plain, preds=_stacked([plain, *others]).amax(0))
        mean = _stacked(others).mean(0)
        return replace(plain, preds=(mean, plain.preds) if beta is None else torch.lerp(mean, plain.preds, beta))

    def show(self, loader: Loader, n: int, *, shuffle: bool, **layout: Any) -> Figure:
        """Draws `n` items of a loader with what they are and what they were taken for."""
        picked = sample(loader, n, self.dls.seed if shuffle else None)
        (batch,) = replace(self, watch=iter).batches(picked)
        decoded = self._decoded(batch.preds)
        return show_predictions(picked.decode(batch.x), batch.targets, decoded, self.dls.target, **layout)

    def pictures(self, loader: Loader, indices: Sequence[int]) -> list[Tensor]:
        """Returns inputs at these positions of a loader, as the model sees them but in their real colours."""
        picked = loader.picked(indices)
        return list(picked.decode(first_batch(picked)[0]))

    def _decoded(self, preds: Any) -> Any:
        return preds if self.dls.target is None else self.dls.target.decode(preds)


def _stacked(several: Sequence[Predictions]) -> Tensor:
    return torch.stack([one.preds for one in several])
