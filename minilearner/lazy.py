"""What keeps a star import quick: modules that load when they are first used, and imports that collect no garbage."""

from __future__ import annotations

import gc
import importlib
from types import ModuleType
from typing import Any

__all__ = ["LazyModule", "import_large"]


def import_large(name: str) -> ModuleType:
    """Imports a module that makes many objects, and returns it. No garbage is collected meanwhile.

    What an import makes stays to the end of the process, so there is nothing to collect. But Python counts new objects:
    30,000 of them start 50 collections, the last of which looks at everything that torch has made. Without these, the
    count is lower afterwards too, so that collection comes much later.
    """
    if not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.enable()


class LazyModule(ModuleType):
    """Stands for a module until one of its attributes is read.

    Args:
        name: the module's full name.
        way_out: what to do if it is not installed, as a sentence for the error.

    Raises:
        ModuleNotFoundError: (when it is used) the module is not installed.
    """

    def __init__(self, name: str, way_out: str = "") -> None:
        super().__init__(name, f"See `{name}`.")
        self.__dict__["_way_out"] = way_out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)

    def __repr__(self) -> str:
        return f"<module {self.__name__!r}, loaded when it is first used>"

    def __dir__(self) -> list[str]:
        return dir(self._load())

    def _load(self) -> ModuleType:
        try:
            return importlib.import_module(self.__name__)
        except ModuleNotFoundError as error:
            if error.name != self.__name__.split(".")[0]:
                raise
            message = f"{error.name} is not installed. {self.__dict__['_way_out']}"
            raise ModuleNotFoundError(message, name=error.name) from None
