"""What `precision="auto"` chooses: the faster way by its own measurement, which leaves no trace."""

import random
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from minilearner import DataLoaders, Learner, MiniGoogLeNet, largest_batch_size
from minilearner.runtime import rng_state
from minilearner.training import auto_precision
from minilearner.training.auto_precision import PrecisionChoice, TrialLayers, choose_precision, decide, measure_steps

CPU = torch.device("cpu")
CONVOLUTIONS, PRODUCTS = TrialLayers(convolutions=True), TrialLayers(convolutions=False)
MIXED = TrialLayers(convolutions=True, depthwise=((7, 1),), linear=True)
DEPTHWISE = TrialLayers(convolutions=True, depthwise=((3, 1), (3, 2), (5, 1), (5, 2)))


def times(fp32, fp32_last, bf16, bf16_last):
    return {("fp32", False): fp32, ("fp32", True): fp32_last, ("bf16", False): bf16, ("bf16", True): bf16_last}


@pytest.mark.parametrize(
    ("seconds", "precision", "channels_last"),
    [
        (times(0.507, 0.373, 0.618, 0.565), "fp32", True),  # MiniGoogLeNet on Intel with AVX512-BF16, without AMX
        (times(0.383, 0.322, 0.228, 0.178), "bf16", True),  # and on AMD with AVX512-BF16
        (times(1.0, 1.3, 0.9, 1.2), "fp32", False),
        (times(1.0, 1.3, 0.7, 0.8), "bf16", False),
        (times(1.19, 2.0, 1.0, 2.0), "fp32", False),
        (times(1.21, 2.0, 1.0, 2.0), "bf16", False),
        (times(1.0, 0.97, 2.0, 2.0), "fp32", False),
        (times(1.0, 0.94, 2.0, 2.0), "fp32", True),
        ({("fp32", False): 1.0, ("bf16", False): 0.5}, "bf16", False),
        ({("fp32", False): 1.0, ("bf16", False): 1.0}, "fp32", False),
    ],
)
def test_the_choice_follows_the_times(seconds, precision, channels_last):
    choice = decide(seconds)
    assert (choice.precision, choice.channels_last) == (precision, channels_last)


def test_the_choice_says_why_in_one_sentence():
    assert str(decide(times(0.004, 0.003, 0.006, 0.0057))) == (
        "auto chose fp32, channels_last: in a trial, bf16 took 1.90 times as long as fp32 "
        "(fp32 4.0 ms, fp32 channels_last 3.0 ms, bf16 6.0 ms, bf16 channels_last 5.7 ms)"
    )


@pytest.mark.parametrize(("model", "has_any"), [(nn.Sequential(nn.Conv2d(1, 2, 3)), True), (nn.Linear(2, 2), False)])
def test_only_a_model_with_convolutions_is_judged_by_them(model, has_any):
    seen = []

    def measure(layers):
        seen.append(layers)
        return times(1.0, 0.5, 3.0, 3.0) if layers.convolutions else {("fp32", False): 1.0, ("bf16", False): 3.0}

    choice = choose_precision(model, CPU, measure=measure)
    assert seen == [TrialLayers(has_any)] and (choice.precision, choice.channels_last) == ("fp32", has_any)


def test_a_trial_has_the_depthwise_convolutions_of_the_model():
    depthwise, grouped = nn.Conv2d(8, 16, 5, stride=2, groups=8), nn.Conv2d(16, 16, 7, groups=4)
    model = nn.Sequential(depthwise, grouped, nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 16, 3, groups=16))
    assert TrialLayers.of(model) == TrialLayers(convolutions=True, depthwise=((3, 1), (5, 2)))
    assert TrialLayers.of(nn.Conv2d(1, 4, 3)) == CONVOLUTIONS  # one channel has nothing to keep apart


def test_the_trial_knows_whether_linear_layers_mix_the_channels():
    own, widen = nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.Linear(8, 64)
    assert TrialLayers.of(nn.Sequential(own, widen)) == MIXED
    assert not TrialLayers.of(nn.Sequential(own, nn.Conv2d(8, 64, 3), widen)).linear  # a classifier after convolutions
    assert not TrialLayers.of(nn.Sequential(nn.Conv2d(3, 8, 3), widen)).linear  # as in VGG
    assert list(measure_steps(MIXED)) == list(times(1, 1, 1, 1))


def test_a_device_that_is_neither_cpu_nor_cuda_computes_in_fp32():
    choice = choose_precision(MiniGoogLeNet(3), torch.device("mps"), measure=None)
    assert str(choice) == "auto chose fp32, channels_last: bf16 is not tried on the device mps"


@pytest.fixture
def measure():
    """Measures anew, as a fresh process does."""

    def measure(layers):
        auto_precision._measure_once.cache_clear()
        return measure_steps(layers)

    return measure


def test_measuring_takes_less_than_three_tenths_of_a_second(measure):
    def cost():
        began = time.process_time()
        measure(CONVOLUTIONS)
        measure(PRODUCTS)
        return time.process_time() - began

    assert min(cost() for _ in range(3)) < 0.3


def test_a_process_measures_once():
    for layers in (CONVOLUTIONS, DEPTHWISE, PRODUCTS):
        assert measure_steps(layers) is measure_steps(layers)
    assert list(measure_steps(CONVOLUTIONS)) == list(times(1, 1, 1, 1)) and len(measure_steps(PRODUCTS)) == 2


def test_measuring_leaves_generators_threads_and_switches_alone(measure):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before, n_threads = rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            for layers in (CONVOLUTIONS, DEPTHWISE, PRODUCTS):
                assert all(0 < seconds < 10 for seconds in measure(layers).values())
            assert not torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
        found = [torch.get_num_threads()]
        other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        other.start(), other.join()
        assert found == [2, 2]
    finally:
        torch.set_num_threads(n_threads)
    after = rng_state()
    assert after["python"] == before["python"] and torch.equal(after["torch"], before["torch"])
    assert np.array_equal(after["numpy"][1], before["numpy"][1]) and after["numpy"][2] == before["numpy"][2]


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 3))


def train(precision, choice=None):
    torch.manual_seed(0)
    dls = DataLoaders.from_arrays((torch.rand(24, 1, 8, 8), torch.arange(24) % 3), bs=8, seed=1)
    learn = Learner(dls, net(), precision=precision, device="cpu", seed=0)
    if choice is not None:
        learn._take_precision(choice)
    with learn.no_logging():
        record = learn.fit(2, 0.1)
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()]), record


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_an_auto_run_has_the_bits_of_a_run_with_that_precision(measure, name):
    measure(CONVOLUTIONS)
    given, given_record = train(name)
    choice = PrecisionChoice(name, name == "bf16", why="so")
    chosen, record = train("auto", choice)
    assert torch.equal(given, chosen) and record.settings["precision"] == given_record.settings["precision"]
    assert record.settings["auto_precision"] == str(choice) and "auto_precision" not in given_record.settings


def test_a_choice_without_channels_last_lays_out_a_model_contiguously():
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).to(memory_format=torch.channels_last)
    assert PrecisionChoice("fp32", True, "").lay_out(model)[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert PrecisionChoice("fp32", False, "").lay_out(model)[0].weight.is_contiguous()


def test_the_summary_says_what_was_chosen_and_a_given_precision_replaces_it():
    dls = DataLoaders.from_arrays((torch.rand(8, 1, 8, 8), torch.arange(8) % 3), bs=4)
    learn = Learner(dls, net(), precision="auto", device="cpu")
    choice = decide(measure_steps(CONVOLUTIONS))
    layout = ", channels_last" * choice.channels_last
    assert f"precision: {choice.precision}{layout}\nauto_precision: {choice}\n" in str(learn.summary())
    assert "auto chose" not in str(learn.to_fp32().summary())


def test_the_largest_batch_size_takes_auto():
    batch = torch.rand(4, 5), torch.arange(4) % 2
    assert largest_batch_size(nn.Linear(5, 2), nn.CrossEntropyLoss(), batch, max_bs=8, precision="auto") == 8
    with pytest.raises(ValueError, match="Did you mean 'bf16'"):
        largest_batch_size(nn.Linear(5, 2), nn.CrossEntropyLoss(), batch, max_bs=8, precision="bf61")
