import copy
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from minilearner.errors import DataError
from minilearner.models.class_maps import class_maps
from minilearner.runtime import set_seed


class Net(nn.Module):
    """Convolutions, an in-place ReLU, the mean over places, and a linear layer."""

    def __init__(self, wrap=lambda scores: scores):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3, stride=2))
        self.act, self.head, self.wrap = nn.ReLU(inplace=True), nn.Linear(6, 4), wrap

    def forward(self, x):
        return self.wrap(self.head(self.act(self.body(x)).mean((2, 3))))


@pytest.fixture
def net():
    set_seed(0)
    return Net()


X = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def by_hand(net, classes, *, plus=False):
    """Computes the maps from the formulas: the gradient of a class is its weight over the number of places."""
    seen = net.body(X).relu().detach()
    gradient = (net.head.weight[classes] / seen[0, 0].numel())[:, :, None, None].expand_as(seen).detach()
    if not plus:
        return (gradient.mean((2, 3), keepdim=True) * seen).sum(1).relu()
    alpha = gradient**2 / (2 * gradient**2 + seen.sum((2, 3), keepdim=True) * gradient**3)
    return ((alpha * gradient.relu()).sum((2, 3), keepdim=True) * seen).sum(1).relu()


def test_the_maps_are_those_of_the_formulas(net):
    classes = torch.tensor([1, 0, 3])
    for method in ("gradcam", "gradcam++"):
        found = class_maps(net, X, classes, method=method)
        assert found.layer == "act" and torch.equal(found.classes, classes) and found.maps.shape == (3, 7, 7)
        assert torch.allclose(found.maps, by_hand(net, classes, plus=method == "gradcam++"), atol=1e-7)


def test_without_classes_the_predicted_ones_are_explained(net):
    predicted = net(X).argmax(1)
    found = class_maps(net, X)
    assert torch.equal(found.classes, predicted) and torch.allclose(found.maps, by_hand(net, predicted), atol=1e-7)


def test_a_layer_is_given_by_its_path_or_itself(net):
    by_path, by_module = class_maps(net, X, layer="body.0"), class_maps(net, X, layer=net.body[0])
    assert by_path.layer == by_module.layer == "body.0" and by_path.maps.shape == (3, 16, 16)
    assert torch.equal(by_path.maps, by_module.maps)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda scores: (scores, scores.mean()),
        lambda scores: {"aux": scores.mean(), "logits": scores},
        lambda scores: SimpleNamespace(logits=scores),
        lambda scores: [scores],
    ],
)
def test_models_that_return_more_than_scores_are_explained(net, wrap):
    plain = class_maps(net, X).maps
    net.wrap = wrap
    assert torch.equal(class_maps(net, X).maps, plain)


def test_a_single_score_is_that_of_class_1_against_class_0(net):
    net.head = nn.Linear(6, 1)
    classes = torch.tensor([1, 0, 1])
    found = class_maps(net, X, classes)
    two = copy.deepcopy(net)
    two.head = nn.Linear(6, 2)
    two.head.weight.data = torch.cat([-net.head.weight, net.head.weight]).detach()
    assert torch.allclose(found.maps, class_maps(two, X, classes).maps, atol=1e-7)


def test_frozen_weights_and_the_model_stay_as_they_are(net):
    net.body.append(nn.BatchNorm2d(6))
    net.requires_grad_(False)
    net.head.weight.requires_grad_().grad = torch.ones(4, 6)
    net.train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with torch.no_grad():
        found = class_maps(net, X)
    assert found.maps.max() > 0 and not found.maps.requires_grad
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(module.training for module in net.modules()) and torch.equal(net.head.weight.grad, torch.ones(4, 6))
    assert not any(module._forward_hooks for module in net.modules())


def test_precisions_below_fp32_give_nearly_the_same_maps(net):
    full = class_maps(net, X, torch.tensor([0, 1, 2])).maps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(class_maps(net, X, torch.tensor([0, 1, 2])).maps, full)
    half = class_maps(copy.deepcopy(net).bfloat16(), X, torch.tensor([0, 1, 2])).maps
    assert half.dtype == torch.float32 and torch.allclose(half, full, atol=0.05 * float(full.max()))


@pytest.mark.parametrize(
    ("make", "layer", "places"),
    [
        (torchvision.models.densenet121, "features.norm5", 2),  # an in-place ReLU follows, as a function
        (torchvision.models.resnet18, "layer4.1", 2),
        (lambda: timm.create_model("convnext_atto"), "stages.3", 2),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=64), "norm", 2),  # channels last
        (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64), "blocks.11.norm1", 4),  # a class token
    ],
)
def test_the_last_layer_with_spatial_extent_is_found_in_well_known_models(make, layer, places):
    set_seed(0)
    found = class_maps(make(), torch.rand(2, 3, 64, 64))
    assert found.layer == layer and found.maps.shape == (2, places, places)
    assert torch.isfinite(found.maps).all() and found.maps.max() > 0


def test_a_grid_of_tokens_need_not_be_square():
    set_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=(32, 96))
    assert class_maps(model, torch.rand(1, 3, 32, 96)).maps.shape == (1, 2, 6)


def images_with_evidence_in_a_corner(n):
    """Returns noise. Class 1 has a bright spot in the upper left corner. Half of all have one in the lower right."""
    g = torch.Generator().manual_seed(1)
    x, y = 0.3 * torch.rand(n, 1, 32, 32, generator=g), torch.randint(2, (n,), generator=g)
    x[y == 1, :, 2:8, 2:8] += 0.7
    x[torch.rand(n, generator=g) < 0.5, :, 24:30, 24:30] -= 0.3
    return x, y


def test_the_heat_lies_where_the_evidence_is_known_to_be():
    set_seed(0)
    x, y = images_with_evidence_in_a_corner(128)
    body = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(True)]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).float().mean() > 0.95
    for method in ("gradcam", "gradcam++"):
        found = class_maps(model, x[y == 1], torch.ones(int(y.sum()), dtype=torch.long), method=method)
        maps = found.maps / found.maps.sum((1, 2), keepdim=True)
        corner = maps[:, :6, :6].sum((1, 2))  # 14 % of the area
        assert found.layer == "4" and corner.mean() > 0.7 and corner.min() > 0.4


def test_what_cannot_be_explained_is_an_error(net):
    with pytest.raises(DataError, match="the outputs of this model's layers have no height and width"):
        class_maps(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), X)
    with pytest.raises(DataError, match="the output of this layer has no height and width"):
        class_maps(net, X, layer="head")
    with pytest.raises(ValueError, match=r"`layer` must be a layer.*Did you mean 'body'.*Received: layer='bdy'"):
        class_maps(net, X, layer="bdy")
    with pytest.raises(ValueError, match="`method` must be one of"):
        class_maps(net, X, method="cam")
    with pytest.raises(DataError, match="one class number from 0 to 3 for each of 3 images"):
        class_maps(net, X, torch.tensor([0, 4, 1]))
    with pytest.raises(DataError, match="needs images"):
        class_maps(nn.Linear(2, 2), torch.rand(1, 2))
    with pytest.raises(DataError, match=r"scores of shape \(items, classes\)"):
        class_maps(net.body, X)
