"""Metrics: functions of one batch, and objects that accumulate over many batches.

A metric function takes `(pred, target)` and returns a 0-d tensor, the mean over the batch. `as_metric` makes an object
of it that averages over items, so that a short last batch does not count too much. A function that is known to be no
mean, such as F1, gets the whole set at once. Nothing here waits for the device: values stay there until somebody reads
them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import CodeType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from minilearner.batch_values import BatchValues
from minilearner.checks import check_count, check_fraction
from minilearner.errors import plural
from minilearner.other_libraries import METRICS_ELSEWHERE, translate
from minilearner.tree import map_tensors, n_items

__all__ = [
    "MeanMetric",
    "Metric",
    "MetricFunction",
    "WholeSetMetric",
    "accuracy",
    "accuracy_multi",
    "as_metric",
    "compute_number",
    "disable_exchange",
    "error_rate",
    "is_no_mean",
    "list_parts",
    "mean_over",
    "metric_name",
    "metric_names",
    "name_metrics",
    "top_k_accuracy",
]

MetricFunction: TypeAlias = Callable[[Any, Any], Any]
"""Takes `(pred, target)` of one batch, and returns the mean over its items, a 0-d tensor or a number."""


def accuracy(pred: Tensor, target: Tensor, axis: int = -1) -> Tensor:
    """Returns the share of items whose target has the highest score, a 0-d tensor in [0, 1]. Same as fastai's.

    Args:
        pred: scores, (batch, classes) or (batch, ..., classes).
        target: class numbers, (batch,) or (batch, ...).
        axis: the dimension of the classes. For (batch, classes, height, width) use ``partial(accuracy, axis=1)``.

    Raises:
        ValueError: `target` does not have one entry for each prediction.
    """
    predicted = pred.argmax(axis)
    return (predicted == _reshape(target, predicted.shape)).mean(dtype=torch.float32)


def error_rate(pred: Tensor, target: Tensor, axis: int = -1) -> Tensor:
    """Returns the share of items whose prediction is wrong: one minus `accuracy`, with its arguments."""
    predicted = pred.argmax(axis)
    return (predicted != _reshape(target, predicted.shape)).mean(dtype=torch.float32)


def accuracy_multi(pred: Tensor, target: Tensor, thresh: float = 0.5, sigmoid: bool = True) -> Tensor:
    """Returns the share of right yes-or-no answers, if each item has any number of classes. Same as fastai's.

    Args:
        pred: (batch, classes), logits, or probabilities with ``sigmoid=False``.
        target: (batch, classes); not zero if the item has the class.
        thresh: a class is predicted if its probability is above this, in [0, 1].
        sigmoid: whether `pred` still needs the sigmoid.

    Raises:
        ValueError: `pred` and `target` differ in shape.
    """
    if pred.shape != target.shape:
        raise ValueError(
            f"`pred` and `target` must have the same shape. Received: {tuple(pred.shape)} and {tuple(target.shape)}."
        )
    check_fraction(thresh, "thresh")
    probabilities = pred.sigmoid() if sigmoid else pred
    return ((probabilities > thresh) == target.bool()).float().mean()


def top_k_accuracy(pred: Tensor, target: Tensor, k: int = 5, axis: int = -1) -> Tensor:
    """Returns the share of items whose target is among the `k` highest scores.

    Args:
        pred: as in `accuracy`.
        target: as in `accuracy`.
        k: between 1 and the number of classes.
        axis: as in `accuracy`.

    Raises:
        ValueError: `k` is out of range, or `target` does not have one entry for each prediction.
    """
    check_count(axis, "axis", least=None)
    check_count(k, "k")
    if k > pred.shape[axis]:
        raise ValueError(f"`k` must be between 1 and the {plural(pred.shape[axis], 'class')}. Received: k={k}.")
    axis %= pred.ndim
    best = pred.topk(k, dim=axis, sorted=False).indices
    wanted = _reshape(target, pred.shape[:axis] + pred.shape[axis + 1 :])
    return (best == wanted.unsqueeze(axis)).any(axis).mean(dtype=torch.float32)


def _reshape(target: Tensor, shape: torch.Size) -> Tensor:
    """Returns the class numbers in the shape of the predictions."""
    if target.shape == shape:
        return target
    if target.numel() != math.prod(shape):
        raise ValueError(
            "`target` must hold one class number for each prediction. "
            f"Received: {tuple(target.shape)} targets for {tuple(shape)} predictions "
            "(for one-hot targets use target.argmax(-1); if classes are dimension 1 use partial(metric, axis=1))."
        )
    return target.reshape(shape)


@runtime_checkable
class Metric(Protocol):
    """An object that accumulates over the batches of a pass. Any object with these methods fits, also torchmetrics'."""

    def reset(self) -> Any:
        """Forgets all batches. Called before each pass."""

    def update(self, pred: Any, target: Any, /) -> Any:
        """Adds one batch."""

    def compute(self) -> Any:
        """Returns the value over all batches since the last reset, a 0-d tensor or a number."""


class MeanMetric(BatchValues):
    """The mean of a metric function over *items*: each batch counts by its number of items.

    The value of a batch stays on its device until somebody reads the mean. The sum over the batches is exact and is
    rounded once. So the mean does not depend on their order, or on which process had which batch (`mean_over`).

    Example: ``m = MeanMetric(accuracy); m.update(pred, y); float(m.compute())``.
    """

    def __init__(self, function: MetricFunction) -> None:
        self.function = function
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        super().reset()
        self._sizes: list[int] = []

    @property
    def n_items(self) -> int:
        """The number of items so far."""
        return sum(self._sizes)

    def update(self, pred: Any, target: Any) -> None:
        """Adds one batch. Its number of items is the length of the target.

        Raises:
            ValueError: the function did not return one number.
        """
        value = self.function(pred, target)
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value)
        if value.ndim:
            name = metric_name(self.function)
            raise ValueError(f"Metric {name!r} must return one number per batch. Received: shape {tuple(value.shape)}.")
        self.add(value)
        self._sizes.append(n_items(target) or n_items(pred))

    def totals(self) -> list[tuple[float, int]]:
        """Returns the total and the number of items of each batch so far. Several processes exchange these.

        If a total is a whole number up to rounding, as a count of right items is, it becomes that whole number. So a
        count does not depend on how the items were divided into batches.
        """
        means = self.read()
        products = means.double() * torch.tensor(self._sizes, dtype=torch.float64)
        if means.dtype in (torch.float32, torch.float64):
            whole = products.round()
            is_whole = (products - whole).abs() <= 2 * torch.finfo(means.dtype).eps * whole.abs()
            products = torch.where(is_whole, whole, products)
        return list(zip(products.tolist(), self._sizes, strict=True))

    def compute(self) -> Tensor:
        """Returns the mean over all items so far, a 0-d tensor. NaN without any item."""
        return torch.tensor(mean_over(self.totals()), dtype=torch.float64)

    def __repr__(self) -> str:
        return f"MeanMetric({metric_name(self.function)})"


class WholeSetMetric:
    """A metric function of all items at once, for what is no mean over items: F1, AUC, a correlation.

    It keeps the predictions and targets of a pass, on their device.

    Example: ``m = WholeSetMetric(f1); m.update(pred, y); float(m.compute())``.
    """

    def __init__(self, function: MetricFunction) -> None:
        self.function = function
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._batches: list[tuple[Any, Any]] = []

    def update(self, pred: Any, target: Any) -> None:
        """Adds one batch. It is copied, since the model or the loader may reuse its memory."""
        self._batches.append(map_tensors(lambda t: t.detach().clone(), (pred, target)))

    def compute(self) -> Any:
        """Returns the function's value for all items so far. NaN without any item."""
        if not self._batches:
            return torch.tensor(math.nan)
        pred, target = _join([pred for pred, _ in self._batches]), _join([target for _, target in self._batches])
        value = self.function(pred, target)
        return value.detach() if isinstance(value, Tensor) else value

    def __repr__(self) -> str:
        return f"WholeSetMetric({metric_name(self.function)})"


def _join(parts: Sequence[Any]) -> Any:
    """Joins batches of one structure along their items."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat([part if part.ndim else part[None] for part in parts])
    if isinstance(first, Mapping):
        return {key: _join([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        joined = [_join(column) for column in zip(*parts, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    return first


# Words of a function's name. Each says that its value for a set is not the mean of its values for parts of the set.
_NO_MEANS = {
    *("f1", "fbeta", "fscore", "precision", "recall", "sensitivity", "specificity", "ppv", "npv", "auc", "auroc"),
    *("rocauc", "auprc", "prauc", "roc", "gini", "mcc", "matthews", "kappa", "qwk", "corr", "correlation"),
    *("corrcoef", "pcc", "pearson", "pearsonr", "spearman", "spearmanr", "kendall", "kendalltau", "concordance"),
    *("ccc", "r2", "r2score", "rsquared", "nse", "explained", "jaccard", "rmse", "rmsle", "rmspe", "perplexity", "ece"),
    *("informedness", "youden", "silhouette", "ndcg"),
}
_NO_MEAN_PHRASES = (
    *("f_score", "f_beta", "r_squared", "r_2", "r2_score", "average_precision", "balanced_accuracy", "balanced_acc"),
    *("root_mean", "calibration_error", "explained_variance", "median_absolute", "mutual_info", "g_mean"),
)


def is_no_mean(function: Any) -> bool:
    """Whether a metric function is known to be no mean over items.

    Known by its name, such as `macro_f1`, `AUC` or `r2`, or because it calls a function with such a name, such as
    scikit-learn's `f1_score`.
    """
    while isinstance(function, partial):
        function = function.func
    if function in (accuracy, error_rate, accuracy_multi, top_k_accuracy):
        return False
    body: Any = getattr(function, "__func__", function)
    if not hasattr(body, "__code__"):  # an object that can be called
        body = getattr(type(function), "forward", type(function).__call__)
    called = _names_in(body.__code__) if hasattr(body, "__code__") else []
    return any(map(_names_no_mean, [metric_name(function), *called]))


def _names_in(code: CodeType) -> list[str]:
    """Returns the names of what a function reads outside itself, such as the functions that it calls."""
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names_in(part)]
    return [*code.co_names, *code.co_freevars, *inner]


def _names_no_mean(name: str) -> bool:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    words = {snake.replace("_", ""), *snake.split("_")}
    return bool(words & _NO_MEANS) or any(phrase in snake for phrase in _NO_MEAN_PHRASES)


def mean_over(batches: Sequence[tuple[float, int]]) -> float:
    """Returns the mean over all items of batches `(total, number of items)`, in any order. NaN without any item."""
    totals, sizes = zip(*batches, strict=True) if batches else ((), ())
    # fsum rounds once, at the end, but it raises for infinities of both signs.
    total = math.fsum(totals) if all(map(math.isfinite, totals)) else sum(totals)
    return total / sum(sizes) if sum(sizes) else math.nan


def as_metric(thing: Any, device: torch.device | None = None) -> Metric:
    """Makes a `Metric` of a function or a `functools.partial`.

    A function becomes the mean over items (`MeanMetric`). If it is known to be no mean, as F1 is, it gets the whole set
    at once (`WholeSetMetric`); see `is_no_mean`.

    An object with reset, update and compute is returned itself. It is moved to `device` if it has a method `to`, as
    torchmetrics objects do.

    Raises:
        TypeError: `thing` is something else, such as a class instead of an object, or scikit-learn's own function.
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
        _check_not_scikit_learns(thing)
        return WholeSetMetric(thing) if is_no_mean(thing) else MeanMetric(thing)
    meant = translate(thing, METRICS_ELSEWHERE) if isinstance(thing, str) else ""
    hint = f" Write metrics={meant}, from minilearner.vision.all." if meant else ""
    raise TypeError(
        "A metric must be a function (pred, target) or an object with reset, update and compute. "
        f"Received: {thing!r:.80} of type {type(thing).__name__}.{hint}"
    )


_TAKE_INSTEAD = {
    "f1": "MulticlassF1Score(num_classes=...)",
    "fbeta": "MulticlassFBetaScore(beta=..., num_classes=...)",
    "average_precision": "MulticlassAveragePrecision(num_classes=...)",
    "precision": "MulticlassPrecision(num_classes=...)",
    "recall": "MulticlassRecall(num_classes=...)",
    "balanced_accuracy": 'MulticlassRecall(num_classes=..., average="macro")',
    "auc": "MulticlassAUROC(num_classes=...)",
    "matthews": "MulticlassMatthewsCorrCoef(num_classes=...)",
    "kappa": "MulticlassCohenKappa(num_classes=...)",
    "jaccard": "MulticlassJaccardIndex(num_classes=...)",
    "r2": "R2Score()",
    "explained_variance": "ExplainedVariance()",
    "root_mean_squared_error": "MeanSquaredError(squared=False)",
}


def _check_not_scikit_learns(thing: Any) -> None:
    function = thing
    while isinstance(function, partial):
        function = function.func
    if not str(getattr(function, "__module__", "")).startswith("sklearn."):
        return
    name = metric_name(function)
    instead = next((metric for key, metric in _TAKE_INSTEAD.items() if key in name), None)
    take = "a function of yours" if instead is None else f"torchmetrics' {instead}, or a function of yours"
    measures = any(word in name for word in ("r2", "d2", "variance", "squared", "absolute", "deviance"))
    raise TypeError(
        f"A metric takes (pred, target), raw predictions first, and scikit-learn's {name} takes (y_true, y_pred). Give "
        f"{take} that calls it{'' if measures else ', for classes'}: def {name}_of(pred, target): "
        f"return {name}(target.cpu(), pred.{'' if measures else 'argmax(1).'}cpu())."
    )


class NamedMetrics(dict[str, Metric]):
    """Metrics by the names of their columns. Others can be added: ``learn.metrics += [F1Score()]``."""

    def __add__(self, others: Any) -> dict[str, Metric]:
        """Returns these metrics and `others`, which are given as to `name_metrics`."""
        more = name_metrics(others)
        if twice := sorted(more.keys() & self.keys()):
            raise ValueError(f"there is a metric {twice[0]!r} already. Give the other one another `name`.")
        return {**self, **more}

    __iadd__ = __add__


def name_metrics(metrics: Any, device: torch.device | None = None) -> NamedMetrics:
    """Returns metrics by the names of their columns.

    Args:
        metrics: None, one metric, several in a list, or a dictionary with their names; each as in `as_metric`. A
            `MetricCollection` of torchmetrics counts as the metrics in it, each with its name there.
        device: as in `as_metric`.
    """
    if isinstance(metrics, Mapping) and not _is_collection(metrics):
        return NamedMetrics({name: as_metric(metric, device) for name, metric in metrics.items()})
    given = [] if metrics is None else list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
    named: list[tuple[str | None, Any]] = []
    for metric in given:
        named += metric.items() if _is_collection(metric) else [(None, metric)]
    names = metric_names([one for _, one in named], [name for name, _ in named])
    return NamedMetrics({name: as_metric(one, device) for name, (_, one) in zip(names, named, strict=True)})


def _is_collection(metric: Any) -> bool:
    """Whether it is a `MetricCollection`: a dictionary of modules that is a metric as well."""
    return isinstance(metric, nn.ModuleDict) and isinstance(metric, Metric)


def metric_name(thing: Any) -> str:
    """Returns the column name of a metric.

    It is the attribute `name` if there is one, the function's name, also inside a partial, or the class in snake case.
    """
    own = getattr(thing, "name", None)
    if isinstance(own, str) and own:
        return own
    if isinstance(thing, (MeanMetric, WholeSetMetric)):
        return metric_name(thing.function)
    if isinstance(thing, partial):
        return metric_name(thing.func)
    name = getattr(thing, "__name__", None)
    if isinstance(name, str):
        return "lambda" if name == "<lambda>" else name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(thing).__name__).lower()


def metric_names(things: Sequence[Any], given: Sequence[str | None] = ()) -> list[str]:
    """Returns one column name for each metric, all different: the `given` one, or that of `metric_name`.

    If two names are equal, a partial adds its keywords to its name. Names that are still equal get numbers:
    ``top_k_accuracy_k_3, top_k_accuracy_k_5, accuracy, accuracy_2``.
    """
    wanted = given or [None] * len(things)
    plain = [name or metric_name(thing) for name, thing in zip(wanted, things, strict=True)]
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
    function = thing.function if isinstance(thing, (MeanMetric, WholeSetMetric)) else thing
    if not isinstance(function, partial):
        return ""
    return "".join(f"_{key}_{value}" for key, value in function.keywords.items())


def list_parts(metric: Metric) -> list[Any]:
    """Returns a metric and those inside it, of which torchmetrics objects and wrappers have some."""
    return list(metric.modules()) if isinstance(metric, nn.Module) else [metric]


@contextmanager
def disable_exchange(metrics: Iterable[Metric]) -> Iterator[None]:
    """Stops torchmetrics objects from exchanging their state: in every process, they have seen all batches."""
    parts = [one for metric in metrics for one in list_parts(metric) if hasattr(one, "distributed_available_fn")]
    alone = [(one, one.distributed_available_fn) for one in parts]
    for one, _ in alone:
        one.distributed_available_fn = lambda: False
    try:
        yield
    finally:
        for one, available in alone:
            one.distributed_available_fn = available


def compute_number(name: str, value: Any) -> float:
    """Returns what a metric computed as a number.

    Raises:
        TypeError: it is not one number, but several or something else.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"{len(value)} numbers" if isinstance(value, (Tensor, list, tuple)) and len(value) > 1 else ""
        raise TypeError(
            f"the metric {name!r} must compute one number. Received: {what or type(value).__name__}. "
            f"Take one of them by ClassMetric({name}, 0), from minilearner.vision.all, or a metric that averages."
        ) from error
