"""Uses the learning-rate finder with your own training loop: a plain model and plain loaders, without a Learner.

    python examples/lr_finder_plain_pytorch.py            about half a minute on two cores
    python examples/lr_finder_plain_pytorch.py --small    a quick run that only checks that everything works

If you come from torch-lr-finder, change one import. A good rate is 10 to 100 times lower than the largest that works.
"""

import argparse
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures go to files; no screen is needed

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minilearner import DataLoaders, LambdaCallback, Learner, LRFinder, accuracy, fashion_mnist, set_seed


def main() -> None:
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    train, valid = load_images(args)
    train_loader = DataLoader(train, batch_size=64, shuffle=True)
    valid_loader = DataLoader(TensorDataset(*valid[: args.sweep_valid]), batch_size=250)

    finder = make_finder(args)
    rows, files = [], []

    finder.range_test(train_loader, start_lr=1e-5, end_lr=10, num_iter=args.num_iter)
    ax, suggestion = finder.plot()
    largest = finder.sweep.lrs[finder.history["loss"].index(finder.best_loss)]
    rows.append(("training loss", finder.sweep, suggestion))
    files.append(save(ax.figure, args.output / "lrfind_plot.png"))
    files.append(save(finder.sweep.plot(), args.output / "recommendation_plot.png"))
    change = finder.plot_loss_change(sma=max(args.num_iter // 10, 1))
    files.append(save(change, args.output / "loss_change_plot.png"))
    finder.reset()  # puts the weights and the optimizer back

    finder.range_test(train_loader, valid_loader, start_lr=1e-5, end_lr=10, num_iter=args.num_iter // 2)
    ax, suggestion = finder.plot(skip_start=3, skip_end=2)
    rows.append(("validation loss", finder.sweep, suggestion))
    files.append(save(ax.figure, args.output / "lrfind_validation_plot.png"))
    finder.reset()

    small_batches = DataLoader(train, batch_size=16, shuffle=True)
    finder.range_test(small_batches, start_lr=1e-5, end_lr=10, num_iter=args.num_iter, accumulation_steps=4)
    rows.append(("4 batches of 16", finder.sweep, finder.plot()[1]))
    finder.reset()

    sweep = finder.find(*train.tensors, start_lr=1e-5, end_lr=10, batch_size=64)  # resets by itself
    rows.append(("arrays, one epoch", sweep, finder.plot()[1]))
    files.append(save(finder.plot_loss_change(sma=20, y_lim=None), args.output / "arrays_loss_change_plot.png"))

    print_sweeps(rows)
    compare_rates(train_loader, valid, largest, args)
    count_events(train, valid, largest / 10)
    print("\nWritten:")
    for file in files:
        print(f"  {file}  ({file.stat().st_size / 1024:.0f} KB)")


def make_finder(args: argparse.Namespace) -> LRFinder:
    set_seed(args.seed)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
    return LRFinder(model, optimizer, nn.CrossEntropyLoss(), device="cpu")


def net() -> nn.Module:
    body = (nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(16 * 5 * 5, 64), nn.ReLU(), nn.Linear(64, 10))


def load_images(args: argparse.Namespace) -> tuple[TensorDataset, TensorDataset]:
    """Returns images of Fashion-MNIST as plain tensors on the CPU: (items, 1, 28, 28) in [0, 1]."""
    dls = fashion_mnist(args.data, size=28, augment=False, seed=args.seed).to("cpu")
    train, valid = min(args.train, dls.train.n_items), min(args.valid, dls.valid.n_items)
    return TensorDataset(*dls.train.items(range(train))), TensorDataset(*dls.valid.items(range(valid)))


def print_sweeps(rows: list) -> None:
    print(
        f"\n{'sweep':<18} {'updates':>7} {'steepest':>9} {'recommended':>11} {'range to train in':>20}   why it ended"
    )
    for name, sweep, suggestion in rows:
        recommended = "none" if math.isnan(sweep.recommended) else f"{sweep.recommended:.1e}"
        bounds = "none" if sweep.bounds is None else "{:.1e} to {:.1e}".format(*sweep.bounds)
        print(f"{name:<18} {len(sweep.lrs):>7} {suggestion:>9.1e} {recommended:>11} {bounds:>20}   {sweep.stop_reason}")
    n_late = sum(suggestion > sweep.turns.get("turn", math.inf) for _, sweep, suggestion in rows)
    if n_late:
        print(f"In {n_late} of these sweeps the steepest fall, which torch-lr-finder suggests, comes after the loss")
        print("has turned, where it jumps about. The range to train in ends before that point.")


def compare_rates(loader: DataLoader, valid: TensorDataset, largest: float, args: argparse.Namespace) -> None:
    """Trains a plain loop at the largest rate that works, and at lower ones."""
    print(f"\nOne epoch of a plain loop; the smoothed loss was lowest at a rate of {largest:.1e}.")
    for name, lr in (("that rate", largest), ("a tenth", largest / 10), ("a hundredth", largest / 100)):
        set_seed(args.seed)
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        for x, y in loader:
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            x, y = valid.tensors
            print(f"  {name:<12} {lr:.1e}  accuracy {accuracy(model(x), y):.4f}")


def count_events(train: TensorDataset, valid: TensorDataset, lr: float) -> None:
    """Trains the same model in a Learner, and counts the calls of functions at the start and end of each stretch."""
    seen: dict[str, int] = {}

    def count(name):
        return lambda *_: seen.update({name: seen.get(name, 0) + 1})

    names = [f"on_{what}_{when}" for what in ("train", "epoch", "batch") for when in ("begin", "end")]
    watch = LambdaCallback(**{name: count(name) for name in names})
    dls = DataLoaders(DataLoader(train, batch_size=64, shuffle=True), DataLoader(valid, batch_size=250), device="cpu")
    learn = Learner(dls, net(), nn.CrossEntropyLoss(), torch.optim.SGD, lr=lr, metrics=accuracy, device="cpu")
    with learn.no_logging():
        learn.fit(1, cbs=watch)
    print("\nCalls that a LambdaCallback received:", ", ".join(f"{name} {n}" for name, n in seen.items()))


def save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, help="folder with the four IDX files (default: found or downloaded)")
    add("--output", type=Path, default=Path("output"))
    add("--seed", type=int, default=42)
    add("--small", action="store_true", help="2,000 images, to check that everything runs")
    args = parser.parse_args()
    args.train, args.valid, args.sweep_valid = (2000, 500, 250) if args.small else (20_000, 10_000, 1000)
    args.num_iter = 60 if args.small else 200
    return args


if __name__ == "__main__":
    main()
