"""`LambdaCallback`: make a callback from plain functions. `training.callback` defines the events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minilearner.checks import check_number
from minilearner.errors import closest
from minilearner.training.callback import EVENTS, Callback
from minilearner.training.run import Run

__all__ = ["LambdaCallback"]

_KERAS = {
    "on_train_begin": "before_fit",
    "on_train_end": "after_fit",
    "on_epoch_begin": "before_epoch",
    "on_epoch_end": "after_epoch",
    "on_batch_begin": "before_batch",
    "on_batch_end": "after_batch",
}


class LambdaCallback(Callback):
    """Calls functions at events: by our event names with the run, or by Keras' six names with Keras' arguments.

    Example::

        LambdaCallback(after_epoch=lambda run: print(run.metrics))
        LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["valid_loss"]))

    Keras' functions receive `(epoch, logs)` for epochs, `(batch, logs)` for training batches, and `(logs)` for the
    whole training. `logs` holds the latest values by name; for a batch, it holds only "loss". Batches are counted
    within their epoch.

    Args:
        order: the place among other callbacks; see `Callback`.
        functions: event name -> function.

    Raises:
        TypeError: a name is not an event (the message suggests the nearest one), or a value cannot be called.
    """

    ignored_arguments = ()

    def __init__(self, *, order: float = 70, **functions: Callable[..., Any]):
        check_number(order, "order")
        self.order = order
        by_event: dict[str, list[Callable[[Run], None]]] = {}
        for name, function in functions.items():
            if name not in EVENTS and name not in _KERAS:
                raise TypeError(f"`{name}` is not an event.{closest(name, (*EVENTS, *_KERAS))}")
            if not callable(function):
                raise TypeError(f"`{name}` must be a function. Received: {name}={function!r}.")
            act = _adapt_keras_function(name, function) if name in _KERAS else function
            by_event.setdefault(_KERAS.get(name, name), []).append(act)
        for event, acts in by_event.items():
            setattr(self, event, acts[0] if len(acts) == 1 else _call_in_order(acts))


def _adapt_keras_function(name: str, function: Callable[..., Any]) -> Callable[[Run], None]:
    def on_train(run: Run) -> None:
        function(dict(run.metrics))

    def on_epoch(run: Run) -> None:
        function(run.epoch, dict(run.metrics))

    def on_batch(run: Run) -> None:
        if run.training:  # Keras has other names for the batches of a validation pass
            begins = name.endswith("begin") or run.loss is None
            function(run.iter, {} if begins else {"loss": float(run.loss.detach())})

    return on_train if "train" in name else on_epoch if "epoch" in name else on_batch


def _call_in_order(acts: list[Callable[[Run], None]]) -> Callable[[Run], None]:
    def call_all(run: Run) -> None:
        for act in acts:
            act(run)

    return call_all
