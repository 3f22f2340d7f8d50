"""Each method of the learner does what it says, prediction leaves no trace, and mistakes are found before training."""

import subprocess
import sys
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minilearner import (
    MLP,
    Callback,
    CancelBatch,
    CancelFit,
    ClassificationInterpretation,
    DataError,
    DataLoaders,
    EarlyStopping,
    Learner,
    MiniGoogLeNet,
    accuracy,
    error_rate,
    top_k_accuracy,
)


@pytest.fixture
def learner(net, blobs):
    def make(**kwargs):
        dls = DataLoaders.from_arrays(*blobs, bs=16, vocab=["a", "b", "c"], seed=1)
        options = {"lr": 0.01, "metrics": accuracy, "device": "cpu"} | kwargs
        return Learner(dls, options.pop("model", None) or net(), **options)

    return make


def quietly(learn, n=1, **kwargs):
    with learn.no_logging():
        return learn.fit(n, **kwargs)


def test_it_learns(learner):
    record = quietly(learner(lr=0.05), 8)
    assert record.history["accuracy"][-1] > 0.9
    assert record.history["valid_loss"][-1] < record.history["valid_loss"][0]


def test_train_loss_is_the_mean_over_items_and_valid_loss_that_of_the_whole_set(learner):
    learn = learner()
    record = quietly(learn)
    steps = record.steps
    assert record.epochs[0]["train_loss"] == pytest.approx(np.average(steps["loss"], weights=steps["n_items"]))
    learn.model.eval()
    x, y = learn.dls.valid.items(range(30))
    expected = nn.functional.cross_entropy(learn.model(x), y)
    assert record.epochs[0]["valid_loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_each_fit_is_a_numbered_run_and_nothing_wipes_them(learner):
    learn = learner()
    first = quietly(learn, 2)
    losses = learn.recorder.losses.copy()
    with learn.no_logging():
        learn.validate(), learn.get_preds(), learn.predict([0.0, 1.0]), learn.lr_find(num_it=5, show_plot=False)
    np.testing.assert_array_equal(learn.recorder.losses, losses)
    second = quietly(learn)
    assert [run.number for run in learn.recorder.runs] == [1, 2]
    assert learn.recorder.runs == [first, second]
    assert len(learn.recorder.losses) == 15
    assert (first.kind, first.settings["n_epoch"], first.settings["optimizer"]) == ("fit", 2, "AdamW")


def test_validate_gives_the_loss_and_the_metrics_as_fit_does(learner):
    learn = learner(metrics=[accuracy, error_rate])
    record = quietly(learn)
    loss, acc, err = learn.validate()
    assert (loss, acc) == (record.history["valid_loss"][0], record.history["accuracy"][0])
    assert err == pytest.approx(1 - acc)


def test_predicting_changes_nothing(learner):
    learn = learner()
    quietly(learn)
    before = [t.clone() for t in learn.model.state_dict().values()]
    rng = torch.get_rng_state()
    learn.model[3].eval()
    learn.validate(0), learn.get_preds(0), learn.predict([0.0, 1.0]), learn.summary(), learn.dls.one_batch()
    assert all(torch.equal(a, b) for a, b in zip(before, learn.model.state_dict().values()))
    assert torch.equal(torch.get_rng_state(), rng)
    assert not learn.model[3].training


def test_get_preds_gives_probabilities_in_the_order_of_the_data(learner, blobs):
    learn = learner()
    preds, targets = learn.get_preds(0)
    assert preds.shape == (86, 3)
    torch.testing.assert_close(preds.sum(1), torch.ones(86))
    np.testing.assert_array_equal(targets, blobs[0][1])
    found = learn.get_preds(0, with_input=True)
    np.testing.assert_array_equal(found.inputs, blobs[0][0])
    assert found.indices.tolist() == list(range(86)) and found[1] is found.preds


def test_get_preds_unpacks_in_fastais_order(learner):
    learn = learner()
    everything = learn.get_preds(with_input=True, with_decoded=True, with_loss=True)
    inputs, preds, targets, decoded, losses = everything
    assert inputs is everything.inputs and preds is everything.preds and targets is everything.targets
    assert decoded is everything.decoded and losses is everything.losses and len(everything) == 5
    preds, targets, losses = learn.get_preds(with_loss=True)
    assert torch.equal(losses, everything.losses)
    assert len(learn.get_preds(inner=True, reorder=False)) == 2 and everything[-2:] == (decoded, everything.losses)


def test_get_preds_gives_the_loss_of_each_item_and_the_decoded_classes(learner):
    found = learner().get_preds(with_loss=True, with_decoded=True)
    expected = nn.functional.nll_loss(found.preds.log(), found.targets, reduction="none")
    torch.testing.assert_close(found.losses, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.decoded, found.preds.argmax(1))


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.functional.cross_entropy,
        lambda pred, y: nn.functional.cross_entropy(pred, y),
        partial(nn.functional.cross_entropy, label_smoothing=0.0),
    ],
)
def test_any_loss_gives_the_loss_of_each_item(learner, loss):
    found = learner(loss_func=loss).get_preds(with_loss=True)
    expected = learner().get_preds(with_loss=True)
    torch.testing.assert_close(found.losses, expected.losses)


def test_get_preds_takes_a_loader_of_the_users(learner):
    data = torch.utils.data.TensorDataset(torch.zeros(10, 2), torch.zeros(10, dtype=torch.int64))
    preds, targets = learner().get_preds(dl=torch.utils.data.DataLoader(data, batch_size=4, shuffle=True))
    assert (preds.shape, targets.shape) == ((10, 3), (10,))


def test_predict_names_the_label(learner):
    learn = learner(lr=0.05)
    quietly(learn, 8)
    label, index, probabilities = learn.predict(np.array([0.0, 3.0], dtype=np.float32))
    assert (label, int(index), int(probabilities.argmax())) == ("a", 0, 0)
    assert float(probabilities.sum()) == pytest.approx(1)


def test_torchmetrics_fit_in(learner):
    metric = torchmetrics.F1Score(task="multiclass", num_classes=3, average="macro")
    record = quietly(learner(metrics=[accuracy, metric]), 2)
    assert len(record.history["accuracy"]) == 2
    column = next(name for name in record.history if "f1" in name)
    assert 0 <= record.history[column][-1] <= 1


def test_training_metrics_when_asked_for(learner):
    learn = learner()
    learn.recorder.train_metrics = True
    row = quietly(learn).epochs[0]
    assert list(row)[:5] == ["epoch", "train_loss", "smooth_loss", "train_accuracy", "valid_loss"]


def training_and_validation_accuracy(change, first, metric):
    """Returns both accuracies of an epoch with rate 0 over single items, with `change` applied to the output."""
    x, y = torch.randn(36, 4), torch.arange(36) % 3
    model = nn.Linear(4, 3)
    model.register_forward_hook(lambda module, inputs, pred: change(pred))
    loss = lambda pred, y: nn.functional.cross_entropy(first(pred).reshape(-1, 3), y)  # noqa: E731
    learn = Learner((list(zip(x.split(1), y.split(1), strict=True)),) * 2, model, loss, lr=0.0, metrics=metric)
    learn.recorder.train_metrics = True
    row = quietly(learn).epochs[0]
    name = next(iter(learn.metrics))
    return row[f"train_{name}"], row[name]


def test_training_metrics_take_several_outputs():
    both = lambda pred: (pred, pred)  # noqa: E731
    trained, validated = training_and_validation_accuracy(both, lambda p: p[0], lambda p, y: accuracy(p[0], y))
    assert trained == validated


def test_training_metrics_take_outputs_without_a_batch_axis():
    trained, validated = training_and_validation_accuracy(torch.squeeze, lambda pred: pred, accuracy)
    assert trained == validated


def test_classes_may_be_the_last_dimension_if_the_loss_takes_them_so():
    x, y = torch.randn(8, 3, 5), torch.arange(24).reshape(8, 3) % 4  # 8 sequences of 3
    batches = list(zip(x.split(4), y.split(4), strict=True))
    loss = lambda pred, y: nn.functional.cross_entropy(pred.flatten(0, 1), y.flatten())  # noqa: E731
    learn = Learner((batches, batches), nn.Linear(5, 4), loss, lr=0.0, metrics=accuracy)
    row = quietly(learn).epochs[0]
    assert row["accuracy"] == pytest.approx(float((learn.model(x).argmax(-1) == y).float().mean()))


def test_a_metric_that_computes_no_number_is_refused(learner):
    class Pair:
        def reset(self): ...
        def update(self, pred, y): ...
        def compute(self):
            return [1, 2]

    with pytest.raises(TypeError, match="the metric 'pair' must compute one number"):
        quietly(learner(metrics=Pair()))


def test_weight_decay_and_rate_of_one_call_do_not_stay(learner):
    learn = learner()
    quietly(learn, lr=0.5, wd=0.3)
    assert {group["lr"] for group in learn.optimizer.param_groups} == {0.01}
    assert {group["weight_decay"] for group in learn.optimizer.param_groups} == {0.01, 0.0}


def test_bf16_computes_in_bf16_and_gives_fp32(learner):
    seen = []

    class Watch(Callback):
        def after_pred(self, run):
            seen.append(run.pred.dtype)

    learn = learner(precision="bf16")
    learn.model[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    quietly(learn, cbs=Watch())
    assert {torch.bfloat16, torch.float32} == set(seen)
    assert learn.get_preds().preds.dtype == torch.float32


def test_an_unknown_precision_is_refused_and_the_nearest_offered(learner):
    with pytest.raises(ValueError, match="Did you mean 'bf16'"):
        learner(precision="bf61")


def test_freezing_leaves_the_last_group_and_the_norms_to_learn(learner):
    learn = learner(splitter=lambda m: [[*m[0].parameters(), *m[1].parameters()], list(m[4].parameters())])
    learn.freeze()
    assert [p.requires_grad for p in learn.model.parameters()] == [False, False, True, True, True, True]
    learn.unfreeze()
    assert all(p.requires_grad for p in learn.model.parameters())


def test_no_splitter_is_one_layer_group(learner):
    learn = learner(splitter=None)
    quietly(learn)
    assert {group["layer_group"] for group in learn.optimizer.param_groups} == {0}


def test_fine_tune_has_fastais_two_phases(learner):
    learn = learner(splitter=lambda m: [list(m[0].parameters()), list(m[1].parameters()), list(m[4].parameters())])
    with learn.no_logging():
        learn.fine_tune(2)
    first, second = learn.recorder.runs
    np.testing.assert_allclose(second.steps["lr"], [2e-4, 4e-4, 8e-4, 1e-3, 9.50485e-4, 8.11747e-4, 6.11264e-4,
                                                    3.88746e-4, 1.88263e-4, 4.95251e-5], rtol=1e-5)  # fmt: skip
    assert (first.settings["lr"], second.settings["lr"]) == (
        pytest.approx([2e-4, 2e-4, 2e-3]),
        pytest.approx([1e-5, 1e-4, 1e-3]),
    )
    assert first.steps["lr"][0] == pytest.approx(2e-3 / 25)


@pytest.mark.parametrize(
    ("options", "n_epochs"), [({"freeze_epochs": 0}, [2]), ({"start_epoch": 1}, [1]), ({"reset_opt": True}, [1, 2])]
)
def test_fine_tune_leaves_out_a_phase_without_epochs(learner, options, n_epochs):
    learn = learner(splitter=lambda m: [[*m[0].parameters(), *m[1].parameters()], list(m[4].parameters())])
    with learn.no_logging():
        learn.fine_tune(2, **options)
    assert [len(run.epochs) for run in learn.recorder.runs] == n_epochs
    assert all(p.requires_grad for p in learn.model.parameters())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pct_start": 3}, ValueError, "`pct_start` must be .* Received: pct_start=3"),
        ({"div": 0}, ValueError, "`div` must be positive .* Received: div=0"),
        ({"div_final": 0}, ValueError, "`div_final` must be positive"),
        ({"lr_mult": 0}, ValueError, "`lr_mult` must be positive .* Received: lr_mult=0"),
        ({"lr_mult": -3}, ValueError, "`lr_mult` must be positive"),
        ({"base_lr": -1}, ValueError, "`base_lr` must be positive .* Received: base_lr=-1"),
        ({"base_lr": "x"}, TypeError, "`base_lr` must be a number. Received: base_lr='x'"),
        ({"base_lr": slice(1e-3)}, TypeError, "`base_lr` must be a number"),
        ({"wd": -1}, ValueError, "`wd` must be finite"),
        ({"moms": (1, 2)}, ValueError, r"`moms` must be three momenta in \[0, 1\).* Received: moms=\(1, 2\)"),
        ({"cbs": EarlyStopping("nope")}, ValueError, "Received: monitor='nope'"),
    ],
)
def test_what_fine_tune_cannot_do_is_refused_before_anything_is_frozen(learner, options, error, message):
    learn = learner(splitter=lambda m: [[*m[0].parameters(), *m[1].parameters()], list(m[4].parameters())])
    quietly(learn)
    weights, optimizer = [p.clone() for p in learn.model.parameters()], learn.optimizer
    with pytest.raises(error, match=message), learn.no_logging():
        learn.fine_tune(1, **options)
    assert all(p.requires_grad for p in learn.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, learn.model.parameters()))
    assert learn.optimizer is optimizer and len(learn.recorder.runs) == 1


def test_an_argument_of_another_library_is_refused_with_our_name_for_it(learner, net):
    with pytest.raises(TypeError, match=r"Received: CrossEntropyLoss. Write CrossEntropyLoss\(\)"):
        learner(loss_func=nn.CrossEntropyLoss)
    with pytest.raises(TypeError, match=r"`model` must be a torch module. Received: make_one, which .*make_one\(...\)"):
        learner(model=make_one)
    learn = learner()
    with learn.no_logging(), pytest.raises(TypeError, match="a whole sweep. Give its `recommended` or `valley`"):
        learn.fit_one_cycle(1, learn.lr_find(show_plot=False, num_it=20))


def make_one():
    return nn.Linear(2, 3)


def test_predict_reports_an_output_without_a_class(learner):
    model = nn.Linear(2, 5)
    nn.init.constant_(model.bias, 0)
    model.bias.data[4] = 1e6
    with pytest.raises(DataError, match="class number 4 has no name: there are 3 classes, 0 to 2"):
        learner(model=model).predict(torch.zeros(2))


def three_arguments(pred, target, weight):
    return pred.mean()


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (three_arguments, r"the metric 'three_arguments' fails: .*'weight'.* takes \(pred, target\)"),
        (partial(top_k_accuracy, k=9), "the metric 'top_k_accuracy' fails: `k` must be between"),
        (lambda pred, target: pred, "must return one number"),
        (lambda pred, target: "good", "fails: .*returns one number"),
    ],
)
def test_metrics_that_cannot_work_are_refused_before_training(learner, metric, message):
    learn = learner(metrics=metric)
    with pytest.raises(DataError, match=message):
        learn.fit(1)
    assert learn.recorder.runs == [] and learn.model.training


def test_metric_functions_are_tried_on_a_whole_batch_and_objects_are_not(learner):
    def two_classes(pred, target):
        assert len(target) > 2 and len(target.unique()) > 1
        return 1.0

    class NeedsMoreThanTwo(torchmetrics.MeanMetric):
        def update(self, pred, target):
            assert len(target) > 2
            super().update(1.0)

    quietly(learner(metrics=[two_classes, NeedsMoreThanTwo()]))


def lone(n, bs, *modules):
    x, y = torch.randn(n, 3, 4, 4), torch.arange(n) % 2
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=bs, drop_last=False, device="cpu")
    return Learner(dls, nn.Sequential(nn.Conv2d(3, 4, 1), *modules), device="cpu")


@pytest.mark.parametrize(("n", "bs"), [(34, 11), (4, 1)])
def test_a_single_last_item_that_batch_norm_cannot_take_is_refused_before_training(n, bs):
    learn = lone(n, bs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"single item, and batch norm \('3' in the model\).*`bs`.*drop_last=True"):
        learn.fit(1)
    assert learn.recorder.runs == [] and not learn.model[3]._forward_pre_hooks


def test_a_single_last_item_is_enough_if_each_channel_has_several_values():
    pixels = lone(34, 11, nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert len(quietly(pixels).steps) == 4
    full = lone(33, 11, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert len(quietly(full).steps) == 3


def test_summary_lists_the_layers_and_the_settings_of_training(learner):
    text = str(learner(model=MLP((2, 16, 3))).summary())
    assert "Parameters: 99 (99 trainable" in text
    assert "optimizer: AdamW" in text
    assert "precision: fp32\ndevice: cpu" in text


def test_the_table_of_epochs_goes_to_a_log_without_control_characters(learner, capsys):
    learner().fit(2)
    out, err = capsys.readouterr()
    header, *rows = out.splitlines()
    assert header.split() == ["epoch", "train_loss", "valid_loss", "accuracy", "time"]
    assert [row.split()[0] for row in rows] == ["1/2", "2/2"]
    assert len({len(line) for line in out.splitlines()}) == 1
    assert err == "" and "\r" not in out and "\x1b" not in out


def test_no_logging_prints_nothing_and_is_undone(learner, capsys):
    learn = learner()
    quietly(learn)
    assert capsys.readouterr() == ("", "")
    with learn.no_bar():
        learn.fit(1)
    assert "epoch" in capsys.readouterr().out


def test_callbacks_are_added_and_removed(learner):
    class Mine(Callback):
        pass

    learn = learner()
    learn.add_cbs([Mine(), Callback()])
    learn.remove_cb(Mine)
    assert [type(cb) for cb in learn.cbs] == [Callback]
    with pytest.raises(ValueError, match="has no callback"):
        learn.remove_cb(Mine)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda learn: learn.fit(0), ValueError, "`n_epoch` must be at least 1. Received: n_epoch=0"),
        (lambda learn: learn.fit(1.5), TypeError, "`n_epoch` must be a whole number"),
        (lambda learn: learn.fit(1, lr=-1), ValueError, "`lr` must be finite and not negative. Received: lr=-1"),
        (lambda learn: learn.fit(1, wd=-1), ValueError, "`wd` must be finite and not negative"),
        (lambda learn: learn.fit(1, cbs=[print]), TypeError, "`cbs` must be callbacks"),
        (lambda learn: learn.fit(1, learning_rate=1), TypeError, "learning_rate"),
        (lambda learn: learn.fit_one_cycle(0), ValueError, "`n_epoch` must be at least 1"),
        (lambda learn: learn.fit_one_cycle(1, -1e-3), ValueError, "`lr_max` must be finite and not negative"),
        (lambda learn: learn.fit_one_cycle(1, 1e-3, pct_start=2), ValueError, "`pct_start`"),
        (lambda learn: learn.lr_find(suggest_funcs="valley"), TypeError, "takes functions: .* Received: 'valley'"),
        (lambda learn: learn.fine_tune(1, freeze_epochs=-1), ValueError, "`freeze_epochs` must be at least 0"),
        (lambda learn: learn.fine_tune(1, start_epoch=1), ValueError, "`start_epoch` must be below `n_epoch`"),
        (
            lambda learn: learn.fine_tune(1, freeze_epochs=0, precompute=True),
            ValueError,
            "`precompute` serves the first phase",
        ),
        (lambda learn: learn.validate(3), ValueError, "`ds_idx` must be 0"),
        (lambda learn: learn.freeze_to(4), ValueError, "`n` must name one of the 1 layer groups"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_has_happened(learner, call, error, message):
    learn = learner()
    weights = [p.clone() for p in learn.model.parameters()]
    with pytest.raises(error, match=message):
        call(learn)
    assert learn.recorder.runs == []
    assert all(torch.equal(a, b) for a, b in zip(weights, learn.model.parameters()))


@pytest.mark.parametrize(
    ("x", "y", "model", "message"),
    [
        (torch.zeros(8, 2), torch.full((8,), 5), nn.Linear(2, 3), "labels must lie in 0 to 2.*from 5 to 5"),
        (torch.zeros(8, 2), torch.full((8,), -1), nn.Linear(2, 3), "labels must lie in 0 to 2.*from -1"),
        (torch.zeros(8, 7), torch.zeros(8).long(), nn.Linear(2, 3), r"cannot take a training batch of inputs \(8, 7\)"),
        (torch.zeros(8, 1, 20, 20), torch.zeros(8).long(), MiniGoogLeNet(3), "at least 28 x 28"),
        (torch.zeros(8, 3, 32, 32), torch.zeros(8).long(), MiniGoogLeNet(3), r"\(batch, 1, height, width\)"),
        (torch.full((8, 2), torch.nan), torch.zeros(8).long(), nn.Linear(2, 3), "NaN or infinite values"),
        (torch.zeros(8, 2), torch.zeros(8), nn.Linear(2, 3), "the loss cannot compare"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_trained_on_is_refused_before_training(x, y, model, message):
    learn = Learner(DataLoaders([(x, y)]), model, nn.CrossEntropyLoss(), device="cpu")
    weights = [p.clone() for p in model.parameters()]
    with pytest.raises(DataError, match=message):
        learn.fit(1)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters()))
    assert learn.recorder.runs == []


def a_loader(y, x=None, n=40):
    x = torch.zeros(n, 2) if x is None else x
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("split", ["training", "validation"])
def test_a_wrong_label_late_in_the_data_is_found_before_training(split, as_list):
    good, bad = torch.zeros(40).long(), torch.zeros(40).long()
    bad[33] = 7
    loaders = [a_loader(bad if name == split else good) for name in ("training", "validation")]
    if as_list:
        loaders = [list(loader) for loader in loaders]
    learn = Learner(DataLoaders(*loaders), nn.Linear(2, 3), device="cpu")
    with pytest.raises(DataError, match=f"labels must lie in 0 to 2.*the {split} data.*labels from 0 to 7"):
        learn.fit(1)
    assert learn.recorder.runs == []


def test_nan_late_in_a_tensor_dataset_is_found_before_training():
    x = torch.zeros(40, 2)
    x[35, 1] = float("nan")
    learn = Learner(DataLoaders(a_loader(torch.zeros(40).long(), x)), nn.Linear(2, 3), device="cpu")
    with pytest.raises(DataError, match="first in item 35 of the training data"):
        learn.fit(1)


def test_validation_images_of_another_shape_are_found_before_training():
    y = torch.zeros(40).long()
    learn = Learner(DataLoaders(a_loader(y), a_loader(y, torch.zeros(40, 5))), nn.Linear(2, 3), device="cpu")
    with pytest.raises(DataError, match=r"cannot take a validation batch of inputs \(8, 5\)"):
        learn.fit(1)


def test_a_broadcast_that_nobody_means_is_refused():
    learn = Learner(DataLoaders(a_loader(torch.zeros(40))), nn.Linear(2, 1), nn.MSELoss(), device="cpu")
    with pytest.raises(DataError, match=r"predictions \(8, 1\) float32 with targets \(8\,\) float32"):
        learn.fit(1)


def test_the_error_for_doubles_says_how_to_convert_them():
    learn = Learner(DataLoaders(a_loader(torch.zeros(40).long(), torch.zeros(40, 2).double())), nn.Linear(2, 3))
    with pytest.raises(DataError, match=r"convert the inputs with `x.float\(\)`"):
        learn.fit(1)


def test_integer_labels_of_any_loader_are_classes():
    learn = Learner(DataLoaders(a_loader(torch.arange(40) % 3), a_loader(torch.arange(40) % 3)), nn.Linear(2, 3))
    preds, _ = learn.get_preds()
    torch.testing.assert_close(preds.sum(1), torch.ones(40))
    assert ClassificationInterpretation.from_learner(learn).confusion_matrix().sum() == 40
    assert learn.predict(np.zeros(2, dtype=np.float32)).label in (0, 1, 2)


def test_a_model_that_was_replaced_is_the_one_that_learns(learner, net):
    learn = learner()
    quietly(learn)
    learn.model = net(seed=5)
    before = [p.clone() for p in learn.model.parameters()]
    quietly(learn)
    assert not any(torch.equal(a, b) for a, b in zip(before, learn.model.parameters()))


def test_the_row_of_an_epoch_that_a_callback_ends_the_run_in_is_written(learner):
    class StopAtOnce(Callback):
        def after_epoch(self, run):
            assert run.metrics["valid_loss"] == run.record.epochs[-1]["valid_loss"]
            raise CancelFit

    assert len(quietly(learner(), 3, cbs=StopAtOnce()).epochs) == 1


def test_a_cancelled_batch_is_not_recorded(learner):
    class Skips(Callback):
        def before_batch(self, run):
            if run.iter == 1:
                raise CancelBatch

    learn = learner()
    record = quietly(learn, cbs=Skips())
    assert len(record.steps) == len(learn.dls.train) - 1


def test_predicting_does_not_move_a_datasets_own_generator(net):
    class Noisy(torch.utils.data.Dataset):
        def __init__(self):
            self.rng = np.random.default_rng(0)

        def __len__(self):
            return 32

        def __getitem__(self, i):
            return self.rng.normal(size=2).astype(np.float32), i % 3

    def losses(ask):
        learn = Learner(DataLoaders(Noisy(), bs=8, seed=0), net(), device="cpu", seed=1)
        quietly(learn)
        if ask:
            learn.validate(0), learn.get_preds(0)
        return quietly(learn).steps["loss"]

    np.testing.assert_array_equal(losses(True), losses(False))


def test_a_model_that_is_frozen_whole_is_refused(learner):
    learn = learner()
    learn.model.requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        learn.fit(1)


def test_too_few_outputs_for_the_classes_are_refused_though_the_first_batch_would_do():
    x, y = torch.zeros(64, 2), torch.arange(64) // 16
    dls = DataLoaders.from_arrays((x, y), bs=4, seed=0)
    with pytest.raises(
        DataError,
        match="0 to 1, since the model has 2 outputs. Received, in the first training batch: labels from . to 3",
    ):
        Learner(dls, nn.Linear(2, 2)).fit(1)


def test_a_loss_that_is_no_number_is_refused(learner):
    with pytest.raises(DataError, match="`loss_func` must return one number"):
        quietly(learner(loss_func=nn.CrossEntropyLoss(reduction="none")))


def test_what_is_no_module_is_refused(learner):
    with pytest.raises(TypeError, match="`model` must be a torch module. Received: MLP, which makes one: write MLP"):
        Learner(learner().dls, MLP)


def test_loaders_without_a_target_need_a_loss():
    with pytest.raises(ValueError, match="`loss_func` is needed"):
        Learner(DataLoaders([(torch.zeros(2, 2), torch.zeros(2))]), nn.Linear(2, 1))


def test_a_seed_decides_dropout(learner):
    torch.manual_seed(0)
    first = quietly(learner(seed=3)).steps["loss"]
    torch.rand(5)
    np.testing.assert_array_equal(quietly(learner(seed=3)).steps["loss"], first)


def test_learners_on_the_same_loaders_train_as_if_each_were_alone(net, blobs):
    def losses(dls, n_learners, turns):
        models = [net()[0] for _ in range(n_learners)]  # the dropout of a whole net draws from torch's generator
        learns = [Learner(dls, model, nn.CrossEntropyLoss(), lr=0.01, device="cpu", seed=5) for model in models]
        for number in turns:
            quietly(learns[number])
        return [learn.recorder.losses.tolist() for learn in learns]

    def arrays():
        return DataLoaders.from_arrays(*blobs, bs=16, seed=1)

    def dataset():
        return DataLoaders(TensorDataset(*map(torch.as_tensor, blobs[0])), bs=16, seed=1)

    def generator():
        rng = torch.Generator().manual_seed(3)
        return DataLoaders(
            DataLoader(TensorDataset(*map(torch.as_tensor, blobs[0])), batch_size=16, shuffle=True, generator=rng)
        )

    for make in (arrays, dataset, generator):
        (alone,) = losses(make(), 1, [0, 0])
        assert losses(make(), 2, [0, 1, 0, 1]) == losses(make(), 2, [0, 0, 1, 1]) == [alone, alone]


def test_loaders_go_on_where_they_stand_for_their_first_learner_and_in_a_copy(net, blobs):
    dls = DataLoaders.from_arrays(*blobs, bs=16, seed=1)
    list(dls.train)
    learn = Learner(dls, net()[0], nn.CrossEntropyLoss(), device="cpu")
    quietly(learn)
    again = deepcopy(learn)
    quietly(learn), quietly(again)
    assert learn.dls is dls
    assert dls.train.epoch == again.dls.train.epoch == 3
    assert learn.recorder.losses.tolist() == again.recorder.losses.tolist()


def test_freezing_nothing_is_refused(learner):
    for call in (Learner.freeze, lambda learn: learn.freeze_to(-1)):
        with pytest.raises(ValueError, match="the model is one layer group. Received: n=-1. .*learner's `splitter="):
            call(learner(splitter=None))
    norms_first = learner(splitter=lambda m: [[*m[1].parameters()], [*m[0].parameters(), *m[4].parameters()]])
    with pytest.raises(ValueError, match="the first layer groups hold only norm layers"):
        norms_first.freeze()
    learner(splitter=None).freeze_to(0)


def test_fine_tune_says_that_it_freezes_nothing(learner, capsys):
    learn = learner(splitter=None)
    with learn.no_bar():
        learn.fine_tune(1)
    assert "fine_tune freezes no layers, because the learner has one layer group" in capsys.readouterr().err
    assert len(learn.recorder.runs) == 2


@pytest.mark.slow
def test_a_seed_after_an_unseeded_model_is_said_once_a_process():
    script = (
        "import torch\n"
        "from minilearner import MLP, DataLoaders, Learner, set_seed\n"
        "dls = DataLoaders.from_arrays((torch.rand(32, 4), torch.arange(32) % 2), bs=8)\n"
        "{}\n"
        "for seed in (3, 4):\n"
        "    Learner(dls, MLP((4, 2)), seed=seed)\n"
    )
    said = [
        subprocess.run([sys.executable, "-c", script.format(before)], capture_output=True, text=True, check=True).stderr
        for before in ("", "set_seed(3)", "torch.manual_seed(3)")
    ]
    assert said[0].count("\n") == 1 and "seed=3 comes after the model was built" in said[0]
    assert "Call set_seed(3) before you build the model." in said[0]
    assert said[1:] == ["", ""]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            MLP((784, 3)),
            r"This MLP takes 784 numbers per item\. Received: shape \(8, 3, 8, 8\), 192 numbers per item\.",
        ),
        (MiniGoogLeNet(3), r"MiniGoogLeNet takes images .* 28 x 28 pixels\. Received: shape \(8, 3, 8, 8\)\."),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), r"a linear layer in it takes 9 features\. Received: 192\."),
        (nn.Conv2d(1, 3, 3), r"a convolution in it takes 1 channel\. Received: 3\."),
        (nn.Conv2d(3, 3, 9), r"a convolution in it takes at least 9 x 9 pixels\. Received: 8 x 8\."),
        (nn.BatchNorm2d(4), r"a batch norm in it takes 4 channels\. Received: 3\."),
    ],
)
def test_a_model_that_does_not_fit_the_images_says_both_shapes_and_nothing_else(model, message):
    dls = DataLoaders.from_arrays((torch.rand(16, 3, 8, 8), torch.arange(16) % 3), bs=8)
    with pytest.raises(DataError, match=rf"^the model cannot take a training batch.*: {message}$") as raised:
        Learner(dls, model).fit(1)
    assert str(raised.value).count("(8, 3, 8, 8)") == 1


def test_the_latest_sweep_is_drawn_again(learner):
    learn = learner()
    with learn.no_logging():
        sweep = learn.lr_find(num_it=20, show_plot=False)
    assert learn.recorder.sweep is sweep and len(sweep) == 1 and sweep[0] == sweep.valley and sweep
    drawn, again = (figure.axes[0].lines[0].get_ydata() for figure in (sweep.plot(), learn.recorder.plot_lr_find()))
    np.testing.assert_array_equal(drawn, again)
