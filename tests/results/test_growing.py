import numpy as np

from minilearner.results.growing import GrowingArray


def test_rows_come_at_the_end_in_their_order():
    found = GrowingArray(np.empty((0, 2)))
    for i in range(100):
        found.extend([(i, -i)] * (i % 3))
    expected = [(i, -i) for i in range(100) for _ in range(i % 3)]
    assert found.rows.tolist() == [list(row) for row in expected] and len(found) == len(expected)


def test_neither_the_first_rows_nor_those_that_were_returned_change():
    first = np.arange(3.0)
    found = GrowingArray(first)
    before = found.rows
    found.extend([7.0])
    found.extend([8.0])
    assert first.tolist() == before.tolist() == [0, 1, 2] and found.rows.tolist() == [0, 1, 2, 7, 8]


def test_all_rows_together_are_copied_a_few_times_only():
    found, n_moves, place = GrowingArray(np.empty(0)), 0, None
    for i in range(10_000):
        found.extend([float(i)])
        now = found.rows.__array_interface__["data"][0]
        n_moves, place = n_moves + (now != place), now
    assert n_moves <= 16
