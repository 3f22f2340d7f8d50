"""Predictions for items and images have real colours and names for labels, and leave no trace."""

import os
import random
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minilearner import (
    MLP,
    BatchTransform,
    ClassificationInterpretation,
    DataError,
    DataLoaders,
    Flip,
    Learner,
    Normalize,
    Regression,
    accuracy,
)
from minilearner.data.item_dataset import ItemDataset, as_tensor
from minilearner.data.item_loader import ItemLoader
from minilearner.data.item_transforms import ItemPipeline
from minilearner.data.targets import MultiCategory
from minilearner.plots.palette import palette
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.images import open_image
from minilearner.vision.resize import Resize

NEUTRAL, RIGHT, WRONG = palette().ink, palette().right, palette().wrong

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 240)}
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture
def files(tmp_path):
    """Six images, 16 x 16, in three colours. The left half is darker, so that a flip can be seen."""
    for i in range(6):
        name, colour = list(COLOURS.items())[i % 3]
        image = np.full((16, 16, 3), colour, dtype=np.uint8)
        image[:, :8] //= 2 + i // 3
        Image.fromarray(image).save(tmp_path / f"{name}_{i}.png")
    return sorted(tmp_path.glob("*.png"))


@pytest.fixture
def learner(files):
    """A learner with augmented, normalised files that always answers correctly, because it knows the three colours."""
    vocab = ["blue", "green", "red"]
    y = torch.tensor([vocab.index(path.stem.split("_")[0]) for path in files])

    def make(**kwargs):
        def loader(**options):
            dataset = ItemDataset(files, open_image, ItemPipeline(Resize(16)), seed=1)
            tfms = [Flip(0.5), Normalize.from_stats(*IMAGENET)]
            return ItemLoader(dataset, y, bs=3, seed=1, batch_tfms=tfms, **options)

        dls = DataLoaders(loader(shuffle=True, training=True), loader(), vocab=vocab, seed=1, device="cpu")
        return Learner(dls, Brightest(), nn.CrossEntropyLoss(), device="cpu", **kwargs)

    return make


class Brightest(nn.Module):
    """Predicts the brightest channel of an image. Its dropout shows whether it is in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3).flip(0))
        self.dropout = nn.Dropout(0.9)

    def forward(self, x):
        return self.dropout(x.mean((2, 3)) @ self.weight.T) * 10


def pixels(figure, i):
    return np.asarray(figure.axes[i].images[0].get_array())


def of_file(path):
    return np.asarray(open_image(path), dtype=np.float32) / 255


def global_state():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


# Predictions leave no trace


@pytest.mark.parametrize(
    "ask",
    [
        lambda learn, path: learn.predict(path, with_input=True),
        lambda learn, path: learn.tta(n=2),
        lambda learn, path: learn.show_results(),
        lambda learn, path: learn.dls.show_batch(),
        lambda learn, path: learn.dls.show_batch(unique=True),
        lambda learn, path: learn.items(0, None, [1, 2]),
    ],
)
def test_predicting_moves_nothing(learner, files, ask):
    learn = learner()
    with learn.no_logging():
        learn.fit(1)
    learn.model.train()
    weights = [t.clone() for t in learn.model.state_dict().values()]
    losses, state = learn.recorder.losses.copy(), global_state()
    before = learn.dls.train.epoch, learn.dls.valid.epoch, str(learn.optimizer.state_dict())
    ask(learn, files[0])
    assert learn.model.training and learn.model.dropout.training
    assert all(torch.equal(a, b) for a, b in zip(weights, learn.model.state_dict().values(), strict=True))
    np.testing.assert_array_equal(learn.recorder.losses, losses)
    assert (learn.dls.train.epoch, learn.dls.valid.epoch, str(learn.optimizer.state_dict())) == before
    assert global_state() == state


# predict


def test_predict_takes_a_path_and_names_the_label(learner, files):
    learn = learner()
    for path in files:
        label, index, probabilities = learn.predict(path)
        assert label == path.stem.split("_")[0] == learn.dls.vocab[int(index)]
        assert float(probabilities.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    "kind", [str, open_image, lambda path: np.asarray(open_image(path)), lambda path: as_tensor(open_image(path))]
)
def test_predict_takes_an_image_in_any_form(files, kind):
    tfms = {"item_tfms": Resize(8), "batch_tfms": Normalize.from_stats(*IMAGENET)}
    dls = ImageDataLoaders.from_name_func(
        ".", files, lambda name: name.split("_")[0], valid_pct=0.5, seed=1, bs=2, device="cpu", **tfms
    )
    learn = Learner(dls, MLP((192, 3)), device="cpu")
    found, expected = learn.predict(kind(files[0]), with_input=True), learn.predict(files[0], with_input=True)
    assert torch.equal(found.probabilities, expected.probabilities) and torch.equal(found.input, expected.input)


def test_predict_reads_in_this_process_though_training_has_workers(files):
    read_by = []

    def read(path):
        read_by.append(os.getpid())
        return open_image(path)

    loader = ItemLoader(ItemDataset(files, read), torch.arange(6) % 2, bs=2, num_workers=2)
    learn = Learner(DataLoaders(loader, vocab=["a", "b"], device="cpu"), MLP((768, 2)), device="cpu")
    learn.predict(files[0])
    assert set(read_by) == {os.getpid()}


def test_predict_gives_what_get_preds_gives(learner, files):
    learn = learner()
    preds, _ = learn.get_preds()
    for i, path in enumerate(files):
        torch.testing.assert_close(learn.predict(path).probabilities, preds[i], rtol=1e-6, atol=1e-7)


def test_predict_gives_the_input_in_its_real_colours_when_asked(learner, files):
    learn = learner()
    assert learn.predict(files[0]).input is None
    found = learn.predict(files[0], with_input=True)
    np.testing.assert_allclose(found.input.permute(1, 2, 0), of_file(files[0]), atol=1e-6)
    image, label, index, _ = found
    assert image is found.input and (label, index) == (found.label, found.index) == found[1:3] and len(found) == 4


def test_predict_takes_an_image_or_an_array_if_items_are_in_memory():
    x = torch.randint(0, 256, (8, 1, 6, 6), dtype=torch.uint8)
    learn = Learner(DataLoaders.from_arrays((x, np.arange(8) % 2), bs=4), MLP((36, 2)), device="cpu")
    expected = learn.get_preds(0).preds[3]
    for item in (x[3], x[3].numpy(), Image.fromarray(x[3, 0].numpy())):
        torch.testing.assert_close(learn.predict(item).probabilities, expected)


def test_threads_that_predict_at_once_get_the_same_answers_and_leave_the_flags(learner, files):
    learn = learner()
    learn.model.train()
    expected = [learn.predict(path).probabilities for path in files]
    state, wrong = global_state(), []

    def ask():
        for _ in range(10):
            for path, probabilities in zip(files, expected, strict=True):
                if not torch.equal(learn.predict(path).probabilities, probabilities):
                    wrong.append(path)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert learn.model.training and learn.model.dropout.training
    assert global_state() == state


# tta


class Darker(BatchTransform):
    """Darkens each image of a batch by its own factor, down to a half."""

    def __call__(self, x, rng):
        return x * (1 - 0.5 * torch.rand(len(x), 1, 1, 1, generator=rng))


class Halved(BatchTransform):
    def __call__(self, x, rng):
        return x * 0.5


@pytest.fixture
def grey():
    """A learner with grey images in memory, augmented and normalised."""
    x = torch.rand(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def make(*tfms):
        batch_tfms = [*tfms, Normalize.from_stats(0.5, 0.25)]
        dls = DataLoaders.from_arrays((x, np.arange(10) % 2), (x, np.arange(10) % 2), bs=4, batch_tfms=batch_tfms)
        torch.manual_seed(0)
        return Learner(dls, MLP((16, 2)), device="cpu"), x

    return make


def probabilities(learn, x):
    learn.model.eval()
    with torch.no_grad():
        return learn.model((x - 0.5) / 0.25).softmax(1)


def test_tta_weighs_the_mean_of_augmented_passes_with_the_plain_one(grey):
    learn, x = grey(Halved())
    plain, augmented = probabilities(learn, x), probabilities(learn, x * 0.5)
    preds, targets = learn.tta(n=3)
    torch.testing.assert_close(preds, augmented + 0.25 * (plain - augmented))
    assert targets.tolist() == [0, 1] * 5
    pair, _ = learn.tta(n=1, beta=None)
    torch.testing.assert_close(pair, (augmented, plain))
    torch.testing.assert_close(learn.tta(use_max=True).preds, torch.maximum(plain, augmented))


def test_tta_takes_other_transforms_and_keeps_what_validation_does(grey):
    learn, x = grey(Flip(1.0))
    pair, _ = learn.tta(n=1, batch_tfms=Halved(), beta=None)
    torch.testing.assert_close(pair[0], probabilities(learn, x * 0.5))


def test_each_augmented_pass_draws_anew_and_every_call_the_same(grey):
    learn, _ = grey(Darker())
    once, thrice = (learn.tta(n=n, beta=None).preds[0] for n in (1, 3))
    assert not torch.allclose(once, thrice)
    assert torch.equal(thrice, learn.tta(n=3, beta=None).preds[0])


def test_tta_takes_other_item_transforms_for_items_from_files(learner, files):
    learn = learner()

    def black(image):
        return Image.new("RGB", (16, 16))

    pair, targets = learn.tta(n=1, item_tfms=black, batch_tfms=[], beta=None)
    torch.testing.assert_close(pair[0], pair[0][:1].expand(6, 3))
    torch.testing.assert_close(pair[1], learn.get_preds().preds)
    assert targets.tolist() == learn.get_preds().targets.tolist()
    assert learn.predict(files[0]).label == "blue"


def test_tta_of_a_loader_for_new_items(learner, files):
    learn = learner()
    preds, targets = learn.tta(dl=learn.dls.test_dl(files[:2]), n=2)
    assert preds.argmax(1).tolist() == [0, 0] and targets is None


def test_tta_that_has_nothing_to_augment_with_is_refused(grey):
    learn, x = grey()
    with pytest.raises(ValueError, match="there is no augmentation"):
        learn.tta()
    with pytest.raises(ValueError, match="`item_tfms` cannot change for items in memory"):
        learn.tta(item_tfms=Resize(4))
    with pytest.raises(ValueError, match="`n` must be at least 1. Received: n=0"):
        learn.tta(n=0)
    with pytest.raises(ValueError, match="`beta` must be in \\[0, 1\\]. Received: beta=2"):
        learn.tta(beta=2)
    data = torch.utils.data.TensorDataset(x, torch.zeros(10).long())
    with pytest.raises(ValueError, match="a DataLoader does not say which of its transforms are augmentation"):
        learn.tta(dl=torch.utils.data.DataLoader(data, batch_size=2))


# show_results and interpretation


def test_results_are_shown_in_real_colours_with_the_label_over_the_prediction(learner, files):
    learn = learner()
    learn.model.weight.data = learn.model.weight.data[[1, 0, 2]]  # takes blue for green, and green for blue
    figure = learn.show_results(shuffle=False)
    assert len(figure.axes) == 6
    actual, predicted = zip(*(ax.get_title().split("\n") for ax in figure.axes), strict=True)
    assert actual == ("blue", "blue", "green", "green", "red", "red")
    assert predicted == ("green", "green", "blue", "blue", "red", "red")
    assert [ax.title.get_color() for ax in figure.axes] == [WRONG] * 4 + [RIGHT] * 2
    for i, path in enumerate(files):
        np.testing.assert_allclose(pixels(figure, i), of_file(path), atol=1e-6)


def test_results_are_shuffled_alike_in_every_call(learner):
    learn = learner()
    first, second = (learn.show_results(max_n=3) for _ in range(2))
    titles = [ax.get_title() for ax in first.axes if ax.get_title()]
    assert len(titles) == 3 and titles == [ax.get_title() for ax in second.axes if ax.get_title()]
    np.testing.assert_array_equal(pixels(first, 0), pixels(second, 0))
    assert titles != [ax.get_title() for ax in learn.show_results(max_n=3, shuffle=False).axes if ax.get_title()]


def test_results_of_new_items_show_what_was_predicted_unjudged(learner, files):
    learn = learner()
    figure = learn.show_results(dl=learn.dls.test_dl(files), shuffle=False)
    assert [ax.get_title() for ax in figure.axes] == [path.stem.split("_")[0] for path in files]
    assert {ax.title.get_color() for ax in figure.axes} == {NEUTRAL}


def test_results_of_a_regression_are_numbers_unjudged():
    x, y = torch.rand(4, 1, 4, 4), torch.tensor([0.5, 1.25, 2, 3])
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=2, target=Regression(1))
    figure = Learner(dls, MLP((16, 1)), device="cpu").show_results(shuffle=False)
    assert [ax.get_title().split("\n")[0] for ax in figure.axes] == ["0.5", "1.25", "2", "3"]
    assert {ax.title.get_color() for ax in figure.axes} == {NEUTRAL}


def test_several_labels_are_right_if_all_are():
    x, y = torch.eye(3).view(3, 1, 1, 3).repeat(1, 1, 3, 1), torch.eye(3)
    y[2, 0] = 1.0
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=3, target=MultiCategory(["cat", "dog", "mat"]))
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
    model[1].weight.data = torch.eye(3).repeat(1, 3)
    model[1].bias.data.fill_(-1.5)
    figure = Learner(dls, model, device="cpu").show_results(shuffle=False)
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert titles == ["cat\ncat", "dog\ndog", "cat, mat\nmat"]
    assert [ax.title.get_color() for ax in figure.axes if ax.images] == [RIGHT, RIGHT, WRONG]


def test_results_of_any_loader_of_images():
    batches = [(torch.rand(4, 3, 4, 4), torch.arange(4) % 2) for _ in range(2)]
    learn = Learner(DataLoaders(batches, batches), MLP((48, 2)), device="cpu")
    assert len(learn.show_results().axes) == 4  # the first batch, because the loader does not say how many items it has
    dataset = torch.utils.data.TensorDataset(*batches[0])
    assert len(learn.show_results(dl=torch.utils.data.DataLoader(dataset, batch_size=2), max_n=3).axes) == 4


def test_what_is_no_image_cannot_be_shown(blobs, net):
    learn = Learner(DataLoaders.from_arrays(*blobs), net(), device="cpu")
    with pytest.raises(DataError, match=r"only images can be shown.*Received: \(9, 2\)"):
        learn.show_results()
    with pytest.raises(DataError, match=r"only images can be shown.*Received: \(64, 2\)"):
        learn.dls.show_batch()
    with pytest.raises(ValueError, match="`max_n` must be at least 1. Received: max_n=0"):
        learn.show_results(max_n=0)


@pytest.mark.parametrize("ds_idx", [0, 1])
def test_the_top_losses_show_the_pixels_that_were_judged_in_real_colours(learner, files, ds_idx):
    learn = learner()
    found = ClassificationInterpretation.from_learner(learn, ds_idx=ds_idx)
    losses, indices = found.top_losses(4)
    figure = found.plot_top_losses(4)
    for ax, i, loss in zip(figure.axes, indices.tolist(), losses.tolist(), strict=True):
        shown = np.asarray(ax.images[0].get_array())
        np.testing.assert_allclose(shown, of_file(files[i]), atol=1e-6)
        assert f"loss: {loss:.4f}" in ax.get_title()
        x = Normalize.from_stats(*IMAGENET)(torch.tensor(shown).permute(2, 0, 1)[None], torch.Generator())
        learn.model.eval()
        judged = nn.functional.cross_entropy(learn.model(x), learn.dls.loader(ds_idx).y[i : i + 1])
        assert judged.item() == pytest.approx(loss, abs=1e-5)


# Precision


def dtypes_in(learn):
    seen = []
    learn.model[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    return seen


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_precision_is_switched_and_training_goes_on_with_the_optimizers_state(name, dtype):
    x = torch.rand(16, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    dls = DataLoaders.from_arrays((x, np.arange(16) % 2), (x, np.arange(16) % 2), bs=8, seed=0)
    learn = Learner(dls, model, metrics=accuracy, device="cpu")
    seen = dtypes_in(learn)
    with learn.no_logging():
        learn.fit(1)
        assert learn._set_precision(name) is learn
        record = learn.fit(1)
        assert learn.precision == name and set(seen) == {torch.float32, dtype}
        assert record.settings["precision"] == f"{name}, channels_last"
        assert next(iter(learn.optimizer.state.values()))["step"] == 4
        seen.clear()
        assert learn.to_fp32().fit(1).settings["precision"] == "fp32"
    assert set(seen) == {torch.float32} and np.isfinite(learn.recorder.losses).all()


def test_the_layout_is_switched_alone():
    x = torch.rand(4, 3, 8, 8)
    learn = Learner(DataLoaders([(x, torch.zeros(4).long())]), nn.Sequential(nn.Conv2d(3, 8, 3)), device="cpu")
    before = learn.model(x)
    assert learn.to_channelslast().precision == "fp32"
    assert learn.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(learn.model(x), before)
    assert learn.to_fp32().model[0].weight.is_contiguous()
