"""minilearner: train image classifiers in a handful of lines, on plain PyTorch.

    from minilearner import Learner, MiniGoogLeNet, accuracy, fashion_mnist

    learn = Learner(fashion_mnist(), MiniGoogLeNet(10), metrics=accuracy)
    learn.lr_find()
    learn.fit_one_cycle(3, lr_max=1e-2)

Data flow one way through the package: `data` and `models` -> `training` -> `callbacks` -> `fitting` -> `learner`, the
menu on top; `results` keeps what a run leaves behind. The names are in `front_door`, which is loaded when the first of
them is read: the command line shows its help without torch. Reading one loads torch, but not torchvision, matplotlib
or scikit-learn.
"""

import importlib
import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 10):  # noqa: UP036 - an older one may find this package by its path
    raise ImportError(
        "minilearner needs Python 3.10 or later. Received: Python %d.%d. Make an environment with a newer one: "
        "`python3.12 -m venv .venv`." % sys.version_info[:2]
    )

from minilearner.lazy import import_large
from minilearner.refused_imports import explain_import, watch_imports

__version__ = "0.1.0"

watch_imports()

if TYPE_CHECKING:  # with `__getattr__`, a type checker would accept misspelt names
    from minilearner.front_door import *  # noqa: F403
    from minilearner.front_door import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        is_special = name.startswith("__") and name != "__all__"  # Python asks every module for such names
        if not is_special and PathFinder.find_spec(f"{__name__}.{name}", __path__):  # noqa: F405
            return importlib.import_module(f"{__name__}.{name}")
        names = {} if is_special else vars(import_large(f"{__name__}.front_door"))
        if name not in names.get("__all__", ()) and name != "__all__":
            raise AttributeError(explain_import(__name__, name) or f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = names[name]
        return names[name]

    def __dir__() -> list[str]:
        return sorted(__getattr__("__all__"))
