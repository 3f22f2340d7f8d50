"""Every family has a body, layer groups and statistics, equal to fastai's if fastai has the architecture."""

import sys
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from minilearner.models.groups import layer_groups
from minilearner.models.heads import create_head
from minilearner.vision.backbones import build_backbone

UNTRAINED = {"pretrained": False}

FAMILIES = [
    # constructor, side of the image, features, parameters of the body's groups; *: as in fastai 2.8.12
    (models.resnet18, 32, 512, [683_072, 10_493_440]),  # *
    (models.resnext50_32x4d, 32, 2048, [1_412_416, 21_567_488]),
    (models.regnet_y_400mf, 32, 440, [113_264, 3_789_880]),
    (models.densenet121, 32, 1024, [1_297_536, 5_656_320]),  # *
    (models.alexnet, 63, 256, [330_688, 2_139_008]),  # *
    (models.squeezenet1_0, 32, 512, [38_560, 696_864]),  # *
    (models.efficientnet_b0, 32, 1280, [65_730, 3_941_818]),
    (models.efficientnet_v2_s, 32, 1280, [903_896, 19_273_592]),
    (models.mobilenet_v2, 32, 1280, [55_488, 2_168_384]),
    (models.mobilenet_v3_small, 32, 576, [138_752, 788_256]),
    (models.mobilenet_v3_large, 32, 960, [61_120, 2_910_832]),
    (models.mnasnet0_5, 32, 1280, [20_632, 916_880]),
    (models.shufflenet_v2_x0_5, 32, 1024, [7_632, 334_160]),
    (models.googlenet, 32, 1024, [620_832, 4_979_072]),
    (models.inception_v3, 75, 2048, [991_200, 20_794_368]),
    (models.convnext_tiny, 32, 768, [1_235_040, 26_583_552]),
    (models.swin_t, 32, 768, [1_195_842, 26_323_512]),
    pytest.param(models.vgg11_bn, 32, 512, [4_504_320, 4_721_664], marks=pytest.mark.slow),  # *
    pytest.param(models.swin_v2_t, 32, 768, [1_207_794, 26_374_776], marks=pytest.mark.slow),
    pytest.param(models.maxvit_t, 224, 512, [1_447_800, 28_696_144], marks=pytest.mark.slow),
    (partial(models.VisionTransformer, 64, 32, 2, 2, 8, 16), 64, 8, [25_232, 616]),
]


def with_head(backbone, n_out=5):
    return nn.Sequential(backbone.body, create_head(backbone.features[0], n_out, pool=len(backbone.features) == 3))


@pytest.mark.parametrize(("arch", "side", "features", "groups"), FAMILIES)
def test_a_family_gives_features_and_three_groups_with_every_parameter_once(arch, side, features, groups):
    backbone = build_backbone(arch, size=(side, side), **UNTRAINED)
    model = with_head(backbone)
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, 3, side, side)).shape == (2, 5)
    assert backbone.features[0] == features
    *of_body, head = layer_groups(model, backbone.splitter)  # raises if a parameter is missing or repeated
    assert [sum(p.numel() for p in group) for group in of_body] == groups
    assert [id(p) for p in head] == [id(p) for p in model[1].parameters()]
    assert backbone.stats is None


def test_a_resnet_computes_the_same_as_in_fastai():
    model = with_head(build_backbone(models.resnet18, size=(32, 32), **UNTRAINED), 3).eval()
    # Names and order must also be fastai's, or values would differ.
    for i, (name, t) in enumerate(model.state_dict().items()):
        if t.is_floating_point():
            values = torch.sin(torch.arange(t.numel(), dtype=torch.float64) * 0.7 + i)
            values *= (1.7 / (t[0].numel() if t.ndim > 1 else 9)) ** 0.5
            if name.endswith("running_var") or (t.ndim == 1 and "weight" in name):
                values = values.abs() + 0.5
            t.copy_(values.reshape(t.shape))
    x = torch.cos(torch.arange(2 * 3 * 32 * 32, dtype=torch.float64) * 0.37).float().reshape(2, 3, 32, 32)
    expected = [-81.21335, -174.90628, -256.98199, -82.0188, -176.08331, -258.45221]
    with torch.no_grad():
        # fp32 through 18 layers: processors differ by up to 3e-5.
        torch.testing.assert_close(model(x).flatten(), torch.tensor(expected), rtol=1e-4, atol=0)


def test_auxiliary_classifiers_of_a_module_are_left_out():
    with_them = models.googlenet(weights=None, aux_logits=True, init_weights=False)
    backbone = build_backbone(with_them, size=(32, 32))
    assert backbone.features == (1024, 1, 1)
    assert backbone.stats == ((0.5,) * 3, (0.5,) * 3)  # its own `forward` would apply these


def test_cut_decides_where_the_body_ends():
    backbone = build_backbone(models.resnet18, size=(32, 32), cut=-3, **UNTRAINED)
    assert (len(backbone.body), backbone.features) == (7, (256, 2, 2))
    assert len(layer_groups(with_head(backbone), backbone.splitter)) == 3
    backbone = build_backbone(models.resnet18, size=(32, 32), cut=lambda m: nn.Sequential(m.conv1, m.bn1), **UNTRAINED)
    assert backbone.features == (64, 16, 16)
    assert len(layer_groups(with_head(backbone), backbone.splitter)) == 2  # nothing is known about the layers


def test_a_custom_body_is_copied_and_kept_whole():
    own = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3))
    backbone = build_backbone(own, size=(16, 16))
    assert (len(backbone.body), backbone.features, backbone.stats) == (4, (16, 5, 5), None)
    assert torch.equal(backbone.body[0].weight, own[0].weight) and backbone.body[0].weight is not own[0].weight
    assert len(layer_groups(with_head(backbone), backbone.splitter)) == 2


def test_a_function_is_called_with_pretrained_if_it_accepts_that():
    received = []

    def arch(pretrained=False):
        received.append(pretrained)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 2))

    assert len(build_backbone(arch, size=(16, 16)).body) == 1  # before the pool
    build_backbone(arch, size=(16, 16), **UNTRAINED)
    assert received == [True, False]
    assert build_backbone(partial(nn.Conv2d, 3, 8, 3), size=(16, 16), **UNTRAINED).features == (8, 14, 14)


@pytest.mark.parametrize(
    ("arch", "options", "error", "match"),
    [
        (3, {}, TypeError, "must be a constructor, a timm name or a module. Received: arch=3"),
        (
            models.detection.fasterrcnn_resnet50_fpn,
            {},
            ValueError,
            "classifier, such as resnet34.*a model for detection",
        ),
        (models.segmentation.fcn_resnet50, UNTRAINED, ValueError, "Received: a model for segmentation"),
        (lambda: 3, UNTRAINED, TypeError, "must return a module"),
        (lambda: nn.Conv2d(3, 8, 3), {}, ValueError, "has none. Pass a file as `weights=path`"),
        (models.resnet18, UNTRAINED | {"weights": "DEFAULT"}, ValueError, "Leave out one of them"),
        (models.inception_v3, UNTRAINED, ValueError, r"cannot take .* of shape \(1, 3, 16, 16\)"),
        (nn.Sequential(nn.Flatten(2)), {"cut": lambda m: m}, ValueError, r"Received: \('batch', 3, 256\)"),
    ],
)
def test_an_architecture_without_a_body_is_an_error(arch, options, error, match):
    with pytest.raises(error, match=match):
        build_backbone(arch, size=(16, 16), **options)


def test_an_image_size_that_a_transformer_does_not_accept_is_an_error():
    vit = models.VisionTransformer(64, patch_size=32, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)
    assert build_backbone(vit, size=(64, 64)).features == (8,)
    with pytest.raises(ValueError, match="Expected 64 but got 32"):
        build_backbone(vit, size=(32, 32))


try:
    import timm
except ModuleNotFoundError:
    timm = None


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'minilearner\[timm\]'. Received: arch='convnext_atto'"):
        build_backbone("convnext_atto")


@pytest.mark.skipif(timm is None, reason="needs timm")
class TestTimm:
    @pytest.mark.parametrize(
        ("name", "side", "features"),
        [
            ("resnet18", 32, (512, 1, 1)),
            ("convnext_atto", 32, (320, 1, 1)),
            ("vit_tiny_patch16_224", 224, (192,)),
            ("swin_tiny_patch4_window7_224", 224, (768,)),  # channels last, so it pools itself
        ],
    )
    def test_a_timm_name_gives_a_body_in_two_groups(self, name, side, features):
        backbone = build_backbone(name, size=(side, side), n_in=1, **UNTRAINED)
        model = with_head(backbone)
        with torch.no_grad():
            assert model.eval()(torch.zeros(2, 1, side, side)).shape == (2, 5)
        assert backbone.features == features
        assert len(layer_groups(model, backbone.splitter)) == 2

    @pytest.mark.parametrize("n_in", [1, 3])
    def test_a_file_of_weights(self, n_in, tmp_path):
        whole = timm.create_model("resnet18", pretrained=False)
        torch.save(whole.state_dict(), tmp_path / "own.pth")
        backbone = build_backbone("resnet18", size=(32, 32), weights=tmp_path / "own.pth", n_in=n_in)
        assert torch.equal(backbone.body.model.layer4[1].conv2.weight, whole.layer4[1].conv2.weight)
        first = whole.conv1.weight.detach()
        expected = first if n_in == 3 else first.sum(1, keepdim=True)
        torch.testing.assert_close(backbone.body.model.conv1.weight.detach(), expected)
        stats = (tuple(whole.pretrained_cfg["mean"]), tuple(whole.pretrained_cfg["std"]))
        assert backbone.stats == (stats if n_in == 3 else None)

    def test_a_misspelt_name_suggests_the_nearest(self):
        with pytest.raises(ValueError, match="Did you mean 'resnet18'"):
            build_backbone("rasnet18")
        with pytest.raises(ValueError, match="Did you mean 'resnet18.a1_in1k'"):
            build_backbone("resnet18.a1_inlk")

    def test_offline_a_file_in_the_hub_cache_is_found(self, monkeypatch, tmp_path):
        monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        whole = timm.create_model("test_resnet")
        folder = tmp_path / "models--timm--test_resnet.r160_in1k"
        (folder / "snapshots/0").mkdir(parents=True), (folder / "refs").mkdir()
        (folder / "refs/main").write_text("0")
        save_file(whole.state_dict(), folder / "snapshots/0/model.safetensors")
        backbone = build_backbone("test_resnet", size=(32, 32))
        assert torch.equal(backbone.body.model.conv1[0].weight, whole.conv1[0].weight)

    def test_offline_the_error_says_where_the_weights_are(self, monkeypatch):
        monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
        match = "(?s)MINILEARNER_OFFLINE=1 forbids.*https://huggingface.co/timm/test_resnet.*as `weights=path`"
        with pytest.raises(OSError, match=match):
            build_backbone("test_resnet", size=(32, 32))
