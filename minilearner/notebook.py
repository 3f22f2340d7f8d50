"""What notebooks need: results that appear once, or inside other output.

IPython and Matplotlib are imported inside functions. When these are called, both are loaded already.
"""

from __future__ import annotations

import base64
import io
import sys
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["as_html", "cell_number", "show", "show_once"]


def show_once(figure: Figure) -> Figure:
    """Makes a notebook show a figure only once, as the value of a cell or at the cell's end, and returns the figure.

    Otherwise IPython shows the value of the last line, and then all open figures, this one among them. If there is no
    screen and no notebook, only the newest figure stays open.
    """
    figure._ipython_display_ = partial(_display_and_close, figure)  # type: ignore[attr-defined]
    _close_unseen(figure)
    return figure


_WITHOUT_SCREEN = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")
_newest: ref[Figure] | None = None


def _close_unseen(figure: Figure) -> None:
    """Closes our last figure if nothing can show it, so that pyplot does not keep hundreds of figures.

    Whoever holds the closed figure can still save it. The newest one stays open, for `plt.savefig`.
    """
    global _newest
    import matplotlib.pyplot as plt

    if plt.get_backend().lower() not in _WITHOUT_SCREEN:
        return
    last = None if _newest is None else _newest()
    if last is not None:
        plt.close(last)
    _newest = ref(figure)


def _display_and_close(figure: Any) -> None:
    import matplotlib.pyplot as plt
    from IPython import display as ipython

    display: Any = ipython.display
    shown = figure.__dict__.pop("_ipython_display_")  # otherwise `display` would call this function again
    try:
        display(figure)
    finally:
        figure._ipython_display_ = shown
    plt.close(figure)


def cell_number() -> int | None:
    """Returns the number of the notebook's cell that runs now, or None outside IPython."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    shell: Any = get_ipython()
    return None if shell is None else int(shell.execution_count)


def show(html: str, text: str) -> None:
    """Shows an output of the notebook's cell, with plain text for where HTML cannot be shown."""
    from IPython import display as ipython

    display: Any = ipython.display
    display({"text/html": html, "text/plain": text}, raw=True)


def as_html(figure: Figure) -> str:
    """Returns a figure as an image in HTML, and closes it, so that the notebook does not show it once more."""
    import matplotlib.pyplot as plt

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=72)
    plt.close(figure)
    return f'<img alt="graph" src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}">'
