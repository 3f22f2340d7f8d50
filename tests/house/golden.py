#!/usr/bin/env python3
"""Trains and asks on small data in many ways, and writes a digest of each outcome, or compares with those written.

    PYTHONPATH=REPO OMP_NUM_THREADS=1 python golden.py write golden.json
    PYTHONPATH=REPO OMP_NUM_THREADS=1 python golden.py compare golden.json     exit status 1 if one differs
    python tests/house/golden.py against main                                  both, for the outcomes of a revision

The outcomes are compared to the bit, so both must come from one machine with one torch. `against` checks out the
revision into a temporary folder, writes its outcomes there, and compares them with those of the working tree. The
script knows public names only, so it stays as it is while the house moves. It takes some ten seconds on one core.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from minilearner import (
    EMA,
    SWA,
    BnFreeze,
    Callback,
    Checkpoint,
    CutMix,
    CyclicLR,
    DataLoaders,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    Learner,
    LRFinder,
    MixUp,
    NonFinite,
    ParamScheduler,
    ReduceLROnPlateau,
    SaveBest,
    SplitOnOOM,
    TorchScheduler,
    Validate,
    accuracy,
    cosine,
    error_rate,
    load_learner,
    minimum,
    slide,
    steep,
    valley,
)
from minilearner.vision.all import ImageDataLoaders, Resize, aug_transforms

Case = Callable[[], Any]


def digest(value: Any) -> str:
    found = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            found.update(
                f"{part.dtype}{tuple(part.shape)}".encode() + part.detach().cpu().contiguous().numpy().tobytes()
            )
        elif isinstance(part, dict):
            for key in sorted(part, key=str):
                add(key)
                add(part[key])
        elif isinstance(part, (list, tuple)):
            for one in part:
                add(one)
        else:
            found.update(repr(part).encode())

    add(value)
    return found.hexdigest()[:16]


def arrays(**options: Any) -> DataLoaders:
    rng = np.random.default_rng(0)
    x, y = rng.random((96, 1, 8, 8), dtype=np.float32), rng.integers(3, size=96)
    x[np.arange(96), 0, y] += 1
    options = {"bs": 16, "vocab": ["a", "b", "c"], "seed": 0, **options}
    return DataLoaders.from_arrays((x[:64], y[:64]), (x[64:], y[64:]), **options)


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(144, 3)),
    )


def learner(**options: Any) -> Learner:
    groups = lambda model: [list(part.parameters()) for part in model]  # noqa: E731
    return Learner(arrays(), net(), metrics=[accuracy, error_rate], splitter=groups, seed=0, **options)


def trained(how: Callable[[Learner], Any], **options: Any) -> Any:
    learn = learner(**options)
    with learn.no_logging():
        how(learn)
    runs = [
        [{k: v for k, v in row.items() if k != "time_seconds"} for row in run.epochs] for run in learn.recorder.runs
    ]
    return learn.model.state_dict(), runs, learn.recorder.lrs, learn.recorder.losses


def with_callbacks(*cbs: Any) -> Case:
    return lambda: trained(lambda learn: learn.fit(3, lr=0.01, cbs=list(cbs)))


def swept() -> Any:
    learn = learner()
    with learn.no_logging():
        sweep = learn.lr_find(num_it=40, show_plot=False, suggest_funcs=(minimum, steep, slide, valley))
    return list(sweep), list(sweep.lrs), list(sweep.losses), sweep.recommended, learn.model.state_dict()


def plain_finder() -> Any:
    model = net()
    finder = LRFinder(model, torch.optim.SGD(model.parameters(), lr=1e-4), torch.nn.CrossEntropyLoss(), device="cpu")
    finder.range_test(list(arrays().train), end_lr=10, num_iter=30)
    return finder.history, finder.best_loss


class StopOnce(Callback):
    """Ends the first run in mid-epoch, as Ctrl-C would."""

    stops = True

    def after_batch(self, run: Any) -> None:
        if StopOnce.stops and run.training and run.global_step == 6:
            StopOnce.stops = False
            raise KeyboardInterrupt


def resumed() -> Any:
    """What a run ends on that was stopped in mid-epoch and run again; the same as `fit_one_cycle` gives in one go."""
    StopOnce.stops = True
    with tempfile.TemporaryDirectory() as folder:

        def train(learn: Learner) -> None:
            learn.fit_one_cycle(3, cbs=[StopOnce(), MixUp(), EMA(0.9)], checkpoint=Checkpoint(folder, every_steps=1))

        with contextlib.suppress(KeyboardInterrupt):
            trained(train)
        return trained(train)[0]


def exported() -> Any:
    learn = learner()
    with tempfile.TemporaryDirectory() as folder, learn.no_logging():
        learn.fit(1)
        path = learn.save(Path(folder) / "weights")
        learn.load(path)
        return learn.get_preds(with_loss=True, with_decoded=True).preds, learn.validate()


def images() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(1)
        for split in ("train", "valid"):
            for label in ("cat", "dog"):
                (Path(folder) / split / label).mkdir(parents=True)
                for i in range(6):
                    pixels = rng.integers(256, size=(40, 48, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(Path(folder) / split / label / f"{i}.png")
        dls = ImageDataLoaders.from_folder(
            folder, bs=4, seed=0, item_tfms=Resize(32), batch_tfms=aug_transforms(size=24), num_workers=0, device="cpu"
        )
        return [list(dls.train) for _ in range(2)], list(dls.valid), dls.vocab


def errors() -> Any:
    said = []
    for wrong in (
        lambda: learner().fit(0),
        lambda: learner().fit(1, lr=-1),
        lambda: learner(precision="fp8"),
        lambda: learner().fit(1, cbs=EarlyStopping("acuracy")),
        lambda: NonFinite("skp"),
        lambda: learner(strategy="dpp"),
        lambda: arrays(vocab=["a"]),
        lambda: CyclicLR(0.1, step_size=0),
        lambda: load_learner("/nowhere.safetensors"),
    ):
        try:
            wrong()
            said.append("nothing")
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


CASES: dict[str, Case] = {
    "fit": lambda: trained(lambda learn: learn.fit(2)),
    "fit_one_cycle": lambda: trained(lambda learn: learn.fit_one_cycle(2, lr_max=slice(1e-3, 1e-2))),
    "fit_flat_cos": lambda: trained(lambda learn: learn.fit_flat_cos(2)),
    "fit_sgdr": lambda: trained(lambda learn: learn.fit_sgdr(2, 1)),
    "fine_tune": lambda: trained(lambda learn: learn.fine_tune(2)),
    "fine_tune, resting norms": lambda: trained(lambda learn: learn.fine_tune(1), train_bn=False),
    "fine_tune, auto": lambda: trained(lambda learn: learn.fine_tune(1, "auto")),
    "precompute": lambda: trained(lambda learn: learn.fine_tune(1, precompute=True), train_bn=False),
    "bf16": lambda: trained(lambda learn: learn.fit(1), precision="bf16"),
    "lr_find": swept,
    "LRFinder": plain_finder,
    "checkpoint": resumed,
    "save, load, get_preds, validate": exported,
    "images": images,
    "errors": errors,
    "MixUp": with_callbacks(MixUp()),
    "CutMix": with_callbacks(CutMix()),
    "EMA": with_callbacks(EMA(0.9, debias=True)),
    "SWA": with_callbacks(SWA(0.3)),
    "accumulation and clipping": with_callbacks(GradientAccumulation(3), GradientClip(0.1)),
    "CyclicLR": with_callbacks(CyclicLR(0.1, step_size=3, mode="exp_range", gamma=0.9, cycle_momentum=True)),
    "ParamScheduler": with_callbacks(ParamScheduler({"lr": cosine(0.1, 1e-3)})),
    "TorchScheduler": with_callbacks(TorchScheduler(lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5))),
    "ReduceLROnPlateau": with_callbacks(ReduceLROnPlateau(patience=0)),
    "SaveBest, EarlyStopping, Validate": with_callbacks(SaveBest(), EarlyStopping(patience=2), Validate(every_steps=2)),
    "NonFinite, SplitOnOOM, BnFreeze": with_callbacks(NonFinite("skip"), SplitOnOOM(), BnFreeze()),
}


def compare_against(revision: str) -> int:
    """Compares the outcomes of the working tree with those of a revision; returns the exit status."""
    script = Path(__file__).resolve()
    root = script.parents[2]
    with tempfile.TemporaryDirectory() as folder:
        tree, outcomes = Path(folder, "tree"), Path(folder, "golden.json")
        git = ["git", "-C", str(root), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            # The revision's own script, if it has one: it knows only what both have.
            its_script = tree / script.relative_to(root)
            command = [sys.executable, str(its_script if its_script.exists() else script)]
            for mode, house in (("write", tree), ("compare", root)):
                environment = {**os.environ, "PYTHONPATH": str(house), "OMP_NUM_THREADS": "1"}
                done = subprocess.run([*command, mode, str(outcomes)], env=environment, cwd=house)
                if done.returncode:
                    return done.returncode
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    return 0


def main() -> int:
    if sys.argv[1] == "against":
        return compare_against(sys.argv[2])
    mode, path = sys.argv[1], Path(sys.argv[2]).resolve()
    os.chdir(tempfile.mkdtemp())
    torch.set_num_threads(1)
    now = {name: digest(case()) for name, case in CASES.items()}
    if mode == "write":
        path.write_text(json.dumps(now, indent=1), encoding="utf-8")
        print(f"{len(now)} outcomes written")
        return 0
    before = json.loads(path.read_text(encoding="utf-8"))
    odd = [name for name in before if before[name] != now.get(name)]
    print("\n".join(f"differs: {name}" for name in odd) or f"all {len(before)} outcomes are equal")
    return int(bool(odd))


if __name__ == "__main__":
    raise SystemExit(main())
