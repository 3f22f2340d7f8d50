"""What notebooks need: a figure that is shown once, and bars that come up without a warning.

IPython and Matplotlib are imported inside functions: by the first time that one of these is called, they are there.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bar_class", "shown_once"]


def shown_once(figure: Figure) -> Figure:
    """Returns the figure; a notebook will show it once, as the value of a cell or at the cell's end.

    Otherwise IPython shows the value of the last line, and after it all open figures, this one among them.
    """
    figure._ipython_display_ = partial(_display_and_close, figure)  # type: ignore[attr-defined]
    return figure


def _display_and_close(figure: Any) -> None:
    import matplotlib.pyplot as plt
    from IPython import display as ipython

    display: Any = ipython.display
    shown = figure.__dict__.pop("_ipython_display_")  # else this would be asked again
    try:
        display(figure)
    finally:
        figure._ipython_display_ = shown
    plt.close(figure)


def bar_class() -> Any:
    """Returns tqdm's bar that suits the output: widgets in a notebook that has them, else text."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # text bars will do
        from tqdm.auto import tqdm  # loads asyncio and, in a notebook, its widgets
    return tqdm
