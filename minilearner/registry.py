"""Names for classes and functions, so that a file can say what to build without containing code.

A name in a file is looked up among the names registered in this process, and nowhere else: no name is ever imported.
`loading` registers the package's own parts when it is imported, and users register theirs with `register`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload

from minilearner.errors import FileFormatError, closest
from minilearner.keywords import suggest_keywords

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


@suggest_keywords
def register(thing: Any = None, *, name: str | None = None) -> Any:
    """Registers your own class or function, so that `learn.export` can write its name and `load_learner` can find it.

    For models, item and batch transforms, targets and losses. The script that loads the file must register the same
    names. A class must keep each argument of its constructor, plain data or tensors, in an attribute of the same name:

    >>> @register
    ... class Noise(BatchTransform):
    ...     def __init__(self, scale: float) -> None:
    ...         self.scale = scale

    Args:
        thing: the class or function.
        name: its name in files. None is the name of the class or function.

    Raises:
        TypeError: `thing` is not a class or a function with a name, or its arguments have no names.
        ValueError: another class or function has this name.
    """
    if thing is None:
        return partial(register, name=name)
    if not isinstance(thing, type) and (not inspect.isroutine(thing) or thing.__name__ == "<lambda>"):
        raise TypeError(f"`register` takes a class or a function with a name. Received: {thing!r}.")
    name = thing.__name__ if name is None else name
    known = _entries().get(name)
    if known is not None and _origin(known.thing) != _origin(thing):
        raise ValueError(
            f"the name {name!r} belongs to {'.'.join(_origin(known.thing))}. Choose another: register(name=...)."
        )
    names = _argument_names(thing) if isinstance(thing, type) else ()
    add(name, thing, arguments=partial(_read_attributes, names=names))
    return thing


def add(
    name: str,
    thing: Callable[..., Any],
    *,
    arguments: Callable[[Any], Mapping[str, Any]],
    build: Callable[..., Any] | None = None,
) -> None:
    """Registers a class or function with its own functions to read an object's arguments and to build an object.

    Args:
        name: its name in files.
        thing: the class or function.
        arguments: returns the constructor arguments of an object.
        build: makes an object from them. None is `thing` itself.
    """
    _ENTRIES[name] = _Entry(thing, thing if build is None else build, arguments)


def describe(thing: Any, place: str) -> dict[str, Any]:
    """Returns the name and the arguments of an object of a registered class, or of a registered function.

    A `functools.partial` of a function, with keywords only, is allowed too.

    Args:
        thing: the object or function.
        place: what an error calls it, such as "the batch transform".

    Raises:
        TypeError: it is not registered, or does not keep its arguments. The message says what to do.
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
            raise TypeError(f"{place} {name} must have its arguments by name in `partial`. Received: {thing.args}.")
        return {"name": name, "arguments": dict(thing.keywords)}
    entry = _entries()[name]
    try:
        arguments = {} if of is entry.thing else dict(entry.arguments(of))
    except AttributeError as error:
        raise TypeError(
            f"{place} {name} must keep each argument of its constructor in an attribute of the same name: {error}."
        ) from error
    return {"name": name, "arguments": arguments}


def build(description: Any, allowed: Callable[[Any], bool], place: str) -> Any:
    """Builds an object, or returns a function, from its description by `describe`.

    Args:
        description: a dictionary with the name and the arguments.
        allowed: says whether a registered class or function belongs in this place.
        place: what an error calls the object.

    Raises:
        FileFormatError: `description` is not such a dictionary, its name is not registered or does not belong in this
            place, or its arguments are wrong.
    """
    name, arguments = _check_description(description, place)
    entry = _entries().get(name)
    if entry is None:
        raise FileFormatError(
            f"{place} {name[:80]!r} is not registered here.{closest(name[:80], _entries())} If it is your own, "
            "register it before loading, as the script that wrote the file did: @minilearner.register."
        )
    if not allowed(entry.thing):
        raise FileFormatError(f"{place} cannot be {name!r}.")
    if not isinstance(entry.thing, type):
        return partial(entry.build, **arguments) if arguments else entry.build
    try:
        return entry.build(**arguments)
    except Exception as error:
        raise FileFormatError(f"{place} {name!r} cannot be built: {str(error)[:300]}") from error


def is_class_of(*classes: type, or_function: bool = False) -> Callable[[Any], bool]:
    """Makes a function for `build(allowed=)`: it allows subclasses of `classes`, and functions if `or_function`."""
    return lambda thing: issubclass(thing, classes) if isinstance(thing, type) else or_function


def _entries() -> dict[str, _Entry]:
    """Returns all registered names, the package's own among them, whichever of its modules was imported."""
    importlib.import_module("minilearner.loading")  # not above: it is on the top floor, and imports this module
    return _ENTRIES


def _name_of(thing: Any) -> str | None:
    return next((name for name, entry in _entries().items() if entry.thing is thing), None)


def _origin(thing: Any) -> tuple[str, str]:
    return (
        thing.__module__ or "",
        thing.__qualname__,
    )  # running a notebook's cell again makes a new class with the same origin


def _argument_names(cls: type) -> tuple[str, ...]:
    parameters = inspect.signature(cls).parameters.values()
    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)
    if odd := [p.name for p in parameters if p.kind in unnamed]:
        raise TypeError(f"`register` needs a constructor whose arguments have names. {cls.__name__} takes *{odd[0]}.")
    return tuple(p.name for p in parameters)


def _read_attributes(thing: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names}


def _check_description(description: Any, place: str) -> tuple[str, dict[str, Any]]:
    if isinstance(description, dict) and set(description) == {"name", "arguments"}:
        name, arguments = description["name"], description["arguments"]
        if isinstance(name, str) and isinstance(arguments, dict) and all(isinstance(key, str) for key in arguments):
            return name, arguments
    raise FileFormatError(f"{place} must be a dictionary with a name and arguments.")
