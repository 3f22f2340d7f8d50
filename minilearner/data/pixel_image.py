"""The pixels of Pillow's images without copies: a view of its memory, and an image that is still only an array.

Pillow stores RGB in four bytes per pixel, and an array has three. On the way from a file to a batch, each conversion
between them takes a twentieth to a tenth of the time of decoding.
"""

from __future__ import annotations

import ctypes
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["PixelImage", "pack_pixels", "view_pixels"]

Pixels: TypeAlias = NDArray[np.uint8]


class PixelImage(Image.Image):
    """An image of an array (height, width[, 3 or 4]) that becomes Pillow's only if somebody needs that.

    `numpy.asarray` returns the array itself, read-only, until then. Every method of Pillow works as for
    `PIL.Image.fromarray`, and what it returns is an ordinary image.
    """

    def __init__(self, pixels: Pixels, mode: str) -> None:
        super().__init__()
        self.hold(pixels, mode)

    def hold(self, pixels: Pixels, mode: str) -> None:
        """Makes the array its pixels. They are not copied."""
        self._im: Any = None
        self._given, self._pixels = pixels, pixels.view()
        self._pixels.flags.writeable = False
        self._mode, self._size = mode, (pixels.shape[1], pixels.shape[0])

    def view(self) -> Pixels | None:
        """Returns the array as it was given; None if Pillow holds the pixels, or it is read-only."""
        return self._given if self._im is None and self._given.flags.writeable else None

    @property
    def im(self) -> Any:
        """Pillow's own image, made when it is first read. From then on, it holds the pixels."""
        if self._im is None:
            self._im = Image.frombytes(self._mode, self._size, self._pixels.tobytes()).im
        return self._im

    @im.setter
    def im(self, im: Any) -> None:
        self._im = im

    def load(self) -> Any:
        """Makes Pillow's own image, and returns what reads and writes its pixels."""
        return Image.Image.load(self) if self.im is not None else None

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return dict(self._pixels.__array_interface__ if self._im is None else super().__array_interface__)


def view_pixels(image: Image.Image) -> Pixels:
    """Returns the pixels of an image in mode L, RGB or RGBA, without a copy if Pillow can share its memory.

    An RGB image may have a fourth channel of any content, which `pack_pixels` removes. Do not write to the array.
    """
    shared = image.view() if isinstance(image, PixelImage) else _share(image) if image.mode == "RGB" else None
    return np.array(image) if shared is None else shared


def pack_pixels(pixels: Pixels, mode: str) -> Pixels:
    """Returns the pixels with as many channels as the mode has."""
    if mode != "RGB" or pixels.shape[2] == 3:
        return pixels
    packed = np.empty((*pixels.shape[:2], 3), np.uint8)
    for channel in range(3):  # four times as fast as all three at once
        packed[..., channel] = pixels[..., channel]
    return packed


def _share(image: Image.Image) -> Pixels | None:
    """Returns a view (height, width, 4) of the image's memory; None if it is not in one piece or Pillow is too old."""
    width, height = image.size
    core: Any = vars(Image)["core"]
    if (width * 4) % core.get_alignment():  # Pillow then leaves gaps between the rows
        return None
    try:
        _, capsule = image.__arrow_c_array__()
    except (AttributeError, ValueError):  # before Pillow 11.2; an image above 16 MB, in several pieces
        return None
    array = _ArrowArray.from_address(_read_capsule(capsule, b"arrow_array"))
    if array.n_children != 1 or array.length != width * height:
        return None
    memory: Any = (ctypes.c_uint8 * (width * height * 4)).from_address(array.children[0].contents.buffers[1])
    memory.owner = capsule  # keeps the image's memory for as long as there is a view
    shared: Pixels = np.frombuffer(memory, np.uint8).reshape(height, width, 4)
    return shared


class _ArrowArray(ctypes.Structure):
    """One array of Arrow's C data interface, version 1, by which Pillow shares its memory."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]

_read_capsule = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
