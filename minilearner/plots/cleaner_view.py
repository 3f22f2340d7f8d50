"""The view of an `ImageCleaner` in a notebook: a page of images, each with a menu of decisions.

The view holds no decisions. It calls the cleaner's methods, and shows what the cleaner says.
"""

from __future__ import annotations

import io
import os
from html import escape
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from minilearner.plots.style import shorten_middle

__all__ = ["CleanerView", "show_cleaner"]

_PER_PAGE = 12
_SIDE = 160  # pixels of an image on the page
_SQUARE = {"width": f"{_SIDE}px", "height": f"{_SIDE}px", "object_fit": "contain"}
_LONGEST_NAME = 26
_KEEP, _DELETE, _OPEN = "keep", "delete", "to be decided"


def show_cleaner(cleaner: Any) -> None:
    """Displays a cleaner in a notebook. Without ipywidgets, displays its table and how to install them."""
    from IPython import display as ipython  # a notebook has it

    display: Any = ipython.display
    try:
        import ipywidgets  # noqa: F401 - an extra
    except ModuleNotFoundError:
        way = "<div>To decide with the mouse: <code>pip install minilearner[notebook]</code>, and restart.</div>"
        text = f"{cleaner!r}\nTo decide with the mouse: pip install minilearner[notebook], and restart."
        display({"text/html": cleaner._repr_html_() + way, "text/plain": text}, raw=True)
        return
    display(CleanerView(cleaner).box)


class CleanerView:
    """Shows a page of a cleaner's images.

    Args:
        cleaner: the `ImageCleaner`.

    Raises:
        ModuleNotFoundError: ipywidgets are not installed.
    """

    def __init__(self, cleaner: Any) -> None:
        import ipywidgets as widgets  # an extra

        self._widgets: Any = widgets
        self._cleaner, self._page = cleaner, 0
        self.menus: list[Any] = []
        """The menu of each image on the page."""
        self.state = widgets.HTML()
        """How far the review is."""
        self.file = widgets.Text("review.csv", description="File")
        """The name of the CSV file."""
        self.back, self.forward, self.undo, self.save = (
            widgets.Button(description=text, tooltip=tip)
            for text, tip in (
                ("Back", "Show the images before"),
                ("Next", "Show the next images"),
                ("Undo", "Take the latest decision back"),
                ("Save CSV", "Write the decisions to the file"),
            )
        )
        self.back.on_click(lambda _: self.turn_to(self._page - 1))
        self.forward.on_click(lambda _: self.turn_to(self._page + 1))
        self.undo.on_click(lambda _: self._undo())
        self.save.on_click(lambda _: self._save())
        self._grid = widgets.HBox(layout=widgets.Layout(flex_flow="row wrap"))
        buttons = widgets.HBox([self.back, self.forward, self.undo, self.file, self.save])
        self.box = widgets.VBox([self.state, self._grid, buttons])
        """Everything, to be displayed."""
        self.turn_to(0)

    @property
    def n_pages(self) -> int:
        """How many pages the images fill, at least 1."""
        return max(1, -(-len(self._cleaner) // _PER_PAGE))

    def turn_to(self, page: int) -> None:
        """Shows a page, or the nearest one that there is."""
        self._page = min(max(page, 0), self.n_pages - 1)
        places = range(self._page * _PER_PAGE, min(len(self._cleaner), (self._page + 1) * _PER_PAGE))
        self.menus = [self._make_menu(place) for place in places]
        self._grid.children = [self._make_card(place, menu) for place, menu in zip(places, self.menus, strict=True)]
        self.back.disabled, self.forward.disabled = self._page == 0, self._page == self.n_pages - 1
        self._say()

    def _make_card(self, place: int, menu: Any) -> Any:
        suspect, image = self._cleaner[place], self._cleaner.image(place)
        style = f"width:{_SIDE}px;height:{_SIDE}px;display:flex;align-items:center;justify-content:center"
        shown = (
            self._widgets.HTML(f'<div style="{style};border:1px dashed gray">{escape(image)}</div>')
            if isinstance(image, str)
            else self._widgets.Image(value=_as_png(image), format="png", layout=_SQUARE)
        )
        return self._widgets.VBox(
            [shown, self._widgets.HTML(_caption(suspect)), menu],
            layout=self._widgets.Layout(width=f"{_SIDE + 20}px", margin="4px", justify_content="flex-end"),
        )

    def _make_menu(self, place: int) -> Any:
        suspect = self._cleaner[place]
        first = [suspect.suggested_label] if suspect.suggested_label not in ("", suspect.given_label) else []
        others = [name for name in self._cleaner.classes if name not in (*first, suspect.given_label)]
        choices = [(_OPEN, None), (_KEEP, (_KEEP, "")), (_DELETE, (_DELETE, ""))]
        choices += [(f"\N{RIGHTWARDS ARROW} {name}", ("relabel", name)) for name in (*first, *others)]
        decided = (suspect.action, suspect.new_label) if suspect.action else None
        menu = self._widgets.Dropdown(options=choices, value=decided, layout={"width": f"{_SIDE}px"})
        menu.observe(lambda change: self._decide(place, change["new"]), names="value")
        return menu

    def _decide(self, place: int, decision: tuple[str, str] | None) -> None:
        if decision is None:
            self._cleaner.reset(place)
        else:
            self._cleaner.decide(place, *decision)
        self._say()

    def _undo(self) -> None:
        place = self._cleaner.undo()
        self.turn_to(self._page if place is None else place // _PER_PAGE)

    def _save(self) -> None:
        try:
            path = self._cleaner.to_csv(self.file.value)
        except (OSError, ValueError) as error:
            self._say(f"Not saved: {error}")
        else:
            self._say(f"Saved {os.path.abspath(path)}")

    def _say(self, more: str = "") -> None:
        counts = ", ".join(f"{n:,} {name}" for name, n in self._cleaner.counts.items())
        page = f"page {self._page + 1} of {self.n_pages}"
        self.state.value = f"<b>{page}</b>: {counts}{'<br>' if more else ''}{escape(more)}"


def _caption(suspect: Any) -> str:
    """Returns what is known about an item, as HTML."""
    name = suspect.path.replace("\\", "/").rsplit("/", 1)[-1] or f"item {suspect.item}"
    lines = [shorten_middle(name, _LONGEST_NAME)]
    lines += [f"label: {suspect.given_label}"] if suspect.given_label else []
    lines += [f"suggested: {suspect.suggested_label}"] if suspect.suggested_label else []
    lines += [suspect.problem] if suspect.problem else []
    full = f' title="{escape(suspect.path or name)}"'
    return f'<div style="line-height:1.3;overflow-wrap:anywhere"{full}>{"<br>".join(map(escape, lines))}</div>'


def _as_png(image: Tensor) -> bytes:
    """Returns an image, (channels, height, width) in [0, 1], as a PNG file that fits the page."""
    pixels = (image.detach().cpu().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    small = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3]))
    scale = _SIDE / max(small.size)
    size = tuple(max(1, round(side * scale)) for side in small.size)
    out = io.BytesIO()
    small.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BILINEAR).save(out, "PNG")  # type: ignore[arg-type]
    return out.getvalue()
