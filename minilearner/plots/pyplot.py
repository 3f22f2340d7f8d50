"""`plt`: `matplotlib.pyplot`, loaded when it is first used. `vision.all` brings it, and stays quick to import."""

from __future__ import annotations

from minilearner.lazy import LazyModule

__all__ = ["plt"]

plt = LazyModule("matplotlib.pyplot")
"""`matplotlib.pyplot`: in a script, `plt.show()` opens the windows of all figures."""
