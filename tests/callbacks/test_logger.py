"""What a service receives of a run, as a logger that keeps all of it reports."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from minilearner import (
    Callback,
    Checkpoint,
    CSVLogger,
    DataLoaders,
    JSONLinesLogger,
    Learner,
    Logger,
    MLflowLogger,
    TensorBoardLogger,
    Validate,
    WandbLogger,
    accuracy,
    load_learner,
)
from minilearner.callbacks.run_facts import find_commit


class Notebook(Logger):
    """A service in this process."""

    def __init__(self, **options):
        super().__init__(**options)
        self.points, self.opened, self.drawn, self.models, self.closed = [], [], [], [], []

    def open(self, run_id, settings):
        self.opened.append((run_id, dict(settings)))
        return run_id or "one"

    def log(self, points):
        self.points += points

    def log_figure(self, name, figure, step):
        self.drawn.append((name, step, len(figure.axes)))

    def log_model(self, path):
        self.models.append(load_learner(path, model=nn.Sequential(nn.Flatten(), nn.Linear(12, 3))))

    def close(self, is_interrupted):
        self.closed.append(is_interrupted)


def learner(n=48, **options):
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(n, 3, 2, 2, generator=g), torch.arange(n) % 3
    dls = DataLoaders.from_arrays((x, y), (x[:20], y[:20]), bs=8, seed=1, device="cpu")
    torch.manual_seed(0)
    return Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), device="cpu", metrics=accuracy, **options)


def fit(learn, *arguments, method="fit", **options):
    with learn.no_logging():
        return getattr(learn, method)(*arguments, **options)


def values(log, name):
    return [(point.step, point.values[name]) for point in log.points if name in point.values]


def test_a_service_receives_every_step_and_row_of_the_record():
    log = Notebook()
    learn = learner()
    record = fit(learn, 2, 0.1, loggers=log, cbs=Validate(every_steps=4))
    assert values(log, "step/loss") == list(enumerate(record.steps["loss"].tolist(), start=1))
    assert values(log, "step/lr") == [(i + 1, 0.1) for i in range(12)]
    rows = [(at, row["valid_loss"]) for at, row in record.rows_at()]
    assert values(log, "epoch/valid_loss") == rows and [at for at, _ in rows] == [3, 6, 7, 11, 12]
    assert [value for _, value in values(log, "epoch/accuracy")] == [row["accuracy"] for row in record.epochs]
    assert [at for at, _ in values(log, "epoch/train_loss")] == [6, 12]
    assert all(value > 0 for name in ("items_per_second", "memory_gib") for _, value in values(log, f"system/{name}"))
    assert [point.step for point in log.points] == sorted(point.step for point in log.points)


def test_a_service_receives_settings_figures_and_the_model():
    log = Notebook()
    learn = learner(seed=5)
    fit(learn, 1, 0.1, loggers=log)
    ((run_id, settings),) = log.opened
    assert run_id is None
    assert settings["lr"] == 0.1 and settings["bs"] == 8 and settings["optimizer"] == "AdamW" and settings["seed"] == 5
    assert settings["weights"] == 39 and settings["training_items"] == 48 and settings["classes"] == 3
    assert [name for name, *_ in log.drawn] == ["confusion_matrix", "top_losses"] and log.drawn[1][2] == 9
    (model,) = log.models
    assert torch.equal(model.model[1].weight, learn.model[1].weight)
    assert log.closed == [False]


def test_the_commit_is_that_of_the_code(tmp_path):
    script = tmp_path / "script.py"
    script.touch()

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    assert find_commit(tmp_path) is None
    git("init")
    git("add", ".")
    git("commit", "-m", "a")
    commit = git("rev-parse", "HEAD").strip()
    assert find_commit(tmp_path) == commit
    script.write_text("changed = True")
    assert find_commit(tmp_path) == f"{commit}-dirty"


def test_after_the_first_hundred_steps_some_are_logged():
    log = Notebook(every_steps=50, figures=False, model=False)
    fit(learner(8), 230, loggers=log)
    assert [step for step, _ in values(log, "step/loss")] == [*range(1, 101), 150, 200]
    assert len(values(log, "epoch/valid_loss")) == 230 and not log.drawn and not log.models


def test_several_runs_follow_each_other():
    log = Notebook(figures=False)
    learn = learner(loggers=log)
    fit(learn, 1)
    fit(learn, 2, method="fine_tune")
    assert [step for step, _ in values(log, "step/loss")] == list(range(1, 25))
    assert [run_id for run_id, _ in log.opened] == [None, "one"] and log.closed == [False, False]
    assert len(log.models) == 2  # none after the first phase


class Fails(Notebook):
    def __init__(self, where, **options):
        super().__init__(**options)

        def fail(*arguments):
            raise ConnectionError("the service is down")

        setattr(self, where, fail)


@pytest.mark.parametrize("where", ["open", "log", "log_figure", "log_model", "close"])
def test_a_logger_that_fails_says_so_once_and_training_goes_on(where, capsys, tmp_path):
    expected = fit(alone := learner(), 3, 0.1)
    log, other = Fails(where), Notebook()
    learn = learner()
    record = fit(learn, 3, 0.1, loggers=[log, other], checkpoint=tmp_path / "run")
    assert torch.equal(learn.model[1].weight, alone.model[1].weight)
    assert record.history["valid_loss"] == expected.history["valid_loss"]
    said = capsys.readouterr().err
    assert said.count("Fails failed, and training goes on. ConnectionError: the service is down.") == 1
    assert len(values(other, "step/loss")) == 18


class PowerCut(Callback):
    def __init__(self, epoch=None, batch=None):
        self.at = epoch, batch

    def load_state_dict(self, state):
        """The power stays on in the second run."""

    def before_batch(self, run):
        if run.training and (run.epoch, run.iter) == self.at:
            raise RuntimeError("the lights went out")


@pytest.mark.parametrize("when", [{"every_epochs": 1}, {"every_steps": 4}])
def test_a_resumed_run_goes_on_in_the_same_run_of_the_service(tmp_path, when):
    whole = Notebook(figures=False)
    fit(learner(), 3, 0.1, loggers=whole, cbs=PowerCut())
    logs = Notebook(figures=False), Notebook(figures=False), Notebook(figures=False)
    for log, cut in zip(logs, [PowerCut(1, 5), PowerCut(), PowerCut()]):
        try:
            fit(learner(), 3, 0.1, loggers=log, cbs=cut, checkpoint=Checkpoint(tmp_path / "run", **when))
        except RuntimeError:
            assert log.closed == [True]
    assert [run_id for run_id, _ in logs[1].opened] == ["one"]
    assert logs[2].opened == [] and logs[2].points == []  # the run was finished before
    saved = 6 if "every_epochs" in when else 8
    for name in ("step/loss", "epoch/valid_loss"):
        kept = [value for value in values(logs[0], name) if value[0] <= saved]  # what the checkpoint knows
        assert kept + values(logs[1], name) == values(whole, name)


def test_a_long_epoch_is_looked_at_every_now_and_then(monkeypatch):
    monkeypatch.setattr("minilearner.callbacks.logger._SECONDS", 0.0)
    seen = []

    class Looks(Notebook):
        def log(self, points):
            seen.append([point.step for point in points])

    fit(learner(), 1, loggers=Looks(figures=False))
    assert seen[:3] == [[1], [2], [3]]


class Reads(TorchDispatchMode):
    """Counts reads of a tensor's value, which make a program wait for the device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_logger_reads_no_value_in_a_step():
    def reads(n):
        learn = learner(n, opt_func=torch.optim.SGD, loggers=Notebook(figures=False, model=False))
        fit(learn, 1)
        with Reads() as mode:
            fit(learn, 1)
        return mode.count

    assert reads(48) == reads(480)


def test_names_and_objects_one_or_several(tmp_path):
    learn = learner(path=tmp_path, loggers="csv")
    own = JSONLinesLogger(tmp_path / "own.jsonl")
    fit(learn, 1, loggers=["csv", own])  # the learner's own comes once
    fit(learn, 1, loggers=("csv", "jsonl"))
    fit(learn, 1, method="fine_tune", loggers="jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "history.jsonl", "own.jsonl"]
    lines = [len((tmp_path / name).read_text().splitlines()) for name in ("history.csv", "history.jsonl", "own.jsonl")]
    assert lines == [1 + 4, 3, 1]
    assert [type(callback) for callback in learn.cbs] == [CSVLogger]


@pytest.mark.parametrize(
    ("loggers", "error", "message"),
    [
        ("tensorbord", ValueError, "Did you mean 'tensorboard'"),
        (["csv", "mlfow"], ValueError, "Did you mean 'mlflow'"),
        (7, TypeError, "`loggers` must be among 'csv', .* Received: 7"),
        ([accuracy], TypeError, "callbacks that log"),
    ],
)
def test_a_wrong_logger_is_an_error_before_training(loggers, error, message):
    with pytest.raises(error, match=message):
        learner(loggers=loggers)
    learn = learner()
    for method in ("fit", "fit_one_cycle", "fit_flat_cos", "fine_tune"):
        with pytest.raises(error, match=message):
            getattr(learn, method)(1, loggers=loggers)
    assert learn.recorder.runs == []


@pytest.mark.parametrize(
    ("name", "kind"), [("tensorboard", TensorBoardLogger), ("wandb", WandbLogger), ("mlflow", MLflowLogger)]
)
def test_a_library_that_is_not_there_is_named_with_its_extra(name, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    message = rf"{kind.__name__} needs {name}, which is not installed: pip install 'minilearner\[{name}\]'"
    for make in (kind, lambda: learner(loggers=name)):
        with pytest.raises(ImportError, match=message):
            make()


def test_a_bad_argument_is_refused():
    with pytest.raises(ValueError, match="every_steps"):
        Notebook(every_steps=0)
