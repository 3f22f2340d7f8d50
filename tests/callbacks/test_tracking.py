"""Training stops early when it should, and validates when it should."""

from functools import partial

import pytest
import torch
from torch import nn

from minilearner import (
    Callback,
    CancelStep,
    DataLoaders,
    EarlyStopping,
    LambdaCallback,
    Learner,
    ReduceLROnPlateau,
    SaveBest,
    TorchScheduler,
    Validate,
)


def learner(n_batches=4, valid=True, metrics=None):
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 2, generator=g), torch.randn(4, 1, generator=g)) for _ in range(n_batches)]
    dls = DataLoaders(batches, batches[:1] if valid else None)
    return Learner(dls, nn.Linear(2, 1), nn.MSELoss(), torch.optim.SGD, lr=1e-9, metrics=metrics)


def test_early_stopping_ends_after_patience_epochs_without_gain():
    with (learn := learner()).no_logging():
        record = learn.fit(10, cbs=EarlyStopping(patience=2, min_delta=0.1))
    assert len(record.epochs) == 3  # the first is the best so far, two bring no gain


def test_early_stopping_says_why_the_run_ended_in_the_record_and_below_the_table(capsys):
    record = learner().fit(10, cbs=EarlyStopping(patience=2, min_delta=0.1))
    best = record.epochs[0]["valid_loss"]
    reason = f"EarlyStopping: valid_loss has not improved for 2 epochs in a row; its best is {best:.4g}"
    assert record.settings["ended"] == reason == capsys.readouterr().out.splitlines()[-1]
    assert "ended" not in learner().fit(1, cbs=EarlyStopping()).settings


def test_early_stopping_suggests_the_nearest_name():
    with (learn := learner()).no_logging(), pytest.raises(ValueError, match="Did you mean 'valid_loss'"):
        learn.fit(1, cbs=EarlyStopping("val_loss"))


def test_a_metric_that_is_not_an_error_must_rise():
    def score(pred, target):
        return torch.tensor(float(next(values)))

    values = iter([9, 1, 3, 2, 1, 5])  # the first call checks the metric before training
    with (learn := learner(metrics=score)).no_logging():
        record = learn.fit(5, cbs=EarlyStopping("score", patience=2))
    assert record.history["score"] == [1, 3, 2, 1]


def test_early_stopping_ignores_epochs_without_a_validation():
    with (learn := learner()).no_logging():
        record = learn.fit(9, cbs=[Validate(every_epochs=2), EarlyStopping(patience=2, min_delta=0.1)])
    assert len(record.epochs) == 6  # validated after 2, 4 and 6


def test_a_wrong_name_is_refused_before_training():
    with (learn := learner(valid=False)).no_logging(), pytest.raises(ValueError, match="one of 'train_loss'"):
        learn.fit(1, cbs=EarlyStopping())
    assert learn.recorder.runs == []


def test_nan_never_is_an_improvement():
    values = iter([9, 1, float("nan"), float("nan")])  # the first call checks the metric before training

    def loss_like(pred, target):
        return torch.tensor(float(next(values)))

    with (learn := learner(metrics=loss_like)).no_logging():
        assert len(learn.fit(5, cbs=EarlyStopping("loss_like", patience=2)).epochs) == 3


def test_validation_in_mid_epoch_writes_rows_that_carry_their_step():
    with (learn := learner(n_batches=5)).no_logging():
        record = learn.fit(1, cbs=Validate(every_steps=2))
    assert [row.get("step") for row in record.epochs] == [2, 4, None]
    assert len(record.history["valid_loss"]) == 1


def test_validation_every_other_epoch_and_at_the_last():
    with (learn := learner()).no_logging():
        record = learn.fit(5, cbs=Validate(every_epochs=2))
    assert ["valid_loss" in row for row in record.epochs] == [False, True, False, True, True]


def test_validate_without_a_validation_set_is_refused():
    with (learn := learner(valid=False)).no_logging(), pytest.raises(ValueError, match="needs a validation set"):
        learn.fit(1, cbs=Validate(every_steps=2))


@pytest.mark.parametrize("kwargs", [{}, {"every_steps": 1, "every_epochs": 1}])
def test_validate_takes_one_of_its_two_arguments(kwargs):
    with pytest.raises(ValueError, match="takes one of"):
        Validate(**kwargs)


def rmse(pred, target):
    return (pred - target).square().mean().sqrt()


def temperature(pred, target):
    """A metric of which nobody knows whether more is better."""
    return pred.mean()


@pytest.mark.parametrize("make", [EarlyStopping, SaveBest, ReduceLROnPlateau])
def test_a_metric_of_unknown_direction_asks_for_the_mode_before_training(make):
    steps = LambdaCallback(after_step=lambda run: pytest.fail("a step was made"))
    with (learn := learner(metrics=temperature)).no_logging(), pytest.raises(ValueError, match="`mode` is needed"):
        learn.fit(1, cbs=[make("temperature"), steps])
    with (learn := learner(metrics=temperature)).no_logging():
        learn.fit(1, cbs=make("temperature", mode="max"))


def test_a_name_says_that_less_is_better():
    assert EarlyStopping("rmse").mode == SaveBest("val_rmse").mode == ReduceLROnPlateau("perplexity").mode == "min"
    assert EarlyStopping("rmse", mode="max").mode == "max"


class Errors:
    """Says that more is better, whatever its name says."""

    higher_is_better = True

    def reset(self):
        self.values = []

    def update(self, pred, target):
        self.values.append(float(pred.mean()))

    def compute(self):
        return sum(self.values)


@pytest.mark.parametrize("make", [EarlyStopping, SaveBest, ReduceLROnPlateau])
def test_what_a_metric_says_beats_its_name_and_an_argument_beats_both(make):
    for given, direction in ((None, "max"), ("min", "min")):
        tracker = make("errors", mode=given)
        with (learn := learner(metrics=Errors())).no_logging():
            learn.fit(1, cbs=tracker)
        assert tracker.mode == direction


def test_a_tracker_in_another_run_asks_that_run_s_metric():
    tracker = EarlyStopping("errors")
    with (learn := learner(metrics=Errors())).no_logging():
        learn.fit(1, cbs=tracker)

    def errors(pred, target):
        return pred.mean()

    with (learn := learner(metrics=errors)).no_logging():
        learn.fit(1, cbs=tracker)
    assert tracker.mode == "min"


def test_a_training_metric_says_it_too():
    learn = learner(metrics=Errors())
    learn.recorder.train_metrics = True
    tracker = EarlyStopping("train_errors")
    with learn.no_logging():
        learn.fit(1, cbs=tracker)
    assert tracker.mode == "max"


def test_torchs_plateau_scheduler_is_refused_if_it_watches_in_the_wrong_direction():
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    with (learn := learner(metrics=Errors())).no_logging(), pytest.raises(ValueError, match="mode='max'"):
        learn.fit(1, cbs=TorchScheduler(plateau, every="epoch", monitor="errors"))
    with learn.no_logging():
        learn.fit(1, cbs=TorchScheduler(partial(plateau, mode="max"), every="epoch", monitor="errors"))
        learn.fit(1, cbs=TorchScheduler(plateau, every="epoch"))


class SkipsOdd(Callback):
    """Cancels every second update."""

    def before_step(self, run):
        if run.iter % 2:
            raise CancelStep


def test_an_update_that_was_skipped_is_not_validated_again():
    seen = []
    note = LambdaCallback(after_validate=lambda run: seen.append(run.global_step) if run.in_mid_epoch else None)
    with (learn := learner()).no_logging():
        learn.fit(2, cbs=[Validate(every_steps=2), SkipsOdd(), note])
    assert seen == sorted(set(seen)) and seen[0] == 2 and len(seen) > 1
