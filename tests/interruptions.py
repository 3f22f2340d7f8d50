"""Callbacks that end a run as a crash in user code does."""

from minilearner import Callback


class Stop(Exception):
    """The crash."""


class StopAt(Callback):
    """Raises `Stop` after update number `step`; None lets the run go on. A checkpoint sees no difference."""

    order = 200

    def __init__(self, step):
        self.step = step

    def load_state_dict(self, state):
        """Restores nothing, because the script decides when to stop."""

    def before_fit(self, run):
        self.run = run

    def after_batch(self, run):
        if run.training and run.global_step == self.step:
            raise Stop
