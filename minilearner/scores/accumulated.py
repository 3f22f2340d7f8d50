"""`AccumMetric`: a function of all predictions of a pass at once, such as one of scikit-learn's.

A score's value is scikit-learn's, to the last bit. Its column has the name of scikit-learn's function, as in fastai.
scikit-learn is imported when a value is first computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from minilearner.checks import check_choice, check_count, check_fraction, check_number
from minilearner.metrics import WholeSetMetric, metric_name

__all__ = [
    "AccumMetric",
    "Activation",
    "ScikitLearnScore",
    "flatten_both",
    "skm_to_fastai",
]

Activation: TypeAlias = Literal["no", "sigmoid", "softmax", "binarysoftmax"]
"""What turns raw outputs into scores. "binarysoftmax" is the softmax's probability of the last class."""

_ACTIVATIONS = ("no", "sigmoid", "softmax", "binarysoftmax")


class AccumMetric(WholeSetMetric):
    """A function of all predictions of a pass at once, after an activation, the best class or a threshold.

    Called as ``metric(preds, targets)``, it returns the function's value for these.

    Args:
        func: takes predictions and targets as tensors on the CPU, and returns one number.
        dim_argmax: the dimension of the classes: `func` gets the number of the best class. None keeps all scores. With
            "softmax" or "binarysoftmax", it is the softmax's dimension, and `func` gets probabilities.
        activation: what is applied to the predictions first.
        thresh: `func` gets whether predictions are at least this, as 0 or 1. None keeps them.
        to_np: whether `func` gets arrays instead of tensors.
        invert_arg: whether `func` takes the targets first, as scikit-learn's functions do.
        flatten: whether predictions and targets lose all dimensions but one. They must then be equally many.
        name: the name of the column. None is the name of `func`.
        kwargs: passed on to `func`.

    Raises:
        ValueError: an unknown `activation`; in a pass, more or fewer targets than predictions.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        dim_argmax: int | None = None,
        activation: Activation = "no",
        thresh: float | None = None,
        to_np: bool = False,
        invert_arg: bool = False,
        flatten: bool = True,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice(activation, "activation", _ACTIVATIONS)
        if dim_argmax is not None:
            check_count(dim_argmax, "dim_argmax", least=None)
        if thresh is not None:
            check_number(thresh, "thresh")

        def score(pred: Tensor, target: Tensor) -> Any:
            pair: list[Any] = [pred.cpu(), target.cpu()]
            if to_np:
                pair = [t.numpy() for t in pair]
            return func(*(reversed(pair) if invert_arg else pair), **kwargs)

        self._name = score.__name__ = name or metric_name(func)
        self.dim_argmax, self.activation, self.thresh, self.flatten = dim_argmax, activation, thresh, flatten
        super().__init__(score)

    @property
    def name(self) -> str:
        """The name of the column. It may be assigned."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"`name` must be text. Received: name={name!r}.")
        self._name = name

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Adds one batch."""
        pred = self._prepare(pred)
        if self.flatten:
            pred, target = flatten_both(pred, target)
        super().update(pred, target)

    def __call__(self, preds: Tensor, targets: Tensor) -> Any:
        """Returns the value for these predictions and targets, and forgets all others."""
        self.reset()
        self.update(preds, targets)
        return self.compute()

    def _prepare(self, pred: Tensor) -> Tensor:
        if pred.dtype in (torch.float16, torch.bfloat16):
            pred = pred.float()  # NumPy has no bfloat16
        if self.activation in ("softmax", "binarysoftmax"):
            pred = pred.softmax(-1 if self.dim_argmax is None else self.dim_argmax)
            pred = pred[:, -1] if self.activation == "binarysoftmax" else pred
        elif self.activation == "sigmoid":
            pred = pred.sigmoid()
        elif self.dim_argmax is not None:
            pred = pred.argmax(self.dim_argmax)
        return pred if self.thresh is None else (pred >= self.thresh).long()


def skm_to_fastai(
    func: Callable[..., Any],
    is_class: bool = True,
    thresh: float | None = None,
    axis: int = -1,
    activation: Activation | None = None,
    **kwargs: Any,
) -> AccumMetric:
    """Returns a metric of a function of scikit-learn's, such as `sklearn.metrics.zero_one_loss`.

    Args:
        func: takes true and predicted values, in this order, and returns one number.
        is_class: whether `func` compares classes: those with the highest scores, or with `thresh` zeros and ones.
        thresh: as in `AccumMetric`.
        axis: the dimension of the classes.
        activation: as in `AccumMetric`. None is "sigmoid" if classes have a threshold, else "no".
        kwargs: options of `AccumMetric`, and of `func`.
    """
    check_count(axis, "axis", least=None)
    if activation is None:
        activation = "sigmoid" if is_class and thresh is not None else "no"
    dim = axis if is_class and thresh is None else None
    return AccumMetric(
        func, dim_argmax=dim, activation=activation, thresh=thresh, to_np=True, invert_arg=True, **kwargs
    )


class ScikitLearnScore(AccumMetric):
    """A function of scikit-learn's, by its name there."""

    score: str

    def __init__(self, **options: Any) -> None:
        for name in ("axis", "pos_label"):
            if name in options:
                check_count(options[name], name, least=None)
        if "thresh" in options:
            check_number(options["thresh"], "thresh")
        if options.get("max_fpr") is not None:
            check_fraction(options["max_fpr"], "max_fpr", closed="right")
        dim = options.pop("axis", None)
        super().__init__(_import_late(self.score), dim_argmax=dim, to_np=True, invert_arg=True, **options)


def _import_late(name: str) -> Callable[..., Any]:
    """Returns a function that imports scikit-learn's function of this name when it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        import sklearn.metrics  # loads SciPy, which takes a second

        return getattr(sklearn.metrics, name)(*args, **kwargs)

    call.__name__ = name
    return call


def flatten_both(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both as vectors of one length.

    Raises:
        ValueError: there are more or fewer targets than predictions.
    """
    if pred.numel() != target.numel():
        raise ValueError(
            "`target` must hold one value for each prediction. "
            f"Received: {tuple(target.shape)} targets for {tuple(pred.shape)} predictions."
        )
    return pred.flatten(), target.flatten()
