"""EMA and SWA equal torch's, replace the weights during validation, and leave only the averages at the end."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from minilearner import (
    EMA,
    SWA,
    BnFreeze,
    Callback,
    CancelEpoch,
    CancelFit,
    DataLoaders,
    GradientAccumulation,
    Learner,
    SaveBest,
    Validate,
)


def norm_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def learner(blobs, model=None, **kwargs):
    dls = DataLoaders.from_arrays(*blobs, bs=16, seed=3)
    return Learner(dls, model or norm_net(), opt_func=torch.optim.SGD, **({"lr": 0.1} | kwargs))


def plain_loop(blobs, n_epochs, after_step=None, after_epoch=None):
    """Does the same training by hand. Returns the model and the training loader."""
    dls, model = DataLoaders.from_arrays(*blobs, bs=16, seed=3), norm_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(n_epochs):
        for x, y in dls.train:
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            if after_step:
                after_step(model)
        if after_epoch:
            after_epoch(model, dls)
    return model


def tensors(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def assert_same(model, other, **tolerance):
    for (name, a), (_, b) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        if a.is_floating_point():  # torch also averages the count of batches, which makes no sense
            torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}", **tolerance)


class Watch(Callback):
    """Keeps the model's weights at some events."""

    order = 200

    def __init__(self, *events):
        self.seen = {}
        for event in events:
            setattr(self, event, lambda run, event=event: self.seen.setdefault(event, []).append(tensors(run.model)))


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.values(), b.values(), strict=True))


def test_ema_equals_torchs(blobs):
    averaged = AveragedModel(norm_net(), multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    plain_loop(blobs, 2, after_step=averaged.update_parameters)
    with (learn := learner(blobs)).no_logging():
        learn.fit(2, cbs=EMA(0.9))
    assert_same(learn.model, averaged.module, rtol=0, atol=0)


def test_debiased_ema_is_the_mean_weighted_by_age(blobs):
    states = []
    plain_loop(blobs, 1, after_step=lambda model: states.append(tensors(model)["0.weight"].double()))
    ages = [0.9**age for age in range(len(states))][::-1]
    expected = sum(w * state for w, state in zip(ages, states)) / sum(ages)
    with (learn := learner(blobs)).no_logging():
        learn.fit(1, cbs=EMA(0.9, debias=True))
    torch.testing.assert_close(learn.model[0].weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_ema_every_other_step_from_the_middle(blobs):
    states = []
    plain_loop(blobs, 2, after_step=lambda model: states.append(tensors(model)["0.weight"]))
    with (learn := learner(blobs)).no_logging():
        learn.fit(2, cbs=EMA(0.9, every_steps=2, start=0.5))
    expected = states[5].lerp(states[7], 0.1).lerp(states[9], 0.1)  # updates 6, 8 and 10 of 10
    torch.testing.assert_close(learn.model[0].weight.detach(), expected)


def test_ema_counts_updates_under_accumulation(blobs):
    with (learn := learner(blobs)).no_logging():
        learn.fit(1, cbs=[ema := EMA(0.9), GradientAccumulation(2)])
    assert ema.n_averaged == 3  # five batches


def test_swa_equals_torchs_with_its_update_of_batch_norm(blobs):
    averaged = AveragedModel(norm_net())
    epochs = []

    def after_epoch(model, dls):
        epochs.append(0)
        if len(epochs) > 2:
            averaged.update_parameters(model)
        if len(epochs) == 4:
            update_bn(dls.train, averaged)

    plain_loop(blobs, 4, after_epoch=after_epoch)
    with (learn := learner(blobs)).no_logging():
        learn.fit(4, cbs=SWA(start=0.5))
    assert_same(learn.model, averaged.module, rtol=1e-6, atol=1e-6)
    assert learn.model[1].num_batches_tracked == 5
    assert learn.model[1].momentum == 0.1


@pytest.mark.parametrize("averaging", [lambda: EMA(0.9), lambda: SWA(start=0.3)], ids=["ema", "swa"])
def test_training_is_the_same_as_without(blobs, averaging):
    """This includes batch norm, dropout and the order of the loaders."""
    watches = []
    for cbs in ([], [averaging()]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
        watches.append(watch := Watch("after_step"))
        with (learn := learner(blobs, net)).no_logging():
            learn.fit(4, cbs=[*cbs, watch])
            watch.seen["after_step"].append({"random": torch.rand(3)})
        assert learn.dls.train.epoch == 4
    assert all(same(a, b) for a, b in zip(*(w.seen["after_step"] for w in watches), strict=True))


@pytest.mark.parametrize("averaging", [lambda: EMA(0.9), lambda: SWA(start=0.3)], ids=["ema", "swa"])
def test_validation_sees_the_averages_and_only_validation(blobs, averaging):
    learn = learner(blobs)
    watch = Watch("after_train", "after_validate", "before_epoch")
    inside = Watch("before_batch")
    inside.before_batch = lambda run: None if run.training else inside.seen.update(last=tensors(run.model))
    with learn.no_logging():
        record = learn.fit(3, cbs=[averaging(), watch, inside])
        assert learn.validate()[0] == record.history["valid_loss"][-1]
    assert same(inside.seen["last"], tensors(learn.model))
    assert not same(inside.seen["last"], watch.seen["after_train"][-1])
    for event in ("after_validate", "before_epoch"):
        after = watch.seen[event][1 if event == "before_epoch" else 0]
        assert same(after, watch.seen["after_train"][0])


def test_a_validation_in_mid_epoch_sees_the_newest_average(blobs):
    seen = []

    class Look(Callback):
        def before_batch(self, run):
            if not run.training:
                seen.append((run.global_step, tensors(run.model)["0.weight"]))

    states = []
    plain_loop(blobs, 1, after_step=lambda model: states.append(tensors(model)["0.weight"]))
    with (learn := learner(blobs)).no_logging():
        learn.fit(1, cbs=[Validate(every_steps=2), EMA(0.5), Look()])
    step, weight = seen[0]
    assert step == 2
    torch.testing.assert_close(weight, states[0].lerp(states[1], 0.5))


@pytest.mark.parametrize("at_end", [True, False])
def test_what_the_model_holds_at_the_end(blobs, at_end):
    learn, ema = learner(blobs), EMA(0.9, at_end=at_end)
    with learn.no_logging():
        learn.fit(2, cbs=ema)
    plain = plain_loop(blobs, 2)
    assert same(tensors(learn.model), tensors(plain)) is not at_end
    plain.load_state_dict(ema.averages, strict=False)
    assert same(tensors(learn.model), tensors(plain)) is at_end


@pytest.mark.parametrize("event", ["after_backward", "before_validate", "after_loss", "after_validate", "after_epoch"])
@pytest.mark.parametrize("averaging", [lambda: EMA(0.9), lambda: SWA(start=0.0)], ids=["ema", "swa"])
def test_an_interrupt_leaves_the_models_own_weights(blobs, averaging, event):
    class Interrupts(Callback):
        order = 300

    def interrupt(run):
        if run.epoch == 1 and (event != "after_loss" or not run.training):
            raise KeyboardInterrupt

    stop, learn, watch = Interrupts(), learner(blobs), Watch("after_step")
    setattr(stop, event, interrupt)
    with learn.no_logging(), pytest.raises(KeyboardInterrupt):
        learn.fit(2, cbs=[averaging(), watch, stop])
    own = {name: t for name, t in watch.seen["after_step"][-1].items() if "running" not in name and "num" not in name}
    now = {name: t for name, t in tensors(learn.model).items() if name in own}
    assert same(now, own)
    assert learn.model[1].momentum == 0.1


@pytest.mark.parametrize("event", ["after_epoch", "after_batch"])
def test_a_cancelled_run_ends_with_the_averages(blobs, event):
    class Cancels(Callback):
        order = 300

    def cancel(run):
        if run.epoch == 1:
            raise CancelFit

    stop, learn, ema = Cancels(), learner(blobs), EMA(0.9)
    setattr(stop, event, cancel)
    with learn.no_logging():
        learn.fit(2, cbs=[ema, stop])
    assert all(torch.equal(t, ema.averages[name]) for name, t in learn.model.state_dict().items())


def test_the_best_model_is_made_of_the_averages(blobs):
    learn, best = learner(blobs), SaveBest()
    with learn.no_logging():
        record = learn.fit(5, cbs=[best, EMA(0.7)])
        assert learn.validate()[0] == min(record.history["valid_loss"]) == best.best


def test_frozen_norms_keep_their_statistics_under_swa(blobs):
    model = norm_net()
    model[1].requires_grad_(False)
    model[1].running_mean.fill_(0.5)
    before = tensors(model[1])
    with (learn := learner(blobs, model)).no_logging():
        learn.fit(2, cbs=[BnFreeze(), SWA(start=0)])
    assert same(tensors(learn.model[1]), before)


def test_swa_without_a_validation_set_draws_nothing(blobs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3))
    learn, numbers = learner((blobs[0],), model), []
    for cbs in ([], [SWA(start=0)]):
        torch.manual_seed(1)
        with learn.no_logging():
            learn.fit(1, cbs=cbs)
        numbers.append(torch.rand(1))
    assert numbers[0] == numbers[1] and learn.model[2].num_batches_tracked == 5


def test_masks_of_infinities_are_copied(blobs):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 3)
            self.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0]))

        def forward(self, x):
            return self.layer(x) + self.mask.clamp_min(-10)

    with (learn := learner(blobs, Masked())).no_logging():
        learn.fit(1, cbs=EMA(0.9))
    assert learn.model.mask.tolist() == [0, float("-inf"), 0]


def test_a_validation_cancelled_with_its_epoch_restores_the_weights(blobs):
    class Cancels(Callback):
        def before_batch(self, run):
            if not run.training:
                raise CancelEpoch

    watch = Watch("after_train", "before_epoch")
    with (learn := learner(blobs)).no_logging():
        learn.fit(2, cbs=[EMA(0.9), Cancels(), watch])
    assert same(watch.seen["before_epoch"][1], watch.seen["after_train"][0])


def test_neither_validate_nor_the_sweep_moves_the_averages(blobs):
    learn, ema = learner(blobs), EMA(0.9)
    learn.add_cb(ema)
    with learn.no_logging():
        learn.fit(1)
        before, averages = tensors(learn.model), copy.deepcopy(ema.averages)
        learn.validate()
        learn.lr_find(num_it=5, show_plot=False)
    assert same(tensors(learn.model), before) and same(ema.averages, averages)
    assert (ema.n_averaged, ema._own) == (5, None)


def test_tied_weights_channels_last_and_bf16(blobs):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3)
            self.again = self.conv

        def forward(self, x):
            once = self.conv(x[:, :, None, None].expand(-1, -1, 5, 5))
            return nn.functional.pad(self.again(once).mean((2, 3)), (0, 1))

    torch.manual_seed(0)
    learn = learner(blobs, Tied(), precision="bf16")
    with learn.no_logging():
        learn.fit(1, cbs=[ema := EMA(0.5)])
    assert list(ema.averages) == ["conv.weight", "conv.bias"]
    assert torch.equal(learn.model.again.weight, ema.averages["conv.weight"])
    assert learn.model.conv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EMA(1.0), r"`decay` must be in \(0, 1\). Received: decay=1.0"),
        (lambda: EMA(every_steps=0), "`every_steps` must be at least 1"),
        (lambda: EMA(start=1.0), r"`start` must be in \[0, 1\)"),
        (lambda: SWA(start=-0.1), r"`start` must be in \[0, 1\). Received: start=-0.1"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_two_averaging_callbacks_are_refused(blobs):
    with (learn := learner(blobs)).no_logging(), pytest.raises(ValueError, match="average the weights. Give one"):
        learn.fit(1, cbs=[EMA(), SWA()])
