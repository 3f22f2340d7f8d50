"""Architectures by name, and whether their trained weights are on this machine."""

import pytest
import torch
from torchvision.models import resnet18

from minilearner.models.xresnet import xresnet34
from minilearner.vision.architectures import TrainedWeights, find_architecture, find_trained_weights


def test_names_of_torchvision_of_ours_and_of_timm():
    assert find_architecture("resnet18") is resnet18  # not timm's, which has this name too
    assert find_architecture("xresnet34") is xresnet34
    assert find_architecture("efficientnet_lite0") == "efficientnet_lite0"


@pytest.mark.parametrize(("name", "meant"), [("resnt18", "resnet18"), ("convnext_tinny", "convnext_tiny")])
def test_an_unknown_name_raises_with_the_nearest(name, meant):
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'.*Received: arch='{name}'"):
        find_architecture(name)


def test_trained_weights_are_found_without_a_download(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    missing = find_trained_weights(resnet18)
    assert (missing.path, round(missing.megabytes)) == (None, 45) and missing.url.endswith("/resnet18-f37072fd.pth")
    file = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir()
    file.touch()
    assert find_trained_weights(resnet18) == TrainedWeights(missing.url, file, missing.megabytes)
    assert find_trained_weights(xresnet34) is None
    assert find_trained_weights("efficientnet_lite0").url.startswith("https://")
