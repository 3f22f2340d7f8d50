"""A batch that does not fit in memory is trained in parts, with the same update as a result."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minilearner import Callback, DataLoaders, GradientAccumulation, GradientClip, Learner, MixUp, NonFinite, SplitOnOOM

IGNORE_WARNING = pytest.mark.filterwarnings("ignore:a batch of")


class Small(nn.Module):
    """Has memory for `room` items, and runs out of it in the forward or the backward pass."""

    def __init__(self, room, backward=False):
        super().__init__()
        self.room, self.backward, self.seen = room, backward, []

    def forward(self, x):
        if not self.training:
            return x
        self.seen.append(len(x))
        if len(x) > self.room and not self.backward:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        if len(x) > self.room and x.requires_grad:
            x.register_hook(self.refuse)
        return x

    def refuse(self, _):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def net(room, *, backward=False, norm=False):
    torch.manual_seed(0)
    first = [nn.Linear(4, 6), nn.BatchNorm1d(6)] if norm else [nn.Linear(4, 6)]
    return nn.Sequential(*first, Small(room, backward), nn.Tanh(), nn.Linear(6, 3))


def batches(*sizes):
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 4, generator=g), torch.randint(3, (n,), generator=g)) for n in sizes]


def trained(train, model, *cbs, **kwargs):
    kwargs = {"opt_func": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9), "lr": 0.1} | kwargs
    learn = Learner(DataLoaders(train, seed=0), model, nn.CrossEntropyLoss(), cbs=[*cbs], **kwargs)
    with learn.no_logging():
        learn.fit(1)
    return learn


def assert_close(a, b, *, rtol=1e-5, atol=1e-6):
    for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol)
    torch.testing.assert_close(torch.tensor(a.recorder.losses), torch.tensor(b.recorder.losses), rtol=rtol, atol=atol)
    assert a.recorder.runs[0].steps["step"].tolist() == b.recorder.runs[0].steps["step"].tolist()


@IGNORE_WARNING
@pytest.mark.parametrize("backward", [False, True], ids=["in the forward pass", "in the backward pass"])
@pytest.mark.parametrize(
    "make",
    [list, lambda: [GradientAccumulation(2)], lambda: [GradientClip(0.1)], lambda: [MixUp()], lambda: [NonFinite()]],
    ids=["plain", "accumulation", "clipping", "mixup", "non-finite"],
)
def test_a_batch_in_parts_is_the_whole_batch(make, backward):
    train = batches(12, 12, 7, 12, 10)
    split = trained(train, net(3, backward=backward), SplitOnOOM(), *make())
    assert_close(split, trained(train, net(99), *make()))
    seen = split.model[1].seen
    if make is list:
        assert seen[:8] == [12, 6, 3, 3, 3, 3, 3, 3] and max(seen[2:]) <= 3  # searched once, then kept


@IGNORE_WARNING
def test_half_of_a_window_survives_a_batch_that_does_not_fit():
    train = batches(3, 12, 3, 2)
    split = trained(train, net(4, backward=True), SplitOnOOM(), GradientAccumulation(2))
    assert_close(split, trained(train, net(99), GradientAccumulation(2)))


@IGNORE_WARNING
def test_metrics_and_callbacks_see_the_whole_batch():
    seen = []

    class Watch(Callback):
        def after_pred(self, run):
            seen.append((run.part, len(run.x)))

        def after_batch(self, run):
            seen.append((run.part, len(run.x), len(run.y), tuple(run.pred.shape), run.pred.requires_grad))

    trained(batches(8), net(4), SplitOnOOM(), Watch())
    assert seen == [(slice(0, 4), 4), (slice(4, 8), 4), (None, 8, 8, (8, 3), False)]


@IGNORE_WARNING
def test_batch_norm_moves_once_a_batch_by_the_mean_of_its_parts():
    ((x, _),) = train = batches(10)
    norm = trained(train, net(3, norm=True), SplitOnOOM()).model[1]
    plain = net(99, norm=True)
    parts = [plain[0](x[a:b]) for a, b in ((0, 2), (2, 5), (5, 7), (7, 10))]  # four parts: 10, then 5, then up to 3
    mean = sum(len(part) / 10 * part.mean(0) for part in parts)
    var = sum(len(part) / 10 * part.var(0) for part in parts)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * var)
    assert norm.num_batches_tracked == 1


def test_it_is_reported_once_and_in_the_record():
    with pytest.warns(RuntimeWarning, match="a batch of 12 items did not fit in memory") as warned:
        learn = trained(batches(12, 12, 12), net(3), SplitOnOOM())
    assert len(warned) == 1
    assert learn.recorder.runs[0].settings["split"] == "in parts of at most 3 items"


def test_nothing_changes_if_batches_fit():
    a, b = trained(batches(8, 5), net(8, norm=True), SplitOnOOM()), trained(batches(8, 5), net(8, norm=True))
    assert all(torch.equal(x, y) for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values()))
    assert "split" not in a.recorder.runs[0].settings


@IGNORE_WARNING
def test_one_item_that_does_not_fit_is_the_original_error_with_what_to_do():
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate 20.00 GiB") as caught:
        trained(batches(4), net(0), SplitOnOOM())
    if sys.version_info >= (3, 11):
        assert "A single item does not fit" in "".join(caught.value.__notes__)


def test_other_errors_pass():
    def loss(pred, y):
        raise ValueError("no such thing")

    learn = Learner(DataLoaders(batches(4)), net(9), loss, torch.optim.SGD, cbs=SplitOnOOM())
    with learn.no_logging(), pytest.raises(Exception, match="no such thing"):
        learn.fit(1)


@IGNORE_WARNING
def test_fp16_scales_each_part():
    train = batches(12, 12, 12)
    split = trained(train, net(6), SplitOnOOM(), precision="fp16")
    assert_close(split, trained(train, net(99), precision="fp16"), rtol=1e-2, atol=1e-4)


REAL = """
import resource, sys, warnings
import torch
from torch import nn
from minilearner import DataLoaders, Learner, SplitOnOOM

class Wide(nn.Module):
    def forward(self, x):
        return (x.unsqueeze(2) * torch.ones(100_000)).relu().mean(2)  # 1.6 MB an item, several times over

def learner(n):
    batch = (torch.randn(n, 4), torch.arange(n) % 3)
    model = nn.Sequential(Wide(), nn.Linear(4, 3))
    return Learner(DataLoaders([batch]), model, nn.CrossEntropyLoss(), torch.optim.SGD)

small, learn = learner(1), learner(64)
with small.no_logging():
    small.fit(1)  # first import and start what is loaded late
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
limit = pages * resource.getpagesize() + 100_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
with learn.no_logging():
    learn.fit(1, cbs=SplitOnOOM() if sys.argv[1] == "split" else None)
print(learn.recorder.runs[0].settings["split"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_process_short_of_memory_trains_in_parts():
    def run(how):
        return subprocess.run([sys.executable, "-c", REAL, how], capture_output=True, text=True, timeout=300)

    assert "allocate memory" in run("whole").stderr
    done = run("split")
    assert done.returncode == 0 and done.stdout.startswith("in parts of at most "), done.stderr


@IGNORE_WARNING
def test_a_list_of_one_target_an_item_is_cut_with_the_items():
    """As boxes are given: each image has another number of them."""

    def loss(pred, y):
        return sum(F.mse_loss(p.expand_as(t), t) for p, t in zip(pred, y, strict=False)) / len(pred)

    train = [(torch.randn(5, 4), [torch.randn(n, 3) for n in (5, 1, 3, 2, 7)])]
    learners = [
        Learner(DataLoaders(train), net(room), loss, torch.optim.SGD, lr=0.1, cbs=SplitOnOOM()) for room in (5, 3)
    ]
    for learn in learners:
        with learn.no_logging():
            learn.fit(2)
    assert_close(*learners)
