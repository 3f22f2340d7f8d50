"""A run that is extended ends as one that had all epochs from the start."""

import json
import re

import pytest
import torch
from interruptions import Stop, StopAt
from safetensors.torch import load_file
from torch import nn
from torch.optim import lr_scheduler

from minilearner import (
    EMA,
    SWA,
    Callback,
    CheckpointError,
    CSVLogger,
    CyclicLR,
    DataLoaders,
    EarlyStopping,
    GradientAccumulation,
    LambdaCallback,
    Learner,
    LearningRateScheduler,
    MixUp,
    ParamScheduler,
    ProgressiveResize,
    ReduceLROnPlateau,
    SaveBest,
    TorchScheduler,
    Validate,
    accuracy,
    constant,
    cosine,
    set_seed,
)
from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.saving.checkpoint_folder import CheckpointFolder


def make(cbs=(), stop_at=None, valid=True, **options):
    set_seed(5)
    x, y = torch.rand(30, 8), torch.arange(30) % 3
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.ReLU(), nn.Linear(6, 3))
    dls = DataLoaders.from_arrays((x, y), (x[:7], y[:7]) if valid else None, bs=4, seed=2)
    return Learner(dls, model, metrics=accuracy, cbs=[*cbs, StopAt(stop_at)], **options)


def outcome(learn):
    """Everything by which two runs could differ, except their times."""
    (record,) = learn.recorder.runs
    rows = [{name: value for name, value in row.items() if name != "time_seconds"} for row in record.epochs]
    optimizer = [
        tensor.tolist() for state in learn.optimizer.state_dict()["state"].values() for tensor in state.values()
    ]
    weights = {name: tensor.tolist() for name, tensor in learn.model.state_dict().items()}
    return json.dumps([weights, optimizer, record.steps.tolist(), rows, record.settings["n_epoch"], record.number])


CALLBACKS = {
    "none": list,
    "averages at the end": lambda: [EMA(0.9)],
    "averages apart": lambda: [EMA(0.9, at_end=False)],
    "averages of all epochs": lambda: [SWA(0.0)],
    "the best and averages": lambda: [SaveBest(), EMA(0.8, debias=True)],
    "the best": lambda: [SaveBest("accuracy")],
    "stopping": lambda: [EarlyStopping(patience=9), ReduceLROnPlateau(patience=1)],
    "cycles": lambda: [CyclicLR(0.1, step_size=3, cycle_momentum=True)],
    "by epoch": lambda: [LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch))],
    "by step": lambda: [ParamScheduler({"lr": lambda step: 0.1 / (1 + step)}, clock="step")],
    "constant": lambda: [ParamScheduler({"lr": constant(0.01)})],
    "of torch": lambda: [TorchScheduler(lambda optimizer: lr_scheduler.StepLR(optimizer, 1, 0.5), every="epoch")],
    "in mid-epoch": lambda: [Validate(every_steps=3), MixUp()],
    "accumulation": lambda: [GradientAccumulation(3)],
    "each second epoch": lambda: [Validate(every_epochs=2)],
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_an_extended_run_equals_a_run_of_all_epochs(name, tmp_path):
    whole = make(CALLBACKS[name]())
    whole.fit(4, 0.05)
    make(CALLBACKS[name]()).fit(2, 0.05, checkpoint=tmp_path)
    extended = make(CALLBACKS[name]())
    extended.fit(4, 0.05, checkpoint=tmp_path, extend=True)
    assert outcome(extended) == outcome(whole)


@pytest.mark.parametrize(
    ("name", "step", "every"),
    [
        ("the best and averages", 15, {"every_steps": 1}),  # just after the shorter run
        ("the best and averages", 23, {"every_epochs": 1}),
        ("in mid-epoch", 15, {"every_epochs": 1}),  # before anything of the extension is saved
        ("in mid-epoch", 24, {"every_steps": 5}),
    ],
)
def test_an_extension_that_is_killed_resumes(name, step, every, tmp_path):
    whole = make(CALLBACKS[name]())
    whole.fit(4, 0.05)
    make(CALLBACKS[name]()).fit(2, 0.05, checkpoint=Checkpoint(tmp_path, **every))
    with pytest.raises(Stop):
        make(CALLBACKS[name](), step).fit(4, 0.05, checkpoint=Checkpoint(tmp_path, **every), extend=True)
    resumed = make(CALLBACKS[name]())
    resumed.fit(4, 0.05, checkpoint=Checkpoint(tmp_path, **every), extend=True)
    assert outcome(resumed) == outcome(whole)


def test_a_run_without_validation_is_extended(tmp_path):
    whole = make([EMA(0.9)], valid=False)
    whole.fit(3, 0.05)
    make([EMA(0.9)], valid=False).fit(1, 0.05, checkpoint=tmp_path)
    for n_epoch in (2, 3):
        extended = make([EMA(0.9)], valid=False)
        extended.fit(n_epoch, 0.05, checkpoint=tmp_path, extend=True)
    assert outcome(extended) == outcome(whole)


def test_the_learner_that_trained_the_run_extends_it(tmp_path):
    whole = make([SaveBest()])
    whole.fit(4, 0.05)
    learn = make([SaveBest()])
    learn.fit(2, 0.05, checkpoint=tmp_path)
    record = learn.fit(4, 0.05, checkpoint=tmp_path, extend=True)
    assert outcome(learn) == outcome(whole) and learn.recorder.runs == [record]


def test_what_the_learner_has_learnt_since_is_not_dropped(tmp_path):
    learn = make()
    learn.fit(1, 0.05, checkpoint=tmp_path)
    learn.fit(1, 0.05)
    with pytest.raises(CheckpointError, match="drop what the learner has learnt since. Give each call its own folder"):
        learn.fit(2, 0.05, checkpoint=tmp_path, extend=True)
    assert len(learn.recorder.runs) == 2


def test_a_run_that_was_killed_is_extended(tmp_path):
    whole = make([EMA(0.9)])
    whole.fit(4, 0.05)
    with pytest.raises(Stop):
        make([EMA(0.9)], 9).fit(2, 0.05, checkpoint=Checkpoint(tmp_path, every_steps=1))
    extended = make([EMA(0.9)])
    extended.fit(4, 0.05, checkpoint=tmp_path, extend=True)
    assert outcome(extended) == outcome(whole)


def test_an_empty_folder_begins_a_run_and_a_finished_extension_is_returned(tmp_path):
    first = make()
    first.fit(2, 0.05, checkpoint=tmp_path, extend=True)
    again = make()
    again.fit(2, 0.05, checkpoint=tmp_path, extend=True)
    assert outcome(again) == outcome(first)


def test_a_rate_that_was_found_is_kept(tmp_path):
    make().fit(1, "auto", checkpoint=tmp_path)
    learn = make()
    record = learn.fit(2, "auto", checkpoint=tmp_path, extend=True)
    assert len(set(record.steps["lr"])) == 1 and len(record.epochs) == 2


def test_the_best_weights_are_in_their_file_though_it_was_removed(tmp_path):
    path, folder = tmp_path / "best.safetensors", tmp_path / "run"
    of_first = {"monitor": "train_loss", "mode": "max", "path": path}
    make([SaveBest(**of_first)]).fit(2, 0.05, checkpoint=folder)
    written = load_file(path)
    path.unlink()
    make([SaveBest(**of_first)]).fit(3, 0.05, checkpoint=folder, extend=True)
    again = load_file(path)
    assert again.keys() == written.keys() and all(torch.equal(again[name], written[name]) for name in written)


def test_a_log_has_each_row_once(tmp_path):
    def log():
        return CSVLogger(tmp_path / "log.csv")

    make([log()]).fit(1, 0.05, checkpoint=tmp_path / "run")
    make([log()]).fit(3, 0.05, checkpoint=tmp_path / "run", extend=True)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in lines] == ["epoch", "0", "1", "2"]


def test_without_the_word_the_refusal_names_it(tmp_path):
    make().fit(1, 0.05, checkpoint=tmp_path)
    with pytest.raises(
        CheckpointError, match=r"run:\n  n_epochs: saved 1, now 2\nPut .* give `extend=True` and the same"
    ):
        make().fit(2, 0.05, checkpoint=tmp_path)


def test_another_run_is_refused_with_the_word_too(tmp_path):
    make().fit(2, 0.05, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match=r"run:\n  lr: saved 0.05, now 0.1\nPut.*new one\.$"):
        make().fit(3, 0.1, checkpoint=tmp_path, extend=True)
    with pytest.raises(CheckpointError, match=r"now 1\nPut.*new one\. `extend` only makes a run longer\.$"):
        make().fit(1, 0.05, checkpoint=tmp_path, extend=True)


REFUSED = {
    "one cycle": (
        lambda learn, n, **how: learn.fit_one_cycle(n, 0.1, **how),
        [],
        "lr of .* in epoch 1 at batch 2, and",
    ),
    "flat, then cosine": (
        lambda learn, n, **how: learn.fit_flat_cos(n, 0.1, pct_start=0.5, **how),
        [],
        "lr of ParamScheduler was .* in epoch 2 at batch 2, and would have been 0.1 in a run of 4",
    ),
    "cosine": (None, [ParamScheduler({"lr": cosine(0.1, 0.0)})], "lr of ParamScheduler was 0.0.* epoch 1 at batch 2"),
    "averages from the middle": (None, [EMA(0.9, start=0.5)], "averaging of EMA was True in epoch 2 at batch 1, and"),
    "averages of epochs": (None, [SWA(0.4)], "averaging of SWA was True in epoch 1 .* have been False in a run of 4"),
    "validation": (None, [Validate(every_epochs=3)], "validation of Validate was True in epoch 2 at batch 1"),
    "early stopping": (None, [EarlyStopping(min_delta=9.0)], "ended in epoch 2 of 2, by early stopping"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_depends_on_the_length_refuses_and_changes_nothing(case, tmp_path):
    fit, cbs, why = REFUSED[case]
    fit = fit or (lambda learn, n, **how: learn.fit(n, 0.1, **how))
    fit(make(cbs), 2, checkpoint=tmp_path)
    learn = make(cbs)
    before = {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"run of 2 epochs that cannot be extended to 4: .*{why}") as refused:
        fit(learn, 4, checkpoint=tmp_path, extend=True)
    assert "give the old number of epochs again" in str(refused.value) and not learn.recorder.runs
    assert all(torch.equal(before[name], tensor) for name, tensor in learn.model.state_dict().items())
    fit(make(cbs), 2, checkpoint=tmp_path)  # the folder is unchanged


def test_the_way_out_of_a_refusal_trains_on(tmp_path):
    learn = make()
    learn.fit_one_cycle(2, 0.1, checkpoint=tmp_path / "1")
    learn.fit_one_cycle(1, 0.1)
    again = make()
    again.fit_one_cycle(2, 0.1, checkpoint=tmp_path / "1")
    again.fit_one_cycle(1, 0.1, checkpoint=tmp_path / "2")
    assert torch.equal(learn.model[0].weight, again.model[0].weight)


def test_images_that_grow_depend_on_the_length(tmp_path):
    def build():
        set_seed(1)
        x, y = torch.rand(8, 1, 8, 8), torch.arange(8) % 2
        model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))
        return Learner(DataLoaders.from_arrays((x, y), bs=4, seed=0), model, cbs=ProgressiveResize())

    build().fit(2, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="scale of ProgressiveResize was 0.91.* in epoch 2"):
        build().fit(4, checkpoint=tmp_path, extend=True)


def test_fine_tune_refuses_at_the_phase_that_became_longer(tmp_path):
    def build():
        learn = make()
        learn.splitter = lambda model: [list(model[0].parameters()), list(model[1:].parameters())]
        return learn

    build().fine_tune(1, checkpoint=tmp_path)
    learn = build()
    with pytest.raises(CheckpointError, match="2-unfrozen holds a run of 1 epoch that cannot be extended to 2: lr of"):
        learn.fine_tune(2, checkpoint=tmp_path, extend=True)


def test_a_users_callback_that_reads_the_length_is_named(tmp_path):
    class Own(Callback):
        def after_epoch(self, run):
            self.is_late = run.progress > 0.5

    def cbs():
        return [Own(), LambdaCallback(after_epoch=lambda run: run.n_epochs)]

    make(cbs()).fit(1, 0.05, checkpoint=tmp_path)
    with pytest.warns(UserWarning, match="the code of Own, LambdaCallback reads how long the run is"):
        make(cbs()).fit(2, 0.05, checkpoint=tmp_path, extend=True)


def test_a_users_callback_may_say_what_depends_on_the_length(tmp_path):
    class Own(Callback):
        def __init__(self, share):
            self.share = share

        def before_epoch(self, run):
            self.is_late = run.epoch / run.n_epochs > self.share

        def plan_at(self, moment):
            return {"lateness": moment.epoch / moment.n_epochs > self.share}

    make([Own(0.9)]).fit(2, 0.05, checkpoint=tmp_path)
    make([Own(0.9)]).fit(3, 0.05, checkpoint=tmp_path, extend=True)
    make([Own(0.4)]).fit(2, 0.05, checkpoint=tmp_path / "other")
    with pytest.raises(CheckpointError, match="lateness of Own was True in epoch 2 at batch 1"):
        make([Own(0.4)]).fit(4, 0.05, checkpoint=tmp_path / "other", extend=True)


def test_a_folder_of_an_earlier_version_says_so(tmp_path):
    make().fit(1, 0.05, checkpoint=tmp_path)
    folder = CheckpointFolder(tmp_path)
    saved = folder.newest()
    del saved.state["before_end"]
    folder.save(saved.number, saved.state)
    with pytest.raises(CheckpointError, match="extended to 2: an earlier version of minilearner saved it"):
        make().fit(2, 0.05, checkpoint=tmp_path, extend=True)
    make().fit(1, 0.05, checkpoint=tmp_path)


def test_the_word_needs_a_folder():
    with pytest.raises(ValueError, match="`extend` needs `checkpoint`"):
        make().fit(1, extend=True)
    with pytest.raises(TypeError, match=re.escape("`extend` must be True or False. Received: extend=10.")):
        make().fit(1, checkpoint="nowhere", extend=10)


def test_a_line_says_what_is_extended(tmp_path, capsys):
    make().fit(1, 0.05, checkpoint=tmp_path)
    learn = make()
    learn.fit(2, 0.05, checkpoint=tmp_path, extend=True)
    lines = capsys.readouterr().out.splitlines()
    assert f"{tmp_path}: resuming in epoch 2/2 at batch 1/7" in lines
    assert f"{tmp_path}: extending the run from 1 to 2 epochs" in lines
