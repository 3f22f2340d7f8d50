"""The largest batch that fits into memory, tried out by real training steps that leave no trace."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minilearner.checks import check_count
from minilearner.data.dataloaders import DataLoaders
from minilearner.errors import DataError
from minilearner.runtime import resolve_precision
from minilearner.training.optimizers import OptimizerFactory
from minilearner.training.snapshot import untouched
from minilearner.training.step import LossFunction, TrainStep, make_step
from minilearner.tree import Tree, map_tensors, n_items

__all__ = ["largest_batch_size"]

_STEPS = 2  # the first allocates the optimizer's state, the second trains beside it


def largest_batch_size(
    model: nn.Module,
    loss_func: LossFunction,
    batch: tuple[Tree, Tree],
    opt_func: OptimizerFactory = torch.optim.AdamW,
    *,
    max_bs: int,
    precision: str = "fp32",
) -> int:
    """Returns the largest batch size, up to `max_bs`, whose training steps do not run out of memory.

    Sizes are doubled from 2 until one fails, and the gap is halved down to a single item; each takes two steps, forward
    to update. Weights, buffers, gradients and random generators are put back to the bit. Take somewhat less than is
    returned: memory is shared with whatever else runs, and fragments in a long run. On a CPU memory is the machine's,
    which may rather stop the program than refuse: there `max_bs` is what keeps it within bounds.

    Example::

        largest_batch_size(learn.model, learn.loss_func, learn.dls.one_batch(), max_bs=1024)

    Args:
        model, loss_func: as trained with; the model on its device.
        batch: `(x, y)` on that device; its items are repeated to make batches of any size.
        opt_func: as the learner's. Its state is part of what must fit.
        max_bs: the largest size to try, at least 2.
        precision: as the learner's.

    Raises:
        ValueError, TypeError: `max_bs` is below 2, or no integer.
        DataError: the batch has no items.
        MemoryError: not even a batch of 2 fits.
    """
    check_count(max_bs, "max_bs")
    if max_bs < 2:
        raise ValueError(f"`max_bs` must be at least 2, for batch norm needs two items. Received: max_bs={max_bs}.")
    if not n_items(batch[0]):
        raise DataError("`batch` has no items to make batches of.")
    optimizer = opt_func([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    device = next(model.parameters()).device
    step = make_step(model, loss_func, optimizer, precision=resolve_precision(precision, device))
    with untouched(model, optimizer, DataLoaders([batch], device=device), loss_func):
        model.train()
        largest = _largest(lambda bs: _fits(step, batch, bs), max_bs)
    if largest is None:
        raise MemoryError("not even a batch of 2 items fits. Take smaller items, a smaller model, or less precision.")
    return largest


def _largest(fits: Callable[[int], bool], most: int) -> int | None:
    """The largest of 2 to `most` that fits, where every smaller one fits too."""
    low, high = 1, most + 1
    while high - low > 1:
        trial = min(2 * low, most) if high > most else (low + high) // 2
        low, high = (trial, high) if fits(trial) else (low, trial)
    return low if low > 1 else None


def _fits(step: TrainStep, batch: tuple[Tree, Tree], bs: int) -> bool:
    try:
        x, y = (map_tensors(lambda t: _repeated(t, bs), part) for part in batch)
        for _ in range(_STEPS):
            step.backward(step.compute_loss(step.predict(x), y), bs)
            step.update()
            step.zero_grad()
    except (torch.OutOfMemoryError, MemoryError):
        return False
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # what torch says on a CPU
            raise
        return False
    finally:
        step.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True


def _repeated(t: Tensor, bs: int) -> Tensor:
    return t.repeat(-(-bs // len(t)), *[1] * (t.ndim - 1))[:bs]
