"""Measures images per second from JPEG files to augmented batches of 128 x 128, beside fastai.

Run: ``python tests/benchmarks/input_path.py [--images 1000] [--rounds 3] [--threads 2] [--only fastai]``.
It makes JPEG files of about 420 pixels (quality 90) in a temporary folder. They show the stamps of the Debian package
`tuxpaint-stamps-default` if it is installed, and simple shapes otherwise, on soft backgrounds with noise. Each item is
resized to 160 pixels; then whole batches are rotated, zoomed, warped, flipped and lit at 128 pixels. The contenders
take turns, each in its own process, so that a busy machine slows all alike. The figures are medians. The first epoch
starts with an empty cache and includes starting the workers. The operating system keeps the files in memory for all
contenders. Without workers, the table also has images per second of processor time, which a busy machine changes less.
fastai takes part if it is installed.

A second table times the parts that every epoch needs, each alone on one thread: decoding, resizing, one `grid_sample`,
one logit and sigmoid. No rate can be above cores / sum of these times. To reach that bound, everything else would
have to be free, and cores that share a processor's units would have to leave each other alone.
"""

import importlib
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from pipeline import machine
from rows import readme_row
from turns import by_turns, make_parser

from minilearner.vision.images import open_image

STAMPS = Path("/usr/share/tuxpaint/stamps")
SIZES = [(420, 315), (420, 420), (315, 420), (420, 280), (500, 375), (375, 500)]


def main():
    parser = make_parser(__doc__, rounds=3, bs=64)
    parser.add_argument("--images", type=int, default=1000, help="how many JPEG files")
    parser.add_argument("--only", choices=["minilearner", "fastai"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        paths = make_images(Path(folder), options.images)
        contenders = {
            f"{library}, {n} worker{'' if n == 1 else 's'}": (three_passes, library, paths, options.bs, n)
            for library, numbers in {"minilearner": (0, 1, 2), "fastai": (0, 2)}.items()
            if options.only in (None, library)
            for n in numbers
        }
        print(machine(options), f"{len(paths)} JPEG files of {kilobytes(paths):.0f} kB on average\n")
        rates = rates_by_epoch(by_turns(contenders, options.rounds, warm_up=0))
        report(rates)
        readme_rows(rates)
        torch.set_num_threads(1)
        report_bound(parts_alone(paths[:200], options.rounds))


def make_images(folder, n):
    rng, choice = np.random.default_rng(0), random.Random(0)
    stamps = sorted(STAMPS.rglob("*.png"))
    paths = []
    for i in range(n):
        width, height = choice.choice(SIZES)
        image = background(rng, width, height)
        if stamps:
            stamp = Image.open(choice.choice(stamps)).convert("RGBA")
            stamp.thumbnail((width * 0.9, height * 0.9))
            image.paste(stamp, (choice.randrange(width // 3), choice.randrange(height // 3)), stamp)
        else:
            ImageDraw.Draw(image).ellipse((20, 20, width - 40, height - 30), fill=tuple(rng.integers(0, 255, 3)))
        paths.append(folder / f"{i % 2}_{i}.jpg")
        image.save(paths[-1], quality=90)
    return paths


def background(rng, width, height):
    soft = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noise = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
    return Image.blend(soft, noise, 0.08)


def three_passes(library, paths, bs, num_workers):
    """Returns a function that makes a new loader, so that every round has a first epoch, and times three passes."""
    vision = importlib.import_module(f"{library}.vision.all")
    arguments = {"label_func": first_letter, "valid_pct": 0, "bs": bs, "num_workers": num_workers, "device": "cpu"}

    def three_epochs():
        tfms = {"item_tfms": vision.Resize(160), "batch_tfms": vision.aug_transforms(size=128)}
        dls = vision.ImageDataLoaders.from_name_func(paths[0].parent, paths, **arguments, **tfms)
        return [images_a_second(dls.train) for _ in range(3)]

    return three_epochs


def first_letter(name):
    return name[0]


def rates_by_epoch(rounds):
    """Returns (name, epoch) -> pairs of images per second, of the clock and of the processor time of the process."""
    return {
        (name, epoch): [pair for three in column for pair in three[which]]
        for name, column in rounds.items()
        for epoch, which in {"first": slice(1), "later": slice(1, None)}.items()
    }


def images_a_second(loader):
    clock, processor, n = time.perf_counter(), time.process_time(), 0
    for _, y in loader:
        n += len(y)
    return n / (time.perf_counter() - clock), n / (time.process_time() - processor)


def kilobytes(paths):
    return statistics.mean(path.stat().st_size for path in paths) / 1e3


def report(rates):
    medians = {key: [statistics.median(column) for column in zip(*pairs)] for key, pairs in rates.items()}
    print(
        "| loader | epoch | images/s | lowest | highest | times fastai's best | per processor second | times fastai |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (name, epoch), pairs in rates.items():
        clock, processor = medians[name, epoch]
        slowest, fastest = min(pairs)[0], max(pairs)[0]
        theirs = max(
            (m[0] for (other, e), m in medians.items() if other.startswith("fastai") and e == epoch), default=0
        )
        alone = medians.get(("fastai, 0 workers", epoch), (0, 0))[1] if name.endswith(" 0 workers") else 0
        print(
            f"| {name} | {epoch} | {clock:,.0f} | {slowest:,.0f} | {fastest:,.0f} | {times(clock, theirs)} | "
            f"{f'{processor:,.0f}' if name.endswith(' 0 workers') else '-'} | {times(processor, alone)} |"
        )


def readme_rows(rates):
    what = {"first": "JPEG files of 420 px to augmented batches of 128 px, first epoch, a second"}
    what["later"] = "the same from the cache, every later epoch"
    for epoch, row in what.items():
        mine, theirs = (best(rates, who, epoch) for who in ("minilearner", "fastai"))
        if mine:
            readme_row(row, mine, theirs and f"fastai {theirs}")


def best(rates, who, epoch):
    """Returns the median rate with the best number of workers, and that number."""
    medians = {
        name: statistics.median(clock for clock, _ in pairs)
        for (name, e), pairs in rates.items()
        if name.startswith(who) and e == epoch
    }
    name = max(medians, key=medians.get, default=None)
    return f"{medians[name]:,.0f} ({name.split(', ')[1]})" if name else ""


def parts_alone(paths, rounds):
    """Returns part -> the milliseconds of processor time that one image takes on one thread, in the best round."""
    pixels = [torch.from_numpy(np.array(open_image(path, reduce_to=(160, 160)))) for path in paths]
    images, light = torch.rand(16, 3, 160, 160), torch.rand(16, 3, 128, 128)
    turned = torch.tensor([[0.9, 0.1, 0.0], [-0.1, 0.9, 0.0]]).expand(16, 2, 3)
    grid = F.affine_grid(turned, (16, 3, 128, 128), align_corners=True)
    parts = {
        "decode": (lambda: [open_image(path, reduce_to=(160, 160)) for path in paths], len(paths)),
        "resize": (lambda: [scale(few) for few in pixels], len(paths)),
        "grid_sample": (lambda: F.grid_sample(images, grid, padding_mode="reflection", align_corners=True), 16),
        "logit and sigmoid": (lambda: light.logit(1e-7).sigmoid_(), 16),
    }
    return {name: min(milliseconds(run, n) for _ in range(3 * rounds)) for name, (run, n) in parts.items()}


def scale(pixels):
    height, width = (round(side * 160 / min(pixels.shape[:2])) for side in pixels.shape[:2])
    return F.interpolate(pixels[None].permute(0, 3, 1, 2), (height, width), mode="bilinear", antialias=True)


def milliseconds(run, n):
    start = time.process_time()
    run()
    return (time.process_time() - start) / n * 1e3


def report_bound(parts):
    cores = os.cpu_count()
    print("\n| alone, on one thread | ms per image |\n| --- | --- |")
    for name, took in parts.items():
        print(f"| {name} | {took:.2f} |")
    later = parts["grid_sample"] + parts["logit and sigmoid"]
    for epoch, total in (("first", sum(parts.values())), ("later", later)):
        print(f"| bound of the {epoch} epoch, {cores} cores | {1e3 * cores / total:,.0f} images/s |")


def times(rate, other):
    return f"{rate / other:.1f}" if other else "-"


if __name__ == "__main__":
    main()
