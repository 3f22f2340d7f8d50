"""Grad-CAM of single images, of top losses, and what the figures say."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minilearner import ClassificationInterpretation, Learner, Normalize
from minilearner.results.evidence import Evidence
from minilearner.results.predictions import Predictions
from minilearner.vision.image_loaders import ImageDataLoaders


@pytest.fixture
def learn(tmp_path):
    for i in range(8):
        pixels = np.full((16, 16, 3), 40 + i, dtype=np.uint8)
        if i % 2:
            pixels[:6, :6, 0] = 250
        Image.fromarray(pixels).save(tmp_path / f"{'spot' if i % 2 else 'plain'}_{i}.png")
    files = sorted(tmp_path.glob("*.png"))
    tfms = Normalize.from_stats([0.5] * 3, [0.25] * 3)
    dls = ImageDataLoaders.from_name_re(
        tmp_path, files, r"([a-z]+)_", valid_pct=0.5, seed=1, bs=4, batch_tfms=tfms, num_workers=0
    )
    body = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)]
    learn = Learner(dls, nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), seed=0)
    with learn.no_logging():
        yield learn


def test_a_single_image_is_explained_for_its_predicted_class_or_another(learn, tmp_path):
    path = next(tmp_path.glob("spot*"))
    found = learn.gradcam(path)
    assert found.labels == [learn.predict(path).label] and found.layer == "1" and found.heat.shape == (1, 16, 16)
    assert found.heat.min() >= 0 and found.heat.max() in (0, 1)
    shown = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255
    assert torch.allclose(found.images[0], shown, atol=1e-5)
    for label, number in (("plain", 0), ("spot", 1)):
        assert learn.gradcam(path, label).classes.tolist() == learn.gradcam(path, number).classes.tolist() == [number]
    with pytest.raises(ValueError, match="`label` must be a class.*Did you mean 'spot'.*Received: 'spt'"):
        learn.gradcam(path, "spt")


def test_top_losses_are_drawn_with_their_heat_and_the_layer_is_named(learn, tmp_path):
    interp = ClassificationInterpretation.from_learner(learn)
    figure = interp.plot_gradcam(3, of="actual", save=tmp_path / "heat.png")
    indices = interp.top_losses(3).indices
    assert "layer 1, 16 x 16" in figure.get_suptitle()
    found = learn.evidence(indices.tolist(), interp.actual[indices].tolist())
    for ax, i, heat in zip(figure.axes, indices.tolist(), found.heat):
        assert ax.get_title().endswith(f"evidence for {interp.vocab[interp.actual[i]]}")
        assert np.array_equal(ax.images[1].get_array(), heat)
    assert (tmp_path / "heat.png").exists()
    with pytest.raises(ValueError, match="`of` must be one of"):
        interp.plot_gradcam(1, of="both")


def test_the_precision_of_the_learner_does_not_change_the_heat(learn, tmp_path):
    path = next(tmp_path.glob("spot*"))
    full = learn.gradcam(path, 1).maps
    # Rounding only: bf16 comes with another memory layout, in which convolutions add in another order.
    assert torch.allclose(learn.to_bf16().gradcam(path, 1).maps, full, rtol=1e-4, atol=1e-7)


def test_heat_is_scaled_to_each_image_and_none_stays_none():
    maps = torch.tensor([[[0.0, 4.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    found = Evidence([torch.rand(3, 4, 4)] * 2, maps, "a", torch.tensor([0, 1]), ["x", "y"])
    assert found.heat[0].max() == 1 and found.heat[0, 0, 3] == 1 and found.heat[1].max() == 0
    figure = found.plot()
    assert [ax.get_title() for ax in figure.axes[:2]] == ["evidence for x", "evidence for y"]
    assert found.remarks == ["", "no evidence:\nall of it is against this class"]
    assert [[text.get_text() for text in ax.texts] for ax in figure.axes[:2]] == [[], found.remarks[1:]]


def test_an_image_without_evidence_says_why(learn, tmp_path):
    path = next(tmp_path.glob("spot*"))
    head = learn.model[-1]
    nn.init.zeros_(head.weight)
    assert learn.gradcam(path).remarks == ["no evidence: the score\ndoes not depend on this layer"]
    nn.init.constant_(head.weight, -1)
    assert learn.gradcam(path).remarks == ["no evidence:\nall of it is against this class"]
    nn.init.constant_(head.weight, 1)
    assert learn.gradcam(path).remarks == [""]
    nn.init.zeros_(learn.model[0].weight)
    nn.init.constant_(learn.model[0].bias, -9)  # the layer that is looked at never fires
    (remark,) = learn.gradcam(path, layer="0").remarks
    assert remark == "no evidence: the score\ndoes not depend on this layer"


def test_saved_predictions_have_no_model_to_explain():
    saved = Predictions(torch.tensor([[0.4, 0.6]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="needs the model"):
        ClassificationInterpretation.from_predictions(saved).plot_gradcam(1)
