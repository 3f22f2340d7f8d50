import os
import subprocess
import sys
import time

import numpy as np
import pytest

from minilearner.data.image_cache import ImageCache, fingerprint, room_for_cache
from minilearner.errors import DataError


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
    assert cache.is_complete and cache.n_bytes == 5 * 32 + sum(pixels.nbytes for _, pixels in stored)
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


def test_a_kept_cache_that_is_not_finished_is_removed(tmp_path):
    cache = ImageCache(5, tmp_path / "a.pictures")
    cache.put(images()[:4])
    del cache
    assert list(tmp_path.iterdir()) == []


def test_two_that_write_the_same_cache_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "a.pictures"
    one, other = ImageCache(5, path), ImageCache(5, path)
    for image in images():
        one.put([image])
        other.put([image])
    assert [p.name for p in tmp_path.iterdir()] == ["a.pictures"]
    for cache in (one, other, ImageCache(5, path)):
        assert all(np.array_equal(cache.get(i), pixels) for i, pixels in images())


def test_a_killed_process_leaves_no_finished_file_and_its_leftovers_are_removed_after_a_day(tmp_path):
    program = (
        "import os, sys, numpy as np\nfrom minilearner.data.image_cache import ImageCache\n"
        "c = ImageCache(2, sys.argv[1])\nc.put([(0, np.zeros((9, 9), np.uint8))])\nos.kill(os.getpid(), 9)"
    )
    path = tmp_path / "a.pictures"
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".partial"
    os.utime(left, (time.time() - 90_000,) * 2)
    cache = ImageCache(2, path)
    assert not left.exists() and cache.get(0) is None


@pytest.mark.parametrize("damage", ["cut", "index"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "a.pictures"
    ImageCache(5, path).put(images())
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-10:]
    else:
        data[:8] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(DataError, match="not a complete cache of 5 images. Remove it"):
        ImageCache(5, path)


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
