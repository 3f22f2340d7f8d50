"""fastai's callbacks by name and argument. `benchmarks/fastai_callbacks.py` compares the style they are written in."""

import operator

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import nn

from minilearner import (
    Callback,
    CSVLogger,
    DataLoaders,
    GradientAccumulation,
    Learner,
    ParamScheduler,
    ReduceLROnPlateau,
    accuracy,
    linear,
)
from minilearner.vision.all import (
    EarlyStoppingCallback,
    HookCallback,
    Hooks,
    MixedPrecision,
    ProgressCallback,
    SaveModelCallback,
    ShowGraphCallback,
    TerminateOnNaNCallback,
    TrackerCallback,
    hook_outputs,
)


def learner(path=".", n=4, **options):
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    data = [(torch.randn(4, 3, generator=g), torch.randint(2, (4,), generator=g)) for _ in range(n)]
    options = {"opt_func": torch.optim.SGD, "lr": 0.1, "device": "cpu", "metrics": accuracy} | options
    return Learner(DataLoaders(data, data[:1]), nn.Linear(3, 2), nn.CrossEntropyLoss(), path=path, **options)


class Scores(Callback):
    """Writes given values into the metrics, one for each epoch."""

    def __init__(self, *values):
        self.values = values

    def before_fit(self, run):
        run.columns.append("score")

    def after_validate(self, run):
        run.metrics["score"] = float(self.values[run.epoch])


def fit(learn, n_epoch, *cbs):
    with learn.no_logging():
        learn.fit(n_epoch, cbs=list(cbs))
    return learn


def test_a_tracker_says_whether_the_latest_value_is_the_best():
    class Mine(TrackerCallback):
        order = 70

        def before_fit(self):
            super().before_fit()
            self.seen = []

        def after_epoch(self):
            super().after_epoch()
            self.seen.append((self.new_best, self.best))

    mine = Mine("score", comp=np.greater, min_delta=0.5)
    fit(learner(), 4, mine, Scores(1, 1.4, 2, 0))
    assert mine.seen == [(True, 1.0), (False, 1.0), (True, 2.0), (False, 2.0)]


@pytest.mark.parametrize("comp", [np.less, operator.lt, None])
def test_a_comparison_says_which_values_are_better(comp):
    tracker = TrackerCallback("valid_loss", comp=comp)
    fit(learner(), 1, tracker)
    assert tracker.mode == "min"


@pytest.mark.parametrize("comp", [np.less_equal, np.add, "less", max])
def test_what_compares_nothing_is_refused(comp):
    with pytest.raises(ValueError, match=r"`comp` must be np.less, np.greater or a function like them"):
        TrackerCallback("score", comp=comp)


@pytest.mark.parametrize(("reset_on_fit", "best"), [(True, 3.0), (False, 5.0)])
def test_the_best_of_an_earlier_fit_may_stay(reset_on_fit, best):
    tracker, learn = TrackerCallback("score", comp=np.greater, reset_on_fit=reset_on_fit), learner()
    fit(learn, 1, tracker, Scores(5))
    fit(learn, 1, tracker, Scores(3))
    assert tracker.best == best


def test_trackers_rest_outside_of_a_fit():
    tracker = TrackerCallback("score", comp=np.greater)
    learn = fit(learner(), 1, tracker, Scores(5))
    learn.add_cb(tracker)
    learn.validate()
    learn.get_preds()
    assert tracker.best == 5.0


def test_an_unknown_value_to_monitor_is_an_error():
    with pytest.raises(ValueError, match="`monitor` must be one of .*'accuracy'"):
        fit(learner(), 1, EarlyStoppingCallback("accurcy"))


def test_early_stopping_ends_the_run_and_says_why():
    stop = EarlyStoppingCallback("score", comp=np.less, min_delta=0.1, patience=2)
    learn = fit(learner(), 9, stop, Scores(3, 2, 1.95, 1.95, *[0] * 5))
    assert len(learn.recorder.epochs) == 4
    assert learn.recorder.runs[-1].settings["ended"].startswith("EarlyStopping: score has not improved for 2 epochs")


def test_a_subclass_in_fastais_style_may_call_the_methods_of_the_base():
    class Loud(EarlyStoppingCallback):
        n = 0

        def after_epoch(self):
            self.n += 1
            super().after_epoch()

    loud = Loud("score", comp=np.greater, patience=1)
    fit(learner(), 5, loud, Scores(2, 1, 3, 4, 5))
    assert loud.n == 2


def test_the_best_model_is_saved_and_comes_back(tmp_path):
    weights = []

    class Weights(Callback):
        def after_epoch(self, run):
            weights.append(run.model.weight.detach().clone())

    save = SaveModelCallback("score", comp=np.greater, fname="best")
    learn = fit(learner(tmp_path), 3, save, Scores(1, 3, 2), Weights())
    assert torch.equal(learn.model.weight, weights[1])
    assert save.last_saved_path == tmp_path / "best.safetensors"
    assert torch.equal(learner(tmp_path).load("best").model.weight, weights[1])


def test_the_best_model_comes_back_if_the_learners_path_is_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = learner(tmp_path)
    learn.path, learn.model_dir = "out", "models"
    fit(learn, 2, SaveModelCallback("score", comp=np.greater), Scores(2, 1))
    learn.load(learn.save("other"))
    with pytest.raises(FileNotFoundError, match=r"`file`: there is no file out/models/modell.safetensors. .*'model'"):
        learn.load("modell")


def test_an_epoch_that_ends_the_run_is_saved_if_it_is_the_best(tmp_path):
    class Other(Scores):
        def before_fit(self, run):
            run.columns.append("other")

        def after_validate(self, run):
            run.metrics["other"] = float(self.values[run.epoch])

    save = SaveModelCallback("other", comp=np.greater)
    stop = EarlyStoppingCallback("score", comp=np.greater)
    fit(learner(tmp_path), 3, stop, save, Scores(1, 1, 1), Other(1, 2, 3))
    assert save.best == 2.0


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({"every_epoch": True}, ["model_0", "model_1", "model_2"]),
        ({"every_epoch": 2}, ["model_0", "model_2"]),
        ({"at_end": True}, ["model"]),
    ],
)
def test_models_are_saved_when_it_is_time(tmp_path, options, files):
    plain = fit(learner(), 3)
    learn = fit(learner(tmp_path, cbs=SaveModelCallback(**options)), 3)
    assert sorted(path.stem for path in tmp_path.glob("*.safetensors")) == files
    assert torch.equal(learn.model.weight, plain.model.weight)


def test_the_optimizers_state_comes_back_too(tmp_path):
    save = SaveModelCallback("score", comp=np.greater, with_opt=True)
    learn = learner(tmp_path, opt_func=torch.optim.Adam)
    fit(learn, 3, save, Scores(3, 2, 1))
    assert next(iter(learn.optimizer.state.values()))["step"] == 4


def test_a_model_is_saved_at_the_end_or_each_epoch_but_not_both():
    with pytest.raises(ValueError, match="give `every_epoch` or `at_end`, not both"):
        SaveModelCallback(every_epoch=True, at_end=True)


def test_no_best_value_is_said(tmp_path):
    with pytest.warns(UserWarning, match="found no best value, so the model keeps its last weights"):
        fit(learner(tmp_path), 1, SaveModelCallback("score", comp=np.greater), Scores(float("nan")))


def test_a_loss_that_is_not_finite_ends_the_fit():
    class Poison(Callback):
        def after_loss(self, run):
            if run.training and (run.epoch, run.iter) == (1, 2):
                run.loss = run.loss * float("nan")

    learn = fit(learner(), 3, TerminateOnNaNCallback(), Poison())
    record = learn.recorder.runs[-1]
    assert record.n_batches == 7
    assert record.settings["ended"] == "TerminateOnNaNCallback: the loss of batch 2 of epoch 1 is nan"


def test_a_graph_of_the_losses_is_written_at_the_end(tmp_path, capsys):
    learn = learner(tmp_path, cbs=ShowGraphCallback())
    with learn.no_bar():
        learn.fit(2)
    assert matplotlib.image.imread(tmp_path / "losses.png").ndim == 3
    assert f"ShowGraphCallback wrote {tmp_path / 'losses.png'}" in capsys.readouterr().out


def falls(callback, scores, lr=0.1):
    rates = []

    class Rates(Callback):
        order = 99

        def after_epoch(self, run):
            rates.append(run.lrs[-1])

    learn = learner(lr=lr)
    fit(learn, len(scores), callback, Scores(*scores), Rates())
    return rates


def test_a_factor_above_one_divides_with_fastais_defaults():
    reduce = ReduceLROnPlateau("score", comp=np.greater, factor=10.0)
    assert (reduce.patience, reduce.min_delta) == (1, 0.0)
    assert falls(reduce, [1, 1, 2]) == pytest.approx([0.1, 0.01, 0.01])


def test_a_factor_below_one_multiplies_with_our_defaults():
    reduce = ReduceLROnPlateau("score", mode="max")
    assert (reduce.factor, reduce.patience, reduce.min_delta) == (0.1, 10, 1e-4)


def test_a_factor_of_one_and_two_directions_are_refused():
    with pytest.raises(ValueError, match=r"`factor` must be in \[0, 1\), or above 1 to divide"):
        ReduceLROnPlateau(factor=1)
    with pytest.raises(ValueError, match="give `mode` or `comp`, not both"):
        ReduceLROnPlateau(mode="min", comp=np.less)


@pytest.mark.parametrize(("n_acc", "n_updates"), [(4, 4), (5, 2), (8, 2), (32, 1)])
def test_accumulation_may_count_items(n_acc, n_updates):
    class Updates(Callback):
        n = 0

        def after_step(self, run):
            self.n += 1

    updates = Updates()
    fit(learner(), 1, GradientAccumulation(n_acc=n_acc), updates)
    assert updates.n == n_updates


def test_accumulation_of_batches_says_how_many_items_they_have(capsys):
    x, y = torch.randn(16, 3), torch.randint(2, (16,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    learn = Learner(DataLoaders(loader, None), nn.Linear(3, 2), nn.CrossEntropyLoss(), device="cpu")
    learn.fit(1, cbs=GradientAccumulation(2))
    assert "GradientAccumulation: each update takes 2 batches, 8 items. n_acc= counts items." in capsys.readouterr().out


def test_accumulation_needs_one_of_its_numbers():
    for given in ({}, {"n_batches": 2, "n_acc": 8}):
        with pytest.raises(TypeError, match="takes `n_batches`, a number of batches, or `n_acc`, one of items"):
            GradientAccumulation(**given)


def test_a_sweep_counts_the_updates_of_an_accumulation_of_items():
    learn = learner(cbs=GradientAccumulation(n_acc=8))
    with learn.no_bar():
        sweep = learn.lr_find(num_it=4, show_plot=False, suggest_funcs=None, stop_div=False)
    assert len(sweep.lrs) == 4


def test_a_log_by_fastais_name_is_in_the_learners_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = learner()
    learn.path = tmp_path / "runs"
    learn.path.mkdir()
    fit(learn, 2, CSVLogger(fname="log.csv"))
    assert len((tmp_path / "runs" / "log.csv").read_text().splitlines()) == 3
    with pytest.raises(TypeError, match="give `path` or `fname`, not both"):
        CSVLogger("a.csv", fname="b.csv")


def test_fastais_settings_are_scheduled():
    seen = []

    class Look(Callback):
        order = 99

        def before_batch(self, run):
            if run.training:
                seen.append([(g["momentum"], round(g["weight_decay"], 3)) for g in run.optimizer.param_groups])

    learn = learner(wd=0.1)
    fit(learn, 1, ParamScheduler({"mom": linear(0.9, 0.5), "wd": linear(0.1, 0.5)}), Look())
    assert seen[0] == [(0.9, 0.1), (0.9, 0.0)]
    assert seen[2] == [(0.7, 0.3), (0.7, 0.0)]


def test_mixed_precision_lasts_as_long_as_the_callback():
    names = []

    class Look(Callback):
        order = 99

        def after_pred(self, run):
            names.append(run.step.precision.name)

    learn = learner()
    fit(learn, 1, MixedPrecision("bf16"), Look())
    fit(learn, 1, Look())
    assert names == ["bf16"] * 5 + ["fp32"] * 5


def test_fp16_on_a_cpu_leaves_the_precision_and_says_so(capsys):
    learn = learner()
    with learn.no_bar():
        learn.fit(1, cbs=MixedPrecision())
    assert "MixedPrecision: fp16 is slow on a CPU, so this trains in fp32." in capsys.readouterr().out


def test_an_unknown_mode_of_precision_is_refused():
    with pytest.raises(ValueError, match="`amp_mode` must be one of 'fp16', 'bf16'"):
        MixedPrecision("fp8")


def test_bars_go_and_come_with_fastais_callback():
    learn = learner()
    learn.remove_cb(ProgressCallback)
    assert (learn._output.bar, learn._output.table) == (False, True)
    learn.add_cb(ProgressCallback())
    assert learn._output.bar and learn.cbs == []


def test_outputs_of_several_modules_are_kept():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with hook_outputs([model[0], model[1]]) as hooks:
        model(torch.ones(2, 3))
        model(torch.ones(5, 3))
    model(torch.ones(7, 3))
    assert [tuple(t.shape) for t in hooks.stored] == [(5, 4), (5, 4)]
    assert len(hooks) == 2 and hooks[0].stored is next(iter(hooks)).stored
    means = Hooks(model, lambda m, i, o: o.mean().item())
    model(torch.zeros(1, 3))
    assert means[1].stored >= 0
    means.remove()


@pytest.mark.parametrize(("every", "n"), [(None, 4), (2, 2)])
def test_a_hook_callback_stores_what_its_hook_returns(every, n):
    class Means(HookCallback):
        order = 5

        def before_fit(self):
            super().before_fit()
            self.means = []

        def hook(self, m, i, o):
            return float(o.mean())

        def after_batch(self):
            if self.training and (self.every is None or (self.train_iter - 1) % self.every == 0):
                self.means.append((self.hooks[0].stored, float(self.pred.detach().mean())))
            super().after_batch()

    means, learn = Means(every=every), learner()
    fit(learn, 1, means)
    assert len(means.means) == n
    assert all(stored == pytest.approx(seen) for stored, seen in means.means)
    assert not learn.model._forward_hooks
