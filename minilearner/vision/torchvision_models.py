"""torchvision's models, the only part of torchvision that we use; one clear error if torchvision cannot be imported."""

from __future__ import annotations

import torch

try:
    from torchvision import models
    from torchvision.models import (
        WeightsEnum,
        get_model_weights,
        resnet18,
        resnet34,
        resnet50,
        resnet101,
        resnet152,
    )
except Exception as error:  # of another kind with each pair of versions that do not fit
    is_missing = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "torchvision"
    problem = "is not installed" if is_missing else f"does not fit this torch {torch.__version__} ({error})"
    again = "" if is_missing else " --force-reinstall"
    raise ImportError(
        f"`minilearner.vision` needs torchvision, which {problem}. The two come in pairs, so install them together: "
        f"`pip install{again} torch torchvision`. Without a GPU, add `--index-url https://download.pytorch.org/whl/cpu`."
    ) from None

__all__ = [
    "WeightsEnum",
    "get_model_weights",
    "models",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
]
