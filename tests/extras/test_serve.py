"""`minilearner serve` with real clients, under load, and with hostile ones. `.ci/extras` runs this."""

import contextlib
import json
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pillow_heif
import pytest
import uvicorn
from fastapi.testclient import TestClient
from hostile_uploads import LARGE, PNG, QUICK, SLOW
from live_server import LiveServer
from odd_images import write_odd_images
from PIL import Image

from minilearner import MLP, Learner, load_learner
from minilearner.serving.app import make_app
from minilearner.serving.limits import Limits
from minilearner.serving.protocol import make_protocol
from minilearner.vision.all import ImageDataLoaders, Resize

GUIDE = (Path(__file__).parents[2] / "examples" / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.filterwarnings("default")  # the libraries' own warnings are no concern of ours


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    rng = np.random.default_rng(0)
    for i, label in enumerate(["cat", "dog"] * 3):
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / "photos" / label / f"{i}.png")
    dls = ImageDataLoaders.from_folder(
        folder / "photos", valid_pct=0.4, item_tfms=Resize(32), bs=8, seed=0, device="cpu"
    )
    return Learner(dls, MLP((3 * 32 * 32, 8, 2)), path=folder, device="cpu").export("m.safetensors")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_odd_images(tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def server(model):
    with LiveServer(model, "--device", "cpu", "--timeout", 3) as running:
        yield running


def test_it_predicts_what_the_learner_predicts(server, model, photos):
    learn = load_learner(model, device="cpu")
    for file in photos:
        status, answer = server.predict(file)
        assert status == 200, answer
        (prediction,) = answer["predictions"]
        label, _, probabilities = learn.predict(file)
        assert (prediction["file"], prediction["label"]) == (file.name, label)
        found = [prediction["probabilities"][name] for name in ("cat", "dog")]
        np.testing.assert_allclose(found, probabilities.numpy(), atol=1e-5)


def test_a_photo_of_an_iphone_is_predicted_and_a_hostile_one_is_refused(server, model, tmp_path):
    learn = load_learner(model, device="cpu")
    image = Image.effect_noise((64, 48), 80).convert("RGB")
    photo = tmp_path / "IMG_1.HEIC"
    pillow_heif.from_pillow(image).save(photo, quality=90)
    status, answer = server.predict(photo)
    assert status == 200, answer
    assert answer["predictions"][0]["probability"] == pytest.approx(float(learn.predict(photo)[2].max()), abs=1e-5)
    for length in (40, 200, photo.stat().st_size - 50):
        (tmp_path / "cut.heic").write_bytes(photo.read_bytes()[:length])
        status, answer = server.predict(tmp_path / "cut.heic")
        assert status == 422 and "'cut.heic'" in answer["error"], (length, answer)
    pillow_heif.from_pillow(Image.new("L", (9000, 8000))).save(tmp_path / "large.heic")
    status, answer = server.predict(tmp_path / "large.heic")
    assert status == 413 and "'large.heic' has 9000 x 8000 pixels" in answer["error"]


def test_several_files_are_a_batch(server, photos):
    status, answer = server.predict(*photos)
    assert status == 200 and [one["file"] for one in answer["predictions"]] == [file.name for file in photos]
    for file, one in zip(photos[:3], answer["predictions"]):
        alone = server.predict(file)[1]["predictions"][0]
        assert one["probability"] == pytest.approx(alone["probability"], abs=1e-5)


def test_the_lines_of_the_guide(model, photos, tmp_path, monkeypatch):
    (serve, *calls) = re.search(r"```\n(minilearner serve .*?)```", GUIDE, re.S)[1].splitlines()
    monkeypatch.chdir(tmp_path)
    for name, content in {"new.jpg": photos[0], "other.jpg": photos[1], "pets.safetensors": model}.items():
        (tmp_path / name).write_bytes(content.read_bytes())
    words = shlex.split(serve)
    assert words[:4] == ["minilearner", "serve", "--model", "pets.safetensors"]
    with LiveServer("pets.safetensors", "--device", "cpu") as running:
        calls = [shlex.split(call.replace("8000", str(running.port))) for call in calls]
        said = [json.loads(subprocess.run(call, capture_output=True, check=True).stdout) for call in calls]
    assert [one["file"] for one in said[0]["predictions"]] == ["new.jpg", "other.jpg"]
    assert said[1]["status"] == "ok"


def test_health_and_description(server):
    assert server.request("GET", "/health") == (
        200,
        {"status": "ok", "model": "m.safetensors", "classes": ["cat", "dog"]},
    )
    assert "/predict" in server.request("GET", "/openapi.json")[1]["paths"]


def test_errors_name_the_file(server, photos):
    whole = photos[0].read_bytes()
    status, answer = server.predict(("good.jpg", whole), ("cut.jpg", whole[: len(whole) // 2]))
    assert status == 422 and "'cut.jpg'" in answer["error"] and "damaged or cut short" in answer["error"]
    assert server.predict(("a.txt", b"hello")) == (
        415,
        {"error": "'a.txt' is no image in one of the formats BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP."},
    )


def test_a_damaged_file_does_not_harm_the_requests_in_its_batch(server, photos):
    whole = photos[0].read_bytes()
    uploads = [("cut.jpg", whole[: len(whole) // 2]) if i % 5 == 0 else ("good.jpg", whole) for i in range(40)]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(server.predict, uploads))
    assert [status for status, _ in answers] == [422 if i % 5 == 0 else 200 for i in range(40)]
    assert len({json.dumps(answer) for status, answer in answers if status == 200}) == 1


def test_a_client_library_under_load(server, photos):
    content = photos[-1].read_bytes()
    before = server.megabytes()
    with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(16) as pool:
        send = lambda i: client.post("/predict", files={"file": (f"{i}.png", content)})  # noqa: E731
        answers = list(pool.map(send, range(400)))
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["predictions"][0]["file"] for answer in answers] == [f"{i}.png" for i in range(400)]
    assert server.megabytes() < before + 50


@pytest.mark.parametrize("name", [*QUICK, *LARGE])
def test_hostile_uploads_are_refused(server, name):
    status = {**QUICK, **LARGE}[name](server, np.random.default_rng(0))
    assert 400 <= status < 500


def test_a_thousand_hostile_uploads(server, photos):
    rng = np.random.default_rng(1)
    kinds = list(QUICK.items())
    for _, send in kinds:  # whatever grows once has grown
        send(server, rng)
    before = server.megabytes()
    with ThreadPoolExecutor(40) as pool:
        slow = {name: [pool.submit(send, server, rng) for _ in range(10)] for name, send in SLOW.items()}
        for i in range(1000 - 30):
            name, send = kinds[i % len(kinds)]
            assert 400 <= send(server, rng) < 500, name
            if i % 50 == 0:
                assert server.predict(photos[0])[0] == 200
        for name, replies in slow.items():
            assert {reply.result() for reply in replies} == {408}, name
    assert server.predict(photos[0])[0] == 200
    assert server.megabytes() < before + 50


def test_more_requests_than_allowed_get_503(model, photos):
    with LiveServer(model, "--device", "cpu", "--max-requests", 2) as small, ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: small.predict(*photos[:8])[0], range(60)))
        assert set(answers) == {200, 503}
        assert small.predict(photos[0])[0] == 200


def test_limits_of_the_command_line(model, photos):
    with LiveServer(model, "--device", "cpu", "--max-megapixels", 0.1, "--max-files", 1, "--max-mb", 0.5) as strict:
        assert strict.predict(photos[-1])[0] == 200
        assert strict.predict(*[photos[-1]] * 2)[0] == 413
        status, answer = strict.predict(next(file for file in photos if file.name == "photo.jpg"))
        assert status == 413 and "'photo.jpg' has 800 x 600 pixels" in answer["error"]
        assert strict.predict(("a.png", bytes(600_000))) == (413, {"error": "A request may have 0.5 MB."})


def test_sigterm_answers_what_has_come(model, photos):
    with LiveServer(model, "--device", "cpu") as running:
        running.predict(photos[0])
        statuses = []
        several = photos[:20]
        senders = [threading.Thread(target=lambda: statuses.append(running.predict(*several)[0])) for _ in range(4)]
        for sender in senders:
            sender.start()
        time.sleep(0.3)
        running.process.send_signal(signal.SIGTERM)
        for sender in senders:
            sender.join()
        assert statuses == [200] * 4
        assert running.end() == 143 and "Traceback" not in running.err
    with pytest.raises(OSError):
        running.predict(photos[0])


@pytest.mark.parametrize("sent", [b"no request at all", b"GET / HTTP/1.1\r\nhost: x\r\nno header", b"GET / HTTP/1.1"])
def test_what_is_no_request_is_refused_as_json(server, sent):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(sent + b"\r\n\r\n")
        head, _, body = b"".join(iter(lambda: client.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"content-type: application/json" in head
    assert set(json.loads(body)) == {"error"}


def test_more_connections_than_allowed_get_503(model):
    app = make_app(load_learner(model, device="cpu"), limits := Limits(connections=3))
    config = uvicorn.Config(app, port=0, http=make_protocol(limits), log_level="error")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    with contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(socket.create_connection(("127.0.0.1", port)))
        reply = httpx.get(f"http://127.0.0.1:{port}/health")
    assert reply.status_code == 503 and reply.json() == {"error": "The server has too many connections. Try again."}
    assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
    running.should_exit = True
    thread.join()


def test_a_fault_of_the_server_is_json_too(model, monkeypatch):
    def fail(*args):
        raise RuntimeError("broken")

    monkeypatch.setattr("minilearner.serving.app.predict_items", fail)
    app = make_app(load_learner(model, device="cpu"))
    with TestClient(app, raise_server_exceptions=False) as client:
        reply = client.post("/predict", files={"file": ("a.png", PNG)})
    assert reply.status_code == 500 and set(reply.json()) == {"error"}


def test_only_this_machine_unless_asked(server):
    assert server.url.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken(server, model):
    with pytest.raises(RuntimeError, match="in use"), LiveServer(model, "--port", server.port):
        pass
