"""From a model and a wish for learning rates to a torch optimizer with groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from minilearner.checks import check_not_negative, check_rate
from minilearner.models.groups import Splitter, all_parameters, layer_groups, norms_and_biases, parameters_of
from minilearner.training.fastai_optimizers import spares_norms

__all__ = [
    "OptimizerFactory",
    "Rate",
    "adamw",
    "build_optimizer",
    "check_factory",
    "is_adaptive",
    "keep_or_build_optimizer",
    "momentum_key",
    "momentum_of",
    "n_layer_groups",
    "restore_hyperparameters",
    "set_hyperparameters",
    "set_momentum",
    "set_rates",
    "set_weight_decay",
    "spread",
]

OptimizerFactory: TypeAlias = Callable[..., Optimizer]
"""Called as `factory(groups, lr=...)`: a torch optimizer class, a partial of one, or a function."""

Rate: TypeAlias = "float | Sequence[float] | slice | Literal['auto']"
"""One learning rate, one for each layer group, or a `slice`: `slice(b)` is b for the last group and b / 10 for the
others, `slice(a, b)` runs from a to b in equal ratios. Or "auto", which a `Learner` replaces by what a sweep finds."""

adamw: OptimizerFactory = partial(torch.optim.AdamW, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01)
"""The default, with fastai's constants (eps 1e-5 keeps early steps small where gradients are tiny). Norm layers and
biases are spared its weight decay."""


def build_optimizer(
    model: nn.Module,
    factory: OptimizerFactory | None,
    lr: Rate,
    *,
    splitter: Splitter = all_parameters,
    wd: float | None = None,
    wd_bn_bias: bool = False,
    loss_func: Any = None,
) -> Optimizer:
    """Calls an optimizer factory with one parameter group for each layer group, which carries its index, `layer_group`.

    Our default factory, those with fastai's names and an explicit `wd` spare norm layers and biases (unless
    `wd_bn_bias`), because these have no scale to hold down. The groups are then split in two. The weight decay of a
    user's factory applies to everything, in one group for each layer group, so a hand-written loop with the same
    factory makes the same updates.

    Args:
        factory: see `OptimizerFactory`; None is `adamw`.
        lr: one rate, or one for each layer group.
        splitter: divides the model's parameters into layer groups.
        wd: weight decay. None keeps the factory's own.
        wd_bn_bias: whether weight decay also applies to norm layers and biases.
        loss_func: the loss. If it is a module with parameters, they are in the last layer group.

    Raises:
        ValueError: as in `layer_groups`; `lr` does not fit the groups; or the loop does not compute what the optimizer
            needs.
        TypeError: the factory does not return a torch optimizer.
    """
    layers = layer_groups(model, splitter)
    groups = [
        {"params": layer, "lr": rate, "layer_group": index}
        for index, (layer, rate) in enumerate(zip(layers, spread(lr, len(layers)), strict=True))
    ]
    check_factory(factory)
    factory = factory or adamw
    of_loss = parameters_of(model, loss_func)[len(list(model.parameters())) :]
    optimizer = _call_factory(factory, groups, of_loss)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"`opt_func` must return a torch optimizer. Received: {type(optimizer).__name__}.")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("LBFGS calls the model several times for one update, which the training loop does not do.")
    if getattr(optimizer, "is_second_order", False):  # as timm calls it
        raise ValueError(
            f"{type(optimizer).__name__} needs second derivatives, by backward(create_graph=True), which the loop "
            "does not do."
        )
    if wd is None and (factory is adamw or spares_norms(factory)):
        wd = optimizer.defaults["weight_decay"]
    if wd is not None:
        set_weight_decay(optimizer, model, wd, wd_bn_bias=wd_bn_bias)
    return optimizer


def check_factory(factory: Any) -> None:
    """Checks for an `OptimizerFactory` or None.

    Raises:
        TypeError: it is something else, such as an optimizer that was made already.
    """
    if factory is None or (callable(factory) and not isinstance(factory, Optimizer)):
        return
    received, hint = f"{factory!r:.80}", ""
    if isinstance(factory, Optimizer):
        name = type(factory).__name__
        given = {key: value for key, value in factory.defaults.items() if key in ("momentum", "weight_decay") and value}
        settings = "".join(f", {key}={value!r}" for key, value in given.items())
        received = f"an optimizer of the class {name}"
        hint = f" Give its class: opt_func={f'partial({name}{settings})' if settings else name}."
    elif isinstance(factory, str):
        kinds = {name.lower(): name for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
        hint = f" Give the class itself, such as opt_func=torch.optim.{kinds.get(factory.lower(), 'SGD')}."
    raise TypeError(
        "`opt_func` must be an optimizer class, a partial of one or a function, to be called with parameter groups "
        f"and `lr=`. Received: {received}.{hint}"
    )


def _call_factory(factory: OptimizerFactory, groups: list[dict[str, Any]], of_loss: list[nn.Parameter]) -> Optimizer:
    """Calls the factory, with the loss's parameters in the last group unless the factory adds them itself."""
    rate, *rest = groups[-1]["lr"], *groups[:-1]
    if of_loss:
        last = {**groups[-1], "params": [*groups[-1]["params"], *of_loss]}
        try:
            return factory([*rest, last], lr=rate)
        except ValueError as error:
            if "more than one parameter group" not in str(error) and "duplicate" not in str(error):
                raise
    return factory(groups, lr=rate)


def keep_or_build_optimizer(
    optimizer: Optimizer | None, model: nn.Module, factory: OptimizerFactory | None, lr: Rate, **options: Any
) -> Optimizer:
    """Returns the optimizer with its state, or builds one if there is none or the model's parameters have changed.

    `options` are as in `build_optimizer`. If `lr` is "auto", a new one starts at 1e-3.
    """
    if optimizer is not None and _covers(optimizer, model, options.get("loss_func")):
        return optimizer
    return build_optimizer(model, factory, 1e-3 if lr == "auto" else lr, **options)


def _covers(optimizer: Optimizer, model: nn.Module, loss_func: Any) -> bool:
    """Whether the optimizer holds exactly the parameters that the model and the loss have now."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return held == {id(p) for p in parameters_of(model, loss_func)}


def n_layer_groups(optimizer: Optimizer) -> int:
    """Returns the number of layer groups. Each may be split in two for weight decay."""
    return len({group.get("layer_group", 0) for group in optimizer.param_groups})


def set_weight_decay(optimizer: Optimizer, model: nn.Module, wd: float, *, wd_bn_bias: bool = False) -> None:
    """Sets the weight decay of all parameters except those of norm layers and biases, which get none.

    Groups that hold both kinds are split in two, and both keep all other settings. With `wd_bn_bias`, all get `wd`.

    Raises:
        ValueError: `wd` is negative, or the optimizer has no weight decay.
    """
    check_not_negative(wd, "wd")
    if "weight_decay" not in optimizer.defaults:
        raise ValueError(f"{type(optimizer).__name__} has no weight decay. Received: wd={wd}.")
    spared = set() if wd_bn_bias else norms_and_biases(model)
    optimizer.param_groups[:] = [
        _own_tensors(group) | {"params": params, "weight_decay": 0.0 if is_spared else wd}
        for group in optimizer.param_groups
        for is_spared in (False, True)
        if (params := [p for p in group["params"] if (id(p) in spared) is is_spared])
    ]


def _own_tensors(group: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a group with copies of its tensors, such as a count that the optimizer raises in each group in place."""
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in group.items()}


def spread(lr: Rate, n_groups: int) -> list[float]:
    """Returns one learning rate for each of `n_groups` layer groups.

    Example: `spread(slice(1e-6, 1e-4), 3)` is `[1e-6, 1e-5, 1e-4]`, and `spread(slice(1e-3), 3)` is
    `[1e-4, 1e-4, 1e-3]`, as in fastai.

    Raises:
        ValueError: a list of another length, or a rate out of range.
    """
    check_rate(lr, "lr")
    if isinstance(lr, slice):
        if not lr.start:
            return [lr.stop / 10] * (n_groups - 1) + [float(lr.stop)]
        ratio = (lr.stop / lr.start) ** (1 / max(n_groups - 1, 1))
        return [lr.start * ratio**i for i in range(n_groups - 1)] + [float(lr.stop)]
    if isinstance(lr, (list, tuple)):
        if len(lr) != n_groups:
            raise ValueError(f"`lr` must have one value for each of the {n_groups} groups. Received: lr={lr!r}.")
        return [float(value) for value in lr]
    return [float(lr)] * n_groups  # type: ignore[arg-type]


def is_adaptive(optimizer: Optimizer) -> bool:
    """Whether an optimizer scales its steps by the size of the gradients, as Adam, RMSprop, Adagrad and Lion do.

    Judged by the settings that such optimizers have: `eps`, for safe division, or `betas`.
    """
    return any(key in group for group in optimizer.param_groups for key in ("eps", "betas"))


def momentum_key(group: Mapping[str, Any]) -> str | None:
    """The setting of a parameter group that holds its momentum: "momentum", "betas" (its first value), or None."""
    return "momentum" if "momentum" in group else "betas" if "betas" in group else None


def momentum_of(group: Mapping[str, Any]) -> float:
    """The momentum of a parameter group, or NaN if it has none."""
    if "momentum" in group:
        return group["momentum"]  # type: ignore[no-any-return]
    return group["betas"][0] if "betas" in group else math.nan


def set_momentum(group: dict[str, Any], momentum: float) -> None:
    """Sets the momentum of a parameter group. Does nothing if the group has none."""
    key = momentum_key(group)
    if key is not None:
        group[key] = (momentum, *group["betas"][1:]) if key == "betas" else momentum


def set_rates(optimizer: Optimizer, rates: Sequence[float]) -> None:
    """Sets the rate of each layer group."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group.get("layer_group", 0)]


@contextmanager
def set_hyperparameters(
    optimizer: Optimizer, model: nn.Module, rates: Sequence[float], wd: float | None, *, wd_bn_bias: bool = False
) -> Iterator[None]:
    """Gives each layer group its rate and, if `wd` is given, its weight decay, until leaving."""
    with restore_hyperparameters(optimizer):
        set_rates(optimizer, rates)
        if wd is not None:
            set_weight_decay(optimizer, model, wd, wd_bn_bias=wd_bn_bias)
        yield


@contextmanager
def restore_hyperparameters(optimizer: Optimizer) -> Iterator[None]:
    """On leaving, puts every group and its settings (rate, momentum, weight decay ...) back. Counts stay."""
    before = [(group, dict(group)) for group in optimizer.param_groups]
    try:
        yield
    finally:
        now = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
        for group, settings in before:
            latest = now.get(
                id(next(iter(settings["params"]), None)), group
            )  # the first half of a group that was split
            counts = {name: value for name, value in latest.items() if name in _COUNTS}
            group.update({**settings, **counts})
        optimizer.param_groups[:] = [group for group, _ in before]


_COUNTS = frozenset(
    {"d", "d_denom", "d_hat", "d_max", "d_numerator", "k", "lr_max", "lr_sum", "n_steps", "step", "steps", "t"}
    | {"scheduled_lr", "weight_sum"}
)
"""What optimizers call the state that they keep in a group: a count of updates, a number or a tensor as in timm's Lamb,
or the sums and estimates of Prodigy, D-Adaptation and schedule-free optimizers."""
