"""A NaN or infinite loss or gradient never reaches the weights, and the error names its batch and items."""

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
    NonFinite,
    NonFiniteError,
    ParamScheduler,
    linear,
)
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader

IGNORE_WARNING = pytest.mark.filterwarnings("ignore:NonFinite")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


class Stream:
    """Serves batches that cannot be checked before training, as those of a list are."""

    def __init__(self, made):
        self.made = made

    def __len__(self):
        return len(self.made)

    def __iter__(self):
        return iter(self.made)


def batches(n=6, poisoned=()):
    g = torch.Generator().manual_seed(0)
    made = [(torch.randn(4, 4, generator=g), torch.randint(3, (4,), generator=g)) for _ in range(n)]
    for i in poisoned:
        made[i][0][1, 2] = float("nan")
    return made


def learner(train, **kwargs):
    kwargs = {"opt_func": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9), "lr": 0.1} | kwargs
    return Learner(DataLoaders(Stream(train)), net(), nn.CrossEntropyLoss(), **kwargs)


def trained(train, cbs, n_epochs=1, **kwargs):
    learn = learner(train, **kwargs)
    with learn.no_logging():
        learn.fit(n_epochs, cbs=cbs)
    return learn


def without(train, *left_out):
    return [batch for i, batch in enumerate(train) if i not in left_out]


def state(learn):
    return [*learn.model.state_dict().values(), *(v for s in learn.optimizer.state.values() for v in s.values())]


def assert_same(a, b):
    assert all(torch.equal(x, y) for x, y in zip(state(a), state(b), strict=True))


class BadGradient(Callback):
    """Makes the gradient of one batch infinite, although its loss is finite."""

    def __init__(self, batch):
        self.batch = batch

    def after_backward(self, run):
        if run.iter == self.batch:
            run.model[3].weight.grad[0, 0] = float("inf")


def test_raise_names_epoch_batch_and_the_odd_item_and_applies_nothing():
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    learn = Learner(DataLoaders.from_arrays((x, y), bs=5, seed=1), net(), nn.CrossEntropyLoss(), torch.optim.SGD, 0.1)
    before, at = {}, learn.dls.train.indices(0).tolist().index(13) // 5

    class Watch(Callback):
        def before_fit(self, run):
            run.dls.train.x[13] = float("inf")  # as a transform might do; the data are checked before

        def before_batch(self, run):
            before.update({k: v.clone() for k, v in run.model.state_dict().items()})

    message = rf"the loss of batch {at} of epoch 0 is (nan|inf). Not finite are: item 13\."
    with learn.no_logging(), pytest.raises(NonFiniteError, match=message) as caught:
        learn.fit(1, cbs=[NonFinite(), Watch()])
    assert caught.value.positions == learn.dls.train.indices(0)[at * 5 : at * 5 + 5].tolist()
    assert all(torch.equal(before[k], v) for k, v in learn.model.state_dict().items())
    assert all(p.grad is None for p in learn.model.parameters())


def test_items_from_files_are_named_with_their_files(tmp_path):
    paths = [tmp_path / f"{i}.txt" for i in range(8)]
    values = dict.fromkeys(paths, 1.0) | {paths[6]: float("nan")}
    dataset = ItemDataset(paths, lambda path: torch.full((4,), values[path]))
    assert 6 not in ItemLoader(dataset, bs=4, shuffle=True, seed=2).indices(0)[:4]  # checked before training
    train = ItemLoader(dataset, torch.arange(8) % 3, bs=4, shuffle=True, seed=2, num_workers=0)
    learn = Learner(DataLoaders(train, vocab=range(3)), net(), nn.CrossEntropyLoss(), torch.optim.SGD, 0.1)
    with learn.no_logging(), pytest.raises(NonFiniteError, match=r"item 6 \('.*6\.txt'\)\."):
        learn.fit(1, cbs=NonFinite())


def test_a_batch_of_a_foreign_loader_is_named_by_its_number():
    with pytest.raises(NonFiniteError, match=r"batch 2 of epoch 0 is nan. It comes from a foreign loader"):
        trained(batches(4, [2]), NonFinite())


def test_an_infinite_gradient_under_a_finite_loss_is_reported_with_its_parameter():
    with pytest.raises(NonFiniteError, match=r"gradient of 3.weight in batch 1 of epoch 0 is not finite, .* loss is"):
        trained(batches(3), [NonFinite(), BadGradient(1)])


@IGNORE_WARNING
@pytest.mark.parametrize("policy", ["skip", "rollback"])
@pytest.mark.parametrize("extra", [[], [BadGradient(2)], [GradientClip(0.5)]], ids=["loss", "gradient", "clip"])
def test_skipping_an_update_equals_training_without_that_batch(policy, extra):
    """With a copy before every update and a factor of 1, rolling back also undoes the previous update."""
    train = batches(6, [] if extra and isinstance(extra[0], BadGradient) else [2])
    learn = trained(train, [NonFinite(policy, every_steps=1, factor=1.0), *extra])
    clip = [cb for cb in extra if isinstance(cb, GradientClip)]
    assert_same(learn, trained(without(train, *([2] if policy == "skip" else [1, 2])), clip))
    assert len(learn.recorder.losses) == 5 and learn.recorder.runs[0].steps["step"].tolist() == [1, 2, 3, 4, 5]


@IGNORE_WARNING
def test_with_accumulation_the_batches_gathered_so_far_go_too():
    train = batches(8, [1])
    learn = trained(train, [NonFinite("skip"), GradientAccumulation(3)])
    assert_same(learn, trained(without(train, 0, 1), [GradientAccumulation(3)]))


def test_the_end_of_the_run_and_the_record_say_how_often_and_where():
    with pytest.warns(RuntimeWarning, match="2 updates were left out: epoch 0 batch 1, epoch 0 batch 4$"):
        learn = trained(batches(6, [1, 4]), NonFinite("skip"))
    assert learn.recorder.runs[0].settings["non_finite"].startswith("NonFinite: 2 updates")


@IGNORE_WARNING
def test_too_many_in_a_row_raise():
    with pytest.raises(NonFiniteError, match="batch 3 of epoch 0.* more than limit=2 of that in a row"):
        trained(batches(6, [1, 2, 3]), NonFinite("skip", limit=2))
    trained(batches(6, [1, 2, 4, 5]), NonFinite("skip", limit=2))


def test_nothing_changes_if_all_is_finite():
    for policy in ("raise", "skip", "rollback"):
        assert_same(trained(batches(), NonFinite(policy)), trained(batches(), None))


class Snapshots(Callback):
    """Keeps the whole state before each update."""

    def __init__(self):
        self.kept = []

    def before_batch(self, run):
        optimizer = [v.clone() for s in run.optimizer.state.values() for v in s.values()]
        self.kept.append([*(v.clone() for v in run.model.state_dict().values()), *optimizer])


@IGNORE_WARNING
def test_rollback_returns_to_the_last_good_copy_and_cuts_the_rate_from_then_on():
    seen = Snapshots()
    learn = trained(batches(8, [5]), [NonFinite("rollback", every_steps=3), seen, ParamScheduler({"lr": linear(1, 0)})])
    assert all(torch.equal(a, b) for a, b in zip(seen.kept[6], seen.kept[3], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen.kept[5], seen.kept[3], strict=True))
    before, after = (1 - torch.arange(5) / 8).tolist(), (0.5 * (1 - torch.arange(5, 7) / 8)).tolist()
    assert learn.recorder.lrs.tolist() == pytest.approx(before + after)
    assert torch.equal(learn.model[1].num_batches_tracked, torch.tensor(5))


@IGNORE_WARNING
def test_a_copy_serves_more_than_once():
    seen = Snapshots()
    trained(batches(9, [5, 7]), [NonFinite("rollback", every_steps=4), seen])
    for i in (6, 8):
        assert all(torch.equal(a, b) for a, b in zip(seen.kept[i], seen.kept[4], strict=True))


@IGNORE_WARNING
def test_rollback_takes_the_averages_along():
    ema = EMA(0.5, at_end=False)
    learn = trained(batches(6, [5]), [NonFinite("rollback", every_steps=3), ema])
    other = EMA(0.5, at_end=False)
    trained(batches(3), [other])
    assert all(torch.equal(a, b) for a, b in zip(ema.averages.values(), other.averages.values(), strict=True))
    assert learn.recorder.runs[0].settings["non_finite"].endswith("cut to 0.5 of: epoch 0 batch 5")


@IGNORE_WARNING
def test_rollback_has_a_limit_and_needs_a_good_state():
    with pytest.raises(NonFiniteError, match="more than limit=2 of that in this run"):
        trained(batches(8, [1, 3, 5]), NonFinite("rollback", limit=2))
    with pytest.raises(NonFiniteError, match="no good state to go back to"):
        trained(batches(2), [NonFinite("rollback"), BadGradient(0)])


@IGNORE_WARNING
def test_fp16_leaves_gradients_to_the_loss_scale_and_losses_to_the_policy():
    class Overflow(Callback):
        def before_fit(self, run):
            run.step.precision.scaler = torch.amp.GradScaler(
                "cpu", init_scale=2.0**40
            )  # scaled gradients overflow at first

    learn = trained(batches(30, [28]), [NonFinite("skip"), Overflow()], precision="fp16")
    assert learn.recorder.runs[0].settings["non_finite"].endswith("1 update was left out: epoch 0 batch 28")
    assert 0 < learn.recorder.runs[0].steps["step"][-1] < 29
    assert all(v.isfinite().all() for v in state(learn))


@IGNORE_WARNING
def test_the_rate_is_whole_again_in_the_next_run_and_mixing_goes_on():
    learn = trained(batches(6, [3]), [NonFinite("rollback"), MixUp()])
    assert learn.recorder.lrs[-1] == pytest.approx(0.05)
    with learn.no_logging():
        learn.fit(1, cbs=NonFinite("skip"))
    assert learn.recorder.lrs[-1] == pytest.approx(0.1)


def test_lr_find_and_validation_are_left_alone():
    learn = learner(batches(4, [1]), cbs=[NonFinite()])
    with learn.no_bar(), learn.no_logging():
        assert learn.lr_find(num_it=4, show_plot=False, suggest_funcs=()) is not None


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"policy": "skipp"}, "`policy` must be one of .* Did you mean 'skip'"),
        ({"limit": 0}, "`limit` must be at least 1"),
        ({"every_steps": 0}, "`every_steps` must be at least 1"),
        ({"factor": 0.0}, r"`factor` must be in \(0, 1\]"),
    ],
)
def test_wrong_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        NonFinite(**kwargs)
