"""Searches for a learning rate, a width and a dropout with Optuna, which ends hopeless trials early.

    pip install optuna
    python examples/optuna_sweep.py             30 trials on scikit-learn's digits: a minute on two cores
    python examples/optuna_sweep.py --small     a quick run that only checks that everything works

The trials are kept in `sweep.db`. Kill the script at any moment and run it again: it makes the trials that are missing,
first the one that was cut off. To search your own arguments, change `objective`.
"""

import argparse

import optuna
import torch
from optuna.trial import TrialState
from sklearn.datasets import load_digits

from minilearner import Callback, DataLoaders, Learner, accuracy, set_seed


class Prune(Callback):
    """Reports a metric to Optuna after each epoch, and ends the trial if the others were better by then."""

    order = 66  # after the metrics are known

    def __init__(self, trial, monitor):
        self.trial, self.monitor = trial, monitor

    def after_epoch(self, run):
        self.trial.report(run.metrics[self.monitor], run.epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def objective(trial, epochs):
    """Trains with the arguments that Optuna suggests, and returns the accuracy on the validation set."""
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    width = trial.suggest_int("width", 8, 128, log=True)
    dropout = trial.suggest_float("dropout", 0.0, 0.5)
    set_seed(0)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    dls = DataLoaders.from_arrays((x[:1400], y[:1400]), (x[1400:], y[1400:]), bs=64, seed=0)
    hidden = [torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Dropout(dropout)]
    learn = Learner(dls, torch.nn.Sequential(*hidden, torch.nn.Linear(width, 10)), metrics=accuracy)
    with learn.no_logging():
        record = learn.fit_one_cycle(epochs, lr, cbs=Prune(trial, "accuracy"))
    return record.history["accuracy"][-1]


def open_study(storage):
    """Opens the study, or begins it. A trial that was cut off is put down as failed, and waits to be tried again."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
    study = optuna.create_study(
        study_name="digits", storage=storage, direction="maximize", pruner=pruner, load_if_exists=True
    )
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="make 8 trials of 2 epochs")
    parser.add_argument("--storage", default="sqlite:///sweep.db", help="where Optuna keeps the trials")
    args = parser.parse_args()
    n_trials, epochs = (8, 2) if args.small else (30, 10)
    study = open_study(args.storage)
    n_done = len(study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED]))
    if n_done < n_trials:
        study.optimize(lambda trial: objective(trial, epochs), n_trials=n_trials - n_done)
    n_pruned = len(study.get_trials(states=[TrialState.PRUNED]))
    print(f"{n_trials} trials, {n_pruned} of them ended early")
    print(f"best accuracy {study.best_value:.4f} with {study.best_params}")


if __name__ == "__main__":
    main()
