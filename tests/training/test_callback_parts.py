"""A callback's own networks and optimizers are saved, resumed and restored like the learner's."""

from functools import partial

import pytest
import torch
from interruptions import Stop, StopAt
from torch import nn
from torch.nn import functional as F

from minilearner import Callback, CancelBackward, Checkpoint, DataLoaders, Learner, SplitOnOOM, set_seed


class GAN(Callback):
    part_of_step = True

    def __init__(self, generator, critic):
        self.generator, self.critic = generator, critic
        self.of_generator = torch.optim.Adam(generator.parameters(), 1e-2)
        self.of_critic = torch.optim.Adam(critic.parameters(), 1e-2)

    def before_fit(self, run):
        run.process_batch = partial(self.train, run)

    def train(self, run):
        made = self.generator(torch.randn(len(run.x), 3))
        self.update(
            self.of_critic, F.softplus(-self.critic(run.x)).mean() + F.softplus(self.critic(made.detach())).mean()
        )
        run.pred, run.loss = made, F.softplus(-self.critic(made)).mean()
        self.update(self.of_generator, run.loss)
        run.count_update()
        raise CancelBackward

    def update(self, optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def make_gan():
    set_seed(1)
    generator, critic = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), nn.Linear(2, 1)
    dls = DataLoaders.from_arrays((torch.randn(24, 2), torch.ones(24, 1)), bs=4, seed=0)
    learn = Learner(dls, critic, F.binary_cross_entropy_with_logits, cbs=GAN(generator, critic))
    return learn, generator


def weights(*models):
    return torch.cat([t.detach().flatten().float() for model in models for t in model.state_dict().values()])


@pytest.mark.parametrize("step", [7, 12])
def test_a_gan_resumes_to_the_same_bits(tmp_path, step):
    def train(stop_at, folder):
        learn, generator = make_gan()
        with learn.no_logging():
            learn.fit(3, cbs=StopAt(stop_at), checkpoint=folder and Checkpoint(folder, every_steps=3))
        return weights(learn.model, generator)

    whole = train(None, None)
    with pytest.raises(Stop):
        train(step, tmp_path)
    assert torch.equal(train(None, tmp_path), whole)


def test_a_sweep_leaves_no_trace_on_a_callbacks_networks_and_keeps_them_the_same_objects():
    learn, generator = make_gan()
    learn.fit(1)
    gan, before = learn.cbs[0], weights(learn.model, generator)
    moments = {name: t.clone() for name, t in gan.of_generator.state[generator[0].weight].items()}
    learn.lr_find(num_it=5, show_plot=False, suggest_funcs=None)
    assert gan.generator is generator and torch.equal(weights(learn.model, generator), before)
    after = gan.of_generator.state[generator[0].weight]
    assert all(torch.equal(after[name], t) for name, t in moments.items())


def test_a_resumed_run_uses_a_callbacks_new_argument(tmp_path):
    class StopHere(Callback):
        def __init__(self, step):
            self.step = step

        def after_batch(self, run):
            if run.training and run.global_step == self.step:
                raise Stop

    def train(step):
        learn, _ = make_gan()
        with learn.no_logging():
            learn.fit(2, cbs=StopHere(step), checkpoint=Checkpoint(tmp_path, every_steps=2))
        return learn

    with pytest.raises(Stop):
        train(5)
    assert len(train(99).recorder.runs[-1].epochs) == 2


def test_a_pass_of_ones_own_must_set_the_loss():
    class Forgetful(Callback):
        def before_fit(self, run):
            run.process_batch = lambda: None

    learn, _ = make_gan()
    learn.cbs = [Forgetful()]
    with pytest.raises(RuntimeError, match="`run.process_batch` must set `run.loss`"):
        learn.fit(1)


def test_a_batch_is_split_for_memory_whichever_callback_comes_first():
    class Short(Callback):
        def before_fit(self, run):
            run.process_batch = partial(self.train, run)

        def train(self, run):
            if len(run.x) > 2:
                raise torch.OutOfMemoryError("out of memory")
            run.pred = run.step.predict(run.x)
            run.loss = run.step.compute_loss(run.pred, run.y)
            run.step.backward(run.loss, len(run.x))

    for cbs in ([Short(), SplitOnOOM()], [SplitOnOOM(), Short()]):
        learn, _ = make_gan()
        learn.cbs = cbs
        with learn.no_logging(), pytest.warns(RuntimeWarning, match="did not fit"):
            learn.fit(1)
