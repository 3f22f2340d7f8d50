"""Measures images per second of `aug_transforms` and normalisation on whole RGB batches, 160 to 128 pixels.

Run: ``python tests/benchmarks/augmentation.py [--batches 20] [--rounds 5] [--bs 64] [--threads 2] [--device cpu]``.
minilearner and fastai get the same float batch on the device, so only the transforms are measured. They take turns,
each in its own process, so that a busy machine slows both alike. The figures are medians. fastai takes part if it is
installed.
"""

import statistics
import warnings

import torch
from pipeline import machine, report
from rows import readme_row
from turns import by_turns, make_parser, seconds

from minilearner.data.batch_transforms import Pipeline, run_steps
from minilearner.runtime import keep_freed_memory
from minilearner.vision.augment import aug_transforms
from minilearner.vision.erasing import RandomErasing
from minilearner.vision.lighting import Hue, Saturation
from minilearner.vision.normalize import Normalize, imagenet_stats

USUAL = {"size": 128}
LISTS = {
    "aug_transforms(size=128)": (USUAL, False),
    "aug_transforms(size=128, min_scale=.5)": (USUAL | {"min_scale": 0.5}, False),
    "with Saturation, Hue, RandomErasing": (USUAL, True),
}


def main():
    parser = make_parser(__doc__, rounds=5, bs=64)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options), f"on {options.device}")
    contenders = {
        f"{who}, {what}": (make_benchmark, make, how, options)
        for who, make in {"minilearner": ours, "fastai": fastais}.items()
        for what, how in LISTS.items()
    }
    rates = by_turns(contenders, options.rounds)
    report(rates)
    median = {name: f"{statistics.median(column):,.0f}" for name, column in rates.items()}
    for what in ("aug_transforms(size=128)", "with Saturation, Hue, RandomErasing"):
        is_usual = what == "aug_transforms(size=128)"
        row = f"images of 160 px a second through `{what}` and normalisation" if is_usual else f"the same {what}"
        theirs = f"fastai {median[f'fastai, {what}']}" if f"fastai, {what}" in median else ""
        readme_row(row, median[f"minilearner, {what}"], theirs)


def make_benchmark(make, how, options):
    """Returns a function that transforms a batch several times and returns the images per second."""
    x = torch.rand(options.bs, 3, 160, 160, device=options.device)
    transform = make(*how)

    def several():
        for _ in range(options.batches):
            transform(x)

    return lambda: options.batches * len(x) / seconds(several)


def ours(arguments, is_more):
    more = [Saturation(), Hue(), RandomErasing()] if is_more else []
    transforms = [*aug_transforms(**arguments), *more, Normalize.from_stats(*imagenet_stats)]
    keep_freed_memory()  # as our loaders do
    steps, rng = Pipeline(transforms).steps(training=True), torch.Generator().manual_seed(0)
    return lambda x: run_steps(steps, x, rng)


def fastais(arguments, is_more):
    from fastai.data.transforms import Normalize as FastaiNormalize
    from fastai.data.transforms import Pipeline as FastaiPipeline
    from fastai.torch_core import TensorImage
    from fastai.vision import augment

    warnings.filterwarnings("ignore")
    more = [augment.Saturation(), augment.Hue(), augment.RandomErasing()] if is_more else []
    normalize = FastaiNormalize.from_stats(*imagenet_stats, cuda=torch.cuda.is_available())
    pipeline = FastaiPipeline([*augment.aug_transforms(**arguments, xtra_tfms=more), normalize], split_idx=0)
    return lambda x: pipeline(TensorImage(x))


if __name__ == "__main__":
    main()
