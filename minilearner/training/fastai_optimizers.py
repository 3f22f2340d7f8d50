"""Optimizers by fastai's names and arguments, made of torch's: pass them as `opt_func`.

    learn = Learner(dls, model, opt_func=partial(SGD, mom=0.9, wd=1e-3))

`mom` is the momentum or the first beta, `sqr_mom` the second, and `wd` the weight decay. As in fastai, weight decay is
decoupled from the gradient by default, and a learner spares norm layers and biases from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from minilearner.checks import check_count, check_fraction, check_not_negative
from minilearner.keywords import suggest_keywords

__all__ = ["SGD", "SGDW", "Adam", "Lookahead", "OptimWrapper", "RAdam", "RMSProp", "RMSpropW", "ranger", "spares_norms"]

Params: TypeAlias = "Iterable[Tensor] | Iterable[dict[str, Any]]"
"""Parameters, or parameter groups, as torch's optimizers take them."""


@suggest_keywords
def SGD(params: Params, lr: float = 1e-3, mom: float = 0.0, wd: float = 0.0, decouple_wd: bool = True) -> Optimizer:
    """Returns torch's SGD without dampening.

    Args:
        params: parameters or groups.
        lr: the learning rate.
        mom: the momentum, in [0, 1).
        wd: the weight decay.
        decouple_wd: whether weight decay shrinks the weights by ``lr * wd`` instead of adding to the gradients.
    """
    _check_numbers(lr, mom, wd)
    return (SGDW if decouple_wd else torch.optim.SGD)(params, lr=lr, momentum=mom, weight_decay=wd)


@suggest_keywords
def RMSProp(
    params: Params,
    lr: float = 1e-3,
    mom: float = 0.0,
    sqr_mom: float = 0.99,
    eps: float = 1e-8,
    wd: float = 0.0,
    decouple_wd: bool = True,
) -> Optimizer:
    """Returns torch's RMSprop.

    With momentum, it averages the scaled gradients, as torch does. fastai averages gradients and scales the average.

    Args:
        params, lr, wd, decouple_wd: as in `SGD`.
        mom: the momentum, in [0, 1).
        sqr_mom: how much of the mean squared gradient stays from one update to the next, in [0, 1).
        eps: is added to the root of the mean squared gradient.
    """
    _check_numbers(lr, mom, wd, sqr_mom, eps)
    kind = RMSpropW if decouple_wd else torch.optim.RMSprop
    return kind(params, lr=lr, momentum=mom, alpha=sqr_mom, eps=eps, weight_decay=wd)


@suggest_keywords
def Adam(
    params: Params,
    lr: float = 1e-3,
    mom: float = 0.9,
    sqr_mom: float = 0.99,
    eps: float = 1e-5,
    wd: float = 0.01,
    decouple_wd: bool = True,
) -> Optimizer:
    """Returns torch's AdamW with fastai's constants, or Adam with ``decouple_wd=False``. A learner's default.

    Args:
        params, lr, wd, decouple_wd: as in `SGD`.
        mom: how much of the mean gradient stays from one update to the next, in [0, 1).
        sqr_mom: the same for the mean squared gradient.
        eps: is added to the root of the mean squared gradient.
    """
    _check_numbers(lr, mom, wd, sqr_mom, eps)
    kind = torch.optim.AdamW if decouple_wd else torch.optim.Adam
    return kind(params, lr=lr, betas=(float(mom), float(sqr_mom)), eps=eps, weight_decay=wd)


@suggest_keywords
def RAdam(
    params: Params,
    lr: float = 1e-3,
    mom: float = 0.9,
    sqr_mom: float = 0.99,
    eps: float = 1e-5,
    wd: float = 0.0,
    decouple_wd: bool = True,
) -> Optimizer:
    """Returns torch's RAdam, Adam that starts without scaling. torch adds `eps` before it corrects the bias.

    Args:
        params, lr, mom, sqr_mom, eps, wd, decouple_wd: as in `Adam`.

    Source: Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", 2020.
    """
    _check_numbers(lr, mom, wd, sqr_mom, eps)
    options: dict[str, Any] = {"weight_decay": wd, "decoupled_weight_decay": decouple_wd}
    return torch.optim.RAdam(params, lr=lr, betas=(float(mom), float(sqr_mom)), eps=eps, **options)


@suggest_keywords
def ranger(
    params: Params,
    lr: float = 1e-3,
    mom: float = 0.95,
    wd: float = 0.01,
    eps: float = 1e-6,
    k: int = 6,
    alpha: float = 0.5,
    sqr_mom: float = 0.99,
    decouple_wd: bool = True,
) -> Lookahead:
    """Returns `RAdam` in a `Lookahead`.

    Args:
        params, lr, mom, wd, eps, sqr_mom, decouple_wd: as in `RAdam`.
        k, alpha: as in `Lookahead`.
    """
    return Lookahead(RAdam(params, lr, mom, sqr_mom, eps, wd, decouple_wd), k, alpha)


def spares_norms(factory: Any) -> bool:
    """Whether a learner spares norm layers and biases from the weight decay of this factory, or a partial of it."""
    while isinstance(factory, partial):
        factory = factory.func
    return any(factory is one for one in (SGD, RMSProp, Adam, RAdam, ranger))


def OptimWrapper(
    params: Params | None = None,
    opt: Callable[..., Optimizer] | Optimizer | None = None,
    hp_map: Mapping[str, str] | None = None,
    **options: Any,
) -> Optimizer:
    """Returns a torch optimizer, as ``opt_func=partial(OptimWrapper, opt=torch.optim.SGD)`` wants one.

    A learner takes ``opt_func=torch.optim.SGD`` just as well, so nothing is wrapped.

    Args:
        params: parameters or groups.
        opt: torch's class or a function, or an optimizer, which is returned.
        hp_map: torch's names of hyper-parameters and fastai's. Not needed, since schedules use torch's names.
        options: passed on to `opt`.

    Raises:
        TypeError: there is nothing to make an optimizer of.
    """
    if isinstance(opt, Optimizer):
        return opt
    if not callable(opt) or params is None:
        raise TypeError(
            "`OptimWrapper` needs `params`, and as `opt` a torch optimizer class. "
            f"Received: opt={opt!r:.80}, params={'None' if params is None else 'given'}."
        )
    return opt(params, **options)


def _check_numbers(lr: float, mom: float, wd: float, sqr_mom: float = 0.0, eps: float = 0.0) -> None:
    for name, value in (("lr", lr), ("wd", wd), ("eps", eps)):
        check_not_negative(value, name)
    for name, value in (("mom", mom), ("sqr_mom", sqr_mom)):
        check_fraction(value, name, closed="left")


class _Decoupled(Optimizer):
    """Shrinks the weights by ``lr * weight_decay`` before an update that knows no weight decay."""

    def step(self, closure: Any = None) -> Any:
        """Makes one update."""
        kept = [group["weight_decay"] for group in self.param_groups]
        if not any(kept):
            return super().step(closure)
        for group in self.param_groups:
            _shrink(group)
            group["weight_decay"] = 0.0
        try:
            return super().step(closure)
        finally:
            for group, decay in zip(self.param_groups, kept, strict=True):
                group["weight_decay"] = decay


def _shrink(group: Mapping[str, Any]) -> None:
    weights = [p.detach() for p in group["params"] if p.grad is not None]
    if weights and group["weight_decay"]:
        torch._foreach_mul_(weights, 1 - float(group["lr"]) * group["weight_decay"])


class SGDW(_Decoupled, torch.optim.SGD):
    """torch's SGD with decoupled weight decay: weights shrink by ``lr * weight_decay`` before each update.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.
    """


class RMSpropW(_Decoupled, torch.optim.RMSprop):
    """torch's RMSprop with decoupled weight decay, as `SGDW`."""


@suggest_keywords
class Lookahead(Optimizer):
    """Wraps an optimizer: each `k` updates, weights go back most of the way to where they were `k` updates ago.

    The slow weights follow the fast ones by ``slow + alpha * (fast - slow)``, and then both are equal. They are part of
    the state, so a saved or resumed run keeps them.

    Args:
        opt: the optimizer that makes the fast updates. It shares groups and state with this one.
        k: after how many updates the slow weights move; at least 1.
        alpha: how far they move, in (0, 1].

    Source: Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", 2019.
    """

    def __init__(self, opt: Optimizer, k: int = 6, alpha: float = 0.5) -> None:
        if not isinstance(opt, Optimizer):
            raise TypeError(f"`opt` must be a torch optimizer. Received: {opt!r:.80}.")
        check_count(k, "k")
        check_fraction(alpha, "alpha", closed="right")
        super().__init__(opt.param_groups, dict(opt.defaults))
        self.opt, self.k, self.alpha = opt, k, alpha

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "opt": self.opt, "k": self.k, "alpha": self.alpha}

    def step(self, closure: Any = None) -> Any:
        """Makes one fast update, and each `k` updates a slow one."""
        self.opt.param_groups, self.opt.state = self.param_groups, self.state  # loading a state replaces both
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        starts = {p: p.detach().clone() for p in moving if "slow" not in self.state.get(p, {})}
        result = self.opt.step(closure)
        for p in moving:
            state = self.state[p]
            if p in starts:  # only now, since optimizers start a parameter's state when they find none
                state["slow"], state["n_fast"] = starts[p], 0
            state["n_fast"] += 1
        due = [p for p in moving if self.state[p]["n_fast"] % self.k == 0]
        if due:
            slow, fast = [self.state[p]["slow"] for p in due], [p.detach() for p in due]
            torch._foreach_lerp_(slow, fast, self.alpha)
            torch._foreach_copy_(fast, slow)
        return result
