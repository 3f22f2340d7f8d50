"""The example's sweep with the real Optuna: pruned, killed, and gone on with."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

EXAMPLE = Path(__file__).parents[2] / "examples" / "optuna_sweep.py"
STORAGE = "sqlite:///sweep.db"
pytestmark = pytest.mark.filterwarnings("default")  # Optuna's own warnings are no concern of ours


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("optuna_sweep", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Kills its own process in the first epoch of the third trial.
KILLED = f"""
import os, runpy, signal, sys
from minilearner import Learner
fit = Learner.fit_one_cycle
def fit_or_die(learn, n_epoch, lr, cbs):
    if cbs.trial.number == 2:
        cbs.after_epoch = lambda run: os.kill(os.getpid(), signal.SIGKILL)
    return fit(learn, n_epoch, lr, cbs=cbs)
Learner.fit_one_cycle = fit_or_die
sys.argv = [{str(EXAMPLE)!r}, "--small", "--storage", {STORAGE!r}]
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""


def run(*command):
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1])}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, timeout=240, check=False
    )


def count(*states):
    return len(optuna.load_study(study_name="digits", storage=STORAGE).get_trials(states=list(states)))


def test_a_killed_sweep_goes_on_from_its_storage():
    assert run("-c", KILLED).returncode == -signal.SIGKILL
    assert count(TrialState.COMPLETE, TrialState.PRUNED) == 2 and count(TrialState.RUNNING) == 1
    again = run(str(EXAMPLE), "--small", "--storage", STORAGE)
    assert again.returncode == 0, again.stderr
    assert count(TrialState.COMPLETE, TrialState.PRUNED) == 8 and count(TrialState.RUNNING) == 0
    study = optuna.load_study(study_name="digits", storage=STORAGE)
    (failed,) = study.get_trials(states=[TrialState.FAIL])
    assert failed.params.items() <= study.trials[failed.number + 1].params.items()
    assert again.stdout.splitlines()[-1] == f"best accuracy {study.best_value:.4f} with {study.best_params}"


def test_a_hopeless_trial_ends_after_its_first_epoch(example):
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=2.0))
    study.optimize(lambda trial: example.objective(trial, 3), n_trials=1)
    (trial,) = study.trials
    assert trial.state == TrialState.PRUNED and list(trial.intermediate_values) == [0]


def test_a_trial_of_the_same_arguments_has_the_same_value(example):
    params = {"lr": 0.03, "width": 32, "dropout": 0.1}
    values = [example.objective(optuna.trial.FixedTrial(params), 2) for _ in range(2)]
    assert values[0] == values[1] > 0.5
