"""Scheduled values equal fastai's one cycle and torch's CyclicLR, and settings are restored afterwards."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from minilearner import Callback, CyclicLR, DataLoaders, Learner, ParamScheduler
from minilearner.schedules import constant, cosine, inverse_sqrt, linear, step_decay

# lr_max=1e-2 over 20 steps, from fastai
ONE_CYCLE_LR = [4.0e-4, 1.31672e-3, 3.71672e-3, 6.68328e-3, 9.08328e-3, 1e-2, 9.89074e-3, 9.56773e-3, 9.04509e-3,
                8.34567e-3, 7.50003e-3, 6.54512e-3, 5.52269e-3, 4.47741e-3, 3.45498e-3, 2.50007e-3, 1.65443e-3,
                9.55005e-4, 4.32368e-4, 1.09361e-4]  # fmt: skip
ONE_CYCLE_MOM = [.95, .940451, .915451, .884549, .859549, .85, .851093, .854323, .859549, .866543, .875,
                 .884549, .894774, .905226, .915451, .925, .933457, .940451, .945677, .948907]  # fmt: skip
SGD = partial(torch.optim.SGD, momentum=0.9)


def learner(n_batches=10, opt_func=SGD, **kwargs):
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 2, generator=g), torch.randn(4, 1, generator=g)) for _ in range(n_batches)]
    return Learner(DataLoaders(batches), nn.Linear(2, 1), nn.MSELoss(), opt_func, lr=1e-3, **kwargs)


@pytest.mark.parametrize("opt_func", [SGD, torch.optim.AdamW, None])
def test_one_cycle_has_fastais_values(opt_func):
    learn = learner(opt_func=opt_func)
    with learn.no_logging():
        learn.fit_one_cycle(2, lr_max=1e-2)
    np.testing.assert_allclose(learn.recorder.lrs, ONE_CYCLE_LR, rtol=2e-5)
    np.testing.assert_allclose(learn.recorder.momenta, ONE_CYCLE_MOM, atol=1e-6)


def test_one_cycle_gives_each_layer_group_its_own_peak():
    learn = learner(splitter=lambda m: [[m.weight], [m.bias]])
    peaks = []
    watch = type("Watch", (ParamScheduler,), {"order": 61, "before_batch": lambda self, run: peaks.append(run.lrs)})({})
    with learn.no_logging():
        learn.fit_one_cycle(2, lr_max=slice(1e-4, 1e-2), cbs=watch)
    np.testing.assert_allclose(np.max(peaks, axis=0), [1e-4, 1e-2], rtol=1e-6)
    np.testing.assert_allclose(np.array(peaks)[:, 0] * 100, np.array(peaks)[:, 1], rtol=1e-6)


class Rates(Callback):
    order = 100

    def __init__(self):
        self.seen = []

    def before_batch(self, run):
        self.seen.append(run.lrs)


@pytest.mark.parametrize("cb", [CyclicLR(1e-2, 1e-3, step_size=5), ParamScheduler({"lr": linear(1e-3, 1e-2)})])
def test_one_schedule_for_all_layer_groups_keeps_the_ratio_of_their_rates(cb):
    learn, rates = learner(splitter=lambda m: [[m.weight], [m.bias]]), Rates()
    with learn.no_logging():
        learn.fit(1, lr=slice(1e-5, 1e-3), cbs=[cb, rates])
    seen = np.array(rates.seen)
    np.testing.assert_allclose(seen[:6, 1], 1e-3 + 9e-3 * np.arange(6) / (5 if isinstance(cb, CyclicLR) else 10))
    np.testing.assert_allclose(seen[:, 0] * 100, seen[:, 1])


@pytest.mark.parametrize(
    ("clock", "schedule", "times"),
    [("step", inverse_sqrt(0.1, warmup_steps=4), range(10)), ("epoch", step_decay(0.1, every=1), [0] * 5 + [1] * 5)],
)
def test_a_schedule_gets_the_time_of_its_clock(clock, schedule, times):
    learn = learner(5)
    with learn.no_logging():
        learn.fit(2, cbs=ParamScheduler({"lr": schedule}, clock=clock))
    np.testing.assert_allclose(learn.recorder.lrs, [schedule(t) for t in times], rtol=1e-6)


def test_an_unknown_clock_is_refused():
    with pytest.raises(ValueError, match="`clock` must be one of .*'epoch'"):
        ParamScheduler({"lr": constant(0.1)}, clock="steps")


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_cyclic_trains_on_the_same_bits_as_torchs_scheduler(mode):
    learn = learner(n_batches=30)
    model = nn.Linear(2, 1)
    model.load_state_dict(learn.model.state_dict())
    optimizer = SGD(model.parameters(), lr=1e-3)
    torchs = torch.optim.lr_scheduler.CyclicLR(
        optimizer, 1e-4, 1e-2, step_size_up=7, mode=mode, gamma=0.99, cycle_momentum=True
    )
    rates = []
    for x, y in learn.dls.train:
        rates.append(optimizer.param_groups[0]["lr"])
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        torchs.step()
    with learn.no_logging():
        learn.fit(1, cbs=CyclicLR(1e-2, 1e-4, step_size=7, mode=mode, gamma=0.99, cycle_momentum=True))
    np.testing.assert_allclose(learn.recorder.lrs, rates, rtol=0, atol=1e-9)
    torch.testing.assert_close(list(learn.model.parameters()), list(model.parameters()), rtol=1e-6, atol=1e-8)


def test_the_lower_bound_is_a_quarter_of_the_upper_by_default():
    assert CyclicLR(0.4, step_size=3).rate_at(0) == pytest.approx(0.1)


def test_settings_are_restored_after_the_run():
    learn = learner()
    with learn.no_logging():
        learn.fit_one_cycle(1, lr_max=1e-2, wd=0.3)
    group = learn.optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-3, 0.9, 0)


def test_two_schedules_for_one_setting_are_refused():
    with (learn := learner()).no_logging(), pytest.raises(ValueError, match="both .* schedule 'lr'"):
        learn.fit_one_cycle(1, cbs=CyclicLR(0.1, step_size=2))
    assert len(learn.recorder.losses) == 0


def test_an_unknown_setting_is_refused_with_a_suggestion():
    schedule = ParamScheduler({"weight_decai": constant(1e-2)})
    with (learn := learner()).no_logging(), pytest.raises(ValueError, match="Did you mean 'weight_decay'"):
        learn.fit(1, cbs=schedule)


def test_moms_for_an_optimizer_without_momentum_are_refused():
    learn = learner(opt_func=torch.optim.Adagrad)
    with learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)  # by default only the rate is scheduled then
        with pytest.raises(ValueError, match="Adagrad has no 'momentum' to schedule"):
            learn.fit_one_cycle(1, 1e-2, moms=(0.95, 0.85, 0.95))


@pytest.mark.parametrize(("given", "name"), [(0.1, "schedules"), ({"lr": 0.1}, "lr"), ({"lr": [0.1]}, "lr")])
def test_only_functions_are_schedules(given, name):
    with pytest.raises(TypeError, match=f"`{name}` must be a"):
        ParamScheduler(given)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_an_impossible_rate_ends_the_run(bad):
    learn = learner()
    with learn.no_logging(), pytest.raises(ValueError, match="`lr` must be finite and not negative"):
        learn.fit(1, cbs=ParamScheduler({"lr": lambda progress: 0.1 if progress < 0.5 else bad}))
    assert len(learn.recorder.lrs) == 5


def test_any_setting_can_be_scheduled():
    learn = learner()
    with learn.no_logging():
        learn.fit(1, cbs=ParamScheduler({"lr": linear(1e-3, 1e-2), "weight_decay": cosine(0.1, 0.0)}))
    np.testing.assert_allclose(learn.recorder.lrs, [1e-3 + 9e-3 * i / 10 for i in range(10)])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_lr": -1, "step_size": 2}, "`max_lr` must be finite and not negative"),
        ({"max_lr": 1, "step_size": 0}, "step_size"),
        ({"max_lr": 1, "step_size": 2, "mode": "triangle"}, "mode"),
        ({"max_lr": 0.1, "base_lr": 1, "step_size": 2}, "base_lr"),
        ({"max_lr": 1, "step_size": 2, "max_momentum": 1.5}, "`max_momentum` must be .* Received: max_momentum=1.5"),
        ({"max_lr": 1, "step_size": 2, "base_momentum": 0.95}, "`base_momentum` must not exceed `max_momentum`"),
    ],
)
def test_bad_cycles_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        CyclicLR(**kwargs)
