"""How the inputs of a batch become the arguments of a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from minilearner.tree import Tree

__all__ = ["n_required_inputs", "spread_inputs"]


def spread_inputs(model: nn.Module, x: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the positional and the named arguments for a batch of inputs.

    - A tensor is the one argument.
    - A tuple or a list, such as the `(a, b)` of items `((a, b), y)`, is spread over the arguments of `forward(a, b)`.
      If `forward` takes a single argument, that receives all of them.
    - A mapping is spread by name if `forward` has an argument for each of its keys, and needs no others. Otherwise it
      is the one argument.

    Args:
        model: the module that receives them.
        x: the inputs of a batch.
    """
    if isinstance(x, Mapping):
        return ((), dict(x)) if _takes_by_name(model, x) else ((x,), {})
    if isinstance(x, (tuple, list)):
        return (tuple(x), {}) if _takes_by_position(model, x) else ((x,), {})
    return (x,), {}


def n_required_inputs(model: nn.Module) -> int | None:
    """Returns how many inputs `forward` needs; None if it does not say."""
    parameters = _parameters(model)
    if parameters is None or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(_is_positional(p) and p.default is p.empty for p in parameters)


def _takes_by_name(model: nn.Module, x: Mapping[str, Any]) -> bool:
    parameters = _parameters(model)
    if parameters is None or not all(isinstance(key, str) for key in x):
        return False
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    needed = {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    takes_whole = any(_is_positional(p) or p.kind is p.VAR_POSITIONAL for p in parameters)
    return (bool(named & x.keys()) or not takes_whole) and needed <= x.keys() and (takes_any or x.keys() <= named)


def _takes_by_position(model: nn.Module, x: Sequence[Any]) -> bool:
    is_tuple = type(x) is tuple
    parameters = _parameters(model)
    if parameters is None:
        return is_tuple
    positional = [p for p in parameters if _is_positional(p)]
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    least, most = sum(p.default is p.empty for p in positional), len(positional)
    if is_tuple and len(x) == 1:
        return True
    if not least <= len(x) or (len(x) > most and not takes_any):
        return is_tuple and most != 1  # torch's error says how many arguments there should be
    return is_tuple or least > 1 or (_is_columns(x) and (most > 1 or takes_any))


def _is_columns(x: Sequence[Any]) -> bool:
    """Whether a list holds inputs of whole batches, not the items of one: tensors of one length that are no images."""
    if len(x) < 2 or not all(isinstance(t, Tensor) and t.ndim for t in x) or len({len(t) for t in x}) > 1:
        return False
    return not all(t.ndim == 3 and len(t) in (1, 3, 4) for t in x)


def _is_positional(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)


def _parameters(model: nn.Module) -> list[inspect.Parameter] | None:
    model = getattr(model, "_orig_mod", model)
    forward: Callable[..., Any] = model.forward
    try:
        return list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):  # such as a scripted module's
        return None
