"""A confusion matrix in a page: a table with numbers for a few classes, a drawing for many.

Right answers are blue and errors orange, darker for a larger share of the actual class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from minilearner.errors import plural
from minilearner.pages.charts import new_svg, to_text, write_text
from minilearner.pages.content import Matrix
from minilearner.plots.style import shorten_middle, text_columns

__all__ = ["MOST_IN_TABLE", "describe_matrix", "draw_matrix", "find_shades", "shorten_name"]

MOST_IN_TABLE = 25  # classes; numbers of more do not fit beside each other on a screen
_N_SHADES = 5
_SMALLEST_CELL, _LARGEST_CELL, _SIDE = 4.5, 16.0, 900.0  # CSS pixels
_LETTER = 6.2  # CSS pixels: the mean width of a letter of 11 pixels
_LONGEST_NAME = 24  # letters


def find_shades(matrix: Matrix) -> list[list[str]]:
    """Returns the class of the style sheet for each cell: "ok3" or "err1", from 1 to 5, or "" for a cell with 0.

    Shades grow with the square root of the share of the actual class, so that rare errors can be seen.
    """
    counts = np.asarray(matrix.counts)
    share = counts / np.maximum(np.asarray(matrix.totals)[:, None], 1)
    steps = np.minimum(np.floor(np.sqrt(share) * _N_SHADES).astype(int) + 1, _N_SHADES)
    return [
        [
            "" if not count else f"{'ok' if i == j else 'err'}{step}"
            for j, (count, step) in enumerate(zip(*row, strict=True))
        ]
        for i, row in enumerate(zip(counts.tolist(), steps.tolist(), strict=True))
    ]


def describe_matrix(matrix: Matrix) -> str:
    """Returns what a matrix shows, for those who cannot see it."""
    counts = np.asarray(matrix.counts)
    right, wrong = int(np.trace(counts)), int(counts.sum() - np.trace(counts))
    return (
        f"Confusion matrix of {plural(len(counts), 'class')}: {plural(right, 'item')} on the diagonal, {wrong:,} "
        "beside it. Tables on this page have the numbers."
    )


def draw_matrix(matrix: Matrix) -> str:
    """Returns the matrix as SVG, with as many names as there is room for."""
    n = len(matrix.names)
    cell = max(_SMALLEST_CELL, min(_LARGEST_CELL, _SIDE / n))
    every = int(np.ceil(12.5 / cell))
    names = list(map(shorten_name, matrix.names))
    margin = 14 + _LETTER * max(map(text_columns, names[::every]))
    side = margin + cell * n + 2
    svg = new_svg(round(side), round(side), describe_matrix(matrix))
    _name_classes(svg, names[::every], margin, cell * every, cell)
    place = f"translate({margin:.1f} {margin:.1f}) scale({cell:.3f})"
    cells = ET.SubElement(svg, "g", {"transform": place, "class": "cells"})
    ET.SubElement(cells, "rect", {"width": str(n), "height": str(n), "class": "ground"})
    for shade, path in _paths(find_shades(matrix)):
        ET.SubElement(cells, "path", {"d": path, "class": shade})
    return to_text(svg)


def shorten_name(name: str) -> str:
    """Returns a name that leaves room for the matrix beside it."""
    return shorten_middle(name, _LONGEST_NAME)


def _paths(shades: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Returns one path for each shade: a matrix of 200 classes has 40,000 cells."""
    table: NDArray[Any] = np.array(shades)
    return [
        (shade, "".join(f"M{j} {i}h1v1h-1z" for i, j in np.argwhere(table == shade).tolist()))
        for shade in sorted(set(table.ravel().tolist()) - {""})
    ]


def _name_classes(svg: ET.Element, names: Sequence[str], margin: float, step: float, cell: float) -> None:
    write_text(svg, margin, 11, "predicted", "label end")
    write_text(svg, 11, margin, "actual", "label", transform=f"rotate(-90 11 {margin:.1f})")
    for i, name in enumerate(names):
        middle = margin + i * step + cell / 2
        write_text(svg, margin - 5, middle + 4, name, "tick end")
        turned = f"rotate(-90 {middle + 4:.1f} {margin - 5:.1f})"
        write_text(svg, middle + 4, margin - 5, name, "tick", transform=turned)
