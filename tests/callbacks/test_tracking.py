"""Training stops early when it should, and validates when it should."""

import pytest
import torch
from torch import nn

from minilearner import DataLoaders, EarlyStopping, Learner, Validate


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
