"""A file of predictions holds all of them, and needs neither the model nor the loaders."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from minilearner.errors import FileFormatError
from minilearner.results.origins import Origins
from minilearner.results.predictions import Predictions

FULL = Predictions(
    preds=torch.rand(3, 2),
    targets=torch.tensor([0, 1, 1]),
    inputs=torch.rand(3, 1, 4, 4),
    losses=torch.rand(3),
    decoded=torch.tensor([0, 0, 1]),
    indices=torch.arange(3),
    vocab=("cat", "dog"),
    origins=Origins(["a/1.jpg", "a/2.jpg", "b/\N{SNOWMAN}.jpg"], {"age": [1, 2.5, None], "site": ["x", "y", "x"]}),
)


def test_a_file_gives_back_everything(tmp_path):
    path = FULL.save(tmp_path / "new folder" / "valid.safetensors")
    loaded = Predictions.load(path)
    for name in ("preds", "targets", "inputs", "losses", "decoded", "indices"):
        assert torch.equal(getattr(loaded, name), getattr(FULL, name))
    assert loaded.vocab == ("cat", "dog")
    assert loaded.origins.sources == FULL.origins.sources and loaded.origins.columns == FULL.origins.columns


def test_structures_missing_parts_and_odd_cells_come_back(tmp_path):
    pair = (torch.rand(2, 3), {"b": torch.rand(2)})
    origins = Origins([("x.png", 4), 7], {"n": [np.float32(1.5), float("nan")]})
    loaded = Predictions.load(Predictions(pair, None, decoded=["cat", None], origins=origins).save(tmp_path / "p"))
    assert torch.equal(loaded.preds[0], pair[0]) and torch.equal(loaded.preds[1]["b"], pair[1]["b"])
    assert loaded.targets is None and loaded.losses is None and loaded.decoded == ["cat", None]
    assert loaded.origins.sources == ["x.png", ""] and loaded.origins.columns["n"][0] == 1.5
    assert np.isnan(loaded.origins.columns["n"][1])


def test_names_of_very_many_items_fit(tmp_path):
    paths = [f"folder/of/images/{i:0100d}.jpg" for i in range(200_000)]
    path = Predictions(torch.rand(2), None, origins=Origins(paths)).save(tmp_path / "p")
    assert Predictions.load(path).origins.sources == paths


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    path = FULL.save(tmp_path / "p")
    content = bytearray(path.read_bytes())
    content[-3] ^= 255
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="damaged"):
        Predictions.load(path)
    save_file({"a": torch.ones(1)}, tmp_path / "q")
    with pytest.raises(FileFormatError, match="minilearner's predictions"):
        Predictions.load(tmp_path / "q")
    with pytest.raises(FileNotFoundError):
        Predictions.load(tmp_path / "none")


def test_what_is_no_data_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeError, match="decoded"):
        Predictions(torch.ones(1), None, decoded=[object()]).save(tmp_path / "p")
    assert not (tmp_path / "p").exists()
