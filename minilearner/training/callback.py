"""The events of a run: the base class of callbacks, the exceptions that cancel a stretch, and the dispatch table."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from minilearner.errors import closest
from minilearner.training.attributes import data_attributes, load_attributes
from minilearner.training.run import Run

__all__ = [
    "EVENTS",
    "Callback",
    "Callbacks",
    "Cancel",
    "CancelBackward",
    "CancelBatch",
    "CancelEpoch",
    "CancelFit",
    "CancelStep",
    "CancelTrain",
    "CancelValidate",
    "Events",
    "as_callbacks",
    "check_event_name",
    "without",
]


class Cancel(Exception):  # noqa: N818 - a command to the loop, not an error
    """Ends the stretch of the loop that the subclass names; `after_cancel_<stretch>` and `after_<stretch>` follow."""


class CancelBatch(Cancel):
    """Leaves out the rest of this batch."""


class CancelBackward(Cancel):
    """Leaves out the backward pass."""


class CancelStep(Cancel):
    """Leaves out the update; its gradients are forgotten."""


class CancelTrain(Cancel):
    """Ends the training pass of this epoch; validation follows."""


class CancelValidate(Cancel):
    """Ends this validation pass."""


class CancelEpoch(Cancel):
    """Ends this epoch."""


class CancelFit(Cancel):
    """Ends the run in good order."""


class Callback:
    """Acts at the events of a run. Define those that you want; each receives the run, and may change it.

    The loop, with its events in place (`fit` runs all of it, `validate` only the validation pass)::

        before_fit
        for run.epoch in range(run.n_epochs):
            before_epoch
            before_train
            for run.iter, run.batch in enumerate(run.dls.train):
                before_batch
                run.pred = model(run.x)                    after_pred
                run.loss = loss_func(run.pred, run.y)      after_loss
                before_backward
                run.loss.backward()                        after_backward
                if an update is due:
                    before_step
                    optimizer.step()                       after_step
                    optimizer.zero_grad()
                after_batch
            after_train
            before_validate
            for run.iter, run.batch in enumerate(run.dls.valid):
                before_batch, after_pred, after_loss, after_batch
            after_validate
            after_epoch
        after_fit

    An event may raise `CancelBatch`, `CancelBackward`, `CancelStep`, `CancelTrain`, `CancelValidate`, `CancelEpoch` or
    `CancelFit` to end the stretch of that name: `after_cancel_<stretch>` follows, and then always `after_<stretch>`.
    Any other exception ends the run; of the events only `after_fit` follows then, for every callback whose `before_fit`
    came, so what was changed for a while is undone there.

    Attributes:
        order: callbacks act in rising order; equal ones as they were given.
        part_of_step: True for a callback that changes what a batch does to the model (accumulation, clipping, mixing).
            Such ones take part in `lr_find` and `validate` too. All others, which track, log or schedule, rest there.
        follows_weights: True for a callback whose state is made of the weights, as their averages are: where the
            weights go back to an earlier state, so does this.
        differs_by_process: True for a callback that gathers, of several processes, this one's own part. Each process
            then goes on from its own state, and otherwise all from the first one's.

        constructor_arguments: the arguments with which this callback was made, defaults included, by name.
        ignored_arguments: names of constructor arguments that may change between the parts of a resumed run, such as
            `verbose`. A change of any other argument is an error when the run is resumed. None, the default for your
            own callbacks, allows every argument to change; the changed ones are printed.

    Raises:
        TypeError: a subclass defines a method whose name begins like an event's and is none. The nearest is offered.
    """

    # A slot: `vars` and `state_dict` shall not see the arguments.
    __slots__ = ("__dict__", "__weakref__", "constructor_arguments")
    constructor_arguments: Mapping[str, Any]

    order: float = 0
    part_of_step: bool = False
    follows_weights: bool = False
    differs_by_process: bool = False
    ignored_arguments: ClassVar[Collection[str] | None] = None

    if not TYPE_CHECKING:  # type checkers read `__init__`, as people do

        def __new__(cls, *args: Any, **kwargs: Any) -> Callback:
            """Makes a callback and keeps the arguments that `__init__` is about to receive."""
            if cls.__init__ is object.__init__ and (args or kwargs):
                raise TypeError(f"{cls.__name__}() takes no arguments")
            self = super().__new__(cls)
            self.constructor_arguments = _bind_arguments(cls.__init__, self, args, kwargs)
            return self

        __new__.__signature__ = inspect.Signature([inspect.Parameter("cls", inspect.Parameter.POSITIONAL_ONLY)])

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            if name.startswith(("before_", "after_")):
                check_event_name(name, owner=cls.__name__)

    def state_dict(self) -> dict[str, Any]:
        """Returns what this callback must remember for a run to go on exactly where it was stopped.

        Data, as `training.packing` takes them: numbers, text, tensors, and lists, tuples and dictionaries of such. What
        lives in the model, the optimizer, the loaders or the record is kept with them. Here: all attributes that are
        data. Override both methods where an attribute's meaning ends with the process.
        """
        return data_attributes(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` stood: afterwards this callback acts as the one that gave the state would have.

        Called in a resumed run after `before_fit`, when model, optimizer and loaders stand as they stood, and in
        mid-epoch again after `before_train`. Tensors may come on another device.
        """
        load_attributes(self, state)

    def before_fit(self, run: Run) -> None:
        """Before anything else. Configure the run here."""

    def before_epoch(self, run: Run) -> None:
        """`run.epoch` has just been set."""

    def before_train(self, run: Run) -> None:
        """The model is in training mode."""

    def before_batch(self, run: Run) -> None:
        """`run.x` and `run.y` are set, and may be changed."""

    def after_pred(self, run: Run) -> None:
        """`run.pred` is set, and may be changed."""

    def after_loss(self, run: Run) -> None:
        """`run.loss` is set, and may be changed."""

    def before_backward(self, run: Run) -> None:
        """Only in training."""

    def after_backward(self, run: Run) -> None:
        """The gradients of this batch are added."""

    def before_step(self, run: Run) -> None:
        """An update is due. With accumulation, gradients are still sums."""

    def after_step(self, run: Run) -> None:
        """The weights are updated; the gradients are still there."""

    def after_batch(self, run: Run) -> None:
        """The batch is done."""

    def after_train(self, run: Run) -> None:
        """The training pass of this epoch is done."""

    def before_validate(self, run: Run) -> None:
        """The model is in evaluation mode."""

    def after_validate(self, run: Run) -> None:
        """`run.metrics` holds the new values."""

    def after_epoch(self, run: Run) -> None:
        """The epoch's row is written."""

    def after_fit(self, run: Run) -> None:
        """Also when an exception passes through, told by `run.interrupted`. Undo what was changed for a while."""

    def after_cancel_batch(self, run: Run) -> None:
        """`CancelBatch` was raised."""

    def after_cancel_backward(self, run: Run) -> None:
        """`CancelBackward` was raised."""

    def after_cancel_step(self, run: Run) -> None:
        """`CancelStep` was raised."""

    def after_cancel_train(self, run: Run) -> None:
        """`CancelTrain` was raised."""

    def after_cancel_validate(self, run: Run) -> None:
        """`CancelValidate` was raised."""

    def after_cancel_epoch(self, run: Run) -> None:
        """`CancelEpoch` was raised."""

    def after_cancel_fit(self, run: Run) -> None:
        """`CancelFit` was raised."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _bind_arguments(init: Callable[..., None], self: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Returns arguments by name. Copying and unpickling give none; of wrong ones, `__init__` complains itself."""
    if init is object.__init__:
        return {}
    try:
        bound = inspect.signature(init).bind_partial(self, *args, **kwargs)
    except (TypeError, ValueError):
        return {}
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])


EVENTS: tuple[str, ...] = tuple(name for name in vars(Callback) if name.startswith(("before_", "after_")))
"""The names of all events."""


def check_event_name(name: str, owner: str) -> None:
    """Raises a TypeError that offers the nearest event, where `name` is none."""
    if name not in EVENTS:
        raise TypeError(f"{owner} defines {name!r}, which is not an event.{closest(name, EVENTS)}")


Callbacks: TypeAlias = Callback | Iterable[Callback] | None
"""What users pass as `cbs`: one callback, several, or none."""


def as_callbacks(cbs: Any) -> list[Callback]:
    """Returns None, one callback, or several as a new list.

    Raises:
        TypeError: something else is among them, such as a class instead of an instance.
    """
    given: list[Any] = [] if cbs is None else [cbs] if isinstance(cbs, (Callback, type)) else list(cbs)
    for callback in given:
        if not isinstance(callback, Callback):
            hint = " Give an instance, not the class." if isinstance(callback, type) else ""
            raise TypeError(f"`cbs` must be callbacks. Received: {callback!r}.{hint}")
    return given


def without(callbacks: Iterable[Callback], unwanted: Any) -> list[Callback]:
    """Returns the callbacks but those named by `unwanted`: one or several, each by itself or by its class.

    Raises:
        ValueError: there is none such.
    """
    kept = list(callbacks)
    for one in unwanted if isinstance(unwanted, Iterable) else [unwanted]:
        found = [callback for callback in kept if callback is one or type(callback) is one]
        if not found:
            raise ValueError(f"the learner has no callback {one!r}. It has: {kept}.")
        kept = [callback for callback in kept if callback not in found]
    return kept


class Events:
    """The callbacks of one run by event: for each, the bound methods of only those callbacks that define it.

    An event that nobody listens to is an empty tuple, and costs nothing. Built when a run begins.

    Attributes:
        of: event name -> what to call, in order. The loop reads it directly where every microsecond counts.
    """

    def __init__(self, callbacks: Iterable[Callback]):
        self.callbacks = sorted(callbacks, key=lambda callback: callback.order)
        self.of: dict[str, tuple[Callable[[Run], None], ...]] = {
            event: tuple(getattr(cb, event) for cb in self.callbacks if _defines(cb, event)) for event in EVENTS
        }
        self._started: list[Callback] = []

    def emit(self, event: str, run: Run) -> None:
        """Calls an event's methods in order."""
        for act in self.of[event]:
            act(run)

    def start(self, run: Run) -> None:
        """`before_fit` of each callback, noting which were reached."""
        for callback in self.callbacks:
            self._started.append(callback)
            callback.before_fit(run)

    def finish(self, run: Run) -> None:
        """`after_fit` of each callback that was started: of all, even if one of them fails; then the first error."""
        first: BaseException | None = None
        for callback in self._started:
            try:
                callback.after_fit(run)
            except BaseException as error:
                first = first or error
        if first is not None:
            raise first


def _defines(callback: Callback, event: str) -> bool:
    method: Callable[[Run], None] = getattr(callback, event)
    return getattr(method, "__func__", method) is not getattr(Callback, event)
