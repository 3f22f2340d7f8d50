import random

import numpy as np
import pytest
import torch

from minilearner.data.batch_transforms import BatchTransform, Pipeline, train_only


class AddNoise(BatchTransform):
    def __call__(self, x, rng):
        return x + torch.rand(x.shape, generator=rng)


class Scale(BatchTransform):
    train_only = False

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x, rng):
        return x * self.factor

    def decode(self, x):
        return x / self.factor

    def merge(self, later):
        return Scale(self.factor * later.factor) if isinstance(later, Scale) else None


class Shift(Scale):
    def __call__(self, x, rng):
        return x + self.factor

    def decode(self, x):
        return x - self.factor

    def merge(self, later):
        return None


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_augmentation_runs_in_training_only():
    pipeline, x = Pipeline([AddNoise(), Scale(2)]), torch.zeros(4)
    assert pipeline(x, rng(), training=True).ne(0).all()
    assert torch.equal(pipeline(x, rng(), training=False), x)


def test_the_same_generator_gives_the_same_bits():
    pipeline, x = Pipeline(AddNoise()), torch.zeros(4)
    assert torch.equal(pipeline(x, rng(1), training=True), pipeline(x, rng(1), training=True))
    assert not torch.equal(pipeline(x, rng(1), training=True), pipeline(x, rng(2), training=True))


def test_neighbours_are_fused_once_and_others_kept_apart():
    steps = Pipeline([Scale(2), Scale(3), AddNoise(), Scale(5)])
    assert [type(s) for s in steps.steps(training=True)] == [Scale, AddNoise, Scale]
    (merged,) = steps.steps(training=False)  # without the augmentation between them all three are neighbours
    assert merged.factor == 30


def test_decode_runs_backwards():
    x = torch.tensor([1.0, 2.0])
    pipeline = Pipeline([Scale(2), Shift(3)])
    assert torch.equal(pipeline.decode(pipeline(x, rng(), training=False)), x)


def draw_from_all(x):
    return x + torch.rand(1) + np.random.rand() + random.random()


def test_a_plain_function_is_reproducible_and_leaves_no_trace():
    pipeline, x = Pipeline(draw_from_all), torch.zeros(1)
    before = torch.get_rng_state().clone(), random.getstate(), np.random.get_state()[1].copy()
    first = pipeline(x, rng(), training=False)
    torch.rand(3)
    assert torch.equal(first, pipeline(x, rng(), training=True))
    assert not torch.equal(first, pipeline(x, rng(1), training=True))
    torch.manual_seed(0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()


@pytest.mark.parametrize(("given", "message"), [(Scale, r"class Scale: write Scale\("), (["x"], "Received: 'x'")])
def test_what_is_no_transform_is_refused(given, message):
    with pytest.raises(TypeError, match=f"`batch_tfms`.*{message}"):
        Pipeline(given)


def test_an_empty_pipeline_has_no_steps():
    assert Pipeline().steps(training=True) == ()
    assert repr(Pipeline(draw_from_all)) == "Pipeline([draw_from_all])"


def add_one(x):
    return x + 1


def test_train_only_keeps_a_function_out_of_validation():
    pipeline, x = Pipeline([train_only(add_one), Scale(2)]), torch.zeros(2)
    assert torch.equal(pipeline(x, rng(), training=True), torch.full((2,), 2.0))
    assert torch.equal(pipeline(x, rng(), training=False), x)
    assert repr(train_only(add_one)) == "add_one"


def test_train_only_takes_functions():
    with pytest.raises(TypeError, match=r"is a batch transform: set `train_only = True`"):
        train_only(AddNoise())
    with pytest.raises(TypeError, match=r"`f` takes transforms or functions.*Received: 'x'"):
        train_only("x")


class Last(Scale):
    order = 99


def test_order_numbers_decide_and_equal_ones_stay_as_listed():
    last, scale, shift = Last(3), Scale(2), Shift(1)
    assert Pipeline([last, shift, scale]).transforms == (shift, scale, last)
    x = torch.ones(1)
    assert Pipeline([last, scale, add_one])(x, rng(), training=False).item() == 9


class Choosing(Scale):
    """Multiplies by a random number in training, and by a fixed one in validation."""

    train_only = True

    def for_validation(self):
        return Scale(self.factor)


def test_validation_runs_what_a_transform_gives_for_it():
    pipeline = Pipeline(Choosing(5))
    assert [type(t) for t in pipeline.steps(training=True)] == [Choosing]
    assert [type(t) for t in pipeline.steps(training=False)] == [Scale]
    assert pipeline.decode(torch.tensor(5.0)).item() == 1
