"""`OnnxModel`: predicts images with a file of `learn.export("m.onnx")`, without torch.

It needs onnxruntime, NumPy and Pillow. The rules for pixels, sizes and windows are the code that validation runs, so an
image becomes the same bytes as in `learn.predict`. Everything else that it needs is in the metadata of the file.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from minilearner.checks import check_count
from minilearner.data.image_modes import as_mode, decode_image
from minilearner.data.item_steps import SplitTransform
from minilearner.data.unread_formats import identify_image
from minilearner.errors import DataError, FileFormatError
from minilearner.vision.resize import CropPad, RandomCrop, RandomResizedCrop, RatioResize, Resize

__all__ = ["OnnxModel", "OnnxPrediction"]

Floats: TypeAlias = NDArray[np.float32]

_METADATA, _VERSION = "minilearner", 1
_TRANSFORMS = {cls.__name__: cls for cls in (CropPad, RandomCrop, RandomResizedCrop, RatioResize, Resize)}
_MODES = ("L", "RGB", "RGBA")


class OnnxPrediction(NamedTuple):
    """What `OnnxModel.predict` returns, in the order of `learn.predict`."""

    label: Any
    """The class, the list of classes, or the number."""
    decoded: Any
    """The number of the class; which classes are there, as booleans; or the numbers."""
    probabilities: Floats
    """The probability of each class, or the numbers."""


class OnnxModel:
    """A model in a file that `learn.export("m.onnx")` wrote.

    >>> model = OnnxModel("m.onnx")  # doctest: +SKIP
    >>> label, number, probabilities = model.predict("cat.jpg")  # doctest: +SKIP

    Several threads may use it at once.

    Args:
        path: the file.
        providers: where onnxruntime computes, such as ["CUDAExecutionProvider", "CPUExecutionProvider"].

    Raises:
        ImportError: onnxruntime is not installed.
        FileFormatError: the file is damaged, or was not written by `learn.export`.
    """

    def __init__(self, path: str | os.PathLike[str], providers: Sequence[str] = ("CPUExecutionProvider",)) -> None:
        self.path = Path(path)
        self._session = _open_session(self.path, providers)
        self._input = self._session.get_inputs()[0].name
        content = _read_metadata(self.path, self._session.get_modelmeta().custom_metadata_map)
        try:
            self._prepare = _make_preparation(content["inputs"])
            self._target = dict(content["target"])
            vocab = self._target.get("vocab")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"{self.path}: what it says about its inputs is damaged: {error}.") from error
        self.vocab: tuple[Any, ...] | None = None if vocab is None else tuple(vocab)
        """The classes in the order of their numbers; None if there are none."""

    def prepare(self, item: Any) -> Floats:
        """Returns the input of one item: (channels, height, width) in [0, 1] for an image.

        Args:
            item: an image as a path, the bytes of a file, an open file or a Pillow image; or an array, if the model was
                trained on arrays.

        Raises:
            DataError: it is no image that can be read, or the file does not say how to prepare one.
        """
        return self._prepare(item)

    def predict(self, item: Any) -> OnnxPrediction:
        """Returns the label, what it was decoded from, and the probabilities; `item` as in `prepare`."""
        return self.predict_all([item])[0]

    def predict_all(self, items: Iterable[Any], bs: int = 64) -> list[OnnxPrediction]:
        """Returns the predictions for several items, in batches of `bs`."""
        check_count(bs, "bs")
        given = list(items)
        batches = (given[start : start + bs] for start in range(0, len(given), bs))
        outputs = (self.run(np.stack([self.prepare(item) for item in batch])) for batch in batches)
        return [self._decode(values) for batch in outputs for values in batch]

    def run(self, x: Floats) -> Floats:
        """Returns what the graph makes of a batch of prepared inputs, such as probabilities."""
        outputs: Floats = self._session.run(None, {self._input: x})[0]
        return outputs

    def _decode(self, values: Floats) -> OnnxPrediction:
        kind = self._target["kind"]
        if kind == "classes" and values.shape[:1] > (1,):
            number = values.argmax(0)
            return OnnxPrediction(self._name(int(number)) if number.ndim == 0 else number, _plain(number), values)
        if kind == "several":
            has = values > self._target["thresh"]
            labels = [name for name, is_there in zip(self.vocab or (), has, strict=True) if is_there]
            return OnnxPrediction(labels, has, values)
        return OnnxPrediction(_plain(values), values, values)

    def _name(self, number: int) -> Any:
        return number if self.vocab is None else self.vocab[number]

    def __repr__(self) -> str:
        return f"OnnxModel({str(self.path)!r}, {'no classes' if self.vocab is None else f'{len(self.vocab)} classes'})"


def _open_session(path: Path, providers: Sequence[str]) -> Any:
    try:
        import onnxruntime  # an extra
    except ModuleNotFoundError as error:
        raise ImportError(f"OnnxModel needs {error.name}, which is not installed: pip install onnxruntime.") from error
    if not path.is_file():
        raise FileNotFoundError(f"`path`: there is no file {path}.")
    try:
        return onnxruntime.InferenceSession(str(path), providers=list(providers))
    except Exception as error:  # of onnxruntime's own kinds
        raise FileFormatError(f"{path}: onnxruntime cannot read it: {error}") from error


def _read_metadata(path: Path, metadata: Mapping[str, str]) -> Any:
    text = metadata.get(_METADATA)
    if text is None:
        raise FileFormatError(
            f'{path}: it does not say how to prepare its inputs, as files of `learn.export("m.onnx")` do. Export the '
            "model again, or use onnxruntime itself."
        )
    content = json.loads(text)
    if content.get("version") != _VERSION:
        raise FileFormatError(f"{path}: a newer version of minilearner wrote it. Upgrade: pip install -U minilearner.")
    return content


def _make_preparation(inputs: Mapping[str, Any]) -> Callable[[Any], Floats]:
    if inputs["kind"] == "images":
        return _Images(inputs)
    if inputs["kind"] == "arrays":
        return _Arrays(inputs)
    return _Unknown(str(inputs["reason"]))


class _Images:
    """Turns images into inputs."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.mode = str(inputs["mode"])
        if self.mode not in _MODES:
            raise ValueError(f"there is no mode {self.mode!r:.40}")
        self.tfms = [_build_transform(one) for one in inputs["item_tfms"]]
        self.reduce_to = self.tfms[0].reduce_to if self.tfms else None
        table = inputs["resample"]
        self.rows = None if table is None else _make_matrix(table["rows"], table["size"][0])
        self.columns = None if table is None else _make_matrix(table["columns"], table["size"][1])

    def __call__(self, item: Any) -> Floats:
        image = self._read(item)
        for transform in self.tfms:
            image = transform(image, None)
        pixels = np.asarray(image)
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        x: Floats = np.ascontiguousarray(planes, dtype=np.float32) / np.float32(255)
        if self.rows is not None and self.columns is not None:
            x = self.rows @ x @ self.columns.T
        return x

    def _read(self, item: Any) -> Image.Image:
        if isinstance(item, Image.Image):
            return as_mode(item, self.mode)
        is_open = hasattr(item, "read") and hasattr(item, "seek")
        if not isinstance(item, (str, os.PathLike, bytes, bytearray, memoryview)) and not is_open:
            raise TypeError(
                f"an image must be a path, bytes, an open file or a Pillow image. Received: {type(item).__name__}."
            )
        is_bytes = isinstance(item, (bytes, bytearray, memoryview))
        source: str | os.PathLike[str] | IO[bytes] = io.BytesIO(item) if is_bytes else item
        try:
            with identify_image(source) as image:
                decode_image(image, self.reduce_to)
                return as_mode(image, self.mode)
        except (FileNotFoundError, MemoryError, DataError):
            raise
        except Exception as error:  # Pillow raises a dozen kinds of errors for damaged files
            name = os.fspath(item) if isinstance(item, (str, os.PathLike)) else f"a {type(item).__name__}"
            raise FileFormatError(f"{name}: this is no image that can be read ({str(error).rstrip('.')}).") from error


class _Arrays:
    """Checks the shape of arrays, and brings bytes into [0, 1]."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.shape, self.is_bytes = tuple(inputs["shape"]), inputs["dtype"] == "uint8"

    def __call__(self, item: Any) -> Floats:
        x = np.asarray(item)
        if self.shape and x.shape != self.shape:
            raise DataError(f"an item must be an array of shape {self.shape}. Received: shape {x.shape}.")
        if self.is_bytes != (x.dtype == np.uint8):
            expected = "uint8" if self.is_bytes else "float32"
            raise DataError(f"an item must be an array of {expected}. Received: {x.dtype}.")
        return x.astype(np.float32) / np.float32(255) if self.is_bytes else x.astype(np.float32)


class _Unknown:
    """Says why items cannot be prepared."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __call__(self, item: Any) -> Floats:
        raise DataError(
            f"this file cannot say how to prepare an item: {self.reason.rstrip('.')}. Prepare the input yourself, and "
            "give a batch to `run`."
        )


def _build_transform(description: Mapping[str, Any]) -> SplitTransform:
    name = description["name"]
    if name not in _TRANSFORMS:
        raise ValueError(
            f"only {', '.join(_TRANSFORMS)} run without torch, and it names the item transform {name!r:.80}"
        )
    made: SplitTransform = _TRANSFORMS[name](**description["arguments"])
    return made


def _make_matrix(table: Sequence[tuple[int, Sequence[float]]], length: int) -> Floats:
    """Returns the (outputs, length) weights of which a file lists those that are not zero."""
    matrix = np.zeros((len(table), length), np.float32)
    for row, (first, weights) in zip(matrix, table, strict=True):
        row[first : first + len(weights)] = weights
    return matrix


def _plain(values: NDArray[Any]) -> Any:
    """Returns one value as Python's own number, and several as they are."""
    return values.item() if values.size == 1 else values
