import pytest
import torch

from minilearner.data.dataloaders import DataLoaders
from minilearner.data.torch_loader import DataLoader

PAIRS = [(torch.full((3,), float(i)), torch.tensor(i)) for i in range(5)]


def test_batches_by_either_name():
    for options in ({"bs": 2}, {"batch_size": 2}):
        loader = DataLoader(PAIRS, **options)
        assert [len(y) for _, y in loader] == [2, 2, 1] and loader.one_batch()[1].tolist() == [0, 1]
    assert len(DataLoader(PAIRS, 2, drop_last=True)) == 2 and DataLoader(PAIRS).one_batch()[0].shape == (3,)
    dls = DataLoaders(DataLoader(PAIRS, bs=2), DataLoader(PAIRS, bs=4))
    assert dls.train_ds is PAIRS and dls.valid.one_batch()[1].tolist() == [0, 1, 2, 3]


def test_both_names_at_once_are_refused():
    with pytest.raises(ValueError, match="Give `bs` or `batch_size`, not both. Received: bs=2, batch_size=3."):
        DataLoader(PAIRS, 2, batch_size=3)
