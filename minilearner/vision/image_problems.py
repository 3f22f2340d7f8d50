"""Images that are probably no use: duplicates, unreadable files, blank, tiny, dark, bright or very long images."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from minilearner.checks import check_count
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.items import get_image_files
from minilearner.data.loader import Loader
from minilearner.data.memory_loader import MemoryLoader
from minilearner.errors import DataError, plural, portion
from minilearner.glance import AtAGlance, Glance
from minilearner.keywords import suggest_keywords
from minilearner.plots.image_grid import plot_images, verdict_colors
from minilearner.plots.style import shorten_middle
from minilearner.results.frames import to_frame
from minilearner.results.origins import Origins
from minilearner.review_file import Suspect, write_review
from minilearner.runtime import map_in_threads
from minilearner.training.item_origins import origins_of
from minilearner.vision.fingerprints import Fingerprint, find_similar, take_fingerprint
from minilearner.vision.images import open_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ImageProblem", "ImageProblems", "find_image_problems"]

_FEWEST_PIXELS = 8  # of the shorter side
_TINY = 0.1  # of the median side
_LONGEST = 3.0  # the longer side, in shorter ones
_FLAT = 0.02  # the least difference between the darkest and the brightest parts, of 1
_DARK, _BRIGHT = 0.15, 0.85
_MOST_ROWS = 20
_Found: TypeAlias = "tuple[int, str, float, str, int | None]"  # position, kind, suspicion, text, position of the twin
_LONGEST_NAME = 40


@dataclass(frozen=True)
class ImageProblem:
    """One image, and what is probably wrong with it."""

    kind: str
    """"unreadable", "blank", "duplicate", "near duplicate", "tiny", "long", "dark" or "bright"."""
    item: int
    """The position of the image: among the paths, or among training and then validation items."""
    path: str
    """The file. Empty for an image in memory."""
    part: str
    """"training" or "validation". Empty if only paths were given."""
    label: str
    """The label of the image. Empty if it is unknown."""
    suspicion: float
    """How clear the problem is, from 0 to 1."""
    text: str
    """What was found, in words."""
    twin: int | None = None
    """The position of the image of which this is a duplicate."""


@dataclass(frozen=True, repr=False)
class ImageProblems(AtAGlance):
    """What `find_image_problems` found, the clearest problems of each kind first."""

    rows: tuple[ImageProblem, ...]
    """One for each image and kind of problem."""
    n_images: int
    """How many images were looked at."""
    origins: Origins = field(compare=False)
    """Where the images come from."""
    labels: tuple[str, ...] = ()
    """The names of the classes. Empty if only paths were given."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        """Returns the problem at a place, or those of a slice."""
        return self.rows[place]

    def __iter__(self) -> Iterator[ImageProblem]:
        return iter(self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """How many images have each kind of problem."""
        return dict(Counter(row.kind for row in self.rows))

    def suspects(self, most: int | None = None) -> list[Suspect]:
        """Returns the first `most` problems, or all, as rows of a review."""
        if most is not None:
            check_count(most, "most")
        return [
            Suspect(row.path, row.item, row.label, "", row.suspicion, f"{row.kind}: {row.text}")
            for row in self.rows[:most]
        ]

    def load_images(self, items: Sequence[int]) -> list[Tensor | str]:
        """Returns the images at these positions, or a text that says what is missing."""
        return [self.origins.image(item) for item in items]

    def to_csv(self, path: str | os.PathLike[str], *, encoding: str = "utf-8") -> Path:
        """Writes the problems to a CSV file to review, and returns its path.

        A reviewer writes "keep", "delete" or "relabel" into `action`. `DataBlock.relabel` and `relabel=` of
        `ImageDataLoaders` read the file again.

        Args:
            path: the file.
            encoding: "utf-8-sig" adds the mark by which Excel knows UTF-8.
        """
        return write_review(path, self.suspects(), encoding)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers and text, for JSON."""
        return {"n_images": self.n_images, "counts": self.counts, "rows": [asdict(row) for row in self.rows]}

    def to_frame(self) -> Any:
        """Returns a pandas frame with a row for each problem.

        Raises:
            ImportError: pandas is not installed.
        """
        return to_frame([asdict(row) for row in self.rows])

    def plot(
        self,
        k: int = 8,
        kind: str | None = None,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the first `k` images with problems, each duplicate beside the image that it repeats.

        Args:
            k: how many problems at most.
            kind: draw only problems of this kind, such as "near duplicate".
            nrows: rows of the grid. None is as many as are needed.
            ncols: columns of the grid. None is as many as are needed.
            figsize: width and height in inches. None is large enough for the images.
            save: a file to write the figure to, such as "problems.png".

        Raises:
            ValueError: there is no such problem, or `k` is below 1.
        """
        check_count(k, "k")
        rows = [row for row in self.rows if kind is None or row.kind == kind][:k]
        if not rows:
            raise ValueError(f"There is no image to draw: found {self._describe_counts()}. Received: kind={kind!r}.")
        shown: list[tuple[int, str, bool | None]] = [
            (row.item, f"{row.kind}\n{self._name(row.item)}", False) for row in rows
        ]
        if any(row.twin is not None for row in rows):
            pairs = zip(shown, rows, strict=True)
            shown = [part for one, row in pairs for part in (one, *self._twin_of(row))]
        items, titles, are_right = zip(*shown, strict=True)
        layout: dict[str, Any] = {"nrows": nrows, "ncols": ncols, "figsize": figsize, "save": save}
        return plot_images([self.origins.image(i) for i in items], titles, colors=verdict_colors(are_right), **layout)

    def glance(self) -> Glance:
        """Returns how many images have problems, and the first ones."""
        n = len({row.item for row in self.rows})
        rows = [(row.kind, self._name(row.item), row.part, row.label, row.text) for row in self.rows[:_MOST_ROWS]]
        shown = [tuple(shorten_middle(cell, 2 * _LONGEST_NAME) for cell in row) for row in rows]
        rest = len(self.rows) - len(rows)
        after = (f"... and {plural(rest, 'problem')} more",) if rest else ()
        found = f" problems: {self._describe_counts()}" if rows else " problems"
        title = portion(n, self.n_images, "image", "has", "have") + found
        return Glance(title, {}, ("problem", "image", "set", "label", "what was found") if rows else (), shown, after)

    def _describe_counts(self) -> str:
        return ", ".join(f"{n:,} {kind}" for kind, n in self.counts.items()) or "nothing"

    def _name(self, item: int) -> str:
        return shorten_middle(self.origins.name(item) or f"item {item}", _LONGEST_NAME)

    def _twin_of(self, row: ImageProblem) -> list[tuple[int, str, bool | None]]:
        return [] if row.twin is None else [(row.twin, f"the same as\n{self._name(row.twin)}", None)]


@suggest_keywords
def find_image_problems(source: Any) -> ImageProblems:
    """Finds images that are repeated, across training and validation too, or that are probably no use.

    Every image is read once, in threads: about 10,000 photos a minute on two processors. No model is needed.

    - "unreadable": the file is no image, or is damaged.
    - "blank": nearly one colour.
    - "duplicate": the same pixels as another image. "near duplicate": looks the same, as a copy at another size or
      quality does. The validation item of a pair is kept, and the training item named, because a model that has seen an
      item in training is validated too well by it. Two labels for the same image are an error in one of them.
    - "tiny": less than 8 pixels, or than a tenth of the median side. "long": one side at least three times the other,
      and twice what is usual in the set.
    - "dark" and "bright": hardly any pixel is not.

    Example::

        found = find_image_problems(dls)
        found.plot(kind="near duplicate")
        found.to_csv("review.csv")

    Args:
        source: `DataLoaders` of images, a folder, or a list of paths.

    Raises:
        DataError: there are no images, or the loaders are of something else.
    """
    images = _list_images(source)
    numbers = range(len(images.origins))
    read = map_in_threads(
        images.fingerprint, numbers, 1 if images.are_in_memory else min(32, 2 * (os.cpu_count() or 1))
    )
    prints = {i: one for i, one in enumerate(read) if isinstance(one, Fingerprint)}
    found: list[_Found] = [(i, "unreadable", 1.0, one, None) for i, one in enumerate(read) if isinstance(one, str)]
    found += [(i, "blank", 1.0, "nearly one colour", None) for i, one in prints.items() if _is_blank(one)]
    found += _find_repeats(prints, images)
    found += _find_odd(prints)
    order = ("unreadable", "duplicate", "near duplicate", "blank", "tiny", "long", "dark", "bright")
    found.sort(key=lambda row: (order.index(row[1]), -row[2], row[0]))
    rows = [
        ImageProblem(kind, i, images.origins.path(i), images.parts[i], images.labels[i], suspicion, text, twin)
        for i, kind, suspicion, text, twin in found
    ]
    return ImageProblems(tuple(rows), len(images.origins), images.origins, images.classes)


@dataclass(frozen=True)
class _Images:
    """The images to look at, with the set and the label of each."""

    origins: Origins
    parts: Sequence[str]
    labels: Sequence[str]
    are_in_memory: bool = False
    classes: tuple[str, ...] = ()

    def fingerprint(self, i: int) -> Fingerprint | str:
        """Returns the fingerprint of an image, or the reason why it cannot be read."""
        source = self.origins.sources[i]
        if isinstance(source, Tensor):
            return _take_from_array(source)
        path = self.origins.path(i)
        try:
            return take_fingerprint(open_image(path))
        except DataError as error:
            return str(error).removeprefix(f"{path}: ")

    def name(self, i: int) -> str:
        """Returns what a text calls an image."""
        return self.origins.path(i) or f"item {i}"


def _list_images(source: Any) -> _Images:
    if isinstance(source, DataLoaders):
        return _list_items(source)
    if isinstance(source, (str, os.PathLike)):
        paths: Sequence[Any] = get_image_files(source)
    else:
        paths = list(source) if isinstance(source, Iterable) else ()
    if not paths or not all(isinstance(path, (str, os.PathLike)) for path in paths):
        raise DataError(
            "`source` must be DataLoaders, a folder or a list of paths, and hold at least one image. "
            f"Received: {_describe_source(source)}."
        )
    return _Images(Origins(paths), [""] * len(paths), [""] * len(paths))


def _describe_source(source: Any) -> str:
    if isinstance(getattr(source, "dls", None), DataLoaders):
        return "a learner. Pass its loaders, `learn.dls`"
    is_empty = isinstance(source, (list, tuple)) and not source
    return f"an empty {type(source).__name__}" if is_empty else f"an object of type {type(source).__name__}"


def _list_items(dls: DataLoaders) -> _Images:
    sources: list[Any] = []
    parts: list[str] = []
    labels: list[str] = []
    are_in_memory = isinstance(dls.train, MemoryLoader)
    for loader, part in zip(dls.loaders, ("training", "validation"), strict=False):
        found = _sources_of(loader)
        sources += found
        parts += [part] * len(found)
        labels += _labels_of(loader, dls.vocab, len(found))
    classes = tuple(map(str, dls.vocab or ()))
    return _Images(Origins(sources), parts, labels, are_in_memory, classes)


def _sources_of(loader: Loader) -> list[Any]:
    whole = loader.in_order()
    if isinstance(whole, MemoryLoader) and whole.x.ndim == 4:
        return list(whole.x.cpu())
    origins = origins_of(whole)
    if origins is None or not all(map(origins.path, range(len(origins)))):
        raise DataError(
            f"`source` must hold images, in files or as arrays (items, channels, height, width). Received: {loader!r}."
        )
    return list(origins.sources)


def _labels_of(loader: Loader, vocab: Sequence[Any] | None, n: int) -> list[str]:
    y = getattr(loader.in_order(), "y", None)
    if vocab is None or y is None or y.ndim != 1 or y.is_floating_point():
        return [""] * n
    return [str(vocab[number]) for number in y.tolist()]


def _take_from_array(pixels: Tensor) -> Fingerprint | str:
    """Returns the fingerprint of (channels, height, width), or the reason why there is none."""
    values = pixels.detach().cpu().numpy()
    if not np.isfinite(values).all():
        return "it holds NaN or infinite numbers"
    if len(values) in (1, 3):
        return take_fingerprint(_as_image(values))
    # Not an image for people. It looks like the mean of its channels; only equal channels make it a duplicate.
    looks = take_fingerprint(_as_image(values.mean(axis=0, dtype=np.float64, keepdims=True)))
    return replace(looks, digest=hashlib.blake2b(values.tobytes(), digest_size=16).digest())


def _as_image(values: NDArray[Any]) -> Image.Image:
    """Returns (channels, height, width) as an image: 8 bits, or floats in [0, 1] or of any range."""
    if values.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        low, high = (0.0, 1.0) if low > -0.01 and high < 1.01 else (low, high)
        values = ((values - low) / max(high - low, 1e-12) * 255).clip(0, 255).round().astype(np.uint8)
    if len(values) == 3:
        return Image.fromarray(np.ascontiguousarray(np.moveaxis(values, 0, -1)))
    return Image.fromarray(np.ascontiguousarray(values[0]))


def _is_blank(one: Fingerprint) -> bool:
    return one.brightest - one.darkest < _FLAT


def _find_repeats(prints: dict[int, Fingerprint], images: _Images) -> list[_Found]:
    """Finds duplicates. Each image is named once, beside the first of its kind, or one in validation."""
    found: list[_Found] = []
    of_digest: dict[bytes, list[int]] = {}
    for i, one in prints.items():
        if not _is_blank(one):
            of_digest.setdefault(one.digest, []).append(i)
    name = partial(_describe_twin, images=images)
    firsts = []
    for group in of_digest.values():
        first, *others = sorted(group, key=lambda i: (images.parts[i] != "validation", i))
        firsts.append(first)
        found += [(i, "duplicate", 1.0, f"the same pixels as {name(i, first)}", first) for i in others]
    named: set[int] = set()
    for a, b, alike in find_similar([prints[i] for i in firsts]):
        twin, i = sorted((firsts[a], firsts[b]), key=lambda i: (images.parts[i] != "validation", i))
        if i not in named:
            named.add(i)
            found.append((i, "near duplicate", alike, f"looks like {name(i, twin)}", twin))
    return found


def _describe_twin(i: int, twin: int, *, images: _Images) -> str:
    text = images.name(twin)
    if images.parts[i] != images.parts[twin]:
        text += f" in {images.parts[twin]}"
    return text if images.labels[i] == images.labels[twin] else f"{text}, which is labelled {images.labels[twin]!r}"


def _find_odd(prints: dict[int, Fingerprint]) -> list[_Found]:
    found: list[_Found] = []
    if not prints:
        return found
    side = float(np.median([math.sqrt(one.size[0] * one.size[1]) for one in prints.values()]))
    usual = float(np.median([max(one.size) / min(one.size) for one in prints.values()]))
    for i, one in prints.items():
        width, height = one.size
        own, length = math.sqrt(width * height), max(one.size) / min(one.size)
        size = f"{width} x {height} pixels"
        if min(one.size) < _FEWEST_PIXELS or own < _TINY * side:
            found.append((i, "tiny", 1 - min(1.0, own / side), size, None))
        if length >= max(_LONGEST, 2 * usual):
            found.append((i, "long", 1 - usual / length, size, None))
        if one.brightest < _DARK and not _is_blank(one):
            found.append((i, "dark", 1 - one.brightest, f"99 % is below {one.brightest:.0%} of white", None))
        if one.darkest > _BRIGHT and not _is_blank(one):
            found.append((i, "bright", one.darkest, f"99 % is above {one.darkest:.0%} of white", None))
    return found
