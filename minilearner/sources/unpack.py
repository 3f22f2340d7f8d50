"""Archives of unknown origin unpacked safely: nothing outside the folder is written, linked to or filled up."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePath
from tarfile import EOFHeaderError, HeaderError, ReadError, TarFile  # type: ignore[attr-defined]
from typing import IO, Any, Literal, NamedTuple, TypeAlias

from minilearner.errors import FileFormatError
from minilearner.notebook import bar_class

__all__ = ["Kind", "Member", "check_is_archive", "damage_told", "members", "refusal", "unpack"]

_BLOCK = 1 << 18  # bytes
_MAX_DEPTH = 100  # folders in one another; with many more, deleting them fails
_SMALL = 1 << 30  # bytes to which any archive may unpack
_RATIO = 100  # unpacked to packed size; pictures have 1, text has 3 to 20, bombs have 1,000 and more


def unpack(
    archive: Path, folder: Path, *, max_members: int = 2_000_000, max_bytes: int | None = None, progress: bool = True
) -> Path:
    """Unpacks a tar (plain, gzip, bzip2, xz) or zip archive into an empty folder, and returns where its content is.

    That is the one folder at the archive's top, or `folder` itself where there are several entries or only files.

    Files, folders, hard links (as copies) and symbolic links are made; a later member replaces an earlier one of the
    same name, as in tar. Owners, times and permissions are not taken over: files get what the process gives new ones,
    so no set-user-ID bit comes through.

    Args:
        archive: the file; its first bytes tell the format, not its name.
        folder: an existing, empty folder that nobody else writes to. After an error it holds rests, to be deleted.
        max_members: how many entries the archive may have.
        max_bytes: to how much it may unpack; by default 1 GiB or 100 times its own size, whichever is more.
        progress: count the files in a bar, if the standard error is a terminal.

    Raises:
        FileFormatError: the archive is truncated, damaged, empty or too large; or a member is refused, and named: its
            path is absolute, has a `..` or leads through a link, a link points out of what is unpacked, it is a device
            or a pipe.
        OSError: the system cannot write, as when the disk is full.
    """
    if max_bytes is None:
        max_bytes = max(_SMALL, _RATIO * archive.stat().st_size)
    unpacking = _Unpacking(archive, folder, max_members, max_bytes)
    with damage_told(archive), bar_class()(desc=archive.name, unit=" files", disable=None if progress else True) as bar:
        for member in members(archive, max_trailing_bytes=max_bytes):
            unpacking.add(member)
            bar.update()
    return unpacking.finish()


class _Unpacking:
    """What has been unpacked so far. Symbolic links come last, so that nothing can be written through one."""

    def __init__(self, archive: Path, folder: Path, max_members: int, max_bytes: int) -> None:
        self.archive = archive
        self.folder = folder
        self.max_members, self.max_bytes = max_members, max_bytes
        self.n_members, self.n_bytes = 0, 0
        self.files: set[PurePath] = set()
        self.links: dict[PurePath, str] = {}

    def add(self, member: Member) -> None:
        """Writes one member, or notes it where it is a symbolic link."""
        path = self._inside(member.name)
        self._count(member.size)
        if not path.parts and member.kind == "folder":  # "./", the top itself
            return
        if not path.parts or any(place in self.links for place in (path, *path.parents)):
            raise self._refusal(member, "is, or lies under, a symbolic link before it" if path.parts else "has no name")
        try:
            self._write(member, path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise self._refusal(member, "takes the place of another member") from error

    def finish(self) -> Path:
        """Makes the symbolic links, and returns the folder of the content."""
        tops = {path.name for path in self.folder.iterdir()} | {path.parts[0] for path in self.links}
        if not tops:
            raise FileFormatError(f"{self.archive} is empty.")
        only = self.folder / min(tops)
        top = only if len(tops) == 1 and only.is_dir() and PurePath(only.name) not in self.links else self.folder
        for path, target in self.links.items():
            self._link(path, target, len((self.folder / path).relative_to(top).parts) - 1)
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
        """Opens what a file holds, or what a hard link names, which must have been unpacked from this very archive."""
        if member.kind == "file":
            return member.open()
        named = PurePath(member.target)
        if named not in self.files or named == path:
            raise self._refusal(member, f"is a hard link to {member.target!r}, which is no file before it")
        source = self.folder / named
        self._count(source.stat().st_size, n_members=0)
        return open(source, "rb")

    def _link(self, path: PurePath, target: str, depth: int) -> None:
        """Makes a symbolic link `depth` folders below the content's top, if it cannot point above that.

        It may go up at its beginning alone, and not above the top. No link's own folder is reached through another
        link; so wherever its way leads, through links or not, it never leaves the content.
        """
        parts = PurePath(target).parts
        n_up = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
        out = not target or "\0" in target or PurePath(target).anchor or n_up > depth or ".." in parts[n_up:]
        if out:
            raise refusal(self.archive, str(path), f"is a symbolic link to {target!r}, which may leave the folder")
        try:
            (self.folder / path).symlink_to(target)
        except FileExistsError as error:
            raise refusal(self.archive, str(path), "takes the place of another member") from error

    def _inside(self, name: str) -> PurePath:
        path = PurePath(name)
        if "\0" in name or path.anchor or ".." in path.parts:
            raise refusal(self.archive, name, "has a path that may leave the folder")
        if len(path.parts) > _MAX_DEPTH:
            raise refusal(self.archive, name[:100], f"is more than {_MAX_DEPTH} folders deep")
        return path

    def _count(self, size: int, n_members: int = 1) -> None:
        self.n_members += n_members
        self.n_bytes += size
        if self.n_members > self.max_members:
            raise FileFormatError(f"{self.archive} is refused: it has more than {self.max_members:,} members.")
        if self.n_bytes > self.max_bytes:
            raise FileFormatError(
                f"{self.archive} is refused: it would unpack to more than {self.max_bytes:,} bytes, a sign of a bomb."
            )

    def _refusal(self, member: Member, reason: str) -> FileFormatError:
        return refusal(self.archive, member.name, reason)


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
