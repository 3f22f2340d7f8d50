"""The services' own libraries read back what our loggers wrote. `.ci/extras` installs them and runs this."""

import glob
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import torch
import wandb
from mlflow import MlflowClient
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from wandb.proto import wandb_internal_pb2

from minilearner import DataLoaders, Learner, MLflowLogger, TensorBoardLogger, WandbLogger, accuracy

pytestmark = pytest.mark.filterwarnings("default")  # the services' own warnings are no concern of ours


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # nobody has logged in there
    return tmp_path


def learner(**options):
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(48, 3, 8, 8, generator=g), torch.arange(48) % 3
    dls = DataLoaders.from_arrays((x, y), (x[:20], y[:20]), bs=8, seed=1, vocab=["a", "b", "c"], device="cpu")
    torch.manual_seed(0)
    return Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), device="cpu", metrics=accuracy, **options)


def fit(n=2, **options):
    learn = learner()
    with learn.no_logging():
        return learn, learn.fit(n, 0.01, **options)


def board(folder="runs"):
    """Returns what TensorBoard itself knows of the only run."""
    (run,) = Path(folder).iterdir()
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return run, events.Reload()


def test_tensorboard_reads_back_all_values_settings_figures_and_the_model():
    learn, record = fit(loggers="tensorboard")
    run, events = board()
    steps = [(e.step, pytest.approx(e.value)) for e in events.Scalars("step/loss")]
    assert steps == list(enumerate(record.steps["loss"].tolist(), start=1))
    for name in ("valid_loss", "accuracy", "train_loss", "time_seconds"):
        assert [e.value for e in events.Scalars(f"epoch/{name}")] == pytest.approx(record.history[name])
    assert {"step/lr", "system/items_per_second", "system/memory_gib"} <= set(events.Tags()["scalars"])
    assert set(events.Tags()["images"]) == {"confusion_matrix", "top_losses"}
    (settings,) = events.Tensors("settings/text_summary")
    assert b"| lr | 0.01 |" in settings.tensor_proto.string_val[0]
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")
    weights = load_file(run / "model.safetensors")
    assert any(torch.equal(t, learn.model[1].weight) for t in weights.values())


def read_records(data):
    """Yields the records of a file in LevelDB's log format: chunks with a head of 7 bytes, in blocks of 32 KiB."""
    at, record, block = 7, b"", 1 << 15  # W&B's own head comes first
    while at + 7 <= len(data):
        if block - at % block < 7:  # no head fits into the rest of a block
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last chunk
            yield record
            record = b""


class OfflineRun:
    """What is in the files of an offline run, which `wandb sync` would send."""

    def __init__(self, folder):
        self.rows, self.config, self.artifacts, self.exit = [], {}, [], None
        paths = Path(folder).glob("*.wandb")  # none at first
        for data in (data for path in paths for data in read_records(path.read_bytes())):
            record = wandb_internal_pb2.Record.FromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "history":
                items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                self.rows.append({name: json.loads(text) for name, text in items.items()})
            elif kind == "run":
                self.id, self.project = record.run.run_id, record.run.project
                self.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            elif kind == "exit":
                self.exit = record.exit.exit_code
            elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
                self.artifacts.append(record.request.log_artifact.artifact)
            elif kind == "artifact":
                self.artifacts.append(record.artifact)

    def column(self, name):
        return [(row["_step"], row[name]) for row in self.rows if name in row]


def read_offline_run():
    """Returns the newest one, as soon as it has ended: W&B writes in a process of its own."""
    *_, folder = sorted(glob.glob("wandb/offline-run-*"))
    for _ in range(600):
        run = OfflineRun(folder)
        if run.exit is not None:
            break
        time.sleep(0.1)
    return run


def test_wandb_writes_an_offline_run_for_people_who_have_not_logged_in():
    _, record = fit(loggers="wandb")
    run = read_offline_run()
    assert run.column("step/loss") == list(enumerate(record.steps["loss"].tolist(), start=1))
    assert run.column("epoch/valid_loss") == list(zip([6, 12], record.history["valid_loss"]))
    assert run.config["lr"] == 0.01 and run.config["weights"] == 579 and run.project == "minilearner"
    images = [name for row in run.rows for name in row if isinstance(row[name], dict)]
    assert {"confusion_matrix", "top_losses"} <= set(images) or glob.glob("wandb/offline-run-*/files/media/images/*")
    assert [artifact.type for artifact in run.artifacts] == ["model"] and run.exit == 0
    assert wandb.run is None


def database():
    return f"sqlite:///{Path.cwd()}/a.db"  # MLflow keeps databases open by their names


def only_run(client):
    (experiment,) = [e for e in client.search_experiments() if e.name == "minilearner"]
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def history(client, run, name):
    return [(m.step, m.value) for m in sorted(client.get_metric_history(run.info.run_id, name), key=lambda m: m.step)]


def test_mlflow_reads_back_all_values_settings_figures_and_the_model():
    _, record = fit(loggers=MLflowLogger(tracking_uri=database()))
    client = MlflowClient(database())
    run = only_run(client)
    assert history(client, run, "step/loss") == list(enumerate(record.steps["loss"].tolist(), start=1))
    assert history(client, run, "epoch/valid_loss") == list(zip([6, 12], record.history["valid_loss"]))
    assert run.data.params["lr"] == "0.01" and run.data.params["optimizer"] == "AdamW"
    assert run.info.status == "FINISHED" and mlflow.active_run() is None
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names == {"confusion_matrix.png", "top_losses.png", "model.safetensors"}


SCRIPT = """
import os, signal, sys, torch
sys.path.insert(0, sys.argv[1])
from test_services import learner
from minilearner import Callback, Checkpoint, MLflowLogger, TensorBoardLogger, WandbLogger

class Kill(Callback):
    order = 102  # after the loggers
    def after_batch(self, run):
        if run.training and run.global_step == int(sys.argv[2]):
            for log in loggers:
                log._send()  # more is logged than the checkpoint knows
            os.kill(os.getpid(), signal.SIGKILL)

loggers = [TensorBoardLogger("runs"), WandbLogger(), MLflowLogger(tracking_uri="sqlite:///" + os.path.abspath("a.db"))]
learner().fit(4, 0.01, cbs=[Kill()], loggers=loggers, checkpoint=Checkpoint("run", every_epochs=1))
"""


def run_script(kill):
    here = Path(__file__).parent
    command = [sys.executable, "-c", SCRIPT, here, str(kill)]
    own = {
        name: value for name, value in os.environ.items() if "WANDB_SERVICE" not in name
    }  # not this process's service
    return subprocess.run(command, capture_output=True, text=True, env=own | {"MPLBACKEND": "agg"})


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_same_run_of_each_service():
    _, whole = fit(4)
    wanted = [(i, pytest.approx(loss, rel=1e-6)) for i, loss in enumerate(whole.steps["loss"].tolist(), start=1)]
    rows = list(zip([6, 12, 18, 24], [pytest.approx(loss, rel=1e-6) for loss in whole.history["valid_loss"]]))
    assert run_script(15).returncode == -signal.SIGKILL
    assert run_script(0).returncode == 0

    _, events = board()
    assert [(e.step, e.value) for e in events.Scalars("step/loss")] == wanted
    assert [(e.step, e.value) for e in events.Scalars("epoch/valid_loss")] == rows

    client = MlflowClient(database())
    run = only_run(client)
    assert history(client, run, "step/loss") == wanted and history(client, run, "epoch/valid_loss") == rows
    assert run.info.status == "FINISHED"

    killed, *_ = ids = [path.rpartition("-")[2] for path in sorted(glob.glob("wandb/offline-run-*"))]
    assert ids == [killed, killed]  # `wandb sync` joins them by steps
    assert read_offline_run().column("step/loss") == wanted and read_offline_run().column("epoch/valid_loss") == rows


def test_several_runs_follow_each_other_in_one_run():
    learn = learner(loggers=["tensorboard", MLflowLogger(tracking_uri=database(), figures=False)])
    with learn.no_logging():
        learn.fit(1)
        learn.fine_tune(1)
    _, events = board()
    client = MlflowClient(database())
    assert [e.step for e in events.Scalars("step/loss")] == list(range(1, 19))
    assert [at for at, _ in history(client, only_run(client), "step/loss")] == list(range(1, 19))


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: TensorBoardLogger(folder / "file" / "runs"),
        lambda folder: WandbLogger(mode="online"),
        lambda folder: MLflowLogger(tracking_uri="http://127.0.0.1:9"),
    ],
    ids=["tensorboard", "wandb", "mlflow"],
)
def test_a_service_that_cannot_be_reached_does_not_end_training(make, folder, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (folder / "file").touch()
    _, record = fit(loggers=make(folder))
    assert len(record.epochs) == 2
    assert capsys.readouterr().err.count("failed, and training goes on") == 1


def test_copies_of_a_learner_with_loggers_can_be_made(folder):
    import copy

    learn = learner(loggers="tensorboard")
    with learn.no_logging():
        learn.fit(1)
        copied = copy.deepcopy(learn)
        copied.fit(1)
    assert len(copied.recorder.runs) == 2 and len(learn.recorder.runs) == 1
