"""Our single files: named tensors in safetensors' format, and JSON text beside them in its metadata.

Written whole or not at all, with digests of all that is in them; read without trust. Nothing is ever unpickled. What
the JSON says is `weights_file`'s and `export`'s business.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minilearner.errors import FileFormatError
from minilearner.files import replace_file
from minilearner.saving.packing import pack, unpack

__all__ = ["Layout", "TensorFile", "naming", "opened", "read_tensors", "save_tensors", "write_tensor_file"]

FORMAT = 1
"""Counted up when a reader of the last version would misread what is written now."""

_LARGEST_HEADER = 1 << 24  # bytes: names of tensors and the JSON; a vocabulary of 20,000 words takes 0.5 MB
_LARGEST_DATA = 1 << 26  # bytes of the tensors that the JSON refers to, where nobody says how many there may be


class Layout(NamedTuple):
    """What a tensor is, known before it is read."""

    dtype: str
    """As safetensors writes it, such as "F32"."""
    shape: tuple[int, ...]


def write_tensor_file(
    path: Path, kind: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor], *, prefix: str
) -> Path:
    """Writes `tensors` by their names, and `content` with what tensors it holds, named `prefix` and a number.

    Raises:
        TypeError: `content` holds what is no data.
        OSError: the file cannot be written. What was there before is untouched.
    """
    beside: dict[str, Tensor] = {}
    text = json.dumps(pack(dict(content), beside), allow_nan=False, separators=(",", ":"))
    # Contiguous, as safetensors wants them, and each a copy of its own, tied weights too.
    stored = {
        name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, t in tensors.items()
    }
    stored |= {f"{prefix}{name}": t for name, t in beside.items()}
    about = {
        "format": "pt",  # what other readers of safetensors look for
        "minilearner": kind,
        "version": str(FORMAT),
        "content": text,
        "content_sha256": _digest(text),
        "tensors_sha256": _digest_tensors(stored),
    }
    with replace_file(path) as temporary:
        save_tensors(stored, temporary, about)
    return path


def save_tensors(tensors: dict[str, Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    """Writes a new file in safetensors' format, with the permissions of any new file; safetensors' own is private."""
    path.touch()
    permissions = path.stat().st_mode
    save_file(tensors, path, metadata=about)
    path.chmod(permissions)


class TensorFile:
    """A file that is being read: what is in it is known, and checked by the caller, before the tensors are.

    Args:
        path: a regular file.
        kinds: which of our kinds will do. With None, a file of tensors by any other writer does too.

    Attributes:
        kind: the file's kind; None where another wrote it.
        layouts: of every tensor by name.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is damaged, foreign, of another kind, or newer than this version reads. Names the file.
    """

    def __init__(self, path: Path, kinds: tuple[str | None, ...]) -> None:
        self.path = path
        with naming(path):
            with opened(path) as file:
                self._about = dict(file.metadata() or {})
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                self.layouts = {name: Layout(s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
            self.kind = self._about.get("minilearner")
            self._check_kind(kinds)

    def _check_kind(self, kinds: tuple[str | None, ...]) -> None:
        if self.kind not in kinds:
            found = "another program's file" if self.kind is None else f"a file of {self.kind[:20]!r}"
            wanted = " or ".join(f"minilearner's {kind}" for kind in kinds if kind)
            raise FileFormatError(f"it is {found}, not {wanted}.")
        if self.kind is None:
            return
        version = self._about.get("version", "")
        if not (version.isascii() and version.isdigit() and len(version) < 10 and int(version) > 0):
            raise FileFormatError(f"its format version is {version[:20]!r}, which is none.")
        if int(version) > FORMAT:
            raise FileFormatError(
                f"it was written by a newer version of minilearner, in format {version}; this one reads {FORMAT}. "
                "Upgrade minilearner."
            )
        if self._about.get("content_sha256") != _digest(self._about.get("content", "")):
            raise FileFormatError("it is damaged: what it says about itself does not have the SHA-256 it should.")

    def content(self, prefix: str, most_bytes: int = _LARGEST_DATA) -> dict[str, Any]:
        """Returns the content, with the tensors called `prefix` and a number in their places.

        Raises:
            FileFormatError: it is not what `pack` writes, or these tensors have more than `most_bytes`.
        """
        names = [name for name in self.layouts if name.startswith(prefix)]
        if sum(self._n_bytes(name) for name in names) > most_bytes:
            raise FileFormatError(f"the tensors beside the weights have more than {most_bytes:,} bytes.")
        with naming(self.path):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in self._tensors(names).items()}
            try:
                content = unpack(json.loads(self._about["content"]), tensors)
            except (ValueError, RecursionError) as error:
                raise FileFormatError(f"what it says about itself cannot be read: {str(error)[:200]}") from error
            if not isinstance(content, dict):
                raise FileFormatError("what it says about itself is no dictionary.")
        return content

    def tensors(self) -> dict[str, Tensor]:
        """Returns every tensor, after a look at their digest where the file has one.

        Raises:
            FileFormatError: they are damaged.
        """
        with naming(self.path):
            tensors = self._tensors(list(self.layouts))
            if self.kind is not None and self._about.get("tensors_sha256") != _digest_tensors(tensors):
                raise FileFormatError("it is damaged: its tensors do not have the SHA-256 that they should.")
        return tensors

    def _tensors(self, names: list[str]) -> dict[str, Tensor]:
        with opened(self.path) as file:
            return {name: file.get_tensor(name).clone() for name in names}  # a copy: the file may change below a map

    def _n_bytes(self, name: str) -> int:
        n = 8  # at most, for one element
        for side in self.layouts[name].shape:
            n *= side
        return n


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file by any writer; errors as in `TensorFile`."""
    return TensorFile(path, ("weights", "export", None)).tensors()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file's name before whatever is wrong with it."""
    try:
        yield
    except FileFormatError as error:
        if str(error).startswith(str(path)):
            raise
        raise FileFormatError(f"{path}: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Opens a file in safetensors' format without trust, as `safetensors.safe_open` does with it.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is none, or truncated, or lies about what is in it.
    """
    _check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except FileFormatError:
        raise
    except MemoryError as error:
        raise FileFormatError("it is larger than the memory that there is.") from error
    except (SafetensorError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(f"it is damaged, or no safetensors file: {str(error)[:200]}") from error


def _check_header(path: Path) -> None:
    """Looks at what a reader believes first: that this is a file, and how long its header is."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
            raise FileFormatError("it is no file.")
        with open(path, "rb") as file:
            first = file.read(8)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileFormatError(f"it cannot be read: {error.strerror}.") from error
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > status.st_size - 8:
        raise FileFormatError(f"it is truncated, or no safetensors file: {status.st_size:,} bytes.")
    if length > _LARGEST_HEADER:
        raise FileFormatError(f"its header has {length:,} bytes, more than anything of ours.")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode("utf-8", "surrogatepass"))
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
