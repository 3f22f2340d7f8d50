"""`lock_file` has one holder at a time, even if each deletes the file that the next one waits for."""

import threading
import time

from minilearner.sources.download import is_at, lock_file


def test_holders_never_overlap_although_each_deletes_the_file(tmp_path):
    path, inside, most = tmp_path / "lock", [], []

    def hold_often(name):
        for _ in range(20):
            with lock_file(path):
                inside.append(name)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.remove(name)
                path.unlink()

    threads = [threading.Thread(target=hold_often, args=[name]) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (120, 1)
    assert not path.exists()


def test_is_at_notices_a_replaced_file(tmp_path):
    with lock_file(tmp_path / "lock") as fileno:
        assert is_at(fileno, tmp_path / "lock")
        (tmp_path / "other").touch()
        (tmp_path / "other").replace(tmp_path / "lock")
        assert not is_at(fileno, tmp_path / "lock")
        (tmp_path / "lock").unlink()
        assert not is_at(fileno, tmp_path / "lock")
