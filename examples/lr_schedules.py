"""Compares four learning-rate schedules, each from minilearner and as a function that you write yourself.

    python examples/lr_schedules.py             100 epochs of each, twice: a few minutes on two cores
    python examples/lr_schedules.py --small     a quick run that only checks that everything works
    python examples/lr_schedules.py --verbose   also prints the rate of every epoch

The script follows the Keras tutorials on schedules: a 784-300-100-10 net on the first 10,000 images of Fashion-MNIST,
the last 20 % held out, and SGD without momentum from a rate of 0.01. In the tutorials, the constant rate and time-based
decay end above step and exponential decay. The script prints at the end whether this run agrees. With the default seed
it does: constant 84.3 %, time-based 84.1 %, step 79.0 %, exponential 72.1 % accuracy on the held-out images.
"""

import argparse
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures go to files; no screen is needed

import matplotlib.pyplot as plt
import torch

from minilearner import (
    MLP,
    DataLoaders,
    Learner,
    LearningRateScheduler,
    accuracy,
    constant,
    exponential_decay,
    fashion_mnist,
    plot_schedule,
    set_seed,
    step_decay,
    time_based_decay,
)

INITIAL = 0.01


def named_schedules(epochs: int) -> dict:
    """Returns schedules of the epoch from minilearner. Time-based decay is the recursive form, as in the tutorial."""
    return {
        "constant": constant(INITIAL),
        "time-based": time_based_decay(INITIAL, decay=INITIAL / epochs, recursive=True),
        "step": step_decay(INITIAL, every=10, factor=0.5),
        "exponential": exponential_decay(INITIAL, rate=0.1),
    }


def own_schedules(epochs: int) -> dict:
    """Returns the same schedules written by hand, as for Keras: `(epoch, lr) -> lr`, or `epoch -> lr`."""

    def keep(epoch, lr):
        return lr

    def time_based(epoch, lr):
        decay = INITIAL / epochs
        return lr * 1 / (1 + decay * epoch)

    def step(epoch):
        return INITIAL * 0.5 ** math.floor(epoch / 10)

    def exponential(epoch):
        return INITIAL * math.exp(-0.1 * epoch)

    return {"constant": keep, "time-based": time_based, "step": step, "exponential": exponential}


def main() -> None:
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    named, own = named_schedules(args.epochs), own_schedules(args.epochs)
    files = [save(preview(named, args.epochs), args.output / "schedules_preview.png")]

    data = first_images(args)
    (_, train_labels), (_, valid_labels) = data
    print(f"{len(train_labels)} images to train, {len(valid_labels)} held out, {args.epochs} epochs.\n")
    print(learner(data, args).summary())
    runs = {name: train(data, schedule, args, verbose=args.verbose) for name, schedule in own.items()}
    twins = {name: train(data, schedule, args) for name, schedule in named.items()}
    print_table(runs, twins)
    print_outcome(runs, len(valid_labels))

    files += [
        save(plot_each(runs), args.output / "accuracy_of_each.png"),
        save(plot_together(runs, "lr", "learning rate"), args.output / "rates.png"),
        save(plot_together(runs, "accuracy", "accuracy on held-out images"), args.output / "accuracies.png"),
    ]
    print("\nWritten:")
    for file in files:
        print(f"  {file}  ({file.stat().st_size / 1024:.0f} KB)")


def first_images(args: argparse.Namespace) -> tuple:
    """Returns the first 10,000 training images in [0, 1] with their labels: the first 80 %, and the last 20 %."""
    full = fashion_mnist(args.data, size=28, augment=False, seed=args.seed)
    n = min(args.images, full.train.n_items)
    x, y = full.train.items(range(n))
    cut = n * 8 // 10
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])


def learner(data: tuple, args: argparse.Namespace) -> Learner:
    """Returns a learner with the same weights and the same order of images each time."""
    set_seed(args.seed)
    dls = DataLoaders.from_arrays(*data, bs=64, seed=args.seed, drop_last=False)
    return Learner(dls, MLP((784, 300, 100, 10)), opt_func=torch.optim.SGD, lr=INITIAL, metrics=accuracy)


def train(data: tuple, schedule, args: argparse.Namespace, verbose: int = 0) -> dict:
    """Trains one run. Returns its columns, with one value for each epoch."""
    learn = learner(data, args)
    learn.recorder.train_metrics = True
    with learn.no_logging():
        record = learn.fit(args.epochs, cbs=LearningRateScheduler(schedule, verbose=verbose))
    columns = {name: record.history[name] for name in ("accuracy", "train_accuracy", "valid_loss")}
    return {"lr": learn.recorder.lrs[:: len(learn.dls.train)].tolist(), **columns}


def print_table(runs: dict, twins: dict) -> None:
    print(f"\n{'schedule':<12} {'last rate':>10} {'accuracy':>9} {'best':>7} {'valid loss':>11}   from minilearner")
    for name, run in runs.items():
        twin = twins[name]
        apart = max(abs(a - b) for a, b in zip(run["lr"], twin["lr"], strict=True))
        same = f"rates within {apart:.0e}, accuracy {twin['accuracy'][-1]:.4f}"
        last, best, loss = run["accuracy"][-1], max(run["accuracy"]), run["valid_loss"][-1]
        print(f"{name:<12} {run['lr'][-1]:>10.2e} {last:>9.4f} {best:>7.4f} {loss:>11.4f}   {same}")


def print_outcome(runs: dict, n: int) -> None:
    final = {name: run["accuracy"][-1] for name, run in runs.items()}
    slow, fast = min(final["constant"], final["time-based"]), max(final["step"], final["exponential"])
    seen = "was seen" if slow > fast else "was NOT seen"
    error = math.sqrt(slow * (1 - slow) / n)
    print(f"\nPublished outcome (constant and time-based end above step and exponential): {seen} here,")
    print(f"{slow:.4f} against {fast:.4f}; one standard error of such an accuracy is {error:.4f} with {n} images.")


def preview(named: dict, epochs: int):
    """Draws what each schedule will do, before anything is trained."""
    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    plot_schedule(named, epochs, ax, clock="epoch")
    ax.set_ylabel("learning rate")
    return figure


def plot_each(runs: dict):
    figure, grid = plt.subplots(2, 2, figsize=(9, 6.5), sharex=True, sharey=True, layout="constrained")
    for ax, (name, run) in zip(grid.flat, runs.items(), strict=True):
        epochs = range(1, len(run["lr"]) + 1)
        ax.plot(epochs, run["train_accuracy"], label="training")
        ax.plot(epochs, run["accuracy"], label="held out")
        ax.set_title(name)
        ax.grid(True, color="#dddddd")
        ax.spines[["top", "right"]].set_visible(False)
    for ax in grid[1]:
        ax.set_xlabel("epoch")
    for ax in grid[:, 0]:
        ax.set_ylabel("accuracy")
    grid[0, 0].legend(loc="lower right")
    return figure


def plot_together(runs: dict, column: str, label: str):
    figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, run in runs.items():
        ax.plot(range(1, len(run[column]) + 1), run[column], label=name)
    ax.set_xlabel("epoch")
    ax.set_ylabel(label)
    ax.grid(True, color="#dddddd")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend()
    return figure


def save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--epochs", type=int, default=100)
    add("--data", type=Path, help="folder with the four IDX files (default: found or downloaded)")
    add("--output", type=Path, default=Path("output"))
    add("--seed", type=int, default=42)
    add("--verbose", action="store_const", const=1, default=0, help="print the rate of every epoch")
    add("--small", action="store_true", help="640 images and 12 epochs, to check that everything runs")
    args = parser.parse_args()
    args.images = 640 if args.small else 10_000
    args.epochs = min(args.epochs, 12) if args.small else args.epochs
    if args.epochs < 1:
        parser.error("--epochs must be at least 1")
    return args


if __name__ == "__main__":
    main()
