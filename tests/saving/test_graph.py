"""Graphs for other runtimes return what `get_preds` returns, for any number of items."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from minilearner import MLP, DataError, DataLoaders, Learner, MiniGoogLeNet, Normalize, load_learner
from minilearner.vision.crops import RandomResizedCropBatch

FORMATS = ["onnx", "torch_export"]


@pytest.fixture(params=FORMATS)
def format(request):
    if request.param == "onnx":
        pytest.importorskip("onnxscript", reason="the extra onnx")
        pytest.importorskip("onnxruntime", reason="the extra onnx")
    return request.param


def learner(x, model, folder, **options):
    dls = DataLoaders.from_arrays((x, np.arange(len(x)) % 3), bs=2, seed=0, device="cpu", **options)
    return Learner(dls, model, path=folder, device="cpu")


def run(path, x):
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(x)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0])


def test_a_graph_normalises_and_activates_batches_of_any_size(tmp_path, format):
    x = torch.rand(5, 3, 4, 4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), MLP((16, 3)))
    learn = learner(x, model, tmp_path, batch_tfms=Normalize.from_stats([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    with learn.no_logging():
        learn.fit(1)
    path = learn.export(format=format)
    preds, _ = learn.get_preds(dl=learn.dls.test_dl(x))
    for n in (1, 5):
        torch.testing.assert_close(run(path, x[:n]), preds[:n], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_minigooglenet_becomes_a_graph(tmp_path, format):
    x = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8)
    learn = learner(x, MiniGoogLeNet(3), tmp_path)
    was_training = learn.model.training
    out = run(learn.export("net" + {"onnx": ".onnx"}.get(format, ".pt2"), format=format), x.float() / 255)
    torch.testing.assert_close(out, learn.get_preds(dl=learn.dls.test_dl(x))[0], rtol=1e-3, atol=1e-4)
    assert learn.model.training is was_training


def test_the_size_is_the_callers_business(tmp_path, format):
    x = torch.rand(4, 1, 12, 12)
    crop = RandomResizedCropBatch(8, 0.5)
    learn = learner(x, MLP((64, 3)), tmp_path, batch_tfms=[crop, Normalize.from_stats(0.5, 0.2)])
    assert run(learn.export(format=format), torch.rand(3, 1, 8, 8)).shape == (3, 3)


def test_a_transform_that_no_graph_holds_is_refused(tmp_path, format):
    learn = learner(torch.rand(4, 2), MLP((2, 3)), tmp_path, batch_tfms=lambda x: x.sort(0).values)
    with pytest.raises(ValueError, match="no graph can hold the batch transform <lambda>"):
        learn.export(format=format)


class Undecided(nn.Module):
    """Does one of two things, depending on its inputs."""

    def __init__(self, decide):
        super().__init__()
        self.decide, self.layer = decide, nn.Linear(2, 3)

    def forward(self, x):
        return self.layer(x) if self.decide(x) else self.layer(-x)


def test_a_model_that_is_no_graph_is_refused_and_nothing_is_written(tmp_path, format):
    learn = learner(torch.rand(4, 2), Undecided(lambda x: bool(x.sum() > 0)), tmp_path)
    with pytest.raises(DataError, match=f"cannot be exported with format='{format}'") as caught:
        learn.export(format=format)
    assert "\x1b" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_is_not_written(tmp_path, format):
    learn = learner(torch.rand(4, 2), Undecided(lambda x: torch.compiler.is_compiling()), tmp_path)
    with pytest.raises(DataError, match="returns other outputs than the model.*Nothing was written"):
        learn.export(format=format)
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'minilearner\[onnx\]'"):
        learner(torch.rand(4, 2), MLP((2, 3)), tmp_path).export(format="onnx")


def test_the_suffix_decides_the_format(tmp_path, format):
    learn = learner(torch.rand(4, 2), MLP((2, 3)), tmp_path)
    name = {"onnx": "net.onnx", "torch_export": "net.pt2"}[format]
    assert run(learn.export(name), torch.rand(3, 2)).shape == (3, 3)
    assert load_learner(learn.export("net.safetensors")).dls.vocab == learn.dls.vocab


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onx"}, r"`format` must be one of 'safetensors', 'onnx', 'torch_export'\. Did you mean 'onnx'"),
        ({"path": "net.pth"}, r"end in one of \.safetensors \(format 'safetensors'\), \.onnx .*Received: '.*net\.pth'"),
        ({"path": "net"}, r"end in one of .*\.pt2 \(format 'torch_export'\), which decides the format"),
        ({"path": "net.pth", "format": "onnx"}, r"end in \.onnx"),
        ({"path": "net.onnx", "format": "torch_export"}, r"end in \.pt2"),
    ],
)
def test_formats_and_suffixes_are_checked(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        learner(torch.rand(4, 2), MLP((2, 3)), tmp_path).export(**arguments)
