"""`plt`: `matplotlib.pyplot`, loaded when it is first used. `vision.all` brings it, and stays quick to import."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from minilearner.lazy import LazyModule

__all__ = ["plt"]


class _Pyplot(LazyModule):
    def show(self, *args: Any, **kwargs: Any) -> None:
        """Opens the windows of all figures, as matplotlib's own `show`, or warns that there is no screen."""
        import matplotlib.pyplot as plt  # heavy

        if plt.get_fignums() and _is_headless(plt.get_backend()):
            warnings.warn(
                "there is no screen, so `plt.show()` shows nothing. Save the figure: figure.savefig('figure.png').",
                stacklevel=2,
            )
        plt.show(*args, **kwargs)


def _is_headless(backend: str) -> bool:
    """Returns whether matplotlib has fallen back to drawing without a screen, which it says only on other systems."""
    has_screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return sys.platform == "linux" and not has_screen and backend.lower() == "agg" and "MPLBACKEND" not in os.environ


plt = _Pyplot("matplotlib.pyplot")
"""`matplotlib.pyplot`: in a script, `plt.show()` opens the windows of all figures."""
