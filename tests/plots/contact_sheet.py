"""Draws every public figure with few and many classes, short and long names, in two sizes and both themes, to look at.

    python tests/plots/contact_sheet.py FOLDER [--theme dark] [--only confusion,roc]

Each figure becomes a file, and each kind of figure a sheet of all its variants.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import nn

matplotlib.use("agg")

import matplotlib.pyplot as plt

from minilearner import (
    ActivationStats,
    DataLoaders,
    Learner,
    LRFinder,
    accuracy,
    minimum,
    one_cycle,
    plot_schedule,
    slide,
    steep,
    valley,
)
from minilearner.results.interpretation import ClassificationInterpretation
from minilearner.results.multi_label import MultiLabelInterpretation
from minilearner.results.origins import Origins
from minilearner.results.predictions import Predictions
from minilearner.results.regression import RegressionInterpretation

SCRIPTS = ("短い名前", "قطة سوداء", "बिल्ली", "🐈 cat", "кошка", "Ärger_$x^2$", "_under")


def names(n: int, kind: str) -> list[str]:
    if kind == "short":
        return [chr(97 + i % 26) + str(i // 26) for i in range(n)]
    if kind == "long":
        return [f"a class whose name is long enough to need sixty letters, no. {i}" for i in range(n)]
    return [f"{SCRIPTS[i % len(SCRIPTS)]} {i}" for i in range(n)]


def predictions(n: int, kind: str, *, skill: float = 2.0, seed: int = 0) -> Predictions:
    g = torch.Generator().manual_seed(seed)
    n_items = 60 * n
    y = torch.randint(0, n - (n > 3), (n_items,), generator=torch.Generator().manual_seed(7))  # one class stays empty
    logits = torch.randn(n_items, n, generator=g) + skill * nn.functional.one_hot(y, n) * torch.rand(n, generator=g) * 2
    logits += 1.6 * nn.functional.one_hot((y + 1) % n, n) * torch.rand(n_items, 1, generator=g)
    origins = Origins([f"/data/{names(n, kind)[int(k)]}/IMG_20240131_{i:06}.jpg" for i, k in enumerate(y)])
    x = torch.rand(12, 3, 48, 48, generator=g).repeat(n_items // 12 + 1, 1, 1, 1)[:n_items] if n <= 10 else None
    return Predictions((1.5 * logits).softmax(1), y, inputs=x, vocab=tuple(names(n, kind)), origins=origins)


def several_labels(n: int, kind: str) -> MultiLabelInterpretation:
    g = torch.Generator().manual_seed(0)
    y = (torch.rand(600, n, generator=g) < 0.2).float()
    p = (2 * torch.randn(600, n, generator=g) + 4 * y - 2).sigmoid()
    return MultiLabelInterpretation(Predictions(p, y, vocab=tuple(names(n, kind))))


def numbers(n_items: int) -> RegressionInterpretation:
    g = torch.Generator().manual_seed(0)
    y = 30 + 12 * torch.randn(n_items, 1, generator=g)
    return RegressionInterpretation(Predictions(y + 4 * torch.randn(n_items, 1, generator=g), y))


def learner(n: int, kind: str, n_items: int = 64) -> Learner:
    torch.manual_seed(0)
    y = torch.arange(n_items) % n
    x = torch.rand(n_items, 3, 24, 24) + (y / n).view(-1, 1, 1, 1)
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=16, vocab=names(n, kind), seed=0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n))

    return Learner(dls, model, metrics=[accuracy])


def of_classes(n: int, kind: str) -> dict[str, Callable]:
    one = ClassificationInterpretation.from_predictions(predictions(n, kind))
    two = ClassificationInterpretation.from_predictions(predictions(n, kind, skill=2.6, seed=1))
    labels = several_labels(n, kind)
    rng = np.random.default_rng(0)
    cameras = [names(n, kind)[i % n] for i in range(len(one))]
    found = {
        "confusion": one.plot_confusion_matrix,
        "confusion_shares": lambda **how: one.plot_confusion_matrix(normalize=True, **how),
        "confusion_most": lambda **how: one.plot_confusion_matrix(most=12, order="confusion", **how),
        "per_class": one.plot_per_class,
        "precision_recall": one.plot_precision_recall,
        "roc": one.plot_roc,
        "calibration": one.plot_calibration,
        "slices": one.slices(cameras).plot,
        "slices_numeric": one.slices(rng.lognormal(6, 1, len(one)).tolist()).plot,
        "compare": one.compare(two).plot,
        "label_errors": labels.plot_errors,
        "label_scores": labels.plot_per_class,
        "label_recall": labels.plot_precision_recall,
        "label_calibration": lambda **how: labels.calibration().plot(**how),
    }
    if n <= 10:
        learn = learner(n, kind)
        with learn.no_logging():
            learn.fit(1)
            gradcam = ClassificationInterpretation.from_learner(learn)
        found |= {
            "top_losses": lambda **how: one.plot_top_losses(9, **how),
            "gradcam": lambda **how: gradcam.plot_gradcam(6, **how),
            "show_batch": learn.dls.show_batch,
            "show_results": learn.show_results,
        }
    return found


def of_runs() -> dict[str, Callable]:
    stats = ActivationStats(with_hist=True)
    learn, single = learner(4, "short", 160), learner(4, "short", 160)
    with learn.no_logging(), single.no_logging():
        single.recorder.train_metrics = learn.recorder.train_metrics = True
        single.fit(1)
        learn.add_cb(stats)
        learn.fine_tune(2, freeze_epochs=1, base_lr=1e-3)
        learn.fit_one_cycle(3, 1e-2)
        sweep = learn.lr_find(num_it=60, show_plot=False, suggest_funcs=(minimum, steep, valley, slide))
    finder = LRFinder(learn.model, torch.optim.SGD(learn.model.parameters(), 0.1), nn.CrossEntropyLoss())
    finder.range_test(learn.dls.train, end_lr=1, num_iter=60)
    few, many = numbers(300), numbers(20_000)
    return {
        "loss": learn.recorder.plot_loss,
        "loss_log": lambda **how: learn.recorder.plot_loss(log=True, show_epochs=True, **how),
        "metrics": learn.recorder.plot_metrics,
        "metrics_single": single.recorder.plot_metrics,
        "loss_single": single.recorder.plot_loss,
        "sched": learn.recorder.plot_sched,
        "schedule": lambda **how: plot_schedule(one_cycle(1e-2), 200, **how),
        "sweep": sweep.plot,
        "sweep_details": lambda **how: sweep.plot(details=True, **how),
        "sweep_change": sweep.plot_loss_change,
        "range_test": lambda **how: finder.plot(**how),
        "layer_stats": lambda **how: stats.plot_layer_stats(0, **how),
        "color_dim": lambda **how: stats.color_dim(0, **how),
        "numbers": few.plot_predictions,
        "numbers_many": many.plot_predictions,
        "residuals": few.plot_residuals,
        "residuals_many": many.plot_residuals,
        "number_slices": few.slices([f"camera {i % 5}" for i in range(300)]).plot,
    }


def draw(draw_one: Callable, path: Path, size: tuple[float, float] | None) -> None:
    try:
        draw_one(save=path, **({"figsize": size} if size else {}))
    except TypeError as error:
        if "figsize" not in str(error):
            raise


def join(files: list[Path], path: Path, width: int = 2200) -> None:
    """Writes images into one, in rows as they fit, and shrinks it so that it can be looked at."""
    images = [Image.open(file).convert("RGB") for file in files]
    places, x, y, height = [], 0, 0, 0
    for image in images:
        if x and x + image.width > width:
            x, y, height = 0, y + height + 10, 0
        places.append((x, y))
        x, height = x + image.width + 10, max(height, image.height)
    whole = (max(p[0] + i.width for p, i in zip(places, images, strict=True)), y + height)
    sheet = Image.new("RGB", whole, "#88aa88")
    for place, image in zip(places, images, strict=True):
        sheet.paste(image, place)
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--only", default="")
    parser.add_argument("--classes", default="3,10,40,120")
    parser.add_argument("--names", default="short,long,scripts")
    given = parser.parse_args()
    if given.theme == "dark":
        plt.style.use("dark_background")
    wanted = set(filter(None, given.only.split(",")))
    given.folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[Path]] = {}
    groups = [(of_classes, (int(n), kind)) for kind in given.names.split(",") for n in given.classes.split(",")]
    for make, arguments in [*groups, (of_runs, ())]:
        for name, function in make(*arguments).items():
            if wanted and name not in wanted:
                continue
            for size in (None, (4.5, 3.6)):
                end = "_".join(map(str, (*arguments, "own" if size is None else "small")))
                path = given.folder / f"{name}_{end}.png"
                draw(function, path, size)
                if path.exists():
                    drawn.setdefault(name, []).append(path)
    for name, files in drawn.items():
        join(files, given.folder / f"sheet_{name}.png")


if __name__ == "__main__":
    main()
