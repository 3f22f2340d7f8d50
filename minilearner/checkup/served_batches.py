"""How the training set is served: in which order, what is left out, and how small the last batch is."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from minilearner.checkup.findings import Finding, NotCheckedError
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.loader import DerivedLoader, Loader
from minilearner.data.share import drops_last, explain_rest
from minilearner.errors import plural
from minilearner.training.preflight import last_batch_size, takes_statistics

__all__ = ["find_left_out", "find_order", "find_small_batches"]

_FEW = 4  # items: from fewer, the statistics of a batch norm are mostly noise


def find_order(dls: DataLoaders) -> Iterator[Finding]:
    """Finds a training set that comes in the same order in each epoch."""
    if len(dls.train) == 1:
        return  # the order inside a batch does not matter
    is_shuffled = _is_shuffled(dls.train)
    if is_shuffled is None:
        raise NotCheckedError("the training loader does not say whether it shuffles")
    if is_shuffled:
        return
    source = getattr(dls.train, "source", dls.train)
    if isinstance(source, (list, tuple)):
        yield Finding(
            "shuffle",
            "note",
            f"Each epoch trains on the same {plural(len(source), 'batch')} in the same order, because they are a list.",
            "Give a dataset or arrays instead of batches, and each epoch mixes the items anew.",
        )
        return
    yield Finding(
        "shuffle",
        "warning",
        "The training items come in the same order in each epoch, because shuffle is off.",
        "Give shuffle=True to the training loader.",
    )


def find_left_out(dls: DataLoaders) -> Iterator[Finding]:
    """Finds training items that `drop_last` leaves out, and batches that are larger than the training set."""
    n, bs = dls.train.n_items, _batch_size(dls.train)
    if n is None or bs is None:
        raise NotCheckedError("the training loader does not say how many items it has")
    does_drop = drops_last(getattr(dls.train, "source", dls.train))
    if n >= bs and (not does_drop or n % bs == 0):
        return
    fact, advice = explain_rest(n, bs, does_drop=does_drop)
    rest = n % bs if does_drop else 0
    is_same = _is_shuffled(dls.train) is False and rest > 0
    is_bad = 10 * rest > n or is_same
    if not is_bad and rest:
        advice = "Nothing to do: the order is new in each epoch, so other items are left out each time."
    always = " They are the same items in each epoch." if is_same else ""
    yield Finding(
        "items left out",
        "warning" if is_bad else "note",
        fact + always,
        advice or "Give drop_last=False to the training loader to keep them.",
        {"n_items": n, "bs": bs, "left_out": rest},
    )


def find_small_batches(model: nn.Module, dls: DataLoaders) -> Iterator[Finding]:
    """Finds batches from which batch norm learns mostly noise. A batch of one item is an error elsewhere."""
    norms = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and takes_statistics(module)
    ]
    if not norms:
        return
    size, bs = last_batch_size(dls.train), _batch_size(dls.train)
    if size is None:
        raise NotCheckedError("the training loader does not say how large its batches are")
    if size < _FEW:
        which = "Each training batch" if size == bs else "The last training batch of an epoch"
        yield Finding(
            "batch norm",
            "warning",
            f"{which} has only {plural(size, 'item')}, and batch norm ({norms[0]!r}) takes its statistics from them.",
            "Give a larger `bs`, or leave the short batch out with drop_last=True."
            if size != bs
            else "Give a larger `bs`, or use a norm that does not depend on the batch, such as nn.GroupNorm.",
            {"items": size, "bs": bs},
        )


def _is_shuffled(loader: Loader) -> bool | None:
    """Whether the order of the items changes from epoch to epoch; None if the loader does not say."""
    if isinstance(loader, DerivedLoader):
        return loader.shuffle
    source = getattr(loader, "source", None)
    if isinstance(source, (list, tuple)):
        return False
    if not isinstance(source, DataLoader) or isinstance(source.dataset, IterableDataset):
        return None
    if type(source.batch_sampler) not in (BatchSampler, type(None)):  # torch then sets a sampler that nobody uses
        return None
    return not isinstance(source.sampler, SequentialSampler)


def _batch_size(loader: Loader) -> int | None:
    bs = getattr(loader, "bs", None) or getattr(getattr(loader, "source", None), "batch_size", None)
    return None if bs is None else int(bs) * loader.share.count
