"""One file over HTTP with the standard library: time-outs for connecting and reading apart, resumed by `Range`."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from minilearner.errors import DownloadError
from minilearner.notebook import bar_class

__all__ = ["Timeouts", "fetch_bytes", "transfer"]

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
