"""Measures images per second of input pipelines that shift and flip images of 32 pixels in memory.

Run: ``python tests/benchmarks/pipeline.py [--items 20000] [--rounds 5] [--bs 128] [--threads 2]``. The images are
synthetic uint8, because only their number and size matter for throughput. The contenders take turns, each in its own
process, so that a busy machine slows all alike. The figures are medians. fastai takes part if it is installed.
"""

import os
import platform
import statistics
from functools import partial

import torch
import torch.nn.functional as F
from rows import readme_row
from torch.utils.data import DataLoader, Dataset
from turns import by_turns, make_parser, seconds

from minilearner.data.dataloaders import DataLoaders
from minilearner.data.memory_loader import MemoryLoader
from minilearner.vision.augment import Flip
from minilearner.vision.shift import RandomShift


def main():
    parser = make_parser(__doc__, rounds=5, bs=128)
    parser.add_argument("--items", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options), "synthetic 1 x 32 x 32 uint8")
    contenders = {name: (make_benchmark, make, options.items, options.bs) for name, make in CONTENDERS.items()}
    rates = by_turns(contenders, options.rounds)
    report(rates)
    median = {name: f"{statistics.median(column):,.0f}" for name, column in rates.items()}
    others = {"`grid_sample` by hand": GRID, "fastai": FASTAI, "torchvision": TORCHVISION}
    peers = ", ".join(f"{name} {median[key]}" for name, key in others.items() if key in median)
    readme_row(f"images a second, 32 px, batch {options.bs}, shift + flip", median[OURS], peers)
    readme_row("the same with whole-pixel shifts", median[WHOLE], f"a gather by hand {median[GATHER]}")


def machine(options):
    return (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, batch {options.bs},"
    )


def make_benchmark(make, n, bs):
    """Returns a function that makes a pass over a loader of made-up images and returns the images per second."""
    x, y = torch.randint(0, 256, (n, 1, 32, 32), dtype=torch.uint8), torch.randint(0, 10, (n,))
    loader = make(x, y, bs)

    def epoch():
        for _ in loader:
            pass

    return lambda: len(loader) * bs / seconds(epoch)


def ours(*batch_tfms):
    return partial(our_loader, batch_tfms)


def our_loader(batch_tfms, x, y, bs):
    options = {"shuffle": True, "drop_last": True, "training": True, "batch_tfms": batch_tfms, "device": "cpu"}
    return DataLoaders(MemoryLoader(x, y, bs=bs, **options), device="cpu").train


class GridSampleLoop:
    """The loop that one would write by hand: index, scale, and one affine grid for each batch."""

    def __init__(self, x, y, bs):
        self.x, self.y, self.bs = x, y, bs

    def __len__(self):
        return len(self.x) // self.bs

    def __iter__(self):
        device = self.x.device
        order = torch.randperm(len(self.x), device=device)
        for b in range(len(self)):
            chosen = order[b * self.bs : (b + 1) * self.bs]
            theta = torch.zeros(self.bs, 2, 3, device=device)
            theta[:, 0, 0] = torch.where(torch.rand(self.bs, device=device) < 0.5, -1.0, 1.0)
            theta[:, 1, 1] = 1
            theta[:, :, 2] = (
                torch.rand(self.bs, 2, device=device) * 2 - 1
            ) * 0.2  # 0.2 of half a side is a tenth of the side
            x = self.x[chosen].float() / 255
            grid = F.affine_grid(theta, x.shape, align_corners=False)
            yield F.grid_sample(x, grid, padding_mode="border", align_corners=False), self.y[chosen]


class GatherLoop(GridSampleLoop):
    """The same with whole-pixel shifts: each image takes its rows and columns from a padded store."""

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


class Images(Dataset):
    def __init__(self, x, y, transform):
        self.x, self.y, self.transform = x, y, transform

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.transform(self.x[i]), self.y[i]


def torchvision_loader(x, y, bs):
    x, y = x[:2000], y[:2000]  # it is slow
    from torchvision.transforms import InterpolationMode, v2

    steps = [
        v2.RandomAffine(0, translate=(0.1, 0.1), interpolation=InterpolationMode.BILINEAR),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
    ]
    return DataLoader(Images(x, y, v2.Compose(steps)), batch_size=bs, shuffle=True, drop_last=True)


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


OURS, WHOLE = "minilearner, shift (interpolated) + flip", "minilearner, shift (whole pixels) + flip"
GRID, GATHER = "one batched grid_sample, plain loop", "one batched gather of whole pixels, plain loop"
TORCHVISION, FASTAI = "DataLoader + torchvision v2, per image", "fastai, affine shift + flip on batches"
CONTENDERS = {
    OURS: ours(RandomShift(0.1), Flip()),
    WHOLE: ours(RandomShift(0.1, whole_pixels=True), Flip()),
    "minilearner, no augmentation": ours(),
    GRID: GridSampleLoop,
    GATHER: GatherLoop,
    TORCHVISION: torchvision_loader,
    FASTAI: fastai_loader,
}


def report(rates):
    first = statistics.median(next(iter(rates.values())))
    print(f"{'':52}{'images/s':>12}{'lowest':>12}{'highest':>12}   ours is")
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"{name:52}{median:12,.0f}{min(values):12,.0f}{max(values):12,.0f}   {first / median:.2f} x")


if __name__ == "__main__":
    main()
