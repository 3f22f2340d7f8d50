"""Checks of arguments, shared by the whole package.

Each check takes a value and the argument's name, and returns nothing. It raises a TypeError for the wrong kind of value
and a ValueError for a value out of range. The message says what must hold, and what was received. Public functions and
constructors call them first, before they change anything. A check that only one module needs stays in that module.

A number is one of Python's or NumPy's, or a tensor or array without dimensions. A bool, text, None, a complex number
and an array are not numbers. NaN lies in no range, and infinity in none of the ranges here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal

from minilearner.errors import closest

__all__ = [
    "check_axes",
    "check_choice",
    "check_count",
    "check_fraction",
    "check_moms",
    "check_not_negative",
    "check_number",
    "check_positive",
    "check_rate",
    "check_ratio",
    "check_size",
    "is_auto",
    "is_number",
    "is_whole_number",
]


def check_count(value: Any, name: str, *, least: int | None = 1) -> None:
    """Checks for a whole number, at least `least`. With None, any whole number passes."""
    if not is_whole_number(value):
        raise TypeError(f"`{name}` must be a whole number. {_echo(value, name)}")
    if least is not None and value < least:
        raise ValueError(f"`{name}` must be at least {least}. {_echo(value, name)}")


def check_number(value: Any, name: str, *, least: float | None = None) -> None:
    """Checks for a finite number, at least `least` if given."""
    _check_kind(value, name)
    if not -math.inf < value < math.inf:
        raise ValueError(f"`{name}` must be finite. {_echo(value, name)}")
    if least is not None and value < least:
        raise ValueError(f"`{name}` must be at least {least}. {_echo(value, name)}")


def check_positive(value: Any, name: str) -> None:
    """Checks for a finite number above 0."""
    _check_kind(value, name)
    if not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be positive and finite. {_echo(value, name)}")


def check_not_negative(value: Any, name: str) -> None:
    """Checks for a finite number, 0 or above."""
    _check_kind(value, name)
    if not 0 <= value < math.inf:
        raise ValueError(f"`{name}` must be finite and not negative. {_echo(value, name)}")


def check_fraction(value: Any, name: str, *, closed: Literal["both", "left", "right", "neither"] = "both") -> None:
    """Checks for a number between 0 and 1. `closed` says which of the two ends are allowed."""
    _check_kind(value, name)
    with_0, with_1 = closed in ("both", "left"), closed in ("both", "right")
    if not (0 < value < 1 or (with_0 and value == 0) or (with_1 and value == 1)):
        interval = f"{'[' if with_0 else '('}0, 1{']' if with_1 else ')'}"
        raise ValueError(f"`{name}` must be in {interval}. {_echo(value, name)}")


def check_rate(value: Any, name: str, *, auto: bool = False) -> None:
    """Checks for a learning rate: a number, a list with one for each layer group, or a slice. `auto` allows "auto"."""
    if auto and is_auto(value):
        return
    if hasattr(value, "recommended"):  # an `LRSweep`
        raise TypeError(f"`{name}` must be a rate. Received: a whole sweep. Give its `recommended` or `valley`.")
    rates = [value]
    if isinstance(value, slice):
        rates = [value.stop] if value.start is None else [value.start, value.stop]
        if value.step is not None:
            raise ValueError(f"`{name}` must be a slice without a step: slice(start, stop). {_echo(value, name)}")
    elif isinstance(value, (list, tuple)):
        rates = list(value)
    if not rates:
        raise ValueError(f"`{name}` must not be an empty list. {_echo(value, name)} Give one rate for each group.")
    for rate in rates:
        if not is_number(rate):
            forms = (
                'a number, a list of numbers, a slice or "auto"' if auto else "a number, a list of numbers or a slice"
            )
            raise TypeError(f"`{name}` must be {forms}. {_echo(value, name)}")
        if not 0 <= rate < math.inf:
            raise ValueError(f"`{name}` must be finite and not negative. {_echo(value, name)}")


def check_moms(value: Any, name: str = "moms") -> None:
    """Checks for the three momenta of one cycle, each in [0, 1)."""
    is_triple = isinstance(value, Sequence) and len(value) == 3
    if not is_triple or not all(is_number(momentum) and 0 <= momentum < 1 for momentum in value):
        raise ValueError(
            f"`{name}` must be three momenta in [0, 1): at the start, the peak and the end. {_echo(value, name)}"
        )


def check_ratio(value: Any, name: str) -> None:
    """Checks for two positive, finite numbers, the smaller one first."""
    is_pair = isinstance(value, Sequence) and len(value) == 2 and all(map(is_number, value))
    if not is_pair or not 0 < value[0] <= value[1] < math.inf:
        raise ValueError(f"`{name}` must be two positive numbers, the smaller one first. {_echo(value, name)}")


def check_size(value: Any, name: str) -> None:
    """Checks for the size of an image in pixels: one number for a square, or (height, width)."""
    sides = value if isinstance(value, (list, tuple)) and len(value) == 2 else (value,)
    if not all(is_whole_number(side) and side >= 1 for side in sides):
        raise ValueError(
            f"`{name}` must be a whole number of pixels, at least 1, or (height, width). {_echo(value, name)}"
        )


def check_choice(
    value: Any, name: str, choices: Collection[str | None], *, synonyms: Mapping[str, str] | None = None
) -> None:
    """Checks for one of `choices`, which may include None. The message lists them, and offers the nearest.

    Args:
        value: what was given.
        name: the argument's name.
        choices: what may be given.
        synonyms: what other libraries call some of the choices; the message offers the choice.
    """
    if not (value is None or isinstance(value, str)) or value not in choices:
        meant = (synonyms or {}).get(str(value))
        hint = (
            f" Did you mean {meant!r}?" if meant else closest(str(value), [one for one in choices if one is not None])
        )
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}.{hint} {_echo(value, name)}")


def is_auto(value: Any) -> bool:
    """Whether `value` is the word "auto", which an array is not."""
    return isinstance(value, str) and value == "auto"


def is_number(value: Any) -> bool:
    """Whether `value` is a real number; see above for what counts as one. NaN and infinity do."""
    value = _without_dimensions(value)
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole_number(value: Any) -> bool:
    """Whether `value` is a whole number by its type: 3 and np.int64(3) are, 3.0 and True are not."""
    value = _without_dimensions(value)
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check_kind(value: Any, name: str) -> None:
    if not is_number(value):
        raise TypeError(f"`{name}` must be a number. {_echo(value, name)}")


def _without_dimensions(value: Any) -> Any:
    """Returns the number that a scalar of NumPy's or an array or tensor without dimensions holds."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _echo(value: Any, name: str) -> str:
    text = repr(value)
    parts = [value.start, value.stop] if isinstance(value, slice) else value
    reasons = [getattr(part, "reason", "") for part in (parts if isinstance(parts, (list, tuple)) else [parts])]
    why = next((f" The sweep found no rate: {reason}." for reason in reasons if reason and isinstance(reason, str)), "")
    return f"Received: {name}={text if len(text) <= 80 else f'{text[:77]}...'}.{why}"


def check_axes(ax: Any) -> None:
    """Checks that `ax` is one Axes of Matplotlib, which need not be loaded for that.

    Raises:
        TypeError: it is something else, such as an array of axes.
    """
    if not hasattr(ax, "get_figure") or not hasattr(ax, "transData"):
        raise TypeError(
            "`ax` must be one Axes of Matplotlib; a figure of several panels divides its place. "
            f"Received: {type(ax).__name__}."
        )
