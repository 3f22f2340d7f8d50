"""The profile of a step reports every stage, its parts add up, and profiling leaves no trace."""

import time

import pytest
import torch
from torch import nn

from minilearner import Callback, DataLoaders, GradientClip, Learner, RandomShift, accuracy
from minilearner.data.batch_transforms import Pipeline


def learner(**options):
    x, y = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8), torch.arange(40) % 2
    dls = DataLoaders.from_arrays((x, y), bs=8, seed=0, batch_tfms=RandomShift())
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 2))
    return Learner(dls, model, lr=0.1, metrics=accuracy, **options)


def test_every_stage_takes_time_and_together_they_are_the_step():
    profile = learner().profile(4)
    assert list(profile.stages) == [
        *("data", "augmentation", "forward", "loss", "backward", "optimizer", "callbacks", "loop")
    ]
    assert all(seconds > 0 for seconds in profile.stages.values())
    assert sum(profile.stages.values()) == pytest.approx(profile.seconds)
    assert profile.items_per_second == 8 / profile.seconds


def test_the_operator_that_takes_the_time_comes_first():
    x, y = torch.rand(16, 8, 48, 48), torch.arange(16) % 2
    body = [nn.Conv2d(8, 64, 5), nn.ReLU(), nn.Conv2d(64, 64, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    dls = DataLoaders.from_arrays((x, y), bs=8, seed=0)
    profile = Learner(dls, nn.Sequential(*body, nn.Linear(64, 2)), lr=0.1, precision="fp32").profile(2)
    assert next(iter(profile.operators)) == "aten::convolution_backward"


@pytest.mark.parametrize("stage", ["data", "augmentation", "forward", "loss", "optimizer", "callbacks"])
def test_time_is_charged_to_the_stage_that_spends_it(stage):
    learn = learner()

    def slowly(function, seconds=0.1):
        return lambda *args, **kwargs: (time.sleep(seconds), function(*args, **kwargs))[1]

    if stage == "data":
        learn.dls.train.x = learn.dls.train.x.float()
        learn.dls.train.indices = slowly(learn.dls.train.indices, 0.5)  # once a pass of five batches
    elif stage == "augmentation":
        learn.dls.train.batch_tfms = Pipeline(slowly(lambda x: x))
    elif stage == "forward":
        learn.model[3].forward = slowly(learn.model[3].forward)
    elif stage == "loss":
        learn.loss_func = slowly(learn.loss_func)
    elif stage == "optimizer":
        learn.opt_func = lambda groups, lr: slow_sgd(groups, lr)
    else:
        learn.add_cb(Waits())
    profile = learn.profile(5)
    assert max(profile.stages, key=profile.stages.get) == stage
    assert 0.1 <= profile.stages[stage] < profile.seconds


def slow_sgd(groups, lr):
    class Slow(torch.optim.SGD):
        def step(self, closure=None):
            time.sleep(0.1)
            return super().step(closure)

    return Slow(groups, lr=lr)


class Waits(Callback):
    part_of_step = True

    def after_pred(self, run):
        time.sleep(0.1)


def test_a_fit_after_it_equals_one_without():
    def trained(*, profiled):
        torch.manual_seed(0)
        learn = learner(cbs=GradientClip(0.1))
        torch.manual_seed(1)
        if profiled:
            learn.profile(7)  # more than a pass
        with learn.no_logging():
            learn.fit(2)
        return learn

    a, b = trained(profiled=True), trained(profiled=False)
    assert all(torch.equal(p, q) for p, q in zip(a.model.state_dict().values(), b.model.state_dict().values()))
    assert list(a.recorder.losses) == list(b.recorder.losses)
    assert len(a.recorder.runs) == 1


def test_it_reads_as_a_table():
    text = str(learner().profile(2))
    assert "ms a step of 8 items on cpu, fp32" in text.splitlines()[0]
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["data", "augmentation", "forward"]


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match=r"`n_steps` must be at least 1. Received: n_steps=0"):
        learner().profile(0)
