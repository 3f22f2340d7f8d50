"""An optimizer with fastai's names: its settings by layer group, as `lr`, `mom`, `sqr_mom`, `eps` and `wd`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from minilearner.errors import closest
from minilearner.training.optimizers import n_layer_groups, set_momentum, spread

__all__ = ["Hypers", "OptimizerView", "list_hypers"]

_KEYS = {"lr": "lr", "mom": "momentum", "sqr_mom": "alpha", "eps": "eps", "wd": "weight_decay"}
"""fastai's names of settings, and torch's. Adam and its kind have "betas" for `mom` and `sqr_mom`."""


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
    def hypers(self) -> Sequence[Mapping[str, Any]]:
        """The settings of each layer group; see `Hypers`. After a run they can only be read."""
        return (
            _show_hypers(self.optimizer) if self._hypers is None else [MappingProxyType(dict(h)) for h in self._hypers]
        )

    @property
    def param_lists(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer group."""
        return [
            [parameter for group in groups for parameter in group["params"]] for groups in _by_layer(self.optimizer)
        ]

    def set_hyper(self, name: str, value: Any) -> None:
        """Sets "lr", "mom", "sqr_mom", "eps" or "wd" of all layer groups: a number, one for each group, or a slice.

        A rate lasts until the next `fit`, which brings its own; ``learn.wd = 0.1`` changes weight decay for good.

        Raises:
            ValueError: the optimizer has no such setting, or there are not as many numbers as layer groups.
        """
        layers = _show_hypers(self.optimizer)
        if name not in layers[-1]:
            known = list(layers[-1])
            raise ValueError(
                f"`name` must be one of {', '.join(map(repr, known))}.{closest(name, known)} Received: name={name!r}."
            )
        for hypers, one in zip(layers, spread(_as_rate(value), len(layers)), strict=True):
            hypers[name] = one
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


class Hypers(MutableMapping[str, Any]):
    """The settings of one layer group, to read and to set: those of `lr`, `mom`, `sqr_mom`, `eps` and `wd` there are.

    Args:
        groups: the optimizer's groups for this layer group. The second holds what weight decay spares.
        is_spared: whether weight decay spares the whole layer group.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, is_spared: bool = False) -> None:
        self._groups, self._is_spared = groups, is_spared

    def __getitem__(self, name: str) -> Any:
        found = self._read()
        if name not in found:
            raise KeyError(f"the optimizer has no setting {name!r}.{closest(str(name), found)}")
        return found[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self[name]  # an unknown name raises here
        value = value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
        decayed = () if self._is_spared else self._groups[:1]
        for group in decayed if name == "wd" else self._groups:
            if name == "mom":
                set_momentum(group, value)
            elif name == "sqr_mom" and "betas" in group:
                group["betas"] = (group["betas"][0], value)
            else:
                group[_KEYS[name]] = value

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"a setting of the optimizer cannot be removed. Received: {name!r}.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(self._read())

    def _read(self) -> dict[str, Any]:
        group = self._groups[0]
        found = {name: group[key] for name, key in _KEYS.items() if key in group}
        return found | ({"mom": group["betas"][0], "sqr_mom": group["betas"][1]} if "betas" in group else {})


def list_hypers(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Returns the settings of each layer group by fastai's names. Weight decay is that of the weights it applies to."""
    return [dict(hypers) for hypers in _show_hypers(optimizer)]


def _show_hypers(optimizer: Optimizer) -> list[Hypers]:
    layers = _by_layer(optimizer)
    decays = [any(group.get("weight_decay") for group in groups) for groups in layers]
    return [Hypers(groups, is_spared=any(decays) and not own) for groups, own in zip(layers, decays, strict=True)]


def _by_layer(optimizer: Optimizer) -> list[list[dict[str, Any]]]:
    layers: list[list[dict[str, Any]]] = [[] for _ in range(n_layer_groups(optimizer))]
    for group in optimizer.param_groups:
        layers[group.get("layer_group", 0)].append(group)
    return layers


def _as_rate(value: Any) -> Any:
    """Returns a plain number or list for a tensor or an array."""
    return value.tolist() if hasattr(value, "tolist") else value
