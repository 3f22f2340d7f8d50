"""The finder on a loop of one's own, with torch-lr-finder's names."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from minilearner import LRFinder, TrainDataLoaderIter, triangular

model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
data = TensorDataset(torch.rand(256, 1, 28, 28), torch.randint(10, (256,)))
loader = DataLoader(data, batch_size=32, shuffle=True)


class Doubled(TrainDataLoaderIter):
    def inputs_labels_from_batch(self, batch_data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, y = batch_data
        return 2 * x, y


finder = LRFinder(model, optimizer, nn.CrossEntropyLoss(), device="cpu")
finder.range_test(loader, end_lr=10, num_iter=50)
finder.range_test(Doubled(loader), val_loader=loader, end_lr=1, num_iter=20, step_mode="linear")
finder.plot(skip_start=5, log_lr=True)
finder.plot_loss_change()
print(finder.history["lr"][:3], min(finder.history["loss"]))
finder.reset()

schedule = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda step: float(triangular(step, step_size=20, base_lr=0.01, max_lr=1.0))
)
for x, y in loader:
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

finder.range_test(loader, num_iterations=50)  # error expected
LRFinder(model, optimizer)  # error expected
