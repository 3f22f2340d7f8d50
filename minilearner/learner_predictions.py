"""`LearnerPredictions`: what a learner says about items: predictions, metrics, and where the evidence is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor, nn
from typing_extensions import TypeVar

from minilearner.data.targets import ClassNumbers, MultiCategory
from minilearner.fitting.fit import validate
from minilearner.keywords import suggest_keywords
from minilearner.learner_runs import LearnerRuns
from minilearner.models.class_maps import Method
from minilearner.results.calibration import Calibration, check_temperature
from minilearner.results.evidence import Evidence
from minilearner.results.interpretation import ClassificationInterpretation
from minilearner.results.origins import Origins
from minilearner.results.predictions import BatchPrediction, Prediction, Predictions, PredictionWithInput
from minilearner.training.callback import Callbacks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LearnerPredictions"]

_Label = TypeVar("_Label", default=Any)


@suggest_keywords
class LearnerPredictions(LearnerRuns[_Label]):
    """Predicts with the model of a `Learner`, measures it, and shows what it sees."""

    def validate(self, ds_idx: int = 1, dl: Any = None, cbs: Callbacks = None) -> list[float]:
        """Returns the loss and the metrics over a whole set, in order and without augmentation.

        Args:
            ds_idx: 1 for the validation set, 0 for the training set.
            dl: another loader, such as `learn.dls.test_dl(items)`.
            cbs: further callbacks for this call only.
        """
        given = self._show_to(cbs)
        loader, run = self._predictor(ds_idx, dl).loader, self._run(None)
        shown = self._output.progress(table=False)
        return validate(run, loader, self.cbs, self.metrics, given=given, shown=shown)

    @overload
    def predict(self, item: Any, with_input: Literal[False] = False) -> Prediction[_Label]: ...

    @overload
    def predict(self, item: Any, with_input: Literal[True]) -> PredictionWithInput[_Label]: ...

    @overload
    def predict(self, item: Any, with_input: bool) -> Prediction[_Label] | PredictionWithInput[_Label]: ...

    def predict(self, item: Any, with_input: bool = False) -> Prediction[_Label] | PredictionWithInput[_Label]:
        """Returns `(label, index, probabilities)` of one item. Training goes on as if it had not been called.

        Args:
            item: anything that `dls.test_dl([item])` takes: a path, a Pillow image, an array (height, width, channels)
                or a tensor (channels, height, width). If the data are arrays in memory: an array like those, or a
                Pillow image. If the model has several inputs: a tuple or a dictionary of them.
            with_input: also return, as `input`, the image that the model saw, in its real colours.
        """
        return self._predictor().item(item, with_input=with_input)

    def get_preds(
        self,
        ds_idx: int = 1,
        dl: Any = None,
        with_input: bool = False,
        with_decoded: bool = False,
        with_loss: bool = False,
        act: Callable[[Any], Any] | None = None,
        inner: bool = False,
        reorder: bool = True,
        cbs: Callbacks = None,
    ) -> Predictions:
        """Returns activated predictions and targets of a whole set, on the CPU. Unpacks to `(preds, targets)`.

        What else is asked for takes its place in fastai's order: `(inputs, preds, targets, decoded, losses)`.

        Args:
            ds_idx: 1 for the validation set, 0 for the training set (in order, without augmentation).
            dl: another loader, such as `learn.dls.test_dl(items)`.
            with_input, with_decoded, with_loss: also return the inputs, the decoded predictions, the loss of each item.
            act: activates the model's outputs. By default what belongs to the kind of target, such as softmax.
            inner: show no progress bar, as when another call of yours shows one.
            reorder: has no effect here, since predictions always come in the order of the data set.
            cbs: callbacks for this call only.
        """
        kept = {"with_input": with_input, "with_decoded": with_decoded, "with_loss": with_loss}
        with self.no_bar() if inner else nullcontext():
            return self._predictor(ds_idx, dl, self._show_to(cbs)).predictions(act=act, **kept)

    def tta(
        self,
        ds_idx: int = 1,
        dl: Any = None,
        n: int = 4,
        item_tfms: Any = None,
        batch_tfms: Any = None,
        beta: float | None = 0.25,
        use_max: bool = False,
    ) -> Predictions:
        """Returns predictions averaged over augmentations of each item (test-time augmentation).

        With `a` the mean of `n` augmented passes and `p` the plain pass of `get_preds`, the result is `a + beta * (p -
        a)`.

        Args:
            ds_idx, dl: as in `get_preds`.
            n: number of augmented passes. Their augmentations are the same in every call.
            item_tfms, batch_tfms: augmentations in place of the loader's own. What validation does stays.
            beta: the weight of the plain pass, in [0, 1], or None to return the pair `(a, p)`.
            use_max: take the largest value of all passes instead.
        """
        return self._predictor(ds_idx, dl).tta(n, item_tfms, batch_tfms, beta=beta, use_max=use_max)

    def predict_batches(
        self, ds_idx: int = 1, dl: Any = None, *, with_loss: bool = True, act: Callable[[Any], Any] | None = None
    ) -> Iterator[BatchPrediction]:
        """Yields the predictions batch by batch, in the order of the data set. Nothing is kept."""
        return self._predictor(ds_idx, dl).batches(act=act, with_loss=with_loss)

    def calibrate(self, ds_idx: int = 1, dl: Any = None) -> Calibration:
        """Finds the temperature that makes probabilities honest, and predicts with it from now on.

        `predict`, `get_preds`, `tta` and exports divide the model's outputs by it before the softmax. No prediction
        becomes another class, and the loss stays as it was. Calibrate again after further training. Returns the
        calibration before; its `scaled` says what it is now.

        Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.

        Args:
            ds_idx: 1 for the validation set, 0 for the training set, on which a model is too sure of itself.
            dl: another loader with labels.

        Raises:
            ValueError: the targets are not one class for each item.
            DataError: no temperature fits this set, for instance because all its items are right.
        """
        target = self.dls.target
        if not isinstance(target, ClassNumbers):
            way_out = ""
            if isinstance(target, MultiCategory):
                way_out = " MultiLabelInterpretation.best_thresholds() finds a threshold for each label."
            raise ValueError(
                f"`calibrate` needs targets of one class for each item.{way_out} Received: {target!r:.100}."
            )
        found = ClassificationInterpretation.from_predictions(self.get_preds(ds_idx, dl)).calibration()
        check_temperature(found)
        self._dls = self.dls.with_target(target.with_temperature(target.temperature * found.temperature))
        return found

    def gradcam(
        self,
        item: Any,
        label: Any = None,
        *,
        layer: str | nn.Module | None = None,
        method: Method = "gradcam",
    ) -> Evidence:
        """Returns where in an image the model finds the evidence for a class. `plot` draws it.

        Example: ``learn.gradcam("cat.jpg").plot()``.

        Args:
            item: as in `predict`.
            label: the class, by its label or its number. None is the predicted class.
            layer: the layer that is looked at, or its path. None takes the last one with spatial extent, and the result
                names it.
            method: "gradcam", or "gradcam++", which finds several objects of a class better.

        Raises:
            ValueError: there is no such class or layer.
            DataError: no layer of the model has a spatial extent.
        """
        return self._predictor().evidence_in(item, label, layer=layer, method=method)

    def evidence(
        self,
        indices: Sequence[int],
        classes: Sequence[int] | None = None,
        ds_idx: int = 1,
        dl: Any = None,
        *,
        layer: str | nn.Module | None = None,
        method: Method = "gradcam",
    ) -> Evidence:
        """Returns where items of a set show evidence for a class each, as `gradcam` does for one image.

        Args:
            indices: the positions of the items, in the order of the data set.
            classes: a class number for each. None is the predicted class.
            ds_idx: 1 for the validation set, 0 for the training set.
            dl: another loader.
            layer: as in `gradcam`.
            method: as in `gradcam`.
        """
        return self._predictor(ds_idx, dl).evidence(indices, classes, layer=layer, method=method)

    def items(self, ds_idx: int, dl: Any, indices: Sequence[int]) -> list[Tensor]:
        """Returns the inputs at these positions of a set, in the order of the data set, ready to be shown."""
        return self._predictor(ds_idx, dl).images(indices)

    def origins(self, ds_idx: int = 1, dl: Any = None) -> Origins | None:
        """Returns the files of a set's items and the columns of their table. None for arrays in memory."""
        return self._predictor(ds_idx, dl).origins()

    def show_items(
        self, ds_idx: int, dl: Any, indices: Sequence[int], notes: Sequence[str] | None = None, **layout: Any
    ) -> Figure:
        """Draws the items at these positions of a set with their targets, predictions and a further line each."""
        return self._predictor(ds_idx, dl).show_items(indices, notes, **layout)

    def show_results(
        self,
        ds_idx: int = 1,
        dl: Any = None,
        max_n: int = 9,
        shuffle: bool = True,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        *,
        ax: Axes | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws images of a set, each with its target and its prediction: green if right, red if wrong.

        Args:
            ds_idx, dl: as in `get_preds`.
            max_n: the largest number of images.
            shuffle: take images from all over the set (always the same ones) instead of the first.
            nrows, ncols: the shape of the grid.
            figsize: size of the figure in inches.
            ax: axes whose place the grid takes. None makes a new figure.
            save: a file to write the figure to, such as "results.png".
        """
        layout = {"nrows": nrows, "ncols": ncols, "figsize": figsize, "ax": ax, "save": save}
        return self._predictor(ds_idx, dl).show(max_n, shuffle=shuffle, **layout)
