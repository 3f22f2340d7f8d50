"""Which archive a folder was unpacked from, and where an archive was downloaded: a small hidden file beside it.

Archives of the same name share a folder. Without a note, the second would be taken for the first. `archives` decides
what to do about it.
"""

from __future__ import annotations

import hashlib
import json
import re
import urllib.parse
from dataclasses import asdict, dataclass
from pathlib import Path

from minilearner.files import check_is_file, replace_file
from minilearner.sources.urls import PUBLISHED

__all__ = ["Origin", "clean_url", "note_path", "read_origin", "write_origin"]

_MIB = 1 << 20


@dataclass(frozen=True)
class Origin:
    """Where an archive came from, and what it held. Only `source` is known before it is there."""

    source: str
    """The URL without secrets, or the absolute path."""
    size: int = -1
    mtime_ns: int = -1
    sha256: str = ""
    md5_of_first_mib: str = ""

    @classmethod
    def of_archive(cls, source: str, archive: Path) -> Origin:
        """Reads the whole archive. Takes about a second for 1 GB."""
        status = archive.stat()
        sha256 = hashlib.sha256()
        with open(archive, "rb") as file:
            first = file.read(_MIB)
            sha256.update(first)
            while block := file.read(_MIB):
                sha256.update(block)
        md5 = hashlib.md5(first, usedforsecurity=False).hexdigest()
        return cls(source, status.st_size, status.st_mtime_ns, sha256.hexdigest(), md5)

    def is_of_url(self, url: str) -> bool:
        """Whether this is the archive at `url`: it came from there, or is the one that was published there."""
        published = PUBLISHED.get(url)
        is_published = published is not None and published == (self.size, self.md5_of_first_mib)
        return is_published or self.source == clean_url(url)

    def is_of_file(self, archive: Path) -> bool:
        """Whether this is the archive in a file. Reads it only if neither its size nor its name and time decide."""
        check_is_file(archive)
        status, source = archive.stat(), str(archive.resolve())
        if status.st_size != self.size:
            return False
        if (source, status.st_mtime_ns) == (self.source, self.mtime_ns):
            return True
        return Origin.of_archive(source, archive).sha256 == self.sha256


def note_path(path: Path) -> Path:
    """Returns where the origin of an archive or folder is noted: a hidden file beside it."""
    return path.with_name(f".{path.name}.source")


def write_origin(path: Path, origin: Origin) -> None:
    """Notes the origin of the archive or folder at `path`."""
    with replace_file(note_path(path)) as temporary:
        temporary.write_text(json.dumps(asdict(origin)), encoding="utf-8")


def read_origin(path: Path) -> Origin | None:
    """Returns the origin of the archive or folder at `path`, None if it is not known."""
    try:
        check_is_file(note_path(path))
        with open(note_path(path), "rb") as file:
            origin = Origin(**json.loads(file.read(_MIB)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    kinds = [(origin.source, str), (origin.size, int), (origin.mtime_ns, int), (origin.sha256, str)]
    return origin if all(isinstance(value, kind) for value, kind in kinds) else None


_SECRETS = re.compile(
    r"(x-(amz|goog|ms)-.*|awsaccesskeyid|signature|sig|expires|policy|key-pair-id|token|access_token|s[epvrt]|sk\w+)",
    re.IGNORECASE,
)
"""Parameters that signed URLs carry: they change each time, and nobody else should read them."""


def clean_url(url: str) -> str:
    """Returns a URL without its password, signature, fragment, and without the difference of http and https."""
    parts = urllib.parse.urlsplit(url)
    query = [pair for pair in parts.query.split("&") if pair and not _SECRETS.fullmatch(pair.partition("=")[0])]
    return urllib.parse.urlunsplit(("https", parts.netloc.rpartition("@")[2].lower(), parts.path, "&".join(query), ""))
