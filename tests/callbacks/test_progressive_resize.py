"""Images grow during training with the right sizes and pixels, and have full size in validation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minilearner import Callback, DataError, DataLoaders, Learner, ProgressiveResize


class Sizes(Callback):
    order = 1
    part_of_step = True

    def __init__(self):
        self.seen = {True: [], False: []}
        self.first = None

    def before_batch(self, run):
        self.seen[run.training].append(tuple(run.x.shape[2:]))
        self.first = run.x if self.first is None else self.first


def learner(shape=(2, 1, 16, 32), n=10):
    data = [(torch.rand(shape), torch.arange(shape[0]) % 2) for _ in range(n)]
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    return Learner(DataLoaders(data, data[:1]), net, nn.CrossEntropyLoss(), torch.optim.SGD)


def test_sides_grow_in_training_and_are_full_in_validation():
    learn, sizes = learner(), Sizes()
    with learn.no_logging():
        learn.fit(1, cbs=[ProgressiveResize(0.5), sizes])
    small, full = (8, 16), (16, 32)
    assert sizes.seen[True] == [*[small] * 6, (12, 20), (12, 28), full, full]
    assert sizes.seen[False] == [full]


@pytest.mark.parametrize(("progress", "scale"), [(0, 0.5), (0.5, 0.5), (0.65, 0.75), (0.8, 1), (1, 1)])
def test_scale_at_the_start_the_joints_and_the_end(progress, scale):
    assert ProgressiveResize().scale(progress) == pytest.approx(scale)


def test_without_a_middle_it_jumps_to_the_full_size():
    resize = ProgressiveResize(0.5, delay=0.6, full=0.4)
    assert [resize.scale(progress) for progress in (0.59, 0.6)] == [0.5, 1.0]


def test_small_images_equal_torchs_antialiased_ones():
    learn, sizes = learner(), Sizes()
    with learn.no_logging():
        learn.fit(1, cbs=[ProgressiveResize(0.5), sizes])
    x, _ = next(iter(learn.dls.train))
    assert torch.equal(sizes.first, F.interpolate(x, (8, 16), mode="bilinear", antialias=True))


def test_a_sweep_sees_full_images():
    learn, seen = learner(), []
    learn.model.register_forward_pre_hook(lambda model, args: seen.append(tuple(args[0].shape[2:])))
    learn.add_cb(ProgressiveResize(0.5))
    with learn.no_logging():
        learn.lr_find(num_it=3, show_plot=False)
    assert set(seen) == {(16, 32)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_scale": 0}, r"`initial_scale` must be in \(0, 1\]. Received: initial_scale=0"),
        ({"delay": 0.9}, r"must not exceed 1 together. Received: delay=0.9, full=0.2"),
        ({"multiple": 0}, r"`multiple` must be at least 1"),
        ({"multiple": 1.5}, r"`multiple` must be a whole number. Received: multiple=1.5"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ProgressiveResize(**options)


def test_inputs_other_than_images_are_refused():
    learn = Learner(DataLoaders([(torch.rand(2, 1), torch.arange(2))]), nn.Linear(1, 2), nn.CrossEntropyLoss())
    with learn.no_logging(), pytest.raises(DataError, match=r"takes images .* Received: \(2, 1\)"):
        learn.fit(1, cbs=ProgressiveResize())
