"""`LearnerCallbacks`: the callbacks of every run of a learner, and what they and the user see of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from typing_extensions import Self, TypeVar

from minilearner.callbacks.progress import Progress
from minilearner.keywords import suggest_keywords
from minilearner.learner_parts import LearnerParts
from minilearner.training.callback import Callback, Callbacks, as_callbacks, drop_callbacks
from minilearner.training.fastai_style import LearnerView, name_of

__all__ = ["LearnerCallbacks"]

_Label = TypeVar("_Label", default=Any)


@suggest_keywords
class LearnerCallbacks(LearnerParts[_Label]):
    """Adds and removes callbacks, offers them as attributes, and hides the progress."""

    _own_view: LearnerView | None = None
    _named_loggers: dict[str, Callback]

    def no_bar(self) -> AbstractContextManager[None]:
        """Hides the progress bar inside the context. The table of epochs stays."""
        return self._output.hide(bar=True)

    def no_logging(self) -> AbstractContextManager[None]:
        """Shows and prints nothing inside the context."""
        return self._output.hide(bar=True, table=True)

    def add_cb(self, cb: Callbacks) -> Self:
        """Adds one or several callbacks to every run from now on. Returns the learner."""
        added = self._output.take_progress(as_callbacks(cb))
        self._view.show_to(added)
        self.cbs = [*self.cbs, *added]
        return self

    def remove_cb(self, cb: Callback | type[Callback] | Iterable[Callback | type[Callback]]) -> Self:
        """Removes callbacks, given by object or by class. Returns the learner.

        Without fastai's ProgressCallback, there are no bars; adding it shows them again. The table of epochs stays.

        Raises:
            ValueError: the learner has no such callback.
        """
        unwanted = list(cb) if isinstance(cb, Iterable) else [cb]
        if Progress in unwanted:
            unwanted.remove(Progress)
            self._output.bar = False
        self.cbs = drop_callbacks(self.cbs, unwanted)
        return self

    add_cbs, remove_cbs = add_cb, remove_cb

    @contextmanager
    def added_cbs(self, cbs: Callbacks) -> Iterator[Self]:
        """Adds callbacks inside the ``with`` block."""
        before = self.cbs
        self.add_cb(cbs)
        try:
            yield self
        finally:
            self.cbs = before

    @contextmanager
    def removed_cbs(self, cbs: Callback | type[Callback] | Iterable[Callback | type[Callback]]) -> Iterator[Self]:
        """Removes callbacks inside the ``with`` block; see `remove_cb`."""
        before = self.cbs
        self.remove_cb(cbs)
        try:
            yield self
        finally:
            self.cbs = before

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *map(name_of, self.cbs)]

    if not TYPE_CHECKING:  # with `__getattr__`, a type checker would accept misspelt names

        def __getattr__(self, name: str) -> Any:
            """Returns the callback of this name, such as `early_stopping` for an EarlyStoppingCallback."""
            for callback in vars(self).get("cbs", ()):
                if name_of(callback) == name:
                    return callback
            return super().__getattr__(name)

    @property
    def _view(self) -> LearnerView:
        """What callbacks in fastai's style see. A copy of the learner makes its own."""
        if self._own_view is None:
            self._own_view = LearnerView(self)
        return self._own_view

    def _show_to(self, cbs: Callbacks) -> list[Callback]:
        """Returns callbacks for one call. Those in fastai's style see this learner from now on."""
        given = self._output.take_progress(as_callbacks(cbs))
        self._view.show_to([*self.cbs, *given])
        return given
