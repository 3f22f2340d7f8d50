"""Work in threads returns the results and raises the errors of a plain loop."""

import threading
import time

import pytest

from minilearner.runtime import map_in_threads


@pytest.mark.parametrize(("n_things", "n_threads"), [(0, 4), (1, 4), (7, 1), (7, 3), (1000, 4)])
def test_results_come_in_the_order_of_the_things(n_things, n_threads):
    assert map_in_threads(lambda i: i * i, range(n_things), n_threads) == [i * i for i in range(n_things)]


def test_as_many_threads_as_asked_work_at_once():
    together = threading.Barrier(3)  # passed only when three are waiting
    assert sorted(map_in_threads(lambda _: together.wait(timeout=20), range(3), 3)) == [0, 1, 2]


def test_one_thread_is_the_caller():
    assert map_in_threads(lambda _: threading.current_thread(), range(3), 1) == [threading.current_thread()] * 3


def test_the_first_error_in_order_is_raised_and_no_more_is_begun():
    begun = []

    def work(i):
        begun.append(i)
        time.sleep(0.2 if i == 1 else 0.01)
        if i in (1, 2):
            raise ValueError(f"thing {i}")

    with pytest.raises(ValueError, match="thing 1"):
        map_in_threads(work, range(400), 2)
    assert len(begun) < 200
    n = len(begun)
    time.sleep(0.05)
    assert len(begun) == n
