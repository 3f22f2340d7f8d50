"""The CSV file gets each of the recorder's rows during the run."""

import csv
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from minilearner import (
    Callback,
    CancelFit,
    CSVLogger,
    DataLoaders,
    EarlyStopping,
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


def test_the_file_equals_the_recorders(tmp_path):
    learn = learner(cbs=CSVLogger(tmp_path / "history.csv"))
    learn.recorder.train_metrics = True
    with learn.no_logging():
        learn.fit(2)
        learn.fit_one_cycle(1, cbs=Validate(every_steps=3))
    learn.recorder.to_csv(tmp_path / "recorder.csv")
    assert (tmp_path / "history.csv").read_text() == (tmp_path / "recorder.csv").read_text()
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


def test_an_unannounced_value_is_an_error_with_advice(tmp_path):
    class Adds(Callback):
        announced = False
        order = -60

        def before_fit(self, run):
            run.columns += ["extra"] if self.announced else []

        def after_validate(self, run):
            run.metrics["extra"] = 1.0

    with (learn := learner()).no_logging(), pytest.raises(ValueError, match="no column 'extra'. Add it to"):
        learn.fit(1, cbs=[Adds(), CSVLogger(tmp_path / "a.csv")])
    Adds.announced = True
    with (learn := learner()).no_logging():
        learn.fit(1, cbs=[Adds(), CSVLogger(tmp_path / "b.csv")])
    assert rows(tmp_path / "b.csv")[0]["extra"] == "1.0"


def test_a_missing_folder_is_refused_before_training(tmp_path):
    with (learn := learner()).no_logging(), pytest.raises(ValueError, match="in a folder that can be written"):
        learn.fit(1, cbs=CSVLogger(tmp_path / "missing" / "history.csv"))


def test_rows_after_a_saved_state_are_written_again(tmp_path):
    path = tmp_path / "history.csv"
    logger = CSVLogger(path)
    with (learn := learner()).no_logging():
        learn.fit(1, cbs=logger)
        state, before = logger.state_dict(), path.read_text()
        learn.fit(2, cbs=logger)

        class Resumes(CSVLogger):
            def before_fit(self, run):
                super().before_fit(run)
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
        assert path.read_text() == (tmp_path / "recorder.csv").read_text()


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
