"""Verified downloads into the data home: from several servers, resumable, and never leaving a half-written file.

The caller decides what a file must hold and passes a `Check`. `archives` and `fashion` decide what to do with the file.
`lock_file` lets one process at a time work on a file.

Three environment variables apply to every download:

- `MINILEARNER_HOME`: the data home, `~/.minilearner` by default.
- `MINILEARNER_OFFLINE=1`: never use the network.
- `MINILEARNER_MIRROR=URL`: one server replaces all public ones. It serves files under the names in its `index.json`,
  such as ``{"fashion-mnist/train-images-idx3-ubyte.gz": {"size": 26421880, "sha256": "..."}}``. Size and hash are
  those of the file as served.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from minilearner.checks import check_count
from minilearner.display import Bar, shorten_interrupts
from minilearner.errors import DownloadError, FileFormatError, closest
from minilearner.files import check_is_file

if sys.platform != "win32":
    import fcntl

__all__ = [
    "Check",
    "Timeouts",
    "data_home",
    "download",
    "fetch_bytes",
    "is_at",
    "is_offline",
    "lock_file",
    "make_folder",
    "mirror",
    "transfer",
]

_BLOCK = 1 << 18  # bytes
_LONGEST_INDEX = 1 << 26  # bytes; an index of 500,000 files

Check: TypeAlias = Callable[[Path], object]
"""Inspects a finished file. Raises a `ValueError`, such as a `FileFormatError`, if it is not the wanted one."""


def download(
    urls: Sequence[str],
    destination: Path,
    *,
    check: Check,
    name: str | None = None,
    mirrored: bool = True,
    force: bool = False,
    connect_timeout_seconds: float = 3.0,
    read_timeout_seconds: float = 20.0,
    retries: int = 2,
    progress: bool = True,
    way_out: str | None = None,
    home: str = "MINILEARNER_HOME",
) -> Path:
    """Downloads a file to `destination` from the first server whose file passes `check`. Returns the path.

    A broken transfer leaves `<destination>.part`. The next attempt resumes from it, in this process or another, at the
    same server or the next. Only a complete file that passed `check` is moved to `destination`, in one step. A file
    that fails is deleted. If `destination` exists, it is checked and returned, and the network is not used. Two
    processes that want the same file take turns, and the second finds it there.

    Args:
        urls: the same file on several servers, tried in this order.
        destination: the path of the file. Its folder is created.
        check: see `Check`.
        name: the file's name in a mirror's `index.json`; by default the name of `destination`.
        mirrored: whether `MINILEARNER_MIRROR` replaces `urls`.
        force: download everything again, even if the file exists. The old file stays until the new one passes.
        connect_timeout_seconds: the limit for each address of a server. The default is short, so that a machine without
            a network finds out soon.
        read_timeout_seconds: the longest silence during a transfer.
        retries: how often a transfer that has begun is resumed at the same server.
        progress: whether to show how far it is.
        way_out: advice in an error on how to go on without the network; by default, to put the file there yourself.
        home: the environment variable that names another folder, for an error.

    Raises:
        DownloadError: `MINILEARNER_OFFLINE` is set, the folder cannot be written, or no server delivered the file.
            Lists what happened at each URL.
        OSError: the file cannot be moved there.
        ValueError: `urls` is empty, `retries` is negative, or the existing file fails `check`.
    """
    if not urls:
        raise ValueError(f"`urls` must name at least one server. Received: urls={urls!r}.")
    check_count(retries, "retries", least=0)
    if destination.exists() and not force:
        check_is_file(destination)
        check(destination)
        return destination
    way_out = way_out or f"To go on without the network, put the file at {destination} yourself."
    if is_offline():
        raise DownloadError(
            f"{destination.name} {'must be downloaded again' if force else 'is missing'}, and "
            f"MINILEARNER_OFFLINE=1 forbids downloads.\n{way_out}"
        )
    make_folder(destination.parent, home)
    timeouts = Timeouts(connect_timeout_seconds, read_timeout_seconds)
    server = mirror() if mirrored else None
    if server is not None:
        urls, check = _use_mirror(server, name or destination.name, check, timeouts)
    where = f"while downloading {destination.name}. The next call resumes there"
    with shorten_interrupts(where), _lock_part(destination, force) as part:
        if part is not None:
            failures = _try_servers(urls, part, check, timeouts=timeouts, retries=retries, progress=progress)
            if len(failures) == len(urls):
                raise DownloadError("\n".join([f"{destination.name} could not be downloaded.", *failures, way_out]))
            os.replace(part, destination)
    return destination


def make_folder(folder: Path, home: str = "MINILEARNER_HOME") -> None:
    """Creates a folder for downloaded files, if it is missing.

    Args:
        folder: the folder.
        home: the environment variable that names another one, for an error.

    Raises:
        DownloadError: the folder cannot be created or written.
    """
    reason = "no permission"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return
    except OSError as error:
        reason = error.strerror or str(error)
    raise DownloadError(
        f"nothing can be saved in {folder} ({reason}). Name a folder that can be written in the environment variable "
        f"{home}."
    )


def data_home() -> Path:
    """Returns the folder for downloaded data: `MINILEARNER_HOME`, or `~/.minilearner`. It may not exist yet."""
    return Path(os.environ.get("MINILEARNER_HOME") or "~/.minilearner").expanduser()


def mirror() -> str | None:
    """Returns the URL of the server that replaces the public ones, without a trailing slash. None if none is set."""
    return os.environ.get("MINILEARNER_MIRROR", "").rstrip("/") or None


def is_offline() -> bool:
    """Returns whether `MINILEARNER_OFFLINE` forbids the network.

    Raises:
        ValueError: the variable is set to anything but "1", "0" or nothing. We do not guess what was meant.
    """
    value = os.environ.get("MINILEARNER_OFFLINE", "")
    if value not in ("", "0", "1"):
        raise ValueError(f"MINILEARNER_OFFLINE must be 1 (no network) or 0. Received: MINILEARNER_OFFLINE={value!r}.")
    return value == "1"


class Timeouts(NamedTuple):
    """How long to wait, in seconds: for a connection, and for the next byte."""

    connect: float
    read: float


def _try_servers(
    urls: Sequence[str],
    part: Path,
    check: Check,
    *,
    timeouts: Timeouts,
    retries: int,
    progress: bool,
) -> list[str]:
    """Tries the servers until one delivers. Returns what went wrong at those before it."""
    failures: list[str] = []
    for url in urls:
        try:
            _attempt(url, part, check, timeouts=timeouts, retries=retries, progress=progress)
            break
        except DownloadError as error:
            failures.append(f"  {url}: {error}")
    return failures


def _attempt(url: str, part: Path, check: Check, *, timeouts: Timeouts, retries: int, progress: bool) -> None:
    """Transfers a file and checks it. If a resumed file fails the check, downloads it once more from the first byte.

    So a part begun by another server, or from an older version of the file, costs time but never gives a wrong file.
    That is why we need no `If-Range` header and store no validator beside the part.
    """
    for _ in range(2):
        resumed = transfer(url, part, timeouts, retries=retries, progress=progress)
        try:
            check(part)
            return
        except ValueError as error:
            part.write_bytes(b"")  # emptied, not deleted: we hold the lock on this very file
            if not resumed:
                raise DownloadError(f"the downloaded file failed its check: {error}") from error
    raise DownloadError("the downloaded file failed its check twice, resumed and from the first byte.")


def _use_mirror(server: str, name: str, check: Check, timeouts: Timeouts) -> tuple[list[str], Check]:
    """Returns the one URL at the mirror, and a check of the index's size and SHA-256 followed by the caller's check."""
    index_url = f"{server}/index.json"
    try:
        index = json.loads(fetch_bytes(index_url, timeouts))
        entry = index.get(name)
        size, sha256 = (int(entry["size"]), str(entry["sha256"]).lower()) if entry else (-1, "")
    except DownloadError as error:
        raise DownloadError(f"MINILEARNER_MIRROR: {index_url}: {error} Unset it to use the public servers.") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DownloadError(
            f"MINILEARNER_MIRROR: {index_url} must map names to size and sha256. Received: {error!r:.200} for {name!r}."
        ) from error
    if not entry:
        raise DownloadError(f"MINILEARNER_MIRROR: {index_url} does not list {name!r}.{closest(name, index)}")

    def check_both(path: Path) -> None:
        _check_index(path, size, sha256)
        check(path)

    return [f"{server}/{name}"], check_both


def _check_index(path: Path, size: int, sha256: str) -> None:
    if path.stat().st_size != size:
        raise FileFormatError(f"{path.name} has {path.stat().st_size:,} bytes, but the mirror's index says {size:,}.")
    received = _sha256(path)
    if received != sha256:
        raise FileFormatError(f"{path.name} has SHA-256 {received}, but the mirror's index says {sha256}.")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _lock_part(destination: Path, force: bool) -> Iterator[Path | None]:
    """Holds the part file for this process alone. Yields None if another process has finished the file meanwhile.

    The lock is on the part itself, so no lock file is left behind. On Windows, which has no `flock`, each process
    writes its own part. An interrupted download then starts again, but two processes still do not collide.
    """
    if sys.platform == "win32":
        part = destination.with_name(f"{destination.name}.{os.getpid()}.part")
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)
        return
    part = destination.with_name(f"{destination.name}.part")
    with lock_file(part) as fileno:
        try:
            if force:
                part.write_bytes(b"")
            yield part if force or not destination.exists() else None
        finally:
            if is_at(fileno, part) and not part.stat().st_size:
                part.unlink()


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[int]:
    """Holds the file at `path` for this process and thread alone. Creates it if needed, and yields its descriptor.

    Others wait. The body may move or delete the file; whoever waited then creates a new one. The system releases the
    lock when the process ends, however it ends. On Windows, which has no `flock`, this creates no file, does not wait,
    and yields -1.
    """
    # Why not the package `filelock`: it locks a separate file, which stays behind. We lock the part itself.
    if sys.platform == "win32":
        yield -1
        return
    while True:
        with open(path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if is_at(file.fileno(), path):  # otherwise it was moved or deleted while we waited
                yield file.fileno()
                return


def is_at(fileno: int, path: Path) -> bool:
    """Returns whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fileno), path.stat())
    except FileNotFoundError:
        return False


def transfer(url: str, part: Path, timeouts: Timeouts, *, retries: int = 2, progress: bool = True) -> bool:
    """Completes `part` from `url`, starting where it ends. Returns whether it still holds bytes from before this call.

    If a server ignores `Range` or answers with another range, the file is sent again from its first byte. A transfer
    that breaks off is resumed up to `retries` times, as long as each attempt brings at least one byte.

    Args:
        url: the file on the server.
        part: the partial file, which need not exist.
        timeouts: the limits for connecting and reading.
        retries: how often to resume.
        progress: whether to show how far it is.

    Raises:
        DownloadError: the server could not be reached, refused, or broke off too often. `part` keeps what has arrived.
    """
    had_bytes = _size(part) > 0
    for left in reversed(range(retries + 1)):
        before = _size(part)
        try:
            started_afresh = _append(url, part, before, timeouts, progress)
            return had_bytes and not started_afresh
        except _Broken as error:
            had_bytes = had_bytes and not error.started_afresh
            if not left or _size(part) <= before:
                raise DownloadError(str(error)) from error
    raise DownloadError("no attempt was made: `retries` must be at least 0.")


def fetch_bytes(url: str, timeouts: Timeouts) -> bytes:
    """Returns the content of a small file, such as an index, of 64 MiB at most.

    Raises:
        DownloadError: the server could not be reached, refused, broke off, or sent too much.
    """
    try:
        with _open(url, 0, timeouts) as response:
            content: bytes = response.read(_LONGEST_INDEX + 1)
            if len(content) > _LONGEST_INDEX:
                raise ValueError(f"it sent more than {_LONGEST_INDEX:,} bytes")
            announced = response.headers.get("Content-Length")
            if announced is not None and len(content) < int(announced):  # `read` with a limit does not notice
                raise ConnectionError(f"it broke off after {len(content):,} of {int(announced):,} bytes")
            return content
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"{_reason(error)}.") from None  # urllib's layers add nothing to the reason


class _Broken(Exception):  # noqa: N818 - a state of the transfer, seen by `transfer` alone
    def __init__(self, reason: str, started_afresh: bool) -> None:
        super().__init__(reason)
        self.started_afresh = started_afresh


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _append(url: str, part: Path, start: int, timeouts: Timeouts, progress: bool) -> bool:
    """Makes one request. Returns whether the server started at the first byte although we asked for `start`."""
    afresh = False
    try:
        response = _open(url, start, timeouts)
        if start and not _continues(response, start):
            afresh = True
            if response.status == 206:  # a range we did not ask for
                response.close()
                response = _open(url, 0, timeouts)
        with response:
            _save(response, part, 0 if afresh else start, progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Broken(f"{_reason(error)}.", afresh) from error
    return afresh


def _save(response: Any, part: Path, start: int, progress: bool) -> None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length is not None else None
    with (
        open(part, "ab" if start else "wb") as file,
        Bar(f"downloading {part.name.removesuffix('.part')}", total, done=start, unit="B")
        if progress
        else contextlib.nullcontext() as bar,
    ):
        while block := response.read1(_BLOCK):
            file.write(block)
            if bar is not None and time.perf_counter() >= bar.due:
                bar.show(file.tell())
        held = file.tell()
    if total is not None and held != total:
        raise ConnectionError(f"it broke off after {held:,} of {total:,} bytes")


def _open(url: str, start: int, timeouts: Timeouts) -> Any:
    # Without "identity", a server may send a gzip file decompressed, or compressed twice.
    request = urllib.request.Request(url, headers={"User-Agent": "minilearner", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    opener = urllib.request.build_opener(_HTTPHandler(timeouts.read), _HTTPSHandler(timeouts.read))
    try:
        return opener.open(request, timeout=timeouts.connect)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # our part is at least as long as the file
            return _open(url, 0, timeouts)
        raise


def _continues(response: Any, start: int) -> bool:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == 206 and found is not None and int(found[1]) == start


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


def _add_read_timeout(connection: Any, seconds: float) -> Any:
    """Returns a subclass of `connection` that waits `seconds` for each read, however long it waited to connect."""

    class Connection(connection):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(seconds)

    return Connection


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, read_seconds: float) -> None:
        super().__init__()
        self.connection = _add_read_timeout(http.client.HTTPConnection, read_seconds)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self.connection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, read_seconds: float) -> None:
        super().__init__()
        self.connection = _add_read_timeout(http.client.HTTPSConnection, read_seconds)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self.connection, req)
