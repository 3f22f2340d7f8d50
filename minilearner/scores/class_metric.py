"""`ClassMetric`: one class's value of a metric that computes a value for each class, such as torchmetrics' recall."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from minilearner.checks import check_count
from minilearner.errors import closest
from minilearner.keywords import suggest_keywords
from minilearner.metrics import Metric, metric_name

__all__ = ["ClassMetric"]


@suggest_keywords
class ClassMetric(nn.Module):
    """One value of a metric that computes several: that of one class, or that of a key.

    >>> ClassMetric(MulticlassRecall(37, average=None), "sphynx", vocab=dls.vocab)  # doctest: +SKIP
    >>> ClassMetric(MulticlassRecall(37, average=None), 33)  # doctest: +SKIP

    Args:
        metric: a metric of torchmetrics with ``average=None``, or another module with reset, update and compute. It is
            copied, so the same one may serve several classes.
        which: the number of the class; its name, with `vocab`; or a key, if the metric computes a dictionary.
        vocab: the names of the classes in the order of their numbers, such as `dls.vocab`.
        name: the name of the column. None joins the metric's name and the class: "multiclass_recall_sphynx".

    Raises:
        TypeError: `metric` is no such module.
        ValueError: the metric averages over the classes, the class is not in `vocab`, or its number is negative.
            `compute` raises it if the metric does not compute a value for it.
    """

    def __init__(self, metric: Any, which: int | str, *, vocab: Sequence[Any] | None = None, name: str | None = None):
        super().__init__()
        if not (isinstance(metric, nn.Module) and isinstance(metric, Metric)):
            raise TypeError(
                "`metric` must be a metric of torchmetrics, or another module with reset, update and compute, that "
                f"computes a value for each class. Received: metric={metric!r:.80}."
            )
        average = getattr(metric, "average", None)
        if average not in (None, "none"):
            raise ValueError(
                f"`metric` must have average=None, to compute a value for each class. Received: average={average!r}."
            )
        self.base_metric = copy.deepcopy(metric)
        """The metric that computes all values."""
        self.which = which if vocab is None else _find_class(which, vocab)
        if not isinstance(self.which, str):
            check_count(self.which, "which", least=0)
        called = which if vocab is None or isinstance(which, str) else vocab[which]
        self.name = name or f"{metric_name(metric)}_{called}"

    @property
    def sync_on_compute(self) -> bool:
        """Whether the metric itself combines what several processes have seen."""
        return bool(getattr(self.base_metric, "sync_on_compute", False))

    def reset(self) -> None:
        """Forgets all batches."""
        self.base_metric.reset()

    def update(self, pred: Any, target: Any) -> None:
        """Adds one batch."""
        self.base_metric.update(pred, target)

    def compute(self) -> Any:
        """Returns the value of the class over all batches since the last reset."""
        values = self.base_metric.compute()
        if isinstance(values, Mapping):
            if self.which in values:
                return values[self.which]
            raise ValueError(
                f"{metric_name(self.base_metric)} computes no {self.which!r}."
                f"{closest(str(self.which), map(str, values))} Its keys: {', '.join(map(str, values))}."
            )
        n = len(values) if isinstance(values, (list, tuple)) or (isinstance(values, Tensor) and values.ndim) else 0
        if isinstance(self.which, str) or self.which >= n:
            what = f"{n} values, numbered from 0" if n else "one value for all classes; give it average=None"
            raise ValueError(f"{metric_name(self.base_metric)} computes {what}. Received: which={self.which!r}.")
        return values[self.which]

    def extra_repr(self) -> str:
        """Returns the name of the column."""
        return repr(self.name)


def _find_class(which: Any, vocab: Sequence[Any]) -> int:
    names = list(vocab)
    if which in names:
        return names.index(which)
    if isinstance(which, int) and not isinstance(which, bool) and 0 <= which < len(names):
        return which
    raise ValueError(
        f"`which` must be one of the classes.{closest(str(which), map(str, names))} Received: which={which!r}; "
        f"classes: {', '.join(map(repr, names[:10]))}{', ...' if len(names) > 10 else ''}."
    )
