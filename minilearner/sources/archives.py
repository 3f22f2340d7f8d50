"""`untar_data`: downloads and unpacks an archive once, and returns its folder.

This module decides what has to be done, lets one process at a time do it, and makes the finished folder appear in one
step. `download` moves the bytes, `unpack` decides what may be written, and `urls` holds the published checksums.
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
from minilearner.keywords import suggest_keywords
from minilearner.sources.download import Check, data_home, download, is_offline, lock_file, make_folder, mirror
from minilearner.sources.fashion import fashion_mnist_folder
from minilearner.sources.origin import Origin, clean_url, note_path, read_origin, write_origin
from minilearner.sources.paths import DataPath
from minilearner.sources.unpack import check_is_archive, unpack
from minilearner.sources.urls import PUBLISHED, URLs, check_archive

__all__ = ["untar_data"]

_RETRIES = 5
_READ_TIMEOUT_SECONDS = 20.0


@suggest_keywords
def untar_data(
    url: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    archive: str | os.PathLike[str] | None = None,
    force_download: bool = False,
) -> DataPath:
    """Downloads an archive and unpacks it, unless that was done before. Returns the folder `<data>/<stem>`.

    The stem is the archive's file name without `.tgz`, `.tar.gz`, `.zip` and the like. If the folder exists, it is
    returned and the network is not used. A hidden file beside it (`.<stem>.source`) has the source, size and digest of
    its archive, so another archive of the same name is refused, not taken for this one. If only the archive exists, it
    is checked and unpacked, unless it was downloaded from another URL. The folder appears complete, in one step. After
    an interruption, the next call resumes the download and starts the unpacking again. Processes that want the same
    folder take turns.

    If the archive has a single folder at its top, that folder becomes `<data>/<stem>`, whatever its name. Otherwise
    `<data>/<stem>` holds everything at the top. fastai does the same, except that it puts the only file of an archive
    beside the folder, not into it. `minilearner.sources.unpack` says which archives are refused and how large one may
    be.

    An archive in `URLs` must have its published size and the published MD5 of its first MiB. If `MINILEARNER_MIRROR` is
    set, the archive comes from `<mirror>/<file name>` instead and must match the mirror's index. Any other URL is
    downloaded directly. Nothing is known about such an archive beforehand, so only the size that the server announces
    and the archive's own checksums are verified. `URLs.FASHION_MNIST` returns the folder with its four IDX files, from
    the data home, the system or a download. Nothing has to be unpacked for it.

    Example: ``path = untar_data(URLs.PETS); path.ls()``

    Args:
        url: where the archive is: an entry of `URLs`, any other http or https URL, or a file on this machine.
        data: the folder for unpacked archives. By default `data` in the data home (`MINILEARNER_HOME`).
        archive: the folder for downloaded archives. By default `archive` in the data home.
        force_download: download and unpack again. The old folder stays until the new one is complete.

    Raises:
        DownloadError: the archive could not be downloaded, or `MINILEARNER_OFFLINE=1` forbids it.
        DataError: a file is where the folder would be, the folder holds another archive of the same name, or `url` is a
            path and there is no such file.
        FileFormatError: the archive is damaged, differs from the published one, or is unsafe to unpack. Names the
            member.
        OSError: the system cannot write, for example because the disk is full.
        ValueError: `url` does not end in an archive's name.
    """
    url = os.fspath(url)
    if url == URLs.FASHION_MNIST:
        return _fashion_mnist(data, archive, force_download)
    name = _file_name(url)
    folder = DataPath(data or data_home() / "data").expanduser() / Path(name).stem.removesuffix(".tar")
    lock = folder.with_name(f".{folder.name}.lock")
    if folder.is_dir() and not force_download and not lock.exists():  # a leftover lock: its process was killed
        _check_origin(folder, url)
        return folder
    if folder.is_file():
        raise DataError(f"{folder} is a file, but the unpacked folder must go there. Choose another `data=`.")
    make_folder(folder.parent)
    with lock_file(lock):
        try:
            _remove_leftovers(folder)
            if force_download or not folder.is_dir():
                archives = Path(archive or data_home() / "archive").expanduser()
                _fetch_and_install(url, archives / name, folder, force_download)
            else:
                _check_origin(folder, url)
        finally:
            lock.unlink(missing_ok=True)
    return folder


def _check_origin(folder: Path, url: str) -> None:
    """Raises a DataError if `folder` was unpacked from another archive. A folder without a note is taken as it is."""
    origin, local = read_origin(folder), _local_path(url)
    if origin is None:
        return
    if local is None:
        is_same = origin.is_of_url(url)
    elif local.is_file():
        is_same = origin.is_of_file(local)
    else:
        is_same = origin.source == str(local.resolve())  # it may be deleted once it is unpacked
    if not is_same:
        raise DataError(
            f"{folder} holds another archive of the same name, {origin.source} ({origin.size:,} bytes). "
            f"Received: url={url!r}. Unpack it elsewhere by `data=`, or replace the folder by `force_download=True`."
        )


def _fetch_and_install(url: str, archive: Path, folder: Path, force: bool) -> None:
    """Unpacks a local file, or else downloads `archive` first, and installs its content at `folder`."""
    local = _local_path(url)
    if local is not None:
        if not local.is_file():
            raise DataError(f"`url` is a path, but there is no such file. Received: url={url!r}.")
        _install(local, folder, str(local.resolve()))
        return
    known = read_origin(archive)
    force = force or (known is not None and not known.is_of_url(url))
    if not is_offline() and (force or not archive.exists()):
        make_folder(archive.parent)
        write_origin(archive, Origin(clean_url(url)))  # now, so that not even a part is taken for another's
    try:
        download(
            [url],
            archive,
            check=_choose_check(url),
            mirrored=url in PUBLISHED,
            force=force,
            retries=_RETRIES,
            read_timeout_seconds=_READ_TIMEOUT_SECONDS,
        )
        _install(archive, folder, clean_url(url))
    except FileFormatError as error:
        raise FileFormatError(f"{error} To download {archive} again, pass `force_download=True`.") from error


def _choose_check(url: str) -> Check:
    """Returns the check for the archive at `url`. A mirror's index is checked in addition."""
    published = PUBLISHED.get(url)
    if published is None or mirror() is not None:
        return check_is_archive
    return partial(check_archive, published=published)


def _install(archive: Path, folder: Path, source: str) -> None:
    """Unpacks next to `folder`, on the same file system, and renames the result to `folder`."""
    work = _work_folder(folder)
    (work / "new").mkdir(parents=True)
    try:
        content = unpack(archive, work / "new")
        origin = Origin.of_archive(source, archive)
        note_path(folder).unlink(missing_ok=True)  # it is about the old folder
        if folder.exists():
            folder.rename(work / "old")
        content.rename(folder)
        write_origin(folder, origin)
    finally:
        _remove_leftovers(folder)


def _work_folder(folder: Path) -> Path:
    owner = f".{os.getpid()}" if sys.platform == "win32" else ""  # Windows has no lock: one folder per process
    return folder.with_name(f".{folder.name}{owner}.unpacking")


def _remove_leftovers(folder: Path) -> None:
    work = _work_folder(folder)
    if work.exists():
        shutil.rmtree(work)


def _fashion_mnist(
    data: str | os.PathLike[str] | None,
    archive: str | os.PathLike[str] | None,
    force_download: bool,
) -> DataPath:
    if archive is not None:
        raise ValueError(f"`archive` must be None: Fashion-MNIST is not an archive. Received: archive={archive!r}.")
    home = None if data is None else Path(data).expanduser() / "fashion-mnist"
    return DataPath(fashion_mnist_folder(home, force_download=force_download))


def _file_name(url: str) -> str:
    """Returns the last part of a URL's path, after checking that it can be a file name."""
    local = _local_path(url)
    path = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)) if local is None else local
    if path.name in ("", "..") or "\0" in path.name or "\\" in path.name:
        raise ValueError(f"`url` must end in an archive's name, such as pets.tgz. Received: url={url!r}.")
    return path.name


def _local_path(url: str) -> Path | None:
    """Returns the path if `url` is a path or a file: URL, and None if it must be downloaded."""
    scheme = urllib.parse.urlsplit(url).scheme if "://" in url else ""
    if scheme not in ("", "file", "http", "https"):
        raise ValueError(f"`url` must begin with http, https or file, or be a path. Received: url={url!r}.")
    if scheme == "file":
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    return None if scheme else Path(url).expanduser()
