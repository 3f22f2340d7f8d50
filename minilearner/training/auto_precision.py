"""What `precision="auto"` means on this machine: a short trial on the CPU, and the choice that follows from it.

The features of a processor do not say what is fast. Two that both have AVX512-BF16 differ: on one, bf16 takes half the
time of fp32; on the other, twice the time.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minilearner import processes
from minilearner.checks import check_choice
from minilearner.models.tensors import has_convolutions, to_channels_last, to_contiguous
from minilearner.other_libraries import PRECISIONS_ELSEWHERE
from minilearner.training.precision import PRECISIONS

__all__ = [
    "PrecisionChoice",
    "TrialLayers",
    "Way",
    "check_precision",
    "choose_precision",
    "decide",
    "measure_steps",
]

_LEAST_GAIN = 1.2
"""How many times faster bf16 must be. It costs accuracy, so a small gain does not justify it."""
_LEAST_LAYOUT_GAIN = 1.05
"""How many times faster channels_last must be. Below that, noise would decide, differently in each process."""


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision and a memory layout that "auto" chose.

    Attributes:
        precision: "fp32" or "bf16".
        channels_last: whether the weights of 2-d convolutions are laid out as channels_last.
        why: the reason, with what was measured.
    """

    precision: str
    channels_last: bool
    why: str

    def lay_out(self, model: nn.Module) -> nn.Module:
        """Gives the model's 2-d convolutions the layout of this choice. Values do not change."""
        if not has_convolutions(model):
            return model
        return to_channels_last(model) if self.channels_last else to_contiguous(model)

    def __str__(self) -> str:
        """Returns the choice and its reason in one sentence."""
        return f"auto chose {self.precision}{', channels_last' * self.channels_last}: {self.why}"


class Way(NamedTuple):
    """One way to compute a step."""

    precision: str
    channels_last: bool

    def __str__(self) -> str:
        return f"{self.precision}{' channels_last' * self.channels_last}"


_MIXING = (nn.Linear, nn.Conv2d)


class TrialLayers(NamedTuple):
    """The layers of a model that decide which way is fast. A trial computes with such layers.

    Attributes:
        convolutions: whether the model has 2-d convolutions, and so a layout to choose.
        depthwise: kernel side and stride of its depthwise convolutions, each pair once, in rising order. Their kernels
            differ most: for strides above 1 or kernels above 3, bf16 may take ten times as long as fp32.
        linear: whether linear layers mix the channels after a depthwise convolution, as in ConvNeXt. They then have
            more weights than the convolutions, and bf16 gains more with them than with small convolutions.
    """

    convolutions: bool
    depthwise: tuple[tuple[int, int], ...] = ()
    linear: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> TrialLayers:
        """Returns the layers of a model."""
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        depthwise = {(one.kernel_size[0], one.stride[0]) for one in convolutions if one.groups == one.in_channels > 1}
        weights = {kind: sum(one.weight.numel() for one in model.modules() if type(one) is kind) for kind in _MIXING}
        linear = bool(depthwise) and weights[nn.Linear] > weights[nn.Conv2d]
        return cls(bool(convolutions), tuple(sorted(depthwise)), linear)


def check_precision(precision: str) -> None:
    """Checks for the name of a precision, or "auto"."""
    check_choice(precision, "precision", (*PRECISIONS, "auto"), synonyms=PRECISIONS_ELSEWHERE)


def choose_precision(
    model: nn.Module,
    device: torch.device,
    *,
    measure: Callable[[TrialLayers], Mapping[Way, float]] | None = None,
    is_shared: bool = False,
) -> PrecisionChoice:
    """Returns how a model trains fast on a device: on a CPU by a trial, on a GPU by its compute capability.

    Args:
        model: decides what the trial computes: convolutions of its kinds if it has any, else matrix products.
        device: where it trains.
        measure: returns the seconds of a step for each way to compute it, see `decide`; `measure_steps` by default. Its
            argument says which layers the step has.
        is_shared: whether all processes take the choice of process 0. Then each of them must make this call.
    """
    layers, measure = TrialLayers.of(model), measure or measure_steps
    if is_shared and not processes.is_first():
        return processes.take_from_first(None)  # type: ignore[no-any-return]
    choice = decide(measure(layers)) if device.type == "cpu" else _judge_gpu(device, layers.convolutions)
    return processes.take_from_first(choice) if is_shared else choice


def decide(seconds: Mapping[Way, float]) -> PrecisionChoice:
    """Returns the choice for these times of a step.

    Args:
        seconds: the time for each `Way`: always for ("fp32", False) and ("bf16", False), and with convolutions for
            channels_last too.
    """
    fp32, bf16 = (_choose_layout(precision, seconds) for precision in ("fp32", "bf16"))
    chosen = bf16 if seconds[bf16] * _LEAST_GAIN <= seconds[fp32] else fp32
    ratio = seconds[bf16] / seconds[fp32]
    times = ", ".join(f"{Way(*way)} {value * 1e3:.1f} ms" for way, value in seconds.items())
    return PrecisionChoice(*chosen, why=f"in a trial, bf16 took {ratio:.2f} times as long as fp32 ({times})")


def measure_steps(layers: TrialLayers) -> Mapping[Way, float]:
    """Returns the shortest time of a small training step on the CPU for each way to compute it, in seconds.

    Each process measures once for the same layers and keeps the result. That takes 0.1 to 0.3 seconds. It computes in
    one thread, because the threads of a small step wait for each other most of the time. It draws from no global
    generator.

    Args:
        layers: what the step computes with.
    """
    with _one_at_a_time:
        return _measure_once(layers)


_one_at_a_time = threading.Lock()
_ROUNDS = range(3, 7)
"""How many rounds, at least and at most."""
_REPEATED = 1.1
"""How close the two shortest times of a step must be to count as confirmed."""
_HOPELESS = 3.0
"""A way that takes this many times as long as the fastest is left out after one round: emulated bf16 is that slow."""


@functools.cache
def _measure_once(layers: TrialLayers) -> Mapping[Way, float]:
    n_threads = torch.get_num_threads()
    with ThreadPoolExecutor(1) as own:  # a new thread, which no autocast, `no_grad` or default device reaches
        own.submit(torch.set_num_threads, 1).result()
        own.submit(torch.get_num_threads).result()  # Its first use takes over the number that was set last.
        torch.set_num_threads(n_threads)  # This thread has kept its number. New threads shall have the same.
        return own.submit(lambda: _take_turns(_make_steps(layers))).result()


def _make_steps(layers: TrialLayers) -> dict[Way, Callable[[], None]]:
    make = _make_convolutions if layers.convolutions else _make_products
    if layers.depthwise:
        make = functools.partial(_make_blocks if layers.linear else _make_depthwise, layers.depthwise)
    layouts = (False, True) if layers.convolutions else (False,)
    return {Way(name, layout): make(name, layout) for name in ("fp32", "bf16") for layout in layouts}


def _take_turns(steps: Mapping[Way, Callable[[], None]]) -> Mapping[Way, float]:
    """Returns the shortest time of each step. They take turns, so that a busy moment of the machine slows all alike."""
    clock = _choose_clock()
    for step in steps.values():
        step()  # the first call prepares kernels
    times: dict[Way, list[float]] = {way: [] for way in steps}
    contenders = dict(steps)
    for n in range(1, _ROUNDS.stop):
        for way, step in contenders.items():
            began = clock()
            step()
            times[way] = sorted([*times[way], clock() - began])
        fastest = min(found[0] for found in times.values())
        contenders = {way: step for way, step in steps.items() if times[way][0] < _HOPELESS * fastest}
        if n >= _ROUNDS.start and all(times[way][1] < _REPEATED * times[way][0] for way in contenders):
            break
    return {way: found[0] for way, found in times.items()}


def _choose_clock() -> Callable[[], float]:
    """Returns a clock that stands still while other programs have this thread's core, if the system has a fine one."""
    is_fine = time.get_clock_info("thread_time").resolution < 1e-5  # on Windows it is 0.016 seconds
    return time.thread_time if is_fine else time.perf_counter


def _choose_layout(precision: str, seconds: Mapping[Way, float]) -> Way:
    plain, other = Way(precision, False), Way(precision, True)
    return other if seconds.get(other, math.inf) * _LEAST_LAYOUT_GAIN <= seconds[plain] else plain


def _judge_gpu(device: torch.device, convolutions: bool) -> PrecisionChoice:
    """Chooses for a device that is not a CPU. Convolutions are always laid out as channels_last there."""
    if device.type != "cuda":
        return PrecisionChoice("fp32", convolutions, f"bf16 is not tried on the device {device.type}")
    major, minor = torch.cuda.get_device_capability(device)
    why = f"this GPU has compute capability {major}.{minor}, and bf16 is fast from 8.0 on"
    return PrecisionChoice("bf16" if major >= 8 else "fp32", convolutions, why)


def _make_convolutions(precision: str, channels_last: bool) -> Callable[[], None]:
    """Returns a step of a small network with all that decides about the layout: not convolutions alone.

    The input is (16, 32, 16, 16). Two convolutions with kernels of 3 and 1 pixels, each followed by batch norm and
    ReLU, are joined and pooled; a third one follows.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    sizes = (32, 32, 3, 3), (32, 32, 1, 1), (32, 64, 3, 3)
    kernels = [_draw(*size).to(memory_format=layout).requires_grad_() for size in sizes]
    norms = [(_draw(32).requires_grad_(), _draw(32).requires_grad_()) for _ in sizes]
    images = _draw(16, 32, 16, 16).to(memory_format=layout).requires_grad_()

    def convolve(x: Tensor, i: int) -> Tensor:
        x = F.conv2d(x, kernels[i], padding=kernels[i].shape[-1] // 2)
        return F.relu(F.batch_norm(x, None, None, *norms[i], training=True))

    def predict() -> Tensor:
        x = F.max_pool2d(torch.cat([convolve(images, 0), convolve(images, 1)], 1), 2)
        return convolve(x, 2).mean((2, 3))

    parameters = [images, *kernels, *(one for norm in norms for one in norm)]
    return functools.partial(_step, predict, parameters, precision)


def _make_depthwise(kinds: tuple[tuple[int, int], ...], precision: str, channels_last: bool) -> Callable[[], None]:
    """Returns a step of one inverted bottleneck for each kernel side and stride, all on the same input.

    The input is (4, 16, 16, 16). Each bottleneck widens it to 64 channels, convolves each of them alone, and narrows
    them again; batch norm and ReLU follow each convolution.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def draw(*size: int) -> Tensor:
        return _draw(*size).to(memory_format=layout).requires_grad_()

    images = draw(4, 16, 16, 16)
    kernels = [(draw(64, 16, 1, 1), draw(64, 1, side, side), draw(16, 64, 1, 1)) for side, _ in kinds]

    def normalize(x: Tensor) -> Tensor:
        return F.relu(F.batch_norm(x, None, None, training=True))

    def convolve(kind: tuple[int, int], widen: Tensor, own: Tensor, narrow: Tensor) -> Tensor:
        side, stride = kind
        x = normalize(F.conv2d(images, widen))
        x = normalize(F.conv2d(x, own, stride=stride, padding=side // 2, groups=64))
        return normalize(F.conv2d(x, narrow)).mean((2, 3))

    def predict() -> Tensor:
        outputs = [convolve(kind, *three) for kind, three in zip(kinds, kernels, strict=True)]
        return torch.stack(outputs).sum(0)

    return functools.partial(_step, predict, [images, *(one for three in kernels for one in three)], precision)


def _make_blocks(kinds: tuple[tuple[int, int], ...], precision: str, channels_last: bool) -> Callable[[], None]:
    """Returns a step of one block for each kernel side and stride, all on the same input of (4, 96, 16, 16).

    Each block convolves each channel alone, and normalizes the channels of each pixel. Two linear layers then widen
    these to 384, and narrow them again.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = _draw(4, 96, 16, 16).to(memory_format=layout).requires_grad_()
    widen, narrow = _draw(384, 96).requires_grad_(), _draw(96, 384).requires_grad_()
    kernels = [_draw(96, 1, side, side).to(memory_format=layout).requires_grad_() for side, _ in kinds]

    def convolve(kind: tuple[int, int], own: Tensor) -> Tensor:
        side, stride = kind
        x = F.conv2d(images, own, stride=stride, padding=side // 2, groups=96).permute(0, 2, 3, 1)
        return F.linear(F.gelu(F.linear(F.layer_norm(x, (96,)), widen)), narrow).mean((1, 2))

    def predict() -> Tensor:
        return torch.stack([convolve(kind, own) for kind, own in zip(kinds, kernels, strict=True)]).sum(0)

    return functools.partial(_step, predict, [images, widen, narrow, *kernels], precision)


def _make_products(precision: str, channels_last: bool) -> Callable[[], None]:
    """Returns a step of a network of three linear layers, for an input of (64, 512)."""
    weights = [_draw(512, 512).requires_grad_() for _ in range(3)]
    items = _draw(64, 512)

    def predict() -> Tensor:
        return functools.reduce(lambda x, weight: F.relu(F.linear(x, weight)), weights, items)

    return functools.partial(_step, predict, weights, precision)


def _step(predict: Callable[[], Tensor], parameters: list[Tensor], precision: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        pred = predict()
    torch.autograd.grad(pred.float().sum(), parameters)


def _draw(*size: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.rand(size, generator=generator, device="cpu", dtype=torch.float32) - 0.5
