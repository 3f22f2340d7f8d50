"""Ctrl-C in a validation ends a run, whose last epoch was trained and belongs to every log."""

import csv

import pytest
import torch
from torch import nn

from minilearner import Callback, CSVLogger, DataLoaders, Learner


class InterruptValidation(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def before_validate(self, run):
        if run.epoch == self.epoch:
            raise KeyboardInterrupt


class Count(Callback):
    def __init__(self):
        self.epochs = []

    def after_epoch(self, run):
        self.epochs.append(run.epoch)


def test_the_epoch_that_was_trained_is_in_the_record_the_file_and_the_callbacks(tmp_path):
    batches = [(torch.randn(4, 2), torch.randint(2, (4,))) for _ in range(3)]
    learn = Learner(DataLoaders(batches, batches), nn.Linear(2, 2), nn.CrossEntropyLoss(), path=tmp_path)
    count, file = Count(), tmp_path / "log.csv"
    with learn.no_logging(), pytest.raises(KeyboardInterrupt):
        learn.fit(3, cbs=[InterruptValidation(1), count, CSVLogger(file)])
    assert count.epochs == [0, 1]
    assert [row["epoch"] for row in learn.recorder.runs[-1].epochs] == [0, 1]
    rows = csv.DictReader(file.read_text().splitlines())
    assert [row["epoch"] for row in rows] == ["0", "1"]


def test_an_interrupt_in_training_leaves_the_unfinished_epoch_out(tmp_path):
    class InterruptTraining(Callback):
        def after_batch(self, run):
            if run.training and run.epoch == 1:
                raise KeyboardInterrupt

    batches = [(torch.randn(4, 2), torch.randint(2, (4,))) for _ in range(3)]
    learn = Learner(DataLoaders(batches, batches), nn.Linear(2, 2), nn.CrossEntropyLoss(), path=tmp_path)
    count = Count()
    with learn.no_logging(), pytest.raises(KeyboardInterrupt):
        learn.fit(3, cbs=[InterruptTraining(), count])
    assert count.epochs == [0]


def test_a_run_that_resumes_after_it_has_each_epoch_once(tmp_path):
    def train(*cbs):
        torch.manual_seed(0)
        batches = [(torch.randn(4, 2), torch.randint(2, (4,))) for _ in range(3)]
        learn = Learner(DataLoaders(batches, batches), nn.Linear(2, 2), nn.CrossEntropyLoss(), path=tmp_path)
        with learn.no_logging():
            learn.fit(3, cbs=[CSVLogger(tmp_path / "log.csv"), *cbs], checkpoint=tmp_path / "run")
        return learn

    class Interrupt(Callback):
        ignored_arguments = ()

        def before_validate(self, run):
            if run.epoch == 1 and not (tmp_path / "interrupted").exists():
                (tmp_path / "interrupted").touch()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Interrupt())
    learn = train(Interrupt())
    rows = csv.DictReader((tmp_path / "log.csv").read_text().splitlines())
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [row["epoch"] for row in learn.recorder.runs[-1].epochs] == [0, 1, 2]
