import doctest
import inspect
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as ts

from minilearner import LearningRateScheduler, ParamScheduler, plot_schedule
from minilearner import schedules as s

QUARTERS = np.array([0, 0.25, 0.5, 0.75, 1])


def torch_rates(factory, n_steps, momentum=False):
    """Returns the rates that a torch scheduler sets, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
    scheduler = factory(optimizer)
    values = []
    for _ in range(n_steps):
        values.append(optimizer.param_groups[0]["momentum" if momentum else "lr"])
        optimizer.step()
        with warnings.catch_warnings():  # torch warns past its last step; we stop there
            warnings.simplefilter("ignore")
            if len(values) < n_steps:
                scheduler.step()
    return values


SCHEDULES = [name for name in s.__all__ if inspect.isfunction(getattr(s, name))]


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_examples_in_each_docstring_give_what_they_say(name):
    function = getattr(s, name)
    finder = doctest.DocTestFinder(recurse=False)
    examples = [test for test in finder.find(function, name, globs=vars(s).copy()) if test.examples]
    assert examples
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.REPORT_NDIFF)
    report = []
    for test in examples:
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_docstring_has_every_argument(name):
    function = getattr(s, name)
    arguments = set(inspect.signature(function).parameters)
    described = inspect.getdoc(function).partition("Args:\n")[2]
    assert {argument for argument in arguments if f"    {argument}: " not in described} == set()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (s.linear(0, 2), [0, 0.5, 1, 1.5, 2]),
        (s.cosine(0, 2), [0, 0.29289, 1, 1.70711, 2]),
        (s.constant(0.3), [0.3] * 5),
        (s.exponential(1, 2), [1, 1.18921, 1.41421, 1.68179, 2]),
        (s.polynomial(0, 2, power=2), [0, 0.125, 0.5, 1.125, 2]),
    ],
)
def test_curves_have_fastais_values_for_floats_and_arrays(schedule, expected):
    assert [schedule(p) for p in QUARTERS.tolist()] == pytest.approx(expected, abs=1e-5)
    assert schedule(QUARTERS) == pytest.approx(expected, abs=1e-5)
    assert type(schedule(0.5)) is float and schedule(QUARTERS.reshape(5, 1)).shape == (5, 1)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial_in_torchs_convention_equals_torchs_and_keras_decay(power):
    rates = torch_rates(partial(torch.optim.lr_scheduler.PolynomialLR, total_iters=20, power=power), 20)
    times = np.arange(20) / 20
    assert s.polynomial(1.0, 0.0, power=power, convention="torch")(times) == pytest.approx(rates, abs=1e-12)
    keras = 0.01 + (0.1 - 0.01) * (1 - times) ** power  # PolynomialDecay(0.1, 20, 0.01, power)
    assert s.polynomial(0.1, 0.01, power=power, convention="torch")(times) == pytest.approx(keras, abs=1e-12)


def test_a_curve_holds_its_ends_outside_of_progress():
    assert (s.linear(1, 2)(-1), s.linear(1, 2)(7)) == (1, 2)
    assert s.cosine(0, 2)(np.array([-1.0, 3.0])).tolist() == [0, 2]


def test_chain_has_fastais_values_and_the_later_part_applies_at_a_joint():
    schedule = s.chain([s.linear(0, 1), s.constant(1), s.cosine(1, 0)], [0.3, 0.2, 0.5])
    p, expected = [0, 0.15, 0.3, 0.4, 0.5, 0.7, 1], [0, 0.5, 1, 1, 1, 0.65451, 0]
    assert [schedule(x) for x in p] == pytest.approx(expected, abs=1e-5)
    assert schedule(np.array(p)) == pytest.approx(expected, abs=1e-5)
    jumps = s.chain([s.constant(1), s.constant(2), s.constant(3)], [0.3, 0.2, 0.5])
    assert (jumps(0.3), jumps(0.5), jumps(0.2999)) == (2, 3, 1)
    assert jumps(np.array([0.3, 0.5, 1.0, 9.0])).tolist() == [2, 3, 3, 3]


def test_chain_never_plays_a_part_of_length_zero():
    schedule = s.chain([s.constant(1), s.linear(0, 2), s.constant(9)], [0, 1, 0])
    assert [schedule(p) for p in (0.0, 0.5, 1.0)] == [0, 1, 2]


def test_chains_nest():
    inner = s.chain([s.constant(1), s.constant(2)], [0.5, 0.5])
    outer = s.chain([inner, s.constant(3)], [0.5, 0.5])
    assert outer(np.array([0, 0.25, 0.49, 0.5])).tolist() == [1, 2, 2, 3]


@pytest.mark.parametrize(
    ("parts", "fractions", "message"),
    [
        ([s.constant(1)], [0.5, 0.5], "equally many"),
        ([], [], "at least one"),
        ([s.constant(1)] * 2, [0.5, 0.4], "sum to 1"),
        ([s.constant(1)] * 2, [1.5, -0.5], "not be negative"),
    ],
)
def test_chain_refuses_fractions_that_do_not_fit(parts, fractions, message):
    with pytest.raises(ValueError, match=message):
        s.chain(parts, fractions)


LR_GOLDEN = [
    4.0e-4, 1.31672e-3, 3.71672e-3, 6.68328e-3, 9.08328e-3, 1e-2, 9.89074e-3, 9.56773e-3, 9.04509e-3, 8.34567e-3,
    7.50003e-3, 6.54512e-3, 5.52269e-3, 4.47741e-3, 3.45498e-3, 2.50007e-3, 1.65443e-3, 9.55005e-4,
    4.32368e-4, 1.09361e-4,
]  # fmt: skip
MOM_GOLDEN = [
    0.95, 0.940451, 0.915451, 0.884549, 0.859549, 0.85, 0.851093, 0.854323, 0.859549, 0.866543,
    0.875, 0.884549, 0.894774, 0.905226, 0.915451, 0.925, 0.933457, 0.940451, 0.945677, 0.948907,
]  # fmt: skip


def test_one_cycle_has_fastais_golden_values():
    cycle = s.one_cycle(1e-2)
    progress = np.arange(20) / 20
    assert cycle["lr"](progress) == pytest.approx(LR_GOLDEN, abs=1e-6, rel=1e-5)
    assert cycle["momentum"](progress) == pytest.approx(MOM_GOLDEN, abs=1e-6)
    assert [cycle["lr"](p) for p in progress.tolist()] == pytest.approx(cycle["lr"](progress), rel=1e-12)
    assert cycle["lr"](1.0) == pytest.approx(1e-7)


def test_fine_tunes_second_phase_has_fastais_golden_values():
    lr = s.one_cycle(1e-3, div=5, pct_start=0.3)["lr"](np.arange(10) / 10)
    expected = [2e-4, 4e-4, 8e-4, 1e-3, 9.50485e-4, 8.11747e-4, 6.11264e-4, 3.88746e-4, 1.88263e-4, 4.95251e-5]
    assert lr == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize(("n", "pct"), [(100, 0.3), (20, 0.25), (7, 0.1), (4, 0.4), (30, 0.0)])
def test_one_cycle_equals_torch(n, pct, three_phase, anneal):
    def factory(o):
        return torch.optim.lr_scheduler.OneCycleLR(
            o, 1e-2, total_steps=n, pct_start=pct, three_phase=three_phase, anneal_strategy=anneal
        )

    cycle = s.one_cycle(1e-2, pct_start=pct, convention="torch", total_steps=n, three_phase=three_phase, anneal=anneal)
    for name in ("lr", "momentum"):
        expected = torch_rates(factory, n, momentum=name == "momentum")
        assert cycle[name](np.arange(n) / n) == pytest.approx(expected, abs=1e-9)
        assert [cycle[name](i / n) for i in range(n)] == pytest.approx(expected, abs=1e-9)


def test_one_cycle_in_torchs_convention_has_torchs_defaults():
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=50), 50)
    assert s.one_cycle(1e-2, convention="torch", total_steps=50)["lr"](np.arange(50) / 50) == pytest.approx(
        expected, abs=1e-9
    )


def test_one_cycle_starts_high_if_torch_divides_by_zero():
    lr = s.one_cycle(1.0, pct_start=0.1, convention="torch", total_steps=10)["lr"]
    assert lr(0.0) == 1.0 and lr(np.array([0.0]))[0] == 1.0 and np.isfinite(lr(np.arange(10) / 10)).all()


def test_one_cycle_without_momentum_has_only_a_rate():
    assert list(s.one_cycle(0.1, moms=None)) == ["lr"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr_max": -1.0}, "`lr_max` must be positive"),
        ({"lr_max": 1.0, "div": 0}, "`div` must be positive"),
        ({"lr_max": 1.0, "pct_start": 1.5}, "`pct_start`"),
        ({"lr_max": 1.0, "convention": "torhc"}, "Did you mean 'torch'"),
        ({"lr_max": 1.0, "convention": "torch"}, "`total_steps`"),
        ({"lr_max": 1.0, "total_steps": 5}, "need convention"),
        ({"lr_max": math.nan}, "`lr_max`"),
    ],
)
def test_one_cycle_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        s.one_cycle(**arguments)


BOUNDS = {"step_size": 8, "base_lr": 1e-3, "max_lr": 6e-3}


@pytest.mark.parametrize(
    ("function", "mode", "gamma"),
    [
        (s.triangular, "triangular", 1.0),
        (s.triangular2, "triangular2", 1.0),
        (partial(s.exp_range, gamma=0.97), "exp_range", 0.97),
    ],
)
def test_cyclical_rates_equal_torchs(function, mode, gamma):
    def factory(o):
        return torch.optim.lr_scheduler.CyclicLR(o, 1e-3, 6e-3, step_size_up=8, mode=mode, gamma=gamma)

    expected = torch_rates(factory, 80)
    assert function(np.arange(80), **BOUNDS) == pytest.approx(expected, abs=1e-9)
    assert [function(i, **BOUNDS) for i in range(80)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scale_mode", ["cycle", "iterations"])
def test_cyclic_with_an_own_scale_equals_torchs_rate_and_momentum(scale_mode):
    def scale(x):
        return 1 / (5 ** (x * 0.01))

    def factory(o):
        return torch.optim.lr_scheduler.CyclicLR(
            o, 1e-3, 6e-3, step_size_up=8, scale_fn=scale, scale_mode=scale_mode, base_momentum=0.8, max_momentum=0.9
        )

    lrs = s.cyclic(np.arange(50), **BOUNDS, scale_fn=scale, scale_mode=scale_mode)
    moms = s.cyclic(np.arange(50), step_size=8, base_lr=0.9, max_lr=0.8, scale_fn=scale, scale_mode=scale_mode)
    assert lrs == pytest.approx(torch_rates(factory, 50), abs=1e-9)
    assert moms == pytest.approx(torch_rates(factory, 50, momentum=True), abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_size": 0}, "`step_size`"),
        ({"base_lr": -1e-3}, "`base_lr`"),
        ({"max_lr": 1e-4}, "`max_lr` must not be below"),
    ],
)
def test_cyclical_rates_refuse_wrong_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        s.triangular(0, **{**BOUNDS, **change})


def test_cyclic_refuses_unknown_modes_and_gamma():
    with pytest.raises(ValueError, match="Did you mean 'triangular2'"):
        s.cyclic(0, **BOUNDS, mode="triangular_2")
    with pytest.raises(ValueError, match="`scale_mode`"):
        s.cyclic(0, **BOUNDS, scale_mode="epoch")
    with pytest.raises(ValueError, match="`gamma`"):
        s.exp_range(0, **BOUNDS, gamma=1.1)


def test_step_decays_equal_torchs():
    epochs = np.arange(30)
    steps = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 10, gamma=0.5), 30)
    marks = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [5, 20]), 30)
    assert s.step_decay(1.0, every=10)(epochs) == pytest.approx(steps)
    assert s.multi_step(1.0, [20, 5])(epochs) == pytest.approx(marks)
    assert s.multi_step(1.0, [20, 5])(20) == pytest.approx(0.01)


def test_decays_of_the_epoch_have_their_closed_and_recursive_values():
    assert s.time_based_decay(0.01, decay=0.5)(np.array([0, 1, 2])) == pytest.approx([0.01, 0.01 / 1.5, 0.005])
    lr, recursive = 0.01, s.time_based_decay(0.01, decay=0.5, recursive=True)
    for epoch in range(6):
        lr = lr * 1 / (1 + 0.5 * epoch)
        assert recursive(epoch) == pytest.approx(lr)
    assert recursive(np.array([0, 2])) == pytest.approx([0.01, 0.01 / 3])
    assert s.exponential_decay(0.01, rate=0.1)(np.array([0, 10])) == pytest.approx([0.01, 0.01 * math.exp(-1)])


def test_inverse_sqrt_peaks_after_its_warmup():
    assert s.inverse_sqrt(1.0, warmup_steps=4)(np.array([0, 2, 4, 16])) == pytest.approx([0, 0.5, 1, 0.5])


def test_warmup_rises_to_where_the_schedule_begins():
    schedule = s.warmup(s.cosine(2, 0), pct=0.5)
    assert schedule(np.array([0, 0.25, 0.5, 0.75, 1])) == pytest.approx([0, 1, 2, 1, 0])


def test_a_warmup_of_some_epochs_before_a_schedule_of_the_epoch_equals_torchs_sequence():
    def torchs(optimizer):
        parts = [ts.LinearLR(optimizer, 0.1, 1.0, 4), ts.StepLR(optimizer, 3, 0.5)]
        return ts.SequentialLR(optimizer, parts, [4])

    joined = s.warmup(s.step_decay(1.0, every=3), length=4, start=0.1)
    assert joined(np.arange(20)) == pytest.approx(np.array(torch_rates(torchs, 20)), abs=1e-12)
    assert [joined(epoch) for epoch in range(20)] == joined(np.arange(20)).tolist()
    assert s.warmup(s.step_decay(1.0, every=3), length=0)(0) == 1.0


def test_the_recursive_decay_ends_at_zero_and_does_not_overflow():
    schedule = s.time_based_decay(1.0, decay=0.5, recursive=True)
    assert schedule(1000) == 0.0 and schedule(np.array([2, 1000])).tolist() == pytest.approx([1 / 3, 0])


def test_a_warmup_takes_a_part_or_a_length():
    with pytest.raises(ValueError, match="Give `pct`, .* or `length`"):
        s.warmup(s.constant(1.0))
    with pytest.raises(ValueError, match="Give `pct`, .* or `length`"):
        s.warmup(s.constant(1.0), pct=0.1, length=3)
    with pytest.raises(ValueError, match="`length` .* Received: length=-1"):
        s.warmup(s.constant(1.0), length=-1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: s.chain([s.linear(0, 1), s.step_decay(1.0, every=2)], [0.5, 0.5]),
        lambda: s.warmup(s.step_decay(1.0, every=2), pct=0.1),
        lambda: s.warmup(s.cosine(1.0, 0.0), length=3),
        lambda: ParamScheduler({"lr": s.step_decay(1.0, every=2)}),
        lambda: ParamScheduler({"lr": [s.constant(1.0), s.warmup(s.constant(1.0), length=2)]}),
        lambda: ParamScheduler({"lr": s.cosine(1.0, 0.0)}, clock="step"),
        lambda: LearningRateScheduler(s.cosine(1.0, 0.0)),
        lambda: plot_schedule(s.cosine(1.0, 0.0), 5, clock="epoch"),
        lambda: plot_schedule(s.inverse_sqrt(1.0, warmup_steps=2), 5, clock="progress"),
    ],
)
def test_a_schedule_by_another_clock_is_refused(make):
    with pytest.raises(ValueError, match="function of (progress|the epoch or the step)"):
        make()


def test_flat_cosine_is_flat_then_falls():
    assert s.flat_cosine(1.0)(np.array([0, 0.75, 0.875, 1])) == pytest.approx([1, 1, 0.500005, 1e-5])


def test_sgdr_restarts_at_one_and_three_sevenths():
    schedule = s.sgdr(1.0, 3)
    assert schedule(np.array([0, 0.5, 1, 2, 3, 5, 7]) / 7) == pytest.approx([1, 0.5, 1, 0.5, 1, 0.5, 0])
    assert s.sgdr(1.0, 2, cycle_mult=1)(0.5) == 1.0


def test_warmup_stable_decay_has_three_phases():
    schedule = s.warmup_stable_decay(1.0, pct_warmup=0.2, pct_decay=0.4)
    assert schedule(np.array([0, 0.1, 0.2, 0.6, 0.8, 1])) == pytest.approx([0, 0.5, 1, 1, 0.5, 0])
    with pytest.raises(ValueError, match="must not exceed 1 together. Received: pct_warmup=0.7"):
        s.warmup_stable_decay(1.0, pct_warmup=0.7, pct_decay=0.7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: s.exponential(0, 1), "`start` must be positive"),
        (lambda: s.polynomial(0, 1, power=0), "`power`"),
        (lambda: s.step_decay(1.0, every=0), "`every`"),
        (lambda: s.step_decay(-1.0, every=2), "`start` must be finite and not negative"),
        (lambda: s.multi_step(-1.0, [1]), "`start`"),
        (lambda: s.exponential_decay(1.0, rate=math.nan), "`rate`"),
        (lambda: s.inverse_sqrt(-1.0, warmup_steps=2), "`lr_max`"),
        (lambda: s.sgdr(1.0, 2, lr_min=-1.0), "`lr_min`"),
        (lambda: s.warmup_stable_decay(-1.0), "`lr_max`"),
        (lambda: s.time_based_decay(1.0, decay=-1), "`decay`"),
        (lambda: s.exponential_decay(1.0, rate=-1), "`rate`"),
        (lambda: s.inverse_sqrt(1.0, warmup_steps=0), "`warmup_steps`"),
        (lambda: s.sgdr(1.0, 0), "`n_cycles`"),
        (lambda: s.warmup(s.constant(1), pct=2), "`pct`"),
    ],
)
def test_schedules_refuse_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_divisor_so_small_that_the_end_is_infinite_is_named():
    for schedule in (s.warmup_stable_decay, s.flat_cosine, s.one_cycle):
        with pytest.raises(ValueError, match="`div_final` must be"):
            schedule(0.1, div_final=1e-320)
