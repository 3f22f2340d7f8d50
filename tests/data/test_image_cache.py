import os
import shutil
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from minilearner.data import image_cache
from minilearner.data.image_cache import ImageCache, fingerprint, make_room, room_for_cache
from minilearner.errors import DataError
from minilearner.files import machine


def images(n=5):
    rng = np.random.default_rng(0)
    shapes = [(4, 6, 3), (7, 2), (1, 1, 4), (30, 20, 3), (5, 5)]
    return [(i, rng.integers(0, 256, shapes[i % 5], np.uint8)) for i in range(n)]


def test_images_of_any_shape_come_back_as_they_were():
    cache = ImageCache(5)
    stored = images()
    cache.put(stored[3:])
    assert cache.get(0) is None and np.array_equal(cache.get(3), stored[3][1])
    cache.put(stored)
    assert cache.is_complete and cache.n_bytes == 32 + 5 * 40 + 8 + sum(pixels.nbytes for _, pixels in stored)
    for i, pixels in stored:
        assert cache.get(i).shape == pixels.shape and np.array_equal(cache.get(i), pixels)


def test_what_it_gives_cannot_be_written_to():
    cache = ImageCache(1)
    cache.put([(0, np.zeros((2, 2), np.uint8))])
    with pytest.raises(ValueError, match="read-only"):
        cache.get(0)[0, 0] = 1


def test_a_temporary_cache_has_no_name_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cache = ImageCache(5)
    cache.put(images())
    assert list(tmp_path.iterdir()) == []
    assert cache.get(4) is not None


def test_a_kept_cache_has_its_name_only_when_it_is_whole_and_is_read_again(tmp_path):
    path = tmp_path / "folder" / "a.pictures"
    cache = ImageCache(5, path)
    cache.put(images()[:4])
    assert not path.exists() and len(list(path.parent.iterdir())) == 1
    cache.put(images())
    assert [p.name for p in path.parent.iterdir()] == ["a.pictures"]
    again = ImageCache(5, path)
    assert again.is_complete and all(np.array_equal(again.get(i), pixels) for i, pixels in images())


def test_a_kept_cache_that_is_not_finished_is_continued(tmp_path):
    cache = ImageCache(5, tmp_path / "a.pictures")
    cache.put(images()[:4])
    del cache
    again = ImageCache(5, tmp_path / "a.pictures")
    assert again.n_stored == 4 and np.array_equal(again.get(3), images()[3][1])
    again.put(images()[4:])
    assert [p.name for p in tmp_path.iterdir()] == ["a.pictures"]


def test_two_that_write_the_same_cache_share_one_file(tmp_path):
    path = tmp_path / "a.pictures"
    one, other = ImageCache(5, path), ImageCache(5, path)
    for image in images():
        one.put([image])
        assert np.array_equal(other.get(image[0]), image[1])
        size = other.n_bytes
        other.put([image])
        assert other.n_bytes == size and one.n_stored == other.n_stored
    assert [p.name for p in tmp_path.iterdir()] == ["a.pictures"]
    for cache in (one, other, ImageCache(5, path)):
        assert cache.is_complete and all(np.array_equal(cache.get(i), pixels) for i, pixels in images())


def test_one_that_another_has_just_finished_is_read(tmp_path, monkeypatch):
    path, look = tmp_path / "a.pictures", image_cache._is_kept

    def finish_after_the_look(*args):
        found = look(*args)
        monkeypatch.undo()
        ImageCache(5, path).put(images())
        return found

    monkeypatch.setattr(image_cache, "_is_kept", finish_after_the_look)
    assert ImageCache(5, path).is_complete
    assert not ImageCache(5, path)._file.writable()


def test_on_a_disk_without_locks_each_writes_its_own_file(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks")

    monkeypatch.setattr("fcntl.flock", refuse)
    path = tmp_path / "a.pictures"
    one, other = ImageCache(5, path), ImageCache(5, path)
    for image in images():
        one.put([image])
        assert path.exists() or other.get(image[0]) is None
        other.put([image])
    for cache in (one, other, ImageCache(5, path)):
        assert all(np.array_equal(cache.get(i), pixels) for i, pixels in images())
    assert [p.name for p in tmp_path.iterdir()] == ["a.pictures"]


def test_one_user_does_not_wait_for_the_unfinished_file_of_another(tmp_path, monkeypatch):
    path, make = tmp_path / "a.pictures", os.open
    other = ImageCache(5, path)
    other.put(images()[:2])

    def open_own(name, *args, **options):
        if machine() in str(name):
            raise PermissionError(13, "Permission denied", str(name))
        return make(name, *args, **options)

    monkeypatch.setattr("os.open", open_own)
    cache = ImageCache(5, path)
    assert cache.n_stored == 0
    cache.put(images())
    assert ImageCache(5, path).is_complete and other.n_stored == 2


def test_a_folder_that_cannot_be_written_is_an_error_that_does_not_blame_a_file(tmp_path, monkeypatch):
    def refuse(name, *_, **options):
        raise OSError(30, "Read-only file system", str(name))

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(OSError, match="Read-only file system"):
        ImageCache(5, tmp_path / "a.pictures")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room on a disk")
@pytest.mark.parametrize("name", [None, "a.pictures"])
def test_the_index_has_its_room_on_disk_so_that_a_full_disk_kills_no_process(tmp_path, monkeypatch, name):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cache = ImageCache(50_000, name and tmp_path / name)
    assert os.fstat(cache._file.fileno()).st_blocks * 512 >= cache.n_bytes == 32 + 50_000 * 40 + 8


def test_an_unfinished_file_of_another_number_of_images_is_replaced(tmp_path):
    path = tmp_path / "a.pictures"
    ImageCache(3, path).put(images()[:2])
    cache = ImageCache(5, path)
    assert cache.n_stored == 0
    cache.put(images())
    assert ImageCache(5, path).is_complete


@pytest.mark.parametrize("what", ["folder", "pipe", "link"])
def test_what_is_in_the_place_of_the_unfinished_file_is_refused(tmp_path, what):
    path = tmp_path / "a.pictures"
    left = tmp_path / f"a.pictures.{machine()}.partial"
    {"folder": left.mkdir, "pipe": lambda: os.mkfifo(left), "link": lambda: left.symlink_to(__file__)}[what]()
    with pytest.raises(DataError, match=r"a\.pictures\..*\.partial: the file cannot be opened|it is not a file"):
        ImageCache(2, path)


def test_leftovers_of_any_cache_are_removed_after_a_day(tmp_path):
    left = [tmp_path / f"{name}.pictures.{other}.partial" for name in "ab" for other in ("00000000", "11111111")]
    for path in left:
        path.touch()
    os.utime(left[0], (time.time() - 90_000,) * 2)
    os.utime(left[3], (time.time() - 90_000,) * 2)
    ImageCache(2, tmp_path / "a.pictures")
    assert [path.exists() for path in left] == [False, True, True, False]


_WRITER = """
import os, sys, time, numpy as np
from minilearner.data.image_cache import ImageCache
path, n, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cache = ImageCache(n, path)
print("ready", flush=True)
sys.stdin.readline()
for i in np.random.default_rng(seed).permutation(n).tolist():
    if cache.get(i) is None:
        cache.put([(i, np.full((40, 50, 3), i % 251, np.uint8))])
        print(i, flush=True)
"""


def start_writer(path, n, seed):
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), str(n), str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def let_go(writers):
    """Waits until all have opened the cache, and lets them store images."""
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()


def assert_whole(path, n):
    ImageCache(n, path)  # names the file if the process that stored the last image was killed before it could
    cache = ImageCache(n, path)
    assert [p.name for p in path.parent.iterdir()] == [path.name] and not cache._file.writable()
    assert all(np.array_equal(cache.get(i), np.full((40, 50, 3), i % 251, np.uint8)) for i in range(n))


def test_processes_that_start_together_fill_one_file(tmp_path):
    path, n = tmp_path / "a.pictures", 3000
    writers = [start_writer(path, n, seed) for seed in (1, 2)]
    let_go(writers)
    stored = [set(map(int, writer.communicate(timeout=120)[0].split())) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert stored[0] | stored[1] == set(range(n)) and min(map(len, stored)) > 0
    assert sum(map(len, stored)) < 1.1 * n  # two may be about to store the same image
    assert_whole(path, n)
    assert path.stat().st_size < 1.001 * n * 6000 + 40 * n + 100


@pytest.mark.parametrize("kill_after", [0.01, 0.1])
def test_one_that_is_killed_leaves_its_images_and_its_turn_to_the_other(tmp_path, kill_after):
    path, n = tmp_path / "a.pictures", 4000
    first, second = start_writer(path, n, 1), start_writer(path, n, 2)
    let_go((first, second))
    time.sleep(kill_after)
    first.kill()
    first.communicate(timeout=60)
    second.communicate(timeout=120)
    assert first.returncode in (-9, 0) and second.returncode == 0
    assert_whole(path, n)


def test_one_that_is_killed_while_it_stores_leaves_the_rest_to_the_next(tmp_path):
    path = tmp_path / "a.pictures"
    program = (
        "import os, sys, numpy as np\nfrom minilearner.data import image_cache\n"
        "image_cache._checksum = lambda *_: os.kill(os.getpid(), 9)\n"  # pixels are written, and the index is not
        "image_cache.ImageCache(5, sys.argv[1]).put([(0, np.zeros((9, 9), np.uint8))])"
    )
    other = ImageCache(5, path)
    other.put(images()[1:3])
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    assert other.n_stored == 2 and other.get(0) is None
    other.put(images())
    cache = ImageCache(5, path)
    assert not cache._file.writable() and all(np.array_equal(cache.get(i), pixels) for i, pixels in images())


@pytest.mark.parametrize("damage", ["cut", "index"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "a.pictures"
    ImageCache(5, path).put(images())
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-10:]
    else:
        data[32:40] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(DataError, match="not a complete cache of 5 images. Remove it"):
        ImageCache(5, path)


def changed(data, rng):
    """Returns a copy of some bytes with a bit, a range, two blocks or the length changed."""
    data = bytearray(data)
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
    match rng.integers(6):
        case 0:
            data[at] ^= 1 << int(rng.integers(8))
        case 1:
            data[at : at + length] = bytes(len(data[at : at + length]))
        case 2:
            data[at : at + length] = rng.bytes(len(data[at : at + length]))
        case 3:
            other = int(rng.integers(len(data) - 16))
            at = min(at, len(data) - 16)
            data[at : at + 8], data[other : other + 8] = data[other : other + 8], data[at : at + 8]
        case 4:
            del data[at : at + length]
        case 5:
            data[at:at] = rng.bytes(length)
    return bytes(data)


def test_a_cache_that_was_changed_never_gives_wrong_images_in_silence(tmp_path):
    path, rng = tmp_path / "a.pictures", np.random.default_rng(0)
    ImageCache(5, path).put(images())
    whole = path.read_bytes()
    for _ in range(600):
        path.write_bytes(changed(whole, rng))
        try:
            cache = ImageCache(5, path)
        except DataError as error:
            assert str(path) in str(error)
            continue
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            got = [cache.get(i) for i in range(5)]
        for mine, (_, pixels) in zip(got, images(), strict=True):
            assert mine is None or np.array_equal(mine, pixels)
        missing = [i for i in range(5) if got[i] is None]
        assert len(seen) == bool(missing)
        if missing:
            assert f"{path} is damaged: the pixels of image {missing[0]} " in str(seen[0].message)


def test_a_cache_of_an_older_version_is_written_anew(tmp_path):
    path, pixels = tmp_path / "a.pictures", np.arange(6, dtype=np.uint8).reshape(2, 3)
    index = np.array([[64, 2, 3, 0], [70, 2, 3, 0]], np.int64)
    path.write_bytes(index.tobytes() + pixels.tobytes() * 2)
    cache = ImageCache(2, path)
    assert cache.get(0) is None
    cache.put([(0, pixels), (1, pixels)])
    assert np.array_equal(ImageCache(2, path).get(1), pixels)


@pytest.mark.parametrize("what", ["folder", "pipe", "empty"])
def test_what_is_no_cache_is_refused_by_name(tmp_path, what):
    path = tmp_path / "a.pictures"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "empty": path.touch}[what]()
    with pytest.raises(DataError, match=r"a\.pictures"):
        ImageCache(2, path)


def test_a_fingerprint_changes_with_every_path_size_time_and_preparation(tmp_path):
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(b"12")
        os.utime(path, (0, 0))
    seen = [
        fingerprint(paths, "x"),
        fingerprint(paths[::-1], "x"),
        fingerprint(paths, "y"),
        fingerprint(paths[:1], "x"),
    ]
    os.utime(paths[0], (1, 1))
    seen.append(fingerprint(paths, "x"))
    paths[0].write_bytes(b"123")
    os.utime(paths[0], (1, 1))
    seen.append(fingerprint(paths, "x"))
    assert len(set(seen)) == 6 and seen[-1] == fingerprint(list(map(str, paths)), "x")


def test_a_fingerprint_needs_files():
    with pytest.raises(DataError, match="needs items that are paths. Received: 3"):
        fingerprint([3], "")
    with pytest.raises(DataError, match="missing.jpg: the file cannot be found"):
        fingerprint(["missing.jpg"], "")


def test_the_room_is_less_than_all_that_is_free():
    assert 0 < room_for_cache() < 2**50


@pytest.fixture
def kept(tmp_path):
    """Returns a function that lists the caches in a folder, by the letter of their name; "a" was opened first."""
    for age, name in enumerate("dcba"):
        path = tmp_path / f"{name * 24}.pictures"
        path.write_bytes(bytes(1000))
        os.utime(path, (0, 10_000 - age))
    return lambda: "".join(sorted(path.name[0] for path in tmp_path.glob("*.pictures")))


@pytest.fixture
def disk(monkeypatch):
    """Returns a function that sets the free space of every disk, in bytes."""

    def set_free(n):
        monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, n))

    return set_free


def test_a_new_cache_takes_the_room_of_those_that_were_opened_longest_ago(tmp_path, kept, disk):
    disk(6000)  # 10,000 bytes without caches, of which they may take 5,000
    assert make_room(tmp_path, 1000) == 5000
    assert kept() == "abcd"
    assert make_room(tmp_path, 1001) == 5000
    assert kept() == "bcd"


def test_a_cache_that_would_not_fit_alone_removes_none(tmp_path, kept, disk):
    disk(6000)
    assert make_room(tmp_path, 5001) == 5000
    assert kept() == "abcd"
    make_room(tmp_path, 5000)
    assert kept() == ""


def test_room_is_made_among_caches_only(tmp_path, disk):
    disk(0)
    for name in ("mine.pictures", f"{'a' * 24}.pictures.x.partial", f"{'g' * 24}.pictures"):
        (tmp_path / name).write_bytes(bytes(1000))
    make_room(tmp_path / "new", 10)
    assert make_room(tmp_path, 10) == 0
    assert len(list(tmp_path.glob("*.p*"))) == 3


def test_opening_a_kept_cache_counts_as_use_and_a_removed_one_can_still_be_read(tmp_path, disk):
    path = tmp_path / f"{'a' * 24}.pictures"
    ImageCache(5, path).put(images())
    os.utime(path, (0, 0))
    cache = ImageCache(5, path)
    assert time.time() - path.stat().st_mtime < 60
    disk(0)
    make_room(tmp_path, path.stat().st_size // 2)
    assert not path.exists()
    assert all(np.array_equal(cache.get(i), pixels) for i, pixels in images())
