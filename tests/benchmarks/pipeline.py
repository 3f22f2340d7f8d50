"""Images a second of the input pipeline, side by side with others in one process: shift and flip at 32 pixels.

Run: ``python tests/benchmarks/pipeline.py [--items 20000] [--rounds 5] [--bs 128] [--threads 2]``. The pictures are
synthetic uint8: only their number and size matter for throughput. Rounds of all contenders are interleaved, so that a
busy machine slows all alike; the figures are medians. fastai takes part where it is installed.
"""

import argparse
import os
import platform
import statistics
import time

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from minilearner.data.memory import MemoryLoader
from minilearner.vision.augment import Flip, RandomShift


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bs", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = torch.randint(0, 256, (options.items, 1, 32, 32), dtype=torch.uint8)
    y = torch.randint(0, 10, (options.items,))
    contenders = {**ours(x, y, options.bs), **others(x, y, options.bs)}
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads, ",
        end="",
    )
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, batch {options.bs}, synthetic 1 x 32 x 32 uint8")
    report(measured(contenders, options.rounds))


def ours(x, y, bs):
    def loader(*batch_tfms):
        return MemoryLoader(
            x, y, bs=bs, shuffle=True, drop_last=True, training=True, batch_tfms=batch_tfms, device="cpu"
        )

    return {
        "minilearner, shift (interpolated) + flip": loader(RandomShift(0.1), Flip()),
        "minilearner, shift (whole pixels) + flip": loader(RandomShift(0.1, whole_pixels=True), Flip()),
        "minilearner, no augmentation": loader(),
    }


def others(x, y, bs):
    found = {
        "one batched grid_sample, plain loop": GridSampleLoop(x, y, bs),
        "one batched gather of whole pixels, plain loop": GatherLoop(x, y, bs),
        "DataLoader + torchvision v2, per image": torchvision_loader(x[:2000], y[:2000], bs),
    }
    try:
        found["fastai, affine shift + flip on batches"] = fastai_loader(x, y, bs)
    except ImportError:
        print("fastai is not installed and takes no part.")
    return found


class GridSampleLoop:
    """What one would write by hand: index, scale, one affine grid a batch."""

    def __init__(self, x, y, bs):
        self.x, self.y, self.bs = x, y, bs

    def __len__(self):
        return len(self.x) // self.bs

    def __iter__(self):
        order = torch.randperm(len(self.x))
        for b in range(len(self)):
            chosen = order[b * self.bs : (b + 1) * self.bs]
            theta = torch.zeros(self.bs, 2, 3)
            theta[:, 0, 0] = torch.where(torch.rand(self.bs) < 0.5, -1.0, 1.0)
            theta[:, 1, 1] = 1
            theta[:, :, 2] = (torch.rand(self.bs, 2) * 2 - 1) * 0.2  # of half a side: a tenth of the side
            x = self.x[chosen].float() / 255
            grid = F.affine_grid(theta, x.shape, align_corners=False)
            yield F.grid_sample(x, grid, padding_mode="border", align_corners=False), self.y[chosen]


class GatherLoop(GridSampleLoop):
    """The same by whole pixels: rows and columns that each picture takes, from a padded store."""

    def __init__(self, x, y, bs):
        super().__init__(x, y, bs)
        self.padded = F.pad(x, (3, 3, 3, 3), mode="replicate")[:, 0]

    def __iter__(self):
        order, along = torch.randperm(len(self.x)), torch.arange(32)
        for b in range(len(self)):
            chosen = order[b * self.bs : (b + 1) * self.bs]
            rows, columns = (along + torch.randint(7, (2, self.bs, 1))).unbind()
            columns = torch.where(torch.rand(self.bs, 1) < 0.5, columns.flip(1), columns)
            x = self.padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
            yield x[:, None].float() / 255, self.y[chosen]


class Pictures(Dataset):
    def __init__(self, x, y, transform):
        self.x, self.y, self.transform = x, y, transform

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.transform(self.x[i]), self.y[i]


def torchvision_loader(x, y, bs):
    from torchvision.transforms import InterpolationMode, v2

    steps = [
        v2.RandomAffine(0, translate=(0.1, 0.1), interpolation=InterpolationMode.BILINEAR),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
    ]
    return DataLoader(Pictures(x, y, v2.Compose(steps)), batch_size=bs, shuffle=True, drop_last=True)


def fastai_loader(x, y, bs):
    from fastai.data.core import TfmdDL
    from fastai.torch_core import TensorCategory, TensorImage
    from fastai.vision.augment import AffineCoordTfm, flip_mat

    def shift_mat(x):
        mat = torch.eye(3, device=x.device).repeat(len(x), 1, 1)
        mat[:, :2, 2] = (torch.rand(len(x), 2) * 2 - 1) * 0.2
        return mat

    images = TensorImage(x.float() / 255)
    items = list(zip(images, TensorCategory(y), strict=True))
    augment = AffineCoordTfm(aff_fs=[shift_mat, flip_mat], pad_mode="border")
    return TfmdDL(items, bs=bs, shuffle=True, drop_last=True, after_batch=[augment], num_workers=0)


def measured(contenders, rounds):
    rates = {name: [] for name in contenders}
    for loader in contenders.values():
        next(iter(loader))
    for _ in range(rounds):
        for name, loader in contenders.items():
            start, n = time.perf_counter(), 0
            for _, y in loader:
                n += len(y)
            rates[name].append(n / (time.perf_counter() - start))
    return rates


def report(rates):
    first = statistics.median(next(iter(rates.values())))
    print(f"{'':52}{'images/s':>12}{'lowest':>12}{'highest':>12}   ours is")
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"{name:52}{median:12,.0f}{min(values):12,.0f}{max(values):12,.0f}   {first / median:.2f} x")


if __name__ == "__main__":
    main()
