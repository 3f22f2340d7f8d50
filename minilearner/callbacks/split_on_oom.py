"""Train a batch that does not fit into memory in parts, as if it had gone through whole."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from minilearner import processes
from minilearner.errors import add_note
from minilearner.models.restore import BufferCopy
from minilearner.results.predictions import join
from minilearner.runtime import is_out_of_memory
from minilearner.training.callback import Callback
from minilearner.training.run import Run
from minilearner.tree import Tree, map_tensors, n_items

__all__ = ["SplitOnOOM"]


class SplitOnOOM(Callback):
    """Halves the batch where memory runs out in the forward or backward pass, until its parts fit.

    Nothing of the failed pass stays: gradients are dropped, and buffers put back. The parts' losses are weighed by
    their items, so the update is the mean over the whole batch, and batch size, updates and schedule are what they
    were. As with accumulation, batch norm normalises each part by its own statistics; its running statistics move once
    a batch, by the mean over the parts. Later batches of the run are split at once.

    `after_pred`, `after_loss` and `before_backward` come for each part, whose items are ``run.part``; all other events
    come once. A warning tells of the first split, and the record's ``settings["split"]`` of the parts at the end.

    The buffers are copied before each batch. With `GradientAccumulation`, the gradients gathered so far are held
    beside the batch's own. Validation is not split: give it a smaller batch size. Of several processes each splits as
    it has to; they exchange gradients once, at the update, and not while these are computed.

    Raises:
        ValueError: when a run begins, the model is sharded.
        RuntimeError: in a run, memory ran out over a single item; the original error, with what to do.
    """

    part_of_step = True
    ignored_arguments = ()

    def __init__(self) -> None:
        self.most_items: int | None = None
        """How many items a part may have; None where whole batches fit."""

    def before_fit(self, run: Run) -> None:
        if run.step.passes_together:
            raise ValueError(
                '`SplitOnOOM` cannot split with `strategy="fsdp"`, where every pass needs all processes. Give a '
                "smaller `bs`, or GradientAccumulation."
            )
        self.most_items = None
        run.in_parts = partial(self._train, run)

    def after_fit(self, run: Run) -> None:
        run.in_parts = None
        several = run.step.n_processes > 1 and not run.interrupted  # after an error the others do not come here
        found = [most for most in (processes.gather(self.most_items) if several else [self.most_items]) if most]
        if found and run.record is not None:
            run.record.settings["split"] = f"in parts of at most {min(found)} items"

    def _train(self, run: Run, gather: Callable[[], None]) -> None:
        n = n_items(run.x)
        with run.step.apart(n):
            while not self._fits(run, gather):
                if run.dls.device.type == "cuda":
                    torch.cuda.empty_cache()
        run.loss = run.step.over_all(run.loss, n)  # type: ignore[arg-type]

    def _fits(self, run: Run, gather: Callable[[], None]) -> bool:
        """Trains the batch in parts of `most_items`. Returns False, with that number halved, where memory runs out."""
        n = n_items(run.x)
        n_parts = 1 if self.most_items is None else max(1, math.ceil(n / self.most_items))
        buffers = BufferCopy(run.model)
        try:
            with run.step.whole_or_nothing():
                _in_parts(run, gather, n_parts)
            return True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if n_parts >= n:
                add_note(error, "One item alone does not fit: make items or model smaller, or train in bf16.")
                raise
        # Here the error is gone, and with its trace what the failed pass held.
        buffers.put_back()
        run.pred = run.loss = None
        self._halve(n, math.ceil(n / n_parts))
        return False

    def _halve(self, n: int, tried: int) -> None:
        if self.most_items is None:
            warnings.warn(
                f"a batch of {n} items did not fit into memory. From here on batches are trained in parts; each update "
                "is still the mean over its whole batch.",
                RuntimeWarning,
                stacklevel=2,
            )
        self.most_items = math.ceil(tried / 2)

    def __repr__(self) -> str:
        return "SplitOnOOM()"


def _in_parts(run: Run, gather: Callable[[], None], n_parts: int) -> None:
    if n_parts == 1:
        gather()
        return
    whole, n = run.batch, n_items(run.x)
    statistics, preds, losses = _Statistics(run.model), [], []
    try:
        for number, part in enumerate(_slices(n, n_parts)):
            run.part, run.step.part = part, number
            run.batch = _taken(whole[0], part, n), _taken(whole[1], part, n)
            gather()
            weight = n_items(run.x) / n
            statistics.add(weight)
            preds.append(map_tensors(Tensor.detach, run.pred))
            losses.append(run.loss.detach() * weight)  # type: ignore[union-attr]
    finally:
        run.batch, run.part, run.step.part = whole, None, None
    statistics.settle()
    run.pred, run.loss = join(tuple(preds)), torch.stack(losses).sum()


def _slices(n: int, n_parts: int) -> Iterator[slice]:
    """Cuts n items into parts whose sizes differ by one at most."""
    for i in range(n_parts):
        yield slice(i * n // n_parts, (i + 1) * n // n_parts)


def _taken(tree: Tree, part: slice, n: int) -> Tree:
    """Returns a part of a batch of n items; what is not of its length belongs to all parts."""
    return map_tensors(lambda t: t[part] if t.ndim and len(t) == n else t, tree)


class _Statistics:
    """The model's buffers, which each part moves from the same start: together they move by the mean of that."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.start = BufferCopy(model)
        self.moved = [None if value is None else value.clone() for value in self.start.values]

    def add(self, weight: float) -> None:
        """Takes in what a part of this weight moved. Counts, such as of batches, are the newest part's."""
        now = BufferCopy(self.model).values
        for moved, before, after in zip(self.moved, self.start.values, now, strict=True):
            if moved is None or before is None or after is None:
                continue
            if moved.is_floating_point():
                moved += weight * torch.where(after == before, 0, after - before)  # infinities stay what they are
            else:
                moved.copy_(after)
        self.start.put_back()

    def settle(self) -> None:
        """Leaves the model with the mean."""
        self.start.values = self.moved
        self.start.put_back()
