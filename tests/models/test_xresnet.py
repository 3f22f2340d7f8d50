import pytest
import torch
from torch import nn

from minilearner import DataLoaders, FileFormatError, Learner, load_learner
from minilearner.models import xresnet
from minilearner.models.xresnet import XResNet, xresnet18, xresnet50


@pytest.mark.parametrize(("name", "millions"), [("xresnet18", 11.708), ("xresnet34", 21.817), ("xresnet50", 25.576)])
def test_it_has_as_many_parameters_as_fastais(name, millions):
    model = getattr(xresnet, name)()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=1e-3)


def test_it_takes_images_of_any_size_channels_and_classes():
    assert xresnet18(n_out=7, c_in=1)(torch.zeros(2, 1, 33, 47)).shape == (2, 7)
    assert xresnet50(n_out=3, widen=0.5)(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert [type(m) for m in xresnet18(act_cls=nn.Mish)[0]][-1] is nn.Mish
    assert xresnet18(p=0.5)[-2].p == 0.5


def test_weights_start_by_kaimings_rule_and_biases_at_zero():
    torch.manual_seed(0)
    model = xresnet18()
    weight = model[1][0].weight.detach()
    assert float(weight.std()) == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.05)
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))


def test_an_export_loads(tmp_path):
    x, y = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 0, 1])
    learn = Learner(DataLoaders.from_arrays((x, y), (x, y), bs=2), XResNet(1, [1, 1], n_out=2), path=tmp_path)
    loaded = load_learner(learn.export("net.safetensors"))
    assert torch.equal(loaded.get_preds(dl=loaded.dls.test_dl(x))[0], learn.get_preds()[0])


def test_an_export_with_another_activation_needs_the_model(tmp_path):
    x, y = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 0, 1])
    model = XResNet(1, [1, 1], n_out=2, act_cls=nn.SiLU)
    learn = Learner(DataLoaders.from_arrays((x, y), (x, y), bs=2), model, path=tmp_path)
    path = learn.export("net.safetensors")
    with pytest.raises(FileFormatError, match="model="):
        load_learner(path)
    loaded = load_learner(path, XResNet(1, [1, 1], n_out=2, act_cls=nn.SiLU))
    assert torch.equal(loaded.get_preds(dl=loaded.dls.test_dl(x))[0], learn.get_preds()[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: xresnet18(pretrained=True), "`pretrained=True` needs trained weights"),
        (lambda: xresnet18(ks=4), "`ks` must be odd"),
        (lambda: xresnet18(p=1.0), r"`p` must be in \[0, 1\)"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_misspelt_argument_is_named():
    with pytest.raises(TypeError, match="Did you mean 'n_out'"):
        xresnet18(n_ot=3)
