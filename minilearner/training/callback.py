"""The events of a run: the base class of callbacks, the exceptions that cancel a stretch, and the dispatch table."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from minilearner.data.loader_state import GENERATORS, generator_state, set_generator_state
from minilearner.errors import closest
from minilearner.keywords import check_keywords
from minilearner.training.attributes import data_attributes, load_attributes
from minilearner.training.run import Moment, Run
from minilearner.tree import to_device

__all__ = [
    "EVENTS",
    "Act",
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
    "defines",
    "drop_callbacks",
    "is_fastai_style",
    "select_for_step",
]


class Cancel(Exception):  # noqa: N818 - a command to the loop, not an error
    """Ends the stretch of the loop that the subclass names; `after_cancel_<stretch>` and `after_<stretch>` follow.

    Attributes:
        stretch: the stretch that it ends, such as "batch".
    """

    stretch: ClassVar[str]


class CancelBatch(Cancel):
    """Skips the rest of this batch, its update included, and drops its gradients.

    With gradient accumulation nothing is dropped: gradients that were gathered before stay, and those of this batch too
    if its backward pass was done. `after_cancel_batch` and `after_batch` still come. May be raised from `before_batch`
    to `after_step`, in validation too.
    """

    stretch = "batch"
    keeps_gradients: ClassVar[bool] = False


class CancelBackward(Cancel):
    """Skips the rest of the forward and backward pass, and the update: the optimizer never steps on what is left.

    Raise it if you make the update by hand, after your own backward pass and optimizers. Gradients that they leave in
    the optimizer's parameters are dropped. With gradient accumulation, gradients that were gathered before are kept:
    then nothing is dropped, this batch does not count, and the update comes as soon as the window is full or the epoch
    ends. `after_cancel_backward`, `after_backward` and `after_batch` still come; `before_step` and `after_step` only if
    there is an update. May be raised from `after_pred` to `before_backward`, and in `run.process_batch`.
    """

    stretch = "backward"
    keeps_update: ClassVar[bool] = False


class CancelStep(Cancel):
    """Skips this update and drops its gradients.

    The schedule stands still, since no update was made. `after_cancel_step`, `after_step` and `after_batch` still come.
    May be raised in `before_step`.
    """

    stretch = "step"


class CancelTrain(Cancel):
    """Ends the training pass of this epoch.

    Gathered gradients are dropped. `after_cancel_train`, `after_train`, the validation and `after_epoch` still come;
    the events of the current batch do not. May be raised from `before_train` to the last `after_batch`.
    """

    stretch = "train"


class CancelValidate(Cancel):
    """Ends this validation pass.

    `after_cancel_validate` and `after_validate` still come, with metrics of the batches so far. May be raised from
    `before_validate` to the last `after_batch`.
    """

    stretch = "validate"


class CancelEpoch(Cancel):
    """Ends this epoch, its validation included.

    `after_cancel_epoch` and `after_epoch` still come. The other events of the pass that it ends do not. May be raised
    from `before_epoch` on.
    """

    stretch = "epoch"


class CancelFit(Cancel):
    """Ends the run in good order.

    `after_cancel_fit` and `after_fit` still come, with `run.interrupted` False. If the training pass of the epoch is
    done, `after_epoch` comes before them, so that every log has this epoch; no other event does. All callbacks receive
    the event at the end of a stretch in which it is raised. May be raised from `before_fit` on.
    """

    stretch = "fit"


class Callback:
    """Acts at the events of a run. Define the events that you want; each receives the run, and may change it.

    The loop with its events (`fit` runs all of it, `validate` only the validation pass)::

        before_fit
        for run.epoch in range(run.n_epochs):
            before_epoch
            before_train
            for run.iter, run.batch in enumerate(run.dls.train):
                before_batch
                run.process_batch():
                    run.pred = model(run.x)
                    after_pred
                    run.loss = loss_func(run.pred, run.y)
                    after_loss
                    before_backward
                    run.loss.backward()
                after_backward
                if an update is due:
                    before_step
                    optimizer.step()
                    after_step
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
    `CancelFit` to end the stretch of that name. `after_cancel_<stretch>` follows, and then always `after_<stretch>`.
    Each class says what else is skipped and what still happens. Any other exception ends the run. Then only `after_fit`
    follows, for every callback whose `before_fit` was called, so undo temporary changes there.

    To train a batch in your own way, replace `run.process_batch` in `before_fit`. Set `run.pred` and `run.loss`, and
    call `run.step.backward`; the loop makes the update. Distillation, in which a teacher's outputs are targets too::

        class Distill(Callback):
            part_of_step = True  # `lr_find` must train in the same way

            def __init__(self, teacher):
                self.teacher = teacher.eval()

            def before_fit(self, run):
                run.process_batch = partial(self.train, run)

            def train(self, run):
                with torch.no_grad():
                    wanted = self.teacher(run.x).softmax(1)
                run.pred = run.step.predict(run.x)
                run.loss = run.step.compute_loss(run.pred, run.y) + F.cross_entropy(run.pred, wanted)
                run.step.backward(run.loss, len(run.x))

    To add something around the ordinary pass, wrap it: keep ``inner = run.process_batch`` and call ``inner()`` where
    its work should be done; it emits its own events. A pass of your own emits none of them. If you make the update
    yourself, with several optimizers for instance, call `run.count_update()`, so that schedules advance, and then raise
    `CancelBackward`. Several callbacks that set `run.process_batch` act in their `order`: one that replaces it drops
    the wrappers of those before it. The learner's model must be able to take `run.x`, because it is checked before
    training. Networks of your own are not exchanged between processes. The loop sets `run.process_batch` for each run
    and puts it back afterwards. See ``examples/custom_step.py``.

    Events may also be written in fastai's way, without the run: ``def after_batch(self)``. A callback whose events all
    take only `self` sees `self.learn`, `self.x`, `self.pred` and so on, and follows fastai's rules; see
    `training.fastai_session`.

    Attributes:
        order: callbacks act in rising order; those with equal `order` act in the order in which they were given.
        part_of_step: True for a callback that changes what a batch does to the model (accumulation, clipping, mixing).
            Only such callbacks act in `lr_find` and `validate` too. Those that track, log or schedule do not.
        follows_weights: True for a callback whose state is made of the weights, as their averages are. If the weights
            go back to an earlier state, so does the callback.
        differs_by_process: True for a callback that gathers what its own process sees. When a run is resumed, each
            process then continues from its own state; otherwise all continue from that of process 0.
        growing: names of the lists and arrays in `state_dict` that only grow at their end. A checkpoint then writes
            what is new, and shares the rest with the one before.

        constructor_arguments: the arguments with which this callback was made, defaults included, by name.
        ignored_arguments: names of constructor arguments that may change between the parts of a resumed run, such as
            `verbose`. A change of any other argument is an error when the run is resumed. None, the default for your
            own callbacks, allows every argument to change; the changed ones are printed.

        learn: in fastai's style, what stands for the learner. Set when the callback is given to one.

    Raises:
        TypeError: a subclass defines a method that is named like an event but is not one. The message offers the
            nearest.
    """

    # Slots: `vars` and `state_dict` shall not see them.
    __slots__ = ("__dict__", "__weakref__", "constructor_arguments", "learn")
    constructor_arguments: Mapping[str, Any]
    learn: Any

    order: float = 0
    part_of_step: bool = False
    follows_weights: bool = False
    differs_by_process: bool = False
    growing: ClassVar[tuple[str, ...]] = ()
    ignored_arguments: ClassVar[Collection[str] | None] = None

    if not TYPE_CHECKING:  # type checkers read `__init__`, as people do

        def __new__(cls, *args: Any, **kwargs: Any) -> Callback:
            """Makes a callback and keeps the arguments that `__init__` is about to receive."""
            if cls.__init__ is object.__init__ and (args or kwargs):
                raise TypeError(f"{cls.__name__}() takes no arguments")
            check_keywords(cls.__init__, kwargs, cls)
            self = super().__new__(cls)
            self.constructor_arguments = _bind_arguments(cls.__init__, self, args, kwargs)
            return self

        __new__.__signature__ = inspect.Signature([inspect.Parameter("cls", inspect.Parameter.POSITIONAL_ONLY)])

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            if name.startswith(("before_", "after_")):
                check_event_name(name, owner=cls.__name__)

    if not TYPE_CHECKING:  # with `__getattr__`, a type checker would accept misspelt names

        def __getattr__(self, name: str) -> Any:
            """Looks a missing attribute up in `learn`, as callbacks in fastai's style expect."""
            learn = None if name == "learn" or name.startswith("__") else getattr(self, "learn", None)
            if learn is not None:
                return learn.look_up(self, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def state_dict(self) -> dict[str, Any]:
        """Returns what this callback must remember so that a stopped run continues exactly where it was.

        By default these are all attributes that are data (numbers, text, tensors, and lists, tuples and dictionaries of
        them), or that are modules, optimizers or random generators of this callback's own. Attributes that still hold a
        constructor argument are left out, so that a resumed run uses the arguments of its own script. What the model,
        the optimizer, the loaders or the record hold is saved with those. Override this and `load_state_dict` if an
        attribute means nothing in another process.
        """
        arguments = self.constructor_arguments
        data = {
            name: value
            for name, value in data_attributes(self).items()
            if not (name in arguments and value is arguments[name] and isinstance(value, _FIXED))
        }
        parts = {name: part.state_dict() for name, part in _stateful_attributes(self).items()}
        return {**data, **parts, **{name: generator_state(one) for name, one in _generators(self).items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` returned: afterwards this callback acts as the one that was saved would.

        A resumed run calls this after `before_fit`, when model, optimizer and loaders are restored, and once more after
        `before_train` if it was stopped in mid-epoch. Tensors may come on another device.
        """
        parts = _stateful_attributes(self)
        for name in parts.keys() & state.keys():
            parts[name].load_state_dict(state[name])
        generators = _generators(self)
        for name in generators.keys() & state.keys():
            set_generator_state(generators[name], to_device(state[name], torch.device("cpu")))
        others = state.keys() - parts.keys() - generators.keys()
        load_attributes(self, {name: value for name, value in state.items() if name in others})

    def plan_at(self, moment: Moment) -> Mapping[str, Any]:
        """Returns what this callback does at a moment, by name, as far as that depends on the length of the run.

        A run with ``extend=True`` may be extended only if this is the same in the longer run, up to the moment at which
        the shorter one was saved. By default nothing depends on the length.
        """
        return {}

    def undo_end(self, run: Run) -> AbstractContextManager[None]:
        """Undoes, inside the context, what this callback has done because the last epoch is over.

        A checkpoint keeps the state from there, so that the run can be extended. By default nothing is undone. What is
        done in `after_fit` needs no undoing here, since it comes later.
        """
        return nullcontext()

    def before_fit(self, run: Run) -> None:
        """Called first. Configure the run here."""

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
        """The loss is final. Only called in training."""

    def after_backward(self, run: Run) -> None:
        """The gradients of this batch are added. Also called if its backward pass was cancelled."""

    def before_step(self, run: Run) -> None:
        """An update is due. Gradients are true to size, also in fp16; with accumulation, they are still sums."""

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
        """Also called when an exception ends the run (`run.interrupted` is then True). Undo temporary changes here."""

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
    """Returns arguments by name. Copying and unpickling give none; `__init__` reports wrong arguments itself."""
    if init is object.__init__:
        return {}
    try:
        bound = inspect.signature(init).bind_partial(self, *args, **kwargs)
    except (TypeError, ValueError):
        return {}
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])


_FIXED = (bool, int, float, str, type(None))  # values that nobody can change in place


def _stateful_attributes(owner: Any) -> dict[str, nn.Module | Optimizer]:
    """Returns the attributes that keep a state of their own, such as the second network of a GAN and its optimizer."""
    return {name: part for name, part in vars(owner).items() if isinstance(part, (nn.Module, Optimizer))}


def _generators(owner: Any) -> dict[str, Any]:
    """Returns the attributes that draw random numbers: a resumed run draws the same ones."""
    return {name: part for name, part in vars(owner).items() if isinstance(part, GENERATORS)}


EVENTS: tuple[str, ...] = tuple(name for name in vars(Callback) if name.startswith(("before_", "after_")))
"""The names of all events."""

_CREATED = "after_create"  # an event in fastai's style alone: the learner has been made


def check_event_name(name: str, owner: str) -> None:
    """Raises a TypeError that offers the nearest event, if `name` is not an event."""
    if name not in EVENTS and name != _CREATED:
        raise TypeError(f"{owner} defines {name!r}, which is not an event.{closest(name, EVENTS)}")


Act: TypeAlias = Callable[[Run], None]
"""What is called at an event."""

Callbacks: TypeAlias = Callback | Iterable[Callback] | None
"""What users pass as `cbs`: one callback, several, or none."""


def as_callbacks(cbs: Any) -> list[Callback]:
    """Returns None, one callback, or several as a new list. Makes a callback of a class that needs no arguments.

    Raises:
        TypeError: one of them is something else, or mixes our style with fastai's.
    """
    is_one = isinstance(cbs, (Callback, type, str)) or not isinstance(cbs, Iterable)
    given: list[Any] = [] if cbs is None else [cbs] if is_one else list(cbs)
    given = [one() if isinstance(one, type) and issubclass(one, Callback) else one for one in given]
    for callback in given:
        if not isinstance(callback, Callback):
            raise TypeError(f"`cbs` must be callbacks. Received: {callback!r:.80}.{_advise(callback)}")
        is_fastai_style(callback)
    return given


def _advise(thing: Any) -> str:
    """Returns what to write in place of something that is not a callback, after a space; "" if nobody can say."""
    if isinstance(thing, LRScheduler):
        return (
            f" Give a function that makes the scheduler: TorchScheduler(lambda opt: {type(thing).__name__}(opt, ...))."
        )
    return ""


def is_fastai_style(callback: Callback) -> bool:
    """Whether the events of a callback take only `self`, as fastai's do.

    Raises:
        TypeError: some take the run, and some do not.
    """
    kind = type(callback)
    if kind not in _styles:
        _styles[kind] = _has_bare_events(kind)
    return _styles[kind]


_styles: WeakKeyDictionary[type[Callback], bool] = WeakKeyDictionary()
"""The classes of callbacks that were looked at, since reading signatures takes a while."""


def _has_bare_events(kind: type[Callback]) -> bool:
    methods = {event: getattr(kind, event, None) for event in (*EVENTS, _CREATED)}
    of_base = {event: getattr(Callback, event, None) for event in methods}
    own = {event: method for event, method in methods.items() if method is not of_base[event]}
    bare = [event for event, method in own.items() if not _takes_run(method)]
    if bare and len(bare) < len(own):
        with_run = next(event for event in own if event not in bare)
        raise TypeError(
            f"the events of a callback must all take `run`, or all take only `self`, as fastai's do. Received: "
            f"{kind.__name__} with `{bare[0]}(self)` and `{with_run}(self, run)`."
        )
    return bool(bare)


def _takes_run(method: Any) -> bool:
    """Whether a method of a class does not do with `self` alone."""
    try:
        signature = inspect.signature(method)
    except ValueError:  # made in C
        return True
    return not _can_bind(signature, 1) or _can_bind(signature, 2)


def _can_bind(signature: inspect.Signature, n: int) -> bool:
    try:
        signature.bind(*[None] * n)
    except TypeError:
        return False
    return True


def select_for_step(callbacks: Iterable[Callback]) -> list[Callback]:
    """Returns the callbacks that act in each pass, not in training alone: parts of the step, and fastai's style."""
    return [callback for callback in callbacks if callback.part_of_step or is_fastai_style(callback)]


def drop_callbacks(callbacks: Iterable[Callback], unwanted: Any) -> list[Callback]:
    """Returns the callbacks except `unwanted`: one or several, each given as the callback or its class.

    Raises:
        ValueError: there is no such callback.
    """
    kept = list(callbacks)
    for one in unwanted if isinstance(unwanted, Iterable) else [unwanted]:
        found = [callback for callback in kept if callback is one or type(callback) is one]
        if not found:
            raise ValueError(f"the learner has no callback {one!r}. It has: {kept}.")
        kept = [callback for callback in kept if callback not in found]
    return kept


class Events:
    """The callbacks of one run by event: for each event, the bound methods of the callbacks that define it.

    An event that no callback defines is an empty tuple, and costs nothing.

    Args:
        callbacks: in any order.
        bind: returns what to call with the run for a callback and an event. By default, its method.

    Attributes:
        of: event name -> what to call, in order. The loop reads it directly in each batch, to save a call.
    """

    def __init__(self, callbacks: Iterable[Callback], bind: Callable[[Callback, str], Act] = getattr):
        self.callbacks = _sort(callbacks)
        self.of: dict[str, tuple[Act, ...]] = {
            event: tuple(bind(cb, event) for cb in self.callbacks if defines(cb, event)) for event in EVENTS
        }
        self._bind = bind
        self._started: list[Callback] = []

    def emit(self, event: str, run: Run) -> None:
        """Calls an event's methods in order."""
        for act in self.of[event]:
            act(run)

    def start(self, run: Run) -> None:
        """Calls `before_fit` of each callback, and notes which ones were reached."""
        for callback in self.callbacks:
            self._started.append(callback)
            self._bind(callback, "before_fit")(run)

    def finish(self, run: Run) -> None:
        """Calls `after_fit` of each callback that `start` reached, even if one fails; then raises the first error."""
        first: BaseException | None = None
        for callback in self._started:
            try:
                self._bind(callback, "after_fit")(run)
            except BaseException as error:
                first = first or error
        if first is not None:
            raise first


def _sort(callbacks: Iterable[Callback]) -> list[Callback]:
    """Sorts callbacks by `order`, and puts each after those that its `run_after` or their `run_before` name."""
    waiting = sorted(callbacks, key=lambda callback: callback.order)
    if not any(hasattr(callback, name) for callback in waiting for name in ("run_after", "run_before")):
        return waiting
    ready: list[Callback] = []
    while waiting:
        first = next((cb for cb in waiting if not any(_comes_after(cb, other) for other in waiting)), None)
        if first is None:
            raise ValueError(f"no order satisfies the `run_after` and `run_before` of these callbacks: {waiting}.")
        waiting.remove(first)
        ready.append(first)
    return ready


def _comes_after(callback: Callback, other: Callback) -> bool:
    pairs = ((callback, "run_after", other), (other, "run_before", callback))
    return any(_is_one_of(two, getattr(one, name, ())) for one, name, two in pairs)


def _is_one_of(callback: Callback, named: Any) -> bool:
    kinds = named if isinstance(named, Iterable) else [named]
    return any(callback is kind or (isinstance(kind, type) and isinstance(callback, kind)) for kind in kinds)


def defines(callback: Callback, event: str) -> bool:
    """Whether a callback does something at an event."""
    method: Callable[[Run], None] = getattr(callback, event)
    return getattr(method, "__func__", method) is not getattr(Callback, event)
