"""MixUp and CutMix mix as in their papers, and the loss is the weighted mean of the losses for both targets."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minilearner import (
    Callback,
    CancelBatch,
    CutMix,
    DataLoaders,
    FocalLoss,
    GradientAccumulation,
    LabelSmoothingCrossEntropy,
    Learner,
    MixUp,
    accuracy,
)
from minilearner.callbacks.mixing import cut_and_paste, draw_boxes, interpolate
from minilearner.data.targets import mean_squared_error


def make_images(n=12, n_classes=3):
    g = torch.Generator().manual_seed(0)
    return torch.rand(n, 2, 8, 8, generator=g), torch.randint(n_classes, (n,), generator=g)


def convnet(n_out=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, n_out))


def learner(x, y, bs=4, loss=None, n_out=3, **kwargs):
    batches = list(zip(x.split(bs), y.split(bs)))
    loss = loss or nn.CrossEntropyLoss()
    return Learner(DataLoaders(batches, batches, seed=5), convnet(n_out), loss, torch.optim.SGD, lr=0.1, **kwargs)


class Seen(Callback):
    """Keeps the batches that the model receives, and their losses."""

    order = 50

    def before_fit(self, run):
        self.rows = []

    def after_loss(self, run):
        if run.training:
            self.rows.append((run.x, run.y, run.pred.detach(), run.loss.detach()))


def test_interpolation_is_the_papers():
    x, _ = make_images(3)
    partner, share = torch.tensor([2, 0, 1]), torch.tensor([0.9, 0.5, 0.7])
    mixed = interpolate(x, partner, share)
    for i in range(3):
        torch.testing.assert_close(mixed[i], share[i] * x[i] + (1 - share[i]) * x[partner[i]])


def test_boxes_are_cut_out_of_the_partner_and_the_batch_stays_as_it_is():
    x, _ = make_images(2)
    before = x.clone()
    boxes = torch.tensor([[1, 4, 0, 8], [0, 0, 0, 0]])
    mixed = cut_and_paste(x, torch.tensor([1, 0]), boxes)
    expected = x.clone()
    expected[0, :, 1:4] = x[1, :, 1:4]
    assert torch.equal(mixed, expected) and torch.equal(x, before)


def test_boxes_have_the_requested_area_if_they_fit():
    areas = np.full(2000, 0.25)
    boxes = draw_boxes(areas, 16, 32, np.random.default_rng(0))
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    assert heights.max() == 8 and widths.max() == 16
    assert boxes.min() == 0 and boxes[:, 1].max() == 16 and boxes[:, 3].max() == 32
    assert len(np.unique(boxes, axis=0)) > 200  # each its own


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()])
def test_a_run_equals_a_plain_loop_over_the_mixed_batches(mixing):
    x, y = make_images()
    learn, watch = learner(x, y, cbs=mixing), Shares(mixing)
    with learn.no_logging():
        learn.fit(2, cbs=watch)
    model = convnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for mixed, larger, smaller, share in watch.rows:
        pred = model(mixed)
        first = F.cross_entropy(pred, larger, reduction="none")
        second = F.cross_entropy(pred, smaller, reduction="none")
        (share * first + (1 - share) * second).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for a, b in zip(learn.model.parameters(), model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


class Shares(Callback):
    """Keeps the mixed inputs, both targets and the share of the first target for each training batch."""

    order = 50

    def __init__(self, mixing):
        self.mixing, self.rows = mixing, []

    def before_batch(self, run):
        if run.training:
            self.rows.append((run.x, run.y, *self.mixing._loss.other))


@pytest.mark.parametrize("mixing", [MixUp(0.4), CutMix()])
def test_inputs_and_targets_are_mixed_by_the_same_share(mixing):
    """The mean of mixed black and white images shows the share of the white one."""
    y = torch.tensor([0, 1] * 16)
    x = y.float().reshape(-1, 1, 1, 1).expand(-1, 2, 8, 8)
    learn, watch = learner(x, y, bs=32, n_out=2), Shares(mixing)
    with learn.no_logging():
        learn.fit(1, cbs=[mixing, watch])
    mixed, larger, smaller, share = watch.rows[0]
    torch.testing.assert_close(mixed.mean((1, 2, 3)), share * larger + (1 - share) * smaller)
    assert (share >= 0.5).all() and len(share.unique()) > 8


@pytest.mark.parametrize("mixing", [MixUp, CutMix])
@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (nn.CrossEntropyLoss(), "class"),
        (nn.CrossEntropyLoss(reduction="sum"), "class"),
        (LabelSmoothingCrossEntropy(), "class"),
        (FocalLoss(), "class"),
        (nn.BCEWithLogitsLoss(), "many"),
        (nn.MSELoss(), "many"),
        (mean_squared_error, "many"),
        (lambda pred, y: (pred - y).abs().pow(1.5).mean(), "many"),
    ],
    ids=["ce", "sum", "smoothing", "focal", "bce", "mse", "ours", "function"],
)
def test_any_loss_is_mixed_by_the_shares(mixing, loss, target):
    x, y = make_images()
    y = y if target == "class" else F.one_hot(y, 3).float()
    learn, seen, shares = learner(x, y, loss=loss), Seen(), Shares(m := mixing())
    with learn.no_logging():
        learn.fit(1, cbs=[m, shares, seen])
    for (_, _, pred, got), (_, larger, smaller, share) in zip(seen.rows, shares.rows):
        first, second = (torch.stack([loss(p[None], t[None]) for p, t in zip(pred, y)]) for y in (larger, smaller))
        total = share * first + (1 - share) * second
        expected = total.sum() if getattr(loss, "reduction", "") == "sum" else total.mean()
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()])
def test_a_batch_of_one_is_itself(mixing):
    x, y = make_images(3)
    learn, seen = learner(x, y, bs=1), Seen()
    with learn.no_logging():
        learn.fit(1, cbs=[mixing, seen])
    for (got, label, pred, loss), item, target in zip(seen.rows, x, y):
        torch.testing.assert_close(got[0], item)
        assert label[0] == target
        torch.testing.assert_close(loss, F.cross_entropy(pred, target[None]))


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()])
def test_validation_prediction_and_the_loss_afterwards_are_untouched(mixing):
    x, y = make_images()
    learn = learner(x, y, cbs=mixing, metrics=accuracy)
    loss = learn.loss_func
    with learn.no_logging():
        record = learn.fit(1)
        plain = Learner(learn.dls, learn.model, loss, metrics=accuracy)
        assert learn.validate() == plain.validate() == [record.history[n][-1] for n in ("valid_loss", "accuracy")]
    assert learn.loss_func is loss
    assert torch.equal(learn.get_preds()[0], plain.get_preds()[0])


def test_a_cancelled_batch_leaves_nothing_for_the_validation():
    class Cancels(Callback):
        def after_pred(self, run):
            if run.training and run.iter == 2:
                raise CancelBatch

    learn = learner(*make_images())
    with learn.no_logging():
        record = learn.fit(1, cbs=[CutMix(), Cancels()])
        assert learn.validate() == [record.history["valid_loss"][-1]]


def test_the_state_of_a_mixed_loss_stays_visible():
    seen = []

    class Watch(Callback):
        order = 10

        def before_fit(self, run):
            seen.append(run.step.loss_func.state_dict())

    weight = torch.tensor([1.0, 2.0, 3.0])
    learn = learner(*make_images(), loss=FocalLoss(weight=weight))
    with learn.no_logging():
        learn.fit(1, cbs=[MixUp(), Watch()])
    assert torch.equal(seen[0]["loss_func.weight"], weight)


def test_the_loss_is_restored_when_the_run_is_interrupted():
    steps = []

    class Interrupts(Callback):
        def after_backward(self, run):
            steps.append(run.step)
            raise KeyboardInterrupt

    learn = learner(*make_images())
    with learn.no_logging(), pytest.raises(KeyboardInterrupt):
        learn.fit(1, cbs=[MixUp(), Interrupts()])
    assert steps[0].loss_func is learn.loss_func


def test_draws_are_derived_and_move_no_global_generator():
    def run(noise):
        learn, seen = learner(*make_images()), Seen()
        torch.manual_seed(noise), np.random.seed(noise)
        state = torch.get_rng_state()
        with learn.no_logging():
            learn.fit(2, cbs=[MixUp(), seen])
        assert torch.equal(torch.get_rng_state(), state)
        return seen.rows

    first, second = run(1), run(2)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0][0], first[3][0])  # the second epoch mixes otherwise


@pytest.mark.parametrize("mixing", [MixUp, CutMix])
def test_it_takes_part_in_the_sweep_which_leaves_no_trace_on_it(mixing):
    def fit(with_sweep):
        learn, seen = learner(*make_images(), cbs=mixing()), Seen()
        with learn.no_logging():
            if with_sweep:
                sweep = learn.lr_find(num_it=6, stop_div=False, show_plot=False)
                plain = learner(*make_images()).lr_find(num_it=6, stop_div=False, show_plot=False)
                assert not np.allclose(sweep.losses, plain.losses)
            learn.fit(1, cbs=seen)
        return [row[0] for row in seen.rows]

    assert all(torch.equal(a, b) for a, b in zip(fit(True), fit(False), strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_with_accumulation_channels_last_and_low_precision(precision):
    x, y = make_images()
    learn = learner(x.contiguous(memory_format=torch.channels_last), y, precision=precision, cbs=[CutMix()])
    learn.model.to(memory_format=torch.channels_last)
    with learn.no_logging():
        record = learn.fit(1, cbs=GradientAccumulation(2))
    assert record.steps["step"][-1] == 2
    assert np.isfinite(record.steps["loss"]).all()


def test_metrics_on_training_batches_see_the_item_of_the_larger_share():
    seen = []

    def share_of_target(pred, target):
        seen.append(target)
        return accuracy(pred, target)

    x, y = make_images()
    learn, watch = learner(x, y, metrics=share_of_target), Shares(m := CutMix())
    learn.recorder.train_metrics = True
    with learn.no_logging():
        learn.fit(1, cbs=[m, watch])
    targets = seen[1:]  # the first call checks the metric before training
    assert all(torch.equal(target, row[1]) for target, row in zip(targets, watch.rows))


@pytest.mark.parametrize(
    ("cbs", "x", "error", "message"),
    [
        ([MixUp(), CutMix()], make_images()[0], ValueError, "would both mix the batches"),
        (CutMix(), torch.rand(12, 7), ValueError, r"takes images .* Received: shape \(4, 7\)"),
        (MixUp(), torch.randint(9, (12, 7)), TypeError, "floating-point inputs. Received: torch.int64"),
    ],
)
def test_inputs_that_cannot_be_mixed_are_refused(cbs, x, error, message):
    class AnyInput(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return x.float().flatten(1).mean(1, keepdim=True) + self.bias

    learn = learner(x, make_images()[1])
    learn.model = AnyInput()
    with learn.no_logging(), pytest.raises(error, match=message):
        learn.fit(1, cbs=cbs)


def test_targets_without_an_entry_for_each_item_are_refused():
    batches = [(torch.rand(2, 3), [torch.rand(4, 3), torch.rand(5, 3)])]
    learn = Learner(DataLoaders(batches), nn.Linear(3, 3), lambda pred, y: (pred - y[0][:2]).square().mean())
    with learn.no_logging(), pytest.raises(ValueError, match=r"an entry for each item.*a batch of 2 items"):
        learn.fit(1, cbs=MixUp())


def test_masks_are_refused_by_cutmix():
    x, _ = make_images()
    batches = [(x, torch.zeros(12, 8, 8, dtype=torch.int64))]
    learn = Learner(DataLoaders(batches), nn.Conv2d(2, 3, 1), nn.CrossEntropyLoss())
    with learn.no_logging(), pytest.raises(ValueError, match="targets of an image's size"):
        learn.fit(1, cbs=CutMix())


@pytest.mark.parametrize("mixing", [MixUp, CutMix])
def test_alpha_must_be_above_zero(mixing):
    with pytest.raises(ValueError, match="`alpha` must be positive and finite. Received: alpha=0"):
        mixing(0)
