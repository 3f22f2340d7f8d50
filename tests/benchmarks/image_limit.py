"""Measures how near loading from image files comes to what this machine could do with the best decoders there are.

Run: ``python tests/benchmarks/image_limit.py [--only jpeg] [--rounds 30] [--threads 2]``. There are four kinds of
files: JPEG, PNG and WebP of about 420 pixels, and JPEG of 12 megapixels. Each becomes 160 pixels on its shorter side,
and then an augmented image of 128 pixels, of floats. Install the decoders first; those that are missing are left out:
``pip install opencv-python-headless simplejpeg imagecodecs``.

Each of three stages has several ways: decode (JPEG at 1/2, 1/4 or 1/8 if that leaves 160 pixels), resize with
antialiasing, and augment (one warp and one change of light). The limit is a plain function of a path that calls the
cheapest ways one after the other. It has no messages for errors, no random numbers, no order, no batch and no
hand-over. A second limit augments with torch, in floats, as we do: OpenCV rounds to bytes after each step.

All take turns in short rounds, and each figure is a median over the rounds, ratios too. Costs are processor time on one
thread, which a busy machine changes less than the clock. A stage alone is cheaper than among others, because the
processor's caches keep its code and data; so the parts of ours add up to less than the whole. The last table compares
epochs from the cache with epochs of the same images in memory.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from input_path import first_letter, make_images
from PIL import Image
from pipeline import machine
from rows import readme_row
from torchvision.io import ImageReadMode, read_file
from torchvision.io import decode_image as decode_by_torchvision
from turns import seconds, share_text

from minilearner.data import fast_decoders
from minilearner.data.batch_transforms import run_steps
from minilearner.data.memory_loader import MemoryLoader
from minilearner.runtime import keep_freed_memory
from minilearner.vision.all import ImageDataLoaders, Resize, aug_transforms

SIDE, OUT = 160, 128
KINDS = {
    "jpeg": "JPEG of 420 px",
    "png": "PNG of 420 px",
    "webp": "WebP of 420 px",
    "photo": "JPEG of 12 megapixels",
}
LIMITS = {"limit": "limit", "torch": "limit, torch augments"}
N_FILES = {"jpeg": 64, "png": 32, "webp": 32, "photo": 8}
"""One batch of each, so that a round is short."""
MAP = np.array([[0.9, 0.1, -5.0], [-0.1, 0.9, 10.0], [3e-4, -2e-4, 1.0]])
"""From a pixel (right, down, 1) of the result to one of the source: a turn, a zoom and a perspective."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[*KINDS, "cache"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Every training item has the label")
    keep_freed_memory()  # as our loaders do
    print(machine(argparse.Namespace(bs=N_FILES["jpeg"])))
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            if options.only in (None, kind):
                measure(kind, make_files(Path(folder), kind), options)
        if options.only in (None, "cache"):
            torch.set_num_threads(options.threads)
            compare_cache(make_images(Path(folder), 4 * N_FILES["jpeg"]), options)


def measure(kind, paths, options):
    torch.set_num_threads(1)
    costs, ways = measure_stages(kind, paths, options.rounds)
    best = {stage: choose(costs, stage, found) for stage, found in ways.items()}
    loader = make_loader(paths, cache=False)
    changes = {"limit": {}, "torch": {"augment": "torch"}}
    limits = {name: limit(ways, best | changes[name]) for name in LIMITS}
    jobs = {"ours": partial(run_through, loader)} | {name: partial(over, f, paths) for name, f in limits.items()}
    jobs["plain"] = partial(without_fast, partial(run_through, loader))
    alone = take_turns(jobs, len(paths), options.rounds)
    with ThreadPoolExecutor(options.threads, initializer=torch.set_num_threads, initargs=(1,)) as threads:
        jobs |= {name: partial(over_in, threads, f, paths) for name, f in limits.items()}
        jobs["limit"]()
        torch.set_num_threads(options.threads)
        by_clock = take_turns(jobs, len(paths), options.rounds, time.perf_counter)
    report_stages(kind, costs, best)
    report_limits(kind, alone, by_clock, options.threads)


def make_files(folder, kind):
    jpegs = make_images(folder, N_FILES[kind])
    if kind == "jpeg":
        return jpegs
    suffix, size, how = {
        "png": (".png", None, {}),
        "webp": (".webp", None, {"quality": 90}),
        "photo": (".large.jpg", (4000, 3000), {"quality": 90}),
    }[kind]
    for path in jpegs:
        image = Image.open(path)
        image = image.resize(size, Image.Resampling.BICUBIC) if size else image
        image.save(path.with_suffix(suffix), **how)
        path.unlink()
    return [path.with_suffix(suffix) for path in jpegs]


# The ways, as name -> function of one image.


def decoders(kind):
    """Returns name -> function from a path to pixels (height, width, 3)."""
    found = {"Pillow": decode_by_pillow, "torchvision": partial(with_torchvision, kind)}
    for name, find in {"opencv": opencv, "simplejpeg": simplejpeg, "imagecodecs": imagecodecs}.items():
        try:
            decode = find(kind)
        except ImportError:
            print(f"{name}: not installed")
            continue
        if decode is not None:
            found[name] = decode
    return found


def decode_by_pillow(path):
    with Image.open(path) as image:
        image.draft(None, (SIDE, SIDE))
        return np.asarray(image)


def with_torchvision(kind, path):
    return decode_by_torchvision(read_file(str(path)), ImageReadMode.RGB).permute(1, 2, 0).numpy()


def opencv(kind):
    import cv2

    cv2.setNumThreads(1)
    # It takes the divisor before it knows the size. All files of a kind have one that leaves enough.
    flags = cv2.IMREAD_REDUCED_COLOR_8 if kind == "photo" else cv2.IMREAD_COLOR_RGB

    def decode(path):
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), flags)
        return pixels[..., ::-1] if kind == "photo" else pixels

    return decode


def simplejpeg(kind):
    from simplejpeg import decode_jpeg, decode_jpeg_header

    def decode(path):
        coded = path.read_bytes()
        height, width = decode_jpeg_header(coded)[:2]
        factor = next(n for n in (8, 4, 2, 1) if n == 1 or min(height, width) // n >= SIDE)
        return decode_jpeg(coded, min_height=-(-height // factor), min_width=-(-width // factor), min_factor=1)

    return decode if kind in ("jpeg", "photo") else None


def imagecodecs(kind):
    import imagecodecs

    decode = {"jpeg": "jpeg8_decode", "photo": "jpeg8_decode", "png": "spng_decode", "webp": "webp_decode"}[kind]
    return lambda path: getattr(imagecodecs, decode)(path.read_bytes())


def resizers():
    """Returns name -> function from pixels (height, width, 3) to the same with SIDE pixels on the shorter side."""
    found = {"torch": resize_by_torch, "Pillow": resize_by_pillow}
    try:
        import cv2
    except ImportError:
        return found
    return found | {"opencv, area": lambda pixels: cv2.resize(pixels, scaled(pixels), interpolation=cv2.INTER_AREA)}


def resize_by_torch(pixels):
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    made = F.interpolate(planes, scaled(pixels)[::-1], mode="bilinear", antialias=True)
    return made.permute(0, 2, 3, 1)[0].contiguous().numpy()


def resize_by_pillow(pixels):
    return np.asarray(Image.fromarray(pixels).resize(scaled(pixels), Image.Resampling.BILINEAR))


def scaled(pixels):
    height, width = pixels.shape[:2]
    return round(width * SIDE / min(height, width)), round(height * SIDE / min(height, width))


def augmenters():
    """Returns name -> function from pixels (SIDE, SIDE, 3) to floats (3, OUT, OUT)."""
    found = {"torch": augment_by_torch()}
    try:
        return found | {"opencv": augment_by_opencv()}
    except ImportError:
        return found


def augment_by_torch():
    at = torch.from_numpy(np.stack(np.meshgrid(np.arange(OUT), np.arange(OUT)), -1))
    places = torch.cat([at, torch.ones_like(at[..., :1])], -1).double() @ torch.from_numpy(MAP).T
    grid = (places[..., :2] / places[..., 2:] / ((SIDE - 1) / 2) - 1).float()[None]

    def augment(pixels):
        x = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2).float().div_(255)
        moved = F.grid_sample(x, grid, padding_mode="reflection", align_corners=True)
        return moved.logit_(1e-7).mul_(1.1).add_(0.1).sigmoid_()[0]

    return augment


def augment_by_opencv():
    import cv2

    light = torch.linspace(0, 1, 256).logit(1e-7).mul(1.1).add(0.1).sigmoid().mul(255).round().byte().numpy()
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP

    def augment(pixels):
        moved = cv2.warpPerspective(pixels, MAP, (OUT, OUT), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        relit = torch.from_numpy(cv2.LUT(moved, light)).permute(2, 0, 1)
        return relit.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    return augment


# Measuring.


def measure_stages(kind, paths, rounds):
    """Returns (stage, way) -> milliseconds of processor time per image in each round, and all ways."""
    ways = {"decode": decoders(kind), "resize": resizers(), "augment": augmenters()}
    pixels = [np.array(decode_by_pillow(path)) for path in paths]
    squares = [np.ascontiguousarray(resize_by_torch(one)[:SIDE, :SIDE]) for one in pixels]
    given = {"decode": paths, "resize": pixels, "augment": squares}
    jobs = {(stage, name): partial(over, f, given[stage]) for stage, found in ways.items() for name, f in found.items()}
    return take_turns(jobs | our_stages(paths), len(paths), rounds), ways


def over(f, things):
    for thing in things:
        f(thing)


def run_through(loader):
    over(lambda _: None, loader)


def without_fast(job):
    """Runs a job as if the extra `fast` were not installed."""
    with patch.object(fast_decoders, "decode_faster", lambda image: None):
        job()


def our_stages(paths):
    loader = make_loader(paths, cache=False)
    dataset, n = loader.dataset, len(paths)
    keys = [(i, 0) for i in range(n)]
    x, steps, rng = dataset.fetch(keys[: loader.bs]).x, loader.batch_tfms.steps(training=True), torch.Generator()
    raw = [dataset.read(path) for path in paths]
    return {
        ("ours", "all"): partial(run_through, loader),
        ("ours", "fetch"): lambda: dataset.fetch(keys),
        ("ours", "decode"): partial(over, dataset.read, paths),
        ("ours", "resize"): partial(over, dataset.item_tfms.prepare, raw),
        ("ours", "augment"): lambda: [run_steps(steps, x, rng) for _ in range(n // loader.bs)],
    }


def make_loader(paths, cache, bs=None):
    tfms = {"item_tfms": Resize(SIDE), "batch_tfms": aug_transforms(size=OUT)}
    how = {"valid_pct": 0, "bs": bs or len(paths), "num_workers": 0, "device": "cpu", "cache": cache}
    return ImageDataLoaders.from_name_func(paths[0].parent, paths, label_func=first_letter, **how, **tfms).train


def take_turns(jobs, n, rounds, clock=time.process_time):
    """Returns job -> the milliseconds per image that each round took."""
    took = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            took[name].append(seconds(job, clock) / n * 1e3)
    return {name: column[1:] for name, column in took.items()}


def choose(costs, stage, names):
    """Returns the cheapest way of a stage."""
    return min(names, key=lambda name: statistics.median(costs[stage, name]))


def limit(ways, best):
    """Returns a function from a path to an augmented image, with these ways."""
    decode, resize, augment = (ways[stage][name] for stage, name in best.items())

    def make(path):
        return augment(np.ascontiguousarray(resize(np.ascontiguousarray(decode(path)))[:SIDE, :SIDE]))

    return make


def over_in(threads, f, things):
    list(threads.map(f, things))


def report_stages(kind, costs, best):
    print(
        f"\n{KINDS[kind]}: milliseconds of processor time per image, each alone\n\n| stage | way | ms |\n|---|---|---|"
    )
    for (stage, name), column in costs.items():
        if stage != "ours":
            print(f"| {stage} | {name} | {statistics.median(column):.3f} |")
    ours = {name: statistics.median(column) for (stage, name), column in costs.items() if stage == "ours"}
    parts = {stage: ours[stage] for stage in best}
    parts["cut and collate"] = ours["fetch"] - ours["decode"] - ours["resize"]
    parts["order and hand-over"] = ours["all"] - ours["fetch"] - ours["augment"]
    print("\n| ours | ms | share | the limit's way |\n|---|---|---|---|")
    for name, cost in parts.items():
        print(f"| {name} | {cost:.3f} | {cost / ours['all']:.0%} | {best.get(name, '')} |")
    print(f"| all | {ours['all']:.3f} | | |")


def report_limits(kind, alone, by_clock, n_threads):
    print("\n| | ms of processor time | of ours | images a second by the clock | of ours |\n|---|---|---|---|---|")
    shares = {}
    for name, what in {"ours": "ours", "plain": "ours without `fast`", **LIMITS}.items():
        shares[name] = tuple(share_text(took["ours"], took[name]) for took in (alone, by_clock))
        cost, clock = (statistics.median(took[name]) for took in (alone, by_clock))
        print(f"| {what} | {cost:.3f} | {shares[name][0]} | {1e3 / clock:,.0f} | {shares[name][1]} |")
    plain = tuple(share_text(took["plain"], took["limit"]) for took in (alone, by_clock))
    readme_row(
        f"{KINDS[kind]} to augmented batches of 128 px: share of the machine's limit, processor time; by the clock, "
        f"{n_threads} threads",
        "{}; {} by the clock".format(*shares["limit"]),
        "if torch augments: {}; {}".format(*shares["torch"]),
    )
    readme_row("the same without the extra `fast`", "{}; {}".format(*plain))


def compare_cache(paths, options):
    """Prints how fast epochs from the cache are, compared with the same images in memory, by turns."""
    cached = make_loader(paths, cache=True, bs=N_FILES["jpeg"])
    squares = torch.stack([x.byte() for x in cached.dataset.fetch([(i, None) for i in range(len(paths))]).x])
    tfms = {"batch_tfms": aug_transforms(size=OUT), "training": True, "shuffle": True}
    in_memory = MemoryLoader(squares, cached.y, bs=cached.bs, device="cpu", **tfms)
    jobs = {"cache": partial(run_through, cached), "memory": partial(run_through, in_memory)}
    shares = []
    for clock in (time.process_time, time.perf_counter):
        took = take_turns(jobs, len(paths), options.rounds, clock)
        shares.append(share_text(took["cache"], took["memory"]))
    print(f"\nfrom the cache: {shares[0]} of the speed in memory by processor time, {shares[1]} by the clock")
    readme_row("an epoch from the cache: share of the speed in memory; by the clock", f"{shares[0]}; {shares[1]}")


if __name__ == "__main__":
    main()
