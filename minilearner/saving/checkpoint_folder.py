"""Checkpoints on disk: written whole or not at all, checked when read, and without pickle.

A checkpoint is a folder `checkpoint-<number>` that holds `tensors.safetensors`, `state.json`, and `manifest.json` with
the size and SHA-256 of each file. The record of a long run is in further files, which `saving.shared_pieces` explains.
A checkpoint is written under a temporary name, synced and renamed; older ones go only after the new one has been read
back and found good. `callbacks.checkpoint` decides what is in a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import sys
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from minilearner.checks import check_count
from minilearner.errors import CheckpointError, FileFormatError
from minilearner.files import read_json
from minilearner.packing import pack, unpack
from minilearner.saving.shared_pieces import cut, fingerprint_by_name, is_piece, join, link_or_write, list_pieces
from minilearner.tensor_file import open_tensors, save_tensors

__all__ = ["CheckpointFolder", "Packed", "Saved", "pack_state"]

if sys.platform != "win32":
    import fcntl

FORMAT = 2
"""Counted up when a reader of the last version would misread what is written now. The first one had no pieces."""

_PREFIX, _TEMPORARY = "checkpoint-", ".writing-"
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_LARGEST_JSON = 1 << 28  # bytes
_LEFT = re.compile(r"\..+\.([0-9a-f]{8}-[0-9]+-)?[0-9a-f]{8}\.tmp")  # of `files.replace_file`, now and earlier
_held: set[Path] = set()  # the folders that this process holds: its own locks do not keep it out


class Saved(NamedTuple):
    """A checkpoint that was read and is intact."""

    path: Path
    number: int
    state: dict[str, Any]


class Packed(NamedTuple):
    """A state at one moment: JSON text, and copies of the tensors that it names."""

    text: str
    tensors: dict[str, Tensor]


def pack_state(state: dict[str, Any]) -> Packed:
    """Copies a state into the form in which it is written.

    Raises:
        TypeError: the state holds something that is not data.
    """
    tensors: dict[str, Tensor] = {}
    return Packed(json.dumps(pack(state, tensors), allow_nan=False, separators=(",", ":")), tensors)


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        path: the folder; it is made if it does not exist.
        keep: how many of the newest checkpoints stay.

    Raises:
        ValueError: `keep` is below 1.
        CheckpointError: the folder cannot be made or written to.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep: int = 1) -> None:
        check_count(keep, "keep")
        self.path, self.keep = Path(path), keep
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f"{_TEMPORARY}{uuid.uuid4().hex[:8]}-probe"
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            raise CheckpointError(
                f"checkpoints cannot be written to {self.path}: {error.strerror or error}."
            ) from error

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds the folder for one run. The lock ends with the process, however that ends.

        Raises:
            CheckpointError: another process or another run of this process holds the folder, or its lock is not a file.
        """
        if sys.platform == "win32":
            yield
            return
        folder = self.path.resolve()
        if folder in _held:
            raise CheckpointError(
                f"another run of this process uses the checkpoints in {self.path}. Give each run its own folder."
            )
        with _open_lock(folder / ".lock") as file:
            try:
                # Not `flock`: loader workers would inherit its lock, and they outlive a killed process by seconds.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CheckpointError(
                    f"another process uses the checkpoints in {self.path}. Wait for it to end, or use another folder."
                ) from error
            _held.add(folder)
            self._remove_leftovers()
            try:
                yield
            finally:
                _held.remove(folder)

    def save(self, number: int, state: dict[str, Any] | Packed) -> Path:
        """Writes a checkpoint, reads it back, and only then deletes the oldest.

        Raises:
            CheckpointError: the checkpoint could not be written. Earlier ones stay untouched.
            TypeError: `state` holds something that is not data.
        """
        text, whole = state if isinstance(state, Packed) else pack_state(state)
        tensors, growing = cut(whole)
        temporary = self.path / f"{_TEMPORARY}{number:08d}-{os.getpid()}"
        final = self.path / f"{_PREFIX}{number:08d}"
        try:
            self._remove_leftovers()
            temporary.mkdir()
            save_tensors(tensors, temporary / _TENSORS)
            pieces = link_or_write(growing, temporary, reversed(self._list()))
            content = f'{{"pieces":{json.dumps(pieces)},"state":{text}}}'
            (temporary / _STATE).write_text(content, encoding="utf-8")
            _check_json_file(temporary / _STATE)  # one that no reader accepts must not replace one that it does
            files = {name: fingerprint(temporary / name) for name in (_TENSORS, _STATE)}
            files |= {name: fingerprint_by_name(temporary / name) for name in list_pieces(pieces)}
            manifest = {"format": FORMAT, "number": number, "files": files}
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            for name in (*files, _MANIFEST):
                _sync(temporary / name)
            _sync(temporary)
            if final.exists():  # a run that was resumed from an older checkpoint saves this moment again
                shutil.rmtree(final)
            os.replace(temporary, final)
            _sync(self.path)
            _check_files(final)
        except (OSError, SafetensorError, FileFormatError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(
                f"the checkpoint {final.name} could not be written to {self.path}: {error}. "
                "What was saved before it stays untouched."
            ) from error
        for old in self._list()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def newest(self) -> Saved | None:
        """Returns the newest intact checkpoint, and warns of each newer one that is damaged; None if there is none.

        Raises:
            CheckpointError: all checkpoints are damaged.
        """
        damaged: list[str] = []
        for path in reversed(self._list()):
            try:
                saved = _read(path)
            except (OSError, FileFormatError) as error:
                damaged.append(f"{path.name}: {error}")
                continue
            for what in damaged:
                warnings.warn(f"a damaged checkpoint was skipped. {what}", stacklevel=2)
            return saved
        if damaged:
            raise CheckpointError(
                f"every checkpoint in {self.path} is damaged: {'; '.join(damaged)}. Remove the folder to start afresh."
            )
        return None

    @property
    def is_used(self) -> bool:
        """Whether there is a checkpoint, damaged or not."""
        return bool(self._list())

    def _list(self) -> list[Path]:
        found = [path for path in self.path.glob(f"{_PREFIX}*") if re.fullmatch(r"[0-9]+", _number_text(path))]
        return sorted(found, key=lambda path: int(_number_text(path)))

    def _remove_leftovers(self) -> None:
        """Removes what a process left when it died. No other process writes here while this one holds the folder."""
        for rest in self.path.iterdir():
            if not (rest.name.startswith(_TEMPORARY) or _LEFT.fullmatch(rest.name)):
                continue
            if rest.is_dir() and not rest.is_symlink():
                shutil.rmtree(rest, ignore_errors=True)
            else:
                with suppress(OSError):
                    rest.unlink()


def _number_text(path: Path) -> str:
    return path.name.removeprefix(_PREFIX)


def _open_lock(path: Path) -> BinaryIO:
    # Do not follow a link, and do not open a pipe, which might wait for ever.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file = open(os.open(path, flags, 0o666), "rb+", buffering=0)  # noqa: SIM115 - the caller closes it
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be locked: {error}. Remove it.") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CheckpointError(f"{path} cannot be locked: it is not a file. Remove it.")
    return file


def fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _sync(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_files(path: Path) -> list[str]:
    """Returns the names of the files of a checkpoint, after a check that they are as they were written.

    Raises:
        FileFormatError: a file is missing, damaged, or newer than this version reads.
    """
    manifest = _read_json(path / _MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise FileFormatError(f"{_MANIFEST} was not written by minilearner.")
    if manifest.get("format") not in range(1, FORMAT + 1):
        raise FileFormatError(
            f"its format is {str(manifest.get('format'))[:20]}, and this version of minilearner reads {FORMAT}."
        )
    names = [_TENSORS, _STATE, *(name for name in manifest["files"] if is_piece(name))]
    for name in names:
        if not _is_intact(path / name, manifest["files"].get(name)):
            raise FileFormatError(f"{name} is missing or damaged.")
    return names


def _is_intact(path: Path, written: Any) -> bool:
    if not _is_file(path) or not isinstance(written, dict):
        return False
    return written.get("bytes") == path.stat().st_size and fingerprint(path) == written


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _read(path: Path) -> Saved:
    if path.is_symlink():
        raise FileFormatError("it is a symbolic link.")
    names = _check_files(path)
    try:
        with open_tensors(path / _TENSORS) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileFormatError as error:
        raise FileFormatError(f"{_TENSORS} is damaged: {error}") from error
    content = _read_json(path / _STATE)
    if isinstance(content, dict) and content.keys() == {"pieces", "state"}:  # not in format 1
        pieces, content = content["pieces"], content["state"]
        if odd := [name for name in list_pieces(pieces) if name not in names]:
            raise FileFormatError(f"{odd[0]} is missing.")
        tensors = join(tensors, pieces, path)
    state = unpack(content, tensors)
    if not isinstance(state, dict):
        raise FileFormatError(f"{_STATE} was not written by minilearner.")
    return Saved(path, int(_number_text(path)), state)


def _read_json(path: Path) -> Any:
    _check_json_file(path)
    return read_json(path, _LARGEST_JSON)


def _check_json_file(path: Path) -> None:
    if not _is_file(path):
        raise FileFormatError(f"{path.name} is missing.")
    if path.stat().st_size > _LARGEST_JSON:
        raise FileFormatError(f"{path.name} has {path.stat().st_size:,} bytes, more than any file of minilearner.")
