"""Trains a classifier on a folder of your own photos, with one folder for each class, and shows what it gets wrong.

    python examples/own_photos.py photos                   photos/roses/1.jpg, photos/Bäume/IMG_0042.jpg, ...
    python examples/own_photos.py photos --untrained       without ImageNet weights, so without the network
    python examples/own_photos.py photos --weights resnet18.pth       with weights from a file
    python examples/own_photos.py --small                  draws itself a small folder, and takes a minute

A fifth of the photos, chosen at random, checks the model. Names of classes may contain any letters and spaces. Files
that are not images are left out. A photo that is damaged is named and left out. So are iPhones' HEIC files, unless you
run `pip install 'minilearner[heif]'` first; a warning says so.

The core is `train` and `report`: take these lines for your own script. `report.html` is one page with everything; open
it in a browser. Figures are saved with `save=`. On a machine with a screen, `plt.show()` opens all of them instead.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from minilearner import ClassificationInterpretation, Learner, accuracy, load_learner, set_seed
from minilearner.vision.augment import aug_transforms
from minilearner.vision.image_loaders import ImageDataLoaders
from minilearner.vision.resize import Resize
from minilearner.vision.torchvision_models import resnet18
from minilearner.vision.vision_learner import vision_learner


def main() -> None:
    args = parse_arguments()
    sys.stdout.reconfigure(line_buffering=True)  # so that a log file has each line at once
    if args.small:
        args.folder = draw_photos(args.output / "photos")
    set_seed(args.seed)
    learn = train(args)
    report(learn, args.output)
    model = learn.export((args.output / "model.safetensors").resolve())
    photo = Path(learn.dls.valid.dataset.items[0])
    label, index, probabilities = load_learner(model).predict(photo)
    print(f"{photo.parent.name}/{photo.name} is in class {label!r}, with probability {probabilities[index]:.0%}.")
    print(f"Written to {args.output}: report.html, model.safetensors, confusion.png, top_losses.png, results.png.")


def train(args: argparse.Namespace) -> Learner:
    dls = ImageDataLoaders.from_folder(
        args.folder,
        valid_pct=0.2,
        seed=args.seed,
        item_tfms=Resize(args.size),
        batch_tfms=aug_transforms(),
        bs=args.bs,
        on_unreadable="skip",
    )
    print(f"{dls.train.n_items} photos to train, {dls.valid.n_items} to check. Classes: {', '.join(dls.vocab)}.")
    learn = vision_learner(dls, resnet18, pretrained=args.pretrained, weights=args.weights, metrics=accuracy)
    learn.fine_tune(args.epochs, freeze_epochs=args.frozen_epochs)
    return learn


def report(learn: Learner, output: Path) -> None:
    interp = ClassificationInterpretation.from_learner(learn)
    interp.report(output / "report.html")
    interp.plot_confusion_matrix(save=output / "confusion.png")
    interp.plot_top_losses(min(6, len(interp)), save=output / "top_losses.png")
    learn.show_results(max_n=6, save=output / "results.png")
    interp.print_classification_report()
    for actual, predicted, count in interp.most_confused()[:3]:
        print(f"{actual!r} was taken for {predicted!r} {'once' if count == 1 else f'{count} times'}.")


def draw_photos(folder: Path, each: int = 60, side: int = 64) -> Path:
    """Draws three classes of shapes, and adds what real folders have too: notes, a broken copy and a HEIC file."""
    rng = random.Random(0)
    shapes = {"blaue Quadrate": ("blue", 4), "grüne Dreiecke": ("green", 3), "rote Fünfecke": ("red", 5)}
    for name, (color, n_sides) in shapes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            image = Image.new("RGB", (side + rng.randrange(20), side), tuple(rng.randrange(150, 256) for _ in range(3)))
            centre = (rng.randrange(20, side - 20), rng.randrange(20, side - 20), rng.randrange(12, 20))
            ImageDraw.Draw(image).regular_polygon(centre, n_sides, rng.randrange(360), fill=color)
            image.save(folder / name / f"{i}.{('jpg', 'JPG', 'png')[i % 3]}")
    whole = (folder / "rote Fünfecke" / "0.jpg").read_bytes()
    (folder / "rote Fünfecke" / "IMG_0001.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "rote Fünfecke" / "IMG_0002.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (folder / "notes.txt").write_text("Photos of the summer")
    return folder


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="the folder that has one folder for each class")
    parser.add_argument("--size", type=int, help="height and width of the images that the model sees, default 224")
    parser.add_argument("--bs", type=int, help="images per batch, default 32")
    parser.add_argument("--epochs", type=int, help="epochs with all layers, after one with the head alone; default 4")
    parser.add_argument("--weights", type=Path, help="a file with weights for a ResNet-18, instead of a download")
    parser.add_argument("--untrained", dest="pretrained", action="store_false", help="start from random weights")
    parser.add_argument("--output", type=Path, default=Path("output/own_photos"))
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--small", action="store_true", help="drawn images of 48 pixels, and random weights")
    args = parser.parse_args()
    args.frozen_epochs = 1
    given = [name for name in ("folder", "size", "bs", "epochs", "weights") if getattr(args, name) is not None]
    if args.small and given:
        parser.error(f"--small has its own folder and settings. Leave out: {', '.join(given)}.")
    if not args.small and args.folder is None:
        parser.error("name the folder of your photos, or pass --small to try the script on drawn images")
    if not args.small and not args.folder.is_dir():
        parser.error(f"there is no folder {args.folder}")
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=args.output).close()
    except OSError as error:
        parser.error(f"--output must be a folder that can be written to: {error}")
    size, bs, epochs = (48, 16, 6) if args.small else (224, 32, 4)
    args.size, args.bs, args.epochs = args.size or size, args.bs or bs, args.epochs or epochs
    args.pretrained = args.pretrained and not args.small
    return args


if __name__ == "__main__":
    main()
