"""Rates set by a function of the epoch, a metric or a torch scheduler equal those of Keras and torch."""

import contextlib
import math
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as ts

from minilearner import (
    Callback,
    CancelStep,
    CyclicLR,
    DataLoaders,
    GradientAccumulation,
    LambdaCallback,
    Learner,
    LearningRateScheduler,
    ReduceLROnPlateau,
    TorchScheduler,
)

SGD = partial(torch.optim.SGD, momentum=0.9)
# Rates that Keras 3.16 gives for the same calls, with the torch backend in float64 and a rate of 0.1.
LOSSES = [1.0, 0.8, 0.8, 0.79995, 0.8, 0.81, 0.7, 0.7, 0.71, 0.72, 0.70, 0.70, 0.70, 0.6, 0.61, 0.62, 0.63, 0.64,
          math.nan, 0.65]  # fmt: skip
PLATEAUS = {
    "plain": ({"patience": 2, "factor": 0.5}, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8]),
    "cooldown": ({"patience": 2, "factor": 0.5, "cooldown": 3},
                 [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4]),
    "patience of one": ({"patience": 1, "factor": 0.5, "cooldown": 2},
                        [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8, 8]),
    "no patience": ({"patience": 0, "factor": 0.5, "cooldown": 1},
                    [0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10, 10, 11, 12, 13, 14, 15, 16]),
}  # fmt: skip


def learner(n_batches=6, opt_func=SGD, lr=0.1, valid=False, **kwargs):
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    batches = [(torch.randn(4, 2, generator=g), torch.randn(4, 1, generator=g)) for _ in range(n_batches)]
    dls = DataLoaders(batches, batches[:1] if valid else None)
    return Learner(dls, nn.Linear(2, 1), nn.MSELoss(), opt_func, lr=lr, device="cpu", **kwargs)


def two_groups(**kwargs):
    return learner(splitter=lambda m: [[m.weight], [m.bias]], lr=[0.01, 0.1], **kwargs)


class Rates(Callback):
    order = 100

    def __init__(self):
        self.seen = []

    def before_batch(self, run):
        if run.training and run.iter == 0:
            self.seen.append(list(run.lrs))

    @property
    def last(self):
        return [rates[-1] for rates in self.seen]


def rates_of(learn, cb, n=6):
    with learn.no_logging():
        learn.fit(n, cbs=[cb, rates := Rates()])
    return rates


class Scripted(Callback):
    """Adds a metric with the given values, one per epoch."""

    order = 62

    def __init__(self, values):
        self.values = values

    def before_fit(self, run):
        run.columns += ["scripted_loss", "scripted"]

    def after_epoch(self, run):
        run.metrics["scripted_loss"] = run.metrics["scripted"] = self.values[run.epoch]


# Functions of the epoch


def test_a_function_of_epoch_and_rate_gets_its_own_last_result_as_in_keras():
    rates = rates_of(learner(), LearningRateScheduler(lambda epoch, lr: lr * 1 / (1 + 0.5 * epoch))).last
    keras = [0.1, 0.06666666666666667, 0.03333333333333333, 0.013333333333333332, 0.0044444444444444444,
             0.0012698412698412698]  # fmt: skip
    np.testing.assert_allclose(rates, keras, rtol=0, atol=1e-12)


def test_a_function_of_the_epoch_alone_has_keras_values():
    rates = rates_of(learner(), LearningRateScheduler(lambda epoch: 0.1 * np.exp(-0.1 * epoch))).last
    keras = [0.1, 0.09048374180359596, 0.0818730753077982, 0.0740818220681718, 0.06703200460356394, 0.06065306597126335]
    np.testing.assert_allclose(rates, keras, rtol=0, atol=1e-12)


@pytest.mark.parametrize("value", [1, np.float32(0.5), np.int64(1), torch.tensor(0.5)])
def test_any_number_is_a_rate(value):
    assert rates_of(learner(lr=1e-3), LearningRateScheduler(lambda epoch: value), 1).last == [float(value)]


def test_layer_groups_keep_their_ratio_to_the_last_also_after_a_rate_of_zero():
    seen = rates_of(two_groups(), LearningRateScheduler(lambda epoch: [0.2, 0.0, 0.4][epoch]), 3).seen
    np.testing.assert_allclose(seen, [[0.02, 0.2], [0, 0], [0.04, 0.4]])


def test_a_type_error_in_the_users_function_is_not_mistaken_for_a_wrong_signature():
    def fn(epoch, lr):
        return lr + None

    with (learn := learner()).no_logging(), pytest.raises(TypeError, match="unsupported operand"):
        learn.fit(1, cbs=LearningRateScheduler(fn))


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_an_impossible_rate_is_refused_with_its_epoch(bad):
    schedule = LearningRateScheduler(lambda epoch: 0.1 if epoch < 2 else bad)
    with (learn := learner()).no_logging(), pytest.raises(ValueError, match=r"`fn` must return .* for epoch 2"):
        learn.fit(4, cbs=schedule)


def test_functions_of_other_values_or_arguments_are_refused():
    with pytest.raises(TypeError, match=r"must take \(epoch, lr\) or \(epoch\)"):
        LearningRateScheduler(lambda a, b, c: 0.1)
    with pytest.raises(TypeError, match="`fn` must be a function"):
        LearningRateScheduler(0.1)
    with (learn := learner()).no_logging(), pytest.raises(TypeError, match="for epoch 0: None"):
        learn.fit(1, cbs=LearningRateScheduler(lambda epoch: None))


def test_verbose_prints_keras_line_and_the_rate_is_restored(capsys):
    learn = learner()
    rates_of(learn, LearningRateScheduler(lambda epoch, lr: lr / 2, verbose=1), 2)
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 1: LearningRateScheduler setting learning rate to 0.05.",
        "Epoch 2: LearningRateScheduler setting learning rate to 0.025.",
    ]
    assert learn.optimizer.param_groups[0]["lr"] == 0.1


# Plateaus


def reduce_rates(learn, values, **kwargs):
    rates = []

    class After(Callback):
        order = 100

        def after_epoch(self, run):
            rates.append(list(run.lrs))

    plateau = ReduceLROnPlateau(**({"monitor": "scripted_loss"} | kwargs))
    with learn.no_logging():
        learn.fit(len(values), cbs=[Scripted(values), plateau, After()])
    return np.array(rates)


@pytest.mark.parametrize("case", PLATEAUS)
def test_a_plateau_has_keras_values(case):
    options, halvings = PLATEAUS[case]
    rates = reduce_rates(learner(1), LOSSES, **options)
    np.testing.assert_allclose(rates[:, 0], 0.1 * 0.5 ** np.array(halvings), rtol=1e-12)


def test_a_rising_metric_and_the_lowest_rate_have_keras_values():
    options = {"monitor": "scripted", "mode": "max", "patience": 2, "cooldown": 1, "min_delta": 0.05}
    rates = reduce_rates(learner(1), [-v for v in LOSSES], factor=0.5, **options)[:, 0]
    halvings = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8]
    np.testing.assert_allclose(rates, 0.1 * 0.5 ** np.array(halvings), rtol=1e-12)
    floor = reduce_rates(learner(1), LOSSES[:5], patience=1, factor=0.3, min_lr=0.01)[:, 0]
    np.testing.assert_allclose(floor, [0.1, 0.1, 0.03, 0.01, 0.01], rtol=1e-12)


def test_on_a_plateau_all_groups_fall_by_the_same_factor():
    rates = reduce_rates(two_groups(n_batches=1), [1.0] * 4, patience=1, factor=0.1, min_lr=0.005)
    np.testing.assert_allclose(rates[:, 0] / rates[:, 1], 0.1)
    assert rates[-1, 1] == pytest.approx(0.005)


def test_a_verbose_plateau_prints_when_the_rate_falls(capsys):
    reduce_rates(learner(1), [1.0, 1.0, 1.0, 0.5], patience=2, factor=0.5, verbose=1)
    assert capsys.readouterr().out == "Epoch 3: ReduceLROnPlateau reducing learning rate to 0.05.\n"


@pytest.mark.parametrize("schedule", [ReduceLROnPlateau(), LearningRateScheduler(lambda e: 0.1)])
def test_a_second_schedule_of_the_rate_is_refused(schedule):
    with (learn := learner(valid=True)).no_logging(), pytest.raises(ValueError, match="both .* schedule 'lr'"):
        learn.fit(1, cbs=[CyclicLR(0.1, step_size=2), schedule])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"factor": 1.0}, "`factor` must be in"), ({"patience": -1}, "`patience`"), ({"min_lr": math.nan}, "`min_lr`")],
)
def test_bad_plateau_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ReduceLROnPlateau(**kwargs)


# torch's schedulers

PER_STEP = {
    "OneCycleLR": lambda o: ts.OneCycleLR(o, 0.1, total_steps=18),
    "CyclicLR": lambda o: ts.CyclicLR(o, 0.01, 0.1, step_size_up=4),
    "Cosine": lambda o: ts.CosineAnnealingLR(o, T_max=18),
    "WarmRestarts": lambda o: ts.CosineAnnealingWarmRestarts(o, T_0=5),
    "Sequential": lambda o: ts.SequentialLR(
        o, [ts.LinearLR(o, 0.1, total_iters=5), ts.ExponentialLR(o, 0.9)], milestones=[5]
    ),
    "Chained": lambda o: ts.ChainedScheduler([ts.ConstantLR(o, 0.1, 4), ts.ExponentialLR(o, 0.9)]),
}


def plain_loop(learn, factory, n_epochs, every):
    model = nn.Linear(2, 1)
    model.load_state_dict(learn.model.state_dict())
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler, rates = factory(optimizer), []
    for _ in range(n_epochs):
        for x, y in learn.dls.train:
            rates.append(optimizer.param_groups[0]["lr"])
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            if every == "step":
                scheduler.step()
        if every == "epoch":
            scheduler.step()
    return rates, list(model.parameters())


@pytest.mark.filterwarnings("ignore:The epoch parameter in")  # older torch, in the plain loop at a milestone
@pytest.mark.parametrize("every", ["step", "epoch"])
@pytest.mark.parametrize("name", PER_STEP)
def test_any_torch_scheduler_trains_on_the_bits_of_a_plain_loop(name, every):
    learn = learner()
    rates, weights = plain_loop(learn, PER_STEP[name], 3, every)
    with learn.no_logging():
        learn.fit(3, cbs=TorchScheduler(PER_STEP[name], every=every))
    assert learn.recorder.lrs.tolist() == rates
    assert all(torch.equal(a, b) for a, b in zip(learn.model.parameters(), weights, strict=True))


def test_with_accumulation_a_scheduler_counts_updates():
    learn = learner(5)
    schedule = TorchScheduler(lambda o: ts.ExponentialLR(o, 0.5))
    with learn.no_logging():
        learn.fit(2, cbs=[schedule, GradientAccumulation(2)])
    assert learn.recorder.lrs.tolist() == [0.1 * 0.5**n for n in (0, 0, 1, 1, 2, 3, 3, 4, 4, 5)]


def test_skipped_updates_neither_count_nor_warn():
    class Skips(Callback):
        def before_step(self, run):
            if run.iter < 2:
                raise CancelStep

    learn = learner(4)
    with learn.no_logging(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn.fit(1, cbs=[TorchScheduler(lambda o: ts.ExponentialLR(o, 0.5)), Skips()])
        learn.fit(2, cbs=[TorchScheduler(lambda o: ts.StepLR(o, 1), every="epoch"), SkipsAll()])
    assert caught == []
    assert learn.recorder.lrs[:4].tolist() == [0.1, 0.1, 0.1, 0.05]


class SkipsAll(Callback):
    def before_step(self, run):
        raise CancelStep


class OlderSequential(ts.SequentialLR):
    """Warns as older versions of torch do."""

    def step(self):
        if self.last_epoch + 1 in self._milestones:
            warnings.warn("The epoch parameter in `scheduler.step()` was not necessary", UserWarning, stacklevel=1)
        super().step()


def test_torchs_own_warning_at_a_milestone_is_not_passed_on():
    def joined(o):
        return OlderSequential(o, [ts.ConstantLR(o, 0.5, 9), ts.ExponentialLR(o, 0.9)], milestones=[3])

    learn = learner(5)
    with learn.no_logging():
        learn.fit(1, cbs=TorchScheduler(joined))
    np.testing.assert_allclose(learn.recorder.lrs, [0.05, 0.05, 0.05, 0.1, 0.09])


def test_past_its_end_a_scheduler_holds_its_last_rate():
    learn = learner()
    with learn.no_logging():
        learn.fit(2, cbs=TorchScheduler(lambda o: ts.OneCycleLR(o, 0.1, total_steps=5)))
    assert learn.recorder.lrs[4:].tolist() == pytest.approx([0.1 / 25 / 1e4] * 8)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda o, one: ts.SequentialLR(o, [ts.ConstantLR(o, 1.0, 1), one], [2]),
        lambda o, one: ts.ChainedScheduler([one], optimizer=o),
    ],
)
def test_a_part_of_another_scheduler_holds_its_last_rate_too(wrap):
    learn = learner()
    with learn.no_logging():
        learn.fit(2, cbs=TorchScheduler(lambda o: wrap(o, ts.OneCycleLR(o, 0.1, total_steps=5))))
    assert learn.recorder.lrs[7:].tolist() == pytest.approx([0.1 / 25 / 1e4] * 5)


def test_torchs_plateau_gets_the_metric_that_it_monitors():
    learn = learner(1)
    schedule = TorchScheduler(lambda o: ts.ReduceLROnPlateau(o, patience=1), every="epoch", monitor="scripted_loss")
    schedule.order = 63
    with learn.no_logging():
        learn.fit(5, cbs=[Scripted([1.0, 1.0, 1.0, 0.5, 0.5]), schedule])
    np.testing.assert_allclose(learn.recorder.lrs, [0.1, 0.1, 0.1, 0.01, 0.01])


def test_a_rate_left_by_an_earlier_scheduler_is_not_where_the_new_one_starts():
    learn = learner(2)
    with learn.no_logging():
        learn.fit(1)
        learn.optimizer.param_groups[0]["initial_lr"] = 7.0
        learn.fit(1, cbs=TorchScheduler(lambda o: ts.LambdaLR(o, lambda step: 0.5**step)))
    assert learn.recorder.lrs[2:].tolist() == [0.1, 0.05]


@pytest.mark.parametrize("fails", [False, True])
def test_changes_of_a_scheduler_to_the_optimizer_are_undone(fails):
    class Fails(Callback):
        def after_step(self, run):
            if fails:
                raise RuntimeError("stop")

    learn = learner()
    with learn.no_logging():
        learn.fit(1)
        before = [set(group) for group in learn.optimizer.param_groups]
        attributes = set(vars(learn.optimizer))
        learn.optimizer.param_groups[0]["initial_lr"] = 7.0  # stale
        with contextlib.suppress(RuntimeError):
            learn.fit(1, cbs=[schedule := TorchScheduler(lambda o: ts.OneCycleLR(o, 0.1, total_steps=6)), Fails()])
    group = learn.optimizer.param_groups[0]
    assert schedule.scheduler.base_lrs == [0.1 / 25]
    assert set(vars(learn.optimizer)) == attributes
    assert [set(group) for group in learn.optimizer.param_groups] == [before[0] | {"initial_lr"}]
    assert (group["lr"], group["momentum"], group["initial_lr"]) == (0.1, 0.9, 7.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: TorchScheduler(lambda o: o), TypeError, "must return a scheduler"),
        (lambda: TorchScheduler(lambda o: None), TypeError, "Received: NoneType"),
        (lambda: TorchScheduler(lambda o: ts.StepLR(SGD([nn.Parameter(torch.ones(1))], lr=1), 1)), ValueError, "it re"),
        (lambda: TorchScheduler(ts.ReduceLROnPlateau), ValueError, "`every` must be 'epoch' for"),
        (lambda: TorchScheduler(ts.StepLR, every="batch"), ValueError, "`every` must be"),
    ],
)
def test_bad_torch_schedulers_are_refused(make, error, message):
    with (learn := learner()).no_logging(), pytest.raises(error, match=message):
        learn.fit(1, cbs=make())


# fit_flat_cos and fit_sgdr


def test_flat_cos_is_flat_and_then_a_cosine_for_each_layer_group():
    learn, rates = two_groups(n_batches=1), Rates()
    with learn.no_logging():
        learn.fit_flat_cos(8, [0.02, 0.2], div_final=10, pct_start=0.5, cbs=rates)
    falls = [0.2 * (0.1 + 0.9 * (1 + math.cos(math.pi * i / 4)) / 2) for i in range(4)]
    np.testing.assert_allclose(rates.last, [0.2] * 4 + falls, atol=1e-12)
    np.testing.assert_allclose([low / high for low, high in rates.seen], 0.1)
    assert set(learn.recorder.momenta) == {0.9}


@pytest.mark.parametrize(("mult", "lengths"), [(2, [2, 4, 8]), (1, [2, 2, 2]), (1.5, [2, 3])])
def test_sgdr_lasts_the_sum_of_its_cycles_and_restarts_at_each_peak(mult, lengths):
    learn, rates = two_groups(n_batches=1), Rates()
    with learn.no_logging():
        learn.fit_sgdr(len(lengths), 2, [0.02, 0.2], mult, cbs=rates)
    expected = [0.1 * (1 + math.cos(math.pi * i / n)) for n in lengths for i in range(n)]
    np.testing.assert_allclose(rates.last, expected, atol=1e-9)
    np.testing.assert_allclose(np.array(rates.seen)[:, 0] * 10, rates.last)


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (2, 1, None, 0), (2, 1, None, 1.5)])
def test_cycles_that_make_no_whole_epochs_are_refused(arguments):
    with pytest.raises(ValueError, match="`cycle_len` and `cycle_mult`|`(n_cycles|cycle_len|cycle_mult)` must"):
        learner().fit_sgdr(*arguments)


def layered():
    """A model of two layer groups, of which the first has a norm layer."""
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    split = lambda m: [[*m[0].parameters(), *m[1].parameters()], list(m[2].parameters())]  # noqa: E731
    torch.manual_seed(0)
    batches = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(4)]
    return Learner((batches, batches[:1]), model, nn.MSELoss(), splitter=split, device="cpu")


PER_GROUP = {
    "OneCycleLR": lambda n: partial(ts.OneCycleLR, max_lr=[1e-3 * 2**i for i in range(n)], total_steps=9),
    "CyclicLR": lambda n: partial(ts.CyclicLR, base_lr=[1e-3] * n, max_lr=[1e-2] * n, cycle_momentum=False),
    "LambdaLR": lambda n: partial(ts.LambdaLR, lr_lambda=[lambda step, i=i: 1 / (step + i + 1) for i in range(n)]),
    "MultiplicativeLR": lambda n: partial(ts.MultiplicativeLR, lr_lambda=[lambda step: 0.9] * n),
    "ReduceLROnPlateau": lambda n: partial(ts.ReduceLROnPlateau, min_lr=[1e-6] * n, patience=0, threshold=9),
}


@pytest.mark.parametrize("name", PER_GROUP)
def test_torchs_schedulers_take_one_value_a_layer_group(name):
    """Both halves of a layer group have the rates that a plain loop with one group a layer group has."""
    seen, learn = [], layered()
    every = "epoch" if name == "ReduceLROnPlateau" else "step"
    note = LambdaCallback(before_batch=lambda run: seen.append([dict(g) for g in run.optimizer.param_groups]))
    with learn.no_logging():
        learn.fit(2, 1e-2, cbs=[TorchScheduler(PER_GROUP[name](2), every=every), note])
    groups = learn.optimizer.param_groups
    assert [group["layer_group"] for group in groups] == [0, 0, 1, 1]
    assert all(set(group) == set(groups[0]) and group["lr"] == 1e-3 for group in groups)  # as before the run
    plain = torch.optim.AdamW([{"params": [p]} for p in list(learn.model.parameters())[:2]], lr=1e-2, betas=(0.9, 0.99))
    scheduler = PER_GROUP[name](2)(plain)
    for step, found in enumerate(seen[i] for i in (0, 1, 2, 3)):
        for group in found:
            wanted = plain.param_groups[group["layer_group"]]
            assert (group["lr"], group["betas"]) == (wanted["lr"], wanted["betas"]), step
        if every == "step":
            plain.step()
            scheduler.step()
    assert {g["weight_decay"] for g in seen[-1]} == {0.0, 0.01}


def test_torchs_schedulers_take_one_value_for_each_half_too_and_refuse_other_numbers():
    learn, model_groups = layered(), 4
    with learn.no_logging():
        learn.fit(1, cbs=TorchScheduler(PER_GROUP["OneCycleLR"](model_groups)))
        with pytest.raises(ValueError) as caught:
            learn.fit(1, cbs=TorchScheduler(PER_GROUP["OneCycleLR"](3)))
    if sys.version_info >= (3, 11):
        assert "4 parameter groups: 2 layer groups" in caught.value.__notes__[0]
    assert all("initial_lr" not in group for group in learn.optimizer.param_groups)
