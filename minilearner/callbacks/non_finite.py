"""What to do if a loss or a gradient is NaN or infinite: raise, skip the update, or roll back."""

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
from minilearner.errors import NonFiniteError, agree, plural
from minilearner.models.groups import parameters_of
from minilearner.models.restore import BufferCopy
from minilearner.saving.optimizer_state import load_optimizer
from minilearner.training.callback import Callback, CancelBatch
from minilearner.training.run import Run
from minilearner.tree import n_items, tensors_of

__all__ = ["NonFinite"]

_POLICIES = ("raise", "skip", "rollback")
_SHOWN = 8  # items, or places, that a message lists


class NonFinite(Callback):
    """Notices a training batch whose loss or gradients are NaN or infinite, before the weights do.

    Policies:

    - "raise": raises a `NonFiniteError` that names the epoch, the batch, its items and their files, and says which
      items have numbers that are not finite. Nothing of the update is applied.
    - "skip": skips the update. Model, buffers such as batch norm's statistics, optimizer and schedule stay as they
      were, and neither the batch's loss nor its metrics are recorded. With accumulation, the batches gathered for this
      update are dropped too. More than `limit` in a row raise.
    - "rollback": puts weights, buffers, optimizer and averages of the weights back to a good state, at most
      `every_steps` updates old, and multiplies the learning rate by `factor` for the rest of the run, whatever schedule
      sets it. Data and schedule go on from where they are. More than `limit` in a run raise.

    A warning at the end, and the record's ``settings["non_finite"]``, say how often it happened, and where. In a
    precision that scales the loss (fp16), gradients overflow now and then, and the scale takes care of that. There,
    only losses count.

    Each batch waits for the device, and the buffers are copied before each update. "rollback" keeps one more copy of
    weights and optimizer state, in checkpoints too. Validations and `lr_find` are not checked. Several processes act
    alike, even if only one has met such a batch: each batch waits for all, and messages name the process and its items.

    Args:
        policy: one of the three.
        limit: see the policies.
        every_steps: optimizer updates between two copies for "rollback".
        factor: multiplies the learning rate after each roll-back, in (0, 1].

    Raises:
        ValueError: an argument is out of range.
        NonFiniteError: in a run; see the policies.
    """

    order = 80  # after everything that changes losses and gradients
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
        self._reset()

    def _reset(self) -> None:
        self.places: list[tuple[int, int]] = []
        """The (epoch, batch) of each update that was skipped or rolled back."""
        self.n_in_a_row = 0
        self.lr_factor = 1.0
        self._good: dict[str, Any] | None = None

    def before_fit(self, run: Run) -> None:
        self._reset()

    def before_batch(self, run: Run) -> None:
        run.step.lr_factor = self.lr_factor
        if run.training and not run.step.is_pending:
            self._buffers = BufferCopy(run.model)

    def after_backward(self, run: Run) -> None:
        gradients = [] if run.step.precision.scales_loss else _gradients(run)
        is_finite = _are_finite([*tensors_of(run.loss), *gradients])
        if run.step.n_processes > 1:
            is_finite = not any(processes.add_up([not is_finite]))
        if is_finite:
            self.n_in_a_row = 0
            if self.policy == "rollback":
                self._keep_good(run)
            return
        message, positions = _describe_in_all(run)
        run.step.zero_grad()
        self._buffers.put_back()
        if self.policy == "raise":
            raise NonFiniteError(f'{message} Lower the rate, clip gradients, or give NonFinite("skip").', positions)
        self._skip_or_roll_back(run, message, positions)

    def after_fit(self, run: Run) -> None:
        run.step.lr_factor = 1.0
        if self.places:
            if run.record is not None:
                run.record.settings["non_finite"] = self._summary()
            if processes.is_first():
                warnings.warn(self._summary(), RuntimeWarning, stacklevel=2)

    def _skip_or_roll_back(self, run: Run, message: str, positions: Sequence[int]) -> None:
        self.places.append((run.epoch, run.iter))
        self.n_in_a_row += 1
        n, what = (self.n_in_a_row, "in a row") if self.policy == "skip" else (len(self.places), "in this run")
        if n > self.limit:
            raise NonFiniteError(f"{message} There were more than limit={self.limit} of that {what}.", positions)
        if self.policy == "rollback":
            self._roll_back(run, message, positions)
        run.loss = None
        raise CancelBatch

    def _keep_good(self, run: Run) -> None:
        """Copies the state before this update, if a copy is due: its loss and gradients have proved it good."""
        if self._good is not None and run.global_step - self._good["global_step"] < self.every_steps:
            return
        self._good = {
            "global_step": run.global_step,
            "parameters": [p.detach().clone() for p in parameters_of(run.model, run.step.loss_func)],
            "buffers": self._buffers.values,
            "extra": self._buffers.extra,
            "optimizer": copy.deepcopy(run.optimizer.state_dict()["state"]),
            "followers": [copy.deepcopy(callback.state_dict()) for callback in _followers(run)],
        }

    def _roll_back(self, run: Run, message: str, positions: Sequence[int]) -> None:
        good = self._good
        if good is None:
            raise NonFiniteError(
                f"{message} There is no good state to go back to: the first batch was not finite.", positions
            )
        with torch.no_grad():
            for parameter, value in zip(parameters_of(run.model, run.step.loss_func), good["parameters"], strict=True):
                parameter.copy_(value)
        self._buffers.values, self._buffers.extra = good["buffers"], good.get("extra", {})
        self._buffers.put_back()
        groups = run.optimizer.state_dict()["param_groups"]
        load_optimizer(run.optimizer, {"state": copy.deepcopy(good["optimizer"]), "param_groups": groups})
        for callback, state in zip(_followers(run), good["followers"], strict=True):
            callback.load_state_dict(state)
        self.lr_factor *= self.factor

    def _summary(self) -> str:
        n = f"{plural(len(self.places), 'update')} {agree(len(self.places), 'was', 'were')}"
        done = "left out" if self.policy == "skip" else f"rolled back, the learning rate cut to {self.lr_factor:.3g} of"
        listed = ", ".join(f"epoch {epoch} batch {batch}" for epoch, batch in self.places[:_SHOWN])
        more = f" and {len(self.places) - _SHOWN} more" if len(self.places) > _SHOWN else ""
        return f"NonFinite: {n} {done}: {listed}{more}"

    def __repr__(self) -> str:
        return f"NonFinite({self.policy!r})"


def _gradients(run: Run) -> list[Tensor]:
    found = (processes.own_part(p.grad) for p in parameters_of(run.model, run.step.loss_func) if p.grad is not None)
    return [gradient for gradient in found if gradient.numel()]


def _are_finite(tensors: list[Tensor]) -> bool:
    """Reads one flag from the device: the largest absolute value of a tensor is NaN or infinite if any element is."""
    largest = torch._foreach_norm([t.detach() for t in tensors], math.inf)
    return bool(torch.stack([value.to(tensors[0].device) for value in largest]).isfinite().all())


def _followers(run: Run) -> list[Callback]:
    return [callback for callback in run.callbacks if callback.follows_weights]


@dataclass(frozen=True)
class _Finding:
    """What one process found in its share of a batch."""

    message: str
    positions: list[int]
    is_its_own: bool
    """Whether its own loss or items are not finite. Gradients may have it from other processes."""
    has_bad_gradient: bool


def _describe_in_all(run: Run) -> tuple[str, list[int]]:
    """Returns what is wrong with this batch, in words, and the positions of its items, if those are known.

    With several processes, it comes from those whose own loss or items are not finite or, if there are none, from those
    whose gradients are not finite.
    """
    found = processes.gather(_examine(run)) if run.step.n_processes > 1 else [_examine(run)]
    if len(found) == 1:
        return found[0].message, found[0].positions
    at_fault = [finding.is_its_own for finding in found]
    if not any(at_fault):
        at_fault = [finding.has_bad_gradient for finding in found]
    named = [(number, found[number]) for number, is_bad in enumerate(at_fault) if is_bad]
    message = " ".join(f"process {number}: {finding.message}" for number, finding in named[:_SHOWN])
    return message, [position for _, finding in named for position in finding.positions]


def _examine(run: Run) -> _Finding:
    positions = run.dls.train.positions_of(run.iter)
    where = f"batch {run.iter} of epoch {run.epoch}"
    own = run.loss if run.step.strategy.own_loss is None else run.step.strategy.own_loss
    loss = float(own.detach()) if own is not None else math.nan
    parameter = _find_bad_parameter(run)
    what = (
        f"the gradient of {parameter} in {where} is not finite, though the loss is {loss:.4g}."
        if math.isfinite(loss)
        else f"the loss of {where} is {loss}."
    )
    bad = _find_bad_items(run)
    is_its_own = not math.isfinite(loss) or bool(bad)
    if positions is None:
        message = f"{what} It comes from a foreign loader, which does not say which items it holds."
        return _Finding(message, [], is_its_own, bool(parameter))
    which = [positions[i] for i in bad if i < len(positions)]
    items = f"Not finite are: {_list_items(run, which)}" if which else f"Its items: {_list_items(run, positions)}"
    return _Finding(f"{what} {items}.", positions, is_its_own, bool(parameter))


def _find_bad_parameter(run: Run) -> str:
    """Returns the first parameter whose gradient is not finite in the part that this process holds; "" if none is."""
    gradients = {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}
    bad = (name for name, gradient in gradients.items() if not processes.own_part(gradient).isfinite().all())
    return next(bad, "")


def _find_bad_items(run: Run) -> list[int]:
    """Returns which items of the batch hold numbers that are not finite, inputs or targets."""
    n = n_items(run.x)
    tensors = [t for t in tensors_of((run.x, run.y)) if t.is_floating_point() and t.ndim and len(t) == n]
    bad = [~t.detach().reshape(n, -1).isfinite().all(1).cpu() for t in tensors]
    return torch.stack(bad).any(0).nonzero().flatten().tolist() if bad else []


def _list_items(run: Run, positions: list[int]) -> str:
    more = f" and {len(positions) - _SHOWN} more" if len(positions) > _SHOWN else ""
    return ", ".join(map(run.dls.train.name_item, positions[:_SHOWN])) + more
