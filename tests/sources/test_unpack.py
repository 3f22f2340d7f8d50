"""All kinds of tar and zip archives give the same files, and hostile or damaged ones are refused."""

import io
import os
import stat
import struct
import tarfile
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minilearner.errors import FileFormatError
from minilearner.sources.unpack import unpack

CONTENT = bytes(range(256)) * 8


def file(name, content=CONTENT, **fields):
    return entry(name, tarfile.REGTYPE, size=len(content), **fields), content


def entry(name, kind, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    vars_of = {"mode": 0o644, **fields}
    for field, value in vars_of.items():
        setattr(info, field, value)
    return info


def link(name, target, kind=tarfile.SYMTYPE):
    return entry(name, kind, linkname=target), b""


def write_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, mode, content in members:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, mode << 16
            archive.writestr(info, content)
    return path


@pytest.fixture
def folder(tmp_path):
    """Returns the empty folder to unpack into, inside a folder whose content is watched."""
    inner = tmp_path / "work" / "new"
    inner.mkdir(parents=True)
    return inner


def tree(folder):
    """Returns everything below a folder: content of files, target of links, None for folders."""
    return {
        path.relative_to(folder).as_posix(): (
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        )
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_gives_the_packed_files(tmp_path, folder, mode, form):
    (tmp_path / "src" / "images" / "empty").mkdir(parents=True)
    (tmp_path / "src" / "images" / "ä.jpg").write_bytes(CONTENT * 300)
    (tmp_path / "src" / ("n" * 90)).write_bytes(b"")
    (tmp_path / "src" / "link").symlink_to("images/ä.jpg")
    with tarfile.open(tmp_path / "no-suffix", mode, format=form) as tar:
        tar.add(tmp_path / "src", "./pets")
    assert unpack(tmp_path / "no-suffix", folder) == folder / "pets"
    assert tree(folder / "pets") == tree(tmp_path / "src")


def test_a_zip_gives_the_packed_files(tmp_path, folder):
    members = [
        ("pets/", stat.S_IFDIR | 0o755, b""),
        ("pets/images/a.jpg", stat.S_IFREG | 0o644, CONTENT),
        ("pets/b.jpg", 0, b"from Windows"),
        ("pets/link", stat.S_IFLNK | 0o777, b"images/a.jpg"),
    ]
    assert unpack(write_zip(tmp_path / "a.zip", members), folder) == folder / "pets"
    assert tree(folder / "pets") == {
        "images": None,
        "images/a.jpg": CONTENT,
        "b.jpg": b"from Windows",
        "link": "images/a.jpg",
    }


@pytest.mark.parametrize("members", [[file("a.txt")], [file("x/a.txt"), file("b.txt")], [file("x/a"), link("y", "x")]])
def test_without_a_single_folder_at_the_top_the_content_is_the_whole_folder(tmp_path, folder, members):
    assert unpack(write_tar(tmp_path / "a.tgz", members), folder) == folder


def test_a_hard_link_is_a_copy_and_a_later_member_replaces_an_earlier(tmp_path, folder):
    members = [file("a", b"first"), link("b", "a", tarfile.LNKTYPE), file("./a", b"second")]
    unpack(write_tar(tmp_path / "a.tgz", members), folder)
    assert tree(folder) == {"a": b"second", "b": b"first"}
    assert (folder / "a").stat().st_nlink == 1


def test_links_that_stay_inside_are_made_even_if_their_targets_come_later(tmp_path, folder):
    members = [link("top/x/up", "../y/f"), link("top/dir", "x"), link("top/dangling", "none"), file("top/y/f")]
    top = unpack(write_tar(tmp_path / "a.tgz", members), folder)
    assert (top / "x" / "up").read_bytes() == (top / "dir" / "up").read_bytes() == CONTENT
    assert os.readlink(top / "dangling") == "none"


def test_files_get_the_default_permissions_of_the_process(tmp_path, folder):
    members = [file("a", mode=0o6777), (entry("d", tarfile.DIRTYPE, mode=0o000), b""), file("d/b", mode=0o000)]
    unpack(write_tar(tmp_path / "a.tgz", members), folder)
    (tmp_path / "plain").touch()
    usual = (tmp_path / "plain").stat().st_mode
    assert (folder / "a").stat().st_mode == (folder / "d" / "b").stat().st_mode == usual
    assert not (folder / "d").stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)


LEAVES = "has a path that may leave the folder"
LEADS_OUT = "which may leave the folder"
UNDER_LINK = "is or lies below an earlier symbolic link"
HOSTILE = {
    "absolute": ([file("/etc/evil")], f"'/etc/evil' {LEAVES}"),
    "up": ([file("../evil")], f"'../evil' {LEAVES}"),
    "up in the middle": ([file("a/../../evil")], f"'a/../../evil' {LEAVES}"),
    "a folder up": ([(entry("..", tarfile.DIRTYPE), b"")], f"'..' {LEAVES}"),
    "a zero byte": ([(entry("x", tarfile.REGTYPE, pax_headers={"path": "a\0b"}), b"")], f"'a.x00b' {LEAVES}"),
    "no name": ([file(".")], "'.' has no name"),
    "absolute link": ([link("l", "/etc/passwd")], f"'l' is a symbolic link to '/etc/passwd', {LEADS_OUT}"),
    "link up": ([link("l", "../x")], f"'l' is a symbolic link to '../x', {LEADS_OUT}"),
    "link above the one top": ([file("top/a"), link("top/l", "../top/a")], f"'top/l' .* {LEADS_OUT}"),
    "link up through a link": (
        [file("d/e/f"), link("d/e/root", "../.."), link("l", "d/e/root/../x")],
        f"'l' is a symbolic link to 'd/e/root/../x', {LEADS_OUT}",
    ),
    "under a link": ([link("l", "d"), file("l/evil")], f"'l/evil' {UNDER_LINK}"),
    "a folder under a link": ([link("l", "."), (entry("l/d", tarfile.DIRTYPE), b"")], f"'l/d' {UNDER_LINK}"),
    "a link under a link": ([link("l", "."), link("l/m", "..")], f"'l/m' {UNDER_LINK}"),
    "over a link": ([link("l", "a"), file("l")], f"'l' {UNDER_LINK}"),
    "a link over a file": ([file("a"), link("a", "b")], "'a' has the path of another member"),
    "a link over a folder": ([file("a/b"), link("a", "c")], "'a' has the path of another member"),
    "a file over a folder": ([file("a/b"), file("a")], "'a' has the path of another member"),
    "a folder over a file": ([file("a"), file("a/b")], "'a/b' has the path of another member"),
    "hard link out": ([link("h", "/etc/passwd", tarfile.LNKTYPE)], "'h' is a hard link to '/etc/passwd', which is no"),
    "hard link up": (
        [link("h", "../secret", tarfile.LNKTYPE)],
        "'h' is a hard link to '../secret', which is not an earlier file",
    ),
    "hard link to a link": (
        [link("l", "d"), link("h", "l", tarfile.LNKTYPE)],
        "'h' is a hard link to 'l', which is not an earlier file",
    ),
    "hard link to itself": ([file("a"), link("a", "a", tarfile.LNKTYPE)], "'a' is a hard link to 'a', which is no"),
    "character device": ([(entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3), b"")], "'null' is a device"),
    "block device": ([(entry("sda", tarfile.BLKTYPE, devmajor=8), b"")], "'sda' is a device"),
    "pipe": ([(entry("fifo", tarfile.FIFOTYPE), b"")], "'fifo' is a device, a pipe"),
    "unknown kind": ([(entry("what", b"Q"), b"")], "'what' is a device, a pipe or of unknown kind"),
    "too deep": ([file("d/" * 2000 + "f")], "is more than 100 folders deep"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_tar_is_refused_and_the_error_names_the_member(tmp_path, folder, case):
    members, message = HOSTILE[case]
    (folder.parent / "secret").write_text("s")
    (tmp_path / "x").touch()
    archive = write_tar(tmp_path / "evil.tgz", members)
    with pytest.raises(FileFormatError, match=f"evil.tgz is refused: its member .*{message}"):
        unpack(archive, folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["new", "secret"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tgz", "work", "x"]
    assert not any(path.is_symlink() for path in folder.rglob("*") if path.name == "l")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("/etc/evil", 0, b""), f"'/etc/evil' {LEAVES}"),
        (("a/../../evil", 0, b""), f"'a/../../evil' {LEAVES}"),
        (("../d/", 0, b""), f"'../d/' {LEAVES}"),
        (("l", stat.S_IFLNK, b"../../secret"), f"'l' is a symbolic link to '../../secret', {LEADS_OUT}"),
        (("l", stat.S_IFLNK, b""), f"'l' is a symbolic link to '', {LEADS_OUT}"),
        (("l", stat.S_IFLNK, b"x\0y"), f"'l' is a symbolic link to .*, {LEADS_OUT}"),
        (("l", stat.S_IFLNK, bytes(2_000_000)), "'l' is a link of 2,000,000 bytes"),
        (("fifo", stat.S_IFIFO, b""), "'fifo' is a device, a pipe or of unknown kind"),
    ],
)
def test_a_hostile_zip_is_refused_and_the_error_names_the_member(tmp_path, folder, member, message):
    with pytest.raises(FileFormatError, match=f"evil.zip is refused: its member {message}"):
        unpack(write_zip(tmp_path / "evil.zip", [member]), folder)
    assert tree(folder) == {}


def test_an_encrypted_zip_is_refused(tmp_path, folder):
    data = bytearray(write_zip(tmp_path / "a.zip", [("a", 0, CONTENT)]).read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(header) + flags] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(FileFormatError, match="its member 'a' is encrypted"):
        unpack(tmp_path / "a.zip", folder)


def test_a_bomb_is_refused_at_its_header_before_it_fills_the_disk(tmp_path, folder):
    header = entry("zeros", tarfile.REGTYPE, size=(1 << 30) + 1).tobuf()
    (tmp_path / "bomb").write_bytes(header)
    with pytest.raises(FileFormatError, match="it would unpack to more than 1,073,741,824 bytes, like a bomb"):
        unpack(tmp_path / "bomb", folder)
    data = bytearray(write_zip(tmp_path / "bomb", [("zeros", 0, CONTENT)]).read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, (1 << 30) + 1)  # the size in the directory
    (tmp_path / "bomb").write_bytes(data)
    with pytest.raises(FileFormatError, match="it would unpack to more than 1,073,741,824 bytes, like a bomb"):
        unpack(tmp_path / "bomb", folder)
    assert tree(folder) == {}


def test_a_zip_member_that_holds_more_than_its_header_says_is_an_error(tmp_path, folder):
    data = bytearray(write_zip(tmp_path / "bomb", [("zeros", 0, bytes(1 << 20))]).read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 100)
    (tmp_path / "bomb").write_bytes(data)
    with pytest.raises(FileFormatError, match="bomb is truncated or damaged: Bad CRC-32"):
        unpack(tmp_path / "bomb", folder)
    assert (folder / "zeros").stat().st_size <= 100


@pytest.mark.parametrize(
    ("members", "limits", "message"),
    [
        ([file("a"), file("b")], {"max_bytes": 4095}, "it would unpack to more than 4,095 bytes"),
        ([file("a"), link("b", "a", tarfile.LNKTYPE)], {"max_bytes": 4095}, "it would unpack to more than 4,095 bytes"),
        ([file("a"), file("b"), file("c")], {"max_members": 2}, "it has more than 2 members"),
    ],
)
def test_sizes_and_members_are_counted(tmp_path, folder, members, limits, message):
    archive = write_tar(tmp_path / "a.tgz", members)
    with pytest.raises(FileFormatError, match=f"a.tgz is refused: {message}"):
        unpack(archive, folder, **limits)


def test_bytes_after_the_end_of_a_tar_are_limited(tmp_path, folder):
    archive = write_tar(tmp_path / "a.tar", [file("a")], "w:")
    archive.write_bytes(archive.read_bytes() + bytes(1_000_000))
    with pytest.raises(FileFormatError, match="too many bytes follow the end of its tar"):
        unpack(archive, folder, max_bytes=500_000)


def test_extensions_of_headers_are_limited(tmp_path, folder):
    long = entry("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=1 << 33).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(long + bytes(1024))
    with pytest.raises(FileFormatError, match="a header of '././@LongLink' claims 8,589,934,592 bytes"):
        unpack(tmp_path / "a.tar", folder)
    short = entry("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=2).tobuf(tarfile.GNU_FORMAT) + b"ab".ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(short * 5000)
    with pytest.raises(FileFormatError, match="a.tar is truncated or damaged: maximum recursion depth"):
        unpack(tmp_path / "a.tar", folder)


def test_a_negative_size_is_an_error(tmp_path, folder):
    members = [file("a"), (entry("b", tarfile.REGTYPE, pax_headers={"size": "-1024"}), b""), file("c")]
    with pytest.raises(FileFormatError, match="claims -1024 bytes|neither a header nor the end mark"):
        unpack(write_tar(tmp_path / "a.tar", members), folder)


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz", "zip"])
def test_a_truncated_archive_is_an_error_wherever_it_ends(tmp_path, folder, mode):
    if mode == "zip":
        archive = write_zip(tmp_path / "a", [("a", 0, CONTENT), ("b", 0, CONTENT)])
    else:
        archive = write_tar(tmp_path / "a", [file("a"), file("b")], mode)
    whole = archive.read_bytes()
    last = 2 * (512 + 2048) if mode == "w:" else len(whole) - 1  # a plain tar ends in more zeros than needed
    for n_bytes in {*range(0, last, max(1, last // 40)), last - 7, last}:
        archive.write_bytes(whole[:n_bytes])
        place = folder / str(n_bytes)
        place.mkdir()
        with pytest.raises(FileFormatError, match=r"a (is truncated or damaged|is neither a tar .* nor a zip)"):
            unpack(archive, place)


def test_a_damaged_checksum_at_the_very_end_is_found(tmp_path, folder):
    archive = write_tar(tmp_path / "a.tgz", [file("a")])
    data = bytearray(archive.read_bytes())
    data[-8] ^= 1  # gzip's CRC, which comes after the bytes that tar reads
    archive.write_bytes(data)
    with pytest.raises(FileFormatError, match="a.tgz is truncated or damaged: CRC check failed"):
        unpack(archive, folder)


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path, folder):
    archive = write_tar(tmp_path / "a.tar", [file("a"), file("b")], "w:")
    data = bytearray(archive.read_bytes())
    data[512 + 2048] ^= 1  # the first letter of the second name
    archive.write_bytes(data)
    with pytest.raises(FileFormatError, match="truncated or damaged: neither a header nor the end mark: bad checksum"):
        unpack(archive, folder)


@pytest.mark.parametrize("write", [lambda path: write_tar(path, []), lambda path: write_zip(path, [])])
def test_an_empty_archive_is_an_error(tmp_path, folder, write):
    with pytest.raises(FileFormatError, match="a is (empty|truncated or damaged)"):  # Python 3.10 says the latter
        unpack(write(tmp_path / "a"), folder)


def test_the_error_for_a_file_that_is_not_an_archive_shows_its_first_bytes(tmp_path, folder):
    (tmp_path / "a.tgz").write_bytes(b"<html>Sign in</html>")
    with pytest.raises(FileFormatError, match=r"a.tgz is neither a tar .* it begins with b'<html>Sign in</h'"):
        unpack(tmp_path / "a.tgz", folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_damage_gives_the_packed_files_or_a_file_format_error(tmp_path_factory, data):
    base = tmp_path_factory.mktemp("fuzz")
    mode = data.draw(st.sampled_from(["w:", "w:gz", "w:bz2", "w:xz", "zip"]))
    if mode == "zip":
        archive = write_zip(base / "a", [("t/a", 0, CONTENT), ("t/l", stat.S_IFLNK, b"a")])
    else:
        archive = write_tar(base / "a", [file("t/a"), link("t/l", "a"), file("t/" + "n" * 120)], mode)
    content = bytearray(archive.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    archive.write_bytes(content)
    (base / "new").mkdir()
    try:
        unpack(archive, base / "new", max_bytes=1 << 20)
    except FileFormatError as error:
        assert "a " in str(error)
    assert sorted(path.name for path in base.iterdir()) == ["a", "new"]


@pytest.mark.parametrize("kind", ["file", "link", "deep"])
def test_a_name_that_the_system_cannot_write_is_refused(tmp_path, folder, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo(
            {"file": "top/" + "n" * 300, "link": "top/link", "deep": "/".join(["d" * 200] * 30)}[kind]
        )
        if kind == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "n" * 5000
        tar.addfile(info)
    with pytest.raises(FileFormatError, match=r"a.tar is refused: its member '.* cannot write") as raised:
        unpack(tmp_path / "a.tar", folder)
    assert len(str(raised.value)) < 600
