"""What `interp.report` says: with a learner, without one, for each kind of target, and when something is missing."""

import re
import stat
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minilearner import (
    ClassificationInterpretation,
    DataLoaders,
    Interpretation,
    Learner,
    MultiLabelInterpretation,
    Regression,
    RegressionInterpretation,
    accuracy,
)
from minilearner.data.targets import MultiCategory
from minilearner.results.predictions import Predictions
from minilearner.vision.image_loaders import ImageDataLoaders

SECTIONS = ("summary", "data", "settings", "curves", "confusion", "classes", "losses", "calibration", "label-errors")


def small_net(n_out):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, n_out))


@pytest.fixture
def learn(tmp_path):
    """A trained learner of 40 image files of two colors."""
    for i in range(40):
        color = (200, 30, 30) if i % 2 else (30, 30, 200)
        folder = tmp_path / "photos" / ("red" if i % 2 else "blue")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 70), color).save(folder / f"image_{i:02d}.png")
    dls = ImageDataLoaders.from_folder(tmp_path / "photos", valid_pct=0.4, seed=1, bs=8, num_workers=0, cache=False)
    torch.manual_seed(0)
    learn = Learner(dls, small_net(2), metrics=accuracy, device="cpu")
    with learn.no_logging():
        learn.fit(1, 2e-2)
        learn.fit_one_cycle(1)
        yield learn


def text_of(path):
    """Returns the text of a page without markup, style and script, with one space between words."""
    html = re.sub(r"<(style|script)>.*?</\1>", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).replace("\xa0", " ").split())


def sections_of(path):
    return re.findall(r'<section id="([\w-]+)"', path.read_text(encoding="utf-8"))


def test_a_learners_report_has_all_sections_with_their_content(learn, tmp_path):
    interp = ClassificationInterpretation.from_learner(learn)
    path = interp.report(tmp_path / "runs" / "report.html", n_images=5)
    text = text_of(path)
    right = float((interp.predicted == interp.actual).mean())
    assert tuple(sections_of(path)) == SECTIONS and f"accuracy {100 * right:.1f} %" in text
    for part in ("24 items in 3 batches of 8", "optimizer AdamW", "precision fp32", "fit_one_cycle", "seed 1"):
        assert part in text
    assert f"torch {torch.__version__}" in text
    names = [interp.origins.name(i) for i in interp.top_losses().indices.tolist()]
    assert all(name in text for name in names)
    html = path.read_text(encoding="utf-8")
    assert html.count("<figcaption>") >= 5 and "Grad-CAM, layer 1" in text
    assert len(re.findall(r'alt="item \d+"', html)) >= 5 and html.count(" with the evidence for ") > 0
    assert html.count(" with the evidence for ") + text.count("no evidence: ") == 5


def test_the_report_says_what_the_interpretation_says(learn, tmp_path):
    interp = ClassificationInterpretation.from_learner(learn)
    text = text_of(interp.report(tmp_path / "report.html"))
    found, report = interp.calibration(), interp.classification_report()
    assert (
        f"calibration error (ECE) {found.ece:.3f}" in text and f"mean F1 over classes {report.macro_avg.f1:.3f}" in text
    )
    for name, scores in zip(report.labels, report.scores):
        assert f"{name} {scores.support}" in text and f"{scores.recall:.3f}" in text
    for actual, predicted, count in interp.most_confused():
        assert f"{actual} was taken for {predicted} {'once' if count == 1 else f'{count} times'}" in text


def test_saved_predictions_make_a_report_with_the_files_images(learn, tmp_path):
    saved = learn.get_preds(with_loss=True).save(tmp_path / "valid.predictions")
    interp = ClassificationInterpretation.from_predictions(Predictions.load(saved))
    path = interp.report(tmp_path / "report.html", n_images=3)
    text = text_of(path)
    assert tuple(sections_of(path)) == SECTIONS
    assert text.count("Unknown, because this interpretation was built from predictions alone") == 2
    assert "Grad-CAM needs the model" in text and 'alt="item' in path.read_text(encoding="utf-8")


def test_files_that_are_gone_are_named_in_place_of_their_images(learn, tmp_path):
    saved = learn.get_preds().save(tmp_path / "valid.predictions")
    live = ClassificationInterpretation.from_learner(learn)
    first, second = (int(i) for i in live.top_losses(2).indices)
    broken, gone = (learn.dls.valid.dataset.items[i] for i in (first, second))
    broken.write_bytes(b"no image")
    gone.unlink()
    text = text_of(ClassificationInterpretation.from_predictions(Predictions.load(saved)).report(tmp_path / "a.html"))
    assert "file cannot be read" in text and "file not found" in text
    text = text_of(live.report(tmp_path / "b.html", n_images=4))
    assert text.count("cannot be read: ") == 2


def test_a_model_that_has_no_layer_to_look_at_gets_its_images(tmp_path):
    x, y = torch.rand(20, 3, 6, 6), torch.arange(20) % 2
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=5, vocab=["a", "b"], seed=1, device="cpu")
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(108, 2)), device="cpu")
    path = ClassificationInterpretation.from_learner(learn).report(tmp_path / "report.html", n_images=2)
    assert "Grad-CAM does not work with this model: DataError" in text_of(path)
    assert "This learner has not been trained" in text_of(path) and path.read_text().count('class="pixels"') >= 2


def test_items_that_are_no_images_have_a_report_too(tmp_path):
    x, y = torch.rand(20, 6), torch.arange(20) % 2
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=5, vocab=["a", "b"], seed=1, device="cpu")
    interp = ClassificationInterpretation.from_learner(Learner(dls, nn.Linear(6, 2), device="cpu"))
    assert "the item is not an image" in text_of(interp.report(tmp_path / "report.html", n_images=2))


def probabilities(n, n_classes, n_empty=0):
    g = torch.Generator().manual_seed(1)
    y = torch.randint(n_classes - n_empty, (n,), generator=g)
    logits = 2 * torch.randn(n, n_classes, generator=g) + 4 * nn.functional.one_hot(y, n_classes)
    return Predictions(logits.softmax(1), y, vocab=tuple(f"c{i}" for i in range(n_classes)))


@pytest.mark.parametrize(("n", "n_classes", "n_empty"), [(1, 10, 0), (50, 2, 0), (300, 26, 20), (400, 120, 3)])
def test_any_number_of_classes_and_items(tmp_path, n, n_classes, n_empty):
    interp = ClassificationInterpretation.from_predictions(probabilities(n, n_classes, n_empty))
    path = interp.report(tmp_path / "report.html")
    assert tuple(sections_of(path)) == SECTIONS and "nan" not in text_of(path).lower()
    assert n == 1 or "learn.calibrate()" in text_of(path)
    if n_empty == 3:
        assert re.search(r"\d+ classes without any item: .*c117", text_of(path))


def test_a_page_of_10_000_items_and_100_classes_stays_below_5_mb(tmp_path):
    interp = ClassificationInterpretation.from_predictions(probabilities(10_000, 100))
    assert interp.report(tmp_path / "report.html").stat().st_size < 1e6


def test_without_all_probabilities_two_parts_say_why(learn, tmp_path, monkeypatch):
    monkeypatch.setattr("minilearner.results.class_items._MOST_BYTES", 1)
    text = text_of(ClassificationInterpretation.from_learner(learn).report(tmp_path / "report.html", n_images=0))
    assert "so the best temperature is unknown" in text and "build this with `keep_probs=True`" in text


def test_no_image_is_read_if_none_is_wanted(learn, tmp_path):
    path = ClassificationInterpretation.from_learner(learn).report(tmp_path / "report.html", n_images=0, title="<Mine>")
    assert "<img" not in path.read_text() and "<h1><bdi>&lt;Mine&gt;</bdi></h1>" in path.read_text()


def test_the_training_set_has_a_warning_beside_its_label_errors(learn, tmp_path):
    text = text_of(ClassificationInterpretation.from_learner(learn, ds_idx=0).report(tmp_path / "report.html"))
    assert (
        "Training set, 24 items" in text and "The model was trained on these items, so it hides wrong labels." in text
    )


def test_several_labels_have_a_report_of_their_own(tmp_path):
    x = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = (x.mean((2, 3)) > 0.5).float()
    target = MultiCategory(["<blue>", "green", "red"])
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=5, seed=1, target=target, device="cpu")
    learn = Learner(dls, small_net(3), device="cpu")
    interp = MultiLabelInterpretation.from_learner(learn)
    path = interp.report(tmp_path / "report.html", n_images=4)
    wanted = ["summary", "data", "settings", "curves", "labels", "losses", "calibration"]
    assert sections_of(path) == wanted and path.read_text().count("<img") == 4
    row = interp.errors()[0]
    assert f"<blue> {row['n_items']} {row['missed']} {row['extra']}" in text_of(path)
    saved = Predictions.load(learn.get_preds().save(tmp_path / "labels"))
    text = text_of(MultiLabelInterpretation(saved).report(tmp_path / "saved.html", n_images=2))
    assert "There are no images to show" in text


def test_numbers_have_a_report_of_their_own(tmp_path):
    x = torch.rand(30, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], 1)
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=5, seed=1, target=Regression(2), device="cpu")
    interp = RegressionInterpretation.from_learner(Learner(dls, small_net(2), device="cpu"))
    path = interp.report(tmp_path / "report.html", n_images=4)
    assert sections_of(path) == ["summary", "data", "settings", "curves", "predictions", "losses"]
    assert f"mean absolute error of number 1 {interp.scores(1).mae:.4g}" in text_of(path)
    assert path.read_text().count('class="dot main"') == 60


def test_losses_alone_have_a_report_too(learn, tmp_path):
    path = Interpretation.from_learner(learn).report(tmp_path / "report.html", n_images=2)
    assert sections_of(path) == ["summary", "data", "settings", "curves", "losses"]


def test_a_page_says_if_the_model_has_changed_since_the_predictions(learn, tmp_path):
    interp = ClassificationInterpretation.from_learner(learn)
    notice = "The model has changed since these predictions were made."
    assert notice not in text_of(interp.report(tmp_path / "before.html"))
    learn.save("before")
    with learn.no_logging():
        learn.fit(1)
    assert notice in text_of(interp.report(tmp_path / "after.html", n_images=2))
    with pytest.warns(UserWarning, match=f"{notice[:-1]}: the heat is that of the model as it is now"):
        interp.plot_gradcam(1)
    learn.load("before")
    assert notice not in text_of(interp.report(tmp_path / "again.html", n_images=2))


def test_a_figure_that_predicts_anew_warns_if_the_model_has_changed(learn):
    interp = Interpretation.from_learner(learn)
    interp.plot_top_losses(1)
    with learn.no_logging():
        learn.fit(1)
    with pytest.warns(
        UserWarning, match="since these predictions were made: the predictions are those of the model as"
    ):
        interp.plot_top_losses(1)


def test_bad_arguments_are_refused_before_anything_is_read(learn, tmp_path):
    interp = ClassificationInterpretation.from_learner(learn)
    with pytest.raises(ValueError, match="`n_images` must be at least 0. Received: n_images=-1."):
        interp.report(tmp_path / "report.html", n_images=-1)
    with pytest.raises(ValueError, match=r"`path` must end in '.html'"):
        interp.report(tmp_path / "report")
    assert not list(tmp_path.glob("report*"))
    assert stat.S_IMODE(interp.report(tmp_path / "r.html").stat().st_mode) & 0o044


def test_a_learner_states_its_facts(learn):
    facts = learn.training_facts()
    assert facts.model == "Sequential, 146 weights" and facts.recorder is learn.recorder
    assert [(one.name, one.size, sum(one.counts)) for one in facts.sets] == [
        ("training", "24 items in 3 batches of 8", 24),
        ("validation", "16 items in 2 batches of 8", 16),
    ]
    assert np.array_equal(
        facts.sets[1].counts, ClassificationInterpretation.from_learner(learn).confusion_matrix().sum(1)
    )
    assert facts.settings["batch size"] == "8" and "lr" not in facts.settings


def test_of_very_many_classes_only_the_most_confused_are_drawn(tmp_path):
    path = ClassificationInterpretation.from_predictions(probabilities(600, 501)).report(tmp_path / "r.html")
    assert "The whole matrix of 501 classes would be too large for a page." in text_of(path)
    assert "The 20 classes with the commonest mistakes" in text_of(path)
