"""Single files: named tensors in safetensors' format, with JSON text in the metadata.

Files are written whole or not at all, with digests of all their content. They are read without trust, and nothing is
ever unpickled. `saving.weights_file`, `saving.export` and `results.predictions` decide what the JSON says.
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
from minilearner.packing import pack, unpack

__all__ = [
    "EXTRA_PREFIX",
    "Layout",
    "TensorFile",
    "name_file",
    "open_tensors",
    "pack_beside",
    "read_tensors",
    "save_tensors",
    "write_tensor_file",
]

EXTRA_PREFIX = "extra/"
"""How the names of tensors begin that belong to the extra state in a file of `SaveBest`."""

_EXTRA = "extra_state"
FORMAT = 1
"""Counted up when a reader of the last version would misread what is written now."""

_LARGEST_HEADER = 1 << 24  # bytes: names of tensors and the JSON; a vocabulary of 20,000 words takes 0.5 MB
_LARGEST_DATA = 1 << 26  # bytes of the tensors that the JSON refers to, unless a caller says how many there may be


class Layout(NamedTuple):
    """The type and shape of a tensor, known before it is read."""

    dtype: str
    """As safetensors writes it, such as "F32"."""
    shape: tuple[int, ...]


def write_tensor_file(
    path: Path, kind: str, content: Mapping[str, Any], tensors: Mapping[str, Tensor], *, prefix: str
) -> Path:
    """Writes `tensors` by name, and `content`, whose own tensors are named `prefix` and a number.

    Raises:
        TypeError: `content` holds something that is not data.
        OSError: the file cannot be written. What was there before stays as it was.
    """
    beside: dict[str, Tensor] = {}
    text = json.dumps(pack(dict(content), beside), allow_nan=False, separators=(",", ":"))
    # safetensors needs each tensor contiguous and in memory of its own, tied weights too.
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
    """Writes a new file in safetensors' format, with the permissions of any new file; safetensors makes it private."""
    path.touch()
    permissions = path.stat().st_mode
    save_file(tensors, path, metadata=about)
    path.chmod(permissions)


def pack_beside(extra: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Returns data as metadata for a file of weights by any writer, and its tensors. `TensorFile.beside` reads them.

    Raises:
        TypeError: it is not data.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(pack(dict(extra), tensors), allow_nan=False, separators=(",", ":"))
    return {_EXTRA: text}, {f"{EXTRA_PREFIX}{name}": t for name, t in tensors.items()}


class TensorFile:
    """A file to read. Its layout is known, and the caller can check it, before any tensor is read.

    Args:
        path: a regular file.
        kinds: which kinds of file are accepted. None among them accepts a file of tensors by any other writer.

    Attributes:
        kind: the file's kind; None if another program wrote it.
        layouts: the layout of every tensor, by name.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: the file is damaged, foreign, of another kind, or newer than this version reads. Names it.
    """

    def __init__(self, path: Path, kinds: tuple[str | None, ...]) -> None:
        self.path = path
        with name_file(path):
            with open_tensors(path) as file:
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
            raise FileFormatError(f"its format version is {version[:20]!r}, which is not a version.")
        if int(version) > FORMAT:
            raise FileFormatError(
                f"it was written by a newer version of minilearner, in format {version}; this one reads {FORMAT}. "
                "Upgrade minilearner."
            )
        if self._about.get("content_sha256") != _digest(self._about.get("content", "")):
            raise FileFormatError("it is damaged: what it says about itself does not have the SHA-256 it should.")

    def beside(self) -> dict[str, Any]:
        """Returns what `pack_beside` put into a file of weights; empty if it has nothing of the kind."""
        return self._unpack(_EXTRA, EXTRA_PREFIX, _LARGEST_DATA) if _EXTRA in self._about else {}

    def content(self, prefix: str, most_bytes: int = _LARGEST_DATA) -> dict[str, Any]:
        """Returns the content, with the tensors called `prefix` and a number in their places.

        Raises:
            FileFormatError: the content is not what `pack` writes, or its tensors have more than `most_bytes`.
        """
        return self._unpack("content", prefix, most_bytes)

    def _unpack(self, key: str, prefix: str, most_bytes: int) -> dict[str, Any]:
        names = [name for name in self.layouts if name.startswith(prefix)]
        if sum(self._n_bytes(name) for name in names) > most_bytes:
            raise FileFormatError(f"the tensors beside the weights have more than {most_bytes:,} bytes.")
        with name_file(self.path):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in self._tensors(names).items()}
            try:
                content = unpack(json.loads(self._about[key]), tensors)
            except (ValueError, RecursionError) as error:
                raise FileFormatError(f"what it says about itself cannot be read: {str(error)[:200]}") from error
            if not isinstance(content, dict):
                raise FileFormatError("what it says about itself is not a dictionary.")
        return content

    def tensors(self) -> dict[str, Tensor]:
        """Returns every tensor, after a check of their digest if the file has one.

        Raises:
            FileFormatError: they are damaged.
        """
        with name_file(self.path):
            tensors = self._tensors(list(self.layouts))
            if self.kind is not None and self._about.get("tensors_sha256") != _digest_tensors(tensors):
                raise FileFormatError("it is damaged: its tensors do not have the SHA-256 that they should.")
        return tensors

    def _tensors(self, names: list[str]) -> dict[str, Tensor]:
        with open_tensors(self.path) as file:
            return {name: file.get_tensor(name).clone() for name in names}  # a copy: a mapped file may change

    def _n_bytes(self, name: str) -> int:
        n = 8  # at most, for one element
        for side in self.layouts[name].shape:
            n *= side
        return n


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file by any writer; raises what `TensorFile` raises."""
    return TensorFile(path, ("weights", "export", None)).tensors()


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Puts the file's name in front of each FileFormatError."""
    try:
        yield
    except FileFormatError as error:
        if str(error).startswith(str(path)):
            raise
        raise FileFormatError(f"{path}: {error}") from error


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Opens a file in safetensors' format without trust, and gives what `safetensors.safe_open` gives.

    Raises:
        FileNotFoundError: there is no such file.
        FileFormatError: it is not such a file, or is truncated, or its header is wrong.
    """
    _check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except FileFormatError:
        raise
    except MemoryError as error:
        raise FileFormatError("it is larger than the memory of this machine.") from error
    except (SafetensorError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(f"it is damaged, or not a safetensors file: {str(error)[:200]}") from error


def _check_header(path: Path) -> None:
    """Checks what a reader trusts first: that this is a file, and how long its header is."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
            raise FileFormatError("it is not a file.")
        with open(path, "rb") as file:
            first = file.read(8)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileFormatError(f"it cannot be read: {error.strerror}.") from error
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > status.st_size - 8:
        raise FileFormatError(f"it is truncated, or not a safetensors file: {status.st_size:,} bytes.")
    if length > _LARGEST_HEADER:
        raise FileFormatError(f"its header has {length:,} bytes, more than any file of minilearner.")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode("utf-8", "surrogatepass"))
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
