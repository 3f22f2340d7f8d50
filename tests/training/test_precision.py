"""In fp16 callbacks see what the update takes, and clipping is that of fp32."""

import pytest
import torch
from torch import nn

from minilearner import Callback, CancelBatch, CancelStep, GradientAccumulation, GradientClip, LambdaCallback, Learner

PRECISIONS = ("fp32", "bf16", "fp16")


def batches(n=4):
    x = 0.1 * torch.randn(16 * n, 4, generator=torch.Generator().manual_seed(1))
    y = 3 * x.sum(1, keepdim=True)
    return list(zip(x.split(16), y.split(16), strict=True))


def fit(precision, *cbs, lr=1e-2, data=None):
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    data = batches() if data is None else data
    learn = Learner((data, data), model, nn.MSELoss(), torch.optim.SGD, precision=precision, device="cpu", cbs=cbs)
    with learn.no_logging():
        learn.fit(1, lr)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("n", [1, 2])
def test_callbacks_see_the_gradients_of_fp32(n):
    norms = {precision: [] for precision in PRECISIONS}
    for precision, seen in norms.items():
        note = LambdaCallback(before_step=lambda run, seen=seen: seen.append(float(run.model.weight.grad.norm())))
        fit(precision, note, GradientAccumulation(n))
    for precision in PRECISIONS[1:]:
        assert norms[precision] == pytest.approx(norms["fp32"], rel=0.03)


class Clip(Callback):
    """Clips by hand, as a user's callback would."""

    def before_step(self, run):
        nn.utils.clip_grad_norm_(run.model.parameters(), 0.1)


@pytest.mark.parametrize("clip", [Clip(), GradientClip(0.1)])
def test_clipping_is_that_of_fp32(clip):
    wanted = fit("fp32", clip, lr=0.5)
    assert not torch.allclose(wanted, fit("fp32", lr=0.5), atol=0.01)
    torch.testing.assert_close(fit("fp16", clip, lr=0.5), wanted, rtol=0.02, atol=2e-3)


class Cancels(Callback):
    """Cancels the second update in `before_step`."""

    def __init__(self, cancel):
        self.cancel, self.n = cancel, 0

    def before_step(self, run):
        self.n += 1
        if self.n == 2:
            raise self.cancel


@pytest.mark.parametrize(("cancel", "n"), [(CancelStep, 1), (CancelBatch, 1), (CancelStep, 2), (CancelBatch, 2)])
def test_an_update_cancelled_after_the_scale_was_taken_out_is_followed_by_right_ones(cancel, n):
    wanted, found = (
        fit(precision, Cancels(cancel), GradientAccumulation(n), data=batches(6)) for precision in ("fp32", "fp16")
    )
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=2e-3)


def test_a_precision_equals_its_name():
    seen = []
    fit("fp16", LambdaCallback(before_fit=lambda run: seen.append((run.step.precision, str(run.step.precision)))))
    assert seen == [("fp16", "fp16")]
    assert seen[0][0] != "fp32" and {seen[0][0]: 1}["fp16"] == 1
