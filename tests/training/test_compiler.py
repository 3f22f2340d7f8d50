"""A compiled run does what an eager one does, and refuses what does not work with it.

If there is a C++ compiler, torch's own backend compiles. Otherwise the same graphs run without one.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from minilearner import (
    EMA,
    ActivationStats,
    Callback,
    Checkpoint,
    DataLoaders,
    GradientAccumulation,
    GradientCheckpointing,
    Learner,
    accuracy,
    load_learner,
)

ROOT = Path(__file__).parents[2]
FAST = {"backend": "aot_eager"}
FULL = True if shutil.which("g++") or shutil.which("clang++") else FAST


@pytest.fixture(autouse=True)
def _afresh():
    yield
    torch.compiler.reset()


def learner(compile=FAST, **options):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    model = nn.Sequential(body, nn.Linear(8, 3))
    x, y = torch.randn(22, 4), torch.arange(22) % 3
    dls = DataLoaders.from_arrays((x, y), (x[:9], y[:9]), bs=8, seed=0, drop_last=False)  # the last batch is short
    splitter = lambda m: [list(m[0].parameters()), list(m[1].parameters())]  # noqa: E731 - body and head
    options = {
        "opt_func": torch.optim.SGD,
        "lr": 0.1,
    } | options  # Adam turns rounding errors of what should be 0 into whole steps
    return Learner(dls, model, splitter=splitter, metrics=accuracy, compile=compile, device="cpu", **options)


def assert_alike(a, b, atol=1e-5):
    expected = b.model.state_dict()
    assert list(a.model.state_dict()) == list(expected)
    for name, value in a.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=atol, rtol=1e-4, msg=name)
    assert list(a.recorder.losses) == pytest.approx(list(b.recorder.losses), abs=atol)


def both(use, *, atol=1e-5, compile=FAST, **options):
    """Uses a compiled and an eager learner in the same way."""
    learners = [learner(compile, **options), learner(False, **options)]
    for learn in learners:
        with learn.no_logging():
            use(learn)
    assert_alike(*learners, atol=atol)
    return learners


@pytest.mark.slow
def test_a_compiled_run_is_an_eager_one():
    compiled, eager = both(lambda learn: learn.fit_one_cycle(2), compile=FULL)
    assert compiled.recorder.runs[0].settings["compiled"] and "compiled" not in eager.recorder.runs[0].settings
    assert compiled.validate() == pytest.approx(eager.validate(), abs=1e-5)


def test_the_graph_is_what_a_step_runs():
    calls = []

    def backend(graph, inputs):
        return lambda *args: calls.append(torch.is_grad_enabled()) or graph.forward(*args)

    learn = learner({"backend": backend})
    with learn.no_logging():
        learn.fit(1)
        assert calls == [True] * 3 + [False] * 2
        learn.get_preds(), learn.predict(torch.zeros(4)), learn.summary()
    assert len(calls) == 5


@pytest.mark.slow
def test_frozen_layers_rest_and_learn_again():
    def use(learn):
        learn.freeze()
        learn.fit(1)
        learn.unfreeze()
        learn.fit(1)

    both(use, train_bn=False)


@pytest.mark.slow
def test_a_sweep_leaves_no_trace():
    def use(learn):
        before = [p.detach().clone() for p in learn.model.parameters()]
        learn.lr_find(num_it=8, show_plot=False, suggest_funcs=None)
        assert all(map(torch.equal, before, learn.model.parameters()))
        learn.fit(1)

    both(use)


@pytest.mark.slow
def test_accumulation_averages_and_bf16_go_with_it():
    both(lambda learn: learn.fit(2, cbs=[GradientAccumulation(n_batches=2), EMA(0.9)]))
    both(lambda learn: learn.fit(1), precision="bf16", atol=2e-2)


class Stop(Callback):
    is_due = True

    def after_batch(self, run):
        if Stop.is_due and run.training and run.global_step == 4:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint_with_or_without(tmp_path, monkeypatch):
    compiled, whole = learner(), learner(False)
    with compiled.no_logging(), pytest.raises(KeyboardInterrupt):
        compiled.fit(3, cbs=Stop(), checkpoint=Checkpoint(tmp_path, every_steps=1))
    monkeypatch.setattr(Stop, "is_due", False)
    eager = learner(False)
    with eager.no_logging(), whole.no_logging():
        eager.fit(3, cbs=Stop(), checkpoint=Checkpoint(tmp_path, every_steps=1))
        whole.fit(3)
    assert_alike(eager, whole)


@pytest.mark.slow
def test_an_export_knows_nothing_of_it(tmp_path):
    learn = learner()
    with learn.no_logging():
        learn.fit(1)
        again = load_learner(learn.export(tmp_path / "e.safetensors"), model=learner(False).model)
    assert torch.equal(again.predict(torch.ones(4))[2], learn.predict(torch.ones(4))[2])


@pytest.mark.slow
@pytest.mark.parametrize("callback", [lambda _: ActivationStats(), lambda model: GradientCheckpointing([model[1]])])
def test_callbacks_that_change_how_layers_are_called_are_refused(callback):
    learn = learner()
    before = [p.detach().clone() for p in learn.model.parameters()]
    with learn.no_logging():
        with pytest.raises(ValueError, match=r"compile=False"):
            learn.fit(1, cbs=callback(learn.model))
        assert all(map(torch.equal, before, learn.model.parameters()))
        learn.fit(1)


@pytest.mark.slow
def test_your_own_hooks_are_compiled_in_and_run():
    seen = []

    def use(learn):
        learn.fit(1)
        handle = learn.model[0].register_forward_hook(lambda module, inputs, output: output * 2)
        learn.fit(1)
        handle.remove()
        learn.fit(1)
        seen.append(learn.recorder.losses)

    both(use)


def test_a_missing_compiler_is_reported():
    from torch._inductor import config

    learn = learner(True)
    none = config.patch({"cpp.cxx": ("no-compiler-here",)})
    with none, learn.no_logging(), pytest.raises(RuntimeError, match="needs a C\\+\\+ compiler"):
        learn.fit(1)


@pytest.mark.parametrize(
    ("compile", "error", "match"),
    [
        ("reduce-overheads", ValueError, "'reduce-overhead'"),
        ({"backends": "eager"}, ValueError, "no argument 'backends'"),
        ({"mode": "fast"}, ValueError, "must be one of"),
        (3, TypeError, "compile=3"),
        (None, TypeError, "compile=None"),
    ],
)
def test_what_torch_compile_does_not_have_is_refused(compile, error, match):
    with pytest.raises(error, match=match):
        learner(compile)


WITHOUT_COMPILER = """
import torch
from minilearner import Callback, DataLoaders, Learner

class Steps(Callback):
    def before_fit(self, run):
        print("a run began")

dls = DataLoaders.from_arrays((torch.rand(8, 4), torch.arange(8) % 2), bs=4)
Learner(dls, torch.nn.Linear(4, 2), device="cpu", compile=True, cbs=Steps()).fit(1)
"""


def test_without_a_compiler_the_error_comes_before_the_first_step(tmp_path):
    alone = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    alone.pop("CXX", None)
    command = [sys.executable, "-c", WITHOUT_COMPILER]
    done = subprocess.run(command, env=alone, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("RuntimeError: `compile` needs a C++ compiler on the CPU") and "CXX" in last
    assert "a run began" not in done.stdout
