"""The parts of a learner may be assigned at any time; each is checked, and what depends on it follows."""

import numpy as np
import pytest
import torch
from torch import nn

from minilearner import (
    CSVLogger,
    DataError,
    DataLoaders,
    Learner,
    MinilearnerError,
    SaveBest,
    accuracy,
    error_rate,
    set_seed,
)
from minilearner.training.optimizers import set_momentum
from minilearner.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    get_image_files,
    imagenet_stats,
    resnet18,
    vision_learner,
)


def data(n=32, width=4, vocab=("a", "b", "c"), **options):
    generator = torch.Generator().manual_seed(n)
    x, y = torch.randn(n, width, generator=generator), torch.arange(n) % 3
    return DataLoaders.from_arrays((x, y), (x[:9], y[:9]), bs=8, seed=1, vocab=list(vocab), device="cpu", **options)


def net():
    set_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))


def halves(model):
    return [list(model[:2].parameters()), list(model[2:].parameters())]


def learner(**options):
    return Learner(data(), net(), device="cpu", **options)


def quietly(learn, n=1, *args, **options):
    with learn.no_logging():
        return learn.fit(n, *args, **options)


def test_other_metrics_take_the_place_of_those_before():
    learn = learner(metrics=accuracy)
    quietly(learn)
    learn.metrics = [accuracy, error_rate]
    assert len(learn.validate()) == 3 and list(quietly(learn).history)[-3:-1] == ["accuracy", "error_rate"]
    learn.metrics = error_rate
    assert len(learn.validate()) == 2
    learn.metrics = {"right": accuracy}
    assert "right" in quietly(learn).history
    with pytest.raises(TypeError, match=r"Received: 'accuracy' of type str\. Write metrics=accuracy"):
        learn.metrics = ["accuracy"]
    assert list(learn.metrics) == ["right"]


def test_another_loss_is_trained_and_validated():
    learn = learner()
    before = learn.validate()[0]
    learn.loss_func = nn.CrossEntropyLoss(label_smoothing=0.5)
    assert learn.validate()[0] != before
    learn.loss_func = None
    assert learn.validate()[0] == before
    with pytest.raises(TypeError, match=r"not a class.*Write CrossEntropyLoss\(\)"):
        learn.loss_func = nn.CrossEntropyLoss
    with pytest.raises(TypeError, match=r"`loss_func` must be a function .*Received: loss_func='mse'"):
        learn.loss_func = "mse"


def test_another_optimizer_is_made_for_the_next_call():
    learn = learner()
    quietly(learn)
    learn.opt_func = torch.optim.SGD
    assert quietly(learn).settings["optimizer"] == "SGD"
    with pytest.raises(TypeError, match=r"an optimizer of the class SGD\. Give its class: opt_func=partial\(SGD, mom"):
        learn.opt_func = torch.optim.SGD(learn.model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(TypeError, match="Give the class itself"):
        learner(opt_func="adam")


def test_another_splitter_divides_the_layers_anew():
    learn = learner()
    assert len(learn.opt.hypers) == 1
    learn.splitter = halves
    assert len(learn.opt.hypers) == 2
    learn.freeze()
    assert not learn.model[0].weight.requires_grad and learn.model[2].weight.requires_grad


def test_other_loaders_are_trained_on():
    learn = learner()
    quietly(learn)
    learn.dls = data(64)
    assert quietly(learn).n_batches == 8 and len(learn.recorder.losses) == 12
    learn.dls = [(torch.randn(8, 4), torch.zeros(8).long())] * 3
    assert quietly(learn).n_batches == 3


def test_other_loaders_must_have_the_same_classes_and_fit_the_model():
    learn = learner()
    with pytest.raises(ValueError, match=r"`dls` must have the classes that the model knows, 'a', 'b', 'c'\. Received"):
        learn.dls = data(vocab=("a", "c", "b"))
    learn.dls = data(width=5)
    with pytest.raises(DataError, match="linear layer in it takes 4 features"):
        learn.fit(1)


def test_larger_images_are_normalized_as_those_before(pets):
    def loaders(size, **options):
        how = {"pat": r"^(.*)_\d+.jpg$", "valid_pct": 0.5, "seed": 1, "bs": 4, "item_tfms": Resize(size)}
        return ImageDataLoaders.from_name_re(pets, get_image_files(pets), **how, **options)

    dls = loaders(24).with_batch_tfms(Normalize.from_stats(*imagenet_stats))
    learn = vision_learner(dls, resnet18, pretrained=False, device="cpu")
    normalize = [one for one in learn.dls.train.batch_tfms.transforms if isinstance(one, Normalize)]
    learn.dls = loaders(32)
    assert learn.dls.one_batch()[0].shape[2:] == (32, 32)
    assert [one for one in learn.dls.train.batch_tfms.transforms if isinstance(one, Normalize)] == normalize
    own = Normalize.from_stats([0.5] * 3, [0.5] * 3)
    learn.dls = loaders(32, batch_tfms=own)
    assert [one for one in learn.dls.train.batch_tfms.transforms if isinstance(one, Normalize)] == [own]


def test_weight_decay_applies_from_now_on():
    learn = learner(opt_func=torch.optim.SGD)
    quietly(learn)
    optimizer = learn.optimizer
    learn.wd = 0.3
    assert learn.optimizer is optimizer and learn.opt.hypers[0]["wd"] == 0.3
    assert {group["weight_decay"] for group in optimizer.param_groups} == {
        0.0,
        0.3,
    }  # norm layers and biases are spared
    with pytest.raises(ValueError, match="`wd` must be finite and not negative"):
        learn.wd = -1
    assert learn.wd == 0.3


def test_the_folders_list_their_files(tmp_path):
    learn = learner(path=tmp_path)
    learn.save("x")
    assert [file.name for file in learn.path.ls()] == ["x.safetensors"]
    assert learn.dls.path.ls(file_exts=".none") == []


def test_files_go_to_the_model_folder(tmp_path):
    learn = learner(path=tmp_path, model_dir="models")
    assert learn.save("x") == tmp_path / "models" / "x.safetensors"
    learn.model_dir = tmp_path / "elsewhere"
    assert learn.save("x").parent == tmp_path / "elsewhere"
    learn.load("x")
    learn.path, learn.model_dir = str(tmp_path / "other"), "."
    assert learn.save("y") == tmp_path / "other" / "y.safetensors"
    assert learner(path=tmp_path).save("z") == tmp_path / "z.safetensors"


def test_callbacks_that_write_say_where_at_the_end(tmp_path, capsys):
    best, log = tmp_path / "best.safetensors", tmp_path / "log.csv"
    learn = learner(cbs=[SaveBest(path=best, restore=False), CSVLogger(log)])
    learn.fit(2)
    lines = capsys.readouterr().out.splitlines()
    assert f"CSVLogger wrote {log}" in lines and lines[-2].startswith("SaveBest wrote the weights of epoch ")
    assert lines[-2].endswith(f" to {best}")
    quietly(learn)
    assert capsys.readouterr().out == ""


def test_calls_that_write_say_where_once(tmp_path, capsys):
    learn = learner(path=tmp_path)
    for _ in range(3):
        learn.save("x")
    learn.save("y")
    learn.export("x.pkl")
    learn.export("x.pkl")
    assert capsys.readouterr().err.splitlines() == [
        f"learn.save wrote {tmp_path / 'x.safetensors'}",
        f"learn.export wrote {tmp_path / 'x.pkl'}, in the safetensors format and not as a pickle",
    ]
    with learn.no_logging():
        learn.save("new/y")
    assert capsys.readouterr().err == ""


def test_the_settings_of_layer_groups_have_fastais_names():
    learn = learner(splitter=halves, lr=0.1)
    assert learn.opt.hypers == [{"lr": 0.1, "mom": 0.9, "sqr_mom": 0.99, "eps": 1e-5, "wd": 0.01}] * 2
    assert [len(group) for group in learn.opt.param_lists] == [4, 2]
    quietly(learn, 1, slice(1e-5, 1e-3))
    assert [group["lr"] for group in learn.opt.hypers] == [1e-5, 1e-3]
    assert {group["lr"] for group in learn.optimizer.param_groups} == {0.1}  # the next run brings its own
    with learn.no_logging():
        learn.fit_one_cycle(1, slice(1e-5, 1e-3))
    rates, momentum = [group["lr"] for group in learn.opt.hypers], learn.opt.hypers[0]["mom"]
    assert (
        rates[1] == learn.recorder.lrs[-1] == pytest.approx(100 * rates[0]) and momentum == learn.recorder.momenta[-1]
    )
    learn.create_opt()
    assert [group["lr"] for group in learn.opt.hypers] == [0.1, 0.1] and not learn.optimizer.state


def test_settings_of_the_optimizer_are_set_by_name():
    learn = learner(splitter=halves, opt_func=torch.optim.SGD)
    learn.opt.set_hypers(lr=slice(0.1, 1.0), mom=0.5)
    assert [(group["lr"], group["momentum"]) for group in learn.optimizer.param_groups] == [(0.1, 0.5), (1.0, 0.5)]
    assert learn.opt.state_dict() == learn.optimizer.state_dict() and learn.opt.opt is learn.optimizer
    with pytest.raises(ValueError, match=r"`name` must be one of 'lr', 'mom', 'wd'\. .*name='eps'"):
        learn.opt.set_hyper("eps", 0.1)
    with pytest.raises(AttributeError, match="nothing"):
        _ = learn.opt.nothing
    set_momentum(learn.optimizer.param_groups[0], 0.9)
    assert learn.opt.hypers[0]["mom"] == 0.9


def test_weight_decay_set_by_name_spares_norms_and_biases():
    learn = learner(wd=0.1)
    learn.opt.set_hyper("wd", 0.2)
    assert [group["weight_decay"] for group in learn.optimizer.param_groups] == [0.2, 0.0]
    assert learn.opt.hypers[0]["wd"] == 0.2
    learn.opt.hypers[0]["sqr_mom"] = 0.95
    assert [group["betas"][1] for group in learn.optimizer.param_groups] == [0.95, 0.95]


def test_settings_after_a_run_can_only_be_read():
    learn = learner()
    quietly(learn, 1)
    with pytest.raises(TypeError, match="does not support item assignment"):
        learn.opt.hypers[0]["lr"] = 1.0


def test_a_run_may_make_the_optimizer_anew_and_begin_at_a_later_epoch():
    learn = learner()
    quietly(learn, 2)
    assert next(iter(learn.optimizer.state.values()))["step"] == 8
    record = quietly(learn, 3, reset_opt=True, start_epoch=2)
    assert next(iter(learn.optimizer.state.values()))["step"] == 4
    assert [row["epoch"] for row in record.epochs] == [2]
    with learn.no_logging():
        whole, last = learn.fit_one_cycle(3, 0.01), learn.fit_one_cycle(3, 0.01, start_epoch=2)
    np.testing.assert_array_equal(last.steps["lr"], whole.steps["lr"][-4:])
    with pytest.raises(ValueError, match="`start_epoch` must be below `n_epoch`. Received: start_epoch=3, n_epoch=3."):
        learn.fit_flat_cos(3, start_epoch=3)


def test_half_precision_on_a_cpu_is_what_is_fast_there(capsys):
    learn = learner()
    assert learn.to_fp16() is learn
    assert learn.precision in ("fp32", "bf16")
    assert capsys.readouterr().err.startswith("to_fp16: fp16 is slow on a CPU, so this learner trains in ")
    assert learner(precision="fp16").precision == "fp16"
    assert learn.to_bf16().precision == "bf16" and learn.to_fp32().precision == "fp32"


def test_errors_of_assigned_parts_leave_the_learner_as_it_was():
    learn = learner(metrics=accuracy)
    before = learn.dls, learn.loss_func, learn.opt_func, dict(learn.metrics)
    for name, bad in (("dls", 3), ("loss_func", 3), ("opt_func", 3), ("metrics", 3)):
        with pytest.raises((TypeError, MinilearnerError)):
            setattr(learn, name, bad)
    assert (learn.dls, learn.loss_func, learn.opt_func, dict(learn.metrics)) == before


def test_metrics_are_added_to_those_there_are():
    learn = Learner(DataLoaders.from_arrays((torch.rand(8, 4), torch.arange(8) % 2), bs=4), nn.Linear(4, 2))
    learn.metrics = [accuracy]
    learn.metrics += [error_rate]
    assert list(learn.metrics) == ["accuracy", "error_rate"]
    with pytest.raises(ValueError, match="there is a metric 'accuracy' already"):
        learn.metrics += accuracy
    assert list(learn.metrics) == ["accuracy", "error_rate"]
