"""Archives of unknown origin unpacked safely: nothing outside the folder is written, linked to or filled up."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePath
from typing import IO

from minilearner.errors import FileFormatError
from minilearner.notebook import bar_class
from minilearner.sources.archive_members import Member, damage_told, members, refusal

__all__ = ["unpack"]

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
