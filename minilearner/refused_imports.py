"""Imports that fastai, Keras and Lightning have and minilearner has not: the ImportError says what to write instead.

Python asks the finder of this module only about modules of `minilearner` that do not exist.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from typing import Any

__all__ = ["explain_import", "watch_imports"]

_ALL = "Names for images come from one import: from minilearner.vision.all import *."
_NO_TEXT = "minilearner has no part for text. It trains any torch model on arrays: DataLoaders.from_arrays((x, y))."
_NO_TABLES = "minilearner has no part for tables. It trains any torch model on arrays: DataLoaders.from_arrays((x, y))."
_NO_COLLAB = "minilearner has no part for recommendations. It trains any torch model: DataLoaders.from_arrays((x, y))."
_LEARNER = "A learner trains by itself: Learner(dls, model, loss_func).fit_one_cycle(3)."

_MODULES: Mapping[str, str] = {
    **dict.fromkeys(("basics", "callback", "imports", "interpret", "layers", "optimizer", "torch_basics"), _ALL),
    **dict.fromkeys(("torch_core", "fp16_utils", "data.all", "data.core", "data.block", "data.external"), _ALL),
    **dict.fromkeys(("data.load", "data.transforms", "vision.core", "vision.data", "vision.learner"), _ALL),
    **dict.fromkeys(("vision.models", "vision.utils", "vision.widgets", "vision.tta", "callbacks.all"), _ALL),
    **dict.fromkeys(
        ("distributed", "launch"), "Start the script by torchrun; the learner uses all processes by itself."
    ),
    "collab": _NO_COLLAB,
    "medical": "minilearner has no part for medical files. Give `get_x` a function that reads an image.",
    "tabular": _NO_TABLES,
    "text": _NO_TEXT,
    "vision.gan": "minilearner has no GAN learner. `examples/custom_step.py` shows two networks that train together.",
}
"""fastai's modules, and what to write instead. A module inside one of them has the same answer."""

_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("TextDataLoaders", "TextBlock", "language_model_learner", "text_classifier_learner"), _NO_TEXT),
    **dict.fromkeys(("AWD_LSTM", "LMDataLoader", "Tokenizer", "Numericalize"), _NO_TEXT),
    **dict.fromkeys(("TabularDataLoaders", "TabularPandas", "tabular_learner", "TabularModel"), _NO_TABLES),
    **dict.fromkeys(("Categorify", "FillMissing", "cont_cat_split", "add_datepart"), _NO_TABLES),
    **dict.fromkeys(("CollabDataLoaders", "collab_learner"), _NO_COLLAB),
    **dict.fromkeys(("Trainer", "LightningModule", "Sequential", "compile"), _LEARNER),
    **dict.fromkeys(("LightningDataModule", "ImageDataGenerator"), "Loaders are made by `ImageDataLoaders`."),
    "TensorBoardCallback": "Write Learner(..., loggers='tensorboard'), or give `loggers` a `TensorBoardLogger`.",
    "WandbCallback": "Write Learner(..., loggers='wandb'), or give `loggers` a `WandbLogger`.",
    "MLFlowLogger": "Write Learner(..., loggers='mlflow'), or give `loggers` a `MLflowLogger`.",
    "ModelCheckpoint": "Give `fit` a folder, checkpoint='runs/1', and keep the best weights by cbs=SaveBest().",
}
"""Names that `from minilearner import` does not have, and what to write. Those for images are in `vision`."""


def explain_import(module: str, name: str) -> str:
    """Returns the message for a name that a module does not have; "" if it is not known from another library."""
    return f"{module} has no {name}. {_NAMES[name]}" if name in _NAMES else ""


def watch_imports() -> None:
    """Lets Python ask about modules of `minilearner` that it does not find. Once is enough."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


class _Finder(MetaPathFinder):
    """Finds nothing. It raises for imports of other libraries' modules and names, and comes after all other finders."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        """Raises an ImportError that says what to import instead, if the name is known."""
        package, _, name = fullname.partition(".")
        if package != "minilearner":
            return
        if name in _NAMES:
            raise ImportError(explain_import(package, name))
        if name in _MODULES:
            raise ModuleNotFoundError(f"there is no module {fullname}. {_MODULES[name]}", name=fullname)
