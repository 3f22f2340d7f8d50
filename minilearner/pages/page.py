"""Writes a `Page` as one HTML file that needs nothing else: no server, no network, no other file.

All text is escaped, and the page's own policy (Content-Security-Policy) allows only the one style sheet and the one
script that stand in it, by their digests. So no request can leave it, and no text of the user's can become a script.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilearner.files import make_parent, write_atomically
from minilearner.pages.charts import draw_chart
from minilearner.pages.content import Page
from minilearner.pages.matrices import MOST_IN_TABLE, draw_matrix, find_shades, shorten_name
from minilearner.pages.pixels import make_thumbnail
from minilearner.plots.style import clean_text, shorten_middle

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["check_page_path", "render_page", "write_page"]

_SUFFIXES = (".html", ".htm")
_LONGEST_TEXT = 300  # letters; what is longer loses its middle


def check_page_path(path: str | os.PathLike[str]) -> Path:
    """Checks that a page can be written to `path`, and returns it. The folder is made if there is none.

    Raises:
        ValueError: the name does not end in ".html", or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"`path` must end in '.html', so that a browser opens it. Received: path={os.fspath(path)!r}.")
    make_parent(path, "path")
    return path


def write_page(path: Path, page: Page) -> Path:
    """Writes a page whole or not at all, and returns its path. With several processes, only process 0 writes."""
    return write_atomically(path, render_page(page))


def render_page(page: Page) -> str:
    """Returns a page as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # heavy
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        loader=PackageLoader("minilearner", "pages"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    environment.filters["shorten"] = shorten_name
    environment.globals |= {
        "draw_chart": lambda chart: Markup(draw_chart(chart)),
        "draw_matrix": lambda matrix: Markup(draw_matrix(matrix)),
        "find_shades": find_shades,
        "make_thumbnail": _as_source,
        "most_in_table": MOST_IN_TABLE,
    }
    style, script = (_read(name) for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    template = environment.get_template("report.html.jinja")
    return template.render(page=page, policy=policy, style=style, script=script).lstrip()


def _read(name: str) -> Markup:
    """Returns a file of ours, which stands in the page as it is."""
    from markupsafe import Markup

    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _digest(text: str) -> str:
    """Returns what names a style sheet or a script in a policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _clean(value: Any) -> Any:
    """Returns what the template inserts without control characters, and without the middle of endless texts."""
    if hasattr(value, "__html__") or not isinstance(value, str):
        return value
    return shorten_middle(clean_text(value), _LONGEST_TEXT) if len(value) > _LONGEST_TEXT else clean_text(value)


def _as_source(image: Any) -> tuple[Markup, int, int]:
    """Returns an image as what stands in `src`, with its width and height."""
    from markupsafe import Markup

    uri, width, height = make_thumbnail(image)
    return Markup(uri), width, height
