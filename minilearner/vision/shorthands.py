"""The short functions of fastai's notebooks: tensors from anything, on a device, and arguments kept as attributes."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minilearner.keywords import suggest_keywords
from minilearner.lazy import LazyModule
from minilearner.runtime import resolve_device
from minilearner.tree import Tree, map_tensors

__all__ = ["pd", "store_attr", "tensor", "to_cpu", "to_detach", "to_device"]

pd = LazyModule(
    "pandas",
    "Write `pip install pandas` to use `pd`. minilearner needs it for nothing: from_csv reads files itself, and "
    "from_df also takes a dictionary of columns.",
)
"""pandas, loaded when it is first used."""


@suggest_keywords
def tensor(x: Any, *rest: Any, **kwargs: Any) -> Tensor:
    """Returns a tensor of numbers, of a list, or of anything that NumPy makes an array of, such as a PIL image.

    float64 becomes float32. A tensor of another kind is returned as it is.

    >>> tensor(1, 2, 3)
    tensor([1, 2, 3])

    Args:
        x: the data, or the first of several numbers.
        rest: the others.
        kwargs: as for `torch.tensor`.
    """
    data = (x, *rest) if rest else x
    if isinstance(data, Tensor):
        made = data
    elif isinstance(data, (list, tuple, int, float)):
        made = torch.tensor(data, **kwargs)
    else:
        array = np.asarray(data)
        made = torch.tensor(array.astype(np.float32) if array.dtype == np.uint16 else array, **kwargs)
    return made.float() if made.dtype == torch.float64 else made


@suggest_keywords
def to_device(b: Tree, device: Any = None, non_blocking: bool = False) -> Tree:
    """Returns a batch, or tensors nested in any way, on a device.

    Args:
        b: the tensors.
        device: where to; the GPU by default, if there is one.
        non_blocking: see `torch.Tensor.to`.
    """
    where = resolve_device(device)
    return map_tensors(lambda t: t.to(where, non_blocking=non_blocking), b)


@suggest_keywords
def to_cpu(b: Tree) -> Tree:
    """Returns a batch, or tensors nested in any way, on the CPU."""
    return map_tensors(Tensor.cpu, b)


@suggest_keywords
def to_detach(b: Tree, cpu: bool = True) -> Tree:
    """Returns tensors that no gradient flows through, on the CPU unless `cpu` is false."""
    return map_tensors(lambda t: t.detach().cpu() if cpu else t.detach(), b)


@suggest_keywords
def store_attr(names: str | Sequence[str] | None = None, self: Any = None, but: str = "", **attrs: Any) -> None:
    """Keeps the arguments of the function that calls it as attributes of its first argument, `self`.

    >>> class Point:
    ...     def __init__(self, x, y):
    ...         store_attr()
    >>> Point(1, 2).y
    2

    Args:
        names: which, separated by commas; all by default.
        self: the object that gets them, if it is not the first argument.
        but: those to leave out, separated by commas.
        attrs: further attributes.
    """
    frame = sys._getframe(1)
    while frame.f_globals["__name__"] == suggest_keywords.__module__ and frame.f_back is not None:
        frame = frame.f_back  # the decorator stands between
    given = inspect.getargvalues(frame)
    arguments = given.args  # keyword-only ones among them
    owner = given.locals[arguments[0]] if self is None else self
    chosen = _split(names) if names is not None else [name for name in arguments if given.locals[name] is not owner]
    for name, value in {**{name: given.locals[name] for name in chosen}, **attrs}.items():
        if name not in _split(but):
            setattr(owner, name, value)


def _split(names: str | Sequence[str]) -> list[str]:
    return re.split(r"\s*,\s*", names.strip()) if isinstance(names, str) else list(names)
