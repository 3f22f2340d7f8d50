"""`loggers=` of a learner: loggers by their names, and a list of callbacks of what was given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from minilearner.callbacks.mlflow_logger import MLflowLogger
from minilearner.callbacks.row_loggers import CSVLogger, JSONLinesLogger
from minilearner.callbacks.tensorboard_logger import TensorBoardLogger
from minilearner.callbacks.wandb_logger import WandbLogger
from minilearner.errors import closest
from minilearner.training.callback import Callback, as_callbacks

__all__ = ["LOGGERS", "Loggers", "as_loggers"]

Loggers: TypeAlias = "str | Callback | Iterable[str | Callback] | None"
"""What users pass as `loggers`: one logger or several, each by its name or as an object."""

LOGGERS: dict[str, Callable[[], Callback]] = {
    "csv": lambda: CSVLogger(fname="history.csv"),
    "jsonl": lambda: JSONLinesLogger(fname="history.jsonl"),
    "mlflow": MLflowLogger,
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
}
"""Name -> what makes the logger. Files are in the learner's folder; services have their own usual places."""


def as_loggers(loggers: Any, named: dict[str, Callback]) -> list[Callback]:
    """Returns what `loggers=` received as a list of callbacks.

    Args:
        loggers: see `Loggers`.
        named: the loggers that were made by name before. A name stands for the same logger again, so the rows of
            several runs follow each other. New ones are added.

    Raises:
        ValueError: there is no logger of this name.
        TypeError: it is neither a name nor a callback.
        ImportError: its library is not installed.
    """
    is_one = isinstance(loggers, (str, Callback, type)) or not isinstance(loggers, Iterable)
    given = [] if loggers is None else [loggers] if is_one else list(loggers)
    return [_find(one, named) for one in given]


def _find(one: Any, named: dict[str, Callback]) -> Callback:
    if not isinstance(one, str):
        if not isinstance(one, Callback) and not (isinstance(one, type) and issubclass(one, Callback)):
            raise TypeError(f"`loggers` must be {_CHOICES}. Received: {one!r:.80}.")
        return as_callbacks(one)[0]
    if one not in LOGGERS:
        raise ValueError(f"`loggers` must be {_CHOICES}.{closest(one, LOGGERS)} Received: loggers={one!r}.")
    if one not in named:
        named[one] = LOGGERS[one]()
    return named[one]


_CHOICES = f"among {', '.join(map(repr, LOGGERS))}, or callbacks that log, one or several in a list"
