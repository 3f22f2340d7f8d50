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

from minilearner import processes
from minilearner.checks import check_count
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.loader import Loader
from minilearner.data.share import Share
from minilearner.data.show import first_batch, sample, show_predictions
from minilearner.errors import DataError
from minilearner.plots.image_grid import room
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
        ds_idx: the number of the set that is asked about, unless `dl` is given.
        dl: another loader, or a dataset.
        watch: is given a loader and passes its batches on, showing progress for instance.
    """

    step: TrainStep
    dls: DataLoaders
    ds_idx: int = 1
    dl: Any = None
    watch: Callable[[Any], Iterable[Any]] = iter

    @property
    def loader(self) -> Loader:
        """What is asked about: every item in order, without augmentation; of several processes each asks its share."""
        loader = self.dls.in_order(self.ds_idx) if self.dl is None else self.dls.from_other(self.dl).in_order()
        return self._dealt_out(loader)

    def batches(self, *, act: Callable[[Any], Any] | None = None, with_loss: bool = False) -> Iterator[BatchPrediction]:
        """Yields the predictions of one batch after another, activated by `act` or as belongs to the target."""
        return self._predicted(self.loader, act=act, with_loss=with_loss)

    def predictions(
        self, *, act: Callable[[Any], Any] | None = None, with_loss: bool = False, **kept: bool
    ) -> Predictions:
        """Returns the predictions of the whole set; `kept` as in `Predictions.from_batches`."""
        decode = None if self.dls.target is None else self.dls.target.decode
        batches = self.batches(act=act, with_loss=with_loss)
        return Predictions.from_batches(batches, decode=decode, with_loss=with_loss, **kept)

    def item(self, item: Any, *, with_input: bool = False) -> Prediction:
        """Returns the prediction for one item of whatever kind `dls.test_dl` takes.

        Threads wait for each other here: the model's flags and the random generators belong to all of them.
        """
        target = self.dls.target
        with _ONE_AT_A_TIME:
            loader = self.dls.test_dl([item]).picked([0])  # read in this process, whatever workers the set would have
            (batch,) = self._predicted(loader, watch=iter)
        preds = batch.preds.cpu()
        index = self._decoded(preds)[0]
        seen = loader.decode(batch.x)[0].cpu() if with_input else None
        return Prediction(index if target is None else target.label(index), index, preds[0], seen)

    def augmented(self, n: int, item_tfms: Any, batch_tfms: Any, *, beta: float | None, use_max: bool) -> Predictions:
        """Returns plain predictions p joined with those of `n` augmented passes, of mean a: a + beta (p - a).

        With `use_max` the largest of all of them; without a `beta` the pair (a, p).

        Raises:
            ValueError: `n` is below 1, `beta` is out of range, or there is nothing to augment with.
            DataError: the model gives something else than one tensor.
        """
        check_count(n, "n")
        if beta is not None and not 0 <= beta <= 1:
            raise ValueError(f"`beta` must be between 0 and 1, or None. Received: beta={beta}.")
        loader = self.loader
        several = (loader.augmented(i, item_tfms=item_tfms, batch_tfms=batch_tfms) for i in range(n))
        passes = [self._dealt_out(one) for one in several]
        plain, *others = [Predictions.from_batches(self._predicted(one)) for one in (loader, *passes)]
        if use_max:
            return replace(plain, preds=_stacked([plain, *others]).amax(0))
        mean = _stacked(others).mean(0)
        return replace(plain, preds=(mean, plain.preds) if beta is None else torch.lerp(mean, plain.preds, beta))

    def show(self, n: int, *, shuffle: bool, **layout: Any) -> Figure:
        """Draws `n` items of the set with what they are and what they were taken for."""
        n = room(n, layout.get("nrows"), layout.get("ncols"))
        picked = sample(self.loader, n, self.dls.seed if shuffle else None)
        (batch,) = self._predicted(picked, watch=iter)
        decoded = self._decoded(batch.preds)
        return show_predictions(picked.decode(batch.x), batch.targets, decoded, self.dls.target, **layout)

    def pictures(self, indices: Sequence[int]) -> list[Tensor]:
        """Returns inputs at these positions of the set, as the model sees them but in their real colours."""
        picked = self.loader.picked(indices)
        return list(picked.decode(first_batch(picked)[0]))

    def _dealt_out(self, loader: Loader) -> Loader:
        """Returns a loader of the batches of this process, where the model is asked by several."""
        if self.step.n_processes == 1:
            return loader
        return loader.shared(Share(processes.rank(), self.step.n_processes, is_filled_up=self.step.passes_together))

    def _predicted(
        self,
        loader: Loader,
        *,
        act: Callable[[Any], Any] | None = None,
        with_loss: bool = False,
        watch: Callable[[Any], Iterable[Any]] | None = None,
    ) -> Iterator[BatchPrediction]:
        target = self.dls.target
        activate = act if act is not None or target is None else target.activate
        watch = self.watch if watch is None else watch
        return predict_batches(self.step, loader, activate=activate, with_loss=with_loss, watch=watch)

    def _decoded(self, preds: Any) -> Any:
        return preds if self.dls.target is None else self.dls.target.decode(preds)


def _stacked(several: Sequence[Predictions]) -> Tensor:
    if not isinstance(several[0].preds, Tensor):
        kind = type(several[0].preds).__name__
        raise DataError(f"`tta` needs a model that gives one tensor for a batch. Received: {kind}.")
    return torch.stack([one.preds for one in several])
