"""Verified downloads into the data home: several mirrors, resumed after an interruption, never a half-written file.

Three environment variables rule it:

- `MINILEARNER_HOME`: the data home, `~/.minilearner` by default.
- `MINILEARNER_OFFLINE=1`: the network is never touched.
- `MINILEARNER_MIRROR=URL`: one server stands in for all public ones. It serves files under their names in its
  `index.json`, such as ``{"fashion-mnist/train-images-idx3-ubyte.gz": {"size": 26421880, "sha256": "..."}}``, both of
  the file as it is served.

The caller checks what a file must hold. `locked` lets one process at a time work on a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from minilearner.checks import check_count
from minilearner.errors import DownloadError, FileFormatError, closest
from minilearner.notebook import bar_class

__all__ = [
    "Check",
    "Timeouts",
    "data_home",
    "download",
    "fetch_bytes",
    "is_at",
    "locked",
    "mirror",
    "offline",
    "transfer",
]

if sys.platform != "win32":
    import fcntl

Check: TypeAlias = Callable[[Path], object]
"""Looks at a finished file and raises a `ValueError` (a `FileFormatError` is one) where it is not what was wanted."""


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
) -> Path:
    """Brings a file to `destination` from the first of `urls` that delivers what `check` accepts, and returns the path.

    A broken transfer leaves `<destination>.part`, from which the next attempt goes on, here or in another process, with
    the same or the next mirror. Only a whole file that `check` accepted is moved, in one step, to `destination`; a
    refused one is deleted. A file that is already at `destination` is checked and returned, and the network is not
    touched. Two processes that want one file take turns, and the second finds it there.

    Args:
        urls: the same bytes on several servers, tried in this order.
        destination: the file's path; its folder is made.
        check: see `Check`.
        name: the file's name in a mirror's `index.json`; by default `destination`'s own.
        mirrored: whether `MINILEARNER_MIRROR` stands in for `urls`.
        force: download it from its first byte on even if it is there; the old file stays until the new one is accepted.
        connect_timeout_seconds: for each address of a server. The default is short, so that a machine without a network
            finds out soon.
        read_timeout_seconds: the longest silence in the middle of a transfer.
        retries: how often a transfer that had begun is taken up again at the same server.
        progress: show a bar, if the standard error is a terminal.
        way_out: what an error tells the user to do without the network; by default, to bring the file in another way.

    Raises:
        DownloadError: `MINILEARNER_OFFLINE` is set, or no server delivered. Lists each URL and what happened there.
        OSError: the destination's folder cannot be made, or the file cannot be moved there.
        ValueError: `urls` is empty, `retries` negative, or `check` refuses the file that is already at `destination`.
    """
    if not urls:
        raise ValueError(f"`urls` must name at least one server. Received: urls={urls!r}.")
    check_count(retries, "retries", least=0)
    if destination.exists() and not force:
        check(destination)
        return destination
    way_out = way_out or f"To go on without the network, bring the file in another way to {destination}."
    if offline():
        raise DownloadError(
            f"{destination.name} is {'wanted anew' if force else 'not here'}, and MINILEARNER_OFFLINE=1 forbids to "
            f"download it.\n{way_out}"
        )
    timeouts = Timeouts(connect_timeout_seconds, read_timeout_seconds)
    server = mirror() if mirrored else None
    if server is not None:
        urls, check = _mirrored(server, name or destination.name, check, timeouts)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with _locked_part(destination, force) as part:
        if part is not None:
            failures = _failures(urls, part, check, timeouts=timeouts, retries=retries, progress=progress)
            if len(failures) == len(urls):
                raise DownloadError("\n".join([f"{destination.name} could not be downloaded.", *failures, way_out]))
            os.replace(part, destination)
    return destination


def data_home() -> Path:
    """Returns the folder for downloaded data: `MINILEARNER_HOME`, or `~/.minilearner`. It need not exist."""
    return Path(os.environ.get("MINILEARNER_HOME") or "~/.minilearner").expanduser()


def mirror() -> str | None:
    """Returns the server that stands in for the public ones, without a slash at its end; None where there is none."""
    return os.environ.get("MINILEARNER_MIRROR", "").rstrip("/") or None


def offline() -> bool:
    """Tells whether `MINILEARNER_OFFLINE` forbids the network.

    Raises:
        ValueError: the variable is neither "1" nor "0" (nor unset or empty): it is not guessed what was meant.
    """
    value = os.environ.get("MINILEARNER_OFFLINE", "")
    if value not in ("", "0", "1"):
        raise ValueError(f"MINILEARNER_OFFLINE must be 1 (no network) or 0. Received: MINILEARNER_OFFLINE={value!r}.")
    return value == "1"


def _failures(
    urls: Sequence[str], part: Path, check: Check, *, timeouts: Timeouts, retries: int, progress: bool
) -> list[str]:
    """Tries the servers until one delivers, and returns what happened at those before it."""
    failures: list[str] = []
    for url in urls:
        try:
            _attempt(url, part, check, timeouts=timeouts, retries=retries, progress=progress)
            break
        except DownloadError as error:
            failures.append(f"  {url}: {error}")
    return failures


def _attempt(url: str, part: Path, check: Check, *, timeouts: Timeouts, retries: int, progress: bool) -> None:
    """Transfers and checks. A file pieced together that is refused gets a second chance from its first byte on.

    So a part that another server, or a newer version of the file, began costs time and never a wrong file: that is why
    no `If-Range` and no validator beside the part are needed.
    """
    for _ in range(2):
        resumed = transfer(url, part, timeouts, retries=retries, progress=progress)
        try:
            check(part)
            return
        except ValueError as error:
            part.write_bytes(b"")  # not unlinked: the lock is on this very file
            if not resumed:
                raise DownloadError(f"its content was refused: {error}") from error
    raise DownloadError("its content was refused twice, resumed and from the first byte on.")


def _mirrored(server: str, name: str, check: Check, timeouts: Timeouts) -> tuple[list[str], Check]:
    """Returns the one URL at the mirror, and the check with the index's size and SHA-256 put before the caller's."""
    index_url = f"{server}/index.json"
    try:
        index = json.loads(fetch_bytes(index_url, timeouts))
        entry = index.get(name)
        size, sha256 = (int(entry["size"]), str(entry["sha256"]).lower()) if entry else (-1, "")
    except DownloadError as error:
        raise DownloadError(f"MINILEARNER_MIRROR: {index_url}: {error} Unset it to use the public servers.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(
            f"MINILEARNER_MIRROR: {index_url} must map names to size and sha256. Received: {error!r} for {name!r}."
        ) from error
    if not entry:
        raise DownloadError(f"MINILEARNER_MIRROR: {index_url} does not list {name!r}.{closest(name, index)}")

    def check_both(path: Path) -> None:
        _check_index(path, size, sha256)
        check(path)

    return [f"{server}/{name}"], check_both


def _check_index(path: Path, size: int, sha256: str) -> None:
    if path.stat().st_size != size:
        raise FileFormatError(f"{path.name} has {path.stat().st_size:,} bytes where the mirror's index says {size:,}.")
    received = _sha256(path)
    if received != sha256:
        raise FileFormatError(f"{path.name} has SHA-256 {received} where the mirror's index says {sha256}.")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _locked_part(destination: Path, force: bool) -> Iterator[Path | None]:
    """Holds the part file for this process alone; None where another process has finished the file meanwhile.

    The lock is on the part itself, so nothing is left behind. Where the system has no `flock`, each process writes a
    part of its own: then an interrupted download starts again, and two processes still do not collide.
    """
    if sys.platform == "win32":
        part = destination.with_name(f"{destination.name}.{os.getpid()}.part")
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)
        return
    part = destination.with_name(f"{destination.name}.part")
    with locked(part) as fileno:
        try:
            if force:
                part.write_bytes(b"")
            yield part if force or not destination.exists() else None
        finally:
            if is_at(fileno, part) and not part.stat().st_size:
                part.unlink()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Holds the file at `path`, made if need be, for this process and thread alone, and yields its descriptor.

    Others wait. The body may move or delete the file: who waited then makes a new one. The system lets go of it when
    the process ends, however it ends. Where the system has no `flock`, no file is made and nobody waits: -1 is yielded.
    """
    if sys.platform == "win32":
        yield -1
        return
    while True:
        with open(path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if is_at(file.fileno(), path):  # else it was moved or deleted while we waited
                yield file.fileno()
                return


def is_at(fileno: int, path: Path) -> bool:
    """Tells whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fileno), path.stat())
    except FileNotFoundError:
        return False


_BLOCK = 1 << 18  # bytes


class Timeouts(NamedTuple):
    """How long to wait, in seconds: for a connection, and for the next byte."""

    connect: float
    read: float


def transfer(url: str, part: Path, timeouts: Timeouts, *, retries: int = 2, progress: bool = True) -> bool:
    """Completes `part` from `url`, going on where it ends; tells whether bytes from before this call are in it.

    A server that ignores `Range` or answers with another range sends the file from its first byte on. A transfer that
    breaks off is taken up again, at most `retries` times, as long as each brings at least one byte.

    Raises:
        DownloadError: the server could not be reached, refused, or broke off too often. What came stays in `part`.
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
    """Returns what a small file, such as an index, holds.

    Raises:
        DownloadError: the server could not be reached, refused, or broke off.
    """
    try:
        with _open(url, 0, timeouts) as response:
            content: bytes = response.read()
            return content
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(f"{_reason(error)}.") from error


class _Broken(Exception):  # noqa: N818 - a state of the transfer, seen by `transfer` alone
    def __init__(self, reason: str, started_afresh: bool) -> None:
        super().__init__(reason)
        self.started_afresh = started_afresh


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _append(url: str, part: Path, start: int, timeouts: Timeouts, progress: bool) -> bool:
    """One request. Returns whether the server started at the first byte, though asked for `start`."""
    afresh = False
    try:
        response = _open(url, start, timeouts)
        if start and not _continues(response, start):
            afresh = True
            if response.status == 206:  # some other range: of no use
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
        bar_class()(
            desc=part.name.removesuffix(".part"),
            initial=start,
            total=total,
            unit="B",
            unit_scale=True,
            disable=None if progress else True,  # None: only on a terminal
        ) as bar,
    ):
        while block := response.read1(_BLOCK):
            file.write(block)
            bar.update(len(block))
        held = file.tell()
    if total is not None and held != total:
        raise ConnectionError(f"it broke off after {held:,} of {total:,} bytes")


def _open(url: str, start: int, timeouts: Timeouts) -> Any:
    # Without "identity" a server may send the gzip file unpacked, or packed twice.
    request = urllib.request.Request(url, headers={"User-Agent": "minilearner", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    opener = urllib.request.build_opener(_HTTPHandler(timeouts.read), _HTTPSHandler(timeouts.read))
    try:
        return opener.open(request, timeout=timeouts.connect)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # our part is as long as the file, or longer
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


def _reading(connection: Any, seconds: float) -> Any:
    """Returns a subclass of `connection` that waits `seconds` for each read, whatever it waited for the connection."""

    class Connection(connection):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(seconds)

    return Connection


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, read_seconds: float) -> None:
        super().__init__()
        self.connection = _reading(http.client.HTTPConnection, read_seconds)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self.connection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, read_seconds: float) -> None:
        super().__init__()
        self.connection = _reading(http.client.HTTPSConnection, read_seconds)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self.connection, req)
