import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from interruptions import Stop, StopAt
from torch import nn

from minilearner import DataLoaders, EarlyStopping, Learner, accuracy, error_rate, set_seed
from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.errors import CheckpointError


def make(hidden=6, n=30, bs=4, shift=0.0, p=0.2, act=nn.ReLU, frozen="none", seed=2, learner_seed=None, **options):
    set_seed(5)
    x, y = torch.rand(n, 8) + shift, torch.arange(n) % 3
    model = nn.Sequential(nn.Linear(8, hidden), nn.Dropout(p), act(), nn.Linear(hidden, 3))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    dls = DataLoaders.from_arrays((x, y), (x[:7], y[:7]), bs=bs, seed=seed)
    learn = Learner(dls, model, seed=learner_seed, **{"metrics": accuracy, **options})
    learn.no_logging().__enter__()
    return learn


def weights(learn):
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


def crash_at(folder, step, **options):
    learn = make(cbs=StopAt(step), **options)
    with pytest.raises(Stop):
        learn.fit(2, 0.1, checkpoint=Checkpoint(folder, every_steps=3))
    return learn


def test_a_run_resumes_where_it_stopped(tmp_path):
    whole = make(cbs=StopAt(None))
    whole.fit(2, 0.1)
    crash_at(tmp_path, 11)
    seen = []

    class Watch(StopAt):
        def after_batch(self, run):
            seen.append(run.global_step) if run.training else None

    Watch.__name__, Watch.__repr__ = "StopAt", StopAt.__repr__
    resumed = make(cbs=Watch(None))
    record = resumed.fit(2, 0.1, checkpoint=tmp_path)
    assert seen == [10, 11, 12, 13, 14]
    assert torch.equal(weights(whole), weights(resumed))
    assert record.steps.tolist() == whole.recorder.runs[0].steps.tolist()
    assert [row["valid_loss"] for row in record.epochs] == whole.recorder.history["valid_loss"]


def test_a_finished_run_is_returned_without_training(tmp_path):
    first = make()
    first.fit_one_cycle(2, 0.1, checkpoint=tmp_path)
    number_after = torch.rand(1)
    again = make(cbs=None)
    again._preflight.check = lambda *a, **options: None
    record = again.fit_one_cycle(2, 0.1, checkpoint=tmp_path)
    assert torch.equal(torch.rand(1), number_after)
    assert torch.equal(weights(first), weights(again)) and len(record.epochs) == 2
    assert len(again.recorder.runs) == 1


def test_a_call_does_not_reset_its_learner_to_an_earlier_run(tmp_path):
    learn = make()
    learn.fit(1, 0.1, checkpoint=tmp_path)
    learn.fit(1, 0.1)
    before = weights(learn)
    with pytest.raises(CheckpointError, match="holds a run that this learner has already finished.*its own folder"):
        learn.fit(1, 0.1, checkpoint=tmp_path)
    assert torch.equal(before, weights(learn)) and len(learn.recorder.runs) == 2


def test_fine_tune_keeps_its_phases_apart(tmp_path):
    make().fine_tune(1, checkpoint=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1-frozen", "2-unfrozen"]


@pytest.mark.parametrize(
    ("change", "call", "message"),
    [
        (
            {"hidden": 7},
            {},
            r"layer 0: saved Linear\(in_features=8, out_features=6, .*, now Linear\(in_features=8, out_fea",
        ),
        ({"n": 40}, {}, "training items: saved 30, now 40"),
        ({"bs": 5}, {}, "bs: saved 4, now 5"),
        ({"seed": 3}, {}, "seed: saved 2, now 3"),
        ({"learner_seed": 3}, {}, "seed of the learner: saved None, now 3"),
        ({}, {"n_epoch": 3}, "n_epochs: saved 2, now 3"),
        ({}, {"lr": 0.2}, "lr: saved 0.1, now 0.2"),
        ({"opt_func": torch.optim.SGD}, {}, "optimizer: saved 'AdamW', now 'SGD'"),
        ({"cbs": EarlyStopping()}, {}, "callbacks: saved"),
        ({"shift": 1.0}, {}, "training data: saved"),
        ({"wd": 0.3}, {}, "optimizer settings weight_decay of group 0: saved 0.01, now 0.3"),
        ({"p": 0.5}, {}, r"layer 1: saved Dropout\(p=0.2, inplace=False\), now Dropout\(p=0.5"),
        ({"act": nn.Tanh}, {}, r"layer 2: saved ReLU\(\), now Tanh\(\)"),
        ({"frozen": "0."}, {}, "learns 0.weight: saved True, now False"),
        ({"metrics": error_rate}, {}, "metrics: saved accuracy, now error_rate"),
    ],
)
def test_the_folder_of_another_run_is_refused_with_the_differences(tmp_path, change, call, message):
    crash_at(tmp_path, 5)
    other = make(**{"cbs": StopAt(None), **change})
    before = weights(other)
    with pytest.raises(CheckpointError, match=message):
        other.fit(**{"n_epoch": 2, "lr": 0.1, **call}, checkpoint=tmp_path)
    assert torch.equal(before, weights(other)) and not other.recorder.runs


def test_a_drawn_seed_may_differ_when_the_script_runs_again(tmp_path):
    whole = make(seed=None, cbs=StopAt(None))
    whole.fit(2, 0.1)
    crash_at(tmp_path, 5, seed=None)
    again = make(seed=None, cbs=StopAt(None))
    torch.rand(3)  # code before the loaders may draw other numbers
    x, y = again.dls.train.x, again.dls.train.y
    again.dls = DataLoaders.from_arrays((x, y), (x[:7], y[:7]), bs=4)
    again.fit(2, 0.1, checkpoint=tmp_path)
    assert torch.equal(weights(whole), weights(again))


def test_signal_handlers_and_the_lock_are_restored(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    crash_at(tmp_path, 5)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    make(cbs=StopAt(None)).fit(2, 0.1, checkpoint=tmp_path)


def test_it_works_in_a_thread_without_signals(tmp_path):
    worker = threading.Thread(target=lambda: make().fit(1, checkpoint=tmp_path))
    worker.start()
    worker.join()
    assert any(tmp_path.glob("checkpoint-*"))


def numbers(folder):
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [({"every_steps": 5}, [10, 22, 33]), ({"every_epochs": 1}, [16, 32, 33]), ({"every_epochs": 2}, [32, 33])],
)
def test_it_saves_at_its_intervals(tmp_path, intervals, expected):
    """An epoch has seven batches, so save 16 ends the first epoch, 32 the second, and 33 is the finished run."""
    make().fit(2, checkpoint=Checkpoint(tmp_path, keep=100, **intervals))
    assert numbers(tmp_path) == expected


def test_a_run_that_stopped_early_is_finished(tmp_path):
    stopping = EarlyStopping(min_delta=100.0)
    first = make(cbs=stopping).fit(9, checkpoint=tmp_path)
    again = make(cbs=EarlyStopping(min_delta=100.0)).fit(9, checkpoint=tmp_path)
    assert len(first.epochs) == len(again.epochs) == 2


@pytest.mark.parametrize("argument", ["every_steps", "every_seconds", "every_epochs", "keep"])
def test_intervals_are_checked(tmp_path, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be (at least 1|positive and finite)"):
        Checkpoint(tmp_path, **{argument: 0})


@pytest.mark.parametrize("folder", ["", "  ", "a\0b"])
def test_no_name_is_no_folder(folder):
    with pytest.raises(ValueError, match="`checkpoint` must name a folder"):
        make().fit(1, checkpoint=folder)


@pytest.mark.parametrize("folder", [True, 5, b"runs", ["runs"], Checkpoint])
def test_what_is_no_path_is_no_folder(folder):
    with pytest.raises(TypeError, match="`checkpoint` must be a folder or a Checkpoint"):
        make().fit(1, checkpoint=folder)


SCRIPT = """
    import sys, time, torch
    from torch import nn
    from minilearner import Callback, DataLoaders, Learner, set_seed

    class Slow(Callback):
        def after_batch(self, run):
            if run.training and run.global_step == 3:
                print("at step 3", flush=True)
            if run.training and "slow" in sys.argv:
                time.sleep(3 if "hanging" in sys.argv else 0.1)
        def after_fit(self, run):
            print("undone", flush=True)

    set_seed(0)
    x, y = torch.rand(80, 8), torch.arange(80) % 3
    dls = DataLoaders.from_arrays((x, y), bs=4, seed=1)
    learn = Learner(dls, nn.Sequential(nn.Linear(8, 3), nn.Dropout()), cbs=Slow())
    with learn.no_logging():
        learn.fit(2, 0.1, checkpoint=sys.argv[1])
    print("weights", sum(p.sum().item() for p in learn.model.parameters()), flush=True)
"""


def start(folder, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), folder, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_saves_undoes_and_leaves_with_its_code(tmp_path, number, code):
    wanted = start(tmp_path / "whole").communicate(timeout=120)[0].splitlines()[-1]
    child = start(tmp_path / "run", "slow")
    assert child.stdout.readline() == "at step 3\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == code and out == "undone\n", err
    assert len(numbers(tmp_path / "run")) == 1
    out, err = start(tmp_path / "run").communicate(timeout=120)
    assert out.splitlines()[-1] == wanted and wanted.startswith("weights"), err


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(tmp_path):
    child = start(tmp_path, "slow", "hanging")
    child.stdout.readline()
    os.kill(child.pid, signal.SIGTERM)
    time.sleep(1.2)
    os.kill(child.pid, signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGTERM


WITH_WORKERS = """
    import os, signal, sys, threading, time, torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset
    from minilearner import Callback, DataLoaders, Learner, set_seed
    from minilearner.data.item_dataset import ItemDataset
    from minilearner.data.item_loader import ItemLoader

    class Items(Dataset):
        def __len__(self):
            return 160
        def __getitem__(self, i):
            time.sleep(0.03)
            return torch.full((8,), i / 160), i % 3

    def read(i):
        time.sleep(0.03)
        return torch.full((8,), i / 160)

    class Pids(Callback):
        def after_batch(self, run):
            if run.training and run.global_step == 3:
                print("at step 3", flush=True)

    def loaders(kind, method):
        if kind == "ours":
            dataset = ItemDataset(range(160), read, cache=False)
            return ItemLoader(dataset, torch.arange(160) % 3, bs=4, num_workers=2, start_method=method, training=True)
        workers = {"num_workers": 2, "persistent_workers": kind == "persistent", "multiprocessing_context": method}
        return DataLoader(Items(), batch_size=4, **workers)

    if __name__ == "__main__":
        kind, method, *folder = sys.argv[1:]
        set_seed(0)
        learn = Learner(DataLoaders(loaders(kind, method), device="cpu"), nn.Linear(8, 3), nn.CrossEntropyLoss(),
                        cbs=Pids(), device="cpu")
        with learn.no_logging():
            learn.fit(2, 0.1, checkpoint=folder[0] if folder else None)
        print("weights", sum(p.sum().item() for p in learn.model.parameters()), flush=True)
"""


def start_with_workers(script, *arguments):
    script.write_text("import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n")
    script.write_text(script.read_text() + textwrap.dedent(WITH_WORKERS))
    return subprocess.Popen(
        [sys.executable, script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def list_group(group):
    """Returns the processes of a group that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, pgid = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            found += [int(entry.name)] if int(pgid) == group and state != "Z" else []
    return found


def wait_until_gone(group, seconds):
    end = time.monotonic() + seconds
    while (left := list_group(group)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
@pytest.mark.parametrize(("kind", "method"), [("ours", "fork"), ("foreign", "fork"), ("persistent", "spawn")])
def test_a_signal_to_the_whole_group_saves_and_leaves_with_its_code(tmp_path, number, code, kind, method):
    child = start_with_workers(tmp_path / "script.py", kind, method, tmp_path / "run")
    assert child.stdout.readline() == "at step 3\n"
    for _ in range(2):  # as `timeout` does: to the command, and to its group
        os.killpg(child.pid, number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert "Traceback" not in err and "worker" not in err and len(err.splitlines()) == 1, err
    assert err.endswith(f"saved in {tmp_path / 'run'}. Run the same script again to resume.\n")
    assert len(numbers(tmp_path / "run")) == 1 and not wait_until_gone(child.pid, 10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "foreign", "persistent"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_training(tmp_path, kind, number):
    child = start_with_workers(tmp_path / "script.py", kind, "fork")
    assert child.stdout.readline() == "at step 3\n" and len(list_group(child.pid)) == 3
    child.send_signal(number)
    child.wait(timeout=30)
    left = wait_until_gone(child.pid, 10)
    child.communicate()
    assert not left


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "foreign", "persistent"])
def test_ctrl_c_without_a_checkpoint_shows_one_line(tmp_path, kind):
    child = start_with_workers(tmp_path / "script.py", kind, "fork")
    assert child.stdout.readline() == "at step 3\n"
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert re.fullmatch(r"Interrupted in epoch \d/\d, batch \d+/\d+\.\n", err), err
    assert child.returncode == -signal.SIGINT
    assert not wait_until_gone(child.pid, 10)


class SignalInValidation(StopAt):
    """Presses Ctrl-C during the validation of the first epoch."""

    order = 50

    def after_batch(self, run):
        if not run.training and run.epoch == 0 and self.step is not None:
            signal.raise_signal(signal.SIGINT)


def test_a_signal_in_a_validation_saves_the_state_before_it(tmp_path):
    whole = make(cbs=SignalInValidation(None))
    whole.fit(2, 0.1)
    with pytest.raises(KeyboardInterrupt, match="Run the same script again to resume"):
        make(cbs=SignalInValidation(1)).fit(2, 0.1, checkpoint=tmp_path)
    assert numbers(tmp_path) == [14]
    resumed = make(cbs=SignalInValidation(None))
    resumed.fit(2, 0.1, checkpoint=tmp_path)
    assert torch.equal(weights(whole), weights(resumed))


def test_it_prints_where_a_run_resumes(tmp_path, capsys):
    crash_at(tmp_path, 5)
    for message in ("resuming in epoch 1/2 at batch 4/", "finished before, so not trained again"):
        learn = make(cbs=StopAt(None))
        learn._output.table = True
        learn.fit(2, 0.1, checkpoint=tmp_path)
        assert f"{tmp_path}: {message}" in capsys.readouterr().out
