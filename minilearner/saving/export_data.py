"""What an export says about the loaders, so that the model can predict without them.

That is how inputs are read and transformed. Labels, splits and getters belong to training and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image

from minilearner.data.batch_transforms import BatchTransform, FunctionTransform, Pipeline
from minilearner.data.data_plan import DataPlan, NewItems, Read
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader
from minilearner.data.item_steps import ItemTransform
from minilearner.data.item_transforms import ItemPipeline
from minilearner.data.loader import Loader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.data.splits import RandomSplitter
from minilearner.data.targets import ClassNumbers, Target
from minilearner.errors import FileFormatError
from minilearner.registry import build, describe, is_class_of
from minilearner.runtime import resolve_device
from minilearner.sources.paths import DataPath

__all__ = ["DataDescription", "NoTrainingData", "describe_data"]

DataDescription = dict[str, Any]
"""Plain data, and tensors that transforms hold."""

_TARGET_MEMBERS = ("n_out", "loss_func", "activate", "decode", "label")
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.uint8, torch.int32, torch.int64, torch.float32)}


def describe_data(dls: DataLoaders) -> DataDescription:
    """Returns how loaders read and transform an input of validation, and what their labels mean.

    Augmentation is described too, for `tta`. What is not registered of it is left out, since prediction does not need
    it.

    Raises:
        TypeError: a block, a transform or the target is not registered, or holds something that is not data. Says what
            to do.
    """
    target = dls.target
    _check_vocab(getattr(target, "vocab", ()))
    return {
        "inputs": _describe_inputs(dls),
        "batch_tfms": _describe_batch_tfms(dls.train.batch_tfms),
        "target": None if target is None else describe(target, "the target"),
        "bs": dls.bs,
        "seed": int(dls.seed),  # a `DrawnSeed` is a number to whoever loads it
    }


def _describe_inputs(dls: DataLoaders) -> dict[str, Any]:
    train = dls.train
    if isinstance(train, ItemLoader):
        if not isinstance(dls.new_items, NewItems):
            raise TypeError("loaders that read items with a function of your own cannot be exported. Use DataBlock.")
        blocks = dls.new_items.plan.inputs
        return {
            "kind": "items",
            "blocks": [describe(block, "the block") for block in blocks],
            "item_tfms": [describe(f, "the item transform") for f in train.dataset.item_tfms.transforms],
        }
    if isinstance(train, MemoryLoader):
        return {
            "kind": "arrays",
            "dtype": str(train.x.dtype).removeprefix("torch."),
            "shape": list(train.x.shape[1:]),
            "item_tfms": [describe(f, "the item transform") for f in train.item_tfms],
        }
    return {"kind": "arrays", "dtype": "float32", "shape": [], "item_tfms": []}


def _describe_batch_tfms(pipeline: Pipeline) -> list[dict[str, Any]]:
    described = []
    for transform in pipeline.transforms:
        in_validation = transform.for_validation()
        try:
            given = in_validation if isinstance(transform, FunctionTransform) else transform
            described += [] if given is None else [describe(_unwrap_function(given), "the batch transform")]
        except TypeError:
            if in_validation is not None:
                raise
    return described


def _unwrap_function(transform: BatchTransform) -> Any:
    return transform.f if isinstance(transform, FunctionTransform) else transform


def _check_vocab(vocab: Any) -> None:
    for name in vocab:
        plain = name.item() if isinstance(name, np.generic) else name
        if type(plain) not in (str, int, float, bool):
            raise TypeError(
                "the vocabulary must be text or numbers to be written to a file. "
                f"Received: {name!r:.80}, a {type(name).__name__}. Give such names as `vocab` or as labels."
            )


class NoTrainingData(DataLoaders):
    """The loaders of a learner that was loaded from a file. They accept new items and have none of their own.

    Args:
        description: what `describe_data` returned.
        source: the file that it was read from, for error messages.
        device: where batches arrive; None is the default device.

    Raises:
        FileFormatError: the description is not what `describe_data` writes, or needs something that is not registered.
    """

    def __init__(self, description: Mapping[str, Any], source: Path, device: torch.device | str | None = None) -> None:
        bs, seed = description.get("bs"), description.get("seed")
        if type(bs) is not int or type(seed) is not int or not 1 <= bs < 2**31 or abs(seed) >= 2**64:
            raise FileFormatError("the batch size and the seed are not numbers.")
        self.source = source
        self.seed, self.bs, self.device, self.path = seed, bs, resolve_device(device), DataPath(source.parent)
        self.skipped, self._extra_tfms, self.split_items = (), (), None
        self.valid = None
        pipeline = Pipeline(_build_all(description.get("batch_tfms"), BatchTransform, "the batch transform"))
        target = description.get("target")
        self._target = None if target is None else build(target, _is_target, "the target")
        self.new_items = None
        self.train = self._like(description.get("inputs"), pipeline)

    def _like(self, inputs: Any, pipeline: Pipeline) -> Loader:
        """Returns an empty loader that knows how items are read."""
        options: dict[str, Any] = {"bs": self.bs, "seed": self.seed, "batch_tfms": pipeline, "device": self.device}
        if not isinstance(inputs, dict) or str(inputs.get("kind")) not in ("items", "arrays"):
            raise FileFormatError("the file does not say how to read inputs.")
        if inputs["kind"] == "arrays":
            x = _make_empty_array(inputs.get("dtype"), inputs.get("shape"))
            loader = MemoryLoader(x, **options)
            loader.item_tfms = _build_all(inputs.get("item_tfms"), type(None), "the item transform")
            return loader
        blocks = tuple(build(one, _is_block, "the block") for one in _check_list(inputs.get("blocks"), "blocks"))
        if not blocks:
            raise FileFormatError("the file does not say how to read inputs.")
        tfms = ItemPipeline(_build_all(inputs.get("item_tfms"), ItemTransform, "the item transform"))
        plan = DataPlan(blocks, None, None, (None,) * len(blocks), None, RandomSplitter())
        self.new_items = NewItems(plan, self._target, Path)
        return ItemLoader(ItemDataset([], Read(blocks), tfms, seed=self.seed, cache=False), None, **options)

    @property
    def target(self) -> Target | None:
        """What labels mean, as far as it was known."""
        return self._target

    def loader(self, ds_idx: int) -> NoReturn:
        """Raises a ValueError: there are no data."""
        raise ValueError(
            f"this learner was loaded from {self.source}, and has no data of its own. Predict with "
            "`learn.predict(item)` or `learn.get_preds(dl=learn.dls.test_dl(items))`. To train on, make a Learner of "
            "your loaders and `learn.model`."
        )

    def sample_input(self) -> Any:
        """Returns two inputs of noise.

        Raises:
            ValueError: the file does not say the size of its inputs, since no transform resizes them.
        """
        if isinstance(self.train, MemoryLoader):
            items: Any = torch.zeros(2, *self.train.x.shape[1:], dtype=self.train.x.dtype)
            is_known = self.train.x.ndim > 1
        else:
            pixels = np.random.RandomState(0).randint(0, 256, (2, 300, 400, 3), dtype=np.uint8)
            items = [Image.fromarray(each) for each in pixels]
            is_known = bool(self.train.dataset.item_tfms.transforms) if isinstance(self.train, ItemLoader) else False
        if not is_known:
            raise ValueError(
                f"{self.source} does not say the size of its inputs, which a graph needs. Export it from the learner "
                "that has the data."
            )
        return self.test_dl(items).first_batch()[0]

    def _takes_several_inputs(self) -> bool:
        return isinstance(self.train, MemoryLoader)  # no array in memory is an item of several

    def test_dl(
        self,
        items: Any,
        with_labels: bool = False,
        *,
        labels: Sequence[Any] | None = None,
        bs: int | None = None,
        num_workers: int | None = None,
    ) -> Loader:
        """Returns a loader over new inputs, as `DataLoaders.test_dl`; how labels are read is not in the file.

        Raises:
            ValueError: `with_labels`.
        """
        if with_labels:
            raise ValueError(
                f"`with_labels` needs the loaders of a DataBlock, and {self.source} does not hold them. Give `labels`, "
                "one for each item."
            )
        return super().test_dl(items, labels=labels, bs=bs, num_workers=num_workers)

    def __repr__(self) -> str:
        return f"NoTrainingData({self.source}, target={self.target})"


def _build_all(descriptions: Any, kind: type, place: str) -> list[Any]:
    allowed = is_class_of(kind, or_function=True)
    return [build(one, allowed, place) for one in _check_list(descriptions, place)]


def _check_list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > 1000:
        raise FileFormatError(f"{what}: this must be a list.")
    return value


def _make_empty_array(dtype: Any, shape: Any) -> torch.Tensor:
    sides = _check_list(shape, "the shape of an item")
    if (
        str(dtype) not in _DTYPES
        or any(type(side) is not int or not 0 <= side < 2**31 for side in sides)
        or len(sides) > 8
    ):
        raise FileFormatError(f"items are of {str(dtype)[:20]} and shape {str(shape)[:40]}, which no array has.")
    return torch.empty((0, *sides), dtype=_DTYPES[str(dtype)])


def _is_target(thing: Callable[..., Any]) -> bool:
    return isinstance(thing, type) and (
        issubclass(thing, ClassNumbers) or all(hasattr(thing, member) for member in _TARGET_MEMBERS)
    )


def _is_block(thing: Callable[..., Any]) -> bool:
    return isinstance(thing, type) and all(hasattr(thing, member) for member in ("read", "unreadable"))
