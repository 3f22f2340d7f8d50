"""Predictions come as lines or JSON, and a file that cannot be read does not stop the others."""

import io
import os
import shlex
import subprocess
import sys

import pytest

from minilearner import load_learner

from .conftest import paint


@pytest.fixture
def odd_names(photos, tmp_path):
    """A folder with names that are hard to handle, and two files that are no images."""
    image = (photos / "red" / "0.png").read_bytes()
    for name in ("with space.png", "-dash.png", "ünïcode.png", "new\nline.png"):
        (tmp_path / name).write_bytes(image)
    (tmp_path / "cut.png").write_bytes(image[:200])
    (tmp_path / "text.png").write_text("no image")
    return tmp_path


def test_it_says_what_load_learner_says(trained, call, photos):
    run, _ = trained
    files = [photos / "red" / "0.png", photos / "blue" / "1.png"]
    shown = call("predict", *files, "--model", run, "--json")
    learn = load_learner(run / "model.safetensors")
    for file, result in zip(files, shown.data, strict=True):
        label, _, probabilities = learn.predict(file)
        assert (result["file"], result["label"]) == (str(file), label)
        assert result["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
        assert list(result["probabilities"]) == ["blue", "red"]
    lines = call("predict", *files, "-m", run / "model.safetensors").out.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [[str(f), r["label"]] for f, r in zip(files, shown.data)]


def test_folders_patterns_and_lists(trained, call, photos, monkeypatch):
    run, _ = trained
    assert len(call("predict", photos, "-m", run).out.splitlines()) == 24
    assert len(call("predict", f"{photos}/*/1*.png", "-m", run).out.splitlines()) == 6
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{photos}/red/0.png\n\n{photos}/blue/0.png\n"))
    assert len(call("predict", "-", "-m", run).out.splitlines()) == 2


def test_a_name_that_begins_with_a_dash(trained, call, odd_names, monkeypatch):
    run, _ = trained
    monkeypatch.chdir(odd_names)
    assert call("predict", "-m", run, "--", "-dash.png").out.startswith("-dash.png\t")
    assert call("predict", "-dash.png", "-m", run).code == 2


def test_unreadable_files_are_named_and_the_rest_is_predicted(trained, call, odd_names):
    run, _ = trained
    missing = odd_names / "missing.png"
    shown = call("predict", odd_names, missing, odd_names / "no*.jpg", "-m", run)
    assert shown.code == 1 and len(shown.out.splitlines()) == 4
    assert f"{odd_names}/new\\nline.png\t" in shown.out and f"{odd_names}/ünïcode.png\t" in shown.out
    for name in ("cut.png", "text.png", "missing.png", "no*.jpg"):
        assert f"{odd_names / name}: " in shown.err
    assert "4 of 8 files cannot be predicted." in shown.err and "Traceback" not in shown.err
    results = call("predict", odd_names, missing, "-m", run, "--json").data
    assert len(results) == 7 and sum("error" in result for result in results) == 3


def test_many_files_on_the_command_line(trained, call, photos):
    run, _ = trained
    shown = call("predict", *[photos / "red" / "0.png"] * 300, "-m", run)
    assert len(shown.out.splitlines()) == 300 and len(set(shown.out.splitlines())) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.safetensors", None, "there is no file"),
        ("cut.safetensors", b"\x00" * 100, "cut.safetensors"),
        ("text.safetensors", b"hello", "text.safetensors"),
        ("fastai.pkl", b"\x80\x04hello world", "it is a pickle"),
    ],
)
@pytest.mark.parametrize("command", [["predict", "x.png"], ["evaluate", "photos"], ["export"], ["info"]])
def test_a_missing_or_damaged_model_is_one_line(call, tmp_path, name, content, said, command):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    where = [tmp_path / name] if command == ["info"] else ["--model", tmp_path / name]
    made = call(*command, *where)
    assert (made.code, made.out) == (1, "") and said in made.err and len(made.err.splitlines()) == 1


def test_a_run_without_a_model_names_resume(call, tmp_path):
    (tmp_path / "config.toml").write_text('data = "photos"')
    made = call("predict", "x.png", "--model", tmp_path)
    assert made.code == 1 and f"`minilearner resume {tmp_path}`" in made.err


def test_a_reader_that_goes_ends_it_quietly(trained, photos):
    run, _ = trained
    words = [sys.executable, "-m", "minilearner", "predict", str(photos), str(photos), "--model", str(run)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert child.wait(timeout=60) == 141 and err == ""


def test_evaluate_scores_a_folder(trained, call, tmp_path):
    run, _ = trained
    paint(tmp_path / "new", n=5, seed=7)
    scores = call("evaluate", tmp_path / "new", "--model", run, "--json").data
    learn = load_learner(run / "model.safetensors")
    files = sorted((tmp_path / "new").rglob("*.png"))
    right = [learn.predict(file)[0] == file.parent.name for file in files]
    assert scores["accuracy"] == sum(right) / 10 and scores["n"] == 10
    assert scores["report"]["red"]["support"] == 5
    shown = call("evaluate", tmp_path / "new", "--model", run)
    assert shown.out.startswith("10 images: loss ") and "precision" in shown.out


def test_evaluate_refuses_unknown_classes(trained, call, tmp_path):
    run, _ = trained
    paint(tmp_path / "new", n=1)
    (tmp_path / "new" / "red").rename(tmp_path / "new" / "green")
    made = call("evaluate", tmp_path / "new", "--model", run)
    assert made.code == 1 and "'green'" in made.err and "The classes are 'blue', 'red'." in made.err


def test_info_says_what_the_file_holds(trained, call):
    run, _ = trained
    data = call("info", run, "--json").data
    assert data["architecture"] == "resnet18 of torchvision" and data["classes"] == ["blue", "red"]
    assert data["n_weights"] > 11_000_000 and data["precision"] == "fp32" and "torch" in data["versions"]
    assert "  classes: 2: blue, red\n" in call("info", run / "model.safetensors").out


@pytest.mark.parametrize(("kind", "suffix"), [("onnx", ".onnx"), ("torch_export", ".pt2")])
def test_export_writes_beside_the_model_and_replaces_nothing(trained, call, kind, suffix, tmp_path):
    run, _ = trained
    target = tmp_path / f"graph{suffix}"
    made = call("export", "--model", run, "--format", kind, "--output", target, "--json")
    assert made.code == 0 and made.data["bytes"] == target.stat().st_size
    made = call("export", "--model", run, "--format", kind, "--output", target)
    assert made.code == 1 and "replace it by `--force`" in made.err
    made = call("export", "--model", run, "--format", kind, "--output", tmp_path / "graph.bin")
    assert made.code == 1 and f"must end in {suffix}" in made.err


def test_check_and_lr_find(call, photos, fast, tmp_path):
    checked = call("check", photos, *fast, "--json")
    assert checked.code in (0, 1) and {"findings", "worst"} <= set(checked.data)
    found = call("lr-find", photos, *fast, "--plot", tmp_path / "sweep.png", "--json")
    assert found.code in (0, 1) and "recommended" in found.data and (tmp_path / "sweep.png").stat().st_size > 1000


def test_a_plot_that_cannot_be_written_is_refused_before_the_sweep(call, photos, fast, tmp_path):
    made = call("lr-find", photos, *fast, "--plot", tmp_path / "sweep.xyz")
    assert made.code == 1 and "`--plot` must end in the suffix" in made.err and "sweep:" not in made.err


def test_it_runs_without_standard_streams(trained):
    line = f"exec {shlex.quote(sys.executable)} -m minilearner info {shlex.quote(str(trained[0]))} >&- 2>&-"
    assert subprocess.run(["sh", "-c", line]).returncode == 0
