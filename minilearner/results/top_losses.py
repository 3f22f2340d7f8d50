"""The worst items of a set, for any kind of target. `interpretation` adds what only classifiers have.

This module knows no model. It takes batches of predictions, and draws, through any object that fits the `Predictor`
protocol, such as a learner.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import Module

from minilearner.checks import check_count
from minilearner.errors import DataError, plural
from minilearner.glance import PublicNames
from minilearner.keywords import suggest_keywords
from minilearner.results.predictions import BatchPrediction
from minilearner.results.training_facts import TrainingFacts
from minilearner.tracebacks import stacklevel_of_user
from minilearner.tree import checksum

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from minilearner.pages.content import Section

__all__ = ["Interpretation", "Predictor", "TopLosses", "choose_top"]

_CHANGED = (
    "The model has changed since these predictions were made. Settings, curves and Grad-CAM show the model as it is "
    "now; all else belongs to the predictions. For a page of one model, build the interpretation again."
)

_Kind = TypeVar("_Kind", bound="Interpretation")


class HasVocab(Protocol):
    """Loaders with the names of their classes."""

    @property
    def vocab(self) -> Sequence[Any] | None:
        """One label for each class, in order. None if there are none."""


class Predictor(Protocol):
    """The part of a learner that an interpretation needs.

    If it has a method ``origins(ds_idx, dl)`` too, which returns `Origins`, items have the names of their files. With
    ``evidence(indices, classes, ds_idx, dl, layer=, method=)``, which returns `Evidence`, `plot_gradcam` works. With
    ``training_facts()``, which returns `TrainingFacts`, a report has settings and curves. With `model`, a module, a
    report says if it has changed since the predictions were made.
    """

    @property
    def dls(self) -> HasVocab:
        """The learner's loaders."""

    def predict_batches(
        self, ds_idx: int = 1, dl: Any = None, *, act: Callable[[Any], Any] | None = None
    ) -> Iterator[BatchPrediction]:
        """Predicts set number `ds_idx`, or `dl`, in the order of its dataset, with the loss of each item."""

    def items(self, ds_idx: int, dl: Any, indices: Sequence[int]) -> list[Tensor]:
        """Returns items of that set as images to show: (channels, height, width) each, in [0, 1]."""

    def show_items(
        self, ds_idx: int, dl: Any, indices: Sequence[int], notes: Sequence[str] | None = None, **layout: Any
    ) -> Figure:
        """Draws items of that set with their targets, their predictions and a further line each."""


class TopLosses(NamedTuple):
    """Items in the order of their losses. Unpacks to ``losses, indices``."""

    losses: Tensor
    """(k,): float32, sorted."""
    indices: Tensor
    """(k,): int64, the positions of the items in the dataset."""


@suggest_keywords
class Interpretation(PublicNames):
    """The loss of each item of a set, and the items with the largest: several labels, regression or classes.

    Example::

        interp = Interpretation.from_learner(learn)
        interp.plot_top_losses(9)

    Attributes:
        losses: (items,), in the order of the dataset.
    """

    losses: Any
    _load_images: Callable[[Sequence[int]], Sequence[Tensor | str]] | None = None
    _describe_training: Callable[[], TrainingFacts] | None = None
    _set_name = "predictions that were given"
    _model: Any = None
    _checksum: Sequence[int] = ()

    def __init__(self, batches: Iterable[BatchPrediction], *, show: Callable[..., Figure] | None = None) -> None:
        """Reads all batches once, and keeps their losses.

        Args:
            batches: predictions with losses.
            show: draws the items at given positions, each with a further line.

        Raises:
            TypeError: this is a learner, which `from_learner` takes.
            DataError: there is no item, or losses are missing.
        """
        refuse_learner(batches, type(self))
        self._show = show
        self._read_losses(batches)

    @classmethod
    def from_learner(
        cls, learn: Predictor, ds_idx: int = 1, dl: Any = None, act: Callable[[Any], Any] | None = None
    ) -> Interpretation:
        """Predicts one set of a learner, once.

        Args:
            learn: the learner.
            ds_idx: 0 for the training set, 1 for the validation set.
            dl: a loader to predict instead.
            act: activates the model's outputs, in place of what belongs to the kind of target.
        """
        batches = learn.predict_batches(ds_idx=ds_idx, dl=dl, act=act)
        return cls(batches, show=partial(learn.show_items, ds_idx, dl))._keep_learner(learn, ds_idx, dl)

    def top_losses(self, k: int | None = None, largest: bool = True) -> TopLosses:
        """Returns the `k` largest losses and the positions of their items.

        Equal losses keep the order of the dataset. NaN counts as the largest loss.

        Args:
            k: between 1 and the number of items. None is all items.
            largest: False returns the smallest losses.

        Raises:
            ValueError: `k` is below 1 or above the number of items.
        """
        return choose_top(torch.as_tensor(self.losses), k, largest)

    def plot_top_losses(
        self,
        k: int | Sequence[int],
        largest: bool = True,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        *,
        ax: Axes | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the `k` items with the largest loss. Titles say the target, the prediction and the loss.

        Args:
            k: between 1 and the number of items; or places in the order of losses, such as range(9, 18).
            largest: False draws the items with the smallest loss.
            nrows: rows of the grid. None is as many as are needed.
            ncols: columns of the grid. None is as many as are needed.
            figsize: width and height in inches. None is large enough for the images.
            ax: axes whose place the grid takes. None makes a new figure.
            save: a file to write the figure to, such as "top_losses.png".

        Raises:
            ValueError: `k` is out of range, the grid is too small, or there are no images to show.
        """
        return self._draw(self._places(k, largest), nrows=nrows, ncols=ncols, figsize=figsize, ax=ax, save=save)

    def show_results(
        self,
        idxs: int | Sequence[int],
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        *,
        ax: Axes | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the items at these positions of the set, with their targets, predictions and losses.

        Args:
            idxs: one position, or several.
            nrows, ncols, figsize, ax, save: as in `plot_top_losses`.
        """
        indices = torch.as_tensor(idxs).reshape(-1).tolist()
        for index in indices:
            if not 0 <= index < len(self):
                raise ValueError(f"`idxs` must be between 0 and {len(self) - 1}. Received: {index}.")
        return self._draw(indices, nrows=nrows, ncols=ncols, figsize=figsize, ax=ax, save=save)

    def report(
        self,
        path: str | os.PathLike[str] = "report.html",
        *,
        title: str | None = None,
        n_images: int = 24,
    ) -> Path:
        """Writes one HTML page with all that is known, and returns its path. An existing file is replaced.

        The page needs no other file and no network. Its tables sort and search. The file is written whole or not at
        all; with several processes, only process 0 writes.

        Example: ``interp.report("runs/report.html")``.

        Args:
            path: the file, which ends in ".html". Its folder is made if there is none.
            title: the heading. None names the model.
            n_images: how many items of a section are shown with their images. With 0, no image is read.

        Raises:
            ValueError: the file cannot be written, `path` does not end in ".html", or `n_images` is below 0.
        """
        from minilearner.pages.content import Page  # the star import needs no pages
        from minilearner.pages.page import check_page_path, write_page

        check_count(n_images, "n_images", least=0)
        path = check_page_path(path)
        facts = None if self._describe_training is None else self._describe_training()
        written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        subtitle = f"{self._set_name[0].upper()}{self._set_name[1:]}, {plural(len(self), 'item')}; written {written}"
        heading = title or ("Report" if facts is None else f"Report on {facts.model.split(',')[0]}")
        notice = _CHANGED if self._has_other_weights() else ""
        return write_page(path, Page(heading, subtitle, self._sections(facts, n_images), notice))

    def _sections(self, facts: TrainingFacts | None, n_images: int) -> list[Section]:
        from minilearner.results.number_sections import loss_sections

        order = self.top_losses().indices.tolist()
        how: dict[str, Any] = {"set_name": self._set_name, "n_images": n_images, "load": self._load_images}
        return loss_sections(self.losses, order, facts, **how)

    def _keep_learner(self: _Kind, learn: Any, ds_idx: int, dl: Any) -> _Kind:
        """Keeps the ways to what a report says besides the predictions. Returns the interpretation."""
        self._describe_training = getattr(learn, "training_facts", None)
        self._model = getattr(learn, "model", None)
        self._checksum = _sum_up(self._model)
        self._load_images = lambda indices: learn.items(ds_idx, dl, indices)
        self._set_name = "other items" if dl is not None else ("training set", "validation set")[ds_idx]
        return self

    def _has_other_weights(self) -> bool:
        """Whether the model has other weights now than those that made the predictions."""
        return _sum_up(self._model) != self._checksum

    def _warn_of_other_weights(self, what: str) -> None:
        """Warns if a figure mixes these predictions with those of the model as it is now.

        Args:
            what: what comes from the model, with its verb, such as "the heat is that".
        """
        if self._has_other_weights():
            warnings.warn(
                f"The model has changed since these predictions were made: {what} of the model as it is now. "
                "Build the interpretation again.",
                stacklevel=stacklevel_of_user(),
            )

    def label_errors(self) -> Any:
        """Raises an error, since only a `ClassificationInterpretation` finds wrong labels.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"`label_errors` needs items of one class each. Received: a {type(self).__name__}. The items with the "
            "largest losses, from `top_losses`, are those whose targets are most suspicious."
        )

    def __len__(self) -> int:
        return len(self.losses)

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {plural(len(self), 'item')}, mean loss {float(self.losses.mean()):.4f}"

    def _places(self, k: int | Sequence[int], largest: bool) -> list[int]:
        """Returns the positions of the items with the largest losses: the first `k`, or those at some places."""
        if isinstance(k, (list, tuple, range)):
            ordered = self.top_losses(None, largest).indices.tolist()
            return [ordered[place] for place in k]
        return self.top_losses(k, largest).indices.tolist()  # type: ignore[arg-type]

    def _draw(self, indices: list[int], **layout: Any) -> Figure:
        if self._show is None:
            raise ValueError("There are no images to show: build this with `from_learner`.")
        self._warn_of_other_weights("the predictions are those")
        return self._show(indices, [f"loss: {float(self.losses[index]):.4f}" for index in indices], **layout)

    def _read_losses(self, batches: Iterable[BatchPrediction]) -> None:
        found: list[Tensor] = []
        for batch in batches:
            if batch.losses is None:
                raise DataError("Interpretation needs the loss of each item, and so targets. These batches have none.")
            found.append(batch.losses.detach().float().cpu().reshape(-1))
        if not sum(map(len, found)):
            raise DataError("There is nothing to interpret: the loader has no item.")
        self.losses = torch.cat(found)


def _sum_up(model: Any) -> Sequence[int]:
    return checksum([*model.parameters(), *model.buffers()]) if isinstance(model, Module) else ()


def choose_top(losses: Tensor, k: int | None, largest: bool) -> TopLosses:
    """Returns the `k` largest losses, or smallest, and their positions; see `Interpretation.top_losses`."""
    n = len(losses)
    if k is not None:
        check_count(k, "k", least=None)
    if k is not None and not 1 <= k <= n:
        raise ValueError(f"`k` must be between 1 and the {n} items. Received: k={k}.")
    ordered, indices = torch.sort(losses, descending=largest, stable=True)
    return TopLosses(ordered[:k].clone(), indices[:k].clone())


def refuse_learner(batches: Any, kind: type) -> None:
    """Raises a TypeError if a learner was given in place of its predictions."""
    if hasattr(batches, "predict_batches"):
        raise TypeError(
            f"`batches` must be predictions. Received: a learner. Write `{kind.__name__}.from_learner(learn)`."
        )
