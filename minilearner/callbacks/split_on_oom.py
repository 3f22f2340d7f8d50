"""Train a batch that does not fit in memory in parts, with the same update."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from minilearner import processes
from minilearner.errors import add_note, plural
from minilearner.models.restore import BufferCopy
from minilearner.results.predictions import join
from minilearner.runtime import is_out_of_memory
from minilearner.training.callback import Callback, CancelBackward
from minilearner.training.loss_terms import Divisor, add_divisors, add_losses
from minilearner.training.run import Run
from minilearner.tree import map_tensors, n_items, take_items

__all__ = ["SplitOnOOM"]


class SplitOnOOM(Callback):
    """Halves the batch when memory runs out in the forward or backward pass, until its parts fit.

    Nothing of the failed pass remains: its gradients are dropped, and the buffers are put back. Each part counts as
    much as its loss divides by, its items or their class weights, so the update is that of the whole batch. Batch size,
    updates and schedule do not change. As with accumulation, batch norm normalises each part by its own statistics; its
    running statistics move once a batch, by the mean over the parts. Later batches of the run are split at once.

    The callback wraps `run.process_batch` and calls it once for each part. So `after_pred`, `after_loss` and
    `before_backward` come for each part, whose items are ``run.part``; all other events come once. An update that such
    a pass makes by hand is made for each part, and is not undone if a later part runs out of memory. The first split
    gives a warning, and at the end the record's ``settings["split"]`` has the size of the parts.

    The buffers are copied before each batch. With `GradientAccumulation`, the gradients gathered so far are held
    beside the batch's own. Validation is not split: give it a smaller batch size. With several processes, each splits
    as it needs to; they exchange gradients once, at the update.

    Raises:
        ValueError: when a run begins: the model is sharded.
        RuntimeError: in a run: memory ran out for a single item. The original error, with advice.
    """

    part_of_step = True
    order = 70  # after callbacks that replace `run.process_batch`, so that it wraps what they do
    ignored_arguments = ()

    def __init__(self) -> None:
        self.most_items: int | None = None
        """How many items a part may have; None if whole batches fit."""

    def before_fit(self, run: Run) -> None:
        if run.step.strategy.passes_together:
            raise ValueError(
                '`SplitOnOOM` cannot split with `strategy="fsdp"`, since every pass needs all processes. Give a '
                "smaller `bs`, or GradientAccumulation."
            )
        self.most_items = None
        run.process_batch = partial(self._train, run, run.process_batch)

    def after_fit(self, run: Run) -> None:
        several = run.step.n_processes > 1 and not run.interrupted  # after an error the other processes never get here
        found = [most for most in (processes.gather(self.most_items) if several else [self.most_items]) if most]
        if found and run.record is not None:
            run.record.settings["split"] = f"in parts of at most {plural(min(found), 'item')}"

    def _train(self, run: Run, inner: Callable[[], None]) -> None:
        n, strategy, divisors = n_items(run.x), run.step.strategy, list[Divisor]()
        cancels: list[CancelBackward] = []

        def train_part() -> None:
            run.pred = run.loss = None
            try:
                inner()
            except CancelBackward:  # raised below, when every part has gone through
                cancels.append(CancelBackward())
            n_part = n_items(run.x)
            divisors.append(run.step.divisor or Divisor(n_part, n_part))

        with strategy.work_apart(n):
            while not self._fits(run, train_part, divisors):
                cancels.clear()
                divisors.clear()
                if run.dls.device.type == "cuda":
                    torch.cuda.empty_cache()
        if run.loss is not None:
            run.loss = strategy.finish_loss(run.step.window, run.loss, add_divisors(divisors))
        if cancels:
            raise cancels[0]

    def _fits(self, run: Run, train_part: Callable[[], None], divisors: list[Divisor]) -> bool:
        """Trains the batch in parts of `most_items`. If memory runs out, halves that number and returns False."""
        n = n_items(run.x)
        n_parts = 1 if self.most_items is None else max(1, math.ceil(n / self.most_items))
        buffers = BufferCopy(run.model)
        try:
            with run.step.whole_or_nothing():
                _train_parts(run, train_part, n_parts, divisors)
            return True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if n_parts >= n:
                add_note(error, "A single item does not fit: make the items or the model smaller, or train in bf16.")
                raise
        # Here the error is gone, and with its traceback the tensors of the failed pass.
        buffers.put_back()
        run.pred = run.loss = None
        self._halve(n, math.ceil(n / n_parts))
        return False

    def _halve(self, n: int, tried: int) -> None:
        if self.most_items is None:
            warnings.warn(
                f"a batch of {n} items did not fit in memory. From now on batches are trained in parts; each update is "
                "still that of its whole batch.",
                RuntimeWarning,
                stacklevel=2,
            )
        self.most_items = math.ceil(tried / 2)

    def __repr__(self) -> str:
        return "SplitOnOOM()"


def _train_parts(run: Run, train_part: Callable[[], None], n_parts: int, divisors: list[Divisor]) -> None:
    window = run.step.window
    if n_parts == 1:
        window.part = None if run.step.n_processes == 1 else 0  # other processes may train theirs in parts
        try:
            train_part()
        finally:
            window.part = None
        return
    whole, n = run.batch, n_items(run.x)
    statistics, preds, losses = _Statistics(run.model), [], []
    try:
        for number, part in enumerate(_slice_evenly(n, n_parts)):
            run.part, window.part = part, number
            run.batch = take_items(whole[0], part, n), take_items(whole[1], part, n)
            train_part()
            statistics.add(n_items(run.x) / n)
            if run.pred is not None:
                preds.append(map_tensors(Tensor.detach, run.pred))
            if run.loss is not None:
                losses.append(run.loss.detach())
    finally:
        run.batch, run.part, window.part = whole, None, None
    statistics.settle()
    run.pred = join(tuple(preds)) if len(preds) == n_parts else None
    run.loss = add_losses(losses, divisors) if len(losses) == n_parts else None


def _slice_evenly(n: int, n_parts: int) -> Iterator[slice]:
    """Yields the slices that cut n items into parts whose sizes differ by at most one."""
    for i in range(n_parts):
        yield slice(i * n // n_parts, (i + 1) * n // n_parts)


class _Statistics:
    """The model's buffers, which each part moves from the same start; together they move by the mean of the parts."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.start = BufferCopy(model)
        self.moved = [None if value is None else value.clone() for value in self.start.values]
        self._extra = self.start.extra

    def add(self, weight: float) -> None:
        """Adds how far a part with this weight moved them. Integers, such as counts, are the latest part's."""
        latest = BufferCopy(self.model)
        now, self._extra = latest.values, latest.extra
        for moved, before, after in zip(self.moved, self.start.values, now, strict=True):
            if moved is None or before is None or after is None:
                continue
            if moved.is_floating_point():
                moved += weight * torch.where(after == before, 0, after - before)  # infinities stay what they are
            else:
                moved.copy_(after)
        self.start.put_back()

    def settle(self) -> None:
        """Gives the model the mean, and the extra state of the latest part."""
        self.start.values, self.start.extra = self.moved, self._extra
        self.start.put_back()
