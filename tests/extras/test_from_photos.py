"""From an empty folder of photos to a report, an ONNX file and a running endpoint: by command line, and in Python."""

import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
import uvicorn
from live_server import LiveServer
from PIL import Image

from minilearner import MLP, load_learner
from minilearner.onnx_model import OnnxModel
from minilearner.serving.app import make_app
from minilearner.vision.all import ClassificationInterpretation, ImageDataLoaders, Learner, Resize, accuracy

pytestmark = pytest.mark.filterwarnings("default")  # the libraries' own warnings are no concern of ours


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "my photos"
    rng = np.random.default_rng(0)
    for label, channel in (("blå bær", 2), ("red", 0)):
        (folder / label).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 100, (40, 36, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(folder / label / f"{i}.jpg")
    return folder


def run(folder, *words):
    """Returns what a command prints to standard output."""
    command = [sys.executable, "-m", "minilearner", *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_empty_folder_is_named(tmp_path):
    empty = tmp_path / "my photos"
    empty.mkdir()
    none = subprocess.run(
        [sys.executable, "-m", "minilearner", "train", "my photos"], cwd=tmp_path, capture_output=True
    )
    assert none.returncode == 1 and b"There is no image in 'my photos'" in none.stderr
    assert not (tmp_path / "runs").exists()


def test_by_command_line_alone(photos):
    work, image = photos.parent, photos / "red" / "0.jpg"
    fast = ["--size", 32, "--bs", 8, "--epochs", 2, "--lr", 0.01, "--no-pretrained", "--device", "cpu"]
    run(work, "train", "my photos", *fast)
    trained = work / "runs" / "my photos"
    assert "blå bær" in (trained / "report.html").read_text(encoding="utf-8")
    onnx = work / run(work, "export", "--model", "runs/my photos").strip()
    label = run(work, "predict", image, "--model", "runs/my photos").split("\t")[1]
    assert OnnxModel(onnx).predict(image).label == label
    with LiveServer(trained, "--device", "cpu") as server:
        status, answer = server.predict(image)
        assert status == 200 and answer["predictions"][0]["label"] == label
        assert server.request("GET", "/health")[1]["classes"] == ["blå bær", "red"]
        assert server.end() == 143


def test_in_python(photos, tmp_path):
    dls = ImageDataLoaders.from_folder(photos, valid_pct=0.25, seed=42, item_tfms=Resize(32), bs=8, device="cpu")
    learn = Learner(dls, MLP((3 * 32 * 32, 8, dls.c)), metrics=accuracy, path=tmp_path, device="cpu")
    learn.fit_one_cycle(2)
    report = ClassificationInterpretation.from_learner(learn).report(tmp_path / "report.html")
    assert "blå bær" in report.read_text(encoding="utf-8")
    image = photos / "red" / "0.jpg"
    label = learn.predict(image)[0]
    assert OnnxModel(learn.export("m.onnx")).predict(image).label == label
    app = make_app(load_learner(learn.export("m.safetensors")))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    answer = httpx.post(f"http://127.0.0.1:{port}/predict", files={"file": image.read_bytes()}).json()
    server.should_exit = True
    thread.join()
    assert answer["predictions"][0]["label"] == label
