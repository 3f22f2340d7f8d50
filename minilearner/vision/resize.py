"""Item transforms of images, with Pillow, which give the images of a batch the same size.

Each has two parts. Scaling is always the same, so its result can be cached. The position of a window is random in
training and central in validation. The default resampling is torch's, bilinear with antialiasing: within one grey level
of Pillow's and more than twice as fast. `augment` transforms whole batches.
"""

from __future__ import annotations

import math
import random
import sys
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minilearner.checks import check_choice, check_count, check_not_negative, check_positive, check_ratio, check_size
from minilearner.data.item_steps import Box, Finishing, SplitTransform
from minilearner.data.pixel_image import PixelImage, pack_pixels, view_pixels
from minilearner.keywords import suggest_keywords
from minilearner.vision.scaling import scale_pixels

__all__ = ["CropPad", "PadMode", "RandomCrop", "RandomResizedCrop", "RatioResize", "Resize", "ResizeMethod"]

Resamples: TypeAlias = Image.Resampling | tuple[Image.Resampling, Image.Resampling]
"""Pillow's resampling for images, or a pair: for images and for masks."""


class ResizeMethod(str, Enum):
    """How `Resize` reaches its size. The plain strings work as well."""

    Crop = "crop"
    Pad = "pad"
    Squish = "squish"


class PadMode(str, Enum):
    """What fills the space around an image: black, its repeated border, or its mirror image."""

    Zeros = "zeros"
    Border = "border"
    Reflection = "reflection"


@suggest_keywords
@dataclass(frozen=True)
class Resize(SplitTransform):
    """Gives every image the same size.

    - "crop": the largest window of the wanted shape, at a random position in training and in the middle in validation.
      fastai does the same, but we scale before cutting, so the window begins at a whole pixel of the result.
    - "pad": the whole image, with filled space around it. Its position is random in training.
    - "squish": the whole image, stretched to the wanted shape.

    If "crop" would scale a long, thin image to many times the pixels of both the image and the result, the window is
    cut out first, and then scaled. So 8,000 x 2 pixels take no more work and memory than other images.

    Args:
        size: in pixels, one number for a square or (height, width).
        method: see above.
        pad_mode: what "pad" fills with: "reflection", "border" or "zeros".
        resamples: Pillow's resampling, such as `PIL.Image.Resampling.BICUBIC`. Of a pair, as in fastai, the first is
            for images. The second is for masks, which this transform does not resize.

    Raises:
        ValueError: `size` is below 1, `method` or `pad_mode` is unknown, or `resamples` is not a resampling of Pillow.
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
        """Squishing leaves nothing to finish, and cropping only the cut."""
        return "none" if self.method == "squish" else "cut" if self.method == "crop" else "any"

    @property
    def reduce_to(self) -> tuple[int, int]:
        """The size itself: if both sides are at least that long, nothing has to be enlarged."""
        return _width_height(self.size)

    def prepare(self, item: Image.Image) -> Image.Image:
        """Returns the image scaled: to cover the size, to fit into it, or to it exactly."""
        width, height = _width_height(self.size)
        if self.method == "squish":
            return resize_image(item, (width, height), _for_images(self.resamples))
        scales = width / _check_image(item).width, height / item.height
        scale = max(scales) if self.method == "crop" else min(scales)
        scaled = _scale_length(item.width, scale, width), _scale_length(item.height, scale, height)
        if self.method == "crop" and _is_excessive(scaled, item.size, (width, height)):
            return item
        return resize_image(item, scaled, _for_images(self.resamples))

    def only_cuts(self, size: tuple[int, int]) -> bool:
        """Whether the image covers the wanted size; `prepare` leaves long, thin ones as they are."""
        return _covers(size, _width_height(self.size))

    def window(self, size: tuple[int, int], rng: random.Random | None) -> Box:
        """Returns a window of the wanted size."""
        return _window(size, _width_height(self.size), rng)

    def finish(self, item: Image.Image, rng: random.Random | None) -> Image.Image:
        """Returns the image cut to size, or padded to it."""
        width, height = _width_height(self.size)
        if self.method == "crop" and not self.only_cuts(item.size):
            scale = max(width / item.width, height / item.height)
            part = max(1, min(item.width, round(width / scale))), max(1, min(item.height, round(height / scale)))
            cut = item.crop(_window(item.size, part, rng))
            return resize_image(cut, (width, height), _for_images(self.resamples))
        if self.method != "pad":
            return super().finish(item, rng)  # type: ignore[no-any-return]
        left, upper = _place(width - item.width, rng), _place(height - item.height, rng)
        return _crop_or_pad(item, (-left, -upper, width - left, height - upper), self.pad_mode)


@suggest_keywords
@dataclass(frozen=True)
class RandomResizedCrop(SplitTransform):
    """Cuts a random part out of a training image and resizes it. A validation image is squished and cropped.

    In training, the part's share of the area is drawn from [min_scale, max_scale], and its width / height from `ratio`,
    uniformly in the logarithm. If no part fits in ten attempts, the largest central part with an allowed ratio is used
    (Inception's augmentation: Szegedy et al., "Going deeper with convolutions", 2014). In validation, the whole image
    is squished to the size plus `val_xtra`, rounded up to a multiple of 8 (128 to 152, 224 to 256), and its middle is
    cut out. Both are as in fastai. If an image is so large that even the smallest part has more pixels than the result,
    it is scaled down first.

    Args:
        size: in pixels, one number for a square or (height, width).
        min_scale: the smallest share of the area, in (0, max_scale].
        ratio: the smallest and the largest width / height of the part.
        resamples: as for `Resize`.
        val_xtra: how much is added to the size in validation before the middle is cut out, as a share of the size.
        max_scale: the largest share of the area.

    Raises:
        ValueError: a number is out of its range.
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
        """The sides of an image whose smallest part is as large as the result, and that suffices for validation."""
        longest = max(_width_height(self.size)) * math.sqrt(self.ratio[1] / self.min_scale)
        needed = max(math.ceil(longest), *self._validation_size())
        return needed, needed

    def prepare(self, item: Image.Image) -> Image.Image:
        """Returns the image, scaled down if it has more pixels than any part needs."""
        scale = self.reduce_to[0] / min(_check_image(item).size)
        if scale >= 1:
            return item
        return resize_image(item, (round(item.width * scale), round(item.height * scale)), _for_images(self.resamples))

    def finish(self, item: Image.Image, rng: random.Random | None) -> Image.Image:
        """Returns a random part, or the middle if `rng` is None."""
        wanted, resample = _width_height(self.size), _for_images(self.resamples)
        if rng is None:
            whole = resize_image(item, self._validation_size(), resample)
            return whole.crop(_window(whole.size, wanted, None))
        return resize_image(item.crop(self.part(item.size, rng)), wanted, resample)

    def part(self, size: tuple[int, int], rng: random.Random) -> Box:
        """Draws the part to cut out of an image of `size` (width, height)."""
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


@suggest_keywords
@dataclass(frozen=True)
class CropPad(SplitTransform):
    """Crops or pads about the centre, without scaling, in training and validation.

    Args:
        size: in pixels, one number for a square or (height, width).
        pad_mode: what fills the space around a smaller image: "zeros", "border" or "reflection".

    Raises:
        ValueError: `size` is below 1, or `pad_mode` is unknown.
    """

    in_threads = True
    size: int | tuple[int, int]
    pad_mode: str = "zeros"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _height_width(self.size))
        object.__setattr__(self, "pad_mode", _choice(PadMode, "pad_mode", self.pad_mode))

    @property
    def finishing(self) -> Finishing:
        """Nothing remains to be done."""
        return "none"

    def prepare(self, item: Image.Image) -> Image.Image:
        """Returns an image of the wanted size."""
        width, height = _width_height(self.size)
        left, upper = (_check_image(item).width - width) // 2, (item.height - height) // 2
        return _crop_or_pad(item, (left, upper, left + width, upper + height), self.pad_mode)


@suggest_keywords
@dataclass(frozen=True)
class RandomCrop(SplitTransform):
    """Cuts out a window, without scaling: at a random position in training, in the middle in validation.

    An image smaller than the window is first centred on black, as in fastai.

    Args:
        size: in pixels, one number for a square or (height, width).

    Raises:
        ValueError: `size` is below 1.
    """

    in_threads = True
    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _height_width(self.size))

    @property
    def finishing(self) -> Finishing:
        """Only the cut remains."""
        return "cut"

    def prepare(self, item: Image.Image) -> Image.Image:
        """Returns an image at least as large as the window, unless a thin one would become many times larger."""
        width, height = _width_height(self.size)
        padded = max(width, _check_image(item).width), max(height, item.height)
        return item if _is_excessive(padded, item.size, (width, height)) else CropPad(padded[::-1]).prepare(item)

    def only_cuts(self, size: tuple[int, int]) -> bool:
        """Whether the image covers the wanted size; `prepare` leaves long, thin ones as they are."""
        return _covers(size, _width_height(self.size))

    def window(self, size: tuple[int, int], rng: random.Random | None) -> Box:
        """Returns a window of the wanted size."""
        return _window(size, _width_height(self.size), rng)

    def finish(self, item: Any, rng: random.Random | None) -> Any:
        """Returns the window, black where it extends beyond the image."""
        wanted = _width_height(self.size)
        inner = min(wanted[0], item.width), min(wanted[1], item.height)
        part = item.crop(_window(item.size, inner, rng))
        return part if inner == wanted else CropPad(self.size).prepare(part)


@suggest_keywords
@dataclass(frozen=True)
class RatioResize(SplitTransform):
    """Scales an image so that its longer side has `max_sz` pixels. Its shape stays the same.

    Images of different shapes cannot form a batch. Use it with `bs=1`, or before a transform that gives them one size.

    Args:
        max_sz: the length of the longer side, in pixels.

    Raises:
        ValueError: `max_sz` is below 1.
    """

    in_threads = True
    max_sz: int

    def __post_init__(self) -> None:
        check_count(self.max_sz, "max_sz")

    @property
    def finishing(self) -> Finishing:
        """Nothing remains to be done."""
        return "none"

    def prepare(self, item: Image.Image) -> Image.Image:
        """Returns the scaled image."""
        scale = self.max_sz / max(_check_image(item).size)
        return resize_image(
            item, (_scale_length(item.width, scale, self.max_sz), _scale_length(item.height, scale, self.max_sz))
        )


def resize_image(
    image: Image.Image,
    size: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """Returns the image at `size` (width, height): as torch scales it if `resample` is bilinear, else as Pillow."""
    if _check_image(image).size == size:
        return image
    if _is_excessive((size[0], image.height), image.size, size):
        # Widths are scaled first. Here that would make an image far larger than both this one and the result.
        image = resize_image(image, (image.width, size[1]), resample)
    if resample != Image.Resampling.BILINEAR or image.mode not in ("L", "RGB", "RGBA"):
        return image.resize(size, resample)
    if "torch" in sys.modules:
        scaled = pack_pixels(_scale_by_torch(view_pixels(image), size), image.mode)
    else:  # `onnx_model` prepares images without torch, to the same bits
        scaled = scale_pixels(np.array(image), size)
    return PixelImage(scaled, image.mode)


def _scale_by_torch(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns pixels (height, width[, channels]) at `size` (width, height)."""
    import torch  # loaded already, but not on a machine without it
    from torch.nn.functional import interpolate

    given = torch.from_numpy(pixels)
    # A batch of one with channels last, so that torch's result needs no rearranging.
    batch = given[None, ..., None] if given.ndim == 2 else given[None]
    scaled = interpolate(batch.permute(0, 3, 1, 2), size[::-1], mode="bilinear", antialias=True)
    return scaled.permute(0, 2, 3, 1)[0].contiguous().numpy().reshape(*size[::-1], *pixels.shape[2:])


def _is_excessive(size: tuple[int, int], before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether an image between two steps has more than four times the pixels of the images before and after."""
    return size[0] * size[1] > 4 * max(before[0] * before[1], after[0] * after[1])


def _covers(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    return size[0] >= wanted[0] and size[1] >= wanted[1]


def _scale_length(length: int, scale: float, wanted: int) -> int:
    """Returns the length of a scaled side. Rounding errors never make it miss `wanted` by one."""
    exact = length * scale
    return wanted if abs(exact - wanted) < 1e-6 * wanted else max(1, round(exact))


def _crop_or_pad(image: Image.Image, box: Box, pad_mode: str) -> Image.Image:
    """Returns the window, which may extend beyond the image. The outside is filled."""
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


def _check_image(item: Any) -> Image.Image:
    if not isinstance(item, Image.Image):
        raise TypeError(
            f"this transform takes a Pillow image. Received: a {type(item).__name__}. Put it before transforms that "
            "return tensors."
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
            f"`resamples` must be one or two of PIL.Image.Resampling: {', '.join(one.name for one in known)}. "
            f"Received: resamples={given!r}."
        )
    return tuple(map(Image.Resampling, several))


def _for_images(resamples: Any) -> Image.Resampling:
    return resamples[0]  # type: ignore[no-any-return]


def _width_height(size: Any) -> tuple[int, int]:
    """Converts (height, width), as users pass it, to Pillow's order."""
    return size[1], size[0]


Choice = TypeVar("Choice", ResizeMethod, PadMode)


def _choice(choices: type[Choice], name: str, value: object) -> str:
    check_choice(value, name, [choice.value for choice in choices])
    return choices(value).value
