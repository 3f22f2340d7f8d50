"""The examples run from end to end, with an archive served on loopback and weights in the folder of torch's hub."""

import ast
import functools
import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import snippets
from PIL import Image

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("pets_like", Path(__file__).with_name("pets_like.py"))
pets_like = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pets_like)

PROGRAM_A = """
from minilearner.vision.all import *
path = untar_data(URLs.PETS)
path.ls(); (path/'images').ls()
fname = (path/'images').ls()[0]
re.findall(r'(.+)_\\d+.jpg$', fname.name)
pets = DataBlock(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files,
                 splitter=RandomSplitter(seed=42),
                 get_y=using_attr(RegexLabeller(r'(.+)_\\d+.jpg$'), 'name'),
                 item_tfms=Resize(460), batch_tfms=aug_transforms(size=224, min_scale=0.75))
dls = pets.dataloaders(path/'images')
dls.show_batch(nrows=1, ncols=3)
learn = cnn_learner(dls, resnet34, metrics=error_rate)
learn.fine_tune(2)
interp = ClassificationInterpretation.from_learner(learn)
interp.plot_confusion_matrix(figsize=(12, 12))
interp.plot_top_losses(2, nrows=2)
interp.most_confused(min_val=5)
learn = cnn_learner(dls, resnet34, metrics=error_rate)
learn.fine_tune(1, base_lr=0.1)
learn = cnn_learner(dls, resnet34, metrics=error_rate)
lr_min, lr_steep, lr_slide, lr_valley = learn.lr_find(suggest_funcs=(minimum, steep, slide, valley))
learn = cnn_learner(dls, resnet34, metrics=error_rate)
learn.fine_tune(2, base_lr=3e-3)
learn.unfreeze()
learn.fit_one_cycle(1, lr_max=slice(1e-6, 1e-4))
print(lr_min, lr_steep, lr_slide, lr_valley, len(learn.recorder.epochs))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh data home, a mirror on loopback, and a ResNet-34 in the place where torch's hub would have put it."""
    folder = tmp_path_factory.mktemp("pets")
    mirror = pets_like.make_mirror(folder / "mirror", breeds=3, each=30, side=48)
    pets_like.save_weights(folder / "torch" / "hub" / "checkpoints")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=mirror)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        **os.environ,
        "MINILEARNER_HOME": str(folder / "home"),
        "MINILEARNER_MIRROR": f"http://127.0.0.1:{server.server_port}",
        "TORCH_HOME": str(folder / "torch"),
        "MPLBACKEND": "Agg",
    }
    server.shutdown()
    server.server_close()


def run(environment, *command):
    done = subprocess.run([sys.executable, "-W", "error", *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_program_a_runs_unchanged_on_smaller_images(environment):
    text = PROGRAM_A.replace("Resize(460)", "Resize(48)").replace("size=224", "size=32")
    assert run(environment, "-c", text).split()[-1] == "4"


def python_of(page, word):
    """Returns the Python code of a page that has this word."""
    (code,) = [snippet.code for snippet in snippets.python_of(ROOT / page) if word in snippet.code]
    return code


def make_smaller(text, **smaller):
    for full, small in smaller.items():
        assert full in text
        text = text.replace(full, small)
    return text


@pytest.mark.slow
def test_the_pets_code_of_the_guide_runs_on_smaller_images(environment, tmp_path):
    smaller = {"Resize(460)": "Resize(48)", "size=224": "size=32", '"runs/pets"': repr(str(tmp_path))}
    text = make_smaller(python_of("examples/README.md", "URLs.PETS"), **smaller)
    assert run(environment, "-c", text + "print(label in dls.vocab)").split()[-1] == "True"


@pytest.mark.slow
def test_the_photos_of_the_readme_are_trained_and_predicted_on_smaller_images(environment, tmp_path):
    for i in range(46):
        folder = tmp_path / "photos" / ("Bäume", "rote Blumen")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 48), ("green", "red")[i % 2]).save(folder / f"{i}.jpg")
    smaller = {"Resize(256)": "Resize(48)", "size=224": "size=32"}
    for name in ("photos", "runs/photos", "photos.safetensors", "confusion.png", "top_losses.png"):
        smaller[f'"{name}"'] = repr(str(tmp_path / name))
    text = make_smaller(python_of("README.md", "from_folder"), **smaller)
    environment = {**environment, "MPLBACKEND": "Agg"}
    assert run(environment, "-c", text + "print(label in dls.vocab)").split()[-1] == "True"
    assert (tmp_path / "photos.safetensors").exists()


@pytest.mark.slow
def test_the_example_prints_its_table_and_draws(environment, tmp_path):
    out = run(environment, str(ROOT / "examples/pets.py"), "--small", "--output", str(tmp_path))
    assert "fine_tune(1, base_lr=0.1)" in out and "the book" in out
    drawn = {file.name for file in tmp_path.iterdir()}
    assert drawn == {f"{name}.png" for name in ("batch", "confusion", "top_losses", "results", "lr_find", "losses")}


@pytest.mark.slow
def test_own_photos_end_in_a_good_classifier_and_name_what_is_left_out(tmp_path):
    command = [sys.executable, str(ROOT / "examples/own_photos.py"), "--small", "--output", str(tmp_path)]
    offline = {**os.environ, "MINILEARNER_OFFLINE": "1"}
    done = subprocess.run(command, env=offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "145 photos to train, 35 to check. Classes: blaue Quadrate, grüne Dreiecke, rote Fünfecke." in done.stdout
    assert float(re.search(r"accuracy +([\d.]+) +35", done.stdout)[1]) > 0.7
    assert re.search(r"own_photos\.py:\d+: UserWarning: .*HEIC.*pillow-heif", done.stderr)
    assert "IMG_0001.jpg" in done.stderr and "left out" in done.stderr
    assert re.search(r"\d+\.\w+ is in class '.+', with probability \d+%", done.stdout)
    assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in ("confusion", "top_losses", "results"))


@pytest.mark.slow
def test_the_custom_steps_train_a_gan_and_a_student(tmp_path):
    offline = {**os.environ, "MINILEARNER_HOME": str(tmp_path / "home"), "MINILEARNER_OFFLINE": "1"}
    out = run(offline, str(ROOT / "examples/custom_step.py"), "--small", "--output", str(tmp_path))
    assert re.search(r"the generator's loss was \d", out)
    assert re.search(r"accuracy: teacher .* student alone .* student with the teacher \d", out)
    assert (tmp_path / "generated.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["GAN", "Distill"])
def test_a_custom_step_takes_fewer_than_thirty_lines(name):
    text = (ROOT / "examples/custom_step.py").read_text(encoding="utf-8")
    (lines,) = [node for node in ast.parse(text).body if getattr(node, "name", "") == name]
    assert lines.end_lineno - lines.lineno + 1 < 30


@pytest.mark.slow
def test_the_notebook_runs_in_small_mode(environment, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MPLBACKEND")  # the kernel needs its own backend to show figures
    notebook = nbformat.read(ROOT / "examples/pets.ipynb", as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = "small = True"
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    images = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(images) >= 6
