"""A single process exchanges values only with itself. Tests of distributed training cover several processes."""

import pytest
import torch

from minilearner import processes
from minilearner.files import write_atomically
from minilearner.runtime import default_device


def test_alone_each_exchange_returns_its_own_value():
    t = torch.ones(3)
    processes.average([t])
    processes.copy_from_first([t])
    processes.wait()
    assert (processes.rank(), processes.count(), processes.local_count()) == (0, 1, 1)
    assert processes.is_first() and not torch.distributed.is_initialized()
    assert (
        processes.gather("a") == ["a"]
        and processes.take_from_first("a") == "a"
        and processes.add_up([1, 2.5]) == [1, 2.5]
    )
    assert t.tolist() == [1, 1, 1]
    assert processes.whole(t) is t and processes.distribute_like(t, like=torch.zeros(3)) is t


@pytest.fixture
def second_of_four(monkeypatch):
    names = {"RANK": 1, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "x", "MASTER_PORT": 1}
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))


def test_torchruns_environment_says_which_process_this_is(second_of_four):
    assert (processes.rank(), processes.count()) == (1, 4)
    assert (processes.local_rank(), processes.local_count()) == (1, 2)
    assert not processes.is_first()


def test_only_the_first_writes(second_of_four, tmp_path):
    assert write_atomically(tmp_path / "a.txt", "a") == tmp_path / "a.txt"
    assert not (tmp_path / "a.txt").exists()


def test_half_an_environment_is_none(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert processes.count() == 1
    assert default_device().type in ("cpu", "cuda")
