"""Unpacks archives of unknown origin safely: nothing outside the folder is written or linked to, and no disk filled.

First comes what may be written (`unpack` and `_Unpacker`), then how archives are read: `read_members` yields the same
`Member`s for tar and zip, and raises if anything is damaged. `archives` decides when to unpack, and where.

Why not `tarfile.extractall(filter="data")`: if a header in the middle of an archive is damaged, it stops there and
returns the files before it without an error. It also has no size limit, does not read zip, and Python 3.10.0 to
3.10.11 lack it.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import lzma
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePath
from tarfile import EOFHeaderError, HeaderError, ReadError, TarFile  # type: ignore[attr-defined]
from typing import IO, Any, Literal, NamedTuple, TypeAlias

from minilearner.display import Bar
from minilearner.errors import FileFormatError
from minilearner.files import check_is_file

__all__ = ["Kind", "Member", "check_is_archive", "make_refusal", "read_members", "report_damage", "unpack"]

_BLOCK = 1 << 18  # bytes
_MAX_DEPTH = 100  # nested folders; deleting many more than that fails
_SMALL = 1 << 30  # bytes; every archive may unpack to this much
_RATIO = 100  # unpacked size / archive size: about 1 for images, 3 to 20 for text, 1,000 and more for bombs
_TAR_BLOCK = 512  # bytes
_BAD_NAMES = (errno.ENAMETOOLONG, errno.EILSEQ, errno.ELOOP)  # what systems say of names that they cannot write
_LARGEST_EXTENSION = 1 << 20  # bytes of a long name or of pax headers, which `tarfile` reads into memory at once
_EXTENSION_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def unpack(
    archive: Path,
    folder: Path,
    *,
    max_members: int = 2_000_000,
    max_bytes: int | None = None,
    progress: bool = True,
) -> Path:
    """Unpacks a tar (plain, gzip, bzip2, xz) or zip archive into an empty folder. Returns the folder of its content.

    That is the one folder at the archive's top, or `folder` itself if the top has several entries or only files.

    Creates files, folders, symbolic links, and copies for hard links. A later member replaces an earlier one with the
    same name, as in tar. Owners, times and permissions are ignored: files get the process's default permissions, so no
    set-user-ID bit comes through.

    Args:
        archive: the file. Its first bytes decide the format, not its name.
        folder: an existing, empty folder that nobody else writes to. After an error, delete what is left in it.
        max_members: the most entries that the archive may have.
        max_bytes: the most bytes that it may unpack to. By default 1 GiB or 100 times its own size, whichever is more.
        progress: whether to show how many files are done.

    Raises:
        FileFormatError: the archive is truncated, damaged, empty or too large, or has an unsafe member, which is named.
            A member is unsafe if its path is absolute, contains `..` or leads through a link, if it is a link that
            points out of the unpacked folder, or if it is a device or a pipe.
        OSError: the system cannot write, for example because the disk is full.
    """
    if max_bytes is None:
        max_bytes = max(_SMALL, _RATIO * archive.stat().st_size)
    unpacker = _Unpacker(archive, folder, max_members, max_bytes)
    with (
        report_damage(archive),
        Bar(f"unpacking {archive.name}", None, unit=" files") if progress else contextlib.nullcontext() as bar,
    ):
        for n, member in enumerate(read_members(archive, max_trailing_bytes=max_bytes), 1):
            unpacker.add(member)
            if bar is not None and time.perf_counter() >= bar.due:
                bar.show(n)
    return unpacker.finish()


def check_is_archive(path: Path) -> None:
    """Checks that a file's first bytes are those of a tar or zip archive.

    Raises:
        FileFormatError: they are not.
    """
    _choose_opener(path)


class _Unpacker:
    """What has been unpacked so far. Symbolic links are made last, so that nothing can be written through one."""

    def __init__(self, archive: Path, folder: Path, max_members: int, max_bytes: int) -> None:
        self.archive = archive
        self.folder = folder
        self.max_members, self.max_bytes = max_members, max_bytes
        self.n_members, self.n_bytes = 0, 0
        self.files: set[PurePath] = set()
        self.links: dict[PurePath, str] = {}

    def add(self, member: Member) -> None:
        """Writes one member, or remembers it if it is a symbolic link."""
        path = self._check_path(member.name)
        self._count(member.size)
        if not path.parts and member.kind == "folder":  # "./", the top folder itself
            return
        if not path.parts or any(place in self.links for place in (path, *path.parents)):
            raise self._make_refusal(
                member, "is or lies below an earlier symbolic link" if path.parts else "has no name"
            )
        try:
            self._write(member, path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise self._make_refusal(member, "has the path of another member") from error
        except OSError as error:
            if error.errno not in _BAD_NAMES:
                raise
            raise self._make_refusal(member, f"has a path that this system cannot write ({error.strerror})") from error

    def finish(self) -> Path:
        """Makes the symbolic links, and returns the folder of the content."""
        tops = {path.name for path in self.folder.iterdir()} | {path.parts[0] for path in self.links}
        if not tops:
            raise FileFormatError(f"{self.archive} is empty.")
        only = self.folder / min(tops)
        top = only if len(tops) == 1 and only.is_dir() and PurePath(only.name) not in self.links else self.folder
        for path, target in self.links.items():
            self._make_link(path, target, len((self.folder / path).relative_to(top).parts) - 1)
        return top

    def _write(self, member: Member, path: PurePath) -> None:
        destination = self.folder / path
        if member.kind == "folder":
            destination.mkdir(parents=True, exist_ok=True)
            return
        destination.parent.mkdir(parents=True, exist_ok=True)
        if member.kind == "symbolic link":
            self.links[path] = member.target
            return
        with self._open(member, path) as content:
            if path in self.files:
                destination.unlink()
            self.files.add(path)
            with open(destination, "xb") as file:
                shutil.copyfileobj(content, file, _BLOCK)

    def _open(self, member: Member, path: PurePath) -> IO[bytes]:
        """Opens the content of a file, or of the earlier file that a hard link names in the same archive."""
        if member.kind == "file":
            return member.open()
        named = PurePath(member.target)
        if named not in self.files or named == path:
            raise self._make_refusal(member, f"is a hard link to {member.target!r}, which is not an earlier file")
        source = self.folder / named
        self._count(source.stat().st_size, n_members=0)
        return open(source, "rb")

    def _make_link(self, path: PurePath, target: str, depth: int) -> None:
        """Makes a symbolic link `depth` folders below the top of the content, unless it could point above the top.

        The target may go up only at its beginning, and not above the top. The folder of a link is never reached through
        another link, so no chain of links can lead out of the content.
        """
        parts = PurePath(target).parts
        n_up = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
        leaves = not target or "\0" in target or PurePath(target).anchor or n_up > depth or ".." in parts[n_up:]
        if leaves:
            raise make_refusal(self.archive, str(path), f"is a symbolic link to {target!r}, which may leave the folder")
        try:
            (self.folder / path).symlink_to(target)
        except FileExistsError as error:
            raise make_refusal(self.archive, str(path), "has the path of another member") from error
        except OSError as error:
            if error.errno not in _BAD_NAMES:
                raise
            reason = f"is a symbolic link that this system cannot write ({error.strerror})"
            raise make_refusal(self.archive, str(path), reason) from error

    def _check_path(self, name: str) -> PurePath:
        path = PurePath(name)
        if "\0" in name or path.anchor or ".." in path.parts:
            raise make_refusal(self.archive, name, "has a path that may leave the folder")
        if len(path.parts) > _MAX_DEPTH:
            raise make_refusal(self.archive, name[:100], f"is more than {_MAX_DEPTH} folders deep")
        return path

    def _count(self, size: int, n_members: int = 1) -> None:
        self.n_members += n_members
        self.n_bytes += size
        if self.n_members > self.max_members:
            raise FileFormatError(f"{self.archive} is refused: it has more than {self.max_members:,} members.")
        if self.n_bytes > self.max_bytes:
            raise FileFormatError(
                f"{self.archive} is refused: it would unpack to more than {self.max_bytes:,} bytes, like a bomb."
            )

    def _make_refusal(self, member: Member, reason: str) -> FileFormatError:
        return make_refusal(self.archive, member.name, reason)


Kind: TypeAlias = Literal["file", "folder", "symbolic link", "hard link"]


class Member(NamedTuple):
    """One entry of an archive. Only valid until the next one is read."""

    name: str
    kind: Kind
    size: int
    """Bytes of a file's content; 0 for everything else."""
    target: str
    """Where a link points: a path relative to its folder for a symbolic link, a member's name for a hard link."""
    open: Callable[[], IO[bytes]]
    """Opens a file's content."""


def read_members(archive: Path, *, max_trailing_bytes: int) -> Iterator[Member]:
    """Yields the members of a tar (plain, gzip, bzip2 or xz) or zip archive. Its first bytes decide which it is.

    Call this, and read the members, inside `report_damage`.

    Args:
        archive: the file.
        max_trailing_bytes: the most bytes, uncompressed, that may follow the end of a tar. They are read because the
            checksum comes after them.

    Raises:
        FileFormatError: the file is not such an archive, or a member is a device, a pipe, encrypted or broken.
    """
    opener = _choose_opener(archive)
    if opener is None:
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                yield _read_zip_member(archive, file, info)
        return
    with opener(archive, "rb") as stream:
        # "r|" reads the tar as a pipe. In seekable mode, tarfile may go back and return earlier members again.
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictTarInfo) as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all, 1 KB each
                yield _read_tar_member(archive, tar, entry)
        _drain(archive, stream, max_trailing_bytes)


@contextlib.contextmanager
def report_damage(archive: Path) -> Iterator[None]:
    """Turns all that the standard library raises for a damaged archive into one `FileFormatError` with its name."""
    try:
        yield
    except FileFormatError:
        raise
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError),
        RecursionError,  # from a header that extends a header that extends a header ...
    ) as error:
        raise _make_damage_error(archive, error) from error
    except NotImplementedError as error:  # a zip compression that Python lacks
        raise FileFormatError(f"{archive} cannot be unpacked: {error}.") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL) or error.filename is not None:
            raise
        raise _make_damage_error(archive, error) from error  # raised by gzip or bz2, or a seek before the first byte


def make_refusal(archive: Path, name: str, reason: str) -> FileFormatError:
    """Returns the error for a member that we refuse to unpack."""
    shown = repr(name if len(name) <= 200 else f"{name[:197]}...")
    return FileFormatError(f"{archive} is refused: its member {shown} {reason}.")


def _make_damage_error(archive: Path, error: Exception) -> FileFormatError:
    return FileFormatError(f"{archive} is truncated or damaged: {str(error) or type(error).__name__}.")


def _choose_opener(archive: Path) -> Callable[..., Any] | None:
    """Returns the function that opens a tar's compression, or None for a zip."""
    check_is_file(archive)
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
    """A header that raises an error if it is damaged, missing or absurd, since `tarfile` may silently stop there."""

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> _StrictTarInfo:
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:  # the regular end mark
            raise
        except HeaderError as error:
            raise ReadError(f"neither a header nor the end mark: {error}") from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictTarInfo:
        entry = super().frombuf(buf, encoding, errors)
        if entry.size < 0 or (entry.type in _EXTENSION_TYPES and entry.size > _LARGEST_EXTENSION):
            raise ReadError(f"a header of {entry.name!r} claims {entry.size:,} bytes")
        return entry


def _read_tar_member(archive: Path, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> Member:
    if entry.size < 0:
        raise make_refusal(archive, entry.name, f"claims {entry.size} bytes")
    if entry.issym() or entry.islnk():
        kind: Kind = "symbolic link" if entry.issym() else "hard link"
        return Member(entry.name, kind, 0, entry.linkname, _no_content)
    if entry.isdir():
        return Member(entry.name, "folder", 0, "", _no_content)
    if not entry.isreg():
        raise make_refusal(archive, entry.name, "is a device, a pipe or of unknown kind")
    return Member(entry.name, "file", entry.size, "", partial(_open_in_tar, tar, entry))


def _read_zip_member(archive: Path, file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    kind_bits = stat.S_IFMT(info.external_attr >> 16)  # Unix file type; 0 from other systems
    if info.flag_bits & 1:
        raise make_refusal(archive, info.filename, "is encrypted")
    if info.is_dir():
        return Member(info.filename, "folder", 0, "", _no_content)
    if stat.S_ISLNK(kind_bits):
        if info.file_size > _LARGEST_EXTENSION:
            raise make_refusal(archive, info.filename, f"is a link of {info.file_size:,} bytes")
        return Member(info.filename, "symbolic link", 0, file.read(info).decode("utf-8"), _no_content)
    if kind_bits and not stat.S_ISREG(kind_bits):
        raise make_refusal(archive, info.filename, "is a device, a pipe or of unknown kind")
    return Member(info.filename, "file", info.file_size, "", partial(file.open, info))


def _open_in_tar(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(entry)
    if content is None:
        raise tarfile.ReadError(f"{entry.name!r} has no content")
    return content


def _no_content() -> IO[bytes]:
    raise TypeError("only files have content.")


def _drain(archive: Path, stream: IO[bytes], max_bytes: int) -> None:
    """Reads to the end, where gzip verifies its checksum and notices truncation."""
    while block := stream.read(_BLOCK):
        max_bytes -= len(block)
        if max_bytes < 0:
            raise FileFormatError(f"{archive} is refused: too many bytes follow the end of its tar.")
