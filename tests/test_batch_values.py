"""Values of batches: all come back in their order, from few pieces of memory."""

import pytest
import torch

from minilearner.batch_values import MOST_LOOSE, BatchValues


@pytest.fixture
def values():
    return BatchValues()


@pytest.mark.parametrize("n", [1, MOST_LOOSE - 1, MOST_LOOSE, MOST_LOOSE + 1, 5 * MOST_LOOSE + 3])
def test_all_values_come_back_in_their_order(values, n):
    for i in range(n):
        values.add(torch.tensor(float(i)))
    assert values.read().tolist() == list(range(n)) == values.read().tolist()


def test_values_go_on_after_a_read_and_start_anew_after_a_reset(values):
    values.add(torch.tensor(1))
    assert values.read().tolist() == [1]
    values.add(torch.tensor(2))
    assert values.read().tolist() == [1, 2]
    values.reset()
    assert values.read().tolist() == []
    values.add(torch.tensor(3))
    assert values.read().tolist() == [3]


def test_a_value_may_have_any_shape(values):
    rows = torch.rand(2 * MOST_LOOSE + 1, 3, 2)
    for row in rows:
        values.add(row)
    assert torch.equal(values.read(), rows)


def test_a_value_keeps_no_graph(values):
    values.add(torch.ones(2, requires_grad=True).sum())
    assert not values.read().requires_grad


def test_many_values_are_in_few_pieces_of_memory(values):
    n = 10 * MOST_LOOSE
    for i in range(n):
        values.add(torch.tensor(i))
        held = [*values._full, *values._values]
        assert len({t.untyped_storage().data_ptr() for t in held}) < MOST_LOOSE + n / MOST_LOOSE
