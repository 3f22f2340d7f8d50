"""What can be compared about images without a model: a digest of the pixels, a perceptual hash, light and contrast."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Fingerprint", "find_similar", "take_fingerprint"]

_SIDE = 32  # pixels of the small image that is hashed and compared
_N_FREQUENCIES = 8
_MOST_BITS = 7  # in which two hashes may differ; see `_find_near`
_N_WORDS = 1 << 16
_MOST_AT_ONCE = 1 << 20  # comparisons
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
    """Returns (pairs, 2): the positions of hashes that differ in few bits, each pair once.

    Two hashes that differ in at most 7 of 64 bits differ in at most one bit of one of their four words of 16 bits. So
    each hash is compared only with those that share such a word, or have it but for one bit: few even of a million.
    """
    words = np.ascontiguousarray(hashes).view(np.uint16)
    found = [np.zeros(0, dtype=np.int64)]
    for word in words.T.astype(np.int64):
        order = np.argsort(word, kind="stable")
        ends = np.cumsum(np.bincount(word, minlength=_N_WORDS))
        starts = ends - np.bincount(word, minlength=_N_WORDS)
        sorted_words, places = word[order], np.arange(len(order))
        found += _compare(words, order, places, places + 1, ends[sorted_words])
        for bit in range(16):
            ones = np.flatnonzero(sorted_words & 1 << bit == 0)
            others = sorted_words[ones] ^ 1 << bit
            found += _compare(words, order, ones, starts[others], ends[others])
    return np.stack(np.divmod(np.unique(np.concatenate(found)), len(hashes)), axis=1)


def _compare(
    words: NDArray[np.uint16],
    order: NDArray[np.int64],
    places: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> Iterator[NDArray[np.int64]]:
    """Compares the hash at each place of an order with those from a start to an end in it.

    Yields ``first * n + second`` of the pairs that are near, in parts that fit in memory.
    """
    lengths = ends - starts
    is_any = lengths > 0
    places, starts, lengths = places[is_any], starts[is_any], lengths[is_any]
    before = np.cumsum(lengths) - lengths
    cuts = np.flatnonzero(np.diff(before // _MOST_AT_ONCE)) + 1
    for here in np.split(np.arange(len(places)), cuts):
        n = lengths[here]
        first = order[np.repeat(places[here], n)]
        within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        second = order[np.repeat(starts[here], n) + within]
        is_near = _count_bits(words[first] ^ words[second]) <= _MOST_BITS
        first, second = first[is_near], second[is_near]
        yield np.minimum(first, second) * len(words) + np.maximum(first, second)


def _count_bits(values: NDArray[np.uint16]) -> NDArray[np.int64]:
    return np.asarray(_bits_of_words()[values].sum(axis=-1), dtype=np.int64)


@cache
def _bits_of_words() -> NDArray[np.uint8]:
    """Returns how many bits each word of 16 bits has."""
    words = np.arange(_N_WORDS, dtype=np.uint16)
    return np.asarray(np.unpackbits(words.view(np.uint8)).reshape(_N_WORDS, 16).sum(axis=1, dtype=np.uint8))
