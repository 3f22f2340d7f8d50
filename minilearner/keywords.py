"""Keyword arguments that do not exist: the error names the argument that was probably meant.

`suggest_keywords` decorates public functions and classes. `check_unknown` serves functions that pass their keyword
arguments on. A user's calls enter by a decorated function, so errors that we raise get their short traceback there too.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any, TypeVar

from minilearner.errors import closest
from minilearner.other_libraries import SYNONYMS, advise
from minilearner.tracebacks import shorten_traceback

__all__ = ["check_keywords", "check_unknown", "suggest_keywords"]

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])

_CAUGHT = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def suggest_keywords(decorated: _Decorated) -> _Decorated:
    """Decorates a function or a class: an unknown keyword argument raises a TypeError that offers the nearest one.

    The traceback of an error that we raise leaves the function shortened; see `tracebacks`.

    In a class, the constructor and the public methods with optional arguments are decorated. Other methods are not:
    they are mostly called by a loop, which would pay for it. In an `nn.Module` only the constructor is decorated.
    """
    if isinstance(decorated, type):
        for name, member in list(vars(decorated).items()):
            function = getattr(member, "__func__", member)  # of a class method or a static one
            if not isinstance(function, FunctionType):
                continue
            is_for_people = not (name.startswith("_") or _is_module(decorated))
            if name == "__init__" or (is_for_people and _has_optional_arguments(function)):
                better = _suggest_in(function, is_method=function is member)
                setattr(decorated, name, better if function is member else type(member)(better))
        return decorated
    better_function: _Decorated = _suggest_in(decorated)
    return better_function


def check_unknown(
    given: Mapping[str, Any], *functions: Callable[..., Any], apart_from: Collection[str] = ("self", "cls")
) -> None:
    """Checks that each keyword argument in `given` is a parameter of one of these functions.

    Args:
        given: the keyword arguments that a function caught in its `**` parameter.
        functions: where they would go.
        apart_from: parameters that the caller cannot give.

    Raises:
        TypeError: there is no such parameter. The message lists all of them, and offers the nearest.
    """
    known = dict.fromkeys(name for function in functions for name in _keywords_of(function) if name not in apart_from)
    for name in given:
        if name not in known:
            raise TypeError(f"there is no argument `{name}`.{_hint(name, known)} Arguments: {', '.join(known)}.")


def check_keywords(function: Callable[..., Any], given: Mapping[str, Any], owner: type | None = None) -> None:
    """Raises a TypeError about the first keyword in `given` that `function` does not have, and offers the nearest one.

    Args:
        owner: the class that the user knows: of a constructor, or of the object whose method was called.
    """
    if _catches_keywords(function):
        return
    known = {name: None for name in _keywords_of(function) if name not in ("self", "cls")}
    for name in given:
        if name not in known:
            what = _name(function, owner)
            arguments = f"Its arguments: {', '.join(known)}." if known else "It takes none."
            raise TypeError(f"`{what}` has no argument `{name}`.{_hint(name, known)} {arguments}") from None


def _suggest_in(function: Any, *, is_method: bool = False) -> Any:
    if not _keywords_of(function):
        return function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return function(*args, **kwargs)
            except TypeError:
                check_keywords(function, kwargs, _owner(function, args) if is_method else None)
                raise
        except Exception as error:
            raise shorten_traceback(error)  # noqa: B904 - with its own cause

    return call


def _owner(function: Callable[..., Any], args: Sequence[Any]) -> type | None:
    """Returns the class of the object whose method was called; None if it was called without such an object."""
    owner = type(args[0]) if args else None
    return owner if hasattr(owner, function.__name__) else None


def _name(function: Callable[..., Any], owner: type | None) -> str:
    """Returns the name that the user called. A method that the owner inherits goes by the owner's name."""
    if owner is None:
        return function.__qualname__
    return owner.__qualname__ if function.__name__ == "__init__" else f"{owner.__qualname__}.{function.__name__}"


def _is_module(cls: type) -> bool:
    """Whether it is an `nn.Module`; by name, because this file is loaded where there is no torch, too."""
    return any((base.__module__, base.__name__) == ("torch.nn.modules.module", "Module") for base in cls.__mro__)


def _has_optional_arguments(function: FunctionType) -> bool:
    written = _below_decorators(function)
    return bool(written.__defaults__ or written.__kwdefaults__)


def _catches_keywords(function: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def _keywords_of(function: Callable[..., Any]) -> list[str]:
    written = _below_decorators(function)
    if isinstance(written, FunctionType):  # 20 times as fast as a signature, for the hundreds that an import decorates
        code = written.__code__
        return list(code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount])
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind not in (*_CAUGHT, p.POSITIONAL_ONLY)]


def _below_decorators(function: Any) -> Any:
    """Returns the function as it was written, without what `functools.wraps` put around it."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _hint(name: str, known: Iterable[str]) -> str:
    spelt = closest(name, known) or _near_synonym(name, known) or _longer_name(name, known)
    return _synonym(name, known) or advise(name) or spelt


def _synonym(name: str, known: Iterable[str]) -> str:
    found = [ours for ours in SYNONYMS.get(name, ()) if ours in known]
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""


def _near_synonym(name: str, known: Iterable[str]) -> str:
    """Returns a hint at what a misspelt name of another library means."""
    spelt = closest(name, SYNONYMS)
    return _synonym(spelt.split("'")[1], known) if spelt else ""


def _longer_name(name: str, known: Iterable[str]) -> str:
    """Returns a hint at the first parameter that has `name` among its words, as `base_lr` has `lr`."""
    longer = next((one for one in known if name in one.split("_")), None)
    return f" Did you mean {longer!r}?" if longer else ""
