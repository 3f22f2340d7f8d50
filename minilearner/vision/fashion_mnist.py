"""Data sets of pictures, ready to train on."""

from __future__ import annotations

import os
import sys
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from minilearner import processes
from minilearner.checks import check_count
from minilearner.data.dataloaders import DataLoaders
from minilearner.sources.fashion import FASHION_CLASSES, load_fashion_mnist
from minilearner.vision.augment import Flip
from minilearner.vision.shift import RandomShift

__all__ = ["fashion_mnist", "resized"]


def fashion_mnist(
    path: str | os.PathLike[str] | None = None,
    *,
    size: int = 32,
    bs: int = 64,
    augment: bool = True,
    download: bool = True,
    seed: int | None = None,
) -> DataLoaders:
    """Returns loaders of Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes in 10 classes, in memory.

    Says on standard error where it found them: your `path`, the data home, the system, a download, or, where nothing
    else can be had, the sample of 6,000 that comes with the package, which is said loudly.

    Args:
        path: the folder of the four IDX files, gzipped or not.
        size: height and width in pixels; resized once, bilinearly, from 28.
        bs: pictures a batch.
        augment: shift training pictures by up to 10 % each way, repeating the border, and flip half of them.
        download: whether the network may be asked.
        seed: decides shuffles and augmentation; see `DataLoaders`.

    Raises:
        FileFormatError: a file is damaged, or is not Fashion-MNIST's. A folder that was given is never passed over.
        ValueError: `size` is less than 1.
    """
    check_count(size, "size")
    check_count(bs, "bs")
    if seed is not None:
        check_count(seed, "seed", least=None)
    data = load_fashion_mnist(path, download=download)
    if processes.is_first():
        sys.stderr.write((data.notice if data.is_sample else str(data)) + "\n")
    return DataLoaders.from_arrays(
        (data.train_images, data.train_labels),
        (data.valid_images, data.valid_labels),
        bs=bs,
        vocab=FASHION_CLASSES,
        item_tfms=partial(resized, size=size),
        batch_tfms=[RandomShift(0.1), Flip(0.5)] if augment else None,
        seed=seed,
    )


def resized(images: Tensor, size: int) -> Tensor:
    """Returns images `(items, channels, size, size)`, resized bilinearly; smoothed first where they shrink.

    uint8 stays uint8. Works through a few thousand at a time, for floats take four times the memory.
    """
    if images.shape[-2:] == (size, size):
        return images
    shrinks = size < max(images.shape[-2:])
    parts = (
        F.interpolate(part.float(), (size, size), mode="bilinear", align_corners=False, antialias=shrinks)
        for part in torch.split(images, 4096)
    )
    if images.is_floating_point():
        return torch.cat(list(parts))
    return torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in parts])
