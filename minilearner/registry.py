"""Names for classes and functions, so that a file can say what to build without naming any code.

What a file names is looked up among what was registered in this process, and nothing else: no name is ever imported.
The package's own parts are registered by `loading`; a user's by `register`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload

from minilearner.errors import FileFormatError, closest

__all__ = ["add", "build", "describe", "is_class_of", "register"]

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Entry:
    thing: Callable[..., Any]
    build: Callable[..., Any]
    arguments: Callable[[Any], Mapping[str, Any]]


_ENTRIES: dict[str, _Entry] = {}


@overload
def register(thing: T) -> T: ...


@overload
def register(*, name: str) -> Callable[[T], T]: ...


def register(thing: Any = None, *, name: str | None = None) -> Any:
    """Lets `learn.export` write a class or function of your own by name, and `load_learner` look it up.

    For models, item and batch transforms, targets, losses. The script that loads must register the same names. A class
    keeps each argument of its constructor, plain data or tensors, in an attribute of the same name:

    >>> @register
    ... class Noise(BatchTransform):
    ...     def __init__(self, scale: float) -> None:
    ...         self.scale = scale

    Args:
        name: what files call it; the name of the class or function when None.

    Raises:
        TypeError: no class or named function, or its arguments have no names.
        ValueError: the name is taken by another.
    """
    if thing is None:
        return partial(register, name=name)
    if not isinstance(thing, type) and (not inspect.isroutine(thing) or thing.__name__ == "<lambda>"):
        raise TypeError(f"`register` takes a class or a function with a name. Received: {thing!r}.")
    name = thing.__name__ if name is None else name
    known = _ENTRIES.get(name)
    if known is not None and _origin(known.thing) != _origin(thing):
        raise ValueError(
            f"the name {name!r} is taken by {'.'.join(_origin(known.thing))}. Choose another: register(name=...)."
        )
    names = _argument_names(thing) if isinstance(thing, type) else ()
    add(name, thing, arguments=partial(_kept, names=names))
    return thing


def add(
    name: str,
    thing: Callable[..., Any],
    *,
    arguments: Callable[[Any], Mapping[str, Any]],
    build: Callable[..., Any] | None = None,
) -> None:
    """Registers with ways of its own to find an object's arguments and to build one from them."""
    _ENTRIES[name] = _Entry(thing, thing if build is None else build, arguments)


def describe(thing: Any, place: str) -> dict[str, Any]:
    """Returns the name and the arguments of an object of a registered class, or of a registered function.

    A `functools.partial` of a function with keywords will do.

    Args:
        place: what an error calls the object, such as "the batch transform".

    Raises:
        TypeError: it is not registered, or does not keep its arguments. Says what to do.
    """
    of = thing.func if isinstance(thing, partial) else thing
    name = _name_of(of) or _name_of(type(of))
    if name is None:
        what = getattr(of, "__qualname__", None) or type(of).__qualname__
        raise TypeError(
            f"{place} {what} is not registered, so a file cannot name it. Put @minilearner.register before its class, "
            "or before a function that has a name, here and in the script that loads the file."
        )
    if isinstance(thing, partial):
        if thing.args:
            raise TypeError(f"{place} {name} must be given its arguments by name in `partial`. Received: {thing.args}.")
        return {"name": name, "arguments": dict(thing.keywords)}
    entry = _ENTRIES[name]
    try:
        arguments = {} if of is entry.thing else dict(entry.arguments(of))
    except AttributeError as error:
        raise TypeError(
            f"{place} {name} must keep each argument of its constructor in an attribute of the same name: {error}."
        ) from error
    return {"name": name, "arguments": arguments}


def build(description: Any, allowed: Callable[[Any], bool], place: str) -> Any:
    """Returns what `describe` described.

    Args:
        allowed: whether the registered class or function is one that belongs to this place.
        place: what an error calls it.

    Raises:
        FileFormatError: the description is none, its name is not registered or belongs elsewhere, or its arguments are
            wrong.
    """
    name, arguments = _taken_apart(description, place)
    entry = _ENTRIES.get(name)
    if entry is None:
        raise FileFormatError(
            f"{place} {name[:80]!r} is not registered here.{closest(name[:80], _ENTRIES)} Where it is your own, "
            "register it before loading, as where the file was written: @minilearner.register."
        )
    if not allowed(entry.thing):
        raise FileFormatError(f"{place} cannot be {name!r}.")
    if not isinstance(entry.thing, type):
        return partial(entry.build, **arguments) if arguments else entry.build
    try:
        return entry.build(**arguments)
    except Exception as error:
        raise FileFormatError(f"{place} {name!r} cannot be made: {str(error)[:300]}") from error


def is_class_of(*classes: type, or_function: bool = False) -> Callable[[Any], bool]:
    """Returns whether a registered thing is a class below one of these, or a function: for `build`."""
    return lambda thing: issubclass(thing, classes) if isinstance(thing, type) else or_function


def _name_of(thing: Any) -> str | None:
    return next((name for name, entry in _ENTRIES.items() if entry.thing is thing), None)


def _origin(thing: Any) -> tuple[str, str]:
    return thing.__module__ or "", thing.__qualname__  # a notebook's cell that is run again is no other thing


def _argument_names(cls: type) -> tuple[str, ...]:
    parameters = inspect.signature(cls).parameters.values()
    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    if odd := [p.name for p in parameters if p.kind in unnamed]:
        raise TypeError(f"`register` needs a constructor whose arguments have names. {cls.__name__} takes *{odd[0]}.")
    return tuple(p.name for p in parameters)


def _kept(thing: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names}


def _taken_apart(description: Any, place: str) -> tuple[str, dict[str, Any]]:
    if isinstance(description, dict) and set(description) == {"name", "arguments"}:
        name, arguments = description["name"], description["arguments"]
        if isinstance(name, str) and isinstance(arguments, dict) and all(isinstance(key, str) for key in arguments):
            return name, arguments
    raise FileFormatError(f"{place} is not told by name and arguments.")
