"""Labels that are known without reading an item."""

import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from minilearner import DataLoaders
from minilearner.data.known_labels import find_labels

X, Y = torch.rand(9, 2), torch.arange(9) % 3


class Listed(Dataset):
    """A set in torchvision's way: it lists its targets, and counts how often it is read."""

    def __init__(self):
        self.targets, self.n_reads = Y.tolist(), 0

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        self.n_reads += 1
        return X[index], self.targets[index]


def test_labels_of_arrays_and_of_tensor_datasets_are_known():
    assert torch.equal(find_labels(DataLoaders.from_arrays((X, Y), bs=3, seed=1).train), Y)
    assert torch.equal(find_labels(DataLoaders(TensorDataset(X, Y), bs=3, seed=1).train), Y)


def test_listed_targets_are_taken_without_reading_items():
    listed = Listed()
    loader = DataLoaders([(X[:3], Y[:3])], DataLoader(Subset(listed, [4, 0, 2]), batch_size=2), seed=1).valid
    before = listed.n_reads
    assert find_labels(loader).tolist() == [1, 0, 2] and listed.n_reads == before


class Images(Listed):
    """A set that lists nothing."""

    def __init__(self):
        super().__init__()
        self.labels = self.targets
        del self.targets

    def __len__(self):
        return len(self.labels)


def test_labels_that_only_items_hold_are_unknown():
    assert find_labels(DataLoaders(Images(), bs=3, seed=1).train) is None
