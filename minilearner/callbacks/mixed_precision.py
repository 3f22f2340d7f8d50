"""`MixedPrecision`: fastai's callback that trains in fp16 or bf16. `training.precision` computes."""

from __future__ import annotations

from minilearner.callbacks.progress import announce
from minilearner.checks import check_choice
from minilearner.training.callback import Callback
from minilearner.training.precision import Precision, make_precision
from minilearner.training.run import Run

__all__ = ["MixedPrecision"]


class MixedPrecision(Callback):
    """Trains in fp16 or bf16 as long as it is there. A learner's `to_fp16` and `to_bf16` do so from then on.

    On a CPU, where fp16 is up to fifty times slower, "fp16" leaves the learner's own precision, and a line says so.

    Args:
        amp_mode: "fp16" or "bf16".

    Raises:
        ValueError: `amp_mode` is something else. When a run begins: a sharded model was to be trained in fp16.
    """

    order = 10
    part_of_step = True
    ignored_arguments = ()

    def __init__(self, amp_mode: str = "fp16"):
        check_choice(amp_mode, "amp_mode", ("fp16", "bf16"))
        self.amp_mode = amp_mode

    def before_fit(self, run: Run) -> None:
        self._own: Precision | None = None
        if self.amp_mode == "fp16" and run.dls.device.type == "cpu":
            if run.record is not None:
                announce(run, f"MixedPrecision: fp16 is slow on a CPU, so this trains in {run.step.precision.name}.")
            return
        if self.amp_mode == "fp16" and run.step.strategy.passes_together:
            raise ValueError('a sharded model trains in "fp32" or "bf16". Give MixedPrecision("bf16").')
        self._own, run.step.precision = run.step.precision, make_precision(self.amp_mode, run.model)

    def after_fit(self, run: Run) -> None:
        if self._own is not None:
            run.step.precision = self._own

    def __repr__(self) -> str:
        return f"MixedPrecision({self.amp_mode!r})"
