"""A rate that is "auto" is found by a sweep and printed, and training is otherwise the same."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from minilearner import Callback, CyclicLR, DataLoaders, GradientAccumulation, GradientClip, Learner, MixUp
from minilearner.errors import CheckpointError, FileFormatError, NoSuggestion
from minilearner.fitting.rates import UPDATES_PER_SWEPT_STEP, _digest, compute_ratios, take_recommendation
from minilearner.lr_finder.result import LRSweep


@pytest.fixture
def make(net, blobs):
    def learner(**kwargs):
        return Learner(DataLoaders.from_arrays(*blobs, bs=16, seed=3), net(), **kwargs)

    return learner


def layers(model):
    return [list(model[:2].parameters()), list(model[2:].parameters())]


def weights(learn):
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


def trained(learn, fit):
    torch.manual_seed(5)
    with learn.no_logging():
        record = fit(learn)
    return weights(learn), record


@pytest.mark.parametrize("kind", ["fit", "fit_one_cycle", "fit_flat_cos"])
def test_auto_trains_with_what_the_sweep_recommends_to_the_bit(make, kind):
    found, record = trained(make(), lambda learn: getattr(learn, kind)(2, "auto"))
    given, _ = trained(make(), lambda learn: getattr(learn, kind)(2, record.sweep.recommended))
    assert torch.equal(found, given)
    assert 1e-3 < record.sweep.recommended < 1


def test_one_cycle_sweeps_with_its_own_peak_momentum_and_fit_with_the_optimizers(make):
    _, record = trained(make(), lambda learn: learn.fit_one_cycle(1, "auto", moms=(0.9, 0.7, 0.9)))
    assert record.sweep.settings["momentum"] == 0.7
    assert trained(make(), lambda learn: learn.fit(1, "auto"))[1].sweep.settings["momentum"] is None


def test_a_learner_whose_rate_is_auto_finds_it_for_each_run(make):
    learn = make(lr="auto")
    with learn.no_logging():
        first, second = learn.fit(1), learn.fit_sgdr(1, 1)
        assert learn.lr_find(show_plot=False).settings["ratios"] == [1.0]
    assert not math.isnan(first.sweep.recommended) and first.sweep is not second.sweep


def test_it_is_printed_with_the_reason_and_kept_in_the_recorder(make, capsys, tmp_path):
    learn = make()
    with learn.no_bar():
        record = learn.fit_one_cycle(1, "auto")
    assert (
        f"learning rate {record.sweep.recommended:.2e}, after 48 steps: {record.sweep.reason}\n"
        in capsys.readouterr().out
    )
    assert record.settings["lr"] == record.sweep.recommended
    assert record.settings["found"]["reason"] == record.sweep.reason and record.settings["found"]["num_it"] == 48
    assert record.settings["found"]["n_steps"] == len(record.sweep.lrs)
    saved = json.loads(learn.recorder.to_json(tmp_path / "runs.json").read_text())
    assert saved["runs"][0]["settings"]["found"]["recommended"] == record.sweep.recommended


def test_a_run_with_a_given_rate_has_no_sweep(make):
    _, record = trained(make(), lambda learn: learn.fit(1, 0.01))
    assert record.sweep is None and "found" not in record.settings


def test_layer_groups_keep_their_ratios(make):
    _, record = trained(make(lr=slice(1e-4, 1e-2), splitter=layers), lambda learn: learn.fit(1, "auto"))
    assert record.settings["lr"] == pytest.approx([0.01 * record.sweep.recommended, record.sweep.recommended])


@pytest.mark.parametrize("how", [{"splitter": layers}, {"wd_bn_bias": True}])
def test_a_runs_own_weight_decay_is_swept_with_and_gone_afterwards(make, how):
    seen, learn = [], make(**how)

    class Watches(Callback):
        part_of_step = True

        def before_step(self, run):
            seen.append({group["weight_decay"] for group in run.optimizer.param_groups})

    learn.add_cb(Watches())
    with learn.no_logging():
        record = learn.fit(1, "auto", wd=0.3)
    assert all(decays == ({0.3} if "wd_bn_bias" in how else {0.0, 0.3}) for decays in seen) and len(seen) > 40
    assert record.sweep.settings["wd"] == 0.3
    assert 0.3 not in {group["weight_decay"] for group in learn.optimizer.param_groups}


def test_a_bad_weight_decay_is_refused_before_the_sweep(make):
    with pytest.raises(ValueError, match="`wd` must be finite and not negative. Received: wd=-1"):
        make(cbs=Callback()).fine_tune(1, "auto", wd=-1)


def test_fine_tune_sweeps_for_each_of_its_phases_if_they_are_long(make):
    learn = make(splitter=layers)
    with learn.no_logging():
        learn.fine_tune(_worth_a_sweep(learn), "auto", lr_mult=10)
    head, whole = learn.recorder.runs
    assert head.sweep.settings["ratios"] == [0.1, 1.0] and whole.sweep.settings["ratios"] == pytest.approx([0.1, 1.0])
    assert whole.settings["lr"][0] == pytest.approx(whole.settings["lr"][1] / 10)
    assert all(p.requires_grad for p in learn.model.parameters())


@pytest.mark.parametrize("how", [{}, {"start_epoch": 1, "freeze_epochs": 2}, {"cbs": GradientAccumulation(2)}])
def test_a_free_phase_that_is_too_short_for_a_sweep_takes_half_of_the_frozen_rate(make, capsys, how):
    learn = make(splitter=layers)
    epochs = _worth_a_sweep(learn) if how else _worth_a_sweep(learn) - 1
    with learn.no_bar():
        learn.fine_tune(epochs, "auto", lr_mult=10, **how)
    head, whole = learn.recorder.runs
    rate = head.sweep.recommended / 2
    assert whole.sweep is None and whole.settings["lr"] == pytest.approx([rate / 10, rate])
    n_updates = -(-len(learn.dls.train) // (2 if "cbs" in how else 1)) * (epochs - how.get("start_epoch", 0))
    assert (
        f"learning rate {rate:.2e}, half of the frozen phase's: a sweep of up to 48 steps costs too much for "
        f"{n_updates} updates\n" in capsys.readouterr().out
    )


def test_a_free_phase_without_a_frozen_one_sweeps(make):
    learn = make(splitter=layers)
    with learn.no_logging():
        assert learn.fine_tune(1, "auto", freeze_epochs=0).sweep is not None


def test_a_free_phase_that_has_swept_goes_on_with_that_rate(make, tmp_path):
    def tune():
        return trained(make(splitter=layers), lambda learn: learn.fine_tune(1, "auto", checkpoint=tmp_path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minilearner.fitting.rates.UPDATES_PER_SWEPT_STEP", 0)  # as earlier versions did
        swept, record = tune()
    again, resumed = tune()
    assert torch.equal(swept, again) and resumed.sweep.recommended == record.sweep.recommended


@pytest.mark.parametrize("extend", [False, True])
def test_a_refused_call_for_a_longer_free_phase_leaves_the_folder_of_the_shorter_one_as_it_was(make, tmp_path, extend):
    def tune(epochs, **how):
        return trained(make(splitter=layers), lambda learn: learn.fine_tune(epochs, "auto", checkpoint=tmp_path, **how))

    expected, _ = tune(1)
    with pytest.raises(CheckpointError, match="holds another run"):
        tune(_worth_a_sweep(make()), extend=extend)
    again, record = tune(1)
    assert torch.equal(again, expected) and record.sweep is None


def _worth_a_sweep(learn):
    """Returns the fewest epochs of a phase that sweeps."""
    return -(-48 * UPDATES_PER_SWEPT_STEP // len(learn.dls.train))


def test_without_a_fall_the_learners_rate_is_taken_and_this_is_printed(make, capsys):
    learn = make(loss_func=lambda pred, y: pred.sum() * 0 + 2.0, lr=0.02)
    with learn.no_bar():
        record = learn.fit(1, "auto")
    assert record.settings["lr"] == 0.02 and math.isnan(record.settings["found"]["recommended"])
    assert (
        "no learning rate was found in 48 steps, so 2.00e-02 is taken: the loss did not fall" in capsys.readouterr().out
    )


def test_if_the_loss_only_rose_the_rate_stays_well_below():
    lrs = np.logspace(-7, 1, 100)
    sweep = LRSweep.from_curve(lrs, 2 + 0.01 * np.sin(np.arange(100) * 1.7) + np.maximum(np.log10(lrs) + 5, 0))
    (lr,) = take_recommendation(sweep, [1.0], otherwise=1e-3, verbose=False)
    assert lr == sweep.turns["rise"] / 4 < 1e-4


@pytest.mark.parametrize(
    ("lr", "ratios"), [(0.1, [1, 1]), ("auto", [1, 1]), (slice(1e-3, 1e-1), [0.01, 1]), ([1, 0], [1, 1])]
)
def test_ratios_are_to_the_last_group(lr, ratios):
    assert compute_ratios(lr, 2) == pytest.approx(ratios)


def test_a_bad_number_of_epochs_is_refused_before_the_sweep(make):
    with pytest.raises(ValueError, match="`n_epoch` must be at least 1. Received: n_epoch=0"):
        make(loss_func=lambda pred, y: pytest.fail("swept")).fit_one_cycle(0, "auto")


@pytest.mark.parametrize("word", ["Auto", "fast"])
def test_another_word_is_refused(make, word):
    with pytest.raises(TypeError, match="`lr` must be a number"):
        make().fit(1, word)
    with pytest.raises(TypeError, match="`lr` must be a number"):
        make(lr=word)


def test_cyclical_bounds_come_from_one_sweep_for_each_run(make, capsys):
    learn, cycle = make(), CyclicLR(base_lr="auto", max_lr="auto", step_size=5)
    with learn.no_bar():
        record = learn.fit(2, cbs=cycle)
    assert (cycle.base_lr, cycle.max_lr) == record.sweep.bounds
    assert record.steps["lr"].min() == cycle.base_lr and record.steps["lr"].max() == pytest.approx(cycle.max_lr)
    assert record.settings["found"]["bounds"] == record.sweep.bounds
    assert f"{cycle!r}: {record.sweep.reason}" in capsys.readouterr().out
    with learn.no_logging():
        again = learn.fit(1, cbs=cycle)
    assert again.sweep is not record.sweep
    assert (cycle.base_lr, cycle.max_lr) == (again.sweep.bounds or record.sweep.bounds)


def test_one_bound_may_be_auto(make):
    top = CyclicLR("auto", step_size=5)
    _, record = trained(make(), lambda learn: learn.fit(1, cbs=top))
    assert (top.base_lr, top.max_lr) == (record.sweep.bounds[1] / 4, record.sweep.bounds[1])
    bottom = CyclicLR(0.5, "auto", step_size=5)
    _, record = trained(make(), lambda learn: learn.fit(1, cbs=bottom))
    assert (bottom.base_lr, bottom.max_lr) == (record.sweep.bounds[0], 0.5)


def test_without_a_fall_there_are_no_bounds(make):
    learn = make(loss_func=lambda pred, y: pred.sum() * 0 + 2.0)
    with learn.no_logging(), pytest.raises(NoSuggestion, match="no bounds for CyclicLR: the loss did not fall"):
        learn.fit(1, cbs=CyclicLR("auto", step_size=5))
    assert learn.recorder.runs == []


def test_callbacks_of_the_call_that_belong_to_the_step_take_part_in_the_sweep(make):
    learn = make(splitter=layers, cbs=GradientClip(0.5))
    learn.freeze()
    before = learn.model[0].weight.detach().clone()
    _, record = trained(learn, lambda learn: learn.fit_one_cycle(1, "auto", cbs=[GradientAccumulation(2), MixUp()]))
    assert np.isfinite(record.sweep.fixed[8:]).all() and not math.isnan(record.sweep.recommended)
    assert torch.equal(learn.model[0].weight, before)


def test_accumulation_given_with_the_call_is_swept_with(make):
    seen = []

    class Watches(Callback):
        part_of_step = True

        def before_step(self, run):
            seen.append(run.step.n_accumulate)

    trained(make(), lambda learn: learn.fit(1, "auto", cbs=[GradientAccumulation(2), Watches()]))
    assert len(seen) == 51 and set(seen) == {2}  # 48 updates of the sweep, 3 of the epoch


def test_a_resumed_run_takes_the_rate_that_was_found(make, tmp_path):
    class Breaks(Callback):
        broken = False

        def after_epoch(self, run):
            if run.epoch == 1 and not Breaks.broken:
                Breaks.broken = True
                raise RuntimeError("power cut")

    def fit(learn, folder):
        return learn.fit_one_cycle(3, "auto", cbs=Breaks(), checkpoint=folder)

    with pytest.raises(RuntimeError, match="power cut"):
        trained(make(), lambda learn: fit(learn, tmp_path / "broken"))
    resumed, record = trained(make(), lambda learn: fit(learn, tmp_path / "broken"))
    whole, _ = trained(make(), lambda learn: fit(learn, tmp_path / "whole"))
    assert torch.equal(resumed, whole)
    assert record.sweep.recommended == LRSweep.from_json(tmp_path / "broken" / "sweep.json").recommended


class StopsFirst(Callback):
    """Ends the run after its sweep, before its first checkpoint."""

    def before_fit(self, run):
        raise RuntimeError("power cut")


def keep_a_sweep(learn, folder, **options):
    with learn.no_logging(), pytest.raises(RuntimeError, match="power cut"):
        learn.fit(1, "auto", cbs=StopsFirst(), checkpoint=folder, **options)
    return LRSweep.from_json(folder / "sweep.json")


def test_a_sweep_that_stands_in_the_folder_is_not_made_again(make, tmp_path):
    found = keep_a_sweep(make(), tmp_path)
    text = (tmp_path / "sweep.json").read_text()
    _, record = trained(make(), lambda learn: learn.fit(1, "auto", checkpoint=tmp_path))
    assert record.settings["lr"] == found.recommended and (tmp_path / "sweep.json").read_text() == text


@pytest.mark.parametrize(
    ("change", "call", "message"),
    [
        ({"loss_func": nn.CrossEntropyLoss(label_smoothing=0.1)}, {}, "label_smoothing"),
        ({"opt_func": torch.optim.SGD}, {}, "optimizer: saved 'AdamW', now 'SGD'"),
        ({"wd": 0.3}, {}, "weight_decay"),
        ({}, {"wd": 0.3}, "wd: saved None, now 0.3"),
        ({"cbs": GradientClip(0.5)}, {}, "callbacks"),
        ({"lr": slice(1e-4, 1e-2), "splitter": layers}, {}, "ratios"),
    ],
)
def test_the_sweep_of_another_run_is_refused_with_the_differences(make, tmp_path, change, call, message):
    keep_a_sweep(make(), tmp_path)
    learn = make(**change)
    before = weights(learn)
    with learn.no_logging(), pytest.raises(CheckpointError, match=rf"(?s)is the sweep of another run:.*{message}"):
        learn.fit(1, "auto", checkpoint=tmp_path, **call)
    assert torch.equal(weights(learn), before) and learn.recorder.runs == []


def test_the_sweep_of_another_model_or_other_data_is_refused(make, blobs, tmp_path):
    keep_a_sweep(make(), tmp_path)
    x, y = blobs[0]
    other = Learner(DataLoaders.from_arrays((x, y), bs=16, seed=3), nn.Linear(x.shape[1], 3))
    with other.no_logging(), pytest.raises(CheckpointError, match=r"(?s)another run:.*model: saved 'Sequential', now"):
        other.fit(1, "auto", checkpoint=tmp_path)


def test_a_sweep_of_an_earlier_version_counts_only_beside_a_checkpoint(make, tmp_path):
    path = tmp_path / "run" / "sweep.json"
    path.parent.mkdir()
    foreign = make().lr_find(show_plot=False, end_lr=1e-3)
    foreign.to_json(path)
    _, first = trained(make(), lambda learn: learn.fit(1, "auto", checkpoint=path.parent))
    assert first.settings["lr"] != foreign.recommended
    LRSweep.from_json(path).to_json(path)  # without the identity, as earlier versions wrote it
    _, again = trained(make(), lambda learn: learn.fit(1, "auto", checkpoint=path.parent))
    assert again.settings["lr"] == first.settings["lr"]


def test_a_second_process_is_refused_before_it_sweeps(make, tmp_path, monkeypatch):
    monkeypatch.setattr("minilearner.fitting.rates.sweep_rates", lambda *_, **__: pytest.fail("swept"))
    code = "import sys; from minilearner.saving.checkpoint_folder import CheckpointFolder as F\n"
    code += "with F(sys.argv[1]).hold(): print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match="another process uses"):
            make().fit(1, "auto", checkpoint=tmp_path)
        other.stdin.close()


def change_each(tree, values):
    """Yields copies of a tree of JSON, each with one part replaced by one of the values, or left out."""
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, part in list(parts)[:40]:
        for value in values:
            yield type(tree)({**tree, key: value}) if isinstance(tree, dict) else [*tree[:key], value, *tree[key + 1 :]]
        if isinstance(tree, dict):
            yield {name: other for name, other in tree.items() if name != key}
        for changed in change_each(part, values):
            yield {**tree, key: changed} if isinstance(tree, dict) else [*tree[:key], changed, *tree[key + 1 :]]


def test_a_kept_sweep_that_lies_is_refused_by_name_or_holds_rates(make, tmp_path):
    path = tmp_path / "sweep.json"
    sweep = LRSweep.from_curve(np.logspace(-6, 0, 12), np.linspace(2, 1, 12), skip_end=0)
    sweep.to_json(path)
    n_refused = 0
    for changed in change_each(
        json.loads(path.read_text()), [None, -1, 1 << 1100, "nan", "inf", [], {}, "x", True, [[1]]]
    ):
        path.write_text(json.dumps(changed))
        try:
            found = LRSweep.from_json(path)
        except FileFormatError as error:
            assert str(path) in str(error)
            n_refused += 1
            continue
        rates = [found.recommended, *found.suggestions.values(), *found.turns.values(), *(found.bounds or ())]
        assert all(np.isnan(rate) or 0 < rate < np.inf for rate in rates)
        assert len(found.lrs) == len(found.losses) and (found.lrs > 0).all()
        repr(found), found.summary()
    assert n_refused > 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b"9" * 10_000,
        b'{"recommended": 1e999}',
        b'{"recommended": NaN}',
        b"null",
    ],
)
def test_a_kept_sweep_that_is_no_json_of_ours_is_refused_by_name(make, tmp_path, content):
    (tmp_path / "sweep.json").write_bytes(content)
    with pytest.raises(FileFormatError, match="sweep.json"):
        make().fit(1, "auto", checkpoint=tmp_path)


@pytest.mark.parametrize("what", [os.mkfifo, os.mkdir])
def test_what_is_no_file_in_the_place_of_a_sweep_is_not_read(make, tmp_path, what):
    what(tmp_path / "sweep.json")
    with pytest.raises(FileFormatError, match="sweep.json is not a file"):
        make().fit(1, "auto", checkpoint=tmp_path)


@pytest.mark.parametrize(
    "value", [None, 1, "x", [], {}, {"dict": [["parts", {"dict": [["loss", 1]]}]]}, {"tuple": "x"}]
)
def test_an_identity_that_lies_is_refused(make, tmp_path, value):
    keep_a_sweep(make(), tmp_path)
    path = tmp_path / "sweep.json"
    content = {**json.loads(path.read_text()), "identity": value}
    del content["digest"]
    path.write_text(json.dumps({**content, "digest": _digest(content)}))
    with pytest.raises((FileFormatError, CheckpointError), match="sweep.json"):
        make().fit(1, "auto", checkpoint=tmp_path)


@pytest.mark.parametrize("change", [{"recommended": 0.5}, {"bounds": [0.1, 0.2]}, {"reason": "x"}, {"identity": None}])
def test_a_kept_sweep_that_was_changed_is_refused(make, tmp_path, change):
    keep_a_sweep(make(), tmp_path)
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FileFormatError, match=r"sweep.json was changed after it was written.*Remove the file"):
        make().fit(1, "auto", checkpoint=tmp_path)


def test_a_rate_that_a_sweep_did_not_find_is_refused_with_its_reason(make):
    sweep = LRSweep.from_curve([1e-3, 1e-2], [1.0, 2.0])
    learn = make()
    for call in (
        lambda lr: learn.fit(1, lr),
        lambda lr: learn.fit_one_cycle(1, lr_max=lr),
        lambda lr: learn.fit_one_cycle(1, lr_max=slice(lr / 10, lr)),
        lambda lr: learn.fit_flat_cos(1, lr),
        lambda lr: learn.fit_sgdr(1, 1, lr),
        lambda lr: learn.fine_tune(1, lr),
        lambda lr: CyclicLR(lr, step_size=3),
        lambda lr: Learner(learn.dls, learn.model, nn.MSELoss(), lr=lr),
    ):
        with pytest.raises(ValueError, match="The sweep found no rate: the sweep has only 1 of the 8"):
            call(sweep.recommended)
