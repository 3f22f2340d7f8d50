"""Metrics: functions of one batch, objects that gather over many, and the smoothed loss.

A metric function takes `(pred, target)` and gives a 0-d tensor, the mean over the batch. `as_metric` makes an object of
it that averages over items, so that a short last batch counts for what it is. Nothing here waits for the device: sums
stay there until somebody reads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from minilearner.checks import check_count, check_fraction
from minilearner.tree import n_items

__all__ = [
    "GroupedUpdates",
    "MeanMetric",
    "Metric",
    "MetricFunction",
    "SmoothedLoss",
    "accuracy",
    "accuracy_multi",
    "as_metric",
    "error_rate",
    "mean_over",
    "metric_name",
    "metric_names",
    "named_metrics",
    "top_k_accuracy",
]

_CHUNK = 1024  # values of batches that wait to be put together
_GROUP, _SMALL = 16, 1 << 16  # batches that item means are taken of at once, and how many numbers each may have

MetricFunction: TypeAlias = Callable[[Any, Any], Any]
"""`(pred, target)` of one batch -> the mean over its items, a 0-d tensor or a number."""


def accuracy(pred: Tensor, target: Tensor, axis: int = -1) -> Tensor:
    """The share of items whose highest score stands at the target, a 0-d tensor in [0, 1].

    `pred` is (batch, classes), or (batch, ..., classes); `target` holds class numbers, (batch,) or (batch, ...). For
    scores of (batch, classes, height, width) use ``partial(accuracy, axis=1)``. Same as fastai's.

    Raises:
        ValueError: `target` has not one entry for each prediction.
    """
    predicted = pred.argmax(axis)
    return (predicted == _shaped(target, predicted.shape)).mean(dtype=torch.float32)


def error_rate(pred: Tensor, target: Tensor, axis: int = -1) -> Tensor:
    """One minus `accuracy`, counted as the share of wrong items."""
    predicted = pred.argmax(axis)
    return (predicted != _shaped(target, predicted.shape)).mean(dtype=torch.float32)


def accuracy_multi(pred: Tensor, target: Tensor, thresh: float = 0.5, sigmoid: bool = True) -> Tensor:
    """The share of right answers where each item has any number of classes, over items and classes. Same as fastai's.

    `pred` and `target` are (batch, classes); a class is predicted where its probability is above `thresh`, in [0, 1],
    and is right where the target is not zero. ``sigmoid=False`` takes `pred` for probabilities.

    Raises:
        ValueError: `pred` and `target` differ in shape.
    """
    if pred.shape != target.shape:
        raise ValueError(
            f"`pred` and `target` must have one shape. Received: {tuple(pred.shape)} and {tuple(target.shape)}."
        )
    check_fraction(thresh, "thresh")
    probabilities = pred.sigmoid() if sigmoid else pred
    return ((probabilities > thresh) == target.bool()).float().mean()


def top_k_accuracy(pred: Tensor, target: Tensor, k: int = 5, axis: int = -1) -> Tensor:
    """The share of items whose target is among the `k` highest scores; shapes as in `accuracy`.

    Raises:
        ValueError: `k` is below 1 or above the number of classes, or shapes do not fit.
    """
    check_count(axis, "axis", least=None)
    check_count(k, "k")
    if k > pred.shape[axis]:
        raise ValueError(f"`k` must be between 1 and the {pred.shape[axis]} classes. Received: k={k}.")
    axis %= pred.ndim
    best = pred.topk(k, dim=axis, sorted=False).indices
    wanted = _shaped(target, pred.shape[:axis] + pred.shape[axis + 1 :])
    return (best == wanted.unsqueeze(axis)).any(axis).mean(dtype=torch.float32)


def _shaped(target: Tensor, shape: torch.Size) -> Tensor:
    """Returns the class numbers in the shape of the predicted ones."""
    if target.shape == shape:
        return target
    if target.numel() != math.prod(shape):
        raise ValueError(
            "`target` must hold one class number for each prediction. "
            f"Received: {tuple(target.shape)} targets for {tuple(shape)} predictions "
            "(for one-hot targets use target.argmax(-1); where classes are dimension 1 use partial(metric, axis=1))."
        )
    return target.reshape(shape)


@runtime_checkable
class Metric(Protocol):
    """What gathers over the batches of one pass: torchmetrics objects fit, and so does any class with these three."""

    def reset(self) -> Any:
        """Forgets everything: called before a pass."""

    def update(self, pred: Any, target: Any, /) -> Any:
        """Takes one batch in."""

    def compute(self) -> Any:
        """Returns the value over all batches since the reset, a 0-d tensor or a number."""


class MeanMetric:
    """The mean of a metric function over *items*: each batch weighs as many items as it has.

    A batch's value stays the tensor that it is, on its device, until somebody reads the mean. That is the exact sum
    over the batches, rounded once, so it depends neither on their order nor on who had which of them (`mean_over`).

    Example: ``m = MeanMetric(accuracy); m.update(pred, y); float(m.compute())``.
    """

    def __init__(self, function: MetricFunction) -> None:
        self.function = function
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._full: list[Tensor] = []
        self._values: list[Tensor] = []
        self._sizes: list[int] = []

    @property
    def n_items(self) -> int:
        """How many items there were so far."""
        return sum(self._sizes)

    def update(self, pred: Any, target: Any) -> None:
        """Adds one batch; the number of its items is the length of the target.

        Raises:
            ValueError: the function returned something else than one number.
        """
        value = self.function(pred, target)
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value)
        elif value.requires_grad:
            value = value.detach()
        if value.ndim:
            name = metric_name(self.function)
            raise ValueError(f"Metric {name!r} must return one number a batch. Received: shape {tuple(value.shape)}.")
        self._values.append(value)
        self._sizes.append(n_items(target) or n_items(pred))
        if len(self._values) >= _CHUNK:
            self._put_together()

    def totals(self) -> list[tuple[float, int]]:
        """Returns each batch's total and number of items so far: what several processes bring together.

        A mean that is as near to a whole number of the items as its precision goes, such as that of right ones, stands
        for that number: so what counts items is the same however these were put into batches.
        """
        if self._values:
            self._put_together()
        if not self._full:
            return []
        means = torch.cat([values.cpu() for values in self._full])
        products = means.double() * torch.tensor(self._sizes, dtype=torch.float64)
        if means.dtype in (torch.float32, torch.float64):
            whole = products.round()
            is_whole = (products - whole).abs() <= 2 * torch.finfo(means.dtype).eps * whole.abs()
            products = torch.where(is_whole, whole, products)
        return list(zip(products.tolist(), self._sizes, strict=True))

    def compute(self) -> Tensor:
        """Returns the mean over all items so far, a 0-d tensor; NaN when there were none."""
        return torch.tensor(mean_over(self.totals()), dtype=torch.float64)

    def _put_together(self) -> None:
        here = self._values[-1].device  # those of a resumed run may come from elsewhere
        self._full.append(torch.stack([value.to(here) for value in self._values]))  # many small ones take much room
        self._values = []

    def __repr__(self) -> str:
        return f"MeanMetric({metric_name(self.function)})"


def mean_over(batches: Sequence[tuple[float, int]]) -> float:
    """Returns the mean over all items of batches (total, items), in any order; NaN when there are none."""
    totals, sizes = zip(*batches, strict=True) if batches else ((), ())
    # fsum rounds once, at the end; of infinities with both signs it would rather raise.
    total = math.fsum(totals) if all(map(math.isfinite, totals)) else sum(totals)
    return total / sum(sizes) if sum(sizes) else math.nan


class GroupedUpdates:
    """Gives batches to metrics: to the means over items of this module sixteen small ones at once, to others each.

    On a tiny net, three such metrics of every batch cost a third of its training step, nearly all of it the calls of
    small operations. The mean over the items of several batches is the same number. Batches that wait are copied, for
    the model or the loader may use their memory again. The first of a pass does not wait: what cannot be is told there.

    Args:
        metrics: updated here, reset and computed by their owner: after `flush`.
    """

    def __init__(self, metrics: Iterable[Metric]) -> None:
        metrics = list(metrics)
        self._grouped = [metric for metric in metrics if _is_item_mean(metric)]
        self._others = [metric for metric in metrics if not _is_item_mean(metric)]
        self.reset()

    def reset(self) -> None:
        """Forgets what waits: a new pass begins."""
        self._preds: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._kind: Any = None
        self._room = 1

    def update(self, pred: Any, target: Any) -> None:
        """Takes one batch in, now or with its group."""
        for metric in self._others:
            metric.update(pred, target)
        if not self._grouped:
            return
        kind = _kind_of(pred, target)
        if kind != self._kind:
            self.flush()
            self._kind = kind
        if kind is None:
            for metric in self._grouped:
                metric.update(pred, target)
            return
        self._preds.append(pred.clone())
        self._targets.append(target.clone())
        if len(self._preds) >= self._room:
            self.flush()

    def flush(self) -> None:
        """Gives the metrics what waits."""
        if not self._preds:
            return
        pred, target = torch.cat(self._preds), torch.cat(self._targets)
        self._preds, self._targets, self._room = [], [], _GROUP
        for metric in self._grouped:
            metric.update(pred, target)

    def state_dict(self) -> dict[str, Any]:
        """Returns what waits, so that a resumed run takes the same groups and gets the same numbers to the bit."""
        return {"preds": list(self._preds), "targets": list(self._targets), "room": self._room}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` stood."""
        self._preds, self._targets, self._room = list(state["preds"]), list(state["targets"]), state["room"]
        self._kind = _kind_of(self._preds[-1], self._targets[-1]) if self._preds else None


def _is_item_mean(metric: Metric) -> bool:
    """Whether several batches may be given as one: a function of this module, its axis not changed by a partial."""
    function = metric.function if type(metric) is MeanMetric else None
    if isinstance(function, partial) and not function.args and "axis" not in function.keywords:
        function = function.func
    return function in (accuracy, error_rate, accuracy_multi, top_k_accuracy)


def _kind_of(pred: Any, target: Any) -> Any:
    """What batches that are joined must share; None for one given alone: large, no tensor, or without a batch axis."""
    if not (isinstance(pred, Tensor) and isinstance(target, Tensor) and pred.ndim > 1 and target.ndim):
        return None
    if pred.numel() > _SMALL or target.numel() > _SMALL:
        return None
    return pred.shape[1:], pred.dtype, pred.device, target.shape[1:], target.dtype


def as_metric(thing: Any, device: torch.device | None = None) -> Metric:
    """Makes a `Metric` of a function, a `functools.partial`, or an object with reset, update and compute.

    Such an object is returned itself, moved to `device` where it has `.to` (as torchmetrics' have).

    Raises:
        TypeError: `thing` is none of these; a class, for instance, instead of an instance of it.
    """
    if isinstance(thing, type):
        raise TypeError(
            f"A metric must be an object, not a class. Received: {thing.__name__}. Write {thing.__name__}()."
        )
    if all(callable(getattr(thing, name, None)) for name in ("reset", "update", "compute")):
        if device is not None and callable(getattr(thing, "to", None)):
            thing.to(device)
        return thing  # type: ignore[no-any-return]
    if callable(thing):
        return MeanMetric(thing)
    raise TypeError(
        "A metric must be a function (pred, target) or an object with reset, update and compute. "
        f"Received: {thing!r} of type {type(thing).__name__}."
    )


def named_metrics(metrics: Any, device: torch.device | None = None) -> dict[str, Metric]:
    """Returns None, one metric or several as metrics by the name of their column."""
    given = [] if metrics is None else list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
    named = zip(metric_names(given), given, strict=True)
    return {name: as_metric(metric, device) for name, metric in named}


def metric_name(thing: Any) -> str:
    """Returns the column name of a metric: the function's name, behind any partial, or the class in snake case."""
    if isinstance(thing, MeanMetric):
        return metric_name(thing.function)
    if isinstance(thing, partial):
        return metric_name(thing.func)
    name = getattr(thing, "__name__", None)
    if isinstance(name, str):
        return "lambda" if name == "<lambda>" else name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(thing).__name__).lower()


def metric_names(things: Sequence[Any]) -> list[str]:
    """Returns one column name for each metric, no two alike.

    Where plain names meet, a partial adds its keywords, and what still meets is numbered:
    ``top_k_accuracy_k_3, top_k_accuracy_k_5, accuracy, accuracy_2``.
    """
    plain = [metric_name(thing) for thing in things]
    names: list[str] = []
    for thing, name in zip(things, plain, strict=True):
        full = name + _keywords(thing) if plain.count(name) > 1 else name
        number, unique = 1, full
        while unique in names:
            number += 1
            unique = f"{full}_{number}"
        names.append(unique)
    return names


def _keywords(thing: Any) -> str:
    function = thing.function if isinstance(thing, MeanMetric) else thing
    if not isinstance(function, partial):
        return ""
    return "".join(f"_{key}_{value}" for key, value in function.keywords.items())


class SmoothedLoss:
    """The exponential moving average of a loss, without the bias towards its start at zero. fastai's, with beta 0.98.

    s_t = beta s_(t-1) + (1 - beta) loss_t, and the value is s_t / (1 - beta^t). For losses 1, 2, 3, 4 and beta 0.98 the
    values are 1, 1.50505, 2.01347, 2.52525. ``beta=0`` smooths nothing.

    Raises:
        ValueError: `beta` is outside [0, 1).
    """

    def __init__(self, beta: float = 0.98) -> None:
        check_fraction(beta, "beta", closed="left")
        self.beta = beta
        self.value = math.nan
        self._sum = 0.0
        self._weight = 0.0  # 1 - beta^t, gathered the same way

    def update(self, loss: float) -> float:
        """Takes the next loss in and returns the smoothed value. A NaN stays for ever."""
        self._sum = self.beta * self._sum + (1 - self.beta) * loss
        self._weight = self.beta * self._weight + (1 - self.beta)
        self.value = self._sum / self._weight
        return self.value
