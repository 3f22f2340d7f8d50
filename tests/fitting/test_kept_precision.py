"""A resumed run keeps what `precision="auto"` chose when it began."""

import json

import pytest
import torch
from torch import nn

from minilearner import Callback, DataLoaders, Learner
from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.errors import CheckpointError, FileFormatError
from minilearner.training.auto_precision import PrecisionChoice

FP32 = PrecisionChoice("fp32", False, "it was faster then")
BF16 = PrecisionChoice("bf16", True, "it is faster now")


class PowerCut(Exception):
    pass


class Breaks(Callback):
    """Ends a run as a crash does: before its first step, or after a step."""

    order = 200
    ignored_arguments = ("step",)

    def __init__(self, step=None):
        self.step = step

    def before_fit(self, run):
        if self.step == 0:
            raise PowerCut

    def after_batch(self, run):
        if run.training and run.global_step == self.step:
            raise PowerCut

    def __repr__(self):
        return "Breaks()"


def make(choice, precision="auto", n_classes=3):
    torch.manual_seed(0)
    x, y = torch.rand(24, 1, 8, 8), torch.arange(24) % 3
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, n_classes))
    splitter = lambda model: [list(model[0].parameters()), list(model[4].parameters())]  # noqa: E731
    dls = DataLoaders.from_arrays((x, y), (x[:6], y[:6]), bs=4, seed=1)
    learn = Learner(dls, model, precision=precision, device="cpu", seed=0, splitter=splitter)
    if choice is not None:
        learn._take_precision(choice)
    learn.no_logging().__enter__()
    return learn


def fit(learn, folder, step=None, lr=0.1):
    return learn.fit(2, lr, cbs=Breaks(step), checkpoint=folder and Checkpoint(folder, every_steps=2))


def weights(learn):
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


def stop_at(step, choice, folder, **options):
    with pytest.raises(PowerCut):
        fit(make(choice), folder, step, **options)


@pytest.mark.parametrize(("first", "second"), [(FP32, BF16), (BF16, FP32)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("step", [0, 5])
def test_a_resumed_run_ends_with_the_bits_of_its_first_choice(tmp_path, first, second, step):
    whole, learn = make(first), make(second)
    fit(whole, None)
    stop_at(step, first, tmp_path)
    record = fit(learn, tmp_path)
    assert torch.equal(weights(learn), weights(whole)) and learn.precision == first.precision
    assert record.settings["precision"] == whole.recorder.runs[0].settings["precision"]
    assert record.settings["auto_precision"] == str(first) and str(first) in str(learn.summary())
    other = make(second)
    fit(other, None)
    assert not torch.equal(weights(learn), weights(other))


def test_a_sweep_and_a_run_in_two_phases_keep_the_choice_too(tmp_path):
    stop_at(0, FP32, tmp_path / "sweep", lr="auto")
    assert fit(make(BF16), tmp_path / "sweep", lr="auto").settings["precision"] == "fp32"
    for choice in (FP32, BF16):
        with pytest.raises(PowerCut):
            make(choice).fine_tune(1, 0.1, cbs=Breaks(3), checkpoint=tmp_path / "tune")
    learn = make(BF16)
    learn.fine_tune(1, 0.1, cbs=Breaks(), checkpoint=tmp_path / "tune")
    assert [run.settings["precision"] for run in learn.recorder.runs] == ["fp32", "fp32"]


def test_a_finished_run_is_restored_with_its_choice(tmp_path):
    done, again = make(FP32), make(BF16)
    fit(done, tmp_path)
    fit(again, tmp_path)
    assert torch.equal(weights(done), weights(again)) and again.precision == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_another_precision_given_by_name_is_a_changed_argument(tmp_path, precision):
    stop_at(5, BF16, tmp_path)
    with pytest.raises(CheckpointError, match=f"precision: saved 'bf16, channels_last', now '{precision}"):
        fit(make(None, precision), tmp_path)


def test_auto_in_place_of_a_given_precision_is_a_changed_argument(tmp_path):
    with pytest.raises(PowerCut):
        fit(make(None, "fp32"), tmp_path, 5)
    learn = make(BF16)
    with pytest.raises(CheckpointError, match="precision: saved 'fp32', now 'bf16, channels_last'"):
        fit(learn, tmp_path)
    assert not (tmp_path / "precision.json").exists() and learn.precision == "bf16"


def test_a_learner_that_is_refused_keeps_its_own_choice(tmp_path):
    stop_at(5, FP32, tmp_path)
    learn = make(BF16, n_classes=4)
    with pytest.raises(CheckpointError, match="holds another run"):
        fit(learn, tmp_path)
    assert learn.precision == "bf16" and str(BF16) in str(learn.summary())
    assert learn.model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_the_layout_that_was_asked_for_later_is_kept_too(tmp_path):
    with pytest.raises(PowerCut):
        fit(make(FP32).to_channelslast(), tmp_path, 5)
    assert fit(make(BF16).to_channelslast(), tmp_path).settings["precision"] == "fp32, channels_last"


@pytest.mark.parametrize(
    "content",
    [[], {}, {"precision": "fp64"}, {"channels_last": 1}, {"why": None}, {"more": 1}, {"precision": []}],
    ids=str,
)
def test_a_damaged_choice_is_refused(tmp_path, content):
    stop_at(5, FP32, tmp_path)
    file = tmp_path / "precision.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **content} if content else content))
    learn = make(BF16)
    with pytest.raises(FileFormatError, match="precision.json does not say"):
        fit(learn, tmp_path)
    assert learn.precision == "bf16"
