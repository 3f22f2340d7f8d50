"""Where public image data sets are, and the published sizes and hashes of their archives. `archives` downloads them.

The archives are fastai's copies on Amazon S3. fastai publishes the size of each and the MD5 of its first MiB (package
fastai 2.8, module `fastai.data.download_checks`). Nobody publishes hashes of the whole files.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from minilearner.errors import FileFormatError, closest
from minilearner.keywords import suggest_keywords

__all__ = ["PUBLISHED", "Published", "URLs", "check_archive"]

_IMAGECLAS = "https://s3.amazonaws.com/fast-ai-imageclas"
_IMAGELOCAL = "https://s3.amazonaws.com/fast-ai-imagelocal"
_SAMPLE = "https://s3.amazonaws.com/fast-ai-sample"


class _Names(type):
    if not TYPE_CHECKING:  # with `__getattr__`, a type checker would accept misspelt names

        def __getattr__(cls, name: str) -> NoReturn:
            known = [known for known in vars(cls) if known.isupper()]
            raise AttributeError(f"`URLs` has no {name!r}.{closest(name.upper(), known)} It has: {', '.join(known)}.")


@suggest_keywords
class URLs(metaclass=_Names):
    """The addresses of public data sets, by fastai's names, for `untar_data`. A misspelt name suggests the right one.

    FASHION_MNIST is not in fastai. It is the address of a folder with four IDX files, not of an archive.
    """

    PETS = f"{_IMAGECLAS}/oxford-iiit-pet.tgz"
    IMAGENETTE = f"{_IMAGECLAS}/imagenette2.tgz"
    IMAGENETTE_320 = f"{_IMAGECLAS}/imagenette2-320.tgz"
    IMAGENETTE_160 = f"{_IMAGECLAS}/imagenette2-160.tgz"
    IMAGEWOOF = f"{_IMAGECLAS}/imagewoof2.tgz"
    IMAGEWOOF_320 = f"{_IMAGECLAS}/imagewoof2-320.tgz"
    IMAGEWOOF_160 = f"{_IMAGECLAS}/imagewoof2-160.tgz"
    IMAGEWANG = f"{_IMAGECLAS}/imagewang.tgz"
    IMAGEWANG_320 = f"{_IMAGECLAS}/imagewang-320.tgz"
    IMAGEWANG_160 = f"{_IMAGECLAS}/imagewang-160.tgz"
    MNIST = f"{_IMAGECLAS}/mnist_png.tgz"
    MNIST_SAMPLE = f"{_SAMPLE}/mnist_sample.tgz"
    MNIST_TINY = f"{_SAMPLE}/mnist_tiny.tgz"
    MNIST_VAR_SIZE_TINY = f"{_IMAGECLAS}/mnist_var_size_tiny.tgz"
    CIFAR = f"{_SAMPLE}/cifar10.tgz"
    CIFAR_100 = f"{_IMAGECLAS}/cifar100.tgz"
    CALTECH_101 = f"{_IMAGECLAS}/caltech_101.tgz"
    CARS = f"{_IMAGECLAS}/stanford-cars.tgz"
    CUB_200_2011 = f"{_IMAGECLAS}/CUB_200_2011.tgz"
    DOGS = f"{_SAMPLE}/dogscats.tgz"
    FLOWERS = f"{_IMAGECLAS}/oxford-102-flowers.tgz"
    FOOD = f"{_IMAGECLAS}/food-101.tgz"
    PASCAL_2007 = f"{_IMAGELOCAL}/pascal_2007.tgz"
    PASCAL_2012 = f"{_IMAGELOCAL}/pascal_2012.tgz"
    PLANET_SAMPLE = f"{_SAMPLE}/planet_sample.tgz"
    PLANET_TINY = f"{_SAMPLE}/planet_tiny.tgz"
    FASHION_MNIST = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"


class Published(NamedTuple):
    """What is published about an archive: its size in bytes, and the MD5 of its first MiB."""

    size: int
    md5_of_first_mib: str


PUBLISHED = {
    URLs.PETS: Published(811_706_944, "e4db5c768afd933bb91f5f594d7417a4"),
    URLs.IMAGENETTE: Published(1_557_161_267, "2c774ecb40005b35d7937d50f5d42336"),
    URLs.IMAGENETTE_320: Published(341_663_724, "1f1f74f133caff120e575856659b87a2"),
    URLs.IMAGENETTE_160: Published(99_003_388, "c475f8f7617a200ba35b9facc48443c3"),
    URLs.IMAGEWOOF: Published(1_343_715_595, "2cc1c1e36e20cb6fd24ffb978edcb487"),
    URLs.IMAGEWOOF_320: Published(328_387_740, "7a1fd92672a559a85de76e4810a20c21"),
    URLs.IMAGEWOOF_160: Published(92_612_825, "3559b194123981a540b87132dbda412f"),
    URLs.IMAGEWANG: Published(2_900_347_689, "2b7776bac0fc95db72ac8a3b091a3e30"),
    URLs.IMAGEWANG_320: Published(669_826_647, "fff8ac034d60e14fcf7789845e625263"),
    URLs.IMAGEWANG_160: Published(191_498_213, "dab9b1d97b95574ac64122a19bc74ca1"),
    URLs.MNIST: Published(15_683_414, "03639f83c4e3d19e0a3a53a8a997c487"),
    URLs.MNIST_SAMPLE: Published(3_214_948, "2dbc7ec6f9259b583af0072c55816a88"),
    URLs.MNIST_TINY: Published(342_207, "56143e8f24db90d925d82a5a74141875"),
    URLs.MNIST_VAR_SIZE_TINY: Published(565_372, "b71a930f4eb744a4a143a6c7ff7ed67f"),
    URLs.CIFAR: Published(168_168_549, "a5f8c31371b63a406b23368042812d3c"),
    URLs.CIFAR_100: Published(169_168_619, "e5e65dcb54b9d3913f7b8a9ad6607e62"),
    URLs.CALTECH_101: Published(131_740_031, "d673425306e98ee4619fcdeef8a0e876"),
    URLs.CARS: Published(1_957_803_273, "9045d6673c9ced0889f41816f6bf2f9f"),
    URLs.CUB_200_2011: Published(1_150_585_339, "d2acaa99439dff0483c7bbac1bfe2a92"),
    URLs.DOGS: Published(839_285_364, "3e483c8d6ef2175e9d395a6027eb92b7"),
    URLs.FLOWERS: Published(345_236_087, "5666e01c1311b4c67fcf20d2b3850a88"),
    URLs.FOOD: Published(5_686_607_260, "1a540ebf1fb40b2bf3f2294234ba7907"),
    URLs.PASCAL_2007: Published(1_637_796_771, "433b4706eb7c42bd74e7f784e3fdf244"),
    URLs.PASCAL_2012: Published(2_618_908_000, "d90e29e54a4c76c0c6fba8355dcbaca5"),
    URLs.PLANET_SAMPLE: Published(15_523_994, "8bfb174b3162f07fbde09b54555bdb00"),
    URLs.PLANET_TINY: Published(997_569, "490873c5683454d4b2611fb1f00a68a9"),
}
"""Every archive of `URLs`, by URL. FASHION_MNIST is missing: the SHA-256 hashes of its files are in `fashion`."""


def check_archive(path: Path, published: Published) -> None:
    """Compares an archive with its published size and hash. Bytes after the first MiB are left to its own checksums.

    Raises:
        FileFormatError: the size or the first MiB differs.
    """
    size = path.stat().st_size
    if size != published.size:
        raise FileFormatError(f"{path.name} has {size:,} bytes, but the published archive has {published.size:,}.")
    with open(path, "rb") as file:
        received = hashlib.md5(file.read(1 << 20), usedforsecurity=False).hexdigest()
    if received != published.md5_of_first_mib:
        raise FileFormatError(
            f"the first MiB of {path.name} has MD5 {received}, but {published.md5_of_first_mib} is published."
        )
