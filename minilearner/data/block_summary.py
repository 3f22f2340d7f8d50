"""What `DataBlock.summary` prints: what each step makes of one item, and then of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minilearner.data.batch_transforms import Pipeline, run_steps
from minilearner.data.data_plan import DataPlan, Read, as_sequence
from minilearner.data.item_dataset import ItemDataset, as_tensor
from minilearner.data.item_loader import ItemLoader
from minilearner.data.item_transforms import ItemPipeline
from minilearner.data.items import name_items
from minilearner.errors import DataError
from minilearner.runtime import derive_generator
from minilearner.tree import Tree, map_tensors, shape_of

__all__ = ["describe_steps"]


def describe_steps(
    plan: DataPlan,
    item_tfms: ItemPipeline,
    batch_tfms: Pipeline,
    source: Any,
    bs: int,
) -> Iterator[str]:
    """Yields a text for each step, as soon as it is done.

    Raises:
        DataError: a step failed. Names the step and the cause.
    """
    with _name_step("get_items"):
        items = plan.items(source)
    rows = as_sequence(items)
    yield f"Items: {len(rows)}, first {name_items(rows, [0])}"
    with _name_step("get_y"):
        labels = plan.labels(rows)
    with _name_step("get_x"):
        sources = plan.sources(rows)
    with _name_step("splitter"):
        train, valid = plan.split(items, labels)
    yield f"Split by {plan.splitter!r:.100}: {len(train)} for training, {len(valid)} for validation"
    with _name_step("target block"):
        target = plan.target(labels, train)
        chosen = None if labels is None else [labels[i] for i in train]
        y = plan.encode(chosen, target, [sources[i] for i in train], "training")
    if chosen is not None and y is not None:
        yield f"Labels: {target!r:.200}\n  first training item: {chosen[0]!r} -> {_describe(y[0])}"
    dataset = ItemDataset([sources[i] for i in train], Read(plan.inputs), item_tfms)
    yield from _describe_sample(dataset)
    yield from _describe_batch(dataset, y, batch_tfms, bs)


def _describe_sample(dataset: ItemDataset) -> Iterator[str]:
    source = dataset.items[0]
    yield f"One sample, from {name_items(dataset.items, [0])}"
    with _name_step("input block", source):
        raw = dataset.read(source)
    parts = raw if isinstance(raw, tuple) else (raw,)
    yield f"  read: {', '.join(map(_describe, parts))}"
    original, transforms = parts, dataset.item_tfms.transforms
    for k, f in enumerate(transforms):
        with _name_step(f"item transform {f!r}", source):
            parts = tuple(ItemPipeline(transforms[: k + 1])(part, None) for part in original)
        yield f"  {f!r}: {', '.join(map(_describe, parts))}"
    with _name_step("making a tensor", source):
        parts = tuple(map(as_tensor, parts))
    yield f"  as a tensor: {', '.join(map(_describe, parts))}"


def _describe_batch(dataset: ItemDataset, y: Tensor | None, batch_tfms: Pipeline, bs: int) -> Iterator[str]:
    n = min(bs, len(dataset))
    inputs = []
    for i in range(n):
        with _name_step("input block and item transforms", dataset.items[i]):
            inputs.append(dataset[i, None])
    shapes = [shape_of(x) for x in inputs]
    if len(set(shapes)) > 1:
        raise DataError(
            f"making a batch failed: {n} samples have {len(set(shapes))} shapes: "
            f"{name_items(dataset.items, range(n), shapes)}. Give them one with item_tfms=Resize(...)."
        )
    loader = ItemLoader(dataset, y, bs=n, num_workers=0)
    with _name_step("making a batch"):
        x, _ = loader.items(range(n))
        batch_tfms = batch_tfms.set_up(loader)
    yield f"A batch of {n}: x {_describe(x)}" + ("" if y is None else f", y {_describe(y[:n])}")
    rng = derive_generator(0, "summary")
    for step in batch_tfms.steps(training=True):
        with _name_step(f"batch transform {step!r}"):
            x = map_tensors(partial(run_steps, (step,), rng=rng), x)
        yield f"  {step!r}: x {_describe(x)}"


@contextmanager
def _name_step(name: str, item: Any = None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        where = "" if item is None else f" on {name_items([item], [0])}"
        raise DataError(f"{name} failed{where}: {error}") from error


def _describe(value: Tree) -> str:
    if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
        return f"({', '.join(map(_describe, value))})"
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        if value.ndim <= 1 and value.numel() <= 10:
            return f"{value.tolist()} {kind}"
        span = f" from {value.min():.3g} to {value.max():.3g}" if value.dtype != torch.bool and value.numel() else ""
        return f"{tuple(value.shape)} {kind}{span}"
    if hasattr(value, "getbands"):
        return f"{value.mode} image, {value.width} x {value.height}"
    return f"{type(value).__name__} {getattr(value, 'shape', '')}".strip()
