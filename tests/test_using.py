"""The guide's Python about using a trained model runs, and both ways give one answer. tests/extras runs its server."""

from pathlib import Path

import numpy as np
from odd_images import write_odd_images
from PIL import Image
from snippets import python_of

from minilearner import MLP, Learner
from minilearner.vision.all import ImageDataLoaders, Resize

GUIDE = Path(__file__).parents[1] / "examples" / "README.md"
SNIPPETS = [snippet for snippet in python_of(GUIDE) if "new.jpg" in snippet.code]


def test_the_ways_of_the_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = {file.name: file for file in write_odd_images(tmp_path / "odd")}
    for name, file in {"new.jpg": odd["photo.jpg"], "other.jpg": odd["turned_6.jpg"]}.items():
        Path(name).write_bytes(file.read_bytes())
    for i, label in enumerate(["cat", "dog"] * 3):
        Path("photos", label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (40 * i, 0, 0)).save(Path("photos", label, f"{i}.png"))
    dls = ImageDataLoaders.from_folder("photos", valid_pct=0.4, item_tfms=Resize(16), bs=2, seed=0, device="cpu")
    names = {"learn": Learner(dls, MLP((3 * 16 * 16, 2)), path=tmp_path, device="cpu")}
    assert len(SNIPPETS) == 2
    seen = []
    for snippet in SNIPPETS:
        snippet.run(names)
        probabilities = np.asarray(names.pop("shares" if "shares" in names else "probabilities"))
        seen.append((names["label"], int(names["number"]), probabilities))
    assert seen[0][:2] == seen[1][:2]
    np.testing.assert_allclose(seen[0][2], seen[1][2], atol=1e-5)
    np.testing.assert_allclose([one.probabilities for one in names["answers"]], names["preds"].numpy(), atol=1e-5)
    assert names["prepared"].shape == (3, 16, 16)
