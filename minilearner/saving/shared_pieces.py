"""Pieces of what grows with a run, such as its record. Checkpoints share them, so no row is written over and over.

A piece is a file in the folder of a checkpoint, named by the SHA-256 of its bytes. The next checkpoint has a hard link
to it instead of a copy, so each checkpoint is complete in itself, and a piece is deleted with the last one that has it.
If the disk has no hard links, the piece is written again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilearner.errors import FileFormatError
from minilearner.packing import GROWING

__all__ = ["cut", "fingerprint_by_name", "is_piece", "join", "link_or_write", "list_pieces"]

SMALLEST = 1 << 15  # bytes; what is left over is smaller, and each checkpoint writes it
_FACTOR = 16  # this many pieces of a size become one of the next, so a run of any length has a few dozen
_N_SIZES = 4
_NAME = re.compile(r"[0-9a-f]{64}\.piece")


def cut(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[bytes]]]:
    """Cuts whole pieces off the beginning of each tensor that grows. Returns what is left of all, and the pieces.

    Where it cuts depends only on the number of rows, so a tensor that has grown begins with the same pieces.
    """
    left, pieces = dict(tensors), {}
    for name, tensor in tensors.items():
        if name.startswith(GROWING) and (ends := _list_ends(tensor)):
            starts = [0, *ends[:-1]]
            pieces[name] = [tensor[start:end].numpy().tobytes() for start, end in zip(starts, ends, strict=True)]
            left[name] = tensor[ends[-1] :].clone()
    return left, pieces


def _list_ends(tensor: Tensor) -> list[int]:
    n_rows, end, ends = len(tensor), 0, []
    if not tensor.nbytes:
        return []
    smallest = max(1, SMALLEST // tensor[:1].nbytes)  # in rows
    for exponent in reversed(range(_N_SIZES)):
        size = smallest * _FACTOR**exponent
        while end + size <= n_rows:
            end += size
            ends.append(end)
    return ends


def link_or_write(pieces: Mapping[str, list[bytes]], folder: Path, earlier: Iterable[Path]) -> dict[str, list[str]]:
    """Puts pieces into the folder of a new checkpoint, and returns the names of their files.

    Args:
        pieces: what `cut` returned.
        folder: the new checkpoint.
        earlier: the checkpoints that may have the same pieces. A damaged piece is not taken over.

    Raises:
        OSError: a piece cannot be written.
    """
    earlier = list(earlier)
    return {name: [_link_or_write(one, folder, earlier) for one in several] for name, several in pieces.items()}


def _link_or_write(content: bytes, folder: Path, earlier: list[Path]) -> str:
    name = f"{hashlib.sha256(content).hexdigest()}.piece"
    path = folder / name
    for other in earlier:
        with suppress(OSError):  # it is not there, or the disk has no hard links
            os.link(other / name, path, follow_symlinks=False)
            if not path.is_symlink() and path.is_file() and path.read_bytes() == content:
                break
            path.unlink()
    if not path.exists():
        path.write_bytes(content)
    return name


def is_piece(name: str) -> bool:
    """Returns whether a file has the name of a piece."""
    return _NAME.fullmatch(name) is not None


def fingerprint_by_name(path: Path) -> dict[str, Any]:
    """Returns what the manifest says of a piece. It is not read for that, since its name is its SHA-256."""
    return {"bytes": path.stat().st_size, "sha256": path.stem}


def list_pieces(pieces: Any) -> list[str]:
    """Returns the name of each file in a table of what `link_or_write` returns, once.

    Raises:
        FileFormatError: it is not such a table.
    """
    if not isinstance(pieces, dict) or not all(isinstance(names, list) for names in pieces.values()):
        raise FileFormatError(f"its table of pieces is {str(pieces)[:40]!r}, which minilearner does not write.")
    found = [name for names in pieces.values() for name in names]
    for name in found:
        if not isinstance(name, str) or not is_piece(name):
            raise FileFormatError(f"it names a piece {str(name)[:40]!r}, which minilearner does not write.")
    return list(dict.fromkeys(found))


def join(left: Mapping[str, Tensor], pieces: Mapping[str, list[str]], folder: Path) -> dict[str, Tensor]:
    """Returns the tensors that `cut` has cut, with their pieces in front again.

    Raises:
        FileFormatError: a piece does not fit its tensor.
        OSError: a piece cannot be read.
    """
    whole = dict(left)
    for name, names in pieces.items():
        if name not in left or left[name].ndim == 0:
            raise FileFormatError(f"it has pieces of the tensor {name[:40]!r}, which is missing.")
        tail = left[name]
        try:
            content = bytearray().join((folder / one).read_bytes() for one in names)
            rows = torch.frombuffer(content, dtype=tail.dtype).reshape(-1, *tail.shape[1:])
        except (ValueError, RuntimeError, MemoryError) as error:
            raise FileFormatError(f"the pieces of the tensor {name[:40]!r} are damaged: {str(error)[:200]}") from error
        whole[name] = torch.cat([rows, tail])
    return whole
