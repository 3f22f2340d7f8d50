"""Every line of ours on the migration page runs."""

import re
from pathlib import Path

import pytest
import torch
from snippets import Snippet, find_snippets
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minilearner import CancelTrain

PAGE = (Path(__file__).parents[1] / "examples" / "migration.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## From (\S+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
CELL = re.compile(r"`([^`]*)`")


def lines_of_ours(section):
    """Returns the code of the middle column of each row."""
    rows = re.findall(r"^\| (`.*?`) \| (`.*?`) \|(.*)\|$", section, re.MULTILINE)
    return ["\n".join(CELL.findall(ours)) for _, ours, _ in rows]


def run(code, names):
    Snippet(f"examples/migration.md: {code.splitlines()[0]}", 0, "python", code).run(names)


@pytest.fixture
def names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    x, y = torch.rand(96, 3, 8, 8), torch.arange(96) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    loaders = [DataLoader(TensorDataset(x[i::2], y[i::2]), batch_size=16, shuffle=i == 0) for i in (0, 1)]

    def stop_after_two(run):
        if run.iter == 1 and run.training:
            raise CancelTrain

    arrays = {"x": x, "y": y, "valid_x": x[:24], "valid_y": y[:24]}
    parts = {"model": model, "train_loader": loaders[0], "valid_loader": loaders[1]}
    return {"torch": torch, **arrays, **parts, "stop_after_two": stop_after_two}


def test_every_section_has_its_rows():
    n_rows = {title: len(lines_of_ours(text)) for title, text in SECTIONS.items()}
    assert n_rows == {title: len(re.findall(r"^\| `", text, re.MULTILINE)) for title, text in SECTIONS.items()}
    assert list(n_rows) == ["fastai", "Keras", "Lightning", "torch-lr-finder"] and sum(n_rows.values()) > 40


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS)
def test_every_line_of_ours_runs(title, names, folders_of_images):
    names["path"] = folders_of_images
    for snippet in find_snippets(SECTIONS[title], "examples/migration.md"):
        snippet.run(names)
    for code in lines_of_ours(SECTIONS[title]):
        run(code, names)


@pytest.fixture
def folders_of_images(tmp_path):
    from PIL import Image

    for kind, color in (("cat", 40), ("dog", 200)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(20):
            image = Image.new("RGB", (40 + i, 48), (color, 5 * i, 90))
            image.save(tmp_path / "photos" / kind / f"{kind}_{i}.png")
    (tmp_path / "photos" / "dog" / "dog_99.png").write_bytes(b"gone")
    return tmp_path / "photos"
