import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, Subset, SubsetRandomSampler

from minilearner import ClassificationInterpretation, Learner


class Folder(Dataset):
    """As torchvision's `ImageFolder`: pairs of (path, class) in `samples`."""

    samples = [(f"{'ab'[i % 2]}/{i}.jpg", i % 2) for i in range(10)]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return torch.full((3,), float(i)), self.samples[i][1]


LOADERS = {
    "shuffled": (DataLoader(Folder(), 4, shuffle=True), range(10)),
    "subset": (DataLoader(Subset(Subset(Folder(), [1, 3, 5, 7]), [3, 0]), 4), [7, 1]),
    "sampler": (DataLoader(Folder(), 4, sampler=SubsetRandomSampler([6, 2, 9])), [6, 2, 9]),
    "batch sampler": (
        DataLoader(Folder(), batch_sampler=BatchSampler(SequentialSampler(Folder()), 3, True)),
        range(10),
    ),
}


@pytest.mark.parametrize(("loader", "positions"), LOADERS.values(), ids=LOADERS)
def test_files_of_a_torch_dataset_are_those_of_the_predicted_items(loader, positions):
    learn = Learner((loader, loader), nn.Linear(3, 2))
    with learn.no_logging():
        found = learn.get_preds(with_input=True)
        interp = ClassificationInterpretation.from_learner(learn)
    assert found.inputs[:, 0].tolist() == list(positions)
    assert [found.origins.path(i) for i in range(len(found.inputs))] == [Folder.samples[i][0] for i in positions]
    assert len(interp) == len(positions) and interp.origins.name(0) == f"{next(iter(positions))}.jpg"


def test_items_that_nobody_can_name_have_no_origins():
    batches = [(torch.rand(2, 3), torch.tensor([0, 1]))]
    for source in (batches, DataLoader([(torch.rand(3), 0), (torch.rand(3), 1)], 2)):
        learn = Learner((source, source), nn.Linear(3, 2), nn.CrossEntropyLoss())
        with learn.no_logging():
            assert learn.origins() is None and learn.get_preds().origins is None
            assert ClassificationInterpretation.from_learner(learn).origins is None
