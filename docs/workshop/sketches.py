"""Drawings of how things go, as SVG whose colours follow the theme of the page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape

from minilearner.training.callback import EVENTS, Callback

__all__ = ["SKETCHES", "read_loop"]

_LINE, _GAP, _INDENT, _WIDTH = 24, 8, 18, 560


@dataclass
class Stretch:
    """A part of the loop: its first line, and what it holds. A stretch without parts is one line."""

    text: str
    parts: list[Stretch] = field(default_factory=list)


def read_loop() -> Stretch:
    """Returns the loop as the docstring of `Callback` writes it."""
    docstring = inspect.getdoc(Callback) or ""
    code = re.search(r"::\n\n((?:    .*\n)+)", docstring)
    assert code is not None, "the docstring of `Callback` holds the loop"
    whole = Stretch("fit")
    open_stretches = [whole]
    for line in code[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 4
        del open_stretches[depth:]
        open_stretches[-1].parts.append(part := Stretch(line.strip().removesuffix(":")))
        open_stretches.append(part)
    return whole


def draw_loop() -> str:
    """Draws the loop: a frame for each stretch, with the events in the order in which they come."""
    drawn, height = _draw_stretch(read_loop(), 1, 1, _WIDTH - 2)
    return _svg(drawn, height + 2, "The loop of a fit, with the events of callbacks in their order")


def _draw_stretch(stretch: Stretch, x: float, y: float, width: float) -> tuple[list[str], float]:
    """Returns the elements of a stretch whose corner is at (x, y), and its height."""
    if not stretch.parts:
        return [_text(x + 10, y + 17, stretch.text, "event" if _is_event(stretch.text) else "act")], _LINE
    elements, below = [_text(x + 10, y + 19, stretch.text, "head")], y + _LINE + 4
    for part in stretch.parts:
        below += 5 if part.parts else 0
        drawn, height = _draw_stretch(part, x + _INDENT, below, width - 1.5 * _INDENT)
        elements += drawn
        below += height
    height = below + _GAP - y
    frame = f'<rect class="frame" x="{x}" y="{y}" width="{width}" height="{height - 4}" rx="6"/>'
    return [frame, *elements], height


def _is_event(text: str) -> bool:
    return all(name in EVENTS for name in text.split(", "))


WAY = [
    ("a file", "get_image_files lists them, sorted", "disk"),
    ("an image", "read once, scaled, kept in the cache", "a thread"),
    ("item transforms", "Resize and others, each image by itself", "a thread"),
    ("a batch", "images and targets as two tensors, uint8", "a thread"),
    ("the device", "copied as bytes", "GPU or CPU"),
    ("batch transforms", "aug_transforms, Normalize, on floats", "GPU or CPU"),
    ("the model", "run.pred = model(run.x)", "GPU or CPU"),
    ("the loss", "of the kind of target, or yours", "GPU or CPU"),
    ("the record", "read off the device at the end of an epoch", "memory"),
]
"""The way of the data: what there is at each station, what happens there, and where."""


def draw_data() -> str:
    """Draws the way of the data from a file to the record."""
    elements, step = [], 58
    for i, (what, how, where) in enumerate(WAY):
        y = 1 + i * step
        elements += [
            f'<rect class="frame" x="1" y="{y}" width="{_WIDTH - 2}" height="40" rx="6"/>',
            _text(14, y + 25, what, "head"),
            _text(160, y + 25, how, "act"),
            _text(_WIDTH - 14, y + 25, where, "event end"),
        ]
        if i:
            elements.append(f'<path class="arrow" d="M {_WIDTH / 2} {y - 17} v 12 m -4 -5 l 4 5 l 4 -5"/>')
    return _svg(elements, len(WAY) * step - 14, "The way of the data from a file to the record of a run")


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'


def _svg(elements: list[str], height: float, title: str) -> str:
    head = f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{title}">'
    return f'<div class="sketch" tabindex="0" markdown="0">{head}{"".join(elements)}</svg></div>'


SKETCHES: dict[str, Callable[[], str]] = {"loop": draw_loop, "data": draw_data}
