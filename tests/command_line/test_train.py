"""A training writes everything into one new folder, and continues to the same bits wherever it is killed."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from minilearner import load_learner
from minilearner.command_line.loaders import make_loaders
from minilearner.command_line.settings import Settings

from .conftest import FAST, paint

QUICK = [*FAST, "--lr", "0.01"]


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
    made = call("train", photos, *QUICK, "--output", run)
    assert made.code == 1 and f"minilearner resume {run}" in made.err and f"--output {run}-2" in made.err
    assert sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before


def test_the_folder_is_named_after_the_data(call, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "photos").mkdir(parents=True)
    made = call("train", photos)
    assert made.err == "Error: runs/photos exists already. Start in a new folder: --output runs/photos-2.\n"


def test_a_run_is_no_part_of_its_own_data(call, tmp_path, monkeypatch):
    monkeypatch.chdir(paint(tmp_path / "photos", n=2))
    made = call("train", ".", *QUICK)
    assert made.code == 1 and not (tmp_path / "photos" / "runs").exists()
    assert made.err == (
        "Error: runs/photos would be below ., so its figures would be among the images. Give a folder elsewhere: "
        "--output ../runs/photos.\n"
    )


def test_the_next_command_can_be_pasted(call, photos, tmp_path):
    made = call("train", photos, *QUICK, "--epochs", 1, "--output", tmp_path / "my run's")
    assert shlex.split(made.out.splitlines()[-1])[-1] == str(tmp_path / "my run's")


def test_data_that_have_moved_are_named_anew(trained, call, photos, tmp_path):
    run, _ = trained
    moved, there = shutil.copytree(run, tmp_path / "run"), shutil.copytree(photos, tmp_path / "there")
    config = moved / "config.toml"
    config.write_text(config.read_text().replace(str(photos), "/nowhere/photos"))
    (moved / "model.safetensors").unlink()
    gone = call("resume", moved)
    assert gone.code == 1 and "/nowhere/photos, are gone. If they have moved, give `--data`." in gone.err
    done = call("resume", moved, "--data", there, "--json")
    assert done.code == 0 and "finished before" in done.err and read_weights(moved) == read_weights(run)
    assert call("report", moved, "--data", there).code == 0


@pytest.mark.parametrize("delim", [None, " "])
def test_a_rare_class_is_trained_on(tmp_path, delim):
    paint(tmp_path, n=10)
    rows = [f"{label}/{i}.png,{label}" for label in ("blue", "red") for i in range(10)]
    rows[3] += "-rare" if delim is None else " rare"
    (tmp_path / "labels.csv").write_text("\n".join(["file,tags", *rows]))
    for seed in range(8):  # with half of the items, the rare label is for validation in some of them
        settings = Settings(str(tmp_path / "labels.csv"), label_delim=delim, valid_pct=0.5, size=32, seed=seed)
        dls = make_loaders(settings)
        assert len(dls.vocab) == 3 and dls.valid.n_items >= 9


@pytest.mark.parametrize("command", ["train", "check", "lr-find"])
def test_one_class_is_refused_before_anything_is_made(call, photos, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    made = call(command, photos, "--label-regex", r"\.(png)", "--size", 32)
    assert made.code == 1 and "one class" in made.err and not (tmp_path / "runs").exists()


def test_unreadable_images_are_left_out_if_asked(call, tmp_path):
    paint(tmp_path / "photos", n=6)
    whole = (tmp_path / "photos" / "red" / "0.png").read_bytes()
    (tmp_path / "photos" / "red" / "cut.png").write_bytes(whole[:-40])
    (tmp_path / "photos" / "blue" / "empty.jpg").write_bytes(b"")
    words = ["train", tmp_path / "photos", *QUICK, "--epochs", 1, "--output", tmp_path / "run", "--json"]
    made = call(*words)
    assert made.code == 1 and "train without" in made.err and "by `--on-unreadable skip`." in made.err
    made = call(*words, "--on-unreadable", "skip")
    assert made.code == 0 and "2 items cannot be read and are left out" in made.err
    assert made.data["n_train"] + made.data["n_valid"] == 12


def test_a_table_of_a_spreadsheet(call, tmp_path):
    paint(tmp_path, n=4)
    rows = [f"{label}/{i}.png;{name}" for label, name in (("blue", "blåbær"), ("red", "rød")) for i in range(4)]
    (tmp_path / "labels.csv").write_bytes("\r\n".join(["Fil;Navn", *rows]).encode("cp1252"))
    words = [
        "train",
        tmp_path / "labels.csv",
        *QUICK,
        "--epochs",
        1,
        "--lr",
        0.01,
        "--output",
        tmp_path / "run",
        "--json",
    ]
    made = call(*words)
    assert made.code == 1 and "give its `--encoding`" in made.err
    made = call(*words, "--encoding", "cp1252")
    assert made.code == 0 and made.data["classes"] == ["blåbær", "rød"]


def test_a_missing_label_is_named_by_its_line(call, tmp_path):
    paint(tmp_path, n=4)
    rows = [f"{label}/{i}.png,{label if i else ''}" for label in ("blue", "red") for i in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    made = call("train", tmp_path / "labels.csv", *QUICK, "--output", tmp_path / "run")
    assert made.code == 1 and "labels are missing: line 2 of " in made.err.replace("label is", "labels are")


def test_an_unknown_column_of_groups_is_named(call, tmp_path, photos):
    (tmp_path / "labels.csv").write_text("file,label,who\na.png,a,x\nb.png,b,y\n")
    made = call("train", tmp_path / "labels.csv", "--group-by", "hwo", "--output", tmp_path / "run")
    assert made.err == (
        "Error: `--group-by` failed on all items: there is no column 'hwo'. Did you mean 'who'? "
        "Columns: file, label, who. Correct `--group-by`.\n"
    )


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("nothing", "there is no folder or table"),
        ("photo.png", "the data must be a folder, or a table in a .csv or .tsv file"),
    ],
)
def test_what_is_neither_a_folder_nor_a_table_is_refused(call, tmp_path, missing, said):
    (tmp_path / "photo.png").write_bytes(b"")
    for words in (["train", "--output", tmp_path / "run"], ["check"], ["evaluate", "--model", tmp_path / "photo.png"]):
        made = call(*words, tmp_path / missing)
        assert made.code == 1 and (said in made.err or words[0] == "evaluate")


def test_a_failure_before_anything_is_saved_leaves_no_folder(call, photos, tmp_path, monkeypatch):
    def fail(*args, **how):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("minilearner.learner.Learner.fit_one_cycle", fail)
    assert call("train", photos, *QUICK, "--output", tmp_path / "run").code == 1
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
    words = ["train", photos, *QUICK, "--epochs", epochs, "--output", run]
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
    while not any((run / "checkpoint").glob("checkpoint-*/manifest.json")):
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
    made = call("train", flat, *QUICK, *words, "--output", tmp_path / "run", "--json")
    assert made.code == 0, made.err
    assert made.data["classes"] == ["blue", "red"]
    assert load_learner(tmp_path / "run" / "model.safetensors").dls.vocab == ("blue", "red")


def test_a_table_with_numbers_and_a_column_for_validation(call, tmp_path):
    paint(tmp_path, n=6)
    rows = [f"{label}/{i}.png,{i / 2},{int(i > 3)}" for label in ("blue", "red") for i in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,size,held", *rows]))
    how = [*QUICK, "--epochs", 1, "--valid-col", "held"]
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
    made = call("train", tmp_path / "labels.csv", *QUICK, *words)
    assert made.code == 0, made.err
    assert made.data["classes"] == ["blue", "even", "odd", "red"] and "accuracy_multi" in made.data
    shown = call("predict", tmp_path / "red" / "0.png", "--model", tmp_path / "run", "--json").data
    assert set(shown[0]["probabilities"]) == {"blue", "even", "odd", "red"}


def test_folders_for_training_and_validation_decide_the_split(call, tmp_path):
    paint(tmp_path / "train", n=6)
    paint(tmp_path / "val", n=3, seed=1)
    made = call("train", tmp_path, *QUICK, "--epochs", 1, "--output", tmp_path / "run", "--json")
    assert made.code == 0, made.err
    assert (made.data["n_train"], made.data["n_valid"]) == (12, 6)
    made = call("train", tmp_path, *QUICK, "--valid-pct", 0.5, "--output", tmp_path / "run2")
    assert made.code == 1 and "`--valid-pct` does not go with" in made.err


def test_nothing_is_downloaded_unasked(call, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    fast = [word for word in QUICK if word != "--no-pretrained"]
    made = call("train", photos, *fast, "--epochs", 1, "--valid-pct", 0, "--output", tmp_path / "run", "--json")
    assert made.code == 0, made.err
    assert "resnet18 starts with random weights" in made.err and "`--pretrained` downloads them" in made.err
    assert "(45 MB)" in made.err and made.data["n_valid"] == 0
    monkeypatch.setenv("MINILEARNER_OFFLINE", "1")
    made = call("train", photos, *fast, "--pretrained", "--output", tmp_path / "run2")
    assert made.code == 1 and "downloading 45 MB" in made.err and not (tmp_path / "run2").exists()
