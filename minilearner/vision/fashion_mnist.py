"""`fashion_mnist`: loaders of Fashion-MNIST, ready for training. `sources.fashion` finds and reads the files."""

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
from minilearner.keywords import suggest_keywords
from minilearner.sources.fashion import FASHION_CLASSES, load_fashion_mnist
from minilearner.vision.augment import Flip
from minilearner.vision.shift import RandomShift

__all__ = ["fashion_mnist", "resize_images"]


@suggest_keywords
def fashion_mnist(
    path: str | os.PathLike[str] | None = None,
    *,
    size: int = 32,
    bs: int = 64,
    augment: bool = True,
    download: bool = True,
    seed: int | None = None,
) -> DataLoaders[str]:
    """Returns loaders of Fashion-MNIST: 60,000 + 10,000 grey images of clothes in 10 classes, in memory.

    Prints to standard error where the images came from: your `path`, the data home, the system, a download, or, if
    there is no other way, the sample of 6,000 images in this package. A sample is announced by a conspicuous notice.

    Args:
        path: the folder of the four IDX files, gzipped or not.
        size: height and width in pixels. Images are resized once from 28 pixels, bilinearly.
        bs: images per batch.
        augment: shift training images by up to 10 % each way, repeating the border, and flip half of them.
        download: whether the network may be used.
        seed: decides shuffling and augmentation; see `DataLoaders`.

    Raises:
        DataError: `path` is not a folder, or lacks one of the files.
        FileFormatError: a file is damaged or does not belong to Fashion-MNIST. No other place is tried then.
        ValueError: `size` is below 1.
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
        item_tfms=partial(resize_images, size=size),
        batch_tfms=[RandomShift(0.1), Flip(0.5)] if augment else None,
        seed=seed,
    )


def resize_images(images: Tensor, size: int) -> Tensor:
    """Returns images `(items, channels, size, size)`, resized bilinearly, with antialiasing if they shrink.

    uint8 stays uint8. Works on a few thousand images at a time, because floats take four times the memory.
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
