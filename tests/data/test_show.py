import numpy as np
import pytest
import torch

from minilearner import Category, DataError, DataLoaders, Flip, Normalize, RandomShift, Regression
from minilearner.data.show import title, titles_of


class Several:
    """A target with several labels for each item, with only the part that titles need."""

    def label(self, value):
        return [name for name, is_there in zip("abc", value.tolist()) if is_there]


@pytest.fixture
def arrays():
    """Ten grey images of eight classes. The brightness of each is its number."""
    x = torch.arange(10, dtype=torch.uint8).mul(25).view(10, 1, 1, 1).expand(10, 1, 6, 6).contiguous()
    return x, np.array([f"c{i % 8}" for i in range(10)])


def shown(figure):
    axes = [ax for ax in figure.axes if ax.images]
    return [ax.get_title() for ax in axes], [np.asarray(ax.images[0].get_array()) for ax in axes]


def test_a_batch_is_shown_in_real_colours_with_the_names_of_its_labels(arrays):
    dls = DataLoaders.from_arrays(arrays, bs=5, seed=1, batch_tfms=[Normalize.from_stats(0.4, 0.2)])
    titles, images = shown(dls.show_batch(max_n=4))
    x, y = dls.one_batch()
    assert titles == [dls.vocab[i] for i in y[:4]]
    np.testing.assert_allclose(images, x[:4, 0] * 0.2 + 0.4, atol=1e-6)
    numbers = [round(float(image[0, 0]) * 255 / 25) for image in images]
    assert titles == [f"c{number % 8}" for number in numbers]


def test_what_is_shown_is_what_the_next_pass_begins_with_and_showing_moves_nothing(arrays):
    dls = DataLoaders.from_arrays(arrays, bs=5, seed=1, batch_tfms=[Flip(), RandomShift(0.3)])
    before, rng = dls.train.epoch, torch.get_rng_state()
    _, images = shown(dls.show_batch())
    assert dls.train.epoch == before and torch.equal(torch.get_rng_state(), rng)
    np.testing.assert_array_equal(images, next(iter(dls.train))[0][:, 0])


def test_your_own_batch_and_the_validation_set_are_shown_too(arrays):
    dls = DataLoaders.from_arrays(arrays, arrays, bs=5, seed=1)
    assert shown(dls.show_batch(ds_idx=1))[0] == ["c0", "c1", "c2", "c3", "c4"]
    x, y = next(iter(dls.valid))
    assert shown(dls.show_batch((x[2:3], y[2:3])))[0] == ["c2"]
    with pytest.raises(ValueError, match="There is no validation set"):
        DataLoaders.from_arrays(arrays, bs=5).show_batch(ds_idx=1)


def test_unique_shows_one_image_under_several_augmentations():
    x = torch.rand(10, 3, 12, 12)
    dls = DataLoaders.from_arrays((x, np.arange(10)), bs=5, seed=1, batch_tfms=[RandomShift(0.3), Flip()])
    titles, images = shown(dls.show_batch(unique=True, max_n=4))
    assert titles == ["0"] * 4
    assert len({image.tobytes() for image in images}) == 4
    assert all(abs(image.mean() - float(x[0].mean())) < 0.1 for image in images)
    with pytest.raises(ValueError, match="there is no augmentation"):
        DataLoaders.from_arrays((x, np.arange(10)), bs=5).show_batch(unique=True)


def test_colour_images_keep_their_channels_in_order():
    x = torch.zeros(2, 3, 4, 4)
    x[:, 2] = 1.0
    _, images = shown(DataLoaders.from_arrays((x, [0, 1]), bs=2).show_batch())
    assert images[0][0, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("target", "value", "text"),
    [
        (Category(["cat", "dog"]), torch.tensor(1), "dog"),
        (Category(["cat", "dog"]), torch.zeros(4, 6).long(), "4 x 6 labels"),
        (Regression(1), torch.tensor(0.123456), "0.1235"),
        (Regression(2), torch.tensor([1.0, 2.5]), "1, 2.5"),
        (Several(), torch.tensor([1.0, 0, 1]), "a, c"),
        (Several(), torch.zeros(3), "(none)"),
        (None, torch.tensor(7), "7"),
    ],
)
def test_titles_say_what_targets_mean(target, value, text):
    assert title(target, value) == text


def test_long_titles_are_broken_into_lines():
    names = [f"a very long name of class {i}" for i in range(9)]
    lines = title(Category([", ".join(names)]), torch.tensor(0)).split("\n")
    assert len(lines) == 6 and max(map(len, lines)) <= 32 and lines[-1].endswith("…")


def test_the_name_of_a_class_keeps_every_letter():
    name = "a-long-name_of $80 <letters>, with word that are 80 % longer\nthan  a line in all"
    assert len(name) == 80
    shown = title(Category([name]), torch.tensor(0))
    assert shown.replace("\n", "") == name.replace("\n", "") and shown.count("\n") >= 2


def test_targets_that_are_no_tensor_have_titles_too():
    assert titles_of(None, None, 2) == ["", ""]
    assert titles_of(None, ["a", "b", "c"], 2) == ["a", "b"]
    assert titles_of(None, (torch.tensor([1, 2]), torch.tensor([0.5, 1.5])), 9) == ["(1, 0.5)", "(2, 1.5)"]


@pytest.mark.parametrize("x", [torch.zeros(4, 2), torch.zeros(4, 2, 8, 8), (torch.zeros(4, 3, 8, 8),) * 2])
def test_what_is_no_image_is_reported(x):
    with pytest.raises(DataError, match="only images can be shown"):
        DataLoaders([(x, torch.zeros(4).long())]).show_batch()


def test_transparent_images_are_shown_on_white():
    x = torch.zeros(2, 4, 6, 6, dtype=torch.uint8)
    x[:, 0], x[0, 3], x[1, 3] = 255, 255, 51  # red, opaque and four fifths transparent
    dls = DataLoaders.from_arrays((x, [0, 1]), bs=2, seed=1)
    titles, images = shown(dls.show_batch())
    by_label = dict(zip(titles, images))
    np.testing.assert_allclose(by_label["0"][0, 0], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(by_label["1"][0, 0], [1, 0.8, 0.8], atol=1e-6)
