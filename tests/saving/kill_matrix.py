"""Kills training processes with SIGKILL at the worst moments, runs them again, and compares the result with a run that
was left alone. Weights, buffers, optimizer, record and random generators must be equal to the bit.

    python tests/saving/kill_matrix.py --kills 200          # what CI runs
    python tests/saving/kill_matrix.py --kills 5000 --seed 7

Children are forked from this process after it has imported torch and trained a little, so that the seconds of torch's
first imports and compilation are spent only once. A child kills itself at a training batch, or at a file-system call of
a save. An audit hook counts these calls, together with those that hooks do not see. The script first tries every call
of three saves: the first one, one that replaces another, and the last. Then it draws scenarios, moments and numbers of
kills in a row at random. It prints how many kills of each kind struck in each scenario, and where in a save.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from minilearner import (
    EMA,
    SWA,
    Callback,
    CutMix,
    CyclicLR,
    DataLoaders,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    Learner,
    LearningRateScheduler,
    MixUp,
    NonFinite,
    ReduceLROnPlateau,
    SaveBest,
    SplitOnOOM,
    TorchScheduler,
    Validate,
    accuracy,
    set_seed,
    tensor_file,
)
from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader
from minilearner.data.item_transforms import ItemPipeline, ItemTransform
from minilearner.packing import pack
from minilearner.runtime import rng_state
from minilearner.saving import checkpoint_folder, shared_pieces
from minilearner.training.loop import Loop
from minilearner.vision.augment import Flip
from minilearner.vision.shift import RandomShift

Outcome = dict[str, str]


class Noisy(Dataset[tuple[torch.Tensor, int]]):
    """Draws from torch's global generator for every item, as torchvision's transforms do."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.full((1, 6, 6), i / 30) + torch.rand(1, 6, 6) / 10, i % 3


class Counting(Callback):
    """A user's callback with its own state, and no code to save it."""

    def __init__(self) -> None:
        self.seen = 0
        self.sums: list[float] = []

    def after_batch(self, run: Any) -> None:
        if run.training:
            self.seen += 1
            run.optimizer.param_groups[0]["lr"] *= 1 + self.seen / 1e4

    def after_epoch(self, run: Any) -> None:
        self.sums.append(float(sum(p.detach().sum() for p in run.model.parameters())))
        run.metrics["seen"] = float(self.seen)


def model() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        nn.Sequential(nn.Dropout(0.3), nn.Linear(64, 3)),
    )


def halves(model: nn.Module) -> list[list[nn.Parameter]]:
    return [list(part.parameters()) for part in model]  # type: ignore[attr-defined]


def in_memory(**options: Any) -> Learner:
    x, y = torch.rand(34, 1, 6, 6), torch.arange(34) % 3
    dls = DataLoaders.from_arrays((x, y), (x[:9], y[:9]), bs=5, batch_tfms=[RandomShift(0.3), Flip()], seed=3)
    return Learner(dls, model(), metrics=accuracy, splitter=halves, **options)


def foreign(**options: Any) -> Learner:
    loader = DataLoader(Noisy(), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(4))
    dls = DataLoaders(loader, DataLoader(Noisy(), batch_size=8), vocab=range(3))
    return Learner(dls, model(), metrics=accuracy, splitter=halves, **options)


def from_files(num_workers: int) -> Learner:
    items = [torch.full((1, 6, 6), i * 7, dtype=torch.uint8) for i in range(34)]
    y = torch.arange(34) % 3
    dataset = ItemDataset(items, as_it_is, ItemPipeline(Jitter()), seed=3)
    options: dict[str, Any] = {"bs": 5, "seed": 3, "batch_tfms": Flip(), "num_workers": num_workers}
    train = ItemLoader(dataset, y, shuffle=True, drop_last=True, training=True, **options)
    valid = ItemLoader(ItemDataset(items[:9], as_it_is), y[:9], bs=5)
    return Learner(DataLoaders(train, valid, vocab=range(3)), model(), metrics=accuracy, splitter=halves)


def as_it_is(item: torch.Tensor) -> torch.Tensor:
    return item


class Jitter(ItemTransform):
    def __call__(self, item: torch.Tensor, rng: random.Random | None) -> torch.Tensor:
        return item if rng is None else item + rng.randrange(9)


class LearntScale(nn.Module):
    """A loss with a weight for each class, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 0.5]))

    def forward(self, pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.cross_entropy(pred, y, self.weight)  # type: ignore[arg-type]
        return loss * torch.exp(-self.log_variance) + self.log_variance


class Remembering(nn.Module):
    """A layer whose extra state is no tensor, and grows."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(float(x.detach().mean()))
        return x * (1 + len(self.seen) / 1e3)

    def get_extra_state(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.seen = list(state["seen"])


def with_memory(**options: Any) -> Learner:
    learn = in_memory(**options)
    learn.model[0].append(Remembering())
    return learn


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.left(a) + self.right(b)


def two_inputs(**options: Any) -> Learner:
    batches = [((torch.rand(5, 4), torch.rand(5, 2)), torch.randint(3, (5,))) for _ in range(7)]
    return Learner(DataLoaders(batches, batches[:2]), TwoInputs(), nn.CrossEntropyLoss(), metrics=accuracy, **options)


class Opponent(Callback):
    """A network and an optimizer of this callback's own, which train beside the model."""

    def __init__(self) -> None:
        self.network = nn.Linear(3, 1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), 1e-2)
        self.last: dict[str, torch.Tensor] = {}

    def after_step(self, run: Any) -> None:
        loss = (self.network(run.pred.detach().float()) - 1).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.last["loss"] = loss.detach()


def weighted(**options: Any) -> nn.Module:
    return nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]), **options)


def cyclic(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-3, 1e-2, step_size_up=3, cycle_momentum=False)


def found_rate(learn: Learner, keep: Any) -> None:
    learn.fit_one_cycle(2, "auto", checkpoint=keep)


def one_cycle(learn: Learner, keep: Any) -> None:
    learn.fit_one_cycle(3, 1e-2, checkpoint=keep)


def constant(learn: Learner, keep: Any) -> None:
    learn.fit(3, 1e-2, checkpoint=keep)


def two_phases(learn: Learner, keep: Any) -> None:
    learn.fine_tune(2, 1e-2, checkpoint=keep)


def epochs_of_two_rates(learn: Learner, keep: Any) -> None:
    learn.fit(3, [1e-3, 1e-2], checkpoint=keep)


def training_metrics() -> Learner:
    learn = in_memory()
    learn.recorder.train_metrics = True
    return learn


SCENARIOS: dict[str, tuple[Callable[[], Learner], Callable[[Learner, Any], None]]] = {
    "one cycle": (in_memory, one_cycle),
    "fine_tune": (in_memory, two_phases),
    "SGD, accumulation, clipping": (
        lambda: in_memory(
            opt_func=lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
            cbs=[GradientAccumulation(3), GradientClip(0.1)],
        ),
        one_cycle,
    ),
    "bf16": (lambda: in_memory(precision="bf16"), one_cycle),
    "a foreign loader with random items": (foreign, one_cycle),
    "training metrics": (training_metrics, one_cycle),
    "validation in mid-epoch, a callback of one's own": (
        lambda: in_memory(cbs=[Validate(every_steps=4), Counting()]),
        constant,
    ),
    "plateau and early stopping": (
        lambda: in_memory(cbs=[ReduceLROnPlateau(patience=0, factor=0.5), EarlyStopping(patience=1)]),
        constant,
    ),
    "EMA, MixUp, the best kept": (
        lambda: in_memory(cbs=[EMA(0.8, every_steps=2), MixUp(), SaveBest("accuracy")]),
        one_cycle,
    ),
    "SWA, CutMix": (lambda: in_memory(cbs=[SWA(0.4), CutMix()]), epochs_of_two_rates),
    "torch's own schedule": (
        lambda: in_memory(cbs=[TorchScheduler(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9))]),
        constant,
    ),
    "items, no workers": (lambda: from_files(0), one_cycle),
    "items, two workers": (lambda: from_files(2), one_cycle),
    "class weights, MixUp, two phases": (lambda: in_memory(loss_func=weighted(), cbs=[MixUp()]), two_phases),
    "class weights, a class to ignore, CutMix, accumulation": (
        lambda: in_memory(loss_func=weighted(ignore_index=2), cbs=[CutMix(), GradientAccumulation(2)]),
        one_cycle,
    ),
    "a loss with parameters, MixUp, the best kept": (
        lambda: in_memory(loss_func=LearntScale(), cbs=[MixUp(), SaveBest("accuracy"), EMA(0.9)]),
        one_cycle,
    ),
    "extra state that grows": (lambda: with_memory(cbs=[SaveBest("valid_loss")]), two_phases),
    "two inputs, clipping, what watches a step": (
        lambda: two_inputs(cbs=[GradientClip(0.5), SplitOnOOM(), NonFinite()]),
        one_cycle,
    ),
    "RMSprop without momentum, a cyclical rate": (
        lambda: in_memory(opt_func=torch.optim.RMSprop, cbs=[CyclicLR(1e-2, 1e-3, step_size=4)]),
        constant,
    ),
    "torch's CyclicLR": (
        lambda: in_memory(opt_func=torch.optim.SGD, cbs=[TorchScheduler(cyclic, every="step")]),
        constant,
    ),
    "a network and an optimizer of a callback's own": (lambda: in_memory(cbs=[Opponent()]), one_cycle),
    "fp16, accumulation, clipping": (
        lambda: in_memory(precision="fp16", cbs=[GradientAccumulation(2), GradientClip(0.1)]),
        one_cycle,
    ),
    "a rate that a sweep finds": (in_memory, found_rate),
    "a precision that a trial chooses": (lambda: in_memory(precision="auto", cbs=[GradientClip(0.2)]), one_cycle),
    "a rate by a function of the last": (
        lambda: in_memory(cbs=[LearningRateScheduler(lambda epoch, lr: lr * 0.7)]),
        constant,
    ),
}


def train(name: str, folder: Path | None, every_steps: int) -> Outcome:
    """Runs a scenario as a script would, starting with its seed. Returns digests of everything that it leaves."""
    set_seed(11)
    make, fit = SCENARIOS[name]
    learn = make()
    with learn.no_logging():
        fit(learn, None if folder is None else Checkpoint(folder, every_steps=every_steps))
    records = [run.state_dict() for run in learn.recorder.runs]
    for record in records:
        for row in record["epochs"]:
            row.pop("time_seconds", None)
    assert learn.optimizer is not None
    return {
        "weights": digest(dict(learn.model.state_dict())),
        "loss": digest(dict(learn.loss_func.state_dict())) if isinstance(learn.loss_func, nn.Module) else "",
        "optimizer": digest(learn.optimizer.state_dict()),
        "record": digest(records),
        "generators": digest([rng_state(), learn.dls.train.state_dict()]),
        "callbacks": digest([callback.state_dict() for callback in learn.cbs]),
        "next number drawn": digest(torch.rand(1)),
    }


def digest(state: Any) -> str:
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(pack(state, tensors))
    whole = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        whole.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()[:16]


class Executioner:
    """Kills this process at the n-th moment of a kind, and records the moments before it.

    Attributes:
        moments: the number of the save, from 0, or -1 outside a save, and what was about to be called or was just done.
    """

    def __init__(self, kind: str, n: float, folder: Path) -> None:
        self.kind, self.n, self.folder = kind, n, str(folder)
        self.moments: list[tuple[int, str]] = []
        self._n_saves, self._is_saving = 0, False

    def moment(self, what: str) -> None:
        if len(self.moments) >= self.n:
            os.kill(os.getpid(), signal.SIGKILL)
        self.moments.append((self._n_saves if self._is_saving else -1, what))

    def watch(self) -> None:
        if self.kind == "file":
            sys.addaudithook(self._on_audit)
            for module, name in ((tensor_file, "save_file"), (os, "fsync"), (os, "replace"), (Path, "write_text")):
                self._around(module, name)
            self._around_saves()
        else:
            self._around_batches()

    def _on_audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        # `rmtree` names files by the descriptor of their folder, so every call inside a save counts.
        here = self._is_saving or any(self.folder in str(a) for a in arguments[:2])
        if here and event.startswith(("open", "os.", "shutil.")) and event != "os.kill":
            self.moment(event)

    def _around_saves(self) -> None:
        original = checkpoint_folder.CheckpointFolder.save

        def save(store: Any, *args: Any, **kwargs: Any) -> Path:
            self._is_saving = True
            try:
                return original(store, *args, **kwargs)
            finally:
                self._is_saving, self._n_saves = False, self._n_saves + 1

        checkpoint_folder.CheckpointFolder.save = save  # type: ignore[method-assign]

    def _around_batches(self) -> None:
        original = Loop._process_batch

        def process_batch(loop: Loop) -> None:
            self.moment("a batch")
            original(loop)

        Loop._process_batch = process_batch  # type: ignore[method-assign]

    def _around(self, module: Any, name: str) -> None:
        original = getattr(module, name)

        def killed(*args: Any, **kwargs: Any) -> Any:
            self.moment(f"before {name}")
            result = original(*args, **kwargs)
            self.moment(f"after {name}")
            return result

        setattr(module, name, killed)


def in_child(name: str, folder: Path | None, every_steps: int, plan: tuple[str, float] | None) -> Any:
    """Runs a scenario in a forked child. Returns its outcome and the moments that it passed, or None if it was killed.

    It is an error if a child does not end within two minutes.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            executioner = None if plan is None or folder is None else Executioner(*plan, folder)
            if executioner is not None:
                executioner.watch()
            outcome = train(name, folder, every_steps)
            os.write(writing, json.dumps([outcome, executioner.moments if executioner else []]).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = wait_for(child, name)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:  # not read to its end: loader workers keep it open
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return None
        assert os.waitstatus_to_exitcode(status) == 0, f"{name}: the child failed"
        return json.loads(os.read(pipe.fileno(), 1 << 16))


def wait_for(child: int, name: str, seconds: float = 120) -> int:
    """Waits for a child and returns its status."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"{name}: the child hangs")


def every_call(name: str, wanted: Outcome, most: int) -> Counter[str]:
    """Kills a scenario once at each call of its first save, of one that replaces another, and of its last.

    Returns call -> how many kills struck. Raises AssertionError if a run does not end as `wanted`.
    """
    with tempfile.TemporaryDirectory(prefix="kill-matrix-") as folder:
        _, moments = in_child(name, Path(folder), 3, ("file", math.inf))
    last = max(save for save, _ in moments)
    chosen = [i for i, (save, _) in enumerate(moments) if save in (0, 1, last)]
    assert len(chosen) > 60 and last > 3, moments
    struck: Counter[str] = Counter()
    for i in chosen[:most]:
        with tempfile.TemporaryDirectory(prefix="kill-matrix-") as folder:
            assert in_child(name, Path(folder), 3, ("file", i)) is None, f"{name}: the kill at call {i} came to nothing"
            outcome, _ = in_child(name, Path(folder), 3, None)
            assert outcome == wanted, f"{name}, killed at call {i}, {moments[i]}: {outcome} is not {wanted}"
        struck[moments[i][1]] += 1
    return struck


def trial(name: str, rng: random.Random, wanted: Outcome, kills_in_a_row: int) -> Counter[str]:
    """Kills a scenario again and again, then lets it end. Returns kind -> how many kills struck.

    Raises AssertionError if the outcome differs from `wanted`.
    """
    folder = Path(tempfile.mkdtemp(prefix="kill-matrix-"))
    every_steps, plans = rng.choice([1, 2, 3, 5]), []
    struck: Counter[str] = Counter()
    try:
        for _ in range(kills_in_a_row):
            plan = ("file", rng.randrange(120)) if rng.random() < 0.6 else ("batch", rng.randrange(25))
            plans.append(plan)
            if in_child(name, folder, every_steps, plan) is not None:
                break
            struck[plan[0]] += 1
        outcome, _ = in_child(name, folder, every_steps, None)
        assert outcome == wanted, f"{name}, every {every_steps} steps, killed at {plans}: {outcome} is not {wanted}"
        again, _ = in_child(name, folder, every_steps, None)
        assert again == wanted, f"{name}: a finished run, run again, gave {again}, not {wanted}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return struck


def forget(part: str) -> None:
    """Breaks resuming: leaves a part out of what is put back."""
    from minilearner.callbacks import checkpoint
    from minilearner.training import loop

    restore = checkpoint.restore

    def restore_partly(run: Any, state: dict[str, Any], **options: Any) -> None:
        now = checkpoint.run_state(run, epoch=state["epoch"], batch=state["batch"])
        restore(run, {**state, part: now[part]}, **options)

    checkpoint.restore = restore_partly  # type: ignore[assignment]
    loop.set_rng_state = lambda state: None  # type: ignore[assignment]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-call", action=argparse.BooleanOptionalAction, default=True, help="see above")
    parser.add_argument("--forget", help="a part of the state that restoring leaves out: the negative control")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.forget:
        forget(arguments.forget)
    rng = random.Random(arguments.seed)
    shared_pieces.SMALLEST = 256  # bytes, so that the record of a short run is in pieces too
    warm_up()
    wanted = {name: in_child(name, None, 0, None)[0] for name in SCENARIOS}
    with tempfile.TemporaryDirectory(prefix="kill-matrix-") as folder:
        control = {name: in_child(name, Path(folder, str(i)), 4, None)[0] for i, name in enumerate(SCENARIOS)}
    assert control == wanted, f"saving alone changes a run: {control} is not {wanted}"
    differ = {json.dumps(outcome) for outcome in wanted.values()}
    assert len(differ) == len(wanted) - 1, "only the two scenarios that differ in workers alone may agree"
    calls = every_call("one cycle", wanted["one cycle"], arguments.kills) if arguments.every_call else Counter[str]()
    struck = {name: Counter[str]() for name in SCENARIOS}
    while calls.total() + sum(map(Counter.total, struck.values())) < arguments.kills:
        name = min(struck, key=lambda scenario: struck[scenario].total())
        struck[name] += trial(name, rng, wanted[name], kills_in_a_row=rng.choice([1, 2, 4]))
    for name, kinds in {"one cycle, at every call of a save": calls, **struck}.items():
        sys.stderr.write(f"{kinds.total():5} {name}: {', '.join(f'{n} at {kind}' for kind, n in kinds.items())}\n")
    each = {name: kinds.total() for name, kinds in struck.items()}
    print(json.dumps({"kills": calls.total() + sum(each.values()), "every call": calls.total(), "each": each}))


def warm_up() -> None:
    """Trains a little in this process, so that children need not import and compile what torch needs at first."""
    for name in (
        "one cycle",
        "bf16",
        "EMA, MixUp, the best kept",
        "torch's own schedule",
        "items, no workers",
        "a precision that a trial chooses",  # so that all children choose alike
    ):
        with tempfile.TemporaryDirectory(prefix="kill-matrix-") as folder:
            train(name, Path(folder), 4)


if __name__ == "__main__":
    main()
