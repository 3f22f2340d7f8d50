import pytest

from minilearner.vision import all as everything
from minilearner.vision.refused import REFUSED, RefusedName


def test_a_name_that_we_refuse_says_the_way_out_in_any_use():
    from minilearner.vision.all import Datasets

    for use in (
        lambda: Datasets(["a"], tfms=[]),
        lambda: Datasets.dataloaders,
        lambda: isinstance(1, Datasets),
        lambda: Datasets[0],
        lambda: list(Datasets),
        lambda: exec("class Own(Datasets): pass", {"Datasets": Datasets}),
    ):
        with pytest.raises(ImportError, match=r"minilearner has no `Datasets`. A DataBlock, .*\.datasets\(source\)"):
            use()
    assert "fastai's Datasets" in repr(Datasets)


def test_the_star_import_brings_the_refused_names():
    assert set(REFUSED) <= set(everything.__all__)
    assert all(isinstance(getattr(everything, name), RefusedName) for name in REFUSED)
