"""What can be compared about images without a model: a digest of the pixels, a perceptual hash, light and contrast."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Fingerprint", "find_similar", "take_fingerprint"]

_SIDE = 32  # pixels of the small image that is hashed and compared
_N_FREQUENCIES = 8
_N_BANDS, _MOST_BITS = 8, 7  # two hashes that differ in 7 bits have one of 8 bytes in common
_SAME = 0.98  # the least correlation of small images
_MOST_COLOR = 12  # of 255: the largest difference of mean colours


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image."""

    size: tuple[int, int]
    """(width, height) in pixels."""
    digest: bytes
    """Equal for images of equal pixels only."""
    small: NDArray[np.uint8]
    """(32, 32): the image in grey."""
    color: tuple[float, float, float]
    """The mean of red, green and blue, from 0 to 255."""

    @property
    def darkest(self) -> float:
        """The grey level, in [0, 1], that 1 % of the image does not reach."""
        return float(np.percentile(self.small, 1)) / 255

    @property
    def brightest(self) -> float:
        """The grey level, in [0, 1], that 1 % of the image exceeds."""
        return float(np.percentile(self.small, 99)) / 255


def take_fingerprint(image: Image.Image) -> Fingerprint:
    """Returns the fingerprint of an image in mode "L" or "RGB"."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    red, green, blue = np.asarray(small.convert("RGB")).reshape(-1, 3).mean(axis=0).tolist()
    return Fingerprint(image.size, digest.digest(), np.asarray(small.convert("L")), (red, green, blue))


def find_similar(prints: Sequence[Fingerprint]) -> list[tuple[int, int, float]]:
    """Returns pairs of images that look the same, such as a photo and its copy at another size or quality.

    Their perceptual hashes (of the low frequencies of a cosine transform) differ in at most 7 of 64 bits, the small
    images correlate, and the mean colours are close.

    Returns:
        (first, second, how alike from 0 to 1) for each pair, with first < second.
    """
    if len(prints) < 2:
        return []
    small = np.stack([one.small for one in prints]).astype(np.float32)
    hashes, vectors = _hash(small), _standardize(small)
    colors = np.array([one.color for one in prints])
    pairs = _find_near(hashes)
    if not len(pairs):
        return []
    first, second = pairs.T
    blocks = np.array_split(pairs, -(-len(pairs) // 10_000))  # the vectors of all pairs may not fit in memory
    alike = np.concatenate([(vectors[block[:, 0]] * vectors[block[:, 1]]).sum(axis=1) for block in blocks])
    is_same = (alike >= _SAME) & (np.abs(colors[first] - colors[second]).max(axis=1) <= _MOST_COLOR)
    return [(int(i), int(j), float(a)) for (i, j), a in zip(pairs[is_same], alike[is_same], strict=True)]


def _hash(small: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Returns 64 bits of each image, as 8 bytes: which of its low frequencies are stronger than their median."""
    steps = np.pi / _SIDE * (np.arange(_SIDE) + 0.5)
    waves = np.cos(np.arange(_N_FREQUENCIES)[:, None] * steps).astype(np.float32)
    strengths = (waves @ small @ waves.T).reshape(len(small), -1)
    strengths[:, 0] = 0  # the mean brightness says nothing about the image
    bits = strengths > np.median(strengths, axis=1, keepdims=True)
    return np.packbits(bits, axis=1)


def _standardize(small: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = small.reshape(len(small), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6))


def _find_near(hashes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Returns (pairs, 2): the positions of hashes that differ in few bits, each pair once."""
    found = [np.zeros((0, 2), dtype=np.int64)]
    for band in range(_N_BANDS):
        order = np.argsort(hashes[:, band], kind="stable")
        starts = np.flatnonzero(np.diff(hashes[order, band].astype(np.int64), prepend=-1))
        for group in np.split(order, starts[1:]):
            for k in range(len(group) - 1):
                others = group[k + 1 :]
                n_bits = _count_bits(hashes[others] ^ hashes[group[k]])
                near = others[n_bits <= _MOST_BITS]
                found.append(np.stack([np.full_like(near, group[k]), near], axis=1))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _count_bits(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.asarray(np.unpackbits(values, axis=-1).sum(axis=-1), dtype=np.int64)
