"""What an interpretation says of predictions that were saved, with or without the items' files."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics
from torch import nn

from minilearner import ClassificationInterpretation, Learner
from minilearner.data.blocks import CategoryBlock
from minilearner.data.data_block import DataBlock
from minilearner.data.items import get_image_files
from minilearner.errors import DataError
from minilearner.plots.palette import palette
from minilearner.results.origins import Origins
from minilearner.results.predictions import BatchPrediction, Predictions
from minilearner.vision.image_block import ImageBlock
from minilearner.vision.image_loaders import ImageDataLoaders

RIGHT, WRONG = palette().right, palette().wrong

VOCAB = ("cat", "dog", "cow")


@pytest.fixture
def folder(tmp_path):
    """Returns a folder of 12 images of two colours, and a table of them with a column that says on which camera."""
    lines = ["name,label,valid,camera"]
    for i in range(12):
        color = (200, 30, 30) if i % 2 else (30, 30, 200)
        Image.new("RGB", (12, 8), color).save(tmp_path / f"image_{i:02d}.png")
        lines.append(f"image_{i:02d}.png,{'red' if i % 2 else 'blue'},{i >= 4},{'left' if i < 9 else 'right'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def learn(folder):
    dls = ImageDataLoaders.from_csv(folder, valid_col="valid", bs=4, num_workers=0)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 12, 2)))
    with learn.no_logging():
        yield learn


@pytest.fixture
def predictions():
    g = torch.Generator().manual_seed(1)
    y = torch.randint(3, (60,), generator=g)
    probs = (2 * torch.randn(60, 3, generator=g) + nn.functional.one_hot(y, 3)).softmax(1)
    return Predictions(probs, y, vocab=VOCAB)


def test_saved_predictions_say_the_same_as_the_learner(learn, folder):
    live = ClassificationInterpretation.from_learner(learn)
    path = learn.get_preds(with_loss=True).save(folder / "valid.predictions")
    saved = ClassificationInterpretation.from_predictions(Predictions.load(path))
    assert np.array_equal(saved.confusion_matrix(), live.confusion_matrix()) and saved.vocab == ["blue", "red"]
    assert torch.equal(saved.top_losses().losses, live.top_losses().losses)
    assert str(saved.slices("camera")) == str(live.slices("camera"))
    assert str(saved.calibration()) == str(live.calibration())
    assert [curve.area for curve in saved.roc_curves().values()] == [c.area for c in live.roc_curves().values()]


def test_top_losses_name_the_files_and_show_them_if_they_are_there(learn, folder):
    path = learn.get_preds().save(folder / "valid.predictions")
    saved = ClassificationInterpretation.from_predictions(Predictions.load(path))
    figure = saved.plot_top_losses(8)
    names = {ax.get_title().split("\n")[-1] for ax in figure.axes if ax.get_title()}
    assert names == {f"image_{i:02d}.png" for i in range(4, 12)}
    assert figure.axes[0].images[0].get_array().shape == (8, 12, 3)
    worst = int(saved.top_losses(1).indices[0]) + 4
    (folder / f"image_{worst:02d}.png").unlink()
    (folder / f"image_{int(saved.top_losses(2).indices[1]) + 4:02d}.png").write_bytes(b"no image")
    texts = [ax.texts[0].get_text() for ax in saved.plot_top_losses(2).axes]
    assert texts == ["file not found", "file cannot be read"]


def test_titles_are_green_or_red_and_say_the_file_of_a_live_learner(learn):
    interp = ClassificationInterpretation.from_learner(learn)
    axes = interp.plot_top_losses(8).axes
    indices = interp.top_losses(8).indices.tolist()
    for ax, i in zip(axes, indices):
        assert ax.title.get_color() == (RIGHT if interp.actual[i] == interp.predicted[i] else WRONG)
        assert ax.get_title().endswith(f"image_{i + 4:02d}.png")


def test_inputs_in_the_file_are_shown_without_any_image_file(predictions):
    held = Predictions(predictions.preds, predictions.targets, inputs=torch.rand(60, 1, 5, 5), vocab=VOCAB)
    interp = ClassificationInterpretation.from_predictions(held)
    i = int(interp.top_losses(1).indices[0])
    assert np.allclose(interp.plot_top_losses(1).axes[0].images[0].get_array(), held.inputs[i, 0])
    with pytest.raises(ValueError, match="no images to show"):
        ClassificationInterpretation.from_predictions(predictions).plot_top_losses(1)


def test_without_losses_an_items_loss_is_its_cross_entropy(predictions):
    interp = ClassificationInterpretation.from_predictions(predictions)
    expected = nn.functional.nll_loss(predictions.preds.log(), predictions.targets, reduction="none")
    assert interp.losses == pytest.approx(expected.numpy(), rel=1e-5)
    assert np.array_equal(interp.probs, predictions.preds)
    with pytest.raises(DataError, match="needs targets"):
        ClassificationInterpretation.from_predictions(Predictions(predictions.preds, None))
    with pytest.raises(DataError, match="probabilities of shape"):
        ClassificationInterpretation.from_predictions(Predictions(torch.ones(3), torch.ones(3)))


def test_curves_need_the_probabilities_that_were_kept(predictions, monkeypatch):
    monkeypatch.setattr("minilearner.results.class_items._MOST_BYTES", 100)
    batch = BatchPrediction(None, predictions.preds, predictions.targets, torch.ones(60), 60)
    interp = ClassificationInterpretation([batch], VOCAB)
    for ask in (interp.roc_curves, interp.plot_precision_recall, lambda: interp.calibration().temperature):
        with pytest.raises(ValueError, match="keep_probs=True"):
            ask()
    kept = ClassificationInterpretation([batch], VOCAB, keep_probs=True)
    assert kept.calibration().temperature > 0 and kept.calibration().ece == interp.calibration().ece


def test_plot_roc_draws_the_asked_classes_and_refuses_others(predictions):
    interp = ClassificationInterpretation.from_predictions(predictions)
    ax = interp.plot_roc(["dog"]).axes[0]
    area = metrics.roc_auc_score(predictions.targets == 1, predictions.preds[:, 1])
    assert f"dog (AUC {area:.3f})" in [text.get_text() for text in ax.get_legend().get_texts()]
    with pytest.raises(ValueError, match="Did you mean 'dog'.*Received: 'dgo'"):
        interp.plot_precision_recall(["dgo"])


def test_the_table_of_classes_is_drawn_the_lowest_f1_first(predictions):
    interp = ClassificationInterpretation.from_predictions(predictions)
    ax = interp.plot_per_class().axes[0]
    report = interp.classification_report()
    order = sorted(VOCAB, key=lambda name: report.f1[name])
    assert [text.get_text() for text in ax.get_yticklabels()] == order
    drawn = {line.get_label(): line.get_xdata().tolist() for line in ax.lines}
    assert drawn["precision"] == [report.precision[name] for name in order]
    assert [text.get_text() for text in ax.texts] == [*(str(report.support[name]) for name in order), "items"]
    assert len(interp.plot_per_class(most=2).axes[0].get_yticklabels()) == 2
    assert report.to_dict() == report.as_dict()


def test_two_models_are_compared_on_the_same_items_only(predictions):
    first = ClassificationInterpretation.from_predictions(predictions)
    right = Predictions(nn.functional.one_hot(predictions.targets, 3).float(), predictions.targets, vocab=VOCAB)
    change = first.compare(ClassificationInterpretation.from_predictions(right))
    assert change.accuracy[1] == 1 and len(change.broken) == 0
    other = Predictions(predictions.preds, predictions.targets.flip(0), vocab=VOCAB)
    with pytest.raises(DataError, match="predictions of the same items"):
        first.compare(ClassificationInterpretation.from_predictions(other))


def test_slices_take_columns_values_and_functions(predictions):
    with_files = Predictions(
        predictions.preds,
        predictions.targets,
        vocab=VOCAB,
        origins=Origins([f"{'ab'[i % 2]}/{i}.jpg" for i in range(60)], {"site": ["x", "y", "z"] * 20}),
    )
    interp = ClassificationInterpretation.from_predictions(with_files)
    assert {row.value for row in interp.slices("site").rows} == {"x", "y", "z"}
    assert {row.value: row.n_items for row in interp.slices(lambda path: path[0]).rows} == {"a": 30, "b": 30}
    assert len(interp.slices(np.arange(60) % 5).rows) == 5
    with pytest.raises(DataError, match="no column 'sight'.*Columns: site"):
        interp.slices("sight")
    with pytest.raises(DataError, match="one value for each of 60 items. Received: 3 values"):
        interp.slices([1, 2, 3])
    bare = ClassificationInterpretation.from_predictions(predictions)
    assert len(bare.slices([0, 1] * 30).rows) == 2
    with pytest.raises(DataError, match="Give the values themselves"):
        bare.slices("site")


def test_files_that_a_data_block_found_are_named(folder):
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=lambda path: path.stem[-1] > "4")
    learn = Learner(block.dataloaders(folder, bs=4, num_workers=0), nn.Sequential(nn.Flatten(), nn.Linear(288, 2)))
    with learn.no_logging():
        found = learn.get_preds(ds_idx=0)
    assert [found.origins.name(i) for i in range(len(found.preds))] == [p.name for p in learn.dls.train.dataset.items]
    assert found.origins.columns == {}


def test_only_the_most_confused_classes_can_be_drawn():
    counts = [[5, 0, 0, 0], [0, 5, 3, 0], [0, 2, 5, 0], [1, 0, 0, 5]]
    pairs = [(a, p) for a in range(4) for p in range(4) for _ in range(counts[a][p])]
    y, p = torch.tensor(pairs).T
    interp = ClassificationInterpretation.from_predictions(
        Predictions(nn.functional.one_hot(p, 4).float(), y, vocab=tuple("abcd"))
    )
    ax = interp.plot_confusion_matrix(most=2, normalize=True).axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b", "c"]
    assert ax.images[0].get_array().tolist() == [[5 / 8, 3 / 8], [2 / 7, 5 / 7]]
    assert "the 2 most confused of 4 classes" in ax.get_title()
    names = [text.get_text() for text in interp.plot_confusion_matrix(order="confusion").axes[0].get_yticklabels()]
    assert sorted(names) == list("abcd") and abs(names.index("b") - names.index("c")) == 1
    with pytest.raises(ValueError, match="`most` must be at least 2"):
        interp.plot_confusion_matrix(most=1)
    with pytest.raises(ValueError, match="`order` must be one of"):
        interp.plot_confusion_matrix(order="confused")
