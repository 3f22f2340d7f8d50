"""What happens to one batch: predict, compute the loss, go backward, update the weights.

A step knows a model, a loss and an optimizer, and nothing of epochs, callbacks or learners. Mixed precision is another
step (`AutocastStep`, `ScaledStep`), so its contexts close themselves. `make_step` chooses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minilearner.tree import Tree, map_tensors, n_items

__all__ = ["AutocastStep", "LossFunction", "ScaledStep", "TrainStep", "make_step"]

LossFunction = Callable[[Any, Any], Tensor]
"""`(pred, target) -> loss`, a tensor without dimensions: the mean over the items of the batch."""


class TrainStep:
    """The plain fp32 step: to the bit what a hand-written loop does.

    Args:
        model: called with the inputs; a tuple of inputs is spread over its arguments.
        loss_func: mean loss of a batch.
        optimizer: None where only `predict` and `compute_loss` are wanted.

    Attributes:
        n_accumulate: batches whose gradients are averaged, over their items, into one update. `GradientAccumulation`
            sets it for a run.
        max_norm: the total norm that gradients are scaled down to before an update, or None. `GradientClip` sets it.
        part: the number, from 0, of the part of a batch that goes through now; None where batches stay whole.
        network: what is called in the model's place; the model itself, unless it is compiled, or what its first layers
            give was precomputed.
        lr_factor: what each update's learning rates are multiplied by, whatever schedule sets them. `NonFinite` lowers
            it.
    """

    precision = "fp32"
    n_processes = 1
    """How many make this step together."""
    passes_together = False
    """Whether each forward pass needs all of them."""
    own_loss: Tensor | None = None
    """Of several processes, the newest training batch's loss over the items of this one."""

    def __init__(self, model: nn.Module, loss_func: LossFunction, optimizer: Optimizer | None = None):
        self.model = model
        self.network: Callable[..., Any] = model
        self.loss_func = loss_func
        self.optimizer = optimizer
        self.n_accumulate = 1
        self.max_norm: float | None = None
        self.norm_type = 2.0
        self.part: int | None = None
        self.lr_factor = 1.0
        self._window = _Window()

    def predict(self, x: Tree) -> Any:
        """Returns the model's output for a batch of inputs."""
        return self._forward(*x) if type(x) is tuple else self._forward(x)

    def compute_loss(self, pred: Any, y: Any) -> Tensor:
        """Returns the loss of a batch: a tensor without dimensions that `backward` can start from."""
        return self.loss_func(pred, y)

    def together(self, loss: Tensor, n_items: int) -> Tensor:
        """Returns the loss over the items of all processes that train; asked for where there are several."""
        return loss

    def apart(self, n_items: int) -> AbstractContextManager[None]:
        """Lets each process make as many passes over its `n_items` inside as it needs."""
        return nullcontext()

    def over_all(self, loss: Tensor, n_items: int) -> Tensor:
        """Returns the loss over the items of all processes, of one computed apart over `n_items`."""
        return loss

    def items_in(self, x: Tree) -> int:
        """Returns how many items the loss of a training batch is the mean over."""
        return n_items(x)

    def backward(self, loss: Tensor, n_items: int) -> None:
        """Adds the gradients of `loss`, the mean over `n_items`, to what this update has gathered."""
        if self.n_accumulate == 1 and self.part is None:
            self._backward(loss)
        else:
            self._backward(self._window.weigh(loss, n_items, is_new_batch=not self.part))

    @contextmanager
    def whole_or_nothing(self) -> Iterator[None]:
        """Adds what is gathered inside once it is complete; after an error nothing of it is left."""
        parameters, window = self._parameters(), copy.copy(self._window)
        before = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            yield
        except BaseException:
            for parameter, gradient in zip(parameters, before, strict=True):
                parameter.grad = gradient
            self._window = window
            raise
        for parameter, gradient in zip(parameters, before, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)

    @property
    def is_pending(self) -> bool:
        """Whether gradients wait for an update: a window of accumulation has begun and not ended."""
        return self._window.n_batches > 0

    def is_due(self, batches_left: int) -> bool:
        """Whether the update follows this batch. The last batch of an epoch closes a window that is not yet full."""
        return self.n_accumulate == 1 or self._window.n_batches >= self.n_accumulate or batches_left == 0

    def update(self) -> bool:
        """Updates the weights from the gathered gradients. Returns False where the update had to be skipped."""
        self._unscale()
        if self._window.n_batches:
            self._window.average(self._gradients())
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters(), self.max_norm, self.norm_type)
        if self.lr_factor == 1.0:
            return self._step()
        with self._rates_cut():
            return self._step()

    def zero_grad(self) -> None:
        """Forgets the gathered gradients."""
        if self.optimizer is not None:
            self.optimizer.zero_grad()
        if self._window.n_batches:
            self._window = _Window()

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep between two updates."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` stood."""

    def _forward(self, *inputs: Any) -> Any:
        return self.network(*inputs)

    def _backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def _unscale(self) -> None:
        """Brings gradients to their true size. Nothing to do without a loss scale."""

    def _step(self) -> bool:
        if self.optimizer is not None:
            self.optimizer.step()
        return True

    @contextmanager
    def _rates_cut(self) -> Iterator[None]:
        groups = self.optimizer.param_groups if self.optimizer is not None else []
        rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * self.lr_factor
        try:
            yield
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def _parameters(self) -> list[Tensor]:
        groups = self.optimizer.param_groups if self.optimizer is not None else []
        return [p for group in groups for p in group["params"]]

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._parameters() if p.grad is not None]


class _Window:
    """The batches gathered for one update, weighed so that the update is the mean over all their items.

    The first batch counts 1 and any other by its size relative to the first, so batches of one size, the ordinary case,
    multiply by exactly 1. The sum of the counts is divided out once, at the update, when a short tail is known.
    """

    def __init__(self) -> None:
        self.n_batches = 0
        self.total = 0.0
        self._first = 1
        self._weight = 1.0

    def weigh(self, loss: Tensor, n_items: int, *, is_new_batch: bool) -> Tensor:
        if not self.n_batches:
            self._first = max(n_items, 1)
        self._weight = n_items / self._first
        self.n_batches += is_new_batch
        self.total += self._weight
        return self.weigh_again(loss)

    def weigh_again(self, loss: Tensor) -> Tensor:
        """Weighs a further part of the newest batch, whose items were all counted with the first."""
        return loss if self._weight == 1.0 else loss * self._weight

    def average(self, gradients: list[Tensor]) -> None:
        if gradients and self.total not in (0.0, 1.0):
            torch._foreach_div_(gradients, self.total)


class AutocastStep(TrainStep):
    """Forward passes in a lower precision where that is safe; weights, loss and updates stay in fp32.

    Predictions are returned in fp32, so losses and metrics are never computed in 8 bits of mantissa.
    """

    def __init__(self, model: nn.Module, loss_func: LossFunction, optimizer: Optimizer | None, dtype: torch.dtype):
        super().__init__(model, loss_func, optimizer)
        self.dtype = dtype
        self.precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
        self.device_type = next((p.device.type for p in model.parameters()), "cpu")

    def predict(self, x: Tree) -> Any:
        """Returns the model's output, computed in the lower precision and given in fp32."""
        with torch.autocast(self.device_type, dtype=self.dtype):
            pred = super().predict(x)
        return _to_float(pred)


class ScaledStep(AutocastStep):
    """fp16: an autocast step whose loss is scaled up so that small gradients survive, as in torch's `GradScaler`.

    An update whose gradients overflowed is skipped, and does not count as an update.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_func: LossFunction,
        optimizer: Optimizer | None,
        scaler: torch.amp.GradScaler | None = None,
    ):
        super().__init__(model, loss_func, optimizer, torch.float16)
        self.scaler = torch.amp.GradScaler(self.device_type) if scaler is None else scaler

    def state_dict(self) -> dict[str, Any]:
        """Returns the loss scale and how many updates it has lasted."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` stood."""
        self.scaler.load_state_dict(state)

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def _unscale(self) -> None:
        if self.optimizer is not None:
            self.scaler.unscale_(self.optimizer)

    def _step(self) -> bool:
        if self.optimizer is None:
            return True
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return bool(self.scaler.get_scale() >= scale)


def make_step(
    model: nn.Module, loss_func: LossFunction, optimizer: Optimizer | None = None, *, precision: str = "fp32"
) -> TrainStep:
    """Returns the step for a resolved precision: "fp32", "bf16" or "fp16"."""
    if precision == "bf16":
        return AutocastStep(model, loss_func, optimizer, torch.bfloat16)
    if precision == "fp16":
        return ScaledStep(model, loss_func, optimizer)
    return TrainStep(model, loss_func, optimizer)


def _to_float(pred: Any) -> Any:
    if isinstance(pred, Tensor):  # the ordinary case
        return pred.float() if pred.dtype in (torch.bfloat16, torch.float16) else pred
    return map_tensors(lambda t: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t, pred)
