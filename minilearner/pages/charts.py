"""Charts as SVG that stands in a page: its style sheet gives the colours, so that charts follow the theme.

They are drawn at about the size at which they are seen, so letters stay readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree as ET

import numpy as np

from minilearner.pages.content import Bars, Lines, Points, Series
from minilearner.plots.style import clean_text, shorten_middle

__all__ = ["draw_chart", "new_svg", "to_text", "write_text"]

_WIDTH, _HEIGHT = 370, 260  # CSS pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 20, 42
_LETTER, _FEWEST_LETTERS = 6.0, 4  # CSS pixels of a letter; a shorter rest of a name says nothing


def draw_chart(chart: Lines | Points | Bars) -> str:
    """Returns a chart as SVG."""
    if isinstance(chart, Lines):
        return _draw_lines(chart)
    return _draw_points(chart) if isinstance(chart, Points) else _draw_bars(chart)


def new_svg(width: float, height: float, described: str) -> ET.Element:
    """Returns an empty drawing of so many CSS pixels.

    Args:
        width: of the drawing.
        height: of the drawing.
        described: what it shows, for those who cannot see it.
    """
    look = {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": clean_text(described)}
    return ET.Element("svg", {**look, "width": f"{width:g}", "height": f"{height:g}"})


def to_text(svg: ET.Element) -> str:
    """Returns a drawing as text in which everything is escaped."""
    return ET.tostring(svg, encoding="unicode")


def write_text(parent: ET.Element, x: float, y: float, text: str, look: str = "", **attributes: str) -> None:
    """Adds a text. `look` is a class of the style sheet."""
    place = {"x": _number(x), "y": _number(y), **({"class": look} if look else {})}
    ET.SubElement(parent, "text", {**place, **attributes}).text = clean_text(text)


def _draw_lines(chart: Lines) -> str:
    svg = new_svg(_WIDTH, _HEIGHT, _describe(chart.title, chart.series))
    x = _Axis.over([series.x for series in chart.series], _LEFT, _WIDTH - _RIGHT, is_whole=chart.has_whole_steps)
    bottom, top = _HEIGHT - _BOTTOM, _TOP
    y = _Axis.over([series.y for series in chart.series], bottom, top)
    _draw_axes(svg, x, y, chart.x_label, chart.y_label)
    for place, _ in chart.starts:
        if x.low < place < x.high:
            _draw_line(svg, x(place), top - 6, x(place), bottom, "start")
    _name_starts(svg, chart.starts, x)
    for series in chart.series:
        _draw_series(svg, series, x, y)
    return to_text(svg)


def _name_starts(svg: ET.Element, starts: Sequence[tuple[float, str]], x: _Axis) -> None:
    """Writes the names of what begins above the axes, each as far as the next one leaves room."""
    if len(starts) < 2:
        return
    places = [*(max(place, x.low) for place, _ in starts), x.high]
    for (_, name), place, end in zip(starts, places, places[1:], strict=False):
        letters = int((x(end) - x(place) - 6) / _LETTER)
        if letters >= _FEWEST_LETTERS:
            write_text(svg, x(place) + 4, _TOP - 8, shorten_middle(name, letters), "remark")


def _draw_points(chart: Points) -> str:
    svg = new_svg(_WIDTH, _HEIGHT, _describe(chart.title, chart.series))
    bottom, top = _HEIGHT - _BOTTOM, _TOP
    if chart.in_unit_range:
        x, y = _Axis(0, 1, _LEFT, _WIDTH - _RIGHT), _Axis(0, 1, bottom, top)
    else:
        x = _Axis.over([series.x for series in chart.series], _LEFT, _WIDTH - _RIGHT)
        y = _Axis.over([series.y for series in chart.series], bottom, top)
    _draw_axes(svg, x, y, chart.x_label, chart.y_label)
    low, high = max(x.low, y.low), min(x.high, y.high)
    if low < high:
        _draw_line(svg, x(low), y(low), x(high), y(high), "start")
    for place, series in enumerate(chart.series):
        sizes = [0.0] * len(series.x) if chart.sizes is None else chart.sizes[place]
        if chart.sizes is not None:
            _draw_series(svg, series, x, y)
        for px, py, size in zip(series.x, series.y, sizes, strict=True):
            if math.isfinite(px) and math.isfinite(py):
                _draw_dot(svg, x(px), y(py), 2.2 + 5 * math.sqrt(size), f"dot {series.look}")
    return to_text(svg)


def _draw_bars(chart: Bars) -> str:
    n, most = len(chart.heights), max(chart.heights, default=0)
    svg = new_svg(_WIDTH, _HEIGHT, f"{chart.title}: from {most:,g} down to {min(chart.heights, default=0):,g}.")
    bottom = _HEIGHT - _BOTTOM
    x, y = _Axis(0, max(n, 1), _LEFT, _WIDTH - _RIGHT), _Axis.over([[0, max(most, 1)]], bottom, _TOP, starts_at_0=True)
    _draw_axes(svg, None, y, chart.x_label, chart.y_label)
    gap = 0.15 if n <= 60 else 0
    for i, height in enumerate(chart.heights):
        left, right = x(i + gap), x(i + 1 - gap)
        box = {"x": left, "y": y(height), "width": right - left, "height": bottom - y(height)}
        ET.SubElement(svg, "rect", {**{key: _number(value) for key, value in box.items()}, "class": "bar"})
    return to_text(svg)


class _Axis:
    """From values to places in the drawing, with ticks at round numbers.

    Args:
        low, high: the values at both ends.
        start, end: their places.
        is_whole: whether ticks stand at whole numbers only.
    """

    def __init__(self, low: float, high: float, start: float, end: float, *, is_whole: bool = False) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end
        self.ticks = _round_ticks(low, high, is_whole=is_whole)

    @classmethod
    def over(
        cls,
        columns: Sequence[Sequence[float]],
        start: float,
        end: float,
        *,
        is_whole: bool = False,
        starts_at_0: bool = False,
    ) -> _Axis:
        """Returns an axis on which all finite values have a place."""
        values = np.concatenate([np.asarray(column, np.float64) for column in columns] or [np.empty(0)])
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        margin = 0.04 * (high - low) if not is_whole else 0.0
        if high == low:
            margin = 0.5 if is_whole else max(abs(high), 1e-3) * 0.1
        low = 0.0 if starts_at_0 else low - margin
        return cls(low, high + margin, start, end, is_whole=is_whole)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _round_ticks(low: float, high: float, *, is_whole: bool, most: int = 6) -> list[float]:
    """Returns at most `most` numbers between both ends, 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    step = max(step, 1.0) if is_whole else step
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _draw_axes(svg: ET.Element, x: _Axis | None, y: _Axis, x_label: str, y_label: str) -> None:
    left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    for tick in y.ticks:
        _draw_line(svg, left, y(tick), right, y(tick), "grid")
        write_text(svg, left - 6, y(tick) + 4, _tick_text(tick, y), "tick end")
    for tick in () if x is None else x.ticks:
        _draw_line(svg, x(tick), bottom, x(tick), bottom + 4, "axis")  # type: ignore[misc]
        write_text(svg, x(tick), bottom + 17, _tick_text(tick, x), "tick middle")  # type: ignore[misc,arg-type]
    _draw_line(svg, left, bottom, right, bottom, "axis")
    below = _HEIGHT - 6 if x is not None else bottom + 18
    write_text(svg, (left + right) / 2, below, x_label, "label middle")
    middle = (_TOP + bottom) / 2
    write_text(svg, 11, middle, y_label, "label middle", transform=f"rotate(-90 11 {_number(middle)})")


def _tick_text(tick: float, axis: _Axis) -> str:
    step = axis.ticks[1] - axis.ticks[0] if len(axis.ticks) > 1 else abs(tick) or 1.0
    if 0 < max(abs(axis.low), abs(axis.high)) < 1e-3:
        return f"{tick:.1e}".replace("e-0", "e-") if tick else "0"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{tick:,.{min(decimals, 4)}f}"


def _draw_series(svg: ET.Element, series: Series, x: _Axis, y: _Axis) -> None:
    pieces: list[list[str]] = [[]]
    for px, py in zip(series.x, series.y, strict=True):
        if math.isfinite(py):
            pieces[-1].append(f"{_number(x(px))} {_number(y(py))}")
        elif pieces[-1]:
            pieces.append([])
    path = "".join(f"M{'L'.join(piece)}" for piece in pieces if len(piece) > 1)
    if path:
        ET.SubElement(svg, "path", {"d": path, "class": f"line {series.look}"})
    for px, py in zip(series.x, series.y, strict=True):
        if math.isfinite(py) and (series.has_markers or len(series.x) == 1):
            _draw_dot(svg, x(px), y(py), 3.2, f"dot {series.look}")


def _draw_line(svg: ET.Element, x1: float, y1: float, x2: float, y2: float, look: str) -> None:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    ET.SubElement(svg, "line", {**{key: _number(value) for key, value in ends.items()}, "class": look})


def _draw_dot(svg: ET.Element, x: float, y: float, radius: float, look: str) -> None:
    ET.SubElement(svg, "circle", {"cx": _number(x), "cy": _number(y), "r": _number(radius), "class": look})


def _describe(title: str, several: Sequence[Series]) -> str:
    """Returns what a chart says in words: where each line begins and ends."""
    lines = []
    for series in several:
        known = [value for value in series.y if math.isfinite(value)]
        if known:
            lines.append(f"{series.name} from {known[0]:.3g} to {known[-1]:.3g}")
    return f"{title}: {', '.join(lines) or 'no values'}."


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
