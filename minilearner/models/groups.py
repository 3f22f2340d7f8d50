"""A model's parameters in layer groups, for discriminative learning rates and for freezing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import nn

from minilearner.checks import check_count

__all__ = [
    "NORMS",
    "Splitter",
    "all_parameters",
    "freeze_to",
    "has_lstm_layers",
    "has_norm_layers",
    "layer_groups",
    "norms_and_biases",
    "parameters_of",
]

Splitter: TypeAlias = Callable[[nn.Module], Sequence[Sequence[nn.Parameter]]]
"""Divides a model's parameters into layer groups, from input to output."""

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def all_parameters(model: nn.Module) -> list[list[nn.Parameter]]:
    """Splits nothing: makes one group of all parameters."""
    return [list(model.parameters())]


def layer_groups(model: nn.Module, splitter: Splitter = all_parameters) -> list[list[nn.Parameter]]:
    """Returns the parameters by layer group, and checks that none is missing.

    Raises:
        ValueError: the model has no parameters, or lazy layers without a shape, or the splitter does not return each
            parameter exactly once.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    if not names:
        raise ValueError("`model` has no parameters, so there is nothing to train.")
    lazy = [name for name, p in model.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise ValueError(f"`model` has lazy layers without a shape: {lazy[0]}. Pass one batch through the model first.")
    groups = [list(group) for group in splitter(model)]
    given = [id(p) for group in groups for p in group]
    if len(given) != len(set(given)) or set(given) != set(names):
        missing = [name for key, name in names.items() if key not in set(given)]
        raise ValueError(
            f"`splitter` must return each parameter of the model exactly once. Received: {len(given)} for {len(names)}"
            + (f"; missing: {', '.join(missing[:3])}." if missing else ".")
        )
    return groups


def parameters_of(model: nn.Module, loss_func: object) -> list[nn.Parameter]:
    """Returns the parameters of the model, and those of the loss that are not the model's."""
    own = list(model.parameters())
    if not isinstance(loss_func, nn.Module):
        return own
    known = {id(parameter) for parameter in own}
    return own + [parameter for parameter in loss_func.parameters() if id(parameter) not in known]


def has_lstm_layers(model: nn.Module) -> bool:
    """Whether the model has LSTM layers: PyTorch's own, and those of others by the name of their class."""
    return any("lstm" in type(part).__name__.lower() for part in model.modules())


def has_norm_layers(model: nn.Module) -> bool:
    """Whether the model has norm layers: PyTorch's own, and those of others by the name of their class."""
    return any(isinstance(part, NORMS) or "norm" in type(part).__name__.lower() for part in model.modules())


def norms_and_biases(model: nn.Module) -> set[int]:
    """Returns the ids of all parameters in norm layers, and of all biases."""
    return {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, NORMS) or name.endswith("bias")
    }


def freeze_to(model: nn.Module, n: int, *, splitter: Splitter = all_parameters, train_bn: bool = True) -> None:
    """Freezes the layer groups before number `n`, and unfreezes the others.

    Args:
        model: any module.
        n: the first group that learns. A negative number counts from the end: -1 trains only the last group, 0 all.
        splitter: divides the model into layer groups.
        train_bn: whether norm layers in frozen groups learn too, to follow the statistics of the new data.

    Raises:
        ValueError: there is no group `n`, or nothing would be frozen though `n` is not 0.
    """
    groups = layer_groups(model, splitter)
    check_count(n, "n", least=None)
    if not -len(groups) <= n < len(groups):
        raise ValueError(f"`n` must name one of the {len(groups)} layer groups. Received: n={n}.")
    in_norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    learns = [
        (parameter, index >= n % len(groups) or (train_bn and id(parameter) in in_norms))
        for index, group in enumerate(groups)
        for parameter in group
    ]
    if n and (n % len(groups) or len(groups) == 1) and all(does_learn for _, does_learn in learns):
        reason = "the model is one layer group" if len(groups) == 1 else "the first layer groups hold only norm layers"
        raise ValueError(
            f"`n` must leave something to freeze, but {reason}. Received: n={n}. Divide the model into layer groups "
            "with the learner's `splitter=`: model -> lists of parameters, from input to output."
        )
    for parameter, does_learn in learns:
        parameter.requires_grad_(does_learn)
