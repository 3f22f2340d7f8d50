"""Fine-tunes a ResNet-34 with ImageNet weights to distinguish the 37 breeds of Oxford Pets, as in the fastai book.

    python examples/pets.py                      downloads the images (811 MB) and the weights (83 MB) once
    python examples/pets.py --data pets --weights resnet34.pth       reads both from disk
    python examples/pets.py --small              a quick run that only checks that everything works

The script follows chapter 5 of the book. It looks at the images, fine-tunes, and shows where the model errs. Then it
trains at a rate that is far too high, on purpose, finds a good rate, and fine-tunes with that. The last part uses
discriminative rates: early layers, which see edges and colours, learn a hundred times more slowly than the head.

The table prints our error rates beside those of the book, which are one run each with the weights of 2020. Such runs
differ by 0.01.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures go to files; no screen is needed

import matplotlib.pyplot as plt
from torchvision import models

from minilearner import Learner, URLs, minimum, set_seed, slide, steep, untar_data, valley
from minilearner.data.blocks import CategoryBlock
from minilearner.data.data_block import DataBlock
from minilearner.data.items import get_image_files
from minilearner.data.labels import RegexLabeller, using_attr
from minilearner.data.splits import RandomSplitter
from minilearner.vision.all import ClassificationInterpretation, DataLoaders, error_rate
from minilearner.vision.augment import aug_transforms
from minilearner.vision.image_block import ImageBlock
from minilearner.vision.resize import Resize
from minilearner.vision.vision_learner import vision_learner


def main() -> None:
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    set_seed(args.seed)
    dls = load(args)
    new_learner = partial(
        vision_learner,
        dls,
        getattr(models, args.arch),
        pretrained=args.pretrained,
        weights=args.weights,
        metrics=error_rate,
        precision=args.precision,
    )
    written = [save(dls.show_batch(nrows=1, ncols=3), args, "batch.png")]
    results = []

    learn, seconds = time_call(new_learner(), "fine_tune", args.epochs)
    results.append((f"fine_tune({args.epochs})", learn, seconds, 0.0663))
    written += interpret(learn, args)

    learn, seconds = time_call(new_learner(), "fine_tune", 1, base_lr=0.1)
    results.append(("fine_tune(1, base_lr=0.1), too high on purpose", learn, seconds, 0.955))

    sweep = new_learner().lr_find(num_it=args.num_it, suggest_funcs=(minimum, steep, slide, valley))
    lr_min, lr_steep, lr_slide, lr_valley = sweep
    print(f"lr_find: minimum/10 {lr_min}, steepest {lr_steep}, slide {lr_slide}, valley {lr_valley}")
    written.append(save(sweep.plot(), args, "lr_find.png"))

    learn, seconds = time_call(new_learner(), "fine_tune", args.epochs, base_lr=3e-3)
    results.append((f"fine_tune({args.epochs}, base_lr=3e-3)", learn, seconds, 0.0819))

    learn, seconds = discriminative(new_learner(), args)
    results.append((f"one cycle frozen, then {args.long_epochs} epochs at 1e-6 to 1e-4", learn, seconds, 0.0541))
    written.append(save(learn.recorder.plot_loss(), args, "losses.png"))

    print_table(results)
    print("\nWritten:")
    for file in written:
        print(f"  {file}  ({file.stat().st_size / 1024:.0f} KB)")


def load(args: argparse.Namespace) -> DataLoaders:
    """Returns loaders of images named like `great_pyrenees_12.jpg`. A fifth of them validates."""
    path = args.data if args.data is not None else untar_data(URLs.PETS)
    pets = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(seed=42),
        get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"),
        item_tfms=Resize(args.presize),
        batch_tfms=aug_transforms(size=args.size, min_scale=0.75),
    )
    dls = pets.dataloaders(path / "images", bs=args.bs, seed=args.seed)
    print(f"{dls.train.n_items} images to train, {dls.valid.n_items} to validate, {dls.c} breeds: {dls.vocab[:3]} ...")
    return dls


def time_call(learn: Learner, method: str, *arguments, **options) -> tuple[Learner, float]:
    began = time.perf_counter()
    getattr(learn, method)(*arguments, **options)
    return learn, time.perf_counter() - began


def interpret(learn: Learner, args: argparse.Namespace) -> list[Path]:
    interp = ClassificationInterpretation.from_learner(learn)
    print(f"most confused: {interp.most_confused(min_val=5)[:3]}")
    file = Path(learn.dls.valid.dataset.items[0])
    label, _, probabilities = learn.predict(file)
    print(f"{file.name} is a {label}, with probability {probabilities.max():.3f}")
    return [
        save(interp.plot_confusion_matrix(figsize=(12, 12)), args, "confusion.png"),
        save(interp.plot_top_losses(2, nrows=2), args, "top_losses.png"),
        save(learn.show_results(max_n=6), args, "results.png"),
    ]


def discriminative(learn: Learner, args: argparse.Namespace) -> tuple[Learner, float]:
    """Trains the head alone first, then all layers, the early ones most slowly."""
    began = time.perf_counter()
    learn.fit_one_cycle(args.frozen_epochs, 3e-3)
    learn.unfreeze()
    learn.fit_one_cycle(args.long_epochs, lr_max=slice(1e-6, 1e-4))
    return learn, time.perf_counter() - began


def print_table(results: list) -> None:
    print(f"\n{'recipe':<55} {'error rate':>10} {'the book':>9} {'seconds':>8}")
    for name, learn, seconds, book in results:
        print(f"{name:<55} {learn.recorder.history['error_rate'][-1]:>10.4f} {book:>9.4f} {seconds:>8.1f}")


def save(figure, args: argparse.Namespace, name: str) -> Path:
    figure.savefig(args.output / name)
    plt.close(figure)
    return args.output / name


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the unpacked folder that holds images/ (default: downloaded)")
    parser.add_argument("--arch", default="resnet34", help="the name of a constructor in torchvision.models")
    parser.add_argument("--weights", type=Path, help="a state dict on disk, instead of torchvision's download")
    parser.add_argument("--untrained", dest="pretrained", action="store_false", help="start from random weights")
    parser.add_argument("--output", type=Path, default=Path("output/pets"))
    parser.add_argument("--bs", type=int, default=64)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--small", action="store_true", help="small images, small batches, few epochs, random weights")
    args = parser.parse_args()
    args.presize, args.size, args.epochs, args.frozen_epochs, args.long_epochs, args.num_it = 460, 224, 2, 3, 12, 100
    if args.small:
        args.presize, args.size, args.epochs, args.frozen_epochs, args.long_epochs, args.num_it = 48, 32, 1, 1, 1, 30
        args.bs, args.arch, args.pretrained = 16, "resnet18", False
    return args


if __name__ == "__main__":
    main()
