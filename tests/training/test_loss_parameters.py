"""Parameters inside a loss are trained, saved, resumed and put back with those of the model."""

import pytest
import torch
import torch.nn.functional as F
from interruptions import Stop, StopAt
from torch import nn

from minilearner import Callback, Checkpoint, DataLoaders, Learner, MixUp, NonFinite, SaveBest
from minilearner.errors import FileFormatError


class Uncertain(nn.Module):
    """The squared error under a noise that is learnt too (Kendall and Gal, 2017)."""

    def __init__(self):
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(()))

    def forward(self, pred, y):
        return torch.exp(-self.log_var) * F.mse_loss(pred, y) + self.log_var


class Spoil(Callback):
    """Makes the last two epochs worse."""

    def after_train(self, run):
        if run.epoch > 1:
            with torch.no_grad():
                run.model.weight += 3
                for parameter in run.step.loss_func.parameters():
                    parameter -= 1


def batches():
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(1))
    return list(zip(x.split(8), (x @ torch.tensor([1.0, -2.0]))[:, None].split(8), strict=True))


def net():
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def momentum(groups, lr):
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)


def learner(loss, opt_func=momentum, **options):
    return Learner(DataLoaders(batches(), batches(), seed=3), net(), loss, opt_func, device="cpu", **options)


def quietly(learn, *args, **options):
    with learn.no_logging():
        return learn.fit(*args, **options)


def plainly_trained(make, n_epochs=2, lr=0.05):
    model, loss = net(), Uncertain()
    optimizer = make([*model.parameters(), *loss.parameters()], lr=lr)
    for _ in range(n_epochs):
        for x, y in batches():
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    return model, loss


@pytest.mark.parametrize("make", [momentum, torch.optim.Adagrad, torch.optim.AdamW])
def test_they_are_trained_as_in_a_plain_loop_over_several_calls(make):
    loss = Uncertain()
    learn = learner(loss, make)
    quietly(learn, 1, 0.05)
    optimizer = learn.optimizer
    quietly(learn, 1, 0.05)
    assert learn.optimizer is optimizer
    model, plain = plainly_trained(make)
    assert torch.equal(loss.log_var, plain.log_var) and torch.equal(learn.model.weight, model.weight)


def test_a_factory_that_adds_them_itself_keeps_its_state_too():
    loss = Uncertain()
    learn = learner(loss, lambda groups, lr: momentum([*groups, {"params": loss.parameters()}], lr=lr))
    quietly(learn, 1, 0.05)
    optimizer = learn.optimizer
    quietly(learn, 1, 0.05)
    assert learn.optimizer is optimizer
    assert torch.equal(loss.log_var, plainly_trained(momentum)[1].log_var)


def test_they_learn_while_the_body_is_frozen_and_with_weight_decay():
    loss = Uncertain()
    split = lambda model: [[model.weight], [model.bias]]  # noqa: E731
    learn = learner(loss, None, splitter=split, wd=0.1)
    before = learn.model.weight.clone()
    learn.freeze()
    quietly(learn, 1, 0.05)
    assert loss.log_var != 0 and torch.equal(learn.model.weight, before)


def test_save_and_load_bring_them_back_with_the_optimizers_state(tmp_path):
    loss = Uncertain()
    learn = learner(loss, path=tmp_path)
    quietly(learn, 2, 0.05)
    trained = loss.log_var.item()
    learn.save("both")
    learn.save("alone", with_opt=False)
    for file, with_opt in (("both", True), ("alone", False)):
        other = learner(Uncertain(), path=tmp_path).load(file, with_opt=with_opt)
        assert other.loss_func.log_var.item() == trained
    other = learner(Uncertain(), path=tmp_path).load("both")
    for one in (learn, other):
        quietly(one, 1, 0.05)
    assert other.loss_func.log_var.item() == loss.log_var.item() != trained


def test_a_file_of_another_loss_gives_the_weights(tmp_path):
    learn = learner(nn.MSELoss(), path=tmp_path)
    quietly(learn, 1, 0.05)
    learn.save("plain", with_opt=False)
    other = learner(Uncertain(), path=tmp_path).load("plain", with_opt=False)
    assert torch.equal(other.model.weight, learn.model.weight) and other.loss_func.log_var == 0
    other.save("learnt", with_opt=False)
    learn.load("learnt", with_opt=False)

    class Vector(Uncertain):
        def __init__(self):
            super().__init__()
            self.log_var = nn.Parameter(torch.zeros(3))

    with pytest.raises(FileFormatError, match="does not fit this loss: 1 of another shape or type: loss/log_var"):
        learner(Vector(), path=tmp_path).load("learnt", with_opt=False)


@pytest.mark.parametrize("mixes", [False, True])
def test_a_resumed_run_and_a_finished_one_have_them(tmp_path, mixes):
    def train(step, checkpoint):
        learn = learner(Uncertain())
        quietly(learn, 2, 0.05, cbs=[*([MixUp()] if mixes else []), StopAt(step)], checkpoint=checkpoint)
        return learn.loss_func.log_var

    whole, saving = train(None, None), Checkpoint(tmp_path, every_steps=3)
    with pytest.raises(Stop):
        train(5, saving)
    assert torch.equal(train(None, saving), whole)
    assert torch.equal(train(None, saving), whole)


def test_a_sweep_and_a_roll_back_put_them_back():
    loss = Uncertain()
    learn = learner(loss)
    learn.lr_find(num_it=6, show_plot=False, suggest_funcs=None)
    assert loss.log_var == 0

    class Poison(Callback):
        def after_loss(self, run):
            if run.training and run.iter == 2:
                run.loss = run.loss * torch.nan

    with pytest.warns(RuntimeWarning, match="rolled back"):
        quietly(learn, 1, 0.05, cbs=[NonFinite("rollback"), Poison()])
    assert loss.log_var.isfinite() and loss.log_var != 0


@pytest.mark.parametrize("mixes", [False, True])
def test_save_best_puts_them_back_with_the_weights_that_they_fit(mixes):
    loss = Uncertain()
    saver = SaveBest("valid_loss")
    learn = learner(loss, torch.optim.SGD)
    quietly(learn, 4, 0.05, cbs=[saver, Spoil(), *([MixUp()] if mixes else [])])
    best = learn.recorder.history["valid_loss"][saver.best_epoch]
    assert saver.best_epoch < 3
    with torch.no_grad():
        losses = [loss(learn.model(x), y) for x, y in batches()]
    assert float(torch.stack(losses).mean()) == pytest.approx(best, rel=1e-5)
