"""Checks uploaded images before they are decoded: their names, their format, and how many pixels they claim."""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from minilearner.data.unread_formats import register_plugin, unread_format
from minilearner.serving.limits import Limits, Refusal

__all__ = ["Upload", "check_upload"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow decodes by itself. Others may start a program, as EPS does, or are of no use on the web.
HEIC, the format of iPhones, is accepted too if pillow-heif is installed."""

_LONGEST = 255
_HEAD = 32  # bytes, from which the format is known


class Upload(bytes):
    """The content of an uploaded file, which errors call by its name.

    Args:
        content: the bytes.
        name: the name, which is used for nothing but answers.
    """

    name: str

    def __new__(cls, content: bytes, name: str) -> Upload:
        """Keeps the name beside the bytes."""
        made = super().__new__(cls, content)
        made.name = name
        return made

    def __repr__(self) -> str:
        return repr(self.name)


def check_upload(upload: Upload, limits: Limits) -> None:
    """Checks the name and the header of an image.

    Args:
        upload: the file.
        limits: says how many pixels are accepted.

    Raises:
        Refusal: its name is a path, is too long, or has characters that are not printed; or it is no image, or has too
            many pixels.
    """
    name = upload.name
    if len(name) > _LONGEST:
        raise Refusal(400, f"The name of a file has {len(name)} characters, and at most {_LONGEST} are accepted.")
    if any(sign in name for sign in "/\\") or name in (".", "..") or not name.isprintable():
        raise Refusal(400, f"{name!r} is no plain name of a file.")
    if not upload:
        raise Refusal(400, f"{name!r} is empty.")
    plugin = register_plugin(upload[:_HEAD])
    try:
        with Image.open(io.BytesIO(upload), formats=(*FORMATS, plugin) if plugin else FORMATS) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refusal(
            413, f"{name!r} has too many pixels: at most {limits.megapixels:g} million are accepted."
        ) from error
    except UnidentifiedImageError as error:
        if plugin:  # its head is that of the format
            raise Refusal(422, f"{name!r} is damaged: it ends too early, or is no complete {plugin} image.") from error
        raise Refusal(415, _describe_format(upload)) from error
    except Exception as error:  # Pillow raises a dozen kinds of errors for damaged files
        raise Refusal(422, f"{name!r} is damaged: {error}") from error
    if width * height > limits.n_pixels:
        raise Refusal(
            413, f"{name!r} has {width} x {height} pixels, and at most {limits.megapixels:g} million are accepted."
        )


def _describe_format(upload: Upload) -> str:
    """Says why the format of an upload is refused."""
    known = unread_format(upload[:_HEAD])
    if known is not None and known.name == "HEIC":
        return f"{upload.name!r} is HEIC, which this server reads after `pip install 'minilearner[heif]'`."
    return f"{upload.name!r} is no image in one of the formats {', '.join(FORMATS)}."
