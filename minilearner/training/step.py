"""What happens to one batch: predict, compute the loss, go backward, update the weights.

A step knows a model, a loss and an optimizer, and nothing of epochs, callbacks or learners. How it computes is its
`Precision`; which processes take part is its `Strategy`. `make_step` picks both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minilearner.errors import DataError
from minilearner.models.groups import parameters_of
from minilearner.models.inputs import spread_inputs
from minilearner.runtime import is_out_of_memory
from minilearner.training.distributed import Wrapper, make_strategy
from minilearner.training.gradient_window import GradientWindow
from minilearner.training.item_losses import DivisorProbe, LossFunction, measure_loss
from minilearner.training.loss_terms import Divisor, is_plain_mean
from minilearner.training.precision import Precision, make_precision
from minilearner.training.strategy import Strategy
from minilearner.tree import Tree, is_empty, tensors_of

__all__ = ["LossFunction", "Step", "describe", "loss_error", "make_step"]


_NO_NAMES: dict[str, Any] = {}


class Step:
    """One training step. In fp32 and one process, it is to the bit what a hand-written loop does.

    Args:
        model: called with the inputs, several of which are spread over its arguments; see `spread_inputs`.
        loss_func: mean loss of a batch.
        optimizer: may be None if only `predict` and `compute_loss` are used.
        precision: how the step computes.
        strategy: which processes take part.

    Attributes:
        network: what is called in the model's place. By default the model itself. If it has `settings`, they become
            part of the run's settings.
        n_accumulate: how many batches are averaged, over their items, into one update.
        max_norm: the largest total norm of the gradients in an update; larger ones are scaled down. None allows any.
        norm_type: the exponent of that norm.
        lr_factor: multiplies the learning rates of each update, whatever schedule sets them.
        window: the batches gathered for the next update.
        divisor: what the latest training batch's loss divides by. None is the number of items.
        measures_loss: whether the batches of an update weigh what their losses divide by. Otherwise they weigh as many
            items as `backward` receives.
        is_settled: whether the gradients are ready for an update: exchanged between processes, and without loss scale.
        n_processes: how many processes make this step together.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_func: LossFunction,
        optimizer: Optimizer | None = None,
        *,
        precision: Precision,
        strategy: Strategy,
    ):
        self.model = model
        self.network: Callable[..., Any] = model
        self.loss_func = loss_func
        self.optimizer = optimizer
        self.precision = precision
        self.strategy = strategy
        self.n_processes = strategy.n_processes
        self.n_accumulate = 1
        self.max_norm: float | None = None
        self.norm_type = 2.0
        self.lr_factor = 1.0
        self.window = GradientWindow()
        self.divisor: Divisor | None = None
        self.measures_loss = True
        self.is_settled = False
        self._is_late = False  # whether the loss of the latest batch is one that may be late
        self._probe = DivisorProbe()
        self._of_loss = parameters_of(model, loss_func)[len(list(model.parameters())) :]

    def predict(self, x: Tree, *, may_be_late: bool = False) -> Any:
        """Returns the model's output for a batch of inputs.

        Args:
            x: the inputs.
            may_be_late: whether the other processes' losses may arrive during `backward`. Then `compute_loss` and
                `backward` must follow, with nothing in between, and until then the loss is that of this process alone.
        """
        inputs, named = ((x,), _NO_NAMES) if isinstance(x, Tensor) else spread_inputs(self.model, x)
        closes_window = self.window.n_batches + 1 >= self.n_accumulate
        self._is_late = may_be_late and self.n_processes > 1 and self._stands_alone()
        return self.precision.call(self.strategy.call, self.network, inputs, named, closes_window, self._is_late)

    def compute_loss(self, pred: Any, y: Any) -> Tensor:
        """Returns the loss of a batch. In training it is the mean over the items of all processes.

        Args:
            pred: the model's output.
            y: the targets.

        Raises:
            DataError: the loss function cannot compare these predictions and targets.
        """
        several = self.n_processes > 1
        is_late, self._is_late = self._is_late, False  # only the loss of what was predicted last
        self.divisor = None
        try:
            if self.n_accumulate == 1 and self.window.part is None and not several:  # the ordinary case
                loss = self.loss_func(pred, y)
            elif several and is_empty(pred):
                loss, self.divisor = _sum_of_nothing(pred), Divisor(0.0, 0)
            elif self.measures_loss and torch.is_grad_enabled():
                loss, self.divisor = measure_loss(self.loss_func, pred, y, None if several else self._probe)
            else:
                loss = self.loss_func(pred, y)
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error) or isinstance(error, DataError):
                raise
            raise loss_error(pred, y, error) from error
        if not several:
            return loss
        return self.strategy.mean_loss(loss, self.divisor, may_be_late=is_late)

    def backward(self, loss: Tensor, n_items: int) -> None:
        """Adds the gradients of `loss`, that of `n_items`, to those gathered for the next update."""
        if self.is_settled:  # an update was cancelled, and its gradients stay
            self._unsettle()
        is_whole = self.n_accumulate == 1 and self.window.part is None
        if is_whole and self.n_processes == 1:
            self.precision.backward(loss)
            return
        divisor = self.divisor or Divisor(n_items, n_items)
        if not divisor.taps and not is_whole:
            loss = self.strategy.weigh(self.window, loss, divisor)
        if self.n_processes > 1:
            self.strategy.before_backward()
        if divisor.taps:
            self._backward_by_terms(loss, divisor)
        else:
            self.precision.backward(loss)
        if self.n_processes > 1:
            self.strategy.after_backward()

    def _stands_alone(self) -> bool:
        """Whether the gradients of the next backward pass are all that an update takes, and the loss is a plain mean.

        The answer is the same in every process, whatever its share of the batch.
        """
        is_whole = self.n_accumulate == 1 and self.window.part is None and not self.window.n_batches
        return is_whole and is_plain_mean(self.loss_func) and self.optimizer is not None and not self._gradients()

    def _backward_by_terms(self, loss: Tensor, divisor: Divisor) -> None:
        """Gathers the gradients of terms with divisors of their own, then those of all else.

        A term moves the loss by its factor in it, such as a learnt weight. The term's part of the gradients is that of
        the product of both.
        """
        parameters, taps = self._parameters(), divisor.taps
        outputs = [tap.output for tap in taps.values()]
        factors = torch.autograd.grad(loss, outputs, create_graph=True, allow_unused=True)
        pairs = [
            (tap.value, loss.new_zeros(()) if f is None else f) for tap, f in zip(taps.values(), factors, strict=True)
        ]
        of_factors = [value.detach() * factor for value, factor in pairs]
        rest = self.strategy.weigh(self.window, loss - sum(of_factors), divisor)
        before = [p.grad for p in parameters]
        for tap in taps.values():
            tap.is_closed = True
        for (number, tap), (value, factor), of_factor in zip(taps.items(), pairs, of_factors, strict=True):
            weight = self.window.weigh_term(number, tap.divisor)
            for parameter in parameters:
                parameter.grad = None
            product = value * factor.detach() + of_factor
            if product.requires_grad and not _is_zero(weight):
                self.precision.backward((product * weight).to(loss.dtype), retain_graph=True)
            self.window.add_gradients(number, [p.grad for p in parameters])
        for parameter, kept in zip(parameters, before, strict=True):
            parameter.grad = kept
        if rest.requires_grad:
            self.precision.backward(rest)
        for tap, of_factor in zip(taps.values(), of_factors, strict=True):
            tap.finish(of_factor)

    @contextmanager
    def whole_or_nothing(self) -> Iterator[None]:
        """Keeps the gradients that are added inside only if no error ends the block."""
        parameters, window = self._parameters(), copy.copy(self.window)
        window.terms = dict(window.terms)
        before = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            yield
        except BaseException:
            for parameter, gradient in zip(parameters, before, strict=True):
                parameter.grad = gradient
            self.window = window
            raise
        for parameter, gradient in zip(parameters, before, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)

    @property
    def is_pending(self) -> bool:
        """Whether gradients of earlier batches wait for an update."""
        return self.window.n_batches > 0

    def is_due(self, batches_left: int) -> bool:
        """Whether an update follows this batch. The last batch of an epoch closes a window that is not yet full."""
        return self.n_accumulate == 1 or self.window.n_batches >= self.n_accumulate or batches_left == 0

    def settle_gradients(self) -> None:
        """Makes the gathered gradients what an update takes, but for their average: exchanged, and true to size.

        Only needed with several processes, a precision that scales the loss, or terms in the window. `update` calls it
        if nobody has.
        """
        self.window.merge_terms(self._parameters())
        if self.n_processes > 1:
            self._fill_gradients_of_loss()
            self.strategy.before_update(self._gradients(), [p.grad for p in self._of_loss if p.grad is not None])
        if self.optimizer is not None and self.precision.scales_loss:
            self.precision.unscale(self.optimizer)
        self.is_settled = True

    def update(self) -> bool:
        """Updates the weights from the gathered gradients. Returns False if the update had to be skipped."""
        if not self.is_settled and (self.n_processes > 1 or self.precision.scales_loss or self.window.terms):
            self.settle_gradients()
        if self.window.n_batches:
            self.window.average(self._gradients())
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters(), self.max_norm, self.norm_type)
        if self.lr_factor == 1.0:
            is_updated = self.optimizer is None or self.precision.step(self.optimizer)
        else:
            with self._cut_rates():
                is_updated = self.optimizer is None or self.precision.step(self.optimizer)
        self.is_settled = False
        if self.n_processes > 1:
            self.strategy.after_update()
        return is_updated

    def zero_grad(self) -> None:
        """Drops the gathered gradients."""
        if self.is_settled:
            self._unsettle()
        if self.optimizer is not None:
            if getattr(self.optimizer.zero_grad, "__func__", None) is not Optimizer.zero_grad:
                self.optimizer.zero_grad()
            else:  # torch's would open a range for its profiler, which takes 10 us a step
                for group in self.optimizer.param_groups:
                    for parameter in group["params"]:
                        parameter.grad = None
        if self.window.n_batches:
            self.window = GradientWindow()

    def _fill_gradients_of_loss(self) -> None:
        """Gives parameters of the loss a gradient of 0 in a process that had no item, so that all exchange the same."""
        for parameter in self._of_loss:
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _unsettle(self) -> None:
        """Makes settled gradients, whose update was cancelled, such that others can be added to them."""
        self.is_settled = False
        gradients = self._gradients()
        if gradients and self.precision.scales_loss:
            self.precision.skip()
            for gradient in gradients:
                gradient.mul_(self.precision.scale)

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep between two updates."""
        return self.precision.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from what `state_dict` returned."""
        self.precision.load_state_dict(state)

    @contextmanager
    def _cut_rates(self) -> Iterator[None]:
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


def make_step(
    model: nn.Module,
    loss_func: LossFunction,
    optimizer: Optimizer | None = None,
    *,
    precision: str = "fp32",
    wrap: Wrapper | None = None,
) -> Step:
    """Returns a step in the precision "fp32", "bf16" or "fp16".

    Args:
        model, loss_func, optimizer: see `Step`.
        precision: its name.
        wrap: what `resolve_strategy` returned; None if this process trains alone.

    Raises:
        ValueError: a sharded model was to be trained in fp16.
    """
    strategy = make_strategy(model, wrap)
    if strategy.passes_together and precision == "fp16":
        raise ValueError('`strategy="fsdp"` computes in "fp32" or "bf16". Received: precision="fp16".')
    return Step(model, loss_func, optimizer, precision=make_precision(precision, model), strategy=strategy)


def loss_error(pred: Any, y: Any, error: Exception) -> DataError:
    """Returns an error that says what the loss could not compare."""
    return DataError(f"the loss cannot compare predictions {describe(pred)} with targets {describe(y)}: {error}")


def describe(tree: Tree) -> str:
    """Returns shape and dtype of every tensor, such as `(64, 1, 32, 32) float32`."""
    if isinstance(tree, Tensor):
        return f"{tuple(tree.shape)} {str(tree.dtype).removeprefix('torch.')}"
    if isinstance(tree, (tuple, list)):
        return "(" + ", ".join(map(describe, tree)) + ")"
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key!r}: {describe(value)}" for key, value in tree.items()) + "}"
    return type(tree).__name__


def _is_zero(weight: float | Tensor) -> bool:
    """Whether nothing counts. A weight on a device is not waited for: its term is 0 then, and so is its gradient."""
    return not isinstance(weight, Tensor) and weight == 0


def _sum_of_nothing(pred: Tree) -> Tensor:
    """Returns 0 with a graph: the loss of a process that has no item left when the others have the last ones."""
    return torch.stack([t.sum() for t in tensors_of(pred)]).sum()
