"""Makes an archive with the layout of Oxford Pets from images drawn here, in a folder that can serve as a mirror.

    python tests/pets_like.py FOLDER [--breeds 4] [--each 24] [--side 96] [--weights]

FOLDER gets `oxford-iiit-pet.tgz`, the `index.json` that MINILEARNER_MIRROR expects, and, with --weights, the state dict
of an untrained ResNet-34 under the file name that torch hub uses for the trained one.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import tarfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

BREEDS = [
    "Abyssinian",
    "Bengal",
    "Birman",
    "Bombay",
    "British_Shorthair",
    "Egyptian_Mau",
    "Maine_Coon",
    "Persian",
    "Ragdoll",
    "Russian_Blue",
    "Siamese",
    "Sphynx",
    "american_bulldog",
    "american_pit_bull_terrier",
    "basset_hound",
    "beagle",
    "boxer",
    "chihuahua",
    "english_cocker_spaniel",
    "english_setter",
    "german_shorthaired",
    "great_pyrenees",
    "havanese",
    "japanese_chin",
    "keeshond",
    "leonberger",
    "miniature_pinscher",
    "newfoundland",
    "pomeranian",
    "pug",
    "saint_bernard",
    "samoyed",
    "scottish_terrier",
    "shiba_inu",
    "staffordshire_bull_terrier",
    "wheaten_terrier",
    "yorkshire_terrier",
]
HUB_NAME = "resnet34-b627a593.pth"


def image(breed: int, rng: random.Random, side: int) -> Image.Image:
    """Draws a shape whose corners and colour depend on the breed, on a background that does not."""
    size = (side + rng.randrange(side // 3), side + rng.randrange(side // 3))
    image = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        draw.line(
            [x, y, rng.randrange(size[0]), rng.randrange(size[1])], tuple(rng.randrange(256) for _ in range(3)), 3
        )
    centre = (size[0] * rng.uniform(0.4, 0.6), size[1] * rng.uniform(0.4, 0.6))
    colour = tuple(Image.new("HSV", (1, 1), (breed * 47 % 256, 230, 220)).convert("RGB").getpixel((0, 0)))
    radius = side * rng.uniform(0.25, 0.4)
    draw.regular_polygon((*centre, radius), 3 + breed % 5, rotation=rng.randrange(360), fill=colour)
    return image.filter(ImageFilter.GaussianBlur(1))


def make_archive(path: Path, *, breeds: int = 4, each: int = 24, side: int = 96, seed: int = 0) -> Path:
    """Writes `oxford-iiit-pet/images/<breed>_<number>.jpg`, and files that are not images, as in the original."""
    rng = random.Random(seed)
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "annotations/README", b"What is what.")
        add(archive, "images/Abyssinian_100.mat", b"not an image")
        for number in range(breeds):
            for i in range(each):
                out = io.BytesIO()
                image(number, rng, side).save(out, "JPEG", quality=90)
                add(archive, f"images/{BREEDS[number * len(BREEDS) // breeds]}_{i + 1}.jpg", out.getvalue())
    return path


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(f"oxford-iiit-pet/{name}")
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def make_mirror(folder: Path, **options: int) -> Path:
    """Writes the archive and a mirror's index into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = make_archive(folder / "oxford-iiit-pet.tgz", **options).read_bytes()
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "index.json").write_text(json.dumps({"oxford-iiit-pet.tgz": entry}))
    return folder


def save_weights(folder: Path) -> Path:
    """Writes an untrained ResNet-34's state dict as if torch's hub had downloaded the trained one."""
    import torch
    from torchvision.models import resnet34

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(resnet34(weights=None).state_dict(), folder / HUB_NAME)
    return folder / HUB_NAME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("breeds", 4), ("each", 24), ("side", 96), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--weights", action="store_true")
    arguments = vars(parser.parse_args())
    folder, weights = arguments.pop("folder"), arguments.pop("weights")
    print(make_mirror(folder, **arguments))
    if weights:
        print(save_weights(folder))


if __name__ == "__main__":
    main()
