"""Finds flipped labels in Fashion-MNIST, and compares ranking and errors with cleanlab's if that is installed.

    python tests/benchmarks/label_errors.py [--items 4000] [--flipped 0.05] [--folds 5] [--epochs 8]

Prints how many of the flipped labels are among as many most suspicious ones. cleanlab: pip install cleanlab.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray

from minilearner import MLP, ClassificationInterpretation, DataLoaders, Learner
from minilearner.runtime import set_seed
from minilearner.vision.all import fashion_mnist


def load_items(n: int, flipped: float, seed: int = 0) -> tuple[torch.Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Returns images, their labels of which a share is wrong, and the positions of the wrong ones."""
    train = fashion_mnist(bs=64, augment=False, seed=0).train
    rng = np.random.default_rng(seed)
    chosen = rng.choice(train.n_items, n, replace=False)
    x, y = train.x[chosen].cpu(), train.y[chosen].cpu().numpy().astype(np.int64)
    wrong = rng.choice(n, round(flipped * n), replace=False)
    y[wrong] = (y[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return x, y, wrong


def compare_with_cleanlab(found, probs: NDArray[np.float64], y: NDArray[np.int64]) -> str:
    """Returns whether cleanlab finds the same."""
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ModuleNotFoundError:
        return "cleanlab is not installed"
    same_scores = np.array_equal(get_label_quality_scores(y, probs), found.quality)
    theirs = find_label_issues(y, probs, filter_by="confident_learning", n_jobs=1)
    return f"the same scores: {same_scores}; the same errors: {np.array_equal(theirs, found.is_error)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--flipped", type=float, default=0.05)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    set_seed(0)
    x, y, wrong = load_items(options.items, options.flipped)
    dls = DataLoaders.from_arrays((x, y), bs=64, seed=0)
    learn = Learner(dls, MLP((32 * 32, 128, 10)), lr=3e-3)
    start = time.perf_counter()
    predictions = learn.cross_val_preds(options.folds, options.epochs)
    found = ClassificationInterpretation.from_predictions(predictions).label_errors()
    hits = np.isin(found.order[: len(wrong)], wrong).mean()
    print(f"{options.items} items, {len(wrong)} flipped: {time.perf_counter() - start:.0f} s")
    print(f"of the flipped, {hits:.1%} are among the {len(wrong)} most suspicious")
    rightly = np.isin(np.flatnonzero(found.is_error), wrong).mean()
    print(f"of {found.n_errors} reported errors, {rightly:.1%} are flipped; estimated noise {found.noise:.1%}")
    print(compare_with_cleanlab(found, predictions.preds.double().numpy(), y))


if __name__ == "__main__":
    main()
