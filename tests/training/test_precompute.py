"""Training on precomputed features gives the same weights sooner, and is refused if it would not."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models

from minilearner import EMA, SWA, Callback, Checkpoint, DataLoaders, Learner, accuracy
from minilearner.data.batch_transforms import train_only
from minilearner.errors import DataError
from minilearner.training.precompute import split_fixed_part
from minilearner.vision.augment import Flip
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.resize import Resize
from minilearner.vision.vision_learner import vision_learner

N, SIDE = 70, 12


def body():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.5),
        nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8)), nn.ReLU(),
    )  # fmt: skip


def head():
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Dropout(0.0), nn.Linear(8, 5), nn.ReLU(),
        nn.Linear(5, 3),
    )  # fmt: skip


def split(model):
    return [list(model[0].parameters()), list(model[1].parameters())]


def arrays(n=N, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, SIDE, SIDE), generator=rng, dtype=torch.uint8), torch.arange(n) % 3


def learner(dls=None, model=None, dropout=False, **options):
    torch.manual_seed(1)
    model = nn.Sequential(body(), head()) if model is None else model
    if not dropout:
        model = copy.deepcopy(model)
        for module in model.modules():
            if isinstance(module, nn.Dropout2d):
                module.p = 0.0
    dls = DataLoaders.from_arrays(arrays(), arrays(20, 1), bs=16, seed=3) if dls is None else dls
    options = {"splitter": split, "train_bn": False, "metrics": accuracy, "device": "cpu"} | options
    return Learner(dls, model, **options)


def calls_of(layer):
    calls = []
    layer.register_forward_hook(lambda module, x, out: calls.append(len(x[0])))
    return calls


def weights(learn):
    return {name: t.clone() for name, t in learn.model.state_dict().items()}


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("cbs", [(), (partial(EMA, 0.9),), (partial(SWA, 0.3),)])
def test_the_head_ends_where_it_would_have_without(cbs):
    ends = []
    for precompute in (False, True):
        learn = learner()
        learn.freeze()
        with learn.no_logging():
            with learn.precompute() if precompute else nullcontext():
                record = learn.fit_one_cycle(3, 1e-2, cbs=[make() for make in cbs])
            learn.unfreeze()
            learn.fit(1, 1e-3)  # the loaders are at the same pass, otherwise the order would differ
        ends.append((weights(learn), [epoch["valid_loss"] for epoch in record.epochs]))
    assert_close(ends[0][0], ends[1][0])
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-4)


def test_frozen_layers_see_each_item_once_however_many_epochs():
    learn = learner()
    learn.freeze()
    seen = calls_of(learn.model[0][0])
    with learn.no_logging():
        learn.fit(1)  # the first fit also checks all the data
        seen.clear()
        with learn.precompute():
            assert sum(seen) == N + 20
            learn.fit_one_cycle(4)
            assert sum(seen) == N + 20


def test_a_fine_tuning_that_precomputes_equals_one_that_does_not():
    ends = []
    for precompute in (False, True):
        learn = learner()
        with learn.no_logging():
            learn.fine_tune(1, 1e-2, freeze_epochs=3, precompute=precompute)
        ends.append(weights(learn))
        assert [run.settings.get("features") for run in learn.recorder.runs] == [
            "precomputed" if precompute else None, None
        ]  # fmt: skip
    assert_close(*ends)


def test_a_rate_is_found_on_features():
    learn = learner()
    learn.freeze()
    with learn.no_logging(), learn.precompute():
        learn.fit(1)  # the first fit also checks all the data
        seen = calls_of(learn.model[0][0])
        sweep = learn.lr_find(show_plot=False)
        assert len(sweep.lrs) > 10 and not seen


def test_everything_else_asks_the_whole_model():
    learn = learner()
    learn.freeze()
    with learn.no_logging():
        before = learn.validate(), learn.get_preds()[0], learn.predict(arrays()[0][0])[2]
        with learn.precompute():
            inside = learn.validate(), learn.get_preds()[0], learn.predict(arrays()[0][0])[2]
        assert before[0] == inside[0]
        assert torch.equal(before[1], inside[1]) and torch.equal(before[2], inside[2])


def test_an_interrupted_fit_leaves_the_loaders_where_it_got_to():
    learn = learner()
    learn.freeze()
    with learn.no_logging():
        with pytest.raises(ZeroDivisionError), learn.precompute():
            learn.fit(1)
            raise ZeroDivisionError
        assert learn.dls.train.epoch == 1
        learn.fit(1)
        assert learn.recorder.runs[-1].settings.get("features") is None


def test_a_run_goes_on_from_its_checkpoint_and_not_with_other_data(tmp_path):
    def run(n_stop=None, *, precompute=True):
        learn = learner()
        learn.freeze()

        def stop(run):
            if run.global_step == n_stop:
                raise KeyboardInterrupt

        cb = type("Stop", (Callback,), {"after_step": lambda self, run: stop(run)})()
        with learn.no_logging(), learn.precompute() if precompute else nullcontext():
            learn.fit_one_cycle(3, 1e-2, cbs=cb, checkpoint=Checkpoint(tmp_path / "kept", every_steps=2))
        return weights(learn)

    with pytest.raises(KeyboardInterrupt):
        run(7)
    with pytest.raises(Exception, match="features"):
        run(precompute=False)
    resumed = run()
    for file in sorted(tmp_path.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    whole = run()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def refused(match, error=ValueError, dls=None, freeze=True, **options):
    learn = learner(dls, **options)
    if freeze:
        learn.freeze()
    before = weights(learn)
    with learn.no_logging(), pytest.raises(error, match=match), learn.precompute():
        pytest.fail("it was not refused")
    assert all(torch.equal(t, before[name]) for name, t in weights(learn).items())


def test_what_learns_cannot_be_precomputed():
    refused("nothing before it is frozen", freeze=False)
    begins_with_a_norm = nn.Sequential(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)), head())
    refused("train_bn", model=begins_with_a_norm, train_bn=True)


def test_norms_that_learn_amid_frozen_layers_are_refused():
    refused("train_bn=False", train_bn=True)  # its first convolution alone would be precomputed
    own = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False), nn.Conv2d(6, 8, 3))
    refused("without running statistics", model=nn.Sequential(own, head()))


def test_a_layer_that_is_called_twice_is_called_twice():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 6, 3), relu, nn.Conv2d(6, 8, 3), relu, nn.Flatten(), nn.Linear(512, 3), relu)
    model[:5].requires_grad_(False)
    fixed, rest = split_fixed_part(model)
    x = torch.randn(2, 3, SIDE, SIDE)
    assert torch.equal(rest(fixed(x)), model(x))


def test_data_that_the_model_cannot_take_are_refused_before_anything_is_computed():
    x, y = arrays()
    refused("takes 3 channels. Received: 1", DataError, DataLoaders.from_arrays((x[:, :1], y), bs=16, seed=3))


def test_a_model_that_is_no_sequence_of_layers_is_refused():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = body(), head()

        def forward(self, x):
            return self.head(self.body(x))

    refused(
        "sequence of layers", model=Own(), splitter=lambda m: [list(m.body.parameters()), list(m.head.parameters())]
    )


def test_augmentation_is_refused_by_name_and_by_evidence():
    def dls(tfms):
        return DataLoaders.from_arrays(arrays(), arrays(20, 1), bs=16, seed=3, batch_tfms=tfms)

    refused("Flip", DataError, dls(Flip()))
    refused("shaken", DataError, dls(train_only(shaken)))
    refused("shaken", DataError, dls(shaken))  # a plain function does not say that it draws
    refused("seldom_shaken", DataError, dls(seldom_shaken))
    learn = learner(dls(torch.neg))
    learn.freeze()
    with learn.no_logging(), learn.precompute():
        learn.fit(1)


def shaken(x):
    return x + 0.1 * torch.randn_like(x)


def seldom_shaken(x):
    return shaken(x) if torch.rand(()) < 0.15 else x


def of_files(folder, method):
    pattern, options = r"(.+)_\d+.jpg$", {"valid_pct": 0.3, "bs": 4, "seed": 0, "num_workers": 0}
    files = sorted(folder.iterdir())
    return ImageDataLoaders.from_name_re(folder, files, pattern, item_tfms=Resize(24, method), **options)


def test_random_crops_of_files_are_refused_and_whole_images_are_accepted(pets):
    refused("Resize", DataError, of_files(pets, "crop"))
    learn = learner(of_files(pets, "squish"))
    with learn.no_logging():
        learn.fine_tune(1, freeze_epochs=2, precompute=True)
    assert learn.recorder.runs[0].settings["features"] == "precomputed"


def test_a_pretrained_body_with_fastais_head_is_split_behind_its_pooling():
    dls = DataLoaders.from_arrays(arrays(), arrays(20, 1), bs=16, seed=3)
    learn = vision_learner(dls, models.shufflenet_v2_x0_5, pretrained=False, train_bn=False, device="cpu")
    learn.freeze()
    fixed, rest = split_fixed_part(learn.model)
    assert fixed(torch.randn(2, 3, 32, 32)).shape == (2, 2048) and isinstance(rest[0], nn.BatchNorm1d)


def test_foreign_loaders_are_refused():
    x, y = arrays()
    refused("order", DataError, DataLoaders([(x[:8].float(), y[:8])], [(x[:8].float(), y[:8])]))


@pytest.mark.parametrize("change", [Learner.unfreeze, Learner.freeze, lambda learn: learn.fine_tune(1)])
def test_layers_cannot_be_frozen_or_unfrozen_inside(change):
    learn = learner()
    learn.freeze()
    with learn.no_logging(), learn.precompute():
        before = weights(learn)
        with pytest.raises(ValueError, match="Leave `precompute` first"):
            change(learn)
        assert all(torch.equal(t, before[name]) for name, t in weights(learn).items())
        learn.model.requires_grad_(True)
        with pytest.raises(ValueError, match="unfreeze after"):
            learn.fit(1)


def test_the_source_of_features_cannot_be_changed_inside():
    learn = learner()
    learn.freeze()
    weights_of_before = learn.model.state_dict()
    with learn.no_logging(), learn.precompute():
        with pytest.raises(ValueError, match="Leave `precompute` first"), learn.precompute():
            pass
        dls, learn.dls = learn.dls, learner().dls
        with pytest.raises(ValueError, match="other loaders"):
            learn.fit(1)
        learn.dls = dls
        learn.model.load_state_dict({name: t + 1 for name, t in weights_of_before.items()})
        with pytest.raises(ValueError, match="load before"):
            learn.fit(1)


def test_features_that_would_not_fit_are_refused_before_they_are_computed(monkeypatch):
    monkeypatch.setattr("minilearner.training.precompute.available_memory", lambda device: 1000)
    refused("GiB", DataError)


def test_the_fixed_part_takes_pooling_along_and_stops_at_what_chance_or_statistics_decide():
    model = nn.Sequential(body(), head())
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    fixed, rest = split_fixed_part(model)
    assert [type(layer).__name__ for layer in fixed][-2:] == ["AdaptiveAvgPool2d", "Flatten"]
    assert rest[0] is model[1][2]
    x = torch.randn(4, 3, SIDE, SIDE)
    model.eval()
    assert torch.equal(rest(fixed(x)), model(x))


def test_a_hook_on_a_row_is_not_lost():
    model = nn.Sequential(body(), head())
    model[0].requires_grad_(False)
    calls = calls_of(model[0])
    fixed, _ = split_fixed_part(model)
    fixed(torch.randn(2, 3, SIDE, SIDE))
    assert len(calls) == 1
