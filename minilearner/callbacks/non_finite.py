"""What to do about a loss or a gradient that is NaN or infinite: raise, leave the update out, or roll back."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from minilearner import processes
from minilearner.checks import check_choice, check_count, check_fraction
from minilearner.errors import NonFiniteError
from minilearner.models.restore import BufferCopy
from minilearner.saving.optimizer_state import load_optimizer
from minilearner.training.callback import Callback, CancelBatch
from minilearner.training.run import Run
from minilearner.training.step import ScaledStep
from minilearner.tree import n_items, tensors_of

__all__ = ["NonFinite"]

_POLICIES = ("raise", "skip", "rollback")
_SHOWN = 8  # items, or places, that a message lists


class NonFinite(Callback):
    """Notices a training batch whose loss or gradients are NaN or infinite, before the weights do.

    Policies:

    - "raise": a `NonFiniteError` that names the epoch, the batch, its items and their files, and of them those whose
      own numbers are not finite. Nothing of the update is applied.
    - "skip": the update is left out. Model, buffers such as batch norm's statistics, optimizer and schedule stay as
      they were, and neither the batch's loss nor its metrics are recorded. With accumulation, the batches gathered for
      this update go with it. More than `limit` in a row raise.
    - "rollback": weights, buffers, optimizer and averages of the weights go back to a good state, at most `every_steps`
      updates old, and the learning rate is multiplied by `factor` for the rest of the run, whatever schedule sets it.
      Data and schedule go on from where they are. More than `limit` in a run raise.

    How often it happened, and where, is told by a warning at the end, and stands in the record's
    ``settings["non_finite"]``. With fp16 gradients overflow now and then, which the loss scale takes care of: there,
    only losses count.

    Each batch waits for the device, and the buffers are copied before each update. "rollback" keeps one more copy of
    weights and optimizer state, in checkpoints too. Validations and `lr_find` are left alone. Several processes do the
    same, also where only one has met such a batch: each batch waits for all, and messages name the rank and its items.

    Args:
        policy: one of the three.
        limit: see the policies.
        every_steps: optimizer updates between two copies for "rollback".
        factor: of the learning rate after each roll-back, in (0, 1].

    Raises:
        ValueError: an argument is out of range.
        NonFiniteError: in a run, as said.
    """

    order = 80  # after whatever changes losses and gradients
    ignored_arguments = ()

    def __init__(
        self,
        policy: Literal["raise", "skip", "rollback"] = "raise",
        *,
        limit: int = 10,
        every_steps: int = 100,
        factor: float = 0.5,
    ):
        check_choice(policy, "policy", _POLICIES)
        check_count(limit, "limit")
        check_count(every_steps, "every_steps")
        check_fraction(factor, "factor", closed="right")
        self.policy, self.limit, self.every_steps, self.factor = policy, limit, every_steps, factor
        self._start_anew()

    def _start_anew(self) -> None:
        self.places: list[tuple[int, int]] = []
        """The (epoch, batch) of each update that was left out or rolled back."""
        self.n_in_a_row = 0
        self.lr_factor = 1.0
        self._good: dict[str, Any] | None = None

    def before_fit(self, run: Run) -> None:
        self._start_anew()

    def before_batch(self, run: Run) -> None:
        run.step.lr_factor = self.lr_factor
        if run.training and not run.step.is_pending:
            self._buffers = BufferCopy(run.model)

    def after_backward(self, run: Run) -> None:
        gradients = [] if isinstance(run.step, ScaledStep) else _gradients(run)
        is_finite = _are_finite([*tensors_of(run.loss), *gradients])
        if run.step.n_processes > 1:
            is_finite = not any(processes.add_up([not is_finite]))
        if is_finite:
            self.n_in_a_row = 0
            if self.policy == "rollback":
                self._keep_good(run)
            return
        told, positions = _told_by_all(run)
        run.step.zero_grad()
        self._buffers.put_back()
        if self.policy == "raise":
            raise NonFiniteError(f'{told} Lower the rate, clip gradients, or give NonFinite("skip").', positions)
        self._go_on(run, told, positions)

    def after_fit(self, run: Run) -> None:
        run.step.lr_factor = 1.0
        if self.places:
            if run.record is not None:
                run.record.settings["non_finite"] = self._summary()
            if processes.is_first():
                warnings.warn(self._summary(), RuntimeWarning, stacklevel=2)

    def _go_on(self, run: Run, told: str, positions: Sequence[int]) -> None:
        self.places.append((run.epoch, run.iter))
        self.n_in_a_row += 1
        n, what = (self.n_in_a_row, "in a row") if self.policy == "skip" else (len(self.places), "in this run")
        if n > self.limit:
            raise NonFiniteError(f"{told} There were more than limit={self.limit} of that {what}.", positions)
        if self.policy == "rollback":
            self._roll_back(run, told, positions)
        run.loss = None
        raise CancelBatch

    def _keep_good(self, run: Run) -> None:
        """Keeps the state before this update, where that is due: its loss and gradients have proved it good."""
        if self._good is not None and run.global_step - self._good["global_step"] < self.every_steps:
            return
        self._good = {
            "global_step": run.global_step,
            "parameters": [p.detach().clone() for p in run.model.parameters()],
            "buffers": self._buffers.values,
            "optimizer": copy.deepcopy(run.optimizer.state_dict()["state"]),
            "followers": [copy.deepcopy(callback.state_dict()) for callback in _followers(run)],
        }

    def _roll_back(self, run: Run, told: str, positions: Sequence[int]) -> None:
        good = self._good
        if good is None:
            raise NonFiniteError(
                f"{told} There is no good state to go back to: the first batch was not finite.", positions
            )
        with torch.no_grad():
            for parameter, value in zip(run.model.parameters(), good["parameters"], strict=True):
                parameter.copy_(value)
        self._buffers.values = good["buffers"]
        self._buffers.put_back()
        groups = run.optimizer.state_dict()["param_groups"]
        load_optimizer(run.optimizer, {"state": copy.deepcopy(good["optimizer"]), "param_groups": groups})
        for callback, state in zip(_followers(run), good["followers"], strict=True):
            callback.load_state_dict(state)
        self.lr_factor *= self.factor

    def _summary(self) -> str:
        n = "1 update was" if len(self.places) == 1 else f"{len(self.places)} updates were"
        done = "left out" if self.policy == "skip" else f"rolled back, the learning rate cut to {self.lr_factor:.3g} of"
        listed = ", ".join(f"epoch {epoch} batch {batch}" for epoch, batch in self.places[:_SHOWN])
        more = f" and {len(self.places) - _SHOWN} more" if len(self.places) > _SHOWN else ""
        return f"NonFinite: {n} {done}: {listed}{more}"

    def __repr__(self) -> str:
        return f"NonFinite({self.policy!r})"


def _gradients(run: Run) -> list[Tensor]:
    found = (processes.own_part(p.grad) for p in run.model.parameters() if p.grad is not None)
    return [gradient for gradient in found if gradient.numel()]


def _are_finite(tensors: list[Tensor]) -> bool:
    """Reads one flag from the device: NaN and infinity show in the largest absolute value of a tensor."""
    largest = torch._foreach_norm([t.detach() for t in tensors], math.inf)
    return bool(torch.stack([value.to(tensors[0].device) for value in largest]).isfinite().all())


def _followers(run: Run) -> list[Callback]:
    return [callback for callback in run.callbacks if callback.follows_weights]


@dataclass(frozen=True)
class _Finding:
    """What one process says of its part of a batch."""

    told: str
    positions: list[int]
    is_its_own: bool
    """Whether its own loss or items show it, and not only gradients, in which those of other processes are too."""
    is_odd: bool


def _told_by_all(run: Run) -> tuple[str, list[int]]:
    """Returns what is wrong with this batch, in words, and the positions of its items, where those are known.

    Of several processes, those speak whose own loss or items are not finite or, where none is, whose gradients.
    """
    found = processes.gather(_finding(run)) if run.step.n_processes > 1 else [_finding(run)]
    if len(found) == 1:
        return found[0].told, found[0].positions
    at_fault = [finding.is_its_own for finding in found]
    if not any(at_fault):
        at_fault = [finding.is_odd for finding in found]
    named = [(rank, found[rank]) for rank, is_odd in enumerate(at_fault) if is_odd]
    told = " ".join(f"rank {rank}: {finding.told}" for rank, finding in named[:_SHOWN])
    return told, [position for _, finding in named for position in finding.positions]


def _finding(run: Run) -> _Finding:
    positions = run.dls.train.positions_of(run.iter)
    where = f"batch {run.iter} of epoch {run.epoch}"
    own = run.loss if run.step.own_loss is None else run.step.own_loss
    loss = float(own.detach()) if own is not None else math.nan
    parameter = _odd_parameter(run)
    what = (
        f"the gradient of {parameter} in {where} is not finite, though the loss is {loss:.4g}."
        if math.isfinite(loss)
        else f"the loss of {where} is {loss}."
    )
    odd = _odd_items(run)
    is_its_own = not math.isfinite(loss) or bool(odd)
    if positions is None:
        told = f"{what} It comes from a foreign loader, which does not tell its items."
        return _Finding(told, [], is_its_own, bool(parameter))
    which = [positions[i] for i in odd if i < len(positions)]
    items = f"Not finite themselves are: {_listed(run, which)}" if which else f"Its items: {_listed(run, positions)}"
    return _Finding(f"{what} {items}.", positions, is_its_own, bool(parameter))


def _odd_parameter(run: Run) -> str:
    """The name of the first whose gradient, as far as this process has it, is not finite."""
    gradients = {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}
    odd = (name for name, gradient in gradients.items() if not processes.own_part(gradient).isfinite().all())
    return next(odd, "")


def _odd_items(run: Run) -> list[int]:
    """Returns which items of the batch hold numbers that are not finite, inputs or targets."""
    n = n_items(run.x)
    several = [t for t in tensors_of((run.x, run.y)) if t.is_floating_point() and t.ndim and len(t) == n]
    odd = [~t.detach().reshape(n, -1).isfinite().all(1).cpu() for t in several]
    return torch.stack(odd).any(0).nonzero().flatten().tolist() if odd else []


def _listed(run: Run, positions: list[int]) -> str:
    more = f" and {len(positions) - _SHOWN} more" if len(positions) > _SHOWN else ""
    return ", ".join(map(run.dls.train.name_item, positions[:_SHOWN])) + more
