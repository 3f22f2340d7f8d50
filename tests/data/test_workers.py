import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from minilearner.data.foreign_loader import ForeignLoader
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader
from minilearner.data.workers import default_num_workers
from minilearner.errors import DataError, FileFormatError
from minilearner.vision.images import open_image


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return sorted(tmp_path.iterdir())


def loader(images, num_workers, read=open_image):
    return ItemLoader(ItemDataset(images, read, cache=False), bs=4, num_workers=num_workers)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_file_is_reported_by_its_path_and_cause_in_a_short_message(images, num_workers):
    images[5].write_bytes(images[5].read_bytes()[:200])
    with pytest.raises(FileFormatError, match=r"5.png: the image is damaged or cut short \(.*truncated\)") as error:
        list(loader(images, num_workers=num_workers))
    assert len(str(error.value)) < 400 and "Traceback" not in str(error.value)


@pytest.mark.parametrize("fails", [False, True])
def test_workers_end_at_once_when_their_loader_goes(images, fails):
    if fails:
        images[5].write_bytes(b"")
    helped = loader(images, 1)
    try:
        next(iter(helped))
        list(helped)
    except DataError:
        pass
    pids = [worker.pid for worker in helped._workers._source._iterator._workers]
    start = time.perf_counter()
    del helped
    assert time.perf_counter() - start < 4  # torch waits for 5 s before it kills one
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_an_error_that_does_not_pickle_is_reported_all_the_same(images):
    with pytest.raises(DataError, match="Odd: no way"):
        list(loader(images, 1, read=raise_odd))


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def raise_odd(_):
    raise Odd("no", "way")


def test_one_processor_is_left_to_training_on_the_cpu(monkeypatch):
    for processors, on_cpu, on_gpu in ((1, 0, 1), (2, 1, 2), (64, 8, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=processors: set(range(n)))
        assert default_num_workers(torch.device("cpu")) == on_cpu
        assert default_num_workers(torch.device("cuda")) == on_gpu
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_num_workers(torch.device("cuda")) == 0


def test_the_death_of_a_worker_is_reported_with_what_it_was_reading(images):
    for num_workers in (1, 2):
        with pytest.raises(DataError, match=r"killed by SIGKILL while reading item 7 \('.*7\.png'\).*out of memory"):
            list(loader(images, num_workers=num_workers, read=die_at_seven))


def die_at_seven(path):
    if path.stem == "7":
        os.kill(os.getpid(), signal.SIGKILL)
    return open_image(path)


@pytest.mark.parametrize("leave", [os._exit, sys.exit])
def test_a_worker_that_leaves_is_reported_with_its_item_at_once(images, leave):
    def read(path):
        return leave(3) if path.stem == "6" else open_image(path)

    start = time.perf_counter()
    with pytest.raises(DataError, match=r"left with exit code 3 while reading item 6 \('.*6\.png'\)\. Read it with"):
        list(loader(images, num_workers=2, read=read))
    assert time.perf_counter() - start < 30


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
import torch
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader

def slow(path):
    time.sleep(0.05)
    return torch.zeros(3)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background is begun without it
    loader = ItemLoader(ItemDataset(list(range(1000)), slow), bs=4, num_workers=2)
    for i, _ in enumerate(loader):
        if i == 2:
            print(*[w.pid for w in loader._workers._source._iterator._workers], flush=True)
            os.killpg(os.getpgid(0), signal.SIGINT)
"""


def test_ctrl_c_ends_the_workers_without_a_word_of_theirs(tmp_path):
    (tmp_path / "program.py").write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )
    assert done.stderr.count("Traceback") == 1 and done.stderr.rstrip().endswith("KeyboardInterrupt")
    time.sleep(0.5)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in done.stdout.split())


class Numbers(Dataset):
    """Items of which one ends the worker that reads it, or waits to be killed."""

    def __init__(self, deadly=9):
        self.deadly = deadly

    def __len__(self):
        return 16

    def __getitem__(self, i):
        if i == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.full((2,), float(i)), i % 2


@pytest.mark.parametrize("order", [None, [3, 9, 1, 5, 0, 2, 4, 6]])
def test_the_death_of_a_foreign_loaders_worker_is_reported_with_the_items_that_it_had(order):
    source = DataLoader(Numbers(), batch_size=4, num_workers=2, sampler=order)
    had = "3, 9, 1, 5" if order else "8, 9, 10, 11"
    with pytest.raises(DataError, match=rf"a worker \(pid \d+\) was killed by SIGKILL with items {had}\."):
        list(ForeignLoader(source, device="cpu"))


def test_a_worker_that_is_killed_between_two_items_is_reported_with_its_last_ones(images):
    ours = loader(images, 1)
    list(ours)
    (worker,) = ours._workers._source._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(30)  # the program goes on: the death shows when the next batch is wanted
    with pytest.raises(
        DataError, match=r"killed by SIGKILL between two items; the last that it had: item 8 \(.*8\.png"
    ):
        list(ours)


def test_a_users_own_start_of_a_worker_still_runs_and_stays_in_place(tmp_path):
    def note(number):
        (tmp_path / str(number)).touch()

    source = DataLoader(Numbers(None), batch_size=4, num_workers=2, worker_init_fn=note)
    assert torch.cat([x for x, _ in ForeignLoader(source, device="cpu")])[:, 0].tolist() == list(range(16))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1"] and source.worker_init_fn is note


TWO_LOADERS = """
import gc, torch
from torch.utils.data import DataLoader, TensorDataset
from minilearner.data.foreign_loader import ForeignLoader
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader

def read(i):
    gc.collect()  # as it happens sooner or later: what the process inherited is collected in the worker
    return torch.zeros(3)

def ours():
    return ItemLoader(ItemDataset(range(8), read, cache=False), bs=2, num_workers=1)

first, second = ours(), ForeignLoader(DataLoader(TensorDataset(torch.zeros(8, 2), torch.zeros(8)), 2, num_workers=1))
waiting = iter(second)
next(waiting)
list(first)
cycle = [waiting]
cycle.append(cycle)
del waiting, cycle
gc.disable()
list(ours())
"""


def test_loaders_forked_beside_each_other_print_nothing():
    done = subprocess.run([sys.executable, "-c", TWO_LOADERS], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


BUSY_WORKER = """
import torch
from torch.utils.data import DataLoader, Dataset
from minilearner.data.worker_processes import start_workers

class Large(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, i):
        return torch.zeros(2_000_000)  # the worker's own memory, which its other thread copies into shared memory

if __name__ == "__main__":
    source = DataLoader(
        Large(), batch_size=None, num_workers=1, prefetch_factor=40, multiprocessing_context="spawn"
    )
    iterator = start_workers(source)
    next(iterator)
    (worker,) = iterator._workers
    iterator._shutdown_workers()
    print(worker.exitcode)
"""


@pytest.mark.slow
def test_a_worker_that_ends_while_it_sends_does_not_abort(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(BUSY_WORKER)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("0\n", "-9\n")  # the latter on a busy machine: torch kills a worker after 5 s
