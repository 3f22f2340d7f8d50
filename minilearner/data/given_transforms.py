"""Looks at transforms as users pass them, before anything runs: one, several or none, and each in its own argument."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

__all__ = ["as_list"]


def as_list(transforms: Any, name: str, kind: str | None = None) -> list[Any]:
    """Returns one transform, several or none as a list; `name` is the argument that an error is about.

    kind: "item_tfms" or "batch_tfms", what may stand here; `name` when None. Transforms of ours say in an attribute
    `belongs_to` which they are.

    Raises:
        TypeError: a transform is not callable, is a class or a function that makes transforms, where its result is
            meant, or belongs to the other argument.
    """
    several = list(transforms) if isinstance(transforms, Sequence) else [] if transforms is None else [transforms]
    for f in several:
        if isinstance(f, type):
            raise TypeError(f"`{name}` takes instances. Received the class {f.__name__}: write {f.__name__}(...).")
        if not callable(f):
            raise TypeError(f"`{name}` takes transforms or functions of their input. Received: {f!r}.")
        if _makes_transforms(f):
            raise TypeError(
                f"`{name}` takes transforms or functions of their input. Received the function {f.__name__}, which "
                f"needs no input: write {f.__name__}(...)."
            )
        belongs_to = getattr(f, "belongs_to", None)
        if belongs_to not in (None, kind or name):
            raise TypeError(f"{f!r} belongs to `{belongs_to}`. Received among `{name}`.")
    return several


def _makes_transforms(f: Any) -> bool:
    """Whether it is a function that can be called without an input, such as `aug_transforms` itself."""
    if not inspect.isfunction(f):
        return False
    inputs = [p for p in inspect.signature(f).parameters.values() if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    return all(p.default is not p.empty for p in inputs)
