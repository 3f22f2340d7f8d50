"""Training by several processes at once: torch's own `DistributedDataParallel`, or `fully_shard` for large models.

Each process holds the model and takes its share of every batch (`data.share`). Gradients and losses are means over the
items of all shares, so N processes do what one would do with N times the batch size. The model itself stays as it is.
Only how a training step calls it is wrapped, so names in files do not depend on how a model was trained.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from minilearner import processes
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.share import Share
from minilearner.errors import DataError, closest, plural
from minilearner.models.restore import evaluation_mode
from minilearner.training.carried_sums import CarriedSums
from minilearner.training.gradient_window import GradientWindow
from minilearner.training.loss_terms import Divisor
from minilearner.training.strategy import OneProcess, Strategy
from minilearner.tree import Tree, digest, is_empty, map_tensors, n_items

__all__ = [
    "DataParallel",
    "Sharded",
    "StrategyChoice",
    "Wrapper",
    "make_strategy",
    "resolve_strategy",
    "shard_model",
    "share_loss",
    "share_out",
    "wrap_in_ddp",
]

Wrapper: TypeAlias = Callable[[nn.Module], nn.Module]

StrategyChoice: TypeAlias = "str | Wrapper | None"
"""What users pass as `strategy`.

- "auto", "ddp": every process holds the whole model.
- "fsdp": every process holds a part of each weight, its gradient and the optimizer's state; see `shard_model`.
- a function that wraps a model as "ddp" does, for instance
  ``partial(DistributedDataParallel, find_unused_parameters=True)``.
- None: every process trains for itself.

If the shares differ, how much each counts depends on the loss:

- One call of a torch loss, whatever wraps it: what it divides by, such as the sum of the class weights. So the update
  is that of one process with the whole batch.
- Several calls: the same, if all divide by the same number. Otherwise each share counts by its number of items.
- A loss that reduces by hand: each share counts by its number of items. So if the loss divides by weights or by a mask,
  the update is the mean of the shares' own losses, and not exactly that of the whole batch. The loss must be finite for
  each share, also if nothing counts in it. (One process alone measures such weights.)
- Sums: a loss that only adds up torch's sums is added up. A sum by hand, or a sum beside a mean, is averaged over the
  shares: divide it by the number of items yourself.
"""

_CHOICES = ("auto", "ddp", "fsdp")
_LEAST_UNIT = 2**16  # weights: fewer are not worth an exchange of their own
_N_SUMS = 6  # numbers that all processes add up in a step; see `_count`
_ROUNDING = 1e-6  # sums in float32 may differ by this part of their size


def resolve_strategy(strategy: StrategyChoice) -> Wrapper | None:
    """Returns the function that wraps a model for training by several processes; None if this process trains alone.

    Raises:
        ValueError: an unknown name.
    """
    if strategy is not None and not callable(strategy) and strategy not in _CHOICES:
        listed = ", ".join(map(repr, _CHOICES))
        raise ValueError(
            f"`strategy` must be one of {listed}, None, or a function that wraps a model."
            f"{closest(str(strategy), _CHOICES)} Received: strategy={strategy!r}."
        )
    if strategy is None or processes.count() == 1:
        return None
    if callable(strategy):
        return strategy
    return shard_model if strategy == "fsdp" else wrap_in_ddp


def make_strategy(model: nn.Module, wrap: Wrapper | None) -> Strategy:
    """Returns the strategy of the processes that train `model` wrapped by `wrap`; None if this process trains alone."""
    if wrap is None:
        return OneProcess()
    return Sharded(model, wrap) if wrap is shard_model else DataParallel(model, wrap)


def shard_model(model: nn.Module, device_type: str = "cuda") -> nn.Module:
    """Lets torch's `fully_shard` keep a part of each weight in each process, in place.

    A pass brings weights together layer by layer: the members of every `nn.Sequential` and `nn.ModuleList` that are
    large enough, and then what is left. A model that is sharded already stays as it is.

    Raises:
        ValueError: the model is on the CPU, and this version of torch shards on GPUs only.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard  # a second to import

    if isinstance(model, FSDPModule):
        return model
    if device_type == "cpu" and not hasattr(torch.cpu.current_stream(), "record_event"):
        raise ValueError('`strategy="fsdp"` needs GPUs with this version of torch. Use "ddp", or a newer torch.')
    mesh = init_device_mesh(device_type, (processes.count(),))
    lists = [module for module in model.modules() if isinstance(module, (nn.Sequential, nn.ModuleList))]
    for member in (member for one in reversed(lists) for member in one):
        if sum(p.numel() for p in member.parameters()) >= _LEAST_UNIT and not isinstance(member, nn.ModuleList):
            fully_shard(member, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def wrap_in_ddp(model: nn.Module) -> nn.Module:
    """Wraps a model so that gradients are exchanged. Buffers are not: `after_update` copies them, once an update."""
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.15 and later
    buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(model, **buffers)


def share_out(dls: DataLoaders, model: nn.Module, wrap: Wrapper | None) -> DataLoaders:
    """Returns this process's share of the loaders, and gives every process the weights of process 0.

    Afterwards the model is on its device; a sharded model was never there in one piece. Without a `wrap` this process
    trains alone, and the loaders are returned as they are.

    Raises:
        DataError: the processes have different data, or too few items.
        ValueError: a loader is shared out already.
    """
    if wrap is None:
        return dls
    processes.join()
    own = [None if one is None else one.fingerprint() for one in (dls.train, dls.valid)]
    found = processes.gather(digest(own, dls.seed))
    odd = next((rank for rank, other in enumerate(found) if other != found[0]), None)
    if odd is not None:
        raise DataError(
            f"the processes have different data: process {odd} differs from process 0. Every process must make the "
            "same loaders. Give a seed to everything random in making them, such as a random split."
        )
    is_sharded = wrap is shard_model
    if not is_sharded:
        model.to(dls.device)
    with torch.no_grad():
        processes.copy_from_first([*model.parameters(), *model.buffers()])
    if is_sharded:
        shard_model(model, dls.device.type)
    part, index, count = copy.copy(dls), processes.rank(), processes.count()
    part.train = dls.train.take_share(Share(index, count, is_even=True))
    part.valid = None if dls.valid is None else dls.valid.take_share(Share(index, count, is_filled_up=is_sharded))
    n = dls.train.n_items
    if not len(part.train) or (n is not None and n < count):
        raise DataError(
            f"{count} processes cannot share out {'the training items' if n is None else plural(n, 'training item')} "
            f"in batches of {dls.bs}: a "
            "step takes one batch for each process. Lower `bs`, start fewer processes, or keep the short batch with "
            "drop_last=False."
        )
    return part


def share_loss(loss_func: Any, device: torch.device, wrap: Wrapper | None) -> None:
    """Moves a loss that is a module to the device, and gives every process the parameters and buffers of process 0."""
    if not isinstance(loss_func, nn.Module):
        return
    loss_func.to(device)
    if wrap is not None:
        with torch.no_grad():
            processes.copy_from_first([*loss_func.parameters(), *loss_func.buffers()])


class DataParallel(Strategy):
    """Every process makes the step with its share of the batch, and all make the same update.

    Gradients are exchanged while they are computed, once for each update, also if it gathers several batches. Batch
    norm sees a process's own share; its running statistics are those of process 0, as always with DDP. (For statistics
    over all shares, convert the model with `nn.SyncBatchNorm.convert_sync_batchnorm`.) Callbacks see the same loss and
    metrics in every process, and must cancel in all or none. In fp16 an overflow in one process skips the update in
    all, since it spreads with the gradients.

    Args:
        model: the model that is trained.
        wrap: wraps the model so that its gradients are exchanged.
    """

    passes_together = False

    def __init__(self, model: nn.Module, wrap: Wrapper):
        self.model = model
        self.n_processes = processes.count()
        self.own_loss: Tensor | None = None
        self._wrap = wrap
        self._wrapped: dict[bool, nn.Module] = {}  # without and with carried sums
        self._can_carry = False  # not with a user's own wrapper, which may change gradients on their way
        self._carried: CarriedSums | None = None  # of the latest forward pass
        self._parameters: list[nn.Parameter] = []  # those of the wrapped model, and which of them learn
        self._learning: list[bool] = []
        self._will_exchange = self._has_exchanged = True
        self._is_apart = False
        self._stand_in: Tree = None
        self._n_own = self._n_all = 0
        self._all = Divisor(0.0, 0)
        self._is_sum = False
        self._receive: Callable[[], list[float]] | None = None  # waits for a late loss
        self._late_loss: Tensor | None = None
        self._usual_total = 0.0  # what the losses of all processes divided by in the step before; 0 if unknown

    def call(
        self,
        network: Callable[..., Any],
        inputs: tuple[Any, ...],
        named: dict[str, Any],
        closes_window: bool,
        may_be_late: bool,
    ) -> Any:
        """Returns `network(*inputs, **named)`; in training, through the wrapped model."""
        if not torch.is_grad_enabled():
            return network(*inputs, **named)
        self._n_own, self._will_exchange, self._carried = n_items((*inputs, named)), False, None
        if not self.model.training:
            return network(*inputs, **named)
        if self._is_apart:
            return self._call_with_stand_in(self.model, inputs, named)
        wrapped, self._will_exchange = self._wrap_model(may_be_late), closes_window
        no_sync = nullcontext if closes_window else getattr(wrapped, "no_sync", nullcontext)
        with no_sync():
            return self._call_with_stand_in(wrapped, inputs, named)

    def mean_loss(self, loss: Tensor, divisor: Divisor | None = None, *, may_be_late: bool = False) -> Tensor:
        """Returns the loss over the items of all processes; only this process's part of it has gradients here.

        A late loss is exchanged during the backward pass, with the gradients if possible. What all divide by is then
        taken from the step before, as all batches but the last of an epoch have the same size; `after_backward`
        corrects the gradients if it differs.
        """
        if not torch.is_grad_enabled():
            return loss
        self._drop_late_loss()
        divisor = divisor or Divisor(self._n_own, self._n_own)
        own = loss.detach()
        if self._is_apart:  # what all divide by is known when every part has gone through: see `finish_loss`
            scale = 1.0 if divisor.is_sum else divisor.value / max(self._n_all, 1)
            return _OwnPart.apply(loss, own, scale * self.n_processes)  # type: ignore[no-any-return]
        self.own_loss = own
        if may_be_late and self._usual_total and not divisor.taps and own.device.type == "cpu":
            loss = self._send_late(loss, self._count(own, divisor))
            scale = float(divisor.value) * self.n_processes / self._usual_total
            self._late_loss = _OwnPart.apply(loss, own, scale)
            return self._late_loss
        mean, scale = self._combine(own, divisor)
        if self._carried is not None:
            loss = self._carried.attach(loss)
        return _OwnPart.apply(loss, mean, scale)  # type: ignore[no-any-return]

    @contextmanager
    def work_apart(self, n_items: int) -> Iterator[None]:
        """Lets each process make as many passes inside as it needs; gradients are exchanged at the update."""
        self._count_all(n_items)
        self._is_apart = True
        try:
            yield
        finally:
            self._is_apart = False

    def finish_loss(self, window: GradientWindow, loss: Tensor, divisor: Divisor) -> Tensor:
        """Returns the loss over the items of all processes from one that was computed in `work_apart`."""
        self.own_loss = loss.detach()
        mean, _ = self._combine(self.own_loss, divisor)
        if window.n_batches:
            window.add(self._all)
        return mean

    def count_items(self, x: Tree) -> int:
        """Returns how many items all processes had in the latest training batch."""
        return self._n_all

    def weigh(self, window: GradientWindow, loss: Tensor, divisor: Divisor) -> Tensor:
        """Returns the loss with its weight in the window: that of the batch's items in all processes."""
        if not self._is_apart:
            return window.weigh(loss, self._all)
        window.count_batch(self._n_all)
        if divisor.is_sum:
            return loss
        return loss if window.unit == self._n_all else loss * (self._n_all / window.unit)

    def before_backward(self) -> None:
        """Notes whether this pass exchanges the gathered gradients."""
        self._has_exchanged = self._will_exchange

    def after_backward(self) -> None:
        """Waits for a late loss, and corrects the gradients if what all divide by was another number than usual."""
        if self._receive is None or self._late_loss is None:
            return
        usual = self._usual_total
        mean = self._read(self._receive())
        with torch.no_grad():
            self._late_loss.fill_(mean)
        self._receive = self._late_loss = None
        total = float(self._all.value)
        if total and not math.isclose(total, usual, rel_tol=_ROUNDING if self._carried is not None else 0.0):
            for gradient in [p.grad for p in self.model.parameters() if p.grad is not None]:
                gradient.mul_(usual / total)

    def before_update(self, gradients: list[Tensor], of_loss: list[Tensor]) -> None:
        """Exchanges the gradients that the last backward pass did not exchange."""
        processes.average(of_loss if self._has_exchanged else gradients)
        self._has_exchanged = True

    def after_update(self) -> None:
        """Copies the buffers of process 0 to the others."""
        with torch.no_grad():
            processes.copy_from_first(self.model.buffers())

    def _combine(self, own: Tensor, divisor: Divisor) -> tuple[Tensor, float | Tensor]:
        """Returns the loss over all processes, and the factor of this process's gradients.

        The exchange takes the mean over processes, not over items.
        """
        if own.device.type != "cpu":  # the number of items is sent by itself, so that nobody waits for the device
            self._is_sum = divisor.is_sum or (self._is_sum and divisor.size == 0)
            return self._combine_on_device(own, divisor)
        mean = own.new_tensor(self._read(processes.add_up(self._count(own, divisor))))
        if self._all.is_sum:
            return mean, float(self.n_processes)
        total = self._all.value
        return mean, float(divisor.value) * self.n_processes / total if total else 1.0

    def _send_late(self, loss: Tensor, numbers: list[float]) -> Tensor:
        """Sends numbers to all processes during the backward pass of the loss that it returns."""
        if self._carried is None:
            self._receive = processes.send_to_add_up(numbers)
            return loss
        self._receive = self._carried.receive
        return self._carried.attach(loss, numbers)

    def _count(self, own: Tensor, divisor: Divisor) -> list[float]:
        """Returns what all processes add up of a loss on the CPU."""
        self._is_sum = divisor.is_sum or (self._is_sum and divisor.size == 0)
        value, weight = float(own), float(divisor.value)
        return [value * weight, weight, self._n_own, value, divisor.size, self._is_sum]

    def _read(self, sums: list[float]) -> float:
        """Takes up the sums of what all processes count, and returns the loss over all of them."""
        weighted, total, n, plain, size, n_sums = sums
        if not self._is_apart:
            self._n_all = round(n)
        self._all = Divisor(total, max(round(size), 1), is_sum=n_sums > 0)
        self._usual_total = 0.0 if n_sums else total
        if n_sums:
            return plain
        # Inputs without tensors have no number of items.
        return weighted / total if total else plain / self.n_processes

    def _drop_late_loss(self) -> None:
        """Forgets a late loss whose backward pass was cancelled."""
        if self._receive is not None:
            self._receive()
        self._receive = self._late_loss = None

    def _combine_on_device(self, own: Tensor, divisor: Divisor) -> tuple[Tensor, float | Tensor]:
        if not self._is_apart:
            self._count_all(self._n_own)
        weight = torch.as_tensor(divisor.value, dtype=own.dtype, device=own.device)
        sums = torch.stack([own * weight, weight, own])
        dist.all_reduce(sums)
        weighted, total, plain = sums.unbind()
        self._all = Divisor(total, max(self._n_all, 1), self._is_sum)
        if self._is_sum:
            return plain, float(self.n_processes)
        is_empty = total == 0
        mean = torch.where(is_empty, plain / self.n_processes, weighted / total)
        return mean, torch.where(is_empty, 1.0, weight * self.n_processes / total)

    def _count_all(self, n_items: int) -> None:
        self._n_all = round(processes.add_up([n_items])[0])

    def _call_with_stand_in(self, network: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Calls the network. All must take part, so a process with no items left passes an earlier item."""
        if not is_empty((inputs, named)):
            if self._stand_in is None:  # of the first batch; a copy, since a part would keep the whole batch
                self._stand_in = map_tensors(lambda t: (t[:1] if t.ndim else t).detach().clone(), (inputs, named))
            return network(*inputs, **named)
        if self._stand_in is None:
            self._stand_in = map_tensors(lambda t: t.new_zeros((1, *t.shape[1:])), (inputs, named))
        inputs, named = self._stand_in
        with evaluation_mode(self.model):
            return map_tensors(lambda t: t[:0], network(*inputs, **named))

    def _wrap_model(self, may_be_late: bool) -> nn.Module:
        """Returns the wrapped model, which carries a late loss if it can.

        It is wrapped anew if other parameters learn than before.
        """
        if not self._wrapped or [p.requires_grad for p in self._parameters] != self._learning:
            self._parameters = list(self.model.parameters())
            self._learning = [p.requires_grad for p in self._parameters]
            self._wrapped.clear()
            self._can_carry = self._wrap is wrap_in_ddp and any(self._learning) and _can_carry(self.model)
        carries = may_be_late and self._can_carry
        if carries not in self._wrapped:
            self._wrapped[carries] = self._wrap(CarriedSums(self.model, _N_SUMS) if carries else self.model)
        wrapped = self._wrapped[carries]
        self._carried = wrapped.module if carries else None  # type: ignore[assignment]
        return wrapped


def _can_carry(model: nn.Module) -> bool:
    """Whether the gradients of a model can take numbers along.

    A number on a device would have to be waited for. DDP would send float32 beside another type in a message of its
    own, and float64 shall lose no digits.
    """
    return all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())


class Sharded(DataParallel):
    """Like `DataParallel`, for a sharded model: every forward pass brings its weights together, so all must make it."""

    passes_together = True

    def call(
        self,
        network: Callable[..., Any],
        inputs: tuple[Any, ...],
        named: dict[str, Any],
        closes_window: bool,
        may_be_late: bool,
    ) -> Any:
        """Returns `network(*inputs, **named)`."""
        if torch.is_grad_enabled():
            self._n_own = n_items((*inputs, named))
            self._will_exchange = True  # in every batch: a process has no room for sums
        return self._call_with_stand_in(self.model, inputs, named)


class _OwnPart(torch.autograd.Function):
    """Replaces a loss's value, by the mean over processes for instance, and scales its gradient."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, value: Tensor, scale: float | Tensor) -> Tensor:
        ctx.scale = scale
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.scale, None, None
