"""Random lighting of whole batches: brightness, contrast, saturation and hue. Each image gets its own random numbers.

Brightness, contrast and saturation work on the logits of the values, as in fastai, so black and white stay as they are
and nothing is clipped. Each is z -> scale · z + grey · luma(z) + offset for an image's logits z. So is any sequence of
them: adjacent transforms become three numbers per image and a single pass. Hue rotates colours in HSV, in a pass of its
own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from minilearner.checks import check_fraction
from minilearner.data.batch_transforms import BatchTransform, PixelChange, PixelTransform
from minilearner.keywords import suggest_keywords

__all__ = ["Brightness", "Contrast", "Hue", "Lighting", "LogitMap", "Saturation"]

# The shares of red, green and blue in ITU-R BT.601, rounded as in PIL and fastai. They add up to 0.9999.
_LUMA = (0.2989, 0.5870, 0.1140)

# Values stay this far from black and white, so that their logits are finite. As in fastai.
_EPS = 1e-7


class LogitMap(NamedTuple):
    """z -> scale · z + grey · luma(z) + offset, for the logits z of an image. Each is (batch or 1, 1)."""

    scale: Tensor
    grey: Tensor | float
    offset: Tensor | float

    def then(self, later: LogitMap) -> LogitMap:
        """Returns one map that has the effect of this map followed by another."""
        total = sum(_LUMA)
        return LogitMap(
            self.scale * later.scale,
            later.scale * self.grey + later.grey * self.scale + later.grey * self.grey * total,
            later.scale * self.offset + later.grey * self.offset * total + later.offset,
        )


class Lighting(PixelTransform):
    """Changes the light in logit space. Subclasses draw the maps. Adjacent ones are one pass over the pixels."""

    order: ClassVar[float] = 40
    needs_unit_range = True

    mixes_channels: bool = False
    """Whether it mixes in the luma, so that images must have three channels."""

    def draw(self, n: int, rng: torch.Generator) -> LogitMap:
        """Draws a map for each of `n` images, on `rng`'s device."""
        raise NotImplementedError(f"{type(self).__name__} must define `draw(self, n, rng)`.")

    def drawn(self, n: int, rng: torch.Generator) -> PixelChange:
        """Draws, and returns the change of light for images (batch, channels, height, width) in [0, 1]."""
        parts = [torch.as_tensor(part).expand(n, 1)[:, :, None, None] for part in self.draw(n, rng)]

        def relight(x: Tensor, images: slice) -> None:
            if self.mixes_channels:
                _check_colour(self, x)
            scale, grey, offset = (part[images].to(x.device, non_blocking=True) for part in parts)
            _relight(x, scale, grey, offset, mixes_channels=self.mixes_channels)

        return relight

    def merge(self, later: BatchTransform) -> BatchTransform | None:
        """Fuses with any other transform of this kind."""
        return _Fused((*_parts(self), *_parts(later))) if isinstance(later, Lighting) else None


@suggest_keywords
@dataclass(frozen=True)
class _RandomLighting(Lighting):
    """What brightness, contrast and saturation have in common: how strong they are, and how frequent."""

    max_lighting: float = 0.2
    p: float = 0.75
    batch: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_fraction(self.p, "p")
        check_fraction(self.max_lighting, "max_lighting", closed="left")

    def factors(self, n: int, rng: torch.Generator) -> Tensor:
        """Draws factors between 1 - max_lighting and its inverse, uniformly in the logarithm, or 1 for no change."""
        return _draw_factors(1 if self.batch else n, self.max_lighting, self.p, rng)


class Brightness(_RandomLighting):
    """Makes each image brighter or darker with probability `p`. Mid-grey becomes a value in 0.5 (1 ± max_lighting).

    Args:
        max_lighting: the strongest change, in [0, 1).
        p: the probability that an image changes.
        batch: draw once for the whole batch.

    Raises:
        ValueError: `max_lighting` or `p` is out of its range.
    """

    def draw(self, n: int, rng: torch.Generator) -> LogitMap:
        """Draws two numbers per image."""
        n = 1 if self.batch else n
        drawn = torch.empty(n, 1, device=rng.device).uniform_(-self.max_lighting, self.max_lighting, generator=rng)
        drawn.mul_(torch.rand(n, 1, generator=rng, device=rng.device) < self.p)
        return LogitMap(torch.ones_like(drawn), 0.0, torch.logit((1 + drawn) / 2))


class Contrast(_RandomLighting):
    """Increases or reduces the contrast of each image with probability `p`.

    Logits are multiplied by a factor between 1 - max_lighting and its inverse, uniform in the logarithm. Arguments and
    errors are those of `Brightness`.
    """

    def draw(self, n: int, rng: torch.Generator) -> LogitMap:
        """Draws two numbers per image."""
        return LogitMap(self.factors(n, rng), 0.0, 0.0)


class Saturation(_RandomLighting):
    """Increases or reduces the saturation of each image with probability `p`. Images need three channels.

    Logits are mixed with their luma, by a factor between 1 - max_lighting and its inverse. Arguments and errors are
    those of `Brightness`.
    """

    mixes_channels = True

    def draw(self, n: int, rng: torch.Generator) -> LogitMap:
        """Draws two numbers per image."""
        factors = self.factors(n, rng)
        return LogitMap(factors, 1 - factors, 0.0)


@suggest_keywords
@dataclass(frozen=True)
class Hue(PixelTransform):
    """Rotates each image's hues on the HSV colour wheel by up to about `max_hue` of a turn, with probability `p`.

    The rotation is uniform in its logarithm, from -max_hue to max_hue / (1 - max_hue), as in fastai. Hue is not a
    linear change of logits, so it needs its own pass, after the other lighting.

    Args:
        max_hue: the largest rotation backwards, as a share of a turn, in [0, 1).
        p: the probability that an image changes.
        batch: draw once for the whole batch.

    Raises:
        ValueError: `max_hue` or `p` is out of its range. Also raised for a batch of images without three channels.
    """

    order: ClassVar[float] = 41
    needs_unit_range = True
    max_hue: float = 0.1
    p: float = 0.75
    batch: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_fraction(self.p, "p")
        check_fraction(self.max_hue, "max_hue", closed="left")

    def drawn(self, n: int, rng: torch.Generator) -> PixelChange:
        """Draws two numbers per image, and returns the change for images (batch, 3, height, width) in [0, 1]."""
        turns = _draw_factors(1 if self.batch else n, self.max_hue, self.p, rng) - 1
        turns = turns.expand(n, 1)[:, :, None]

        def recolour(x: Tensor, images: slice) -> None:
            _check_colour(self, x)
            x.copy_(_turn_hue(x, turns[images].to(x.device, non_blocking=True)))

        return recolour


class _Fused(Lighting):
    """Several changes of light in one pass."""

    def __init__(self, parts: Sequence[Lighting]) -> None:
        self.parts = tuple(parts)
        self.mixes_channels = any(part.mixes_channels for part in parts)

    def draw(self, n: int, rng: torch.Generator) -> LogitMap:
        drawn, *later = [part.draw(n, rng) for part in self.parts]
        for after in later:
            drawn = drawn.then(after)
        return drawn

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


def _parts(transform: BatchTransform) -> tuple[Lighting, ...]:
    if isinstance(transform, _Fused):
        return transform.parts
    return (transform,) if isinstance(transform, Lighting) else ()


def _draw_factors(n: int, most: float, p: float, rng: torch.Generator) -> Tensor:
    least = math.log(1 - most)
    drawn = torch.empty(n, 1, device=rng.device).uniform_(least, -least, generator=rng).exp_()
    return torch.where(torch.rand(n, 1, generator=rng, device=rng.device) < p, drawn, 1.0)


def _check_colour(transform: BatchTransform, x: Tensor) -> None:
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"{transform!r} takes (batch, 3, height, width). Received: x of shape {tuple(x.shape)}.")


def _relight(x: Tensor, scale: Tensor, grey: Tensor, offset: Tensor, *, mixes_channels: bool) -> None:
    logits = x.logit_(_EPS)
    if mixes_channels:
        red, green, blue = logits.split(1, dim=1)  # type: ignore[no-untyped-call]
        luma = (_LUMA[0] * red).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
        offset = luma.mul_(grey).add_(offset)
    logits.mul_(scale).add_(offset).sigmoid_()


def _turn_hue(x: Tensor, turns: Tensor) -> Tensor:
    """Returns images (batch, 3, height, width) with rotated hues; turns: (batch, 1, 1), in turns."""
    red, green, blue = x.unbind(1)
    brightest = x.amax(1)
    chroma = brightest - x.amin(1)
    divisor = chroma.clamp_min(torch.finfo(x.dtype).tiny)  # grey has no hue and stays grey
    hue = torch.where(brightest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(brightest == red, (green - blue) / divisor, hue).add_(6 * turns)
    # Along the colour wheel, each channel goes from the brightest value down to the darkest and back, in six sixths.
    phases = hue[:, None] + torch.arange(5.0, 0, -2, device=x.device)[:, None, None]
    phases.remainder_(6)
    darker = torch.minimum(phases, 4 - phases).clamp_(0, 1).mul_(chroma[:, None])
    return darker.neg_().add_(brightest[:, None])
