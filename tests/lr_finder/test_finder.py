"""The finder for plain loops has the interface and values of torch-lr-finder, except where those are wrong."""

import math
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minilearner import (
    DataLoaders,
    GradientAccumulation,
    Learner,
    LRFinder,
    LRSweep,
    TrainDataLoaderIter,
    ValDataLoaderIter,
)
from minilearner.training import fastai_optimizers

X = torch.linspace(-1, 1, 24).reshape(12, 2)
DATA = TensorDataset(X, X.sum(1, keepdim=True) * 2)
# Values of torch-lr-finder 0.2.2 for this model and data: losses, best loss, suggestion of plot(1, 1).
EXP = [0.001, 0.0029619362959451734, 0.008773066621237413, 0.025985264452188184, 0.07696669794067006,
       0.22797045620951936, 0.675233968650155, 2.0]  # fmt: skip
LINEAR = [0.001, 0.2865714285714286, 0.5721428571428572, 0.8577142857142858, 1.1432857142857142, 1.4288571428571428,
          1.7144285714285714, 2.0]  # fmt: skip
GOLDEN = {
    "exp": ({}, EXP, [7.533912658691406, 7.184401401877404, 7.201362743526697, 7.213224537990986, 6.876393540135398,
                      6.867553397277797, 6.793214809941068, 6.677101957246139], 6.677101957246139, 0.07696669794067006),
    "linear": ({"step_mode": "linear", "smooth_f": 0.3}, LINEAR,
               [7.533912658691406, 5.436845117807389, 5.8690978187322616, 5.851909332334994, 5.020409394305943,
                12.167765198450684, 12.70222415209907, 30.019053244359974], 5.020409394305943, 0.8577142857142858),
    "validation": ({"val_loader": DataLoader(DATA, batch_size=5)}, EXP,
                   [5.182914654413859, 5.182682527105014, 5.173134400298197, 5.137733266410727, 5.098814677074177,
                    4.956792389433475, 5.051896572189378, 6.769271373821303], 4.956792389433475, 0.07696669794067006),
    "accumulation": ({"accumulation_steps": 3}, EXP,
                     [5.204586982727051, 5.203837180137635, 5.200913511514663, 5.191669184625149, 5.16444737586081,
                      5.089880197535604, 4.91815708361677, 4.672307380367658], 4.672307380367658, 0.675233968650155),
    "raw, stopped": ({"smooth_f": 0, "start_lr": 0.5},
                     [0.5, 0.6095068271022377, 0.7429971445684742, 0.9057236642639066, 1.1040895136738123],
                     [7.533912658691406, 7.041947841644287, 0.48765766620635986, 0.2796710729598999,
                      1.6645807027816772], 0.2796710729598999, 0.6095068271022377),
}  # fmt: skip


def parts(lr=1e-3, **kwargs):
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.fill_(0.1), model.bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return model, optimizer, LRFinder(model, optimizer, nn.MSELoss(), **kwargs)


def loader(bs=4):
    return DataLoader(DATA, batch_size=bs)


def run_sweep(num_iter=8, end_lr=2, **kwargs):
    _, _, finder = parts()
    finder.range_test(loader(), end_lr=end_lr, num_iter=num_iter, **kwargs)
    return finder


@pytest.mark.parametrize("case", GOLDEN)
def test_rates_losses_best_and_suggestion_are_torch_lr_finders(case):
    options, lrs, losses, best, suggestion = GOLDEN[case]
    finder = run_sweep(**options)
    np.testing.assert_allclose(finder.history["lr"], lrs, rtol=1e-9)
    np.testing.assert_allclose(finder.history["loss"], losses, rtol=1e-6)
    assert finder.best_loss == pytest.approx(best, rel=1e-6)
    assert finder.plot(skip_start=1, skip_end=1)[1] == pytest.approx(suggestion)


def test_a_short_batch_counts_like_the_others_of_its_update_as_in_torch_lr_finder():
    _, _, finder = parts()
    finder.range_test(loader(5), end_lr=2, num_iter=6, accumulation_steps=2, smooth_f=0.5)
    losses = [4.039924144744873, 6.323864698410034, 6.2990416288375854, 5.039092004299164, 5.639445275068283,
              2.923029623925686]  # fmt: skip
    np.testing.assert_allclose(finder.history["loss"], losses, rtol=1e-6)


def test_a_validation_loss_is_that_of_the_model_in_evaluation_mode():
    model, _, finder = parts()
    seen = []
    model.register_forward_hook(lambda module, args, output: seen.append(module.training))
    finder.range_test(loader(), loader(6), num_iter=3)
    assert seen == [True, False, False] * 3


def test_signatures_are_torch_lr_finders():
    import inspect

    def names(f):
        return {name: p.default for name, p in inspect.signature(f).parameters.items() if p.default is not p.empty}

    assert names(LRFinder.range_test) == {
        "val_loader": None, "start_lr": None, "end_lr": 10, "num_iter": 100, "step_mode": "exp", "smooth_f": 0.05,
        "diverge_th": 5, "accumulation_steps": 1, "non_blocking_transfer": True,
    }  # fmt: skip
    assert list(names(LRFinder)) == [
        "device", "memory_cache", "cache_dir", "amp_backend", "amp_config", "grad_scaler",
    ]  # fmt: skip
    assert list(names(LRFinder.plot)) == ["skip_start", "skip_end", "log_lr", "show_lr", "ax", "suggest_lr", "save"]


@pytest.mark.parametrize("in_memory", [True, False])
def test_reset_restores_everything_each_time(in_memory, tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for x, y in loader():  # an optimizer with a state
        nn.functional.mse_loss(model(x), y).backward(), optimizer.step(), optimizer.zero_grad()
    finder = LRFinder(model, optimizer, nn.MSELoss(), memory_cache=in_memory, cache_dir=tmp_path)

    def state():
        moments = [t.clone() for s in optimizer.state_dict()["state"].values() for t in s.values()]
        return [*(t.clone() for t in model.state_dict().values()), *moments]

    before = state()
    for _ in range(2):
        finder.range_test(loader(), num_iter=8)
        assert not all(map(torch.equal, state(), before))
        finder.reset()
        assert all(map(torch.equal, state(), before))
        assert optimizer.param_groups[0]["lr"] == 1e-3
        assert not any(module.training for module in model.modules())
    assert bool(list(tmp_path.rglob("*.safetensors"))) is not in_memory
    del finder
    assert list(tmp_path.iterdir()) == []


def test_an_attached_scheduler_does_no_harm():
    model, optimizer, _ = parts()
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    finder = LRFinder(model, optimizer, nn.MSELoss())
    finder.range_test(loader(), end_lr=2, num_iter=8)
    np.testing.assert_allclose(finder.history["loss"], GOLDEN["exp"][2], rtol=1e-6)


@pytest.mark.parametrize("start", [None, 0.002, [0.002, 0.006]])
def test_parameter_groups_keep_their_ratios(start):
    model = nn.Linear(2, 1)
    groups = [{"params": [model.weight], "lr": 0.001}, {"params": [model.bias], "lr": 0.003}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    finder = LRFinder(model, optimizer, nn.MSELoss())
    finder.range_test(loader(), start_lr=start, end_lr=0.1, num_iter=8)
    assert finder.history["lr"][0] == pytest.approx(start[0] if isinstance(start, list) else start or 0.001)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize(("learns", "expected"), [((True, True), 3), ((True, False), 1), ((False, True), 3)])
def test_only_groups_that_learn_count(learns, expected):
    model = nn.Linear(2, 1)
    groups = [{"params": [model.weight], "lr": 0.001}, {"params": [model.bias], "lr": 0.003}]
    for parameter, does_learn in zip(model.parameters(), learns, strict=True):
        parameter.requires_grad_(does_learn)
    finder = LRFinder(model, torch.optim.SGD(groups, lr=1.0), nn.MSELoss())
    finder.range_test(loader(), end_lr=0.1, num_iter=8)
    assert finder.sweep.settings["highest"] == pytest.approx(expected)


def test_dictionary_batches_work_with_a_custom_iterator():
    dicts = [{"point": x, "value": y} for x, y in loader()]

    class Train(TrainDataLoaderIter):
        def inputs_labels_from_batch(self, batch_data):
            return {"x": batch_data["point"]}, batch_data["value"]

    class Valid(ValDataLoaderIter):
        inputs_labels_from_batch = Train.inputs_labels_from_batch

    class Model(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs["x"])

    model = Model(2, 1)
    with torch.no_grad():
        model.weight.fill_(0.1), model.bias.zero_()
    finder = LRFinder(model, torch.optim.SGD(model.parameters(), lr=1e-3), nn.MSELoss())
    finder.range_test(Train(dicts), end_lr=2, num_iter=8)
    np.testing.assert_allclose(finder.history["loss"], GOLDEN["exp"][2], rtol=1e-6)
    finder.reset()
    finder.range_test(Train(dicts), Valid(dicts), end_lr=2, num_iter=8)
    np.testing.assert_allclose(finder.history["loss"], GOLDEN["validation"][2], rtol=1e-6)
    finder.reset()
    with pytest.raises(ValueError, match=r"Received: a dict with keys \['point', 'value'\]. Derive a class"):
        finder.range_test(dicts)


def test_nan_stops_the_sweep_and_is_not_in_the_history():
    model, optimizer, _ = parts()
    factors = iter([1.0] * 20 + [math.nan] * 9)

    def criterion(pred, y):
        return nn.functional.mse_loss(pred, y) * (next(factors) if torch.is_grad_enabled() else 1.0)

    finder = LRFinder(model, optimizer, criterion)
    finder.range_test(loader(), end_lr=0.1, num_iter=30)
    assert len(finder.history["loss"]) == len(finder.history["lr"]) == 20
    assert "the loss became nan" in finder.sweep.stop_reason
    assert math.isfinite(finder.plot()[1])
    assert "was not finite past" in finder.sweep.reason


def test_the_curve_before_an_error_is_kept():
    model, optimizer, _ = parts()
    batches = [*loader(), "no batch"]
    finder = LRFinder(model, optimizer, nn.MSELoss())
    with pytest.raises(ValueError, match="Received: a str"):
        finder.range_test(batches, num_iter=8)
    assert len(finder.history["loss"]) == 3
    assert finder.sweep.stop_reason == "it was interrupted"


@pytest.mark.parametrize("fails_at", [0, 5])
def test_mixed_precision_counts_real_updates_and_reset_restores_its_scaler(fails_at):
    model = nn.Linear(2, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    calls = iter(range(1000))

    def criterion(pred, y):
        assert torch.is_autocast_enabled("cpu")
        factor = 1e30 if torch.is_grad_enabled() and next(calls) == fails_at else 1.0
        return nn.functional.mse_loss(pred.float(), y) * factor  # 1e30 overflows only in the scaled gradients

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    finder = LRFinder(model, optimizer, criterion, amp_backend="torch", grad_scaler=scaler)
    finder.range_test(loader(), end_lr=0.1, num_iter=12, diverge_th=math.inf)
    assert len(finder.history["lr"]) == 12
    assert next(calls) == 13  # one update was skipped, and made again
    assert scaler.get_scale() == 2.0**59
    finder.reset()
    assert scaler.get_scale() == 2.0**60


def test_a_scaler_that_skips_every_update_ends_the_sweep():
    model = nn.Linear(2, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, backoff_factor=0.99999)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    finder = LRFinder(model, optimizer, lambda p, y: 1e30 * p.float().mean(), amp_backend="torch", grad_scaler=scaler)
    finder.range_test(loader(), num_iter=5)
    assert finder.history == {"lr": [], "loss": []}
    assert finder.best_loss is None
    assert "updates were skipped" in finder.sweep.stop_reason


def test_the_sweep_is_also_an_lr_sweep():
    finder = run_sweep(30, 5)
    assert isinstance(finder.sweep, LRSweep)
    assert list(finder.sweep.lrs) == finder.history["lr"]
    assert finder.sweep.losses[1] != finder.history["loss"][1]  # raw
    assert finder.sweep.settings["end_lr"] == pytest.approx(5)


def test_the_plot_shows_the_kept_points_the_suggestion_and_a_given_rate():
    finder = run_sweep(30, 1)
    ax, suggestion = finder.plot(skip_start=3, skip_end=2, show_lr=1)
    line, suggested, mark, given = ax.lines
    assert list(line.get_ydata()) == finder.history["loss"][3:-2]
    assert suggested.get_xdata()[0] == mark.get_xdata()[0] == suggestion
    assert mark.get_ydata()[0] in finder.history["loss"]
    assert given.get_xdata()[0] == 1
    assert ax.get_xscale() == "log"
    import matplotlib.pyplot as plt

    _, own = plt.subplots()
    assert finder.plot(skip_end=0, log_lr=False, ax=own, suggest_lr=False) is own
    assert own.get_xscale() == "linear"
    assert len(own.lines[0].get_xdata()) == 20
    assert finder.plot_loss_change(sma=2).axes[0].get_ylim() == pytest.approx((-0.01, 0.01))


def test_too_few_points_negative_skips_and_no_sweep_are_refused():
    finder = run_sweep(8)
    with pytest.raises(RuntimeError, match="Need at least 17 iterations to suggest a learning rate. Received: 8"):
        finder.plot()
    with pytest.raises(ValueError, match="must be at least 0"):
        finder.plot(skip_start=-1)
    with pytest.raises(RuntimeError, match="Call `range_test`"):
        parts()[2].plot_loss_change()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_iter": 1}, "`num_iter` must be at least 2"),
        ({"num_iter": 2.5}, "`num_iter` must be a whole number"),
        ({"accumulation_steps": 1.5}, "`accumulation_steps` must be a whole number"),
        ({"end_lr": "high"}, "`end_lr` must be a number"),
        ({"step_mode": None}, "`step_mode` must be"),
        ({"step_mode": "log"}, "`step_mode` must be"),
        ({"smooth_f": 1}, "`smooth_f` must be in"),
        ({"diverge_th": 1}, "`diverge_th` must be above 1"),
        ({"accumulation_steps": 0}, "`accumulation_steps` must be at least 1"),
        ({"end_lr": 1e-4}, "must rise"),
        ({"start_lr": [1e-3, 1e-2]}, "one value for each of the 1"),
        ({"val_loader": TrainDataLoaderIter([])}, "`val_loader` must be a ValDataLoaderIter"),
        ({"train_loader": DATA}, "`train_loader` must yield batches"),
        ({"train_loader": TrainDataLoaderIter(loader(), auto_reset=False)}, "ended before the sweep"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        parts()[2].range_test(**({"train_loader": loader()} | kwargs))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"amp_backend": "apex"}, "`amp_backend` must be 'torch'"),
        ({"amp_backend": "torch"}, "`grad_scaler` is needed"),
        ({"memory_cache": False, "cache_dir": "/nowhere"}, "`cache_dir` must be a folder"),
    ],
)
def test_bad_options_of_a_finder_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        parts(**kwargs)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": nn.ReLU()}, "`model` must have parameters"),
        ({"model": nn.Linear}, "`model` must be a torch module"),
        ({"optimizer": None}, "`optimizer` must be a torch optimizer. Received: a NoneType"),
        ({"criterion": nn.MSELoss}, r"`criterion` must be .* such as nn.CrossEntropyLoss\(\)"),
    ],
)
def test_wrong_parts_of_a_finder_are_refused(wrong, message):
    model, optimizer, _ = parts()
    with pytest.raises((TypeError, ValueError), match=message):
        LRFinder(**({"model": model, "optimizer": optimizer, "criterion": nn.MSELoss()} | wrong))


def test_a_frozen_model_is_refused_and_keeps_the_latest_sweep():
    finder = run_sweep()
    sweep = finder.sweep
    finder.model.requires_grad_(False)
    with pytest.raises(ValueError, match="`optimizer` must hold a parameter that requires a gradient"):
        finder.range_test(loader(), start_lr=1e-3)
    assert finder.sweep is sweep


# Arrays, by the rule of the finders for Keras


def test_arrays_are_swept_in_whole_epochs_and_everything_is_restored():
    model, optimizer, finder = parts()
    x, y = X.numpy(), DATA.tensors[1].numpy()
    before, generator = model.weight.clone(), torch.get_rng_state()
    sweep = finder.find(x, y, 1e-4, 1e-1, batch_size=5, epochs=2)
    np.testing.assert_allclose(sweep.lrs, [1e-4 * 1000 ** (i / 6) for i in range(6)])
    np.testing.assert_array_equal(sweep.losses, finder.history["loss"])
    assert torch.equal(model.weight, before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert optimizer.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize(("jump", "n"), [(5, 12), (6, 7)])
def test_above_four_times_the_best_it_stops_but_not_within_the_first_six_batches(jump, n):
    model, optimizer, _ = parts()
    numbers = iter(range(100))

    def loss(p, y):  # each training batch has the next number; the same items are measured without gradients
        return p.mean() * 0 + (5.0 if torch.is_grad_enabled() and next(numbers) == jump else 1.0)

    finder = LRFinder(model, optimizer, loss)
    sweep = finder.find(X, DATA.tensors[1], 1e-6, 1e-5, batch_size=1)
    assert len(sweep.losses) == n


def test_the_sweep_recommends_from_the_same_items_or_from_the_validation_set():
    batches = run_sweep(num_iter=60, end_lr=50, diverge_th=50).sweep
    held_out = run_sweep(num_iter=60, end_lr=50, diverge_th=50, val_loader=loader()).sweep
    assert batches.settings["bs"] == 4  # the usual size; the last batch of each epoch is shorter
    assert len(batches.fixed) == len(batches.losses) and 0.01 < batches.recommended < 2
    assert np.array_equal(held_out.fixed, held_out.losses) and 0.01 < held_out.recommended < 2


def test_what_a_killed_finder_left_is_swept_by_the_next_one(tmp_path):
    script = (
        "import os, sys, torch; from torch import nn; from minilearner import LRFinder\n"
        "model = nn.Linear(1, 1)\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "finder = LRFinder(model, optimizer, nn.MSELoss(), memory_cache=False, cache_dir=sys.argv[1])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path], check=False).returncode == -9
    (left,) = os.listdir(tmp_path)
    (tmp_path / "minilearner-state-of-mine").mkdir()
    model = nn.Linear(1, 1)
    finder = LRFinder(
        model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), memory_cache=False, cache_dir=tmp_path
    )
    names = os.listdir(tmp_path)
    assert left not in names and len(names) == 2 and "minilearner-state-of-mine" in names
    finder.reset()


def test_a_plain_loop_gets_the_recommendation_of_the_learner():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)

    def make_net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))

    learn = Learner(DataLoaders.from_arrays((x, y), bs=16, seed=1), make_net(), opt_func=torch.optim.Adam)
    theirs = learn.lr_find(show_plot=False, suggest_funcs=None)
    model = make_net()
    finder = LRFinder(model, torch.optim.Adam(model.parameters(), lr=1e-7), nn.CrossEntropyLoss())
    data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    finder.range_test(torch.utils.data.DataLoader(data, 16, shuffle=True), end_lr=10, num_iter=100)
    for name in ("bs", "adaptive", "has_norm"):
        assert finder.sweep.settings[name] == theirs.settings[name]
    assert np.log10(finder.sweep.recommended / theirs.recommended) == pytest.approx(0, abs=0.2)


class SignSteps(torch.optim.Optimizer):
    """Steps by the sign of a momentum, as Lion does. torch has no such optimizer."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.sub_(group["lr"] * mean.lerp(p.grad, 1 - group["betas"][0]).sign())
                mean.lerp_(p.grad, 1 - group["betas"][1])


def make_norm_net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


class Batches:
    """Yields batches from a new iterator for each pass, and has a length."""

    def __init__(self, bs=32):
        x = torch.randn(320, 6, generator=torch.Generator().manual_seed(0))
        self.parts = list(zip(x.split(bs), x[:, :3].argmax(1).split(bs), strict=True))

    def __len__(self):
        return len(self.parts)

    def __iter__(self):
        yield from self.parts


def compare_finders(opt_func, *, accumulate=1, ratio=1.0):
    """Returns the sweeps of `Learner.lr_find` and `LRFinder` with the same batches, rates and rule to stop."""
    split = lambda model: [list(model[0].parameters()), list(model[1:].parameters())]  # noqa: E731
    how = {"splitter": split, "lr": slice(1e-3 * ratio, 1e-3)} if ratio != 1 else {}
    cbs = [GradientAccumulation(accumulate)] if accumulate > 1 else []
    learn = Learner(DataLoaders(Batches()), make_norm_net(), nn.CrossEntropyLoss(), opt_func, cbs=cbs, **how)
    rule = {"smoothing": 0.0, "stop_factor": 50.0, "show_plot": False, "suggest_funcs": None}
    theirs = learn.lr_find(1e-4, 1e3, 128, **rule)
    model = make_norm_net()
    groups = [{"params": params, "lr": lr} for params, lr in zip(split(model), (1e-4 * ratio, 1e-4), strict=True)]
    finder = LRFinder(model, opt_func(groups if ratio != 1 else model.parameters(), lr=1e-4), nn.CrossEntropyLoss())
    finder.range_test(
        Batches(), end_lr=1e3 * ratio, num_iter=129, smooth_f=0, diverge_th=50, accumulation_steps=accumulate
    )
    return theirs, finder.sweep


PEAK = 0.85  # the momentum of one cycle at its peak


@pytest.mark.parametrize(
    "opt_func",
    [
        partial(torch.optim.SGD, momentum=PEAK),
        partial(torch.optim.SGD, momentum=PEAK, nesterov=True),
        partial(torch.optim.Adam, betas=(PEAK, 0.99)),
        partial(torch.optim.AdamW, betas=(PEAK, 0.99), weight_decay=0.1),
        partial(torch.optim.NAdam, betas=(PEAK, 0.999)),
        partial(torch.optim.RMSprop, momentum=PEAK),
        partial(fastai_optimizers.RMSProp, mom=PEAK),
        torch.optim.Adagrad,
        partial(SignSteps, betas=(PEAK, 0.99)),
    ],
    ids=lambda factory: f"{getattr(factory, 'func', factory).__name__}{len(getattr(factory, 'keywords', ''))}",
)
def test_with_equal_settings_a_plain_loop_gets_the_learners_recommendation_to_the_bit(opt_func):
    theirs, ours = compare_finders(opt_func)
    assert theirs.stop_reason.startswith("the smoothed loss exceeded") and theirs.stop_reason == ours.stop_reason
    for name in ("lrs", "losses", "fixed"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name), equal_nan=True)
    assert 0 < ours.recommended == theirs.recommended and ours.reason == theirs.reason


@pytest.mark.parametrize("how", [{"accumulate": 2}, {"ratio": 0.1}], ids=["accumulation", "groups"])
def test_accumulation_and_groups_with_their_own_rates_do_not_change_that(how):
    theirs, ours = compare_finders(partial(torch.optim.SGD, momentum=PEAK), **how)
    n = int(np.argmax(theirs.lrs > theirs.recommended))  # beyond that, rounding grows
    scale = how.get("ratio", 1.0)  # the rates of `LRFinder` are those of the first group
    np.testing.assert_allclose(ours.lrs[:n], theirs.lrs[:n] * scale, rtol=1e-12)
    np.testing.assert_allclose(ours.losses[:n], theirs.losses[:n], rtol=1e-5)
    assert ours.recommended == pytest.approx(theirs.recommended * scale, rel=1e-3)


@pytest.mark.parametrize("opt_func", [torch.optim.SGD, torch.optim.RMSprop])
def test_without_momentum_a_plain_loop_gets_a_higher_rate_than_one_cycle_with_momentum(opt_func):
    theirs, ours = compare_finders(opt_func)
    assert theirs.settings["momentum"] == PEAK  # `lr_find` sets it even if the optimizer has none
    assert ours.recommended > 1.5 * theirs.recommended
