"""`vision_learner` sets up the model, frozen layers and statistics, and fine-tunes in fastai's two phases."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models
from torchvision.transforms import v2

from minilearner import Callback, DataLoaders, Learner, Normalize, accuracy
from minilearner.data.batch_transforms import train_only
from minilearner.losses import CrossEntropyLossFlat
from minilearner.models.heads import create_head
from minilearner.models.xresnet import xresnet18
from minilearner.scores.classes import F1Score
from minilearner.training.fastai_optimizers import ranger
from minilearner.vision.vision_learner import cnn_learner, vision_learner

SHUFFLENET = "shufflenetv2_x0.5-f707e7126e.pth"
IMAGENET = "Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])"


def images(n, channels=3):
    return np.random.default_rng(n).integers(0, 256, (n, channels, 32, 32), dtype=np.uint8), np.arange(n) % 3


def loaders(channels=3, **options):
    return DataLoaders.from_arrays(images(10, channels), images(6, channels), bs=2, seed=0, **options)


@pytest.fixture
def dls():
    return loaders(vocab=["cat", "dog", "owl"])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Fills torch hub's folder with files of untrained weights, and forbids the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), folder / SHUFFLENET)
    return folder


def untrained(dls, arch=models.shufflenet_v2_x0_5, **options):
    return vision_learner(dls, arch, pretrained=False, device="cpu", **options)


def own():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, 2))


def transforms(dls):
    return [list(map(repr, loader.batch_tfms.transforms)) for loader in (dls.train, dls.valid) if loader]


def test_the_arguments_have_the_order_of_fastai():
    first = "dls, arch, normalize, n_out, pretrained, weights, loss_func, opt_func, lr, splitter, cbs, metrics, path"
    then = (
        "model_dir, wd, wd_bn_bias, train_bn, moms, cut, init, custom_head, concat_pool, pool, lin_ftrs, ps, first_bn"
    )
    last = "bn_final, lin_first, y_range"
    names = ", ".join([first, then, last]).split(", ")
    assert list(inspect.signature(vision_learner).parameters)[: len(names)] == names
    assert cnn_learner is vision_learner


def test_weights_in_the_torch_hub_folder_give_a_learner_without_network_or_warning(dls, hub):
    trained = models.resnet34(weights=None)
    torch.save(trained.state_dict(), hub / "resnet34-b627a593.pth")
    learn = cnn_learner(dls, models.resnet34, metrics=accuracy)
    assert type(learn) is Learner
    assert torch.equal(learn.model[0][7][2].conv2.weight.cpu(), trained.layer4[2].conv2.weight)
    assert learn.model[1][-1].out_features == 3
    with learn.no_logging():
        assert len(learn.fine_tune(1).epochs) == 1


def test_with_trained_weights_all_but_head_and_norms_are_frozen(dls, hub):
    body, head = vision_learner(dls, models.shufflenet_v2_x0_5).model
    in_norms = {id(p) for m in body.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    assert all(p.requires_grad == (id(p) in in_norms) for p in body.parameters())
    assert all(p.requires_grad for p in head.parameters())
    body, _ = vision_learner(dls, models.shufflenet_v2_x0_5, train_bn=False).model
    assert not any(p.requires_grad for p in body.parameters())
    assert all(p.requires_grad for p in untrained(dls).model.parameters())


def test_an_xresnet_is_cut_and_grouped_as_in_fastai(dls):
    learn = untrained(
        dls, xresnet18, loss_func=CrossEntropyLossFlat(), opt_func=ranger, metrics=F1Score(average="macro")
    )
    body, head = learn.model
    assert len(body) == 8 and head[-1].out_features == 3
    first = sum(1 for part in body[:3] for _ in part.parameters())
    assert len(learn.splitter(learn.model)[0]) == first
    learn.fit_flat_cos(1, 1e-3)
    assert 0 <= learn.recorder.epochs[-1]["f1_score"] <= 1


def test_in_a_frozen_body_only_norms_learn_and_follow_the_data(dls):
    learn = vision_learner(dls, own(), device="cpu")
    before = {name: t.clone() for name, t in learn.model.state_dict().items()}
    with learn.no_logging():
        learn.fit(1, 0.1)
    moved = {name for name, t in learn.model.state_dict().items() if not torch.equal(t, before[name])}
    of_body = {name for name in before if name.startswith("0.")}
    assert moved & of_body == {f"0.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")} | {
        "0.1.num_batches_tracked"
    }
    assert {"1.2.weight", "1.4.weight", "1.8.weight"} <= moved


def test_freezing_by_layer_group(dls):
    learn = untrained(dls, models.resnet18, train_bn=False)
    groups = learn.splitter(learn.model)

    def free():
        return [all(p.requires_grad for p in group) for group in groups]

    learn.freeze()
    assert free() == [False, False, True]
    learn.freeze_to(-2)
    assert free() == [False, True, True]
    learn.unfreeze()
    assert free() == [True, True, True]


class Rates(Callback):
    """Records the rate of every layer group at each step."""

    def __init__(self):
        self.seen = []

    def before_step(self, run):
        by_group = {group["layer_group"]: group["lr"] for group in run.optimizer.param_groups}
        self.seen.append([by_group[i] for i in sorted(by_group)])


def test_fine_tune_has_the_phases_of_fastai(dls):
    learn, rates = untrained(dls, models.resnet18), Rates()
    with learn.no_logging():
        learn.fine_tune(2, cbs=rates)
    first, second = learn.recorder.runs
    assert (len(first.epochs), len(second.epochs), len(learn.recorder.losses)) == (1, 2, 15)
    rising = [2e-3 / 25 + (1 - math.cos(math.pi * i / 5 / 0.99)) / 2 * (2e-3 - 2e-3 / 25) for i in range(5)]
    np.testing.assert_allclose(first.steps["lr"], rising, rtol=1e-6)
    golden = [2e-4, 4e-4, 8e-4, 1e-3, 9.50485e-4, 8.11747e-4, 6.11264e-4, 3.88746e-4, 1.88263e-4, 4.95251e-5]
    np.testing.assert_allclose(second.steps["lr"], golden, rtol=1e-5)
    np.testing.assert_allclose(rates.seen[:5], np.outer(rising, [0.1, 0.1, 1]), rtol=1e-6)
    np.testing.assert_allclose(rates.seen[5:], np.outer(golden, [0.01, 0.1, 1]), rtol=1e-5)
    np.testing.assert_allclose(np.max(rates.seen[5:], axis=0), [1e-5, 1e-4, 1e-3])
    np.testing.assert_allclose(second.steps["momentum"][[0, 3]], [0.95, 0.85])


def test_the_body_is_fixed_in_the_first_phase_and_learns_in_the_second(dls):
    learn, moved = untrained(dls), []
    first = learn.model[0][0][0].weight

    class Watch(Callback):
        def before_fit(self, run):
            self.before = first.detach().clone()

        def after_fit(self, run):
            moved.append(not torch.equal(first, self.before))

    with learn.no_logging():
        learn.fine_tune(1, cbs=Watch())
    assert moved == [False, True]


@pytest.mark.parametrize(
    ("lr", "expected"),
    [(slice(1e-2), [1e-3, 1e-3, 1e-2]), (slice(1e-4, 1e-2), [1e-4, 1e-3, 1e-2]), ([1, 2, 3], [1, 2, 3])],
)
def test_slices_and_lists_set_the_rates_of_the_three_groups(dls, lr, expected):
    learn, rates = untrained(dls, lr=lr), Rates()
    with learn.no_logging():
        learn.fit(1, cbs=rates)
    np.testing.assert_allclose(rates.seen[0], expected)


def test_statistics_are_added_to_the_loaders_of_the_learner(dls, hub):
    torch.save(models.googlenet(weights=None, init_weights=False).state_dict(), hub / "googlenet-1378be20.pth")
    learn, other = (vision_learner(dls, arch) for arch in (models.shufflenet_v2_x0_5, models.googlenet))
    assert transforms(learn.dls) == [[IMAGENET], [IMAGENET]]
    assert transforms(other.dls) == [["Normalize(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])"]] * 2
    assert transforms(dls) == [[], []]
    raw, x = (next(iter(loaders.valid))[0].cpu() for loaders in (dls, learn.dls))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(x, (raw - mean.view(3, 1, 1)) / std.view(3, 1, 1))


@pytest.mark.parametrize("present", [Normalize.from_stats(0.5, 0.5), v2.Normalize([0.5], [0.5]), None])
def test_statistics_are_not_added_twice_or_against_normalize_false(present, hub):
    if present is not None and not isinstance(present, Normalize):
        present = v2.Compose([present])
    dls = loaders(batch_tfms=present, vocab="abc")
    learn = vision_learner(dls, models.shufflenet_v2_x0_5, normalize=present is not None)
    assert learn.dls.train.batch_tfms is dls.train.batch_tfms


def test_no_statistics_are_known_for_untrained_or_custom_bodies_or_other_channels(dls, hub):
    assert transforms(untrained(dls).dls) == transforms(vision_learner(dls, own()).dls) == [[], []]
    grey = vision_learner(loaders(1, vocab="abc"), models.shufflenet_v2_x0_5, n_in=1)
    assert transforms(grey.dls) == [[], []]
    assert grey.model[0][0][0].in_channels == 1


@pytest.mark.parametrize(
    "ask", [lambda dls, x: dls.test_dl(x), lambda dls, x: dls.test_dl(DataLoader(TensorDataset(x, x)))]
)
def test_items_to_predict_are_normalized_too_if_loaders_are_foreign(ask, hub):
    x, y = torch.rand(4, 3, 32, 32), torch.arange(4)
    dls = DataLoaders(DataLoader(TensorDataset(x, y), 2), vocab="abcd", device="cpu")
    learn = vision_learner(dls, models.shufflenet_v2_x0_5, device="cpu")
    asked, _ = next(iter(ask(learn.dls, x[:1])))
    torch.testing.assert_close(asked[0, 0], (x[0, 0] - 0.485) / 0.229)


def test_loaders_of_the_original_dls_are_normalized_if_passed_to_the_learner(dls, hub):
    learn = vision_learner(dls, models.shufflenet_v2_x0_5, device="cpu")
    files = images(4)[0]
    with learn.no_logging():
        own, callers = (learn.get_preds(dl=loaders.test_dl(files))[0] for loaders in (learn.dls, dls))
        assert torch.equal(own, callers)
        assert learn.validate() == learn.validate(dl=dls.valid) == learn.validate(dl=learn.dls.valid)
    (once,) = learn.dls.from_other(learn.dls.test_dl(dls.valid)).batch_tfms.transforms
    assert repr(once) == IMAGENET


def test_a_raw_loader_and_a_dataset_are_normalized_too(dls, hub):
    learn = vision_learner(dls, models.shufflenet_v2_x0_5, device="cpu")
    data = TensorDataset(torch.rand(4, 3, 32, 32), torch.arange(4) % 3)
    with learn.no_logging():
        first, *others = (
            learn.get_preds(dl=dl)[0] for dl in (learn.dls.test_dl(data), data, DataLoader(data, 4), dls.test_dl(data))
        )
    assert all(torch.equal(first, other) for other in others)


def test_normalized_images_are_not_normalized_again(hub):
    x = Normalize.from_stats([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(torch.rand(4, 3, 32, 32), None)
    dls = DataLoaders(TensorDataset(x, torch.arange(4) % 3), bs=2, vocab="abc")
    with pytest.raises(ValueError, match=r"range from -2.1\d? to 2.6\d?. Pass normalize=False"):
        vision_learner(dls, models.shufflenet_v2_x0_5)
    assert transforms(vision_learner(dls, models.shufflenet_v2_x0_5, normalize=False).dls)[0] == []


def test_augmentation_may_leave_the_range(hub):
    dls = loaders(batch_tfms=train_only(lambda x: x * 5 - 2), vocab="abc")
    assert transforms(vision_learner(dls, models.shufflenet_v2_x0_5).dls)[0][1] == IMAGENET


def test_the_head_fits_the_body_and_the_labels(dls):
    options = {"lin_ftrs": [16], "ps": 0.2, "concat_pool": False, "bn_final": True, "y_range": (0, 1), "n_out": 7}
    learn = untrained(dls, **options)
    expected = create_head(1024, 7, **{name: value for name, value in options.items() if name != "n_out"})
    assert str(learn.model[1]) == str(expected)
    assert len(untrained(dls, lin_first=True).model[1]) == 8


def test_a_seed_decides_the_head(dls):
    first, second, other = (untrained(dls, seed=seed).model[1][8].weight for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_a_custom_head_is_initialized_unless_init_is_none(dls):
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    nn.init.ones_(head[2].weight)
    learn = vision_learner(dls, own(), custom_head=head, init=None)
    assert learn.model[1] is head and (head[2].weight == 1).all()
    vision_learner(dls, own(), custom_head=head, init=nn.init.zeros_)
    assert not head[2].weight.any()


def test_a_body_that_pools_itself_gets_a_head_without_pooling(dls):
    pooling = nn.Sequential(*own(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    learn = untrained(dls, pooling, cut=lambda model: model, pool=False)
    assert isinstance(learn.model[1][0], nn.BatchNorm1d)
    with learn.no_logging():
        learn.fit(1)


def test_arguments_are_passed_to_the_learner(dls, tmp_path):
    options = {"lr": 0.5, "wd": 0.25, "wd_bn_bias": True, "moms": (0.9, 0.8, 0.9), "opt_func": torch.optim.SGD}
    callback, loss_func = Callback(), nn.CrossEntropyLoss(label_smoothing=0.1)
    learn = untrained(
        dls, cbs=callback, metrics=accuracy, path=tmp_path, loss_func=loss_func, precision="bf16", **options
    )
    assert {name: getattr(learn, name) for name in options} == options
    assert (learn.cbs, list(learn.metrics), learn.path) == ([callback], ["accuracy"], tmp_path)
    assert (learn.loss_func, learn.precision) == (loss_func, "bf16")
    assert untrained(dls, splitter=lambda m: [list(m.parameters())]).splitter(learn.model)[0]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_in": 1}, ValueError, r"Received: n_in=1, images of shape \(2, 3, 32, 32\). Pass n_in=3"),
        ({"n_out": 0}, ValueError, "`n_out` must be at least 1. Received: n_out=0"),
        ({"pool": False}, ValueError, "`pool=False` needs a body that pools itself"),
        ({"weights": "DEFAULT"}, ValueError, "Leave out one of them"),
        ({"lr": -1}, ValueError, "`lr` must be finite"),
        ({"arch": "shufflenet", "pretrained": True}, (ImportError, ValueError), "Received: arch='shufflenet'"),
    ],
)
def test_arguments_that_cannot_work_are_errors(dls, options, error, match):
    with pytest.raises(error, match=match):
        vision_learner(dls, **({"arch": own(), "pretrained": False} | options))


def test_loaders_that_are_not_accepted_raise():
    grey = loaders(1, vocab="abc")
    with pytest.raises(ValueError, match=r"Received: n_in=3, images of shape \(2, 1, 32, 32\). Pass n_in=1"):
        untrained(grey)
    with pytest.raises(TypeError, match=r"must be DataLoaders: DataLoaders\(train, valid\). Received: list"):
        untrained([])
    flat = DataLoaders.from_arrays((np.zeros((4, 3), np.float32), [0, 1, 0, 1]), bs=2, vocab="ab")
    with pytest.raises(ValueError, match=r"must return images .* Received: \(2, 3\)"):
        untrained(flat)
    unknown = DataLoaders(DataLoader(TensorDataset(torch.rand(4, 3, 32, 32), torch.arange(4)), 2))
    with pytest.raises(ValueError, match="`n_out` is needed"):
        untrained(unknown)
