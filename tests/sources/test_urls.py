"""The addresses and published hashes of archives equal those in fastai's own table."""

import re

import pytest

from minilearner.errors import FileFormatError
from minilearner.sources.urls import PUBLISHED, Published, URLs, check_archive

NAMES = [name for name in vars(URLs) if name.isupper()]


def test_every_archive_has_a_published_size_and_hash():
    archives = {getattr(URLs, name) for name in NAMES} - {URLs.FASHION_MNIST}
    assert len(archives) == len(NAMES) - 1
    assert set(PUBLISHED) == archives
    for published in PUBLISHED.values():
        assert published.size > 100_000
        assert re.fullmatch("[0-9a-f]{32}", published.md5_of_first_mib)


def test_file_names_are_unique_since_a_mirror_serves_them_from_one_folder():
    assert len({url.rsplit("/", 1)[1] for url in PUBLISHED}) == len(PUBLISHED)


def test_addresses_and_hashes_equal_those_of_fastai():
    external = pytest.importorskip("fastai.data.external")
    checks = pytest.importorskip("fastdownload.core")
    published = checks.read_checks(checks.checks_module(__import__("fastai.data").data))
    for name in set(NAMES) - {"FASHION_MNIST"}:
        assert getattr(URLs, name) == getattr(external.URLs, name)
        assert tuple(PUBLISHED[getattr(URLs, name)]) == published[getattr(URLs, name)]


def test_the_entry_for_pets_equals_the_published_one():
    assert URLs.PETS == "https://s3.amazonaws.com/fast-ai-imageclas/oxford-iiit-pet.tgz"
    assert PUBLISHED[URLs.PETS] == (811_706_944, "e4db5c768afd933bb91f5f594d7417a4")


@pytest.mark.parametrize(("name", "near"), [("PET", "PETS"), ("pets", "PETS"), ("IMAGENETTE160", "IMAGENETTE_160")])
def test_a_misspelt_name_suggests_the_nearest(name, near):
    with pytest.raises(AttributeError, match=rf"`URLs` has no '{name}'. Did you mean '{near}'\? It has: PETS, "):
        getattr(URLs, name)
    assert not hasattr(URLs, name)


def test_only_the_first_mib_and_the_size_are_compared(tmp_path):
    mib = bytes(1 << 20)
    file = tmp_path / "a.tgz"
    published = Published(len(mib) + 1, "b6d81b360a5672d80c27430f39153e2c")  # md5sum of a MiB of zeros
    file.write_bytes(mib + b"x")
    check_archive(file, published)
    file.write_bytes(mib)
    with pytest.raises(FileFormatError, match="a.tgz has 1,048,576 bytes, but the published archive has 1,048,577"):
        check_archive(file, published)
    file.write_bytes(b"x" + mib)
    with pytest.raises(FileFormatError, match="but b6d81b360a5672d80c27430f39153e2c is published"):
        check_archive(file, published)
