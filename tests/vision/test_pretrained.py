"""Trained weights are chosen, found, downloaded and loaded, and problems raise clear errors."""

import hashlib
import io
import os
import pickle
import warnings
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from torchvision.models import ResNet34_Weights, ResNet50_Weights, Weights, WeightsEnum

from minilearner.errors import DownloadError, FileFormatError
from minilearner.vision.backbones import build_backbone
from minilearner.vision.pretrained import choose_weights, local_file, read_state_dict

FILE = "shufflenetv2_x0.5-f707e7126e.pth"  # the weights of torchvision's smallest model
build = partial(build_backbone, size=(32, 32))
shufflenet = models.shufflenet_v2_x0_5


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Returns torch hub's folder of files, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def net():
    return shufflenet(weights=None)


def same(body, whole):
    """Returns whether the body's tensors are those of the whole model, in order."""
    return all(torch.equal(a, b) for a, b in zip(body.state_dict().values(), whole.state_dict().values()))


def test_a_file_in_the_torch_hub_folder_is_used_as_it_is(hub, net):
    torch.save(net.state_dict(), hub / FILE)  # its hash is not the one in the name
    backbone = build(shufflenet)
    assert same(backbone.body, net)
    assert backbone.stats == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_offline_the_error_says_how_to_go_on(hub):
    with pytest.raises(DownloadError) as caught:
        build(shufflenet)
    text = str(caught.value)
    assert "MINILEARNER_OFFLINE=1 forbids" in text
    assert f"put https://download.pytorch.org/models/{FILE} at {hub / FILE}" in text
    assert "`weights=path`" in text and "`pretrained=False`" in text
    assert not list(hub.iterdir())


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, ResNet50_Weights.IMAGENET1K_V2),
        ("IMAGENET1K_V1", ResNet50_Weights.IMAGENET1K_V1),
        ("ResNet50_Weights.IMAGENET1K_V1", ResNet50_Weights.IMAGENET1K_V1),
        ("DEFAULT", ResNet50_Weights.IMAGENET1K_V2),
        (ResNet50_Weights.IMAGENET1K_V1, ResNet50_Weights.IMAGENET1K_V1),
    ],
)
def test_weights_by_member_or_name(weights, expected):
    assert choose_weights(models.resnet50, weights) is expected


@pytest.mark.parametrize(
    ("weights", "error", "match"),
    [
        (ResNet34_Weights.DEFAULT, ValueError, "belongs to another model.*This model has: IMAGENET1K_V1"),
        (
            "ResNet34_Weights.IMAGENET1K_V1",
            ValueError,
            "nor the name of weights.*This model has: IMAGENET1K_V1, IMAGENET1K_V2",
        ),
        ("IMAGENET_V1", ValueError, "Did you mean 'IMAGENET1K_V1'.*Received: weights='IMAGENET_V1'"),
        ("nowhere/own.pth", FileNotFoundError, "there is no file nowhere/own.pth"),
        (3, TypeError, "their name, or a path. Received: 3"),
    ],
)
def test_wrong_weights_are_an_error(weights, error, match):
    with pytest.raises(error, match=match):
        choose_weights(models.resnet50, weights)


@pytest.mark.parametrize("form", ["whole", "other classes", "backbone", "body", "learner", "checkpoint", "safetensors"])
def test_a_custom_weights_file(form, net, tmp_path):
    state, path = net.state_dict(), tmp_path / "own.pth"
    body = nn.Sequential(*list(net.children())[:-1])
    content = {
        "whole": state,
        "other classes": state | {"fc.weight": torch.zeros(7, 1024), "fc.bias": torch.zeros(7)},
        "backbone": {name: t for name, t in state.items() if not name.startswith("fc.")},
        "body": body.state_dict(),
        "learner": nn.Sequential(body, nn.Linear(2, 2)).state_dict(),
        "checkpoint": {"model": state, "epoch": 3},
    }
    if form == "safetensors":
        path = tmp_path / "own.safetensors"
        save_file(state, path)
    else:
        torch.save(content[form], path)
    backbone = build(shufflenet, weights=path)
    assert same(backbone.body, net)
    assert backbone.stats == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert same(build(shufflenet(weights=None), weights=str(path)).body, net)  # a module accepts them as well


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state.pop("conv5.0.weight"), "1 missing: conv5.0.weight"),
        (lambda state: state.update({"conv6.weight": torch.zeros(1)}), "1 unknown: conv6.weight"),
        (
            lambda state: state.update({"conv1.0.weight": torch.zeros(24, 1, 3, 3)}),
            r"1 of another shape: conv1.0.weight \(24, 1, 3, 3\) instead of \(24, 3, 3, 3\)",
        ),
    ],
)
def test_weights_that_do_not_fit_raise(change, match, net, tmp_path):
    state = dict(net.state_dict())
    change(state)
    torch.save(state, tmp_path / "own.pth")
    with pytest.raises(FileFormatError, match=f"own.pth.* does not fit this model: {match}"):
        build(shufflenet, weights=tmp_path / "own.pth")


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_the_error_names_a_damaged_or_foreign_file_and_runs_nothing_in_it(hub, net, capsys):
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    contents = [b"", b"<html>404</html>", buffer.getvalue()[:100_000], pickle.dumps(Evil(), protocol=2)]
    for content in contents:
        (hub / FILE).write_bytes(content)
        with pytest.raises(FileFormatError, match=f"{FILE} is damaged.*save it again"):
            build(shufflenet)
    torch.save(torch.zeros(3), hub / FILE)
    with pytest.raises(FileFormatError, match="must hold tensors by name. Received: Tensor"):
        build(shufflenet)
    (hub / "own.safetensors").write_bytes(b"no")
    with pytest.raises(FileFormatError, match=r"own.safetensors is damaged"):
        build(shufflenet, weights=hub / "own.safetensors")
    assert "run" not in capsys.readouterr().out


def test_old_names_in_the_densenet_files_of_torchvision_are_understood(tmp_path):
    whole = models.densenet121(weights=None)
    old = {n.replace("norm1", "norm.1").replace("conv2", "conv.2"): t for n, t in whole.state_dict().items()}
    torch.save(old, tmp_path / "own.pth")
    assert "features.denseblock1.denselayer1.norm1.weight" in read_state_dict(tmp_path / "own.pth")
    assert same(build(models.densenet121, weights=tmp_path / "own.pth").body, whole)


def test_auxiliary_weights_in_a_file_are_left_out(tmp_path):
    whole = models.googlenet(weights=None, aux_logits=True, init_weights=False)
    torch.save(whole.state_dict(), tmp_path / "own.pth")
    body = build(models.googlenet, weights=tmp_path / "own.pth").body
    assert torch.equal(body[-1].branch1.conv.weight, whole.inception5b.branch1.conv.weight)


@pytest.fixture
def served(net):
    """Serves weights under the hash that they have."""
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    content = buffer.getvalue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"

    class Served(WeightsEnum):
        GOOD = Weights(
            f"{url}/own-{hashlib.sha256(content).hexdigest()[:8]}.pth", ResNet34_Weights.DEFAULT.transforms, {}
        )
        BAD = Weights(f"{url}/own-01234567.pth", ResNet34_Weights.DEFAULT.transforms, {})

    yield Served
    server.shutdown(), thread.join(), server.server_close()


def test_a_download_goes_to_the_torch_hub_folder_if_its_hash_is_right(served, hub, net, monkeypatch):
    monkeypatch.delenv("MINILEARNER_OFFLINE")
    path = local_file(served.GOOD)
    assert path.parent == hub
    assert torch.equal(read_state_dict(path)["conv1.0.weight"], net.conv1[0].weight)
    with pytest.raises(DownloadError, match="its SHA-256 begins with [0-9a-f]{8}, not 01234567"):
        local_file(served.BAD)
    assert list(hub.iterdir()) == [path]


def lying_weights():
    """Yields contents of a `torch.save` file that holds no tensors by name, or is damaged."""
    whole = io.BytesIO()
    torch.save({"weight": torch.ones(3), "bias": torch.zeros(2)}, whole)
    whole = whole.getvalue()
    rng = np.random.default_rng(0)
    for _ in range(120):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 12)):
            damaged[place] = rng.integers(256)
        yield bytes(damaged)
    for end in range(0, len(whole), len(whole) // 40):
        yield whole[:end]
    for odd in ([], {}, {"a": 1}, {"a": [torch.ones(1)]}, {"a": torch.ones(2).to_sparse()}, 5, "text", None, {1: None}):
        out = io.BytesIO()
        torch.save(odd, out)
        yield out.getvalue()
    yield pickle.dumps({"a": Path("x")})
    yield b"\x80\x02" + b"]" * 100_000 + b"."
    yield b"\x80\x02" + b"(" * 50_000 + b"t."
    yield b"\x80\x02cos\nsystem\n(S'false'\ntR."


def test_weights_that_lie_are_refused_by_name_or_hold_tensors(tmp_path):
    path = tmp_path / "weights.pth"
    n_refused = 0
    for content in lying_weights():
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                state = read_state_dict(path)
            except FileFormatError as error:
                assert str(path) in str(error)
                n_refused += 1
                continue
        assert all(isinstance(t, torch.Tensor) and t.layout == torch.strided for t in state.values())
    assert n_refused > 60


def test_a_pipe_is_no_file_of_weights(tmp_path):
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(FileFormatError, match="weights.pth"):
        read_state_dict(tmp_path / "weights.pth")
