"""The best model is restored from memory or from disk, and only when it should be."""

import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from minilearner import Callback, DataLoaders, EarlyStopping, Learner, SaveBest, Validate


def learner(n_batches=3, **kwargs):
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 2, generator=g), torch.randn(4, 1, generator=g)) for _ in range(n_batches)]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    return Learner(DataLoaders(batches, batches[:1]), model, nn.MSELoss(), torch.optim.SGD, lr=0.05, **kwargs)


def scores(*values):
    """Returns a metric that has these values, one per validation."""
    given = iter([values[0], *values])  # the first call checks the metric before training

    def score(pred, target):
        return torch.tensor(float(next(given)))

    return score


class Weights(Callback):
    def before_fit(self, run):
        self.at = []

    def after_epoch(self, run):
        self.at.append({name: t.clone() for name, t in run.model.state_dict().items()})


def same(a, b):
    return all(torch.equal(t, b[name]) for name, t in a.items())


def fit(n_epochs, *cbs, metrics=None, **kwargs):
    learn, watch = learner(metrics=metrics, **kwargs), Weights()
    with learn.no_logging():
        learn.fit(n_epochs, cbs=[*cbs, watch])
    return learn, watch.at


def test_fit_ends_on_the_best_weights():
    learn, at = fit(4, best := SaveBest("score"), metrics=scores(1, 5, 2, 3))
    assert same(learn.model.state_dict(), at[1]) and not same(at[1], at[3])
    assert (best.best, best.best_epoch) == (5.0, 1)


def test_also_with_early_stopping():
    learn, at = fit(9, SaveBest("score", mode="min"), EarlyStopping("score", mode="min", patience=2),
                    metrics=scores(3, 1, 2, 2))  # fmt: skip
    assert len(at) == 4 and same(learn.model.state_dict(), at[1])


def test_the_last_weights_stay_without_restore():
    learn, at = fit(2, best := SaveBest("score", restore=False), metrics=scores(2, 1))
    assert same(learn.model.state_dict(), at[1])
    best.put_back(learn.model)
    assert same(learn.model.state_dict(), at[0])


def test_the_file_always_holds_the_best(tmp_path):
    path = tmp_path / "best.safetensors"
    _, at = fit(3, SaveBest("score", path=path), metrics=scores(1, 4, 2))
    assert same(load_file(path), at[1]) and os.listdir(tmp_path) == ["best.safetensors"]
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"monitor": "score", "value": "4.0", "epoch": "1"}


def test_a_monitor_that_never_improves_restores_nothing_and_warns(tmp_path):
    path = tmp_path / "best.safetensors"
    path.write_bytes(b"of an earlier run")
    with pytest.warns(UserWarning, match="found no best value, .* latest 'score' is nan"):
        learn, at = fit(2, SaveBest("score", path=path), metrics=scores(*[float("nan")] * 2))
    assert same(learn.model.state_dict(), at[1])
    assert path.read_bytes() == b"of an earlier run"


def test_smaller_gains_than_min_delta_do_not_count():
    learn, at = fit(3, SaveBest("score", min_delta=0.5), metrics=scores(1, 1.4, 1.2))
    assert same(learn.model.state_dict(), at[0])


def test_validations_in_mid_epoch_count():
    seen = {}

    class Look(Callback):
        def after_step(self, run):
            seen.setdefault(run.global_step, {name: t.clone() for name, t in run.model.state_dict().items()})

    learn, _ = fit(2, Look(), Validate(every_steps=2), best := SaveBest("score"), metrics=scores(1, 9, 2, 3, 4))
    assert best.best_epoch == 0 and best.best == 9.0
    learn, _ = fit(1, Look(), Validate(every_steps=2), SaveBest("score"), metrics=scores(9, 1))
    assert same(learn.model.state_dict(), seen[2])


def test_the_training_loss_without_a_validation_set():
    learn = learner()
    learn.dls.valid = None
    with learn.no_logging():
        record = learn.fit(3, cbs=(best := SaveBest("train_loss")))
    assert best.best == min(record.history["train_loss"])


def test_validate_and_the_sweep_neither_write_nor_restore(tmp_path):
    path = tmp_path / "best.safetensors"
    learn = learner(cbs=SaveBest(path=path), metrics=None)
    with learn.no_logging():
        learn.fit(1)
        path.unlink()
        nn.init.zeros_(learn.model[0].weight)
        learn.validate()
        learn.lr_find(num_it=4, show_plot=False)
    assert not path.exists() and not learn.model[0].weight.any()


def test_an_interrupt_leaves_the_model_as_it_is():
    class Interrupts(Callback):
        def after_batch(self, run):
            if run.training and run.epoch == 2:
                raise KeyboardInterrupt

    learn, best, last = learner(metrics=scores(2, 1)), SaveBest("score"), Weights()
    with learn.no_logging(), pytest.raises(KeyboardInterrupt):
        learn.fit(3, cbs=[best, last, Interrupts()])
    assert not same(learn.model.state_dict(), last.at[0])
    best.put_back(learn.model)
    assert same(learn.model.state_dict(), last.at[0])


def test_each_run_starts_over():
    learn, best = learner(metrics=scores(9, 1, 2)), SaveBest("score")
    with learn.no_logging():
        learn.fit(1, cbs=best)
        learn.fit(2, cbs=best)
    assert best.best == 2.0


def test_memory_layout_and_precision_stay_the_same(tmp_path):
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 3, 6, 6, generator=g), torch.tensor([0, 1, 0, 1]))]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    learn = Learner(DataLoaders(batches, batches), model, precision="bf16")
    with learn.no_logging():
        learn.fit(2, cbs=SaveBest(path=tmp_path / "best"))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last) and not model[0].weight.is_contiguous()
    assert torch.equal(load_file(tmp_path / "best")["0.weight"], model[0].weight)


@pytest.mark.parametrize("path", ["missing/best.safetensors", ".", "/proc/best.safetensors"])
def test_an_unwritable_path_is_refused_before_training(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    learn = learner()
    before = {name: t.clone() for name, t in learn.model.state_dict().items()}
    with learn.no_logging(), pytest.raises(ValueError, match="`path` must name a file in a folder that can be written"):
        learn.fit(1, cbs=SaveBest(path=path))
    assert same(learn.model.state_dict(), before)


def test_put_back_without_weights_is_refused():
    with pytest.raises(RuntimeError, match="has kept no weights yet"):
        SaveBest().put_back(nn.Linear(1, 1))


def test_it_says_what_it_put_back(capsys):
    learn = learner(cbs=SaveBest("score"), metrics=scores(0.5, 0.75, 0.25))
    learn.fit(3)
    line = "SaveBest put back the weights of epoch 2/3: score 0.7500."
    assert capsys.readouterr().out.splitlines()[-1] == line
    what = {"monitor": "score", "value": 0.75, "epoch": 1, "step": 6}
    assert learn.recorder.runs[0].settings["put_back"] == what
    silent = learner(cbs=SaveBest("score"), metrics=scores(0.5))
    with silent.no_logging():
        silent.fit(1)
    assert capsys.readouterr().out == ""


def test_it_says_nothing_if_nothing_is_put_back(capsys):
    learn = learner(cbs=SaveBest("score", restore=False), metrics=scores(0.5, 0.75, 0.25))
    learn.fit(3)
    assert "SaveBest" not in capsys.readouterr().out and "put_back" not in learn.recorder.runs[0].settings


def test_it_says_so_if_the_last_epoch_was_the_best(capsys):
    learn = learner(cbs=SaveBest("score"), metrics=scores(0.5, 0.75))
    learn.fit(2)
    assert "put back the weights of epoch 2/2: score 0.7500." in capsys.readouterr().out
    assert learn.recorder.runs[0].settings["put_back"]["epoch"] == 1


def test_after_an_extension_it_counts_the_epochs_of_the_longer_run(tmp_path, capsys):
    for n_epochs in (2, 4):  # the loss falls, so the first epoch has the largest
        learner(cbs=SaveBest("valid_loss", mode="max")).fit(n_epochs, checkpoint=tmp_path, extend=True)
        assert f"the weights of epoch 1/{n_epochs}: valid_loss" in capsys.readouterr().out.splitlines()[-1]


def test_it_names_the_step_of_a_validation_in_mid_epoch(capsys):
    learner(cbs=[SaveBest("score"), Validate(every_steps=2)], metrics=scores(0.5, 0.25)).fit(1)
    assert "SaveBest put back the weights of epoch 1/1, step 2: score 0.5000." in capsys.readouterr().out
