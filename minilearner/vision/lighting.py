"""Random lighting for whole batches, each picture its own: brightness, contrast, saturation and hue.

Brightness, contrast and saturation work on logits of the values, fastai's definition: black and white stay what they
are, and nothing is clipped. Each is z -> scale · z + grey · luma(z) + offset for a picture's logits z, and so are
several in a row: neighbours become three numbers a picture, and one pass. Hue turns colours in HSV, in another pass.
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

__all__ = ["Brightness", "Contrast", "Hue", "Lighting", "LogitMap", "Saturation"]

# ITU-R BT.601's parts of red, green and blue, rounded as PIL's and fastai's. They add up to 0.9999.
_LUMA = (0.2989, 0.5870, 0.1140)

# Values are kept this far from black and white, so that logits are finite; fastai's.
_EPS = 1e-7


class LogitMap(NamedTuple):
    """z -> scale · z + grey · luma(z) + offset, on the logits z of a picture; each (batch or 1, 1)."""

    scale: Tensor
    grey: Tensor | float
    offset: Tensor | float

    def then(self, later: LogitMap) -> LogitMap:
        """Returns this map followed by another as one."""
        total = sum(_LUMA)
        return LogitMap(
            self.scale * later.scale,
            later.scale * self.grey + later.grey * self.scale + later.grey * self.grey * total,
            later.scale * self.offset + later.grey * self.offset * total + later.offset,
        )


class Lighting(PixelTransform):
    """Changes light in logit space; subclasses draw the maps. Neighbours are one pass over the pixels."""

    order: ClassVar[float] = 40
    needs_unit_range = True

    mixes_channels: bool = False
    """Mixes in the luma, so pictures must have three channels."""

    def draw(self, n: int, rng: torch.Generator) -> LogitMap:
        """Draws the map of each of `n` pictures, on `rng`'s device."""
        raise NotImplementedError(f"{type(self).__name__} must define `draw(self, n, rng)`.")

    def drawn(self, n: int, rng: torch.Generator) -> PixelChange:
        """Draws, and returns the change of light: of pictures (batch, channels, height, width) in [0, 1]."""
        parts = [torch.as_tensor(part).expand(n, 1)[:, :, None, None] for part in self.draw(n, rng)]

        def relight(x: Tensor, pictures: slice) -> None:
            if self.mixes_channels:
                _check_colour(self, x)
            scale, grey, offset = (part[pictures].to(x.device, non_blocking=True) for part in parts)
            _relight(x, scale, grey, offset, mixes_channels=self.mixes_channels)

        return relight

    def merge(self, later: BatchTransform) -> BatchTransform | None:
        """Fuses with any other of its kind."""
        return _Fused((*_parts(self), *_parts(later))) if isinstance(later, Lighting) else None


class _Fused(Lighting):
    """Several changes of light as one pass."""

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


@dataclass(frozen=True)
class _RandomLighting(Lighting):
    """What brightness, contrast and saturation share: how much, and how often."""

    max_lighting: float = 0.2
    p: float = 0.75
    batch: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_fraction(self.p, "p")
        check_fraction(self.max_lighting, "max_lighting", closed="left")

    def factors(self, n: int, rng: torch.Generator) -> Tensor:
        """Draws factors between 1 - max_lighting and its inverse, evenly in the logarithm; 1 where nothing happens."""
        return _factors(1 if self.batch else n, self.max_lighting, self.p, rng)


def _factors(n: int, most: float, p: float, rng: torch.Generator) -> Tensor:
    least = math.log(1 - most)
    drawn = torch.empty(n, 1, device=rng.device).uniform_(least, -least, generator=rng).exp_()
    return torch.where(torch.rand(n, 1, generator=rng, device=rng.device) < p, drawn, 1.0)


class Brightness(_RandomLighting):
    """Makes each picture brighter or darker with probability `p`: mid-grey becomes a value in 0.5 (1 ± max_lighting).

    Args:
        max_lighting: how much at most, in [0, 1).
        p: the probability that a picture changes.
        batch: one draw for the whole batch.

    Raises:
        ValueError: `max_lighting` or `p` is out of its range.
    """

    def draw(self, n: int, rng: torch.Generator) -> LogitMap:
        """Draws two numbers a picture."""
        n = 1 if self.batch else n
        drawn = torch.empty(n, 1, device=rng.device).uniform_(-self.max_lighting, self.max_lighting, generator=rng)
        drawn.mul_(torch.rand(n, 1, generator=rng, device=rng.device) < self.p)
        return LogitMap(torch.ones_like(drawn), 0.0, torch.logit((1 + drawn) / 2))


class Contrast(_RandomLighting):
    """Spreads each picture's values about mid-grey, or draws them together, with probability `p`.

    Logits are multiplied by a factor between 1 - max_lighting and its inverse, evenly in its logarithm. Arguments and
    errors as with `Brightness`.
    """

    def draw(self, n: int, rng: torch.Generator) -> LogitMap:
        """Draws two numbers a picture."""
        return LogitMap(self.factors(n, rng), 0.0, 0.0)


class Saturation(_RandomLighting):
    """Takes each picture towards its luma, or away from it, with probability `p`. Pictures need three channels.

    Logits are mixed with their luma, by a factor between 1 - max_lighting and its inverse. Arguments and errors as with
    `Brightness`.
    """

    mixes_channels = True

    def draw(self, n: int, rng: torch.Generator) -> LogitMap:
        """Draws two numbers a picture."""
        factors = self.factors(n, rng)
        return LogitMap(factors, 1 - factors, 0.0)


@dataclass(frozen=True)
class Hue(PixelTransform):
    """Turns each picture's colours round the wheel of HSV by up to about `max_hue` of it, with probability `p`.

    The turn is evenly drawn in its logarithm, from -max_hue to max_hue / (1 - max_hue), as fastai's. Hue is no linear
    change of logits, so it takes a pass of its own, after the other lighting.

    Args:
        max_hue: the largest turn backwards, as a part of the circle, in [0, 1).
        p: the probability that a picture changes.
        batch: one draw for the whole batch.

    Raises:
        ValueError: `max_hue` or `p` is out of its range, or, at a batch, pictures have not three channels.
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
        """Draws twice for each; the change is of pictures (batch, 3, height, width) in [0, 1]."""
        turns = _factors(1 if self.batch else n, self.max_hue, self.p, rng) - 1
        turns = turns.expand(n, 1)[:, :, None]

        def recolour(x: Tensor, pictures: slice) -> None:
            _check_colour(self, x)
            x.copy_(_recoloured(x, turns[pictures].to(x.device, non_blocking=True)))

        return recolour


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


def _recoloured(x: Tensor, turns: Tensor) -> Tensor:
    """Returns pictures (batch, 3, height, width) whose hue is turned; turns: (batch, 1, 1), parts of the circle."""
    red, green, blue = x.unbind(1)
    brightest = x.amax(1)
    chroma = brightest - x.amin(1)
    divisor = chroma.clamp_min(torch.finfo(x.dtype).tiny)  # grey has no hue, and keeps none
    hue = torch.where(brightest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(brightest == red, (green - blue) / divisor, hue).add_(6 * turns)
    # Each channel runs from the brightest value down to the darkest and back over the six sixths of the circle.
    phases = hue[:, None] + torch.arange(5.0, 0, -2, device=x.device)[:, None, None]
    phases.remainder_(6)
    darker = torch.minimum(phases, 4 - phases).clamp_(0, 1).mul_(chroma[:, None])
    return darker.neg_().add_(brightest[:, None])
