"""The refusal of a changed run names what changed, with the old value and the new one, and nothing else."""

import re
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from minilearner import (
    CheckpointError,
    DataLoaders,
    EarlyStopping,
    GradientClip,
    Learner,
    MixUp,
    accuracy,
    error_rate,
    set_seed,
)
from minilearner.vision.all import (
    CategoryBlock,
    DataBlock,
    FuncSplitter,
    ImageBlock,
    Resize,
    get_image_files,
    parent_label,
)


def make(hidden=4, depth=1, n=12, bs=4, seed=1, shift=0.0, swap=False, opt=None, act=nn.ReLU, learner_seed=None, **how):
    set_seed(0)
    x, y = torch.rand(24, 3)[:n] + shift, np.array([*"aabb"] * 6)[:n]
    if swap:
        y[0] = "b"
    layers = [layer for _ in range(depth) for layer in (nn.Linear(hidden, hidden), act())]
    model = nn.Sequential(nn.Linear(3, hidden), *layers, nn.Linear(hidden, 2))
    dls = DataLoaders.from_arrays((x, y), (x[:4], np.array([*"aabb"])), bs=bs, seed=seed)
    return Learner(dls, model, opt_func=opt, seed=learner_seed, **{"metrics": accuracy, **how})


def changes(folder, before, now):
    """Returns the lines between the first and the last of the refusal."""
    before.fit(2, 0.1, checkpoint=folder)
    with pytest.raises(CheckpointError) as refused:
        now(folder)
    first, *lines, last = str(refused.value).splitlines()
    assert first == f"{folder} holds another run:" and last.startswith("Put the arguments back")
    return [line.strip() for line in lines]


def linear(i, o):
    return f"Linear(in_features={i}, out_features={o}, bias=True)"


CLIP, STOPPING = partial(GradientClip, 1.0), partial(EarlyStopping, patience=5)
STOPPING_TEXT = "EarlyStopping('valid_loss', mode='min', patience=5)"
CHANGED = {
    "batch size": ({}, {"bs": 6}, ["bs: saved 4, now 6"]),
    "items": (
        {},
        {"n": 16},
        [
            "training items: saved 12, now 16",
            "training class a: saved 6, now 8",
            "training class b: saved 6, now 8",
            "training data: saved #, now #",
        ],
    ),
    "a label": (
        {},
        {"swap": True},
        [
            "training class a: saved 6, now 5",
            "training class b: saved 6, now 7",
            "training data: saved #, now #",
        ],
    ),
    "inputs": ({}, {"shift": 1.0}, ["training data: saved #, now #", "validation data: saved #, now #"]),
    "seed": ({}, {"seed": 2}, ["seed: saved 1, now 2"]),
    "seed of the learner": ({}, {"learner_seed": 3}, ["seed of the learner: saved None, now 3"]),
    "size": (
        {},
        {"hidden": 5},
        [
            f"layer 0: saved {linear(3, 4)}, now {linear(3, 5)}",
            f"layer 1: saved {linear(4, 4)}, now {linear(5, 5)}",
            f"layer 3: saved {linear(4, 2)}, now {linear(5, 2)}",
        ],
    ),
    "layers": (
        {},
        {"depth": 2},
        [
            f"layer 3: saved {linear(4, 2)}, now {linear(4, 4)}",
            "layer 4: saved nothing, now ReLU()",
            f"layer 5: saved nothing, now {linear(4, 2)}",
        ],
    ),
    "a layer's kind": ({}, {"act": nn.Tanh}, ["layer 2: saved ReLU(), now Tanh()"]),
    "a callback more": (
        {"cbs": CLIP},
        {"cbs": lambda: [CLIP(), STOPPING()]},
        [f"callbacks: saved nothing, now {STOPPING_TEXT}"],
    ),
    "a callback less": (
        {"cbs": lambda: [CLIP(), STOPPING()]},
        {"cbs": CLIP},
        [f"callbacks: saved {STOPPING_TEXT}, now nothing"],
    ),
    "another callback": (
        {"cbs": lambda: [CLIP(), MixUp()]},
        {"cbs": lambda: [CLIP(), STOPPING()]},
        [f"callbacks: saved MixUp(alpha=0.4), now {STOPPING_TEXT}"],
    ),
    "the order of callbacks": (
        {"cbs": lambda: [CLIP(), MixUp()]},
        {"cbs": lambda: [MixUp(), CLIP()]},
        [
            "callbacks: saved GradientClip(max_norm=1.0, norm_type=2.0), MixUp(alpha=0.4), "
            "now MixUp(alpha=0.4), GradientClip(max_norm=1.0, norm_type=2.0)"
        ],
    ),
    "a callback's argument": (
        {"cbs": lambda: [CLIP(), MixUp()]},
        {"cbs": lambda: [GradientClip(2.0), MixUp()]},
        ["GradientClip.max_norm: saved 1.0, now 2.0"],
    ),
    "a metric more": ({}, {"metrics": [accuracy, error_rate]}, ["metrics: saved nothing, now error_rate"]),
    "another metric": ({}, {"metrics": error_rate}, ["metrics: saved accuracy, now error_rate"]),
    "precision": ({}, {"precision": "bf16"}, ["precision: saved 'fp32', now 'bf16'"]),
    "optimizer": ({}, {"opt": torch.optim.SGD}, ["optimizer: saved 'AdamW', now 'SGD'"]),
    "an optimizer's option": (
        {"opt": partial(torch.optim.SGD, momentum=0.9)},
        {"opt": partial(torch.optim.SGD, momentum=0.8)},
        ["optimizer settings momentum of group 0: saved 0.9, now 0.8"],
    ),
}


@pytest.mark.parametrize("change", CHANGED)
def test_only_what_changed_is_named(change, tmp_path):
    before, now, expected = CHANGED[change]
    before, now = ({name: one() if name == "cbs" else one for name, one in how.items()} for how in (before, now))
    lines = changes(tmp_path, make(**before), lambda folder: make(**now).fit(2, 0.1, checkpoint=folder))
    assert [re.sub(r"\b[0-9a-f]{16}\b", "#", line) for line in lines] == expected


def test_another_method_is_named_without_its_schedule(tmp_path):
    learn = make()
    lines = changes(tmp_path, make(), lambda folder: learn.fit_one_cycle(2, 0.1, checkpoint=folder))
    assert [line for line in lines if not line.startswith("lr")] == ["call: saved 'fit', now 'fit_one_cycle'"]


def test_only_the_argument_of_the_call_is_named(tmp_path):
    learn = make()
    assert changes(tmp_path, make(), lambda f: learn.fit(2, 0.2, checkpoint=f)) == ["lr: saved 0.1, now 0.2"]
    with pytest.raises(CheckpointError, match=r"run:\n  n_epochs: saved 2, now 3\nPut"):
        learn.fit(3, 0.1, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match=r"run:\n  start_epoch: saved 0, now 1\nPut"):
        learn.fit(2, 0.1, start_epoch=1, checkpoint=tmp_path)


def remove(folder):
    (folder / "cat" / "1.png").unlink()


def add(folder):
    shutil.copy(folder / "cat" / "1.png", folder / "cat" / "13.png")


def relabel(folder):
    shutil.move(folder / "cat" / "1.png", folder / "dog" / "1.png")


def rename(folder):
    shutil.move(folder / "cat" / "1.png", folder / "cat" / "1b.png")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (remove, ["training items: 9, 8", "training class cat: 5, 4", "training files", "training labels"]),
        (add, ["training items: 9, 10", "training class cat: 5, 6", "training files", "training labels"]),
        (relabel, ["training class cat: 5, 4", "training class dog: 4, 5", "training files", "training labels"]),
        (rename, ["training files"]),
    ],
)
def test_changed_files_are_named_by_their_number_and_classes(change, expected, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        file = tmp_path / "images" / ("cat" if i % 2 else "dog") / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file)

    def build():
        set_seed(0)
        block = DataBlock(
            (ImageBlock, CategoryBlock),
            get_items=get_image_files,
            get_y=parent_label,
            splitter=FuncSplitter(lambda file: file.name in ("2.png", "3.png", "10.png")),
            item_tfms=Resize(8),
        )
        dls = block.dataloaders(tmp_path / "images", bs=3, seed=1, num_workers=0)
        return Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))

    def now(folder):
        change(tmp_path / "images")
        build().fit(2, 0.1, checkpoint=folder)

    lines = [re.sub("saved (.*), now (.*)", r"\1, \2", line) for line in changes(tmp_path / "run", build(), now)]
    assert [re.sub(": [0-9a-f]{16}, [0-9a-f]{16}", "", line) for line in lines] == expected
