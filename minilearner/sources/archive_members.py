"""The members of a tar or zip archive, one after the other, read strictly. Where they may be written is `unpack`'s.

Strictly: an archive that ends early, is damaged or holds more than files, folders and links is an error. The standard
library's `tarfile` takes a damaged header for the end of the archive, and skips the checksum of a gzip file.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tarfile import EOFHeaderError, HeaderError, ReadError, TarFile  # type: ignore[attr-defined]
from typing import IO, Any, Literal, NamedTuple, TypeAlias

from minilearner.errors import FileFormatError

__all__ = ["Kind", "Member", "check_is_archive", "damage_told", "members", "refusal"]

Kind: TypeAlias = Literal["file", "folder", "symbolic link", "hard link"]

_TAR_BLOCK = 512  # bytes
_LARGEST_EXTENSION = 1 << 20  # bytes of a long name or of pax headers, which `tarfile` reads at once


class Member(NamedTuple):
    """One entry of an archive, valid until the next one is asked for."""

    name: str
    kind: Kind
    size: int
    """Bytes of a file's content; 0 for all others."""
    target: str
    """What a link points to: for a symbolic link a path from its folder, for a hard link a member's name."""
    open: Callable[[], IO[bytes]]
    """Opens a file's content."""


def members(archive: Path, *, max_trailing_bytes: int) -> Iterator[Member]:
    """Yields the members of a tar (plain, gzip, bzip2 or xz) or zip archive, told by its first bytes.

    Use it, and read the members, inside `damage_told`.

    Args:
        archive: the file.
        max_trailing_bytes: how much may follow the end of a tar, unpacked; it is read for the checksum behind it.

    Raises:
        FileFormatError: this is no such archive, or a member is a device, a pipe, encrypted or broken.
    """
    opener = _opener(archive)
    if opener is None:
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                yield _from_zip(archive, file, info)
        return
    with opener(archive, "rb") as stream:
        # A pipe, "r|": in the seekable mode it may go back, and then unpack everything before once more.
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictTarInfo) as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it keeps them all, 1 KB each
                yield _from_tar(archive, tar, entry)
        _drain(archive, stream, max_trailing_bytes)


def check_is_archive(path: Path) -> None:
    """Looks at a file's first bytes.

    Raises:
        FileFormatError: it is no tar and no zip archive.
    """
    _opener(path)


@contextlib.contextmanager
def damage_told(archive: Path) -> Iterator[None]:
    """Turns whatever the standard library raises about a damaged archive into one `FileFormatError` that names it."""
    try:
        yield
    except FileFormatError:
        raise
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError),
        RecursionError,  # of a header that extends a header that extends a header ...
    ) as error:
        raise _damaged(archive, error) from error
    except NotImplementedError as error:  # a compression of zip that Python lacks
        raise FileFormatError(f"{archive} cannot be unpacked: {error}.") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL) or error.filename is not None:
            raise
        raise _damaged(archive, error) from error  # gzip's and bz2's own, or a jump before the file's first byte


def refusal(archive: Path, name: str, reason: str) -> FileFormatError:
    """Returns the error for a member that is not unpacked."""
    return FileFormatError(f"{archive} is refused: its member {name!r} {reason}.")


def _damaged(archive: Path, error: Exception) -> FileFormatError:
    return FileFormatError(f"{archive} is truncated or damaged: {str(error) or type(error).__name__}.")


def _opener(archive: Path) -> Callable[..., Any] | None:
    """Returns what opens the tar in `archive`; None for a zip."""
    with open(archive, "rb") as file:
        head = file.read(_TAR_BLOCK)
    openers = {
        b"\x1f\x8b": gzip.open,
        b"BZh": bz2.open,
        b"\xfd7zXZ\x00": lzma.open,
        b"PK\x03\x04": None,
        b"PK\x05\x06": None,
    }
    for magic, opener in openers.items():
        if head.startswith(magic):
            return opener
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise FileFormatError(
            f"{archive} is neither a tar (plain, gzip, bzip2, xz) nor a zip archive: it begins with {head[:16]!r}."
        ) from error
    return open


class _StrictTarInfo(tarfile.TarInfo):
    """A header that is an error where it is damaged, missing or absurd, not the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> _StrictTarInfo:
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:  # the end mark
            raise
        except HeaderError as error:
            raise ReadError(f"instead of a header or the end mark: {error}") from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictTarInfo:
        entry = super().frombuf(buf, encoding, errors)
        if entry.size < 0 or (entry.type in _EXTENSION_TYPES and entry.size > _LARGEST_EXTENSION):
            raise ReadError(f"a header of {entry.name!r} claims {entry.size:,} bytes")
        return entry


_EXTENSION_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def _from_tar(archive: Path, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> Member:
    if entry.size < 0:
        raise refusal(archive, entry.name, f"claims {entry.size} bytes")
    if entry.issym() or entry.islnk():
        kind: Kind = "symbolic link" if entry.issym() else "hard link"
        return Member(entry.name, kind, 0, entry.linkname, _no_content)
    if entry.isdir():
        return Member(entry.name, "folder", 0, "", _no_content)
    if not entry.isreg():
        raise refusal(archive, entry.name, "is a device, a pipe or of an unknown kind")
    return Member(entry.name, "file", entry.size, "", partial(_open_in_tar, tar, entry))


def _from_zip(archive: Path, file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    kind_bits = stat.S_IFMT(info.external_attr >> 16)  # Unix's; 0 from other systems
    if info.flag_bits & 1:
        raise refusal(archive, info.filename, "is encrypted")
    if info.is_dir():
        return Member(info.filename, "folder", 0, "", _no_content)
    if stat.S_ISLNK(kind_bits):
        if info.file_size > _LARGEST_EXTENSION:
            raise refusal(archive, info.filename, f"is a link of {info.file_size:,} bytes")
        return Member(info.filename, "symbolic link", 0, file.read(info).decode("utf-8"), _no_content)
    if kind_bits and not stat.S_ISREG(kind_bits):
        raise refusal(archive, info.filename, "is a device, a pipe or of an unknown kind")
    return Member(info.filename, "file", info.file_size, "", partial(file.open, info))


def _open_in_tar(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(entry)
    if content is None:
        raise tarfile.ReadError(f"{entry.name!r} has no content")
    return content


def _no_content() -> IO[bytes]:
    raise TypeError("only a file has content.")


def _drain(archive: Path, stream: IO[bytes], max_bytes: int) -> None:
    """Reads to the end: only there does gzip compare its checksum, and tell whether it was truncated."""
    while block := stream.read(_BLOCK):
        max_bytes -= len(block)
        if max_bytes < 0:
            raise FileFormatError(f"{archive} is refused: too much follows the end of its tar.")
