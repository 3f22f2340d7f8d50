"""Images as a timm model's data config says."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from minilearner.data.item_transforms import ItemPipeline
from minilearner.vision.all import ImageDataLoaders, timm_transforms, vision_learner


def image(width=300, height=260):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_validation_sees_timms_own_images(name):
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**config, is_training=False)(image())
    tfms = timm_transforms(name)
    ours = ItemPipeline(tfms["item_tfms"])(image(), None)
    x = torch.from_numpy(np.array(ours)).permute(2, 0, 1)[None].float() / 255
    assert torch.allclose(tfms["batch_tfms"][0](x)[0], theirs, atol=1e-6)


def test_a_name_a_model_and_a_config_are_the_same_and_fit_vision_learner(tmp_path):
    for i in range(8):
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        image(70, 60).save(folder / f"{i}.png")
    model = timm.create_model("resnet18")
    same = [timm_transforms(one, size=48) for one in ("resnet18", model, timm.data.resolve_data_config(model=model))]
    assert len({repr(one) for one in same}) == 1
    dls = ImageDataLoaders.from_folder(tmp_path, valid_pct=0.25, bs=2, num_workers=0, device="cpu", **same[0])
    learn = vision_learner(dls, "resnet18", pretrained=False)
    assert learn.dls.one_batch()[0].shape == (2, 3, 48, 48)
    assert repr(learn.dls.train.batch_tfms).count("Normalize") == 1


def test_what_timm_does_not_know_raises():
    with pytest.raises(ValueError, match=r"`arch` is not a timm model. Did you mean 'resnet18'"):
        timm_transforms("resnet81")
    with pytest.raises(TypeError, match="Received: Linear, which has no `pretrained_cfg`"):
        timm_transforms(torch.nn.Linear(1, 1))
