"""An optimizer with fastai's names: its settings by layer group, as `lr`, `mom`, `sqr_mom`, `eps` and `wd`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from minilearner.errors import closest
from minilearner.training.optimizers import n_layer_groups, set_momentum, spread

__all__ = ["OptimizerView", "list_hypers"]


class OptimizerView:
    """Shows an optimizer of torch's as fastai's scripts expect it: ``learn.opt.hypers[-1]["lr"]``.

    Everything else, such as `step`, `zero_grad` and `state_dict`, is the optimizer's own.

    Args:
        optimizer: the optimizer.
        hypers: the settings to show, if they differ from what the optimizer has now. After a run they are those of its
            last update, while the optimizer has its own again.

    Attributes:
        optimizer: the optimizer.
    """

    def __init__(self, optimizer: Optimizer, hypers: Sequence[Mapping[str, Any]] | None = None) -> None:
        self.optimizer = optimizer
        self._hypers = hypers

    @property
    def opt(self) -> Optimizer:
        """The optimizer."""
        return self.optimizer

    @property
    def hypers(self) -> list[dict[str, Any]]:
        """A dictionary for each layer group, with those of `lr`, `mom`, `sqr_mom`, `eps` and `wd` that there are."""
        return list_hypers(self.optimizer) if self._hypers is None else [dict(group) for group in self._hypers]

    @property
    def param_lists(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer group."""
        return [
            [parameter for group in groups for parameter in group["params"]] for groups in _by_layer(self.optimizer)
        ]

    def set_hyper(self, name: str, value: Any) -> None:
        """Sets "lr", "mom" or "eps" of all layer groups: a number, one for each group, or a slice.

        Weight decay is the learner's: ``learn.wd = 0.1``. A rate lasts until the next `fit`, which brings its own.

        Raises:
            ValueError: there is no such setting.
        """
        settings = ("lr", "mom", "eps")
        if name not in settings:
            hint = " Write learn.wd = ..." if name == "wd" else closest(name, settings)
            raise ValueError(f"`name` must be one of {', '.join(map(repr, settings))}.{hint} Received: name={name!r}.")
        layers = _by_layer(self.optimizer)
        for groups, one in zip(layers, spread(value, len(layers)), strict=True):
            for group in groups:
                if name == "mom":
                    set_momentum(group, one)
                elif name in group:
                    group[name] = one
        self._hypers = None

    def set_hypers(self, **values: Any) -> None:
        """Sets several settings; see `set_hyper`."""
        for name, value in values.items():
            self.set_hyper(name, value)

    def __repr__(self) -> str:
        return repr(self.optimizer)

    if not TYPE_CHECKING:  # with `__getattr__`, a type checker would accept misspelt names

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or name == "optimizer":  # a copy asks before there is an optimizer
                raise AttributeError(name)
            return getattr(self.optimizer, name)


def list_hypers(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Returns the settings of each layer group by fastai's names. Weight decay is that of the weights it applies to."""
    return [_settings(max(groups, key=lambda group: group.get("weight_decay", 0))) for groups in _by_layer(optimizer)]


def _by_layer(optimizer: Optimizer) -> list[list[dict[str, Any]]]:
    layers: list[list[dict[str, Any]]] = [[] for _ in range(n_layer_groups(optimizer))]
    for group in optimizer.param_groups:
        layers[group.get("layer_group", 0)].append(group)
    return layers


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    names = {"lr": "lr", "momentum": "mom", "alpha": "sqr_mom", "eps": "eps", "weight_decay": "wd"}
    found = {ours: group[theirs] for theirs, ours in names.items() if theirs in group}
    if "betas" in group:
        found |= {"mom": group["betas"][0], "sqr_mom": group["betas"][1]}
    return found
