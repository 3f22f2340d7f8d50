"""Item transforms of pictures, on Pillow: they give the pictures of a batch one size.

Each is split: scaling is always the same, so that its result can be cached; where a window lies is random in training
and the middle in validation. By default resampling is bilinear with antialiasing, within one grey level of Pillow's,
and torch's own, which is more than twice as fast. Augmentation of whole batches is `augment`'s business.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from minilearner.checks import check_choice, check_count, check_not_negative, check_positive, check_ratio, check_size
from minilearner.data.item_transforms import Box, Finishing, SplitTransform

__all__ = ["CropPad", "PadMode", "RandomCrop", "RandomResizedCrop", "RatioResize", "Resize", "ResizeMethod"]

Resamples: TypeAlias = Image.Resampling | tuple[Image.Resampling, Image.Resampling]
"""Pillow's resampling of pictures, or that and the one of masks."""


class ResizeMethod(str, Enum):
    """How `Resize` reaches its size. The plain words do as well."""

    Crop = "crop"
    Pad = "pad"
    Squish = "squish"


class PadMode(str, Enum):
    """What fills the room around a picture: black, its border repeated, or its mirror image."""

    Zeros = "zeros"
    Border = "border"
    Reflection = "reflection"


@dataclass(frozen=True)
class Resize(SplitTransform):
    """Gives every picture one size.

    - "crop": the largest window of the wanted shape, at a random place in training and in the middle in validation. As
      fastai's, but scaled before it is cut, not after: the window begins at a whole pixel of the result.
    - "pad": the whole picture, with room filled around it; it lies at a random place in training.
    - "squish": the whole picture, whatever becomes of its shape.

    Args:
        size: in pixels, one number for a square or (height, width).
        method: see above.
        pad_mode: what "pad" fills with: "reflection", "border" or "zeros".
        resamples: Pillow's resampling, such as `PIL.Image.Resampling.BICUBIC`. Of two, as fastai has them, the first is
            for pictures; the other is for masks, which this does not resize.

    Raises:
        ValueError: `size` is less than 1, or `method` or `pad_mode` is another word, or
            `resamples` is none of Pillow's.
    """

    in_threads = True
    size: int | tuple[int, int]
    method: str = "crop"
    pad_mode: str = "reflection"
    resamples: Resamples = (Image.Resampling.BILINEAR, Image.Resampling.NEAREST)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _height_width(self.size))
        object.__setattr__(self, "resamples", _resamples(self.resamples))
        object.__setattr__(self, "method", _choice(ResizeMethod, "method", self.method))
        object.__setattr__(self, "pad_mode", _choice(PadMode, "pad_mode", self.pad_mode))

    @property
    def finishing(self) -> Finishing:
        """Nothing is left after squishing, and only the cut after scaling for a crop."""
        return "none" if self.method == "squish" else "cut" if self.method == "crop" else "any"

    @property
    def reduce_to(self) -> tuple[int, int]:
        """The size itself: where both sides are as long, no enlarging is needed."""
        return _width_height(self.size)

    def prepare(self, item: Image.Image) -> Image.Image:
        """Returns the picture scaled: to cover the size, to fit into it, or to it exactly."""
        width, height = _width_height(self.size)
        if self.method == "squish":
            return resized(item, (width, height), _of_pictures(self.resamples))
        scales = width / _picture(item).width, height / item.height
        scale = max(scales) if self.method == "crop" else min(scales)
        scaled = _scaled(item.width, scale, width), _scaled(item.height, scale, height)
        return resized(item, scaled, _of_pictures(self.resamples))

    def window(self, size: tuple[int, int], rng: random.Random | None) -> Box:
        """Returns the window of the wanted size."""
        return _window(size, _width_height(self.size), rng)

    def finish(self, item: Image.Image, rng: random.Random | None) -> Image.Image:
        """Returns the picture cut to size, or padded to it."""
        if self.method != "pad":
            return super().finish(item, rng)  # type: ignore[no-any-return]
        width, height = _width_height(self.size)
        left, upper = _place(width - item.width, rng), _place(height - item.height, rng)
        return _cut(item, (-left, -upper, width - left, height - upper), self.pad_mode)


def _scaled(length: int, scale: float, wanted: int) -> int:
    """Returns a side's length after scaling: `wanted` exactly where rounding could miss it by one."""
    exact = length * scale
    return wanted if abs(exact - wanted) < 1e-6 * wanted else max(1, round(exact))


@dataclass(frozen=True)
class RandomResizedCrop(SplitTransform):
    """Cuts a random part out of a training picture and resizes it; a validation picture is squished and cut.

    In training, the part's share of the area is drawn from [min_scale, max_scale] and its width over height from
    `ratio`, evenly in the logarithm; where no part fits in ten attempts, the largest in the middle with a permitted
    ratio is taken (Inception's augmentation: Szegedy et al., "Going deeper with convolutions", 2014). In validation the
    whole picture is squished to the size plus `val_xtra`, rounded up to a multiple of 8 (128 to 152, 224 to 256), and
    its middle is cut out. Both are fastai's. Pictures so large that even the smallest part has more pixels than the
    result are scaled down first.

    Args:
        size: in pixels, one number for a square or (height, width).
        min_scale: the smallest share of the area, in (0, max_scale].
        ratio: the least and the largest width / height of the part.
        resamples: as for `Resize`.
        val_xtra: how much of the size lies around the middle in validation.
        max_scale: the largest share of the area.

    Raises:
        ValueError: a number is outside its range.
    """

    in_threads = True
    size: int | tuple[int, int]
    min_scale: float = 0.08
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resamples: Resamples = (Image.Resampling.BILINEAR, Image.Resampling.NEAREST)
    val_xtra: float = 0.14
    max_scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _height_width(self.size))
        object.__setattr__(self, "resamples", _resamples(self.resamples))
        check_positive(self.min_scale, "min_scale")
        check_positive(self.max_scale, "max_scale")
        if self.min_scale > self.max_scale:
            raise ValueError(
                "`min_scale` must not exceed `max_scale`. "
                f"Received: min_scale={self.min_scale}, max_scale={self.max_scale}."
            )
        check_ratio(self.ratio, "ratio")
        check_not_negative(self.val_xtra, "val_xtra")

    @property
    def reduce_to(self) -> tuple[int, int]:
        """The sides of a picture whose smallest part is still as large as the result, and as validation's."""
        longest = max(_width_height(self.size)) * math.sqrt(self.ratio[1] / self.min_scale)
        needed = max(math.ceil(longest), *self._validation_size())
        return needed, needed

    def prepare(self, item: Image.Image) -> Image.Image:
        """Returns the picture, scaled down where it has more pixels than any part needs."""
        scale = self.reduce_to[0] / min(_picture(item).size)
        if scale >= 1:
            return item
        return resized(item, (round(item.width * scale), round(item.height * scale)), _of_pictures(self.resamples))

    def finish(self, item: Image.Image, rng: random.Random | None) -> Image.Image:
        """Returns a random part, or the middle where `rng` is None."""
        wanted, resample = _width_height(self.size), _of_pictures(self.resamples)
        if rng is None:
            whole = resized(item, self._validation_size(), resample)
            return whole.crop(_window(whole.size, wanted, None))
        return resized(item.crop(self.part(item.size, rng)), wanted, resample)

    def part(self, size: tuple[int, int], rng: random.Random) -> Box:
        """Draws which part of a picture of `size` (width, height) is taken."""
        width, height = size
        logs = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = rng.uniform(self.min_scale, self.max_scale) * width * height
            ratio = math.exp(rng.uniform(*logs))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return _window(size, (w, h), rng)
        w, h = min(width, int(height * self.ratio[1])), min(height, int(width / self.ratio[0]))
        return _window(size, (max(w, 1), max(h, 1)), None)

    def _validation_size(self) -> tuple[int, int]:
        width, height = _width_height(self.size)
        xtra = math.ceil(max(width, height) * self.val_xtra / 8) * 8
        return width + xtra, height + xtra


@dataclass(frozen=True)
class CropPad(SplitTransform):
    """Cuts or pads around the middle, without scaling, in training and validation alike.

    Args:
        size: in pixels, one number for a square or (height, width).
        pad_mode: what fills the room around a smaller picture: "zeros", "border" or "reflection".

    Raises:
        ValueError: `size` is less than 1, or `pad_mode` is another word.
    """

    in_threads = True
    size: int | tuple[int, int]
    pad_mode: str = "zeros"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _height_width(self.size))
        object.__setattr__(self, "pad_mode", _choice(PadMode, "pad_mode", self.pad_mode))

    @property
    def finishing(self) -> Finishing:
        """Nothing is left."""
        return "none"

    def prepare(self, item: Image.Image) -> Image.Image:
        """Returns a picture of the wanted size."""
        width, height = _width_height(self.size)
        left, upper = (_picture(item).width - width) // 2, (item.height - height) // 2
        return _cut(item, (left, upper, left + width, upper + height), self.pad_mode)


@dataclass(frozen=True)
class RandomCrop(SplitTransform):
    """Cuts a window out, without scaling: anywhere in training, in the middle in validation.

    A picture smaller than the window is set in the middle of black first, as fastai does.

    Args:
        size: in pixels, one number for a square or (height, width).

    Raises:
        ValueError: `size` is less than 1.
    """

    in_threads = True
    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _height_width(self.size))

    @property
    def finishing(self) -> Finishing:
        """Only the cut is left."""
        return "cut"

    def prepare(self, item: Image.Image) -> Image.Image:
        """Returns a picture no smaller than the window."""
        width, height = _width_height(self.size)
        return CropPad((max(height, _picture(item).height), max(width, item.width))).prepare(item)

    def window(self, size: tuple[int, int], rng: random.Random | None) -> Box:
        """Returns the window of the wanted size."""
        return _window(size, _width_height(self.size), rng)


@dataclass(frozen=True)
class RatioResize(SplitTransform):
    """Scales a picture so that its longer side is `max_sz` pixels; its shape stays.

    Pictures of different shapes make no batch: for `bs=1`, or before a transform that gives them one size.

    Raises:
        ValueError: `max_sz` is less than 1.
    """

    in_threads = True
    max_sz: int

    def __post_init__(self) -> None:
        check_count(self.max_sz, "max_sz")

    @property
    def finishing(self) -> Finishing:
        """Nothing is left."""
        return "none"

    def prepare(self, item: Image.Image) -> Image.Image:
        """Returns the scaled picture."""
        scale = self.max_sz / max(_picture(item).size)
        return resized(item, (_scaled(item.width, scale, self.max_sz), _scaled(item.height, scale, self.max_sz)))


def resized(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BILINEAR
) -> Image.Image:
    """Returns the picture at `size` (width, height); bilinear with antialiasing, or as Pillow does it."""
    if _picture(image).size == size:
        return image
    if resample != Image.Resampling.BILINEAR or image.mode not in ("L", "RGB", "RGBA"):
        return image.resize(size, resample)
    pixels = torch.from_numpy(np.array(image))
    # (height, width, channels) as a batch of one with its channels last: so torch's result needs no rearranging.
    batch = pixels[None, ..., None] if pixels.ndim == 2 else pixels[None]
    scaled = F.interpolate(batch.permute(0, 3, 1, 2), size[::-1], mode="bilinear", antialias=True)
    return Image.fromarray(scaled.permute(0, 2, 3, 1)[0].contiguous().numpy().reshape(*size[::-1], *pixels.shape[2:]))


def _cut(image: Image.Image, box: Box, pad_mode: str) -> Image.Image:
    """Returns the window, which may reach beyond the picture; what lies there is filled."""
    left, upper, right, lower = box
    width, height = image.size
    if left >= 0 and upper >= 0 and right <= width and lower <= height:
        return image.crop(box)
    if pad_mode == "zeros":
        return image.crop(box)  # Pillow fills with zeros
    inner = np.asarray(image.crop((max(left, 0), max(upper, 0), min(right, width), min(lower, height))))
    room = [(max(-upper, 0), max(lower - height, 0)), (max(-left, 0), max(right - width, 0)), (0, 0)]
    return Image.fromarray(np.pad(inner, room[: inner.ndim], mode="edge" if pad_mode == "border" else "reflect"))


def _window(size: tuple[int, int], wanted: tuple[int, int], rng: random.Random | None) -> Box:
    left, upper = (_place(side - length, rng) for side, length in zip(size, wanted, strict=True))
    return left, upper, left + wanted[0], upper + wanted[1]


def _place(room: int, rng: random.Random | None) -> int:
    return room // 2 if rng is None else int(rng.random() * (room + 1))


def _picture(item: Any) -> Image.Image:
    if not isinstance(item, Image.Image):
        raise TypeError(
            f"this transform takes a Pillow picture. Received: a {type(item).__name__}. Put it before whatever makes "
            "tensors."
        )
    return item


def _height_width(size: Any) -> tuple[int, int]:
    check_size(size, "size")
    return (int(size[0]), int(size[1])) if isinstance(size, (tuple, list)) else (int(size), int(size))


def _resamples(given: Any) -> tuple[Image.Resampling, ...]:
    several = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    known = list(Image.Resampling)
    if not 1 <= len(several) <= 2 or any(isinstance(one, str) or one not in known for one in several):
        raise ValueError(
            f"`resamples` must be one or two of PIL.Image.Resampling's {', '.join(one.name for one in known)}. "
            f"Received: resamples={given!r}."
        )
    return tuple(map(Image.Resampling, several))


def _of_pictures(resamples: Any) -> Image.Resampling:
    return resamples[0]  # type: ignore[no-any-return]


def _width_height(size: Any) -> tuple[int, int]:
    """Turns (height, width), as users give it, into Pillow's order."""
    return size[1], size[0]


Choice = TypeVar("Choice", ResizeMethod, PadMode)


def _choice(choices: type[Choice], name: str, value: object) -> str:
    check_choice(value, name, [choice.value for choice in choices])
    return choices(value).value
