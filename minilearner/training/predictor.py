"""`Predictor`: predicts whole sets, single items, augmented passes and samples to show, and leaves no trace.

`inference` does the work for each batch. Several threads may predict with one learner; see `threads`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from minilearner import processes
from minilearner.checks import check_count, check_fraction, is_whole_number
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.loader import Loader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.data.share import Share
from minilearner.data.show import show_predictions
from minilearner.errors import DataError, closest
from minilearner.models.class_maps import Method, class_maps
from minilearner.plots.image_grid import limit_to_grid
from minilearner.results.evidence import Evidence
from minilearner.results.origins import Origins
from minilearner.results.predictions import BatchPrediction, Prediction, Predictions, PredictionWithInput, join_batches
from minilearner.threads import alone_with, turn_of
from minilearner.training.callback import Callback
from minilearner.training.inference import predict_all, predict_batches
from minilearner.training.item_origins import origins_of
from minilearner.training.loop import Loop
from minilearner.training.meaning import choose_activation, choose_decoder
from minilearner.training.run import Run
from minilearner.training.step import Step
from minilearner.tree import map_tensors, tensors_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Predictor"]


@dataclass(frozen=True)
class Predictor:
    """Predicts one set with one model.

    Args:
        step: the model, which predicts in the step's precision.
        dls: the sets by number, and what their labels mean.
        ds_idx: the number of the set, unless `dl` is given.
        dl: another loader, or a dataset.
        watch: receives a loader and yields its batches, for example to show progress.
        callbacks: those that act in predictions too.
    """

    step: Step
    dls: DataLoaders
    ds_idx: int = 1
    dl: Any = None
    watch: Callable[[Any], Iterable[Any]] = iter
    callbacks: Sequence[Callback] = ()

    @property
    def loader(self) -> Loader:
        """Every item of the set in order, without augmentation. With several processes, this process's share."""
        loader = self.dls.in_order(self.ds_idx) if self.dl is None else self.dls.from_other(self.dl).in_order()
        return self._share_out(loader)

    def batches(self, *, act: Callable[[Any], Any] | None = None, with_loss: bool = False) -> Iterator[BatchPrediction]:
        """Yields predictions batch by batch, activated by `act` or by the target's own activation."""
        return predict_batches(self.step, self.loader, **self._how(act), with_loss=with_loss)

    def predictions(
        self, *, act: Callable[[Any], Any] | None = None, with_loss: bool = False, **kept: bool
    ) -> Predictions:
        """Returns the predictions of the whole set. `kept` is as in `Predictions.from_batches`."""
        decode = choose_decoder(self.dls.target, self.step.loss_func)
        loader = self.loader
        with self._predict(loader, act=act, with_loss=with_loss) as batches:
            joined = join_batches(batches, loader.n_items, decode=decode, with_loss=with_loss, **kept)
        return replace(joined, vocab=self.dls.vocab, origins=origins_of(loader))

    def origins(self) -> Origins | None:
        """Returns where the items of the set come from, if they come from files."""
        return origins_of(self.loader)

    def item(self, item: Any, *, with_input: bool = False) -> Prediction | PredictionWithInput:
        """Returns the prediction for one item of any kind that `dls.test_dl` takes.

        Raises:
            TypeError: it is a batch, a list of items or a loader.
        """
        if _is_batch(item, self.dls.train):
            raise TypeError(f"{_ONE_ITEM} Received: {_describe(item)}.")
        try:
            return self._predict_item(item, with_input=with_input)
        except Exception as error:
            if isinstance(item, list) and item and not isinstance(item[0], (int, float)):
                raise TypeError(f"{_ONE_ITEM} Received: {_describe(item)}.") from error
            raise

    def _predict_item(self, item: Any, *, with_input: bool) -> Prediction | PredictionWithInput:
        target = self.dls.target
        loader = self.dls.test_dl([item]).pick([0])  # read in this process, without workers
        with predict_all(self.step, loader, **self._how(None, iter), is_shared=False) as batches:
            (batch,) = batches
        preds = batch.preds.cpu()
        index = self._decode(preds)[0]
        prediction = Prediction(index if target is None else target.label(index), index, preds[0])
        if not with_input:
            return prediction
        return PredictionWithInput(map_tensors(lambda t: t[0].cpu(), loader.decode(batch.x)), *prediction)

    def tta(self, n: int, item_tfms: Any, batch_tfms: Any, *, beta: float | None, use_max: bool) -> Predictions:
        """Returns `a + beta * (p - a)`, with `p` the plain predictions and `a` the mean of `n` augmented passes.

        Args:
            n: number of augmented passes.
            item_tfms, batch_tfms: augmentations in place of the loader's own.
            beta: weight of the plain pass, in [0, 1], or None for the pair `(a, p)`.
            use_max: return the largest value of all passes instead.

        Raises:
            ValueError: `n` is below 1, `beta` is out of range, or nothing augments.
            DataError: the model does not return one tensor.
        """
        check_count(n, "n")
        if beta is not None:
            check_fraction(beta, "beta")
        loader = self.loader
        several = (loader.augment(i, item_tfms=item_tfms, batch_tfms=batch_tfms) for i in range(n))
        passes = [self._share_out(one) for one in several]
        plain, *others = [self._predict_whole(one) for one in (loader, *passes)]
        if use_max:
            return replace(plain, preds=_stack([plain, *others]).amax(0))
        mean = _stack(others).mean(0)
        return replace(plain, preds=(mean, plain.preds) if beta is None else torch.lerp(mean, plain.preds, beta))

    def show(self, n: int, *, shuffle: bool, **layout: Any) -> Figure:
        """Draws `n` items of the set with their targets and predictions."""
        n = limit_to_grid(n, layout.get("nrows"), layout.get("ncols"))
        picked = self.loader.sample(n, self.dls.seed if shuffle else None)
        with self._predict(picked, watch=iter) as batches:
            (batch,) = batches
        decoded = self._decode(batch.preds)
        return show_predictions(picked.decode(batch.x), batch.targets, decoded, self.dls.target, **layout)

    def show_items(self, indices: Sequence[int], notes: Sequence[str] | None = None, **layout: Any) -> Figure:
        """Draws the items at these positions of the set with their targets and predictions, and a further line each."""
        picked = self.loader.pick(indices)
        with self._predict(picked, watch=iter) as batches:
            (batch,) = batches
        decoded = self._decode(batch.preds)
        return show_predictions(picked.decode(batch.x), batch.targets, decoded, self.dls.target, notes=notes, **layout)

    def images(self, indices: Sequence[int]) -> list[Tensor]:
        """Returns the inputs at these positions of the set as the model sees them, but in their real colours."""
        picked = self.loader.pick(indices)
        return list(picked.decode(picked.first_batch()[0]))

    def evidence(
        self, indices: Sequence[int], classes: Sequence[int] | None, *, layer: str | nn.Module | None, method: Method
    ) -> Evidence:
        """Returns where the items at these positions of the set show evidence for a class each."""
        return self._explain(self.loader.pick(indices), classes, layer=layer, method=method)

    def evidence_in(self, item: Any, label: Any, *, layer: str | nn.Module | None, method: Method) -> Evidence:
        """Returns where one item shows evidence for a class, given by its label or number; the predicted one if None.

        Raises:
            ValueError: there is no such class.
        """
        number = None if label is None else [_number_of(label, self.dls.vocab)]
        return self._explain(self.dls.test_dl([item]).pick([0]), number, layer=layer, method=method)

    def _explain(
        self, loader: Loader, classes: Sequence[int] | None, *, layer: str | nn.Module | None, method: Method
    ) -> Evidence:
        x, _ = loader.first_batch()
        wanted = None if classes is None else torch.tensor([int(number) for number in classes])
        with turn_of(self.step.model):
            found = class_maps(self.step.model, x, wanted, layer=layer, method=method)
        shown = next(t for t in tensors_of(loader.decode(x)) if t.ndim == 4).cpu()
        vocab, numbers = self.dls.vocab, found.classes.cpu()
        labels = [n if vocab is None or n >= len(vocab) else vocab[n] for n in numbers.tolist()]
        return Evidence(list(shown), found.maps.cpu(), found.layer, numbers, labels, found.depends.cpu())

    def _share_out(self, loader: Loader) -> Loader:
        """Returns a loader of this process's batches if several processes predict together."""
        if self.step.n_processes == 1:
            return loader
        is_filled_up = self.step.strategy.passes_together
        return loader.take_share(Share(processes.rank(), self.step.n_processes, is_filled_up=is_filled_up))

    def _predict(
        self,
        loader: Loader,
        *,
        act: Callable[[Any], Any] | None = None,
        with_loss: bool = False,
        watch: Callable[[Any], Iterable[Any]] | None = None,
    ) -> AbstractContextManager[Iterator[BatchPrediction]]:
        return predict_all(self.step, loader, **self._how(act, watch), with_loss=with_loss)

    def _predict_whole(self, loader: Loader) -> Predictions:
        with self._predict(loader) as batches:
            return Predictions.from_batches(batches)

    def _how(
        self, act: Callable[[Any], Any] | None, watch: Callable[[Any], Iterable[Any]] | None = None
    ) -> dict[str, Any]:
        activate = act if act is not None else choose_activation(self.dls.target, self.step.loss_func)
        passing = self._pass_with_callbacks if self.callbacks else None
        return {"activate": activate, "watch": self.watch if watch is None else watch, "passing": passing}

    def _pass_with_callbacks(self, loader: Iterable[Any]) -> Iterator[tuple[Any, Any, Any]]:
        with alone_with(self.callbacks):
            loop = Loop(Run(self.step, self.dls), self.callbacks, valid=loader, predicts=True)
            for run in loop.predict():
                yield run.x, run.pred, run.y

    def _decode(self, preds: Any) -> Any:
        decode = choose_decoder(self.dls.target, self.step.loss_func)
        return preds if decode is None else decode(preds)


_ONE_ITEM = "`predict` takes one item. For several, write learn.get_preds(dl=learn.dls.test_dl(items))."


def _is_batch(item: Any, train: Loader) -> bool:
    """Whether something holds several items: a loader, or an array with a dimension more than an item has.

    A tuple does if its first array does, as `one_batch` returns one.
    """
    if isinstance(item, (Loader, DataLoader, DataLoaders)):
        return True
    known = train.x if isinstance(train, MemoryLoader) else None
    if isinstance(item, tuple) and item:
        item, known = item[0], known[0] if isinstance(known, tuple) else known
    if not isinstance(item, (Tensor, np.ndarray)):
        return False
    of_item = known.ndim - 1 if isinstance(known, Tensor) else 3
    return item.ndim > (1 if of_item == 1 else max(of_item, 3))  # an image may come without or with its channels


def _describe(item: Any) -> str:
    if isinstance(item, (Tensor, np.ndarray)):
        return f"an array of shape {tuple(item.shape)}"
    kind = type(item).__name__
    return f"a {kind} of {len(item)}" if isinstance(item, (list, tuple)) else f"a {kind}"


def _number_of(label: Any, vocab: Sequence[Any] | None) -> int:
    if vocab is not None and label in vocab:
        return list(vocab).index(label)
    if is_whole_number(label) and (vocab is None or 0 <= label < len(vocab)):
        return int(label)
    known = [] if vocab is None else list(map(str, vocab))
    raise ValueError(f"`label` must be a class of the vocabulary.{closest(str(label), known)} Received: {label!r}.")


def _stack(several: Sequence[Predictions]) -> Tensor:
    if not isinstance(several[0].preds, Tensor):
        kind = type(several[0].preds).__name__
        raise DataError(f"`tta` needs a model that gives one tensor for a batch. Received: {kind}.")
    return torch.stack([one.preds for one in several])
