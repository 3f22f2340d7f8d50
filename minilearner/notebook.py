"""What notebooks need: figures that appear once, and progress bars without a warning.

IPython and Matplotlib are imported inside functions. When these are called, both are loaded already.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bar_class", "show_once"]


def show_once(figure: Figure) -> Figure:
    """Makes a notebook show a figure only once, as the value of a cell or at the cell's end, and returns the figure.

    Otherwise IPython shows the value of the last line, and then all open figures, this one among them.
    """
    figure._ipython_display_ = partial(_display_and_close, figure)  # type: ignore[attr-defined]
    return figure


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


def bar_class() -> Any:
    """Returns the tqdm class that suits the output: widgets in a notebook that has them, otherwise text."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # then tqdm draws the bar in text
        from tqdm.auto import tqdm  # loads asyncio and, in a notebook, its widgets
    return tqdm
