"""Callbacks of one's own, with the run, in fastai's style, and with a step of one's own."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import assert_type

from minilearner import Callback, CancelFit, LambdaCallback, Learner, ParamScheduler, Run, cosine, plot_schedule, warmup


class StopAt(Callback):
    order = 70

    def __init__(self, loss: float) -> None:
        self.loss = loss
        self.seen: list[float] = []

    def after_batch(self, run: Run) -> None:
        if run.training:
            self.seen.append(run.loss.item())

    def after_epoch(self, run: Run) -> None:
        assert_type(run.epoch, int)
        if run.metrics["train_loss"] < self.loss:
            raise CancelFit


class Distill(Callback):
    part_of_step = True

    def __init__(self, teacher: nn.Module) -> None:
        self.teacher = teacher.eval()

    def before_fit(self, run: Run) -> None:
        run.process_batch = partial(self.train, run)

    def train(self, run: Run) -> None:
        with torch.no_grad():
            wanted = self.teacher(run.x).softmax(1)
        run.pred = run.step.predict(run.x)
        run.loss = run.step.compute_loss(run.pred, run.y) + F.cross_entropy(run.pred, wanted)
        run.step.backward(run.loss, len(run.x))


class Clip(Callback):
    def before_step(self, run: Run) -> None:
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        for group in run.optimizer.param_groups:
            group["lr"] = min(group["lr"], 0.1)


def train(learn: Learner, teacher: nn.Module) -> None:
    learn.fit(10, lr=0.01, cbs=StopAt(0.5))
    learn.fit(10, cbs=[StopAt(loss=0.5), Distill(teacher), Clip()])
    schedule = warmup(cosine(0.1, 1e-4), pct=0.1)
    plot_schedule(schedule, n_steps=200)
    learn.fit(4, cbs=ParamScheduler({"lr": schedule}))
    learn.fit(4, cbs=LambdaCallback(after_epoch=lambda run: print(run.epoch, run.lrs)))
    with learn.added_cbs(Clip()):
        learn.fit_one_cycle(1)
    learn.remove_cb(Clip)


class Wrong(Callback):
    def after_batch(self, run: int) -> None:  # error expected
        pass


StopAt("low")  # error expected
StopAt(los=0.5)  # error expected
