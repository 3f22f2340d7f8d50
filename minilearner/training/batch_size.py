"""`largest_batch_size`: find the largest batch that fits in memory, by real training steps that leave no trace."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minilearner.checks import check_count
from minilearner.data.dataloaders import DataLoaders
from minilearner.errors import DataError
from minilearner.keywords import suggest_keywords
from minilearner.runtime import is_out_of_memory
from minilearner.training.auto_precision import check_precision, choose_precision
from minilearner.training.optimizers import OptimizerFactory
from minilearner.training.snapshot import restore_after
from minilearner.training.step import LossFunction, Step, make_step
from minilearner.tree import Tree, map_tensors, n_items

__all__ = ["largest_batch_size"]

_STEPS = 2  # the first allocates the optimizer's state, the second trains beside it


@suggest_keywords
def largest_batch_size(
    model: nn.Module,
    loss_func: LossFunction,
    batch: tuple[Tree, ...],
    opt_func: OptimizerFactory = torch.optim.AdamW,
    *,
    max_bs: int,
    precision: str = "fp32",
) -> int:
    """Returns the largest batch size, up to `max_bs`, at which training steps do not run out of memory.

    Sizes are doubled from 2 until one fails; then the gap is halved down to a single item. Each size takes two steps,
    from forward to update. Weights, buffers, gradients and random generators are put back to the bit.

    Use somewhat less than the result, because other programs share the memory and long runs fragment it. A CPU has the
    machine's memory, and the system may kill the program instead of refusing; there, choose `max_bs` with care.

    Example::

        largest_batch_size(learn.model, learn.loss_func, learn.dls.one_batch(), max_bs=1024)

    Args:
        model, loss_func: as in training, with the model on its device.
        batch: `(x, y)` on that device, or `(a, b, y)` with several inputs. Its items are
            repeated to make batches of any size.
        opt_func: the learner's optimizer. Its state is part of what must fit.
        max_bs: the largest size to try, at least 2.
        precision: the learner's precision.

    Raises:
        ValueError, TypeError: `max_bs` is below 2 or no integer.
        DataError: the batch has no items.
        MemoryError: not even a batch of 2 fits.
    """
    check_count(max_bs, "max_bs")
    check_precision(precision)
    if max_bs < 2:
        raise ValueError(f"`max_bs` must be at least 2, because batch norm needs two items. Received: max_bs={max_bs}.")
    *inputs, y = batch
    whole = inputs[0] if len(inputs) == 1 else tuple(inputs), y
    if not n_items(whole[0]):
        raise DataError("`batch` has no items to make batches of.")
    optimizer = opt_func([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    device = next(model.parameters()).device
    if precision == "auto":
        precision = choose_precision(model, device).precision
    step = make_step(model, loss_func, optimizer, precision=precision)
    with restore_after(model, optimizer, DataLoaders([whole], device=device), loss_func):
        model.train()
        largest = _largest(lambda bs: _fits(step, whole, bs), max_bs)
    if largest is None:
        raise MemoryError("not even a batch of 2 items fits. Take smaller items, a smaller model, or less precision.")
    return largest


def _largest(fits: Callable[[int], bool], most: int) -> int | None:
    """Returns the largest of 2 to `most` that fits, given that every smaller one fits too; None if none does."""
    low, high = 1, most + 1
    while high - low > 1:
        trial = min(2 * low, most) if high > most else (low + high) // 2
        low, high = (trial, high) if fits(trial) else (low, trial)
    return low if low > 1 else None


def _fits(step: Step, batch: tuple[Tree, Tree], bs: int) -> bool:
    try:
        x, y = (map_tensors(lambda t: _repeat(t, bs), part) for part in batch)
        for _ in range(_STEPS):
            step.backward(step.compute_loss(step.predict(x), y), bs)
            step.update()
            step.zero_grad()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        step.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True


def _repeat(t: Tensor, bs: int) -> Tensor:
    return t.repeat(-(-bs // len(t)), *[1] * (t.ndim - 1))[:bs]
