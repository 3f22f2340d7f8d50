"""A training writes everything into one new folder, and continues to the same bits wherever it is killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from minilearner import load_learner
from minilearner.command_line.settings import Settings

from .conftest import FAST, paint


def read_weights(run):
    """Returns the bytes of each tensor in a run's model."""
    tensors = load_file(run / "model.safetensors")
    return {name: (tensor.dtype, tensor.shape, tensor.numpy().tobytes()) for name, tensor in tensors.items()}


def test_a_run_folder_holds_model_metrics_figures_and_settings(trained):
    run, made = trained
    assert {path.name for path in run.iterdir()} == {
        *("model.safetensors", "report.html", "metrics.csv", "metrics.jsonl", "config.toml", "checkpoint", "figures")
    }
    figures = {path.name for path in (run / "figures").iterdir()}
    assert figures == {"loss.png", "metrics.png", "results.png", "confusion.png", "top_losses.png"}
    with open(run / "metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]
    assert "blue" in (run / "report.html").read_text(encoding="utf-8")
    assert made.data["accuracy"] == float(rows[-1]["accuracy"])
    assert made.data["classes"] == ["blue", "red"] and made.data["model"] == str(run / "model.safetensors")
    assert (made.data["n_train"], made.data["n_valid"]) == (20, 4)


def test_its_settings_are_whole_and_repeat_it(trained, photos):
    run, _ = trained
    settings = Settings.read(run / "config.toml")
    assert (settings.data, settings.pretrained, settings.epochs, settings.lr) == (str(photos), False, 2, 0.01)


def test_progress_goes_to_standard_error_alone(trained):
    _, made = trained
    assert "valid_loss" in made.err and made.out.startswith("{") and made.out.endswith("}\n")


def test_an_existing_folder_is_left_alone(trained, call, photos):
    run, _ = trained
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    made = call("train", photos, *FAST, "--output", run)
    assert made.code == 1 and f"minilearner resume {run}" in made.err and f"--output {run}-2" in made.err
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before


def test_the_folder_is_named_after_the_data(call, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    assert "runs/photos exists already" in call("train", photos).err


def test_a_failure_before_anything_is_saved_leaves_no_folder(call, photos, tmp_path, monkeypatch):
    def fail(*args, **how):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("minilearner.learner.Learner.fit_one_cycle", fail)
    assert call("train", photos, *FAST, "--output", tmp_path / "run").code == 1
    assert not (tmp_path / "run").exists()


def test_resuming_a_finished_run_makes_what_is_missing(trained, call, tmp_path):
    run, made = trained
    weights = read_weights(run)
    (run / "model.safetensors").unlink()
    again = call("resume", run, "--json")
    assert again.code == 0 and "finished before, so not trained again" in again.err
    assert read_weights(run) == weights
    assert {**again.data, "seconds": 0} == {**made.data, "seconds": 0}


def test_a_report_is_written_again(trained, call):
    run, _ = trained
    before = (run / "report.html").stat().st_size
    (run / "report.html").unlink()
    made = call("report", run, "--json")
    assert made.code == 0, made.err
    assert made.data == {"report": str(run / "report.html")}
    assert abs((run / "report.html").stat().st_size - before) < 2000
    assert [len((run / name).read_text().splitlines()) for name in ("metrics.csv", "metrics.jsonl")] == [3, 2]


@pytest.mark.parametrize(("name", "said"), [("nothing", "does not exist"), ("", "is not the folder of a training")])
def test_resume_needs_the_folder_of_a_training(call, tmp_path, name, said):
    made = call("resume", tmp_path / name)
    assert made.code == 1 and said in made.err and len(made.err.splitlines()) == 1


def start(photos, run, epochs=20):
    words = ["train", photos, *FAST, "--epochs", epochs, "--lr", 0.01, "--output", run]
    how = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": {**os.environ, "OMP_NUM_THREADS": "1"},
    }
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell's job ignores it
    code += "import sys; from minilearner.command_line.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], **how)


def wait_for_checkpoint(run):
    end = time.monotonic() + 120
    while not any((run / "checkpoint").glob("*/manifest.json")):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """The weights of a run without an interruption."""
    run = tmp_path_factory.mktemp("whole") / "run"
    child = start(photos, run)
    assert child.wait(timeout=300) == 0, child.stderr.read()
    child.stdout.close(), child.stderr.close()
    return read_weights(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_an_interrupted_training_resumes_to_the_same_bits(photos, tmp_path, whole, number, code):
    run = tmp_path / "first name"
    child = start(photos, run)
    wait_for_checkpoint(run)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code and "Traceback" not in err
    assert not (run / "model.safetensors").exists()
    if number != signal.SIGKILL:
        assert f"Continue by `minilearner resume '{run}'`." in err
    run = run.rename(tmp_path / "other name")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "minilearner", "resume", str(run)]
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=True)
    assert "resuming in epoch" in done.stderr
    assert read_weights(run) == whole
    with open(run / "metrics.csv", encoding="utf-8") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == [str(n) for n in range(20)]


def test_labels_from_names_groups_and_balanced_classes(call, tmp_path, photos):
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in photos.rglob("*.png"):
        (flat / f"{file.parent.name}_{file.name}").write_bytes(file.read_bytes())
    words = ["--label-regex", r"(.+)_\d+", "--group-by", r"(\d)\.png", "--class-weights", "balanced", "--epochs", 1]
    made = call("train", flat, *FAST, *words, "--output", tmp_path / "run", "--json")
    assert made.code == 0, made.err
    assert made.data["classes"] == ["blue", "red"]
    assert load_learner(tmp_path / "run" / "model.safetensors").dls.vocab == ("blue", "red")


def test_a_table_with_numbers_and_a_column_for_validation(call, tmp_path):
    paint(tmp_path, n=6)
    rows = [f"{label}/{i}.png,{i / 2},{int(i > 3)}" for label in ("blue", "red") for i in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,size,held", *rows]))
    how = [*FAST, "--epochs", 1, "--valid-col", "held"]
    made = call("train", tmp_path / "labels.csv", *how, "--output", tmp_path / "run", "--json")
    assert made.code == 0, made.err
    assert {"rmse", "mae"} <= set(made.data) and (made.data["n_train"], made.data["n_valid"]) == (8, 4)
    shown = call("predict", tmp_path / "red" / "0.png", "--model", tmp_path / "run", "--json").data
    assert isinstance(shown[0]["value"], list)
    scores = call("evaluate", tmp_path / "labels.csv", "--model", tmp_path / "run", "--json").data
    assert scores["n"] == 12 and {"loss", "rmse", "mae"} <= set(scores)


def test_several_labels_in_a_cell(call, tmp_path):
    paint(tmp_path, n=6)
    rows = [f"{label}/{i}.png,{label} {'odd' if i % 2 else 'even'}" for label in ("blue", "red") for i in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,tags", *rows]))
    words = ["--label-delim", " ", "--epochs", 1, "--output", tmp_path / "run", "--json"]
    made = call("train", tmp_path / "labels.csv", *FAST, *words)
    assert made.code == 0, made.err
    assert made.data["classes"] == ["blue", "even", "odd", "red"] and "accuracy_multi" in made.data
    shown = call("predict", tmp_path / "red" / "0.png", "--model", tmp_path / "run", "--json").data
    assert set(shown[0]["probabilities"]) == {"blue", "even", "odd", "red"}


def test_folders_for_training_and_validation_decide_the_split(call, tmp_path):
    paint(tmp_path / "train", n=6)
    paint(tmp_path / "val", n=3, seed=1)
    made = call("train", tmp_path, *FAST, "--epochs", 1, "--output", tmp_path / "run", "--json")
    assert made.code == 0, made.err
    assert (made.data["n_train"], made.data["n_valid"]) == (12, 6)
    made = call("train", tmp_path, *FAST, "--valid-pct", 0.5, "--output", tmp_path / "run2")
    assert made.code == 1 and "`--valid-pct` does not go with" in made.err


def test_nothing_is_downloaded_unasked(call, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    fast = [word for word in FAST if word != "--no-pretrained"]
    made = call("train", photos, *fast, "--epochs", 1, "--valid-pct", 0, "--output", tmp_path / "run", "--json")
    assert made.code == 0, made.err
    assert "resnet18 starts with random weights" in made.err and "`--pretrained` downloads them" in made.err
    assert "(45 MB)" in made.err and made.data["n_valid"] == 0
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    made = call("train", photos, *fast, "--pretrained", "--output", tmp_path / "run2")
    assert made.code == 1 and "downloading 45 MB" in made.err and not (tmp_path / "run2").exists()
