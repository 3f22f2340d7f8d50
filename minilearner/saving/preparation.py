"""What an ONNX file says about its inputs and outputs: how images become inputs, and what predictions mean.

The graph itself holds the normalisation and the activation, so the rest is plain data. `onnx_model` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minilearner.data.batch_transforms import BatchTransform, run_steps
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.item_dataset import as_tensor
from minilearner.data.item_loader import ItemLoader
from minilearner.data.item_transforms import ItemPipeline
from minilearner.data.targets import Category, ClassNumbers, MultiCategory, Regression
from minilearner.saving.export_data import describe_data

__all__ = ["METADATA", "describe_preparation"]

METADATA = "minilearner"
"""The name of the text among the metadata of an ONNX file."""

_VERSION = 1
_SIZES = ((300, 400), (500, 333))
"""(height, width) of two images that show whether the item transforms give all images one size."""
_ROWS_AT_ONCE = 32
_TOLERANCE = 1e-5


def describe_preparation(dls: DataLoaders, loss_func: Any, resizes: Sequence[BatchTransform]) -> str:
    """Returns the JSON text that goes into an ONNX file.

    Args:
        dls: the loaders.
        loss_func: a loss with a threshold says which of several labels are predicted.
        resizes: the batch transforms of validation that run before the normalisation.
    """
    try:
        inputs: Any = _describe_inputs(dls, resizes)
    except (TypeError, ValueError) as error:
        inputs = {"kind": "unknown", "reason": str(error)}
    content = {"version": _VERSION, "inputs": inputs, "target": _describe_target(dls, loss_func)}
    return json.dumps(content)


def _describe_inputs(dls: DataLoaders, resizes: Sequence[BatchTransform]) -> dict[str, Any]:
    data = describe_data(dls)
    inputs: dict[str, Any] = data["inputs"]
    if inputs["kind"] == "arrays":
        if inputs["item_tfms"] or resizes:
            raise ValueError(f"arrays are transformed by {[*inputs['item_tfms'], *resizes]!r:.200}")
        return inputs
    blocks = [block["name"] for block in inputs["blocks"]]
    if blocks != ["ImageBlock"]:
        raise ValueError(f"an item is read by {', '.join(blocks)}, and only images of ImageBlock are")
    tfms = [one for one in inputs["item_tfms"] if one["name"] != "ToTensor"]  # after which nothing changes
    return {
        "kind": "images",
        "mode": inputs["blocks"][0]["arguments"]["cls"],
        "item_tfms": tfms,
        "resample": _describe_resizes(dls, resizes) if resizes else None,
        "normalized": [one for one in data["batch_tfms"] if one["name"] == "Normalize"],
    }


def _describe_target(dls: DataLoaders, loss_func: Any) -> dict[str, Any]:
    target = dls.target
    if isinstance(target, ClassNumbers):
        vocab = list(target.vocab) if isinstance(target, Category) else None
        return {"kind": "classes", "vocab": vocab, "temperature": target.temperature}
    if isinstance(target, MultiCategory):
        return {"kind": "several", "vocab": list(target.vocab), "thresh": getattr(loss_func, "thresh", target.thresh)}
    return {"kind": "numbers" if isinstance(target, Regression) else "unknown"}


def _describe_resizes(dls: DataLoaders, resizes: Sequence[BatchTransform]) -> dict[str, Any]:
    """Returns the weights of pixels by which each row and column of a resized image is made.

    What validation does to a batch of one size is linear, the same for all images, and separate for rows and columns.
    So two tables say it, whatever the kind of interpolation, and they are read off the transforms themselves.

    Raises:
        ValueError: the images of a batch have no fixed size, or that is not what the transforms do.
    """
    size = _find_size(dls)
    if size is None:
        raise ValueError("images have different sizes before the batch transforms")
    rows, columns = _probe(resizes, size, 0), _probe(resizes, size, 1)
    sample = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    difference = rows @ sample @ columns.T - _run(resizes, sample)
    if float(difference.abs().max()) > _TOLERANCE:
        raise ValueError(f"{', '.join(map(repr, resizes)):.200} does more than to resize")
    return {"rows": _list_weights(rows), "columns": _list_weights(columns), "size": list(size)}


def _find_size(dls: DataLoaders) -> tuple[int, int] | None:
    """Returns (height, width) of images after the item transforms of validation, if all have the same."""
    if not isinstance(dls.train, ItemLoader):
        return None
    tfms: ItemPipeline = dls.train.dataset.item_tfms
    made = [as_tensor(tfms(Image.fromarray(np.zeros((*size, 3), np.uint8)), None)) for size in _SIZES]
    sizes = {tuple(each.shape[1:]) for each in made}
    return sizes.pop() if len(sizes) == 1 else None  # type: ignore[return-value]


def _probe(resizes: Sequence[BatchTransform], size: tuple[int, int], axis: int) -> Tensor:
    """Returns the (length after, length before) weights of one axis, from images of which one row or column is lit."""
    parts = []
    for start in range(0, size[axis], _ROWS_AT_ONCE):
        lit = torch.eye(size[axis])[start : start + _ROWS_AT_ONCE]
        images = lit[:, :, None] if axis == 0 else lit[:, None]
        made = _run(resizes, images.expand(len(lit), *size)[None].contiguous())[0]
        parts.append(made[:, :, made.shape[2] // 2] if axis == 0 else made[:, made.shape[1] // 2])
    return torch.cat(parts).T


def _run(steps: Sequence[BatchTransform], x: Tensor) -> Tensor:
    return run_steps(steps, x, torch.Generator().manual_seed(0))


def _list_weights(weights: Tensor) -> list[list[Any]]:
    """Returns, for each output, the first input that counts and the weights from there on."""
    listed = []
    for row in weights:
        used = row.nonzero().flatten().tolist() or [0]
        listed.append([used[0], [round(weight, 8) for weight in row[used[0] : used[-1] + 1].tolist()]])
    return listed
