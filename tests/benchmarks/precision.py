"""Measures whether `precision="auto"` takes the fastest of fp32 and bf16, each with and without channels_last.

    python tests/benchmarks/precision.py [--bs 64] [--rounds 7] [--threads 2]

Training steps of MiniGoogLeNet (32 pixels), ResNet-18, MobileNetV2, EfficientNet-B0 and ConvNeXt-Tiny (64 pixels) and
an MLP take turns in all four ways, in one process, so that a busy machine slows all alike. A ratio divides a way's
time by that of auto's choice in the same round, and the table shows medians over rounds. The last column divides the
choice's time by that of the best way; the aim is at most 1.05. With one thread, the clock counts only the time that
this thread computes, so that other programs disturb little.
"""

import os
import platform
import statistics
import time
from itertools import product

import torch
import torchvision
from rows import readme_row
from torch.nn import functional as F
from turns import make_parser, ratio, seconds

from minilearner import MLP, MiniGoogLeNet
from minilearner.training.auto_precision import PrecisionChoice, Way, choose_precision

MODELS = {
    "MiniGoogLeNet, 32 px": (lambda: MiniGoogLeNet(10), (1, 32, 32)),
    "ResNet-18, 64 px": (lambda: torchvision.models.resnet18(num_classes=10), (3, 64, 64)),
    "MobileNetV2, 64 px": (lambda: torchvision.models.mobilenet_v2(num_classes=10), (3, 64, 64)),
    "EfficientNet-B0, 64 px": (lambda: torchvision.models.efficientnet_b0(num_classes=10), (3, 64, 64)),
    "ConvNeXt-Tiny, 64 px": (lambda: torchvision.models.convnext_tiny(num_classes=10), (3, 64, 64)),
    "Swin-Tiny, 64 px": (lambda: torchvision.models.swin_t(num_classes=10), (3, 64, 64)),
    "ViT of six blocks, 64 px": (lambda: make_transformer(), (3, 64, 64)),
    "MLP, 784-512-512-10": (lambda: MLP([784, 512, 512, 10]), (784,)),
}


def make_transformer():
    return torchvision.models.VisionTransformer(
        image_size=64, patch_size=8, num_layers=6, num_heads=4, hidden_dim=256, mlp_dim=1024, num_classes=10
    )


WAYS = [Way(*way) for way in product(("fp32", "bf16"), (False, True))]


def make_steps(make, size, bs, way):
    torch.manual_seed(0)
    model = PrecisionChoice(*way, why="").lay_out(make())
    x, y = torch.rand(bs, *size), torch.randint(10, (bs,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=way.precision == "bf16"):
            pred = model(x)
        F.cross_entropy(pred.float(), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main():
    parser = make_parser(__doc__, rounds=7, bs=64)
    parser.add_argument("--models", nargs="+", default=[""], help="only models whose names begin so")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    print(f"{platform.machine()}, {os.cpu_count()} cores, {args.threads} threads, torch {torch.__version__}; batch")
    print(f"{args.bs}, {args.rounds} rounds. Time of a step, divided by that of the choice:\n")
    print(f"{'':24}" + "".join(f"{way!s:>20}" for way in WAYS) + f"{'choice to best':>20}")
    for name, (make, size) in MODELS.items():
        if not name.startswith(tuple(args.models)):
            continue
        choice = choose_precision(make(), torch.device("cpu"))
        steps = {way: make_steps(make, size, args.bs, way) for way in WAYS}
        times = {way: [] for way in WAYS}
        for number in range(1 + args.rounds):
            for way, step in steps.items():
                taken = seconds(step, clock)
                if number:  # the first round prepares kernels
                    times[way].append(taken)
        chosen = Way(choice.precision, choice.channels_last)
        ratios = {way: ratio(times[way], times[chosen]) for way in WAYS}
        excess = 1 / min(ratios.values())
        print(f"{name:24}" + "".join(f"{ratios[way]:20.2f}" for way in WAYS) + f"{excess:20.2f}", flush=True)
        print(f"    {choice}")
        best = min(ratios, key=ratios.get)
        texts = {way: f"{statistics.median(found) * 1e3:.0f} ms ({way})" for way, found in times.items()}
        readme_row(f'a step of {name}, `precision="auto"`', texts[chosen], f"the best way: {texts[best]}")


if __name__ == "__main__":
    main()
