"""The files get each of the recorder's rows during the run."""

import copy
import csv
import errno
import json
import math
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from datetime import datetime, timedelta, timezone

import pytest
import torch
from torch import nn

from minilearner import (
    Callback,
    CancelFit,
    CSVLogger,
    DataLoaders,
    EarlyStopping,
    JSONLinesLogger,
    Learner,
    Validate,
    accuracy,
    error_rate,
)


def learner(**kwargs):
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 2, generator=g), torch.randint(3, (4,), generator=g)) for _ in range(4)]
    return Learner(DataLoaders(batches, batches[:1]), nn.Linear(2, 3), **({"metrics": accuracy} | kwargs))


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def without_times(path):
    """Returns the text of a file without the last column, which the recorder does not have."""
    return "".join(line.rpartition(",")[0] + "\n" for line in path.read_text().splitlines())


def test_the_file_equals_the_recorders(tmp_path):
    learn = learner(cbs=CSVLogger(tmp_path / "history.csv"))
    learn.recorder.train_metrics = True
    with learn.no_logging():
        learn.fit(2)
        learn.fit_one_cycle(1, cbs=Validate(every_steps=3))
    learn.recorder.to_csv(tmp_path / "recorder.csv")
    assert without_times(tmp_path / "history.csv") == (tmp_path / "recorder.csv").read_text()
    assert [row["run"] for row in rows(tmp_path / "history.csv")] == ["1", "1", "2", "2"]


def test_each_row_is_there_before_training_goes_on(tmp_path):
    class Interrupts(Callback):
        def before_batch(self, run):
            if run.training and run.epoch == 1:
                raise KeyboardInterrupt

    learn = learner()
    with learn.no_logging(), pytest.raises(KeyboardInterrupt):
        learn.fit(3, cbs=[CSVLogger(tmp_path / "history.csv"), Interrupts()])
    (row,) = rows(tmp_path / "history.csv")
    assert math.isclose(float(row["valid_loss"]), learn.recorder.history["valid_loss"][0])


def test_validate_and_the_sweep_leave_the_file_as_it_is(tmp_path):
    path = tmp_path / "history.csv"
    learn = learner(cbs=CSVLogger(path))
    with learn.no_logging():
        learn.fit(1)
        before = path.read_text()
        learn.validate()
        learn.lr_find(num_it=3, show_plot=False)
    assert path.read_text() == before


def test_a_new_logger_overwrites_the_file_with_its_first_row(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("of an earlier run\n")
    learn = learner()
    with learn.no_logging():
        with pytest.raises(ValueError, match="every_steps"):
            learn.fit(1, cbs=[CSVLogger(path), Validate()])
        assert path.read_text() == "of an earlier run\n"
        learn.fit(1, cbs=CSVLogger(path))
    assert len(rows(path)) == 1


def test_append_adds_rows(tmp_path):
    path = tmp_path / "history.csv"
    for _ in range(2):
        with (learn := learner()).no_logging():
            learn.fit(2, cbs=CSVLogger(path, append=True))
    assert [row["epoch"] for row in rows(path)] == ["0", "1", "0", "1"]


def test_append_to_other_columns_is_refused_before_training(tmp_path):
    path = tmp_path / "history.csv"
    with (learn := learner()).no_logging():
        learn.fit(1, cbs=CSVLogger(path))
    learn = learner(metrics=error_rate)
    with learn.no_logging(), pytest.raises(ValueError, match="must have the columns of this run"):
        learn.fit(1, cbs=CSVLogger(path, append=True))
    assert learn.recorder.runs == [] and len(rows(path)) == 1


def test_an_unannounced_value_is_left_out_with_advice(tmp_path, capsys):
    class Adds(Callback):
        announced = False
        order = -60

        def before_fit(self, run):
            run.columns += ["extra"] if self.announced else []

        def after_validate(self, run):
            run.metrics["extra"] = 1.0

    with (learn := learner()).no_logging():
        learn.fit(2, cbs=[Adds(), CSVLogger(tmp_path / "a.csv"), json_log := JSONLinesLogger(tmp_path / "a.jsonl")])
    assert capsys.readouterr().err.count("no column 'extra', so its values are left out. Add the name to") == 1
    assert len(rows(tmp_path / "a.csv")) == 2 and "extra" not in rows(tmp_path / "a.csv")[0]
    assert [json.loads(line)["extra"] for line in json_log.path.read_text().splitlines()] == [1.0, 1.0]
    Adds.announced = True
    with (learn := learner()).no_logging():
        learn.fit(1, cbs=[Adds(), CSVLogger(tmp_path / "b.csv")])
    assert rows(tmp_path / "b.csv")[0]["extra"] == "1.0"


def test_a_missing_folder_is_refused_before_training(tmp_path):
    with (learn := learner()).no_logging(), pytest.raises(ValueError, match="in a folder that can be written"):
        learn.fit(1, cbs=CSVLogger(tmp_path / "missing" / "history.csv"))


def test_the_learners_own_folder_is_made_when_it_is_first_used(tmp_path):
    with (learn := learner(path=tmp_path / "new" / "run")).no_logging():
        learn.fit(1, loggers=["csv", "jsonl"])
    assert {p.name for p in (tmp_path / "new" / "run").iterdir()} == {"history.csv", "history.jsonl"}


def test_rows_after_a_saved_state_are_written_again(tmp_path):
    path = tmp_path / "history.csv"
    logger = CSVLogger(path)
    with (learn := learner()).no_logging():
        learn.fit(1, cbs=logger)
        state, record = copy.deepcopy((logger.state_dict(), learn.recorder.runs[0].state_dict()))
        before = path.read_text()
        learn.fit(2, cbs=logger)

        class Resumes(CSVLogger):
            def before_fit(self, run):
                super().before_fit(run)
                run.record.load_state_dict(record)
                self.load_state_dict(state)

        learn.fit(1, cbs=Resumes(path))
    assert path.read_text().startswith(before) and len(rows(path)) == 2


class Raises(Callback):
    """Raises something at an event of an epoch, before (`order`) or after all other callbacks."""

    def __init__(self, error, event, order, epoch=1):
        self.error, self.epoch, self.order = error, epoch, order
        setattr(self, event, self.act)

    def act(self, run):
        if run.epoch == self.epoch and (not run.training or run.iter >= 2):
            raise self.error


@pytest.mark.parametrize("order", [-1000, 65, 1000])
@pytest.mark.parametrize("error", [CancelFit, KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("event", ["after_epoch", "after_validate", "before_validate", "after_train", "after_batch"])
def test_the_file_has_every_row_of_the_recorder_however_a_run_ends(tmp_path, event, error, order):
    for valid in (None, Validate(every_steps=1)):
        path = tmp_path / f"{valid}.csv"
        learn = learner()
        with learn.no_logging(), nullcontext() if error is CancelFit else pytest.raises(error):
            learn.fit(3, cbs=[CSVLogger(path), Raises(error, event, order), *([valid] if valid else [])])
        learn.recorder.to_csv(tmp_path / "recorder.csv")
        assert without_times(path) == (tmp_path / "recorder.csv").read_text()


@pytest.mark.parametrize("event", ["after_train", "before_validate", "after_validate", "after_epoch"])
@pytest.mark.parametrize("order", [-1000, 0, 1000])
def test_an_epoch_that_was_trained_is_in_every_log_and_callback(tmp_path, event, order):
    seen = {-2000: [], 2000: []}

    class Note(Callback):
        def __init__(self, order):
            self.order = order

        def after_epoch(self, run):
            seen[self.order].append(run.epoch)

    learn = learner()
    with learn.no_logging():
        record = learn.fit(3, cbs=[Note(-2000), Raises(CancelFit, event, order), Note(2000)])
    assert seen == {-2000: [0, 1], 2000: [0, 1]} and [row["epoch"] for row in record.epochs] == [0, 1]


def test_a_run_that_was_stopped_early_is_finished_for_a_checkpoint(tmp_path):
    """No state is saved in which the last epoch is over and the run would train on."""
    path = tmp_path / "history.csv"

    def train():
        torch.manual_seed(0)
        learn = learner()
        with learn.no_logging():
            cbs = [CSVLogger(path), EarlyStopping("accuracy", min_delta=1, patience=1)]
            return learn.fit(9, cbs=cbs, checkpoint=tmp_path / "run"), learn.model.weight

    first, weight = train()
    text = path.read_text()
    again, same = train()
    assert len(first.epochs) == len(again.epochs) == 2 and torch.equal(weight, same)
    assert path.read_text() == text and len(rows(path)) == 2


def test_each_row_says_when_it_came(tmp_path):
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    with (learn := learner()).no_logging():
        learn.fit(2, cbs=CSVLogger(path := tmp_path / "a.csv"))
    times = [datetime.fromisoformat(row["finished_at"]) for row in rows(path)]
    assert before <= times[0] <= times[1] <= datetime.now(timezone.utc)
    assert all(float(row["time_seconds"]) > 0 for row in rows(path))


def test_json_lines_have_the_values_of_the_rows(tmp_path):
    log = JSONLinesLogger(tmp_path / "a.jsonl")
    with (learn := learner()).no_logging():
        learn.fit(2, cbs=[log, Validate(every_steps=3)])
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    for line, row in zip(lines, learn.recorder.epochs, strict=True):
        assert line.pop("finished_at").endswith("+00:00")
        assert line == {"run": 1, "kind": "fit", **row}


class FullDisk(CSVLogger):
    """A disk that is full for the second epoch's row."""

    n = 0

    def _write(self, text):
        self.n += 1
        if self.n == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        super()._write(text)


def test_a_full_disk_does_not_end_training_and_its_rows_come_later(tmp_path, capsys):
    with (learn := learner()).no_logging():
        learn.fit(4, cbs=FullDisk(tmp_path / "a.csv"))
    said = capsys.readouterr().err
    assert said.count("FullDisk failed, and training goes on") == 1 and "No space left on device" in said
    assert [row["epoch"] for row in rows(tmp_path / "a.csv")] == ["0", "1", "2", "3"]


def test_a_removed_file_gets_all_rows_of_the_run_again(tmp_path):
    class Removes(Callback):
        def after_epoch(self, run):
            if run.epoch == 1:
                (tmp_path / "a.csv").unlink()

    with (learn := learner()).no_logging():
        learn.fit(3, cbs=[CSVLogger(tmp_path / "a.csv"), Removes()])
    assert [row["epoch"] for row in rows(tmp_path / "a.csv")] == ["0", "1", "2"]


SCRIPT = """
import os, signal, sys, torch
from minilearner import Callback, Checkpoint, DataLoaders, Learner, Validate, accuracy

class Kill(Callback):
    order = int(sys.argv[3])
    def after_epoch(self, run):
        if run.epoch == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

x = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))
dls = DataLoaders.from_arrays((x, torch.arange(32) % 3), (x, torch.arange(32) % 3), bs=8, seed=1, device="cpu")
torch.manual_seed(0)
learn = Learner(dls, torch.nn.Linear(4, 3), metrics=accuracy, device="cpu", path=sys.argv[1], loggers=["csv", "jsonl"])
saved = Checkpoint(sys.argv[1] + "/run", every_epochs=2)
learn.fit(6, cbs=[Kill(), Validate(every_steps=3)], checkpoint=saved)
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", [65, 1000])  # before a row and its checkpoint, and after both
def test_after_a_kill_no_row_is_lost_or_doubled(tmp_path, order):
    def script(name, *kills):
        (tmp_path / name).mkdir()
        for kill in kills:
            command = [sys.executable, "-c", SCRIPT, tmp_path / name, str(kill), str(order)]
            assert subprocess.run(command, capture_output=True).returncode == (0 if kill == 99 else -signal.SIGKILL)
        return [
            [{**row, "time_seconds": 0, "finished_at": 0} for row in read(tmp_path / name)]
            for read in (csv_rows, lines)
        ]

    killed = script("killed", 2, 3, 99)  # there is a checkpoint after epochs 1 and 3
    assert script("whole", 99) == killed and len(killed[0]) == len(killed[1]) == 6 + 24 // 3


def csv_rows(folder):
    return rows(folder / "history.csv")


def lines(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
