"""Describes what a value is made of as plain data, so that two values can be compared after one of them is gone.

A description is a number, a text, None, or a dictionary. The dictionary says in "is" what the value is, in "parts"
what it consists of, each part described in turn, in "code" the digest of a function's code, and in "unknown" why the
value cannot be compared. Descriptions depend neither on file paths, line numbers and memory addresses nor on the
device on which a tensor is.
"""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, MethodWrapperType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minilearner.tree import ADDRESS

__all__ = ["Changes", "Known", "attribute_names", "describe", "is_same", "list_changes"]

Known = Mapping[int, str]
"""The `id` of each object that has a name of its own in a run, such as a layer of its model -> that name."""

_LIBRARIES = {
    *("minilearner", "numpy", "sklearn", "timm", "torch", "torchmetrics", "torchvision"),
    *sys.stdlib_module_names,
}
"""Packages whose functions are known by their name. Their code may change from version to version."""
_MAX_DEPTH = 12
_MAX_ITEMS = 200  # of a collection that are described one by one
_MAX_VALUES = 16  # of a tensor that are listed
_MAX_TEXT = 200  # characters
_MAX_BYTES = 1 << 26  # of a tensor that are all read; of a larger one, a sample is
_OF_EVERY_MODULE = {*vars(nn.Module()), "training"}


def describe(value: Any, known: Known | None = None) -> Any:
    """Returns a description of `value`.

    - Numbers, text, None and paths stand for themselves; lists, tuples, sets and dictionaries are described item by
      item; tensors and arrays by type, shape and values (a digest if there are many).
    - A function counts by its qualified name, code, defaults, and the values that it takes from around it. A function
      of torch, minilearner or another well-known library counts by its name, defaults and closure.
    - A partial function and a bound method count by their parts; a class by its name.
    - An `nn.Module` counts by its class, attributes, buffers, frozen parameters and children; the values of parameters
      that learn do not count. Any other object counts by its class and attributes.

    Args:
        known: what is described by a name alone.
    """
    return _Describer(known or {}).describe(value)


class Changes:
    """The outcome of a comparison.

    Attributes:
        lines: one sentence for each difference.
        unknown: the places at which values could not be compared, with the reason.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.unknown: list[str] = []


def list_changes(saved: Any, now: Any, where: str) -> Changes:
    """Compares two descriptions; `where` names the place of the whole in the lines."""
    changes = Changes()
    _compare(saved, now, where, changes)
    return changes


class _Describer:
    def __init__(self, known: Known) -> None:
        self.known = known
        self.inside: list[int] = []  # the objects that are being described, so that a cycle ends

    def describe(self, value: Any, used: frozenset[str] | None = None) -> Any:
        """Describes a value; of an object that a function uses, only the attributes that it names (`used`) count."""
        if isinstance(value, enum.Enum):
            return {"is": f"{type(value).__qualname__}.{value.name}"}
        if value is None or isinstance(value, (bool, int, float, str, np.generic)):
            return _describe_scalar(value)
        if id(value) in self.known:
            return {"is": self.known[id(value)]}
        if id(value) in self.inside or len(self.inside) >= _MAX_DEPTH:
            return {"is": _name_kind(value)}
        self.inside.append(id(value))
        try:
            return self._describe_whole(value, used)
        except Exception as error:  # whatever a property or a `__repr__` of the user's raises
            return _unknown(value, f"{type(error).__name__} while it was read")
        finally:
            self.inside.pop()

    def _describe_whole(self, value: Any, used: frozenset[str] | None) -> Any:
        for kinds, method in self._METHODS:
            if isinstance(value, kinds):
                return method(self, value, used)
        value = getattr(value, "_torchdynamo_orig_callable", value)
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if not hasattr(value, "__dict__") and not _slots(value):
            return _describe_opaque(value)
        return self._object(value, None if callable(value) else used)

    def _sequence(self, value: Any, used: frozenset[str] | None) -> Any:
        items = list(value) if isinstance(value, Sequence) else sorted(value, key=repr)
        if len(items) > _MAX_ITEMS:
            return {"is": f"{len(items)} items with the digest {_digest(*(self.describe(i, used) for i in items))}"}
        kind = "a set" if isinstance(value, Set) else "a list"
        return {"is": kind, "parts": {f"[{i}]": self.describe(item, used) for i, item in enumerate(items)}}

    def _mapping(self, value: Mapping[Any, Any], used: frozenset[str] | None) -> Any:
        parts = {f"[{key!r:.80}]": self.describe(item, used) for key, item in value.items()}
        if len(parts) > _MAX_ITEMS:
            return {"is": f"a dictionary of {len(parts)} items with the digest {_digest(parts)}"}
        return {"is": "a dictionary", "parts": {ADDRESS.sub("", key): part for key, part in parts.items()}}

    def _partial(self, value: functools.partial[Any], used: frozenset[str] | None) -> Any:
        arguments = {f"args[{i}]": self.describe(part) for i, part in enumerate(value.args)}
        named = {name: self.describe(part) for name, part in value.keywords.items()}
        return {"is": "a partial function", "parts": {"func": self.describe(value.func), **arguments, **named}}

    def _method(self, value: MethodType, used: frozenset[str] | None) -> Any:
        function = value.__func__
        names = attribute_names(function.__code__) if isinstance(function, FunctionType) else frozenset()
        parts = {"function": self.describe(function), "self": self.describe(value.__self__, names)}
        return {"is": f"the method {value.__qualname__}", "parts": parts}

    def _function(self, value: FunctionType, used: frozenset[str] | None) -> Any:
        original = getattr(value, "_torchdynamo_orig_callable", value)  # `torch.compile` changes how fast it is
        if original is not value:
            return self.describe(original)
        if _root(value.__module__) == "minilearner":
            value = inspect.unwrap(value)  # `suggest_keywords` changes no result
        names, code = attribute_names(value.__code__), value.__code__
        parameters = inspect.signature(value).parameters.values()
        parts = {
            **{p.name: self.describe(p.default) for p in parameters if p.default is not p.empty},
            **{name: self.describe(part, names) for name, part in _closure(value)},
        }
        if _is_of_library(value.__module__):
            return {"is": f"the function {_root(value.__module__)}: {value.__qualname__}", "parts": parts}
        parts.update((name, self.describe(part, names)) for name, part in _globals(value))
        digest = f"{sys.implementation.cache_tag} {_digest(*_code_parts(code, value.__doc__))}"
        return {"is": f"the function {value.__qualname__}", "code": digest, "parts": parts}

    def _builtin(self, value: Any, used: frozenset[str] | None) -> Any:
        owner = getattr(value, "__self__", None)
        parts = {} if owner is None or isinstance(owner, (ModuleType, type)) else {"self": self.describe(owner)}
        return {"is": f"the function {value.__qualname__}", "parts": parts}

    def _class(self, value: type, used: frozenset[str] | None) -> Any:
        return {"is": f"the class {value.__qualname__}"}

    def _python_module(self, value: ModuleType, used: frozenset[str] | None) -> Any:
        return {"is": f"the module {value.__name__}"}

    def _tensor(self, value: Tensor | np.ndarray[Any, Any], used: frozenset[str] | None) -> Any:
        return {"is": _describe_tensor(value)}

    def _device(self, value: torch.device, used: frozenset[str] | None) -> Any:
        return {"is": "a device"}  # a run may go on on another

    def _torch_module(self, value: nn.Module, used: frozenset[str] | None) -> Any:
        value = getattr(value, "_orig_mod", value)
        own = {name: part for name, part in vars(value).items() if name not in _OF_EVERY_MODULE}
        parameters = {
            name: {"is": f"a parameter of shape {tuple(p.shape)}"} if p.requires_grad else self.describe(p.detach())
            for name, p in value._parameters.items()
            if p is not None
        }
        held = {**own, **value._buffers, **value._modules}
        return {"is": type(value).__qualname__, "parts": {**self._parts(held), **parameters}}

    def _object(self, value: Any, used: frozenset[str] | None) -> Any:
        held = {name: part for name, part in _attributes(value).items() if used is None or name in used}
        if used is not None and not held:
            return _unknown(value, "an object that a function uses")
        return {"is": type(value).__qualname__, "parts": self._parts(held)}

    def _parts(self, held: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.describe(part) for name, part in held.items()}

    _METHODS: tuple[tuple[Any, Callable[[_Describer, Any, frozenset[str] | None], Any]], ...] = (
        ((Tensor, np.ndarray), _tensor),
        (nn.Module, _torch_module),
        (FunctionType, _function),
        (functools.partial, _partial),
        (MethodType, _method),
        ((BuiltinFunctionType, MethodWrapperType), _builtin),
        (type, _class),
        (ModuleType, _python_module),
        (torch.device, _device),
        (Mapping, _mapping),
        ((list, tuple, set, frozenset), _sequence),
    )


def _describe_scalar(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str):
        value = str(value)
        return value if len(value) <= _MAX_TEXT else f"{value[:40]}... with the digest {_digest(value)}"
    if isinstance(value, (bool, float)) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    return {"is": repr(value)}


def _describe_tensor(value: Tensor | np.ndarray[Any, Any]) -> str:
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":
        return f"an array of shape {value.shape} with the digest {_digest(value.dtype, value.tolist())}"
    t = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    dtype = str(value.dtype).removeprefix("torch.")
    if t.is_sparse or t.is_quantized:
        t = t.to_dense() if t.is_sparse else t.dequantize()
    if t.numel() <= _MAX_VALUES:
        return f"{dtype} {t.cpu().tolist()}"
    flat, of_all = t.reshape(-1), ""
    if t.numel() * t.element_size() > _MAX_BYTES:
        flat, of_all = flat[:: -(-t.numel() * t.element_size() // _MAX_BYTES)], " of a sample"
    content = flat.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return f"{dtype} of shape {tuple(t.shape)} with the digest{of_all} {hashlib.sha256(content).hexdigest()[:16]}"


def _describe_opaque(value: Any) -> Any:
    """Describes an object that hides its contents: uses its repr, unless that is just an address."""
    text = repr(value)
    if ADDRESS.search(text) or isinstance(value, Iterator):
        return _unknown(value, "its content cannot be read")
    return {"is": text if len(text) <= _MAX_TEXT else f"{_name_kind(value)} with the digest {_digest(text)}"}


def _unknown(value: Any, why: str) -> Any:
    return {"is": _name_kind(value), "unknown": why}


def _name_kind(value: Any) -> str:
    return f"an object of class {type(value).__qualname__}"


def _attributes(value: Any) -> dict[str, Any]:
    in_slots = {name: getattr(value, name) for name in _slots(value) if hasattr(value, name)}
    return {**in_slots, **getattr(value, "__dict__", {})}


def _slots(value: Any) -> list[str]:
    every = [getattr(cls, "__slots__", ()) for cls in type(value).__mro__]
    names = [name for slots in every for name in ([slots] if isinstance(slots, str) else slots)]
    return [name for name in names if not name.startswith("__")]


def _closure(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not yet assigned
            continue


def _globals(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Gives the global variables that a function reads, but not modules, classes and functions of libraries."""
    for name in sorted(_global_names(function.__code__)):
        value = function.__globals__.get(name)
        is_named = isinstance(value, (ModuleType, type)) or _is_of_library(getattr(value, "__module__", None) or "")
        if name in function.__globals__ and not is_named:
            yield name, value


def _global_names(code: CodeType) -> set[str]:
    return {i.argval for part in _walk_code(code) for i in dis.get_instructions(part) if i.opname in _READS_GLOBAL}


def attribute_names(code: CodeType) -> frozenset[str]:
    """Returns the names of all attributes that a function's code reads."""
    return frozenset(
        i.argval for part in _walk_code(code) for i in dis.get_instructions(part) if i.opname in _READS_ATTRIBUTE
    )


_READS_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")
_READS_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")


def _walk_code(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _walk_code(constant)


def _code_parts(code: CodeType, doc: str | None = None) -> list[Any]:
    """What a function does, without where it stands, what its variables are called, and what its docstring says."""
    constants = [None if constant == doc and isinstance(doc, str) else constant for constant in code.co_consts]
    parts: list[Any] = [code.co_code, code.co_names, code.co_argcount, code.co_kwonlyargcount, code.co_flags & 0xFF]
    for constant in constants:
        if isinstance(constant, CodeType):
            parts.append(_code_parts(constant))
        elif isinstance(constant, frozenset):
            parts.append(sorted(map(repr, constant)))
        else:
            parts.append((type(constant).__name__, repr(constant)))
    return parts


def _is_of_library(module: str) -> bool:
    return _root(module) in _LIBRARIES


def _root(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _digest(*parts: Any) -> str:
    return hashlib.sha256("\n".join(map(repr, parts)).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _compare(saved: Any, now: Any, where: str, changes: Changes) -> None:
    if not isinstance(saved, dict) or not isinstance(now, dict):
        if not is_same(saved, now):
            changes.lines.append(f"{where}: saved {_say(saved)}, now {_say(now)}")
        return
    if saved.get("is") != now.get("is"):
        changes.lines.append(f"{where}: saved {_say(saved)}, now {_say(now)}")
        return
    if reason := saved.get("unknown") or now.get("unknown"):
        changes.unknown.append(f"{where} ({_say(now)}: {reason})")
        return
    _compare_code(saved.get("code"), now.get("code"), where, changes)
    parts = saved.get("parts"), now.get("parts")
    own, other = (part if isinstance(part, dict) else {} for part in parts)
    for name in dict.fromkeys((*own, *other)):
        place = f"{where}{'' if str(name).startswith('[') else '.'}{name}"
        _compare(own.get(name, _ABSENT), other.get(name, _ABSENT), place, changes)


_ABSENT = {"is": "nothing"}


def _compare_code(saved: Any, now: Any, where: str, changes: Changes) -> None:
    if saved == now:
        return
    version, _, _ = str(saved).partition(" ")
    if version != sys.implementation.cache_tag:
        changes.unknown.append(
            f"{where} (its code was saved by {version:.40}, and this is {sys.implementation.cache_tag})"
        )
    else:
        changes.lines.append(f"{where}: the code of the function changed")


def is_same(saved: Any, now: Any) -> bool:
    """Whether two plain values are equal; NaN equals NaN, and a list equals a tuple of the same items."""
    try:
        return bool(saved == now) or (saved != saved and now != now)
    except (ValueError, RuntimeError):  # tensors, which a description does not hold
        return False


def _say(description: Any) -> str:
    if not isinstance(description, dict):
        return f"{description!r:.500}"
    text = f"{description.get('is')!s:.500}"
    parts = description.get("parts")
    if text in ("a list", "a set", "a dictionary") and isinstance(parts, dict):
        return f"{text} of {len(parts)}"
    return text
