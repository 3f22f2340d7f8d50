"""Fashion-MNIST, from a found learning rate to where the model errs.

    python examples/fashion_mnist.py              find a rate, train, report
    python examples/fashion_mnist.py --lr-find    only sweep, and read off bounds
    python examples/fashion_mnist.py --schedule clr --epochs 48   the cyclical run

The figures are in the output folder at the end, and what was written is listed.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures go to files; no screen is needed

import torch

from minilearner import (
    ClassificationInterpretation,
    CyclicLR,
    Learner,
    MiniGoogLeNet,
    accuracy,
    fashion_mnist,
    minimum,
    set_seed,
    slide,
    steep,
    valley,
)


def main() -> None:
    args = parse_arguments()
    set_seed(args.seed)
    dls = fashion_mnist(args.data, bs=args.batch_size, seed=args.seed)
    if args.small:
        dls = small(dls, args)
    sgd = partial(torch.optim.SGD, momentum=0.9)
    learn = Learner(dls, MiniGoogLeNet(10), opt_func=sgd, metrics=accuracy, precision=args.precision)
    learn.recorder.train_metrics = True  # training accuracy beside the test accuracy
    print_plan(learn, args)
    args.output.mkdir(parents=True, exist_ok=True)

    if args.lr_find:
        files = find_bounds(learn, args)
    else:
        files = train_cyclical(learn, args) if args.schedule == "clr" else train_one_cycle(learn, args)
        files += report(learn, args)
    print("\nWritten:")
    for file in files:
        print(f"  {file}  ({file.stat().st_size / 1024:.0f} KB)")


def find_bounds(learn: Learner, args: argparse.Namespace) -> list[Path]:
    """The tutorial's range test: whole epochs, eleven decades, stopped at four times the best loss."""
    sweep = learn.lr_find(1e-10, 1e1, sample_steps=args.sweep_steps, show_plot=False, skip_start=10, skip_end=1)
    print(f"{len(sweep.lrs)} updates; {sweep.stop_reason}.")
    if sweep.bounds is None:
        print("No bounds can be read off this curve: the loss never fell.")
    else:
        low, high = sweep.bounds
        print(
            f"The loss falls from a rate of about {low:.1e} and rises again after about {high:.1e}. To train between:"
        )
        print(f"  python examples/fashion_mnist.py --schedule clr --epochs 48 --min-lr {low:.1e} --max-lr {high:.1e}")
    return [save(sweep.plot(), args.output / "lrfind_plot.png")]


def train_one_cycle(learn: Learner, args: argparse.Namespace) -> list[Path]:
    """A sweep of a hundred updates, its suggestion, and one cycle at that rate."""
    began = time.perf_counter()
    sweep = learn.lr_find(suggest_funcs=(minimum, steep, slide, valley), show_plot=False)
    seconds = (time.perf_counter() - began) / len(sweep.lrs)
    file = save(sweep.plot(), args.output / "lrfind_plot.png")
    if args.max_lr is None and sweep.recommended is None:
        raise SystemExit(f"No learning rate can be read off the sweep: {sweep.reason} Give one with --max-lr.")
    lr = args.max_lr or sweep.recommended
    minutes = seconds * len(learn.dls.train) * args.epochs / 60
    print(f"Learning rate {lr:.2g} ({'given' if args.max_lr else sweep.reason})")
    print(f"Training takes about {max(minutes, 1):.0f} min at this machine's {1000 * seconds:.0f} ms an update.\n")
    learn.fit_one_cycle(args.epochs, lr_max=lr)
    return [file, save(learn.recorder.plot_sched(), args.output / "schedule_plot.png")]


def train_cyclical(learn: Learner, args: argparse.Namespace) -> list[Path]:
    """The rate moves between two bounds; a run should end where a cycle does."""
    step_size = args.step_epochs * len(learn.dls.train)
    max_lr = args.max_lr or 1e-2
    cycle = CyclicLR(max_lr, args.min_lr, step_size=step_size, mode=args.mode, gamma=0.99994)
    learn.fit(args.epochs, cbs=cycle)
    return [save(learn.recorder.plot_sched(["lr"]), args.output / "clr_plot.png")]


def report(learn: Learner, args: argparse.Namespace) -> list[Path]:
    """How good the model is, class by class, and where it errs: one pass over the test images."""
    interp = ClassificationInterpretation.from_learner(learn)
    print()
    interp.print_classification_report()
    print("Most confused (actual, predicted, times):", interp.most_confused(min_val=5)[:5])
    return [
        save(learn.recorder.plot_metrics(), args.output / "training_plot.png"),
        save(interp.plot_confusion_matrix(), args.output / "confusion_plot.png"),
        save(interp.plot_top_losses(9), args.output / "top_losses_plot.png"),
    ]


def save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return path


def print_plan(learn: Learner, args: argparse.Namespace) -> None:
    train, valid = len(learn.dls.train), learn.dls.valid.n_items
    what = "the sweep only" if args.lr_find else f"{args.epochs} epochs, {args.schedule}"
    print(f"MiniGoogLeNet, {what}: {train} updates an epoch of {learn.dls.bs} images, {valid} test images,")
    print(
        f"{learn.precision} on {learn.device}. A full epoch takes 3 to 7 minutes on two CPU cores, seconds on a GPU.\n"
    )


def small(dls, args: argparse.Namespace):
    """A few hundred images, to see in half a minute that everything runs."""
    from minilearner import DataLoaders, Flip, RandomShift

    train, valid = dls.train.items(range(640)), dls.valid.items(range(320))
    tfms = [RandomShift(0.1), Flip()]
    return DataLoaders.from_arrays(train, valid, bs=32, vocab=dls.vocab, batch_tfms=tfms, seed=args.seed)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--lr-find", type=int, nargs="?", const=1, default=0, metavar="1", help="only sweep the rate, and plot it")
    add("--schedule", choices=("one-cycle", "clr"), default="one-cycle")
    add("--epochs", type=positive(int), default=3)
    add("--batch-size", type=positive(int), default=64)
    add("--min-lr", type=positive(float), default=1e-5, help="lower bound of the cyclical rate (default 1e-5)")
    add(
        "--max-lr",
        type=positive(float),
        help="upper bound (default 1e-2), or the peak of the one cycle (default: found)",
    )
    add("--step-epochs", type=positive(int), default=8, help="epochs in half a cycle (default 8)")
    add("--mode", choices=("triangular", "triangular2", "exp_range"), default="triangular")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    add("--data", type=Path, help="folder with the four IDX files (default: found or downloaded)")
    add("--output", type=Path, default=Path("output"))
    add("--seed", type=int, default=42)
    add("--small", action="store_true", help="a few hundred images, to see that everything runs")
    args = parser.parse_args()
    if args.schedule == "clr" and args.min_lr >= (args.max_lr or 1e-2):
        parser.error("--min-lr must be below --max-lr")
    args.sweep_steps = 60 if args.small else 2048
    return args


def positive(kind: type):
    def parse(text: str):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be above 0, received {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


if __name__ == "__main__":
    main()
