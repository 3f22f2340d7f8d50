"""`plt`: `matplotlib.pyplot`, loaded when it is first used. `vision.all` brings it, and stays quick to import."""

from __future__ import annotations

from types import ModuleType
from typing import Any

__all__ = ["plt"]


class _Pyplot(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(_load(), name)

    def __dir__(self) -> list[str]:
        return dir(_load())


def _load() -> ModuleType:
    import matplotlib.pyplot  # heavy

    return matplotlib.pyplot


plt = _Pyplot("matplotlib.pyplot", "See `matplotlib.pyplot`.")
"""`matplotlib.pyplot`: in a script, `plt.show()` opens the windows of all figures."""
