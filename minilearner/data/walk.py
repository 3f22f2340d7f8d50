"""Shows how one sample, and then a batch, goes along the line of a `DataBlock`, station by station."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minilearner.data.dataset import ItemDataset, as_tensor
from minilearner.data.item_loader import ItemLoader
from minilearner.data.item_transforms import ItemPipeline
from minilearner.data.items import shown
from minilearner.data.line import Line, Read, as_sequence
from minilearner.data.transforms import Pipeline, run_steps
from minilearner.errors import DataError
from minilearner.runtime import derived_generator
from minilearner.tree import Tree, map_tensors, shape_of

__all__ = ["walk"]


def walk(line: Line, item_tfms: ItemPipeline, batch_tfms: Pipeline, source: Any, bs: int) -> Iterator[str]:
    """Gives a text for each station, as it is reached.

    Raises:
        DataError: a station failed. Names it, with its cause.
    """
    with _station("get_items"):
        items = line.items(source)
    rows = as_sequence(items)
    yield f"Items: {len(rows)}, first {shown(rows, [0])}"
    with _station("get_y"):
        labels = line.labels(rows)
    with _station("get_x"):
        sources = line.sources(rows)
    with _station("splitter"):
        train, valid = line.split(items, labels)
    yield f"Split by {line.splitter!r:.100}: {len(train)} for training, {len(valid)} for validation"
    with _station("target block"):
        target = line.target(labels, train)
        chosen = None if labels is None else [labels[i] for i in train]
        y = line.encoded(chosen, target, [sources[i] for i in train], "training")
    if chosen is not None and y is not None:
        yield f"Labels: {target!r:.200}\n  first training item: {chosen[0]!r} -> {_seen(y[0])}"
    dataset = ItemDataset([sources[i] for i in train], Read(line.inputs), item_tfms)
    yield from _sample(dataset)
    yield from _batch(dataset, y, batch_tfms, bs)


def _sample(dataset: ItemDataset) -> Iterator[str]:
    source = dataset.items[0]
    yield f"One sample, from {shown(dataset.items, [0])}"
    with _station("input block", source):
        raw = dataset.read(source)
    parts = raw if isinstance(raw, tuple) else (raw,)
    yield f"  read: {', '.join(map(_seen, parts))}"
    untouched, transforms = parts, dataset.item_tfms.transforms
    for k, f in enumerate(transforms):
        with _station(f"item transform {f!r}", source):
            parts = tuple(ItemPipeline(transforms[: k + 1])(part, None) for part in untouched)
        yield f"  {f!r}: {', '.join(map(_seen, parts))}"
    with _station("making a tensor", source):
        parts = tuple(map(as_tensor, parts))
    yield f"  as a tensor: {', '.join(map(_seen, parts))}"


def _batch(dataset: ItemDataset, y: Tensor | None, batch_tfms: Pipeline, bs: int) -> Iterator[str]:
    n = min(bs, len(dataset))
    inputs = []
    for i in range(n):
        with _station("input block and item transforms", dataset.items[i]):
            inputs.append(dataset[i, None])
    shapes = [shape_of(x) for x in inputs]
    if len(set(shapes)) > 1:
        raise DataError(
            f"making a batch failed, for {n} samples have {len(set(shapes))} shapes: "
            f"{shown(dataset.items, range(n), shapes)}. Give them one with item_tfms=Resize(...)."
        )
    with _station("making a batch"):
        x, _ = ItemLoader(dataset, y, bs=n, num_workers=0).items(range(n))
    yield f"A batch of {n}: x {_seen(x)}" + ("" if y is None else f", y {_seen(y[:n])}")
    rng = derived_generator(0, "summary")
    for step in batch_tfms.steps(training=True):
        with _station(f"batch transform {step!r}"):
            x = map_tensors(partial(run_steps, (step,), rng=rng), x)
        yield f"  {step!r}: x {_seen(x)}"


@contextmanager
def _station(name: str, item: Any = None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        where = "" if item is None else f" on {shown([item], [0])}"
        raise DataError(f"{name} failed{where}: {error}") from error


def _seen(value: Tree) -> str:
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
        return f"({', '.join(map(_seen, value))})"
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        if value.ndim <= 1 and value.numel() <= 10:
            return f"{value.tolist()} {kind}"
        span = f" from {value.min():.3g} to {value.max():.3g}" if value.dtype != torch.bool and value.numel() else ""
        return f"{tuple(value.shape)} {kind}{span}"
    if hasattr(value, "getbands"):
        return f"{value.mode} picture, {value.width} x {value.height}"
    return f"{type(value).__name__} {getattr(value, 'shape', '')}".strip()
