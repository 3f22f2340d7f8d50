"""Training by several processes at once: torch's own `DistributedDataParallel`, or `fully_shard` for large models.

Each process holds the model and takes its part of every batch (`data.sharing`); gradients and losses are means over
the items of all parts, so that N processes do what one would do with N times the batch size. The model itself stays as
it is: what is wrapped is only how a training step calls it, so names in files never tell how a model was trained.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from minilearner import processes
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.share import Share
from minilearner.errors import DataError, closest
from minilearner.models.restore import evaluation_mode
from minilearner.training.step import AutocastStep, LossFunction, ScaledStep, TrainStep, make_step
from minilearner.tree import Tree, digest, is_empty, map_tensors

__all__ = ["DistributedStep", "Strategy", "distributed_step", "resolve_strategy", "shared_out"]

Wrapper: TypeAlias = Callable[[nn.Module], nn.Module]

Strategy: TypeAlias = "str | Wrapper | None"
"""What users pass as `strategy`.

- "auto", "ddp": every process holds the whole model.
- "fsdp": every process holds a part of each weight, its gradient and the optimizer's state; see `fully_sharded`.
- what wraps a model as "ddp" does, such as ``partial(DistributedDataParallel, find_unused_parameters=True)``.
- None: every process trains for itself.
"""

_STRATEGIES = ("auto", "ddp", "fsdp")
_LEAST_UNIT = 2**16  # weights: fewer are not worth an exchange of their own


def resolve_strategy(strategy: Strategy) -> Wrapper | None:
    """Returns what wraps a model for training by several processes; None in a process alone, or where None was given.

    Raises:
        ValueError: an unknown name.
    """
    if strategy is not None and not callable(strategy) and strategy not in _STRATEGIES:
        listed = ", ".join(map(repr, _STRATEGIES))
        raise ValueError(
            f"`strategy` must be one of {listed}, None, or what wraps a model.{closest(str(strategy), _STRATEGIES)} "
            f"Received: strategy={strategy!r}."
        )
    if strategy is None or processes.count() == 1:
        return None
    if callable(strategy):
        return strategy
    return fully_sharded if strategy == "fsdp" else _ddp


def fully_sharded(model: nn.Module, device_type: str = "cuda") -> nn.Module:
    """Has torch's `fully_shard` keep a part of each weight in each process, in place.

    Weights are brought together layer by layer as a pass needs them: the members of every `nn.Sequential` and
    `nn.ModuleList` that are large enough, and then what is left. A model that `fully_shard` has been at stays as it is.

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


def _ddp(model: nn.Module) -> nn.Module:
    """Wraps a model. Its buffers are made the same after each update, instead of before each pass: see `update`."""
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # torch 2.15 and later
    buffers: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(model, **buffers)


def shared_out(dls: DataLoaders, model: nn.Module, wrap: Wrapper | None) -> DataLoaders:
    """Returns this process's share of the loaders, and gives every process the first one's weights.

    The model is on its device afterwards; one that is sharded never was there in one piece. Without a `wrap`, where a
    process trains for itself, the loaders are returned as they are.

    Raises:
        DataError: the processes have different data, or too few of them.
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
            f"the processes have different data: that of rank {odd} differs from that of rank 0. Every process must "
            "make the same loaders; give seeds to whatever draws in making them, such as a random split."
        )
    is_sharded = wrap is fully_sharded
    if not is_sharded:
        model.to(dls.device)
    with torch.no_grad():
        processes.copy_from_first([*model.parameters(), *model.buffers()])
    if is_sharded:
        fully_sharded(model, dls.device.type)
    part, index, count = copy.copy(dls), processes.rank(), processes.count()
    part.train = dls.train.take_share(Share(index, count, is_even=True))
    part.valid = None if dls.valid is None else dls.valid.take_share(Share(index, count, is_filled_up=is_sharded))
    n = dls.train.n_items
    if not len(part.train) or (n is not None and n < count):
        raise DataError(
            f"{count} processes cannot share out {'the' if n is None else n} training items in batches of {dls.bs}: a "
            "step takes one batch for each process. Lower `bs`, start fewer processes, or keep the short batch with "
            "drop_last=False."
        )
    return part


def distributed_step(
    model: nn.Module,
    loss_func: LossFunction,
    optimizer: Optimizer | None = None,
    wrap: Wrapper | None = None,
    *,
    precision: str = "fp32",
) -> TrainStep:
    """Returns the step for a resolved precision, by several processes where there is a `wrap`."""
    if wrap is None:
        return make_step(model, loss_func, optimizer, precision=precision)
    if wrap is fully_sharded:
        return _sharded_step(model, loss_func, optimizer, precision)
    if precision == "bf16":
        return _DistributedAutocastStep(model, loss_func, optimizer, torch.bfloat16).wrapped_by(wrap)
    if precision == "fp16":
        return _DistributedScaledStep(model, loss_func, optimizer).wrapped_by(wrap)
    return DistributedStep(model, loss_func, optimizer).wrapped_by(wrap)


class DistributedStep(TrainStep):
    """A step that every process makes with its part of the batch, to one and the same update.

    Gradients are exchanged while they are computed, once for each update also where several batches are gathered for
    it. Batch norm sees a process's own part; its running statistics are the first process's, as ever with DDP. (For
    statistics over all parts convert the model with `nn.SyncBatchNorm.convert_sync_batchnorm`.) Callbacks see the same
    loss and metrics in every process, and must cancel in all or none.
    """

    _wrap: Wrapper
    _network: nn.Module | None = None
    _learning: list[bool] | None = None
    _is_exchanged = True
    _is_apart = False
    _seen: Tree = None
    _n_items = 0

    def wrapped_by(self, wrap: Wrapper) -> DistributedStep:
        """Returns the step, whose training passes run through ``wrap(model)``."""
        self._wrap, self.n_processes = wrap, processes.count()
        return self

    def together(self, loss: Tensor, n_items: int) -> Tensor:
        """Returns the mean loss over the items of all processes; what flows back into each is its own part.

        What is computed `apart` keeps its own value, and is brought together by `over_all`.
        """
        own = mean = loss.detach()
        if not self._is_apart:
            self.own_loss = own
            mean = self._mean_over_items(own, n_items)
        return _Part.apply(loss, mean, self._scale(n_items))  # type: ignore[no-any-return]

    def _mean_over_items(self, own: Tensor, n_items: int) -> Tensor:
        if own.device.type != "cpu":  # the number of items is sent by itself, so that nobody waits for the device
            self._count(n_items)
            return _mean_over_processes(own * self._scale(n_items))
        value = float(own)
        total, n, plain = processes.add_up([value * n_items, n_items, value])
        self._n_items = round(n)
        return own.new_tensor(total / n if n else plain / self.n_processes)

    @contextmanager
    def apart(self, n_items: int) -> Iterator[None]:
        """Lets each process make as many passes inside as it needs; gradients are exchanged at the update."""
        self._count(n_items)
        self._is_apart = True
        try:
            yield
        finally:
            self._is_apart = False

    def over_all(self, loss: Tensor, n_items: int) -> Tensor:
        """Returns the mean over the items of all processes of a loss that was computed apart."""
        self.own_loss = loss.detach()
        return _mean_over_processes(self.own_loss * self._scale(n_items))

    def _count(self, n_items: int) -> None:
        self._n_items = round(processes.add_up([n_items])[0])

    def _scale(self, n_items: int) -> float:
        # The exchange takes the mean over processes, not over items. Inputs without tensors have none to be counted.
        return n_items * self.n_processes / self._n_items if self._n_items else 1.0

    def items_in(self, x: Tree) -> int:
        """Returns how many items all processes had in the newest batch."""
        return self._n_items

    def backward(self, loss: Tensor, n_items: int) -> None:
        """Adds the gradients of `loss`; what counts is the number of items in all processes."""
        if self.part:
            self._backward(self._window.weigh_again(loss))
        else:
            super().backward(loss, self._n_items)

    def compute_loss(self, pred: Any, y: Any) -> Tensor:
        """Returns the loss of a batch; that of no items, where the others had the last ones, is 0."""
        if not is_empty(pred):
            return super().compute_loss(pred, y)
        empty: list[Tensor] = []
        map_tensors(lambda t: empty.append(t.sum()) or t, pred)  # type: ignore[func-returns-value]
        return torch.stack(empty).sum()

    def update(self) -> bool:
        """Updates the weights, alike in all processes."""
        if not self._is_exchanged:  # the window ended before it was full
            processes.average(self._gradients())
            self._is_exchanged = True
        is_updated = super().update()
        with torch.no_grad():
            processes.copy_from_first(self.model.buffers())
        return is_updated

    def _forward(self, *inputs: Any) -> Any:
        if not (torch.is_grad_enabled() and self.model.training):
            return super()._forward(*inputs)
        network = self.model if self._is_apart else self._wrapped()
        self._is_exchanged = not self._is_apart and self._window.n_batches + 1 >= self.n_accumulate
        no_sync = nullcontext if self._is_exchanged else getattr(network, "no_sync", nullcontext)
        with no_sync():
            return self._through(network, inputs)

    def _through(self, network: nn.Module, inputs: tuple[Any, ...]) -> Any:
        """What the network says; all must take part, so where no item is left, one of before stands in."""
        if not is_empty(inputs):
            self._seen = map_tensors(lambda t: t[:1].detach(), inputs)
            return network(*inputs)
        if self._seen is None:
            self._seen = map_tensors(lambda t: t.new_zeros((1, *t.shape[1:])), inputs)
        with evaluation_mode(self.model):
            return map_tensors(lambda t: t[:0], network(*self._seen))

    def _wrapped(self) -> nn.Module:
        """The model, wrapped anew where other parameters learn than before."""
        learning = [p.requires_grad for p in self.model.parameters()]
        if self._network is None or learning != self._learning:
            self._network, self._learning = self._wrap(self.model), learning
        return self._network


class _DistributedAutocastStep(DistributedStep, AutocastStep):
    """The same, in a lower precision."""


class _DistributedScaledStep(DistributedStep, ScaledStep):
    """The same in fp16: an overflow in one process skips the update in all, for it spreads with the gradients."""


class _ShardedStep(DistributedStep):
    """The same with a model whose weights are brought together in every forward pass, so that all must make each."""

    passes_together = True

    def _forward(self, *inputs: Any) -> Any:
        self._is_exchanged = True  # gradients of each batch: only a part of their sum fits into a process
        return self._through(self.model, inputs)


class _ShardedAutocastStep(_ShardedStep, AutocastStep):
    """The same, in a lower precision."""


def _sharded_step(
    model: nn.Module, loss_func: LossFunction, optimizer: Optimizer | None, precision: str
) -> DistributedStep:
    if precision == "fp16":
        raise ValueError('`strategy="fsdp"` computes in "fp32" or "bf16". Received: precision="fp16".')
    if precision == "bf16":
        return _ShardedAutocastStep(model, loss_func, optimizer, torch.bfloat16).wrapped_by(fully_sharded)
    return _ShardedStep(model, loss_func, optimizer).wrapped_by(fully_sharded)


class _Part(torch.autograd.Function):
    """Has another number as its value, such as the mean over processes, and a scaled one as what is differentiated."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.scale, None, None


def _mean_over_processes(value: Tensor) -> Tensor:
    dist.all_reduce(value)
    return value / processes.count()
