"""`untar_data`: from the URL of an archive to the folder that it holds, downloaded and unpacked once.

Bytes over the wire are `download`'s, what may be written is `unpack`'s, what is published of an archive is in `urls`;
here is decided what must be done, by one process at a time, and how a finished folder appears in one step.
"""

from __future__ import annotations

import os
import shutil
import sys
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path, PurePosixPath

from minilearner.errors import DataError, FileFormatError
from minilearner.sources.download import Check, data_home, download, locked, mirror
from minilearner.sources.fashion import fashion_mnist_folder
from minilearner.sources.paths import DataPath
from minilearner.sources.unpack import check_is_archive, unpack
from minilearner.sources.urls import PUBLISHED, URLs, check_published

__all__ = ["untar_data"]

_RETRIES = 5
_READ_TIMEOUT_SECONDS = 20.0


def untar_data(
    url: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    archive: str | os.PathLike[str] | None = None,
    force_download: bool = False,
) -> DataPath:
    """Downloads an archive and unpacks it, where that is not done yet, and returns the folder: `<data>/<stem>`.

    The stem is the archive's file name without `.tgz`, `.tar.gz`, `.zip` and the like; so archives of one name share a
    folder. If the folder is there, it is returned, and the network is not touched. If the archive is there, it is
    checked and unpacked. The folder appears whole, in one step: an interrupted download goes on, and an interrupted
    unpacking starts again, at the next call. Processes that want the same folder take turns.

    If the archive has one folder at its top, that one becomes `<data>/<stem>`, whatever its name; else `<data>/<stem>`
    holds all that is at the top. (So it is in fastai too, but for an archive of a single file, which here lies in the
    folder.) What is refused, and how large an archive may be, `minilearner.sources.unpack` says.

    An archive of `URLs` must have the published size and MD5 of its first MiB. If `MINILEARNER_MIRROR` is set, it comes
    from `<mirror>/<file name>` instead, with the size and SHA-256 of the mirror's index. Any other URL is asked
    directly, and nothing is known of its archive beforehand: the size that the server promises is checked, and
    the archive's own checksums while it is unpacked. `URLs.FASHION_MNIST` gives the folder of its four IDX files, from
    the data home, the system or a download, and needs no unpacking.

    Example: ``path = untar_data(URLs.PETS); path.ls()``

    Args:
        url: where the archive is: an entry of `URLs`, any other http or https URL, or a file on this machine.
        data: the folder in which the unpacked one will be; by default `data` in the data home (`MINILEARNER_HOME`).
        archive: the folder for downloaded archives; by default `archive` in the data home.
        force_download: download and unpack again; what is there stays until the new folder is complete.

    Raises:
        DownloadError: the archive could not be downloaded, or `MINILEARNER_OFFLINE=1` forbids it.
        DataError: a file is in the place of the folder, or `url` is a path without one.
        FileFormatError: the archive is damaged, not the published one, or unsafe to unpack; names the member.
        OSError: the system cannot write, as when the disk is full.
        ValueError: `url` names no archive.
    """
    url = os.fspath(url)
    if url == URLs.FASHION_MNIST:
        return _fashion_mnist(data, archive, force_download)
    name = _file_name(url)
    folder = DataPath(data or data_home() / "data").expanduser() / Path(name).stem.removesuffix(".tar")
    lock = folder.with_name(f".{folder.name}.lock")
    if folder.is_dir() and not force_download and not lock.exists():  # a lock without a process: it was killed
        return folder
    if folder.is_file():
        raise DataError(f"{folder} is a file, where the unpacked folder would be. Give another `data=`.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock):
        try:
            _remove_rests(folder)
            if force_download or not folder.is_dir():
                archives = Path(archive or data_home() / "archive").expanduser()
                _bring(url, archives / name, folder, force_download)
        finally:
            lock.unlink(missing_ok=True)
    return folder


def _bring(url: str, archive: Path, folder: Path, force: bool) -> None:
    """Puts at `folder` what the file that `url` names on this machine holds, or else the download at `archive`."""
    local = _local(url)
    if local is not None:
        if not local.is_file():
            raise DataError(f"`url` names no file. Received: url={url!r}.")
        _install(local, folder)
        return
    try:
        download(
            [url],
            archive,
            check=_check(url),
            mirrored=url in PUBLISHED,
            force=force,
            retries=_RETRIES,
            read_timeout_seconds=_READ_TIMEOUT_SECONDS,
        )
        _install(archive, folder)
    except FileFormatError as error:
        raise FileFormatError(f"{error} To have {archive} downloaded again, give `force_download=True`.") from error


def _check(url: str) -> Check:
    """Returns what an archive is checked by, apart from a mirror's index."""
    published = PUBLISHED.get(url)
    if published is None or mirror() is not None:
        return check_is_archive
    return partial(check_published, published=published)


def _install(archive: Path, folder: Path) -> None:
    """Unpacks beside `folder`, on the same file system, and puts the result in its place by renaming."""
    work = _work_folder(folder)
    (work / "new").mkdir(parents=True)
    try:
        content = unpack(archive, work / "new")
        if folder.exists():
            folder.rename(work / "old")
        content.rename(folder)
    finally:
        _remove_rests(folder)


def _work_folder(folder: Path) -> Path:
    owner = f".{os.getpid()}" if sys.platform == "win32" else ""  # where nothing is locked, each has its own
    return folder.with_name(f".{folder.name}{owner}.unpacking")


def _remove_rests(folder: Path) -> None:
    work = _work_folder(folder)
    if work.exists():
        shutil.rmtree(work)


def _fashion_mnist(
    data: str | os.PathLike[str] | None, archive: str | os.PathLike[str] | None, force_download: bool
) -> DataPath:
    if archive is not None:
        raise ValueError(f"`archive` must be None: Fashion-MNIST is no archive. Received: archive={archive!r}.")
    home = None if data is None else Path(data).expanduser() / "fashion-mnist"
    return DataPath(fashion_mnist_folder(home, force_download=force_download))


def _file_name(url: str) -> str:
    """Returns the last part of a URL's path, which must be fit for a file name."""
    local = _local(url)
    path = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)) if local is None else local
    if path.name in ("", "..") or "\0" in path.name or "\\" in path.name:
        raise ValueError(f"`url` must end in an archive's name, such as pets.tgz. Received: url={url!r}.")
    return path.name


def _local(url: str) -> Path | None:
    """Returns the path where `url` is one, or a file: URL; None where it is to be downloaded."""
    scheme = urllib.parse.urlsplit(url).scheme if "://" in url else ""
    if scheme not in ("", "file", "http", "https"):
        raise ValueError(f"`url` must begin with http, https or file, or be a path. Received: url={url!r}.")
    if scheme == "file":
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    return None if scheme else Path(url).expanduser()
