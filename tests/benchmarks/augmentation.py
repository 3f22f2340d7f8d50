"""Images a second of `aug_transforms` and normalisation on whole batches, beside fastai's: 160 to 128 pixels, RGB.

Run: ``python tests/benchmarks/augmentation.py [--batches 20] [--rounds 5] [--bs 64] [--threads 2] [--device cpu]``.
Both get one float batch on the device, so only the transforms are measured. Rounds are interleaved, so that a busy
machine slows all alike; the figures are medians. fastai takes part where it is installed.
"""

import argparse
import os
import platform
import time
import warnings

import torch
from pipeline import report

from minilearner.data.transforms import Pipeline, run_steps
from minilearner.vision.augment import Hue, Normalize, RandomErasing, Saturation, aug_transforms, imagenet_stats


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bs", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = torch.rand(options.bs, 3, 160, 160, device=options.device)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {options.threads} threads, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, batch {options.bs}, on {x.device}")
    report(measured({**ours(), **fastais()}, x, options))


def ours():
    rng, normalize = torch.Generator().manual_seed(0), Normalize.from_stats(*imagenet_stats)
    usual = aug_transforms(size=128)
    lists = {
        "minilearner, aug_transforms(size=128)": usual,
        "minilearner, aug_transforms(size=128, min_scale=.5)": aug_transforms(size=128, min_scale=0.5),
        "minilearner, with Saturation, Hue, RandomErasing": [*usual, Saturation(), Hue(), RandomErasing()],
    }

    def runner(transforms):
        steps = Pipeline([*transforms, normalize]).steps(training=True)
        return lambda x: run_steps(steps, x, rng)  # as loaders do

    return {name: runner(transforms) for name, transforms in lists.items()}


def fastais():
    try:
        from fastai.data.transforms import Normalize as FastaiNormalize
        from fastai.data.transforms import Pipeline as FastaiPipeline
        from fastai.torch_core import TensorImage
        from fastai.vision import augment
    except ImportError:
        print("fastai is not installed and takes no part.")
        return {}
    warnings.filterwarnings("ignore")
    lists = {
        "fastai, aug_transforms(size=128)": augment.aug_transforms(size=128),
        "fastai, with Saturation, Hue, RandomErasing": augment.aug_transforms(
            size=128, xtra_tfms=[augment.Saturation(), augment.Hue(), augment.RandomErasing()]
        ),
    }

    def runner(transforms):
        normalize = FastaiNormalize.from_stats(*imagenet_stats, cuda=torch.cuda.is_available())
        pipeline = FastaiPipeline([*transforms, normalize], split_idx=0)
        return lambda x: pipeline(TensorImage(x))

    return {name: runner(transforms) for name, transforms in lists.items()}


def measured(contenders, x, options):
    rates = {name: [] for name in contenders}
    for run in contenders.values():
        run(x)
    for _ in range(options.rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            for _ in range(options.batches):
                run(x)
            if x.is_cuda:
                torch.cuda.synchronize()
            rates[name].append(options.batches * len(x) / (time.perf_counter() - start))
    return rates


if __name__ == "__main__":
    main()
