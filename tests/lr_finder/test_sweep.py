"""The sweep leaves no trace, stops when it should, and uses the same rates as fastai."""

import copy
import math
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from minilearner import (
    EMA,
    Callback,
    DataLoaders,
    GradientAccumulation,
    GradientClip,
    Learner,
    MixUp,
    minimum,
    slide,
    steep,
    valley,
)
from minilearner.fitting.rates import sweep_rates
from minilearner.lr_finder.sweep import FixedLoss, short_sweep
from minilearner.training.optimizers import momentum_of


def learner(net, blobs, **kwargs):
    dls = DataLoaders.from_arrays(*blobs, bs=16, seed=3)
    return Learner(dls, net(), **({"lr": 0.01} | kwargs))


def torch_learner(net, blobs, generator=None):
    (x, y), valid = blobs
    data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True, generator=generator)
    return Learner(DataLoaders(loader, [tuple(map(torch.tensor, valid))]), net(), nn.CrossEntropyLoss(), lr=0.01)


def everything(learn):
    return [t.clone() for t in learn.model.state_dict().values()] + [
        t.clone() for state in learn.optimizer.state_dict()["state"].values() for t in state.values()
    ]


def fit_with_and_without(make, find):
    results = []
    for with_sweep in (True, False):
        learn = make()
        torch.manual_seed(7), np.random.seed(7), random.seed(7)
        with learn.no_logging():
            learn.fit(1)
            if with_sweep:
                find(learn)
            learn.fit(2)
        results.append([*everything(learn), torch.rand(3), torch.tensor(np.random.rand(3)), random.random()])
    return results


def same(a, b):
    return all(torch.equal(p, q) if isinstance(p, torch.Tensor) else p == q for p, q in zip(a, b, strict=True))


class Interrupts(Callback):
    part_of_step = True

    def __init__(self, error):
        self.error = error

    def after_backward(self, run):
        np.random.rand(), random.random()
        if run.global_step == 5:
            raise self.error


def interrupt_with(error):
    def find(learn):
        learn.add_cb(cb := Interrupts(error))
        with pytest.raises(type(error)):
            learn.lr_find(show_plot=False)
        learn.remove_cb(cb)

    return find


@pytest.mark.parametrize(
    "find",
    [lambda learn: learn.lr_find(show_plot=False), interrupt_with(KeyboardInterrupt()), interrupt_with(RuntimeError())],
    ids=["to its end", "interrupted", "raising"],
)
@pytest.mark.parametrize("make", [learner, torch_learner], ids=["our loader", "torch's loader"])
def test_fit_after_the_sweep_is_bit_identical_to_fit_without(net, blobs, make, find):
    assert same(*fit_with_and_without(lambda: make(net, blobs), find))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"precision": "bf16"},
        {"cbs": [GradientAccumulation(2), GradientClip(0.1)]},
        {"cbs": [EMA(0.9)]},
        {"cbs": [MixUp(0.4)]},
    ],
    ids=["bf16", "accumulation", "averages", "mixing"],
)
def test_neither_precision_nor_callbacks_of_the_step_leave_a_trace(net, blobs, kwargs):
    def make():
        return learner(net, blobs, **copy.deepcopy(kwargs))

    assert same(*fit_with_and_without(make, lambda learn: learn.lr_find(num_it=30, show_plot=False)))


def test_the_comparison_can_fail(net, blobs):
    def leave_a_trace(learn):
        learn.lr_find(show_plot=False)
        torch.rand(1)

    assert not same(*fit_with_and_without(lambda: torch_learner(net, blobs), leave_a_trace))


def test_a_loaders_own_generator_is_restored(net, blobs):
    def make():
        return torch_learner(net, blobs, torch.Generator().manual_seed(1))

    assert same(*fit_with_and_without(make, lambda learn: learn.lr_find(show_plot=False)))


def test_flags_gradients_and_recorder_stay_the_same(net, blobs):
    learn = learner(net, blobs)
    learn.model[0].bias.requires_grad_(False)
    learn.model[0].weight.grad = torch.ones(16, 2)
    learn.model.eval()
    learn.lr_find(show_plot=False)
    assert not learn.model[0].bias.requires_grad
    assert torch.equal(learn.model[0].weight.grad, torch.ones(16, 2))
    assert not any(module.training for module in learn.model.modules())
    assert learn.recorder.runs == []


def test_rates_are_fastais(net, blobs):
    sweep = learner(net, blobs).lr_find(stop_div=False, show_plot=False)
    np.testing.assert_allclose(sweep.lrs, [1e-7 * 1e8 ** (i / 100) for i in range(len(sweep.lrs))])
    assert len(sweep.lrs) == len(sweep.losses) == 100


def test_a_linear_ramp_is_linear(net, blobs):
    sweep = learner(net, blobs).lr_find(0.1, 0.5, 10, step_mode="linear", stop_div=False, show_plot=False)
    np.testing.assert_allclose(np.diff(sweep.lrs), 0.04)


def test_whole_epochs_by_number_of_steps(net, blobs):
    sweep = learner(net, blobs).lr_find(1e-5, 1e-4, sample_steps=12, show_plot=False)
    assert len(sweep.lrs) == 15  # three epochs of five batches


def test_suggestions_unpack_in_the_order_asked_and_have_names(net, blobs):
    funcs = (minimum, steep, slide, valley)
    sweep = learner(net, blobs).lr_find(suggest_funcs=funcs, show_plot=False)
    lr_min, lr_steep, lr_slide, lr_valley = sweep
    assert (sweep.minimum, sweep.steep, sweep.slide, sweep.valley) == (lr_min, lr_steep, lr_slide, lr_valley)
    assert list(sweep.suggestions) == ["minimum", "steep", "slide", "valley"]


def test_it_stops_at_four_times_the_best_smoothed_loss(net, ninety_blobs):
    sweep = learner(net, ninety_blobs, opt_func=torch.optim.SGD).lr_find(1e-3, 1e6, show_plot=False)
    assert len(sweep.lrs) < 100
    assert sweep.smoothed[-1] > 4 * min(sweep.smoothed)
    assert (sweep.smoothed[:-1] <= 4 * np.minimum.accumulate(sweep.smoothed[:-1])).all()
    assert "exceeded 4 times its best" in sweep.stop_reason


def test_nan_stops_even_if_divergence_does_not(net, blobs):
    class Breaks(Callback):
        part_of_step = True

        def after_loss(self, run):
            if run.global_step == 20:
                run.loss = run.loss * float("nan")

    sweep = learner(net, blobs, cbs=Breaks()).lr_find(stop_div=False, show_plot=False)
    assert len(sweep.losses) == 20
    assert "the loss became nan" in sweep.stop_reason


def test_nan_at_the_first_batch_is_reported_and_plotted(net, blobs):
    def loss(pred, y):  # finite in the check before training, which needs no gradient
        return pred.sum() * (float("nan") if torch.is_grad_enabled() else 1.0)

    sweep = learner(net, blobs, loss_func=loss).lr_find()
    assert len(sweep.lrs) == 0 and math.isnan(sweep.recommended)
    assert sweep.stop_reason == "the loss became nan at a rate of 1e-07"
    assert [text.get_text() for text in sweep.plot().axes[0].texts] == ["no loss to draw"]
    assert sweep.plot().axes[0].get_xscale() == "log"


def test_a_curve_that_never_falls_gives_fastais_suggestion_and_a_note(net, blobs):
    rising = iter(range(1, 1000))
    learn = learner(net, blobs, loss_func=lambda pred, y: pred.sum() * 0 + float(next(rising)))
    sweep = learn.lr_find(stop_div=False, show_plot=False, suggest_funcs=(valley,))
    assert list(sweep) == [sweep.lrs[10]]
    assert "never falls" in sweep.notes["valley"]


def test_only_callbacks_of_the_step_take_part(net, blobs):
    fired = []

    class Logs(Callback):
        def after_batch(self, run):
            fired.append("logs")

    class Shapes(Logs):
        part_of_step = True

        def after_batch(self, run):
            fired.append("shapes")

    learn = learner(net, blobs, cbs=[Logs(), Shapes()])
    learn.lr_find(num_it=10, show_plot=False)
    assert fired == ["shapes"] * 10


def test_with_accumulation_each_update_has_one_rate_and_one_mean_loss(net, blobs):
    seen = []

    class Watch(Callback):
        part_of_step = True

        def after_loss(self, run):
            seen.append((run.lrs[0], float(run.loss.detach())))

    learn = learner(net, blobs, cbs=[GradientAccumulation(2), Watch()])
    sweep = learn.lr_find(1e-6, 1e-5, num_it=3, show_plot=False)
    assert [lr for lr, _ in seen] == [sweep.lrs[0]] * 2 + [sweep.lrs[1]] * 2 + [sweep.lrs[2]]
    np.testing.assert_allclose(sweep.losses[0], (seen[0][1] + seen[1][1]) / 2)


def test_epochs_count_updates_under_accumulation(net, blobs):
    sweep = learner(net, blobs, cbs=GradientAccumulation(2)).lr_find(1e-6, 1e-5, epochs=2, show_plot=False)
    assert len(sweep.lrs) == 6  # five batches make three updates


class Counts(Callback):
    part_of_step = True

    def __init__(self, model):
        self.model, self.n, self.rng = model, 0, np.random.default_rng(0)

    def before_batch(self, run):
        self.n += 1
        run.x = run.x + float(self.rng.normal())


def test_callbacks_and_losses_with_state_are_restored(net, blobs):
    class Drifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(()))

        def forward(self, pred, y):
            self.scale.mul_(0.99)
            return nn.functional.cross_entropy(pred, y) * self.scale

    def make():
        model = net()
        return Learner(DataLoaders.from_arrays(*blobs, bs=16, seed=3), model, Drifting(), lr=0.01, cbs=Counts(model))

    assert same(*fit_with_and_without(make, lambda learn: learn.lr_find(show_plot=False)))
    learn = make()
    learn.lr_find(num_it=5, show_plot=False)
    assert (learn.cbs[0].n, learn.cbs[0].model is learn.model) == (0, True)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"epochs": 1, "sample_steps": 9}, "not both"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"start_lr": 0}, "`start_lr` must be positive"),
        ({"end_lr": "10"}, "`end_lr` must be a number. Received: end_lr='10'"),
        ({"start_lr": 1, "end_lr": 0.1}, "below `end_lr`"),
        ({"num_it": 1}, "`num_it` must be at least 2. Received: num_it=1"),
        ({"step_mode": "log"}, "`step_mode` must be"),
        ({"smoothing": 1.0}, "`smoothing` must be in"),
        ({"stop_factor": 0.5}, "`stop_factor` must be above 1"),
        ({"skip_end": -1}, "`skip_end` must be at least 0. Received: skip_end=-1"),
        ({"skip_start": 2.5}, "`skip_start` must be a whole number"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(net, blobs, kwargs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        learner(net, blobs).lr_find(**kwargs)


def test_the_fixed_loss_does_not_change_the_sweep(net, blobs, monkeypatch):
    def run_sweep(n_items):
        defaults = {**FixedLoss.__init__.__kwdefaults__, "n_items": n_items}
        monkeypatch.setattr("minilearner.lr_finder.sweep.count_batches_to_keep", lambda num_it: n_items)
        monkeypatch.setattr(FixedLoss.__init__, "__kwdefaults__", defaults)
        return learner(net, blobs).lr_find(num_it=30, show_plot=False)

    measured, not_measured = run_sweep(32), run_sweep(10**6)
    assert np.array_equal(measured.losses, not_measured.losses)
    assert np.isfinite(measured.fixed[1:]).all() and np.isnan(measured.fixed[0])
    assert np.isnan(not_measured.fixed).all()


def test_only_the_weights_change_the_fixed_loss(net, blobs):
    learn = learner(net, blobs, opt_func=torch.optim.SGD)
    sweep = learn.lr_find(1e-30, 1e-29, num_it=20, show_plot=False)
    assert np.ptp(sweep.fixed[8:]) == 0 and np.ptp(sweep.losses) > 0


def test_the_fixed_loss_is_the_plain_loss_of_items_before_mixing(net, blobs):
    class Mixes(Callback):
        part_of_step = True

        def before_batch(self, run):
            run.x, run.y = run.x * 0, run.y * 0

    def run_sweep(*cbs):
        return learner(net, blobs, cbs=cbs, opt_func=torch.optim.SGD).lr_find(1e-30, 1e-29, num_it=9, show_plot=False)

    plain, mixed = run_sweep(), run_sweep(Mixes())
    assert mixed.fixed[-1] == plain.fixed[-1] and mixed.losses[-1] != plain.losses[-1]


class Watches(Callback):
    part_of_step = True

    def __init__(self, see):
        self.see = see

    def before_step(self, run):
        SEEN.append(self.see(run))


SEEN = []


def observe_sweep(learn, see):
    SEEN.clear()
    learn.add_cb(watch := Watches(see))
    sweep = learn.lr_find(num_it=10, show_plot=False)
    learn.remove_cb(watch)
    return list(SEEN), sweep


@pytest.mark.parametrize("opt_func", [None, partial(torch.optim.SGD, momentum=0.5)])
def test_it_sweeps_with_the_momentum_of_one_cycles_peak(net, blobs, opt_func):
    learn = learner(net, blobs, opt_func=opt_func, moms=(0.95, 0.77, 0.95))
    momenta, sweep = observe_sweep(learn, lambda run: momentum_of(run.optimizer.param_groups[0]))
    assert momenta == [0.77] * 10 and sweep.settings["momentum"] == 0.77
    assert momentum_of(learn.optimizer.param_groups[0]) == (0.9 if opt_func is None else 0.5)


def test_an_optimizer_without_momentum_has_none_in_a_sweep(net, blobs):
    sweep = learner(net, blobs, opt_func=torch.optim.Adagrad).lr_find(num_it=10, show_plot=False)
    assert sweep.settings["momentum"] is None


def test_it_keeps_the_ratios_of_the_learners_rates(net, blobs):
    def layers(model):
        return [list(model[:2].parameters()), list(model[2:].parameters())]

    learn = learner(net, blobs, lr=slice(1e-4, 1e-2), splitter=layers)
    rates, sweep = observe_sweep(learn, lambda run: run.lrs)
    np.testing.assert_allclose([last for _, last in rates], sweep.lrs)
    np.testing.assert_allclose([first / last for first, last in rates], 0.01)
    assert learn.optimizer.param_groups[0]["lr"] == 1e-4


def test_the_rate_of_a_frozen_group_does_not_count(net, blobs):
    def layers(model):
        return [list(model[:2].parameters()), list(model[2:].parameters())]

    learn = learner(net, blobs, lr=[1e-1, 1e-3], splitter=layers, train_bn=False)
    assert learn.lr_find(show_plot=False).settings["highest"] == pytest.approx(100)
    learn.freeze()
    assert learn.lr_find(show_plot=False).settings["highest"] == 1


def test_every_sweep_recommends(net, blobs):
    sweep = learner(net, blobs).lr_find(suggest_funcs=None, show_plot=False)
    assert 1e-3 < sweep.recommended < 1 and sweep.interval[0] < sweep.recommended < sweep.interval[1]
    assert sweep.bounds[0] < sweep.bounds[1] and "between the middle of this dip and the rise" in sweep.reason


def test_the_recommendation_knows_whether_there_are_norm_layers(net, blobs):
    bare, normed = (nn.Sequential(nn.Linear(2, 8), part, nn.Linear(8, 3)) for part in (nn.ReLU(), nn.BatchNorm1d(8)))
    assert learner(lambda: bare, blobs).lr_find(show_plot=False).settings["has_norm"] is False
    assert learner(lambda: normed, blobs).lr_find(show_plot=False).settings["has_norm"] is True


class Characters(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(8, 3)

    def forward(self, x):
        state = self.layer(x[:, None] if isinstance(self.layer, nn.RNNBase) else x)[0]
        return self.head(state[:, -1] if state.ndim == 3 else state)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(nn.LSTM(2, 8, batch_first=True), True), (nn.LSTMCell(2, 8), True), (nn.GRU(2, 8, batch_first=True), False)],
)
def test_the_recommendation_knows_whether_there_are_lstm_layers(blobs, layer, expected):
    sweep = learner(lambda: Characters(layer), blobs, opt_func=torch.optim.Adam).lr_find(
        suggest_funcs=None, show_plot=False
    )
    assert sweep.settings["has_lstm"] is expected
    assert ("adaptive steps of LSTM layers" in sweep.reason) is expected


@pytest.mark.parametrize(("cbs", "bs"), [([], 16), ([GradientAccumulation(2)], 32)])
def test_the_recommendation_knows_the_items_of_an_update(net, blobs, cbs, bs):
    sweep = learner(net, blobs, cbs=cbs).lr_find(show_plot=False)
    assert sweep.settings["bs"] == bs and f"and batches of {bs} items" in sweep.reason


def test_a_model_that_is_already_good_gets_no_rate(net, ninety_blobs):
    learn = learner(net, ninety_blobs)
    with learn.no_logging():
        learn.fit_one_cycle(20, 0.05)
    sweep = learn.lr_find(show_plot=False)
    assert math.isnan(sweep.recommended) and "already good" in sweep.reason


def test_the_sweep_knows_whether_the_model_knows_anything(net, ninety_blobs):
    learn = learner(net, ninety_blobs)
    assert learn.lr_find(show_plot=False).settings["untrained"] is True
    with learn.no_logging():
        learn.fit_one_cycle(20, 0.05)
    assert learn.lr_find(show_plot=False).settings["untrained"] is False


def test_targets_that_are_all_alike_do_not_make_a_model_untrained(net, blobs):
    (x, y), _ = blobs
    data = x[y == 0], y[y == 0]
    learn = learner(net, (data, data))
    assert learn.lr_find(show_plot=False).settings["untrained"] is False


def test_the_reason_says_that_the_range_ends_before_the_turn(net, blobs):
    sweep = learner(net, blobs).lr_find(1e-7, 1e-3, show_plot=False)
    assert sweep.recommended <= 1e-3 and "still falling at the end of the range" in sweep.reason


@pytest.mark.parametrize("shift", [-10.0, -0.2, 100.0])
def test_the_level_of_the_loss_does_not_move_the_recommendation(net, blobs, shift):
    def run_sweep(shift):
        learn = learner(net, blobs, loss_func=lambda pred, y: nn.functional.cross_entropy(pred, y) + shift)
        return learn.lr_find(show_plot=False).recommended

    assert run_sweep(shift) == pytest.approx(run_sweep(0.0), rel=0.1)


def test_three_batches_are_repeated_for_the_whole_sweep(net, blobs):
    (x, y), _ = blobs
    learn = Learner(DataLoaders.from_arrays((x[:24], y[:24]), bs=8, seed=3), net())
    sweep = learn.lr_find(show_plot=False)
    assert len(sweep.losses) > 50 and 1e-3 < sweep.recommended < 1


@pytest.mark.parametrize("kwargs", [{"precision": "bf16"}, {"cbs": [GradientAccumulation(2), GradientClip(0.1)]}])
def test_precision_and_callbacks_of_the_step_hardly_change_the_recommendation(net, blobs, kwargs):
    plain = learner(net, blobs).lr_find(show_plot=False).recommended
    found = learner(net, blobs, **kwargs).lr_find(show_plot=False)
    assert plain / 4 < found.recommended < plain * 4
    assert np.isfinite(found.fixed[8:20]).all()


def test_losses_that_become_nan_end_the_curve_and_not_the_recommendation(net, blobs):
    class Breaks(Callback):
        part_of_step = True

        def after_loss(self, run):
            if run.lrs[0] > 0.5:
                run.loss = run.loss * float("nan")

    sweep = learner(net, blobs, cbs=Breaks()).lr_find(show_plot=False)
    assert learner(net, blobs).lr_find(show_plot=False).recommended / 5 < sweep.recommended < 0.5
    assert "became nan" in sweep.stop_reason


def test_a_range_in_which_the_loss_explodes_gives_advice(net, blobs):
    learn = learner(net, blobs, opt_func=torch.optim.SGD, loss_func=lambda pred, y: pred.pow(4).mean())
    sweep = learn.lr_find(1e3, 1e6, show_plot=False)
    assert math.isnan(sweep.recommended) and "look for NaN in data and loss, or sweep lower rates" in sweep.reason


def test_the_reason_says_that_a_model_does_not_learn(net, blobs):
    sweep = learner(net, blobs, loss_func=lambda pred, y: pred.sum() * 0 + 2.0).lr_find(show_plot=False)
    assert len(sweep.lrs) == 100 and "did not rise either: sweep to higher rates" in sweep.reason


def test_clipping_does_not_hide_the_wall(net, blobs):
    plain = learner(net, blobs, opt_func=torch.optim.SGD).lr_find(end_lr=1e4, show_plot=False)
    clipped = learner(net, blobs, opt_func=torch.optim.SGD, cbs=GradientClip(1.0)).lr_find(end_lr=1e4, show_plot=False)
    assert plain.recommended / 4 < clipped.recommended < plain.recommended * 4


def test_losses_near_zero_do_not_end_the_sweep_early(net, blobs):
    def run_sweep(scale):
        adam = partial(torch.optim.Adam, eps=1e-20)
        learn = learner(net, blobs, opt_func=adam, loss_func=lambda p, y: scale * nn.functional.cross_entropy(p, y))
        return learn.lr_find(show_plot=False)

    small, plain = run_sweep(1e-6), run_sweep(1.0)
    assert len(small.lrs) == len(plain.lrs) and small.recommended == pytest.approx(plain.recommended, rel=0.1)


def test_no_file_is_written(net, blobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learner(net, blobs, path=tmp_path).lr_find()
    assert list(tmp_path.iterdir()) == []


def sweep_for_auto(learn):
    with learn.no_logging():
        return learn.fit(1, "auto").sweep


def test_the_sweep_of_auto_goes_fast_through_low_rates(net, blobs):
    sweep = sweep_for_auto(learner(net, blobs, opt_func=torch.optim.SGD))
    assert len(sweep.lrs) == sweep.settings["num_it"] == 48
    np.testing.assert_allclose(np.diff(np.log10(sweep.lrs)), [1 / 4] * 6 + [1 / 12] * 41)
    assert sweep.lrs[0] == 1e-4 and sweep.stop_reason == "the range was swept to its end, a rate of 8.25"


@pytest.fixture
def deep_learner(blobs):
    """Returns a function that makes a learner whose loss rises to a high level, as a third of its labels is random."""
    (x, y), valid = blobs
    rng = np.random.default_rng(0)
    y = np.where(rng.random(len(y)) < 0.3, rng.integers(0, 3, len(y)), y)

    def make():
        torch.manual_seed(0)
        wide = [nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()]
        model = nn.Sequential(*wide, nn.Linear(32, 3))
        return Learner(DataLoaders.from_arrays((x, y), valid, bs=16, seed=3), model, opt_func=torch.optim.SGD)

    return make


def test_the_sweep_of_auto_stops_when_the_recommendation_is_settled(deep_learner):
    learn = deep_learner()
    sweep = sweep_for_auto(learn)
    assert len(sweep.lrs) < 46
    assert sweep.stop_reason.startswith("the loss rose and stayed high up to a rate of")
    below = sweep.plot().axes[0].get_xlabel().replace("\n", " ")
    assert below.endswith(f"{len(sweep.lrs)} of at most 48 steps: {sweep.stop_reason}")
    assert repr(sweep).startswith(f"LRSweep: {len(sweep.lrs)} of at most 48 steps from 1.00e-04 to")
    learn = deep_learner()
    with learn.no_logging():
        whole = sweep_rates(learn._context(), replace(short_sweep(learn.optimizer), stop_when_settled=False))
    n = len(sweep.lrs)
    assert len(whole.lrs) > n and np.array_equal(whole.fixed[:n], sweep.fixed, equal_nan=True)
    assert sweep.recommended == pytest.approx(whole.recommended, rel=0.05)


def test_a_sweep_that_was_asked_for_does_not_stop_when_it_is_settled(deep_learner):
    settled = sweep_for_auto(deep_learner())
    asked = deep_learner().lr_find(1e-4, 10, 60, show_plot=False)
    assert asked.lrs[-1] > settled.lrs[-1] and "settled" not in asked.stop_reason


@pytest.mark.parametrize("num_it", range(8, 16))
@pytest.mark.parametrize("bs", [4, 16, 90])
def test_short_sweeps_recommend(net, ninety_blobs, num_it, bs):
    learn = Learner(DataLoaders.from_arrays(*ninety_blobs, bs=bs, seed=3), net(), opt_func=torch.optim.Adam)
    sweep = learn.lr_find(1e-4, 1, num_it=num_it, show_plot=False)
    assert 1e-3 < sweep.recommended < 1, sweep.reason


@pytest.mark.parametrize("bs", [1, 90])
def test_single_items_and_one_batch_an_epoch_get_a_rate(ninety_blobs, bs):
    torch.manual_seed(0)
    dls = DataLoaders.from_arrays(*ninety_blobs, bs=bs, seed=3)
    learn = Learner(dls, nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3)), opt_func=torch.optim.Adam)
    assert 1e-3 < learn.lr_find(1e-4, 1, num_it=14, show_plot=False).recommended < 1
    assert 1e-3 < sweep_for_auto(learn).recommended < 1
