"""How a step computes: in fp32, or in a lower precision where that is safe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minilearner.tree import map_tensors

__all__ = ["PRECISIONS", "Autocast", "Fp32", "Precision", "ScaledFp16", "make_precision"]

PRECISIONS = ("fp32", "bf16", "fp16")
"""The names of all precisions."""


class Precision(Protocol):
    """What a step asks of its precision. A class that inherits from this only writes `name`, `call` and what differs.

    A precision equals its name, so callbacks may ask for ``run.step.precision == "fp16"``.

    Attributes:
        name: what a record calls it, such as "bf16".
        scales_loss: True if `backward` multiplies the loss. Then the gradients are still scaled until `unscale`,
            and may overflow; `step` skips such an update.
        scale: what `backward` multiplies the loss by.
    """

    name: str
    scales_loss: bool = False
    scale: float = 1.0

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns `function(*args)`, computed in this precision."""
        ...

    def backward(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        """Adds the gradients of `loss` to the parameters."""
        loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: Optimizer) -> None:
        """Brings the gradients to their true size. Only called if `scales_loss`."""
        return

    def step(self, optimizer: Optimizer) -> bool:
        """Updates the weights. Returns False if the update was skipped because its gradients overflowed."""
        optimizer.step()
        return True

    def skip(self) -> None:
        """Called in place of `step` if an update is cancelled after `unscale`. Only called if `scales_loss`."""
        return

    def __eq__(self, other: object) -> bool:
        """Whether `other` is this precision, or its name: ``run.step.precision == "fp16"``."""
        return self is other or other == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep between two updates."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        return


class Fp32(Precision):
    """Computes everything in the model's own precision."""

    name = "fp32"

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns `function(*args)` as it is."""
        return function(*args)


class Autocast(Precision):
    """Runs the forward pass in a lower precision where that is safe; weights, loss and updates stay in fp32.

    Args:
        dtype: `torch.bfloat16` or `torch.float16`.
        device_type: where the model is, such as "cuda".
    """

    def __init__(self, dtype: torch.dtype, device_type: str):
        self.name = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
        self.dtype = dtype
        self.device_type = device_type

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns `function(*args)` in fp32, so that no loss or metric is computed with 8 bits of mantissa."""
        with torch.autocast(self.device_type, dtype=self.dtype):
            result = function(*args)
        return _to_float(result)


class ScaledFp16(Autocast):
    """Computes in fp16, and scales the loss up so that small gradients survive.

    An update whose gradients overflowed is skipped, and does not count as an update.

    Args:
        device_type: where the model is, such as "cuda".
        scaler: the scaler to use; by default a new `torch.amp.GradScaler`.
    """

    scales_loss = True

    def __init__(self, device_type: str, scaler: torch.amp.GradScaler | None = None):
        super().__init__(torch.float16, device_type)
        self.scaler = torch.amp.GradScaler(device_type) if scaler is None else scaler

    def backward(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        """Adds the gradients of the scaled loss to the parameters."""
        self.scaler.scale(loss).backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: Optimizer) -> None:
        """Divides the gradients by the scale."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        """Updates the weights and the scale. Returns False if gradients overflowed; the scale is then lower."""
        scale = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        return bool(self.scaler.get_scale() >= scale)

    @property
    def scale(self) -> float:  # type: ignore[override]
        """What the loss is multiplied by now."""
        return self.scaler.get_scale()

    def skip(self) -> None:
        """Counts the gradients as seen: if they overflowed, the scale is lower from now on."""
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Returns the scale, and how many updates ago it last changed."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        self.scaler.load_state_dict(state)


def make_precision(name: str, model: nn.Module) -> Precision:
    """Returns the precision "fp32", "bf16" or "fp16" for a model on its device."""
    device_type = next((p.device.type for p in model.parameters()), "cpu")
    if name == "bf16":
        return Autocast(torch.bfloat16, device_type)
    return ScaledFp16(device_type) if name == "fp16" else Fp32()


def _to_float(tree: Any) -> Any:
    if isinstance(tree, Tensor):  # the ordinary case
        return tree.float() if tree.dtype in (torch.bfloat16, torch.float16) else tree
    return map_tensors(lambda t: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t, tree)
