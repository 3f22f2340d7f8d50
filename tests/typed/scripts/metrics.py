"""Metrics of one's own: a function, an object, scikit-learn's by name, and a loss."""

from sklearn.metrics import f1_score  # type: ignore[import-untyped]
from torch import Tensor, nn

from minilearner.vision.all import *


def balanced_error(pred: Tensor, target: Tensor) -> Tensor:
    wrong = (pred.argmax(1) != target).float()
    return torch.stack([wrong[target == c].mean() for c in torch.unique(target)]).mean()


class MeanConfidence:
    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total, self.n = torch.zeros(()), 0

    def update(self, pred: Tensor, target: Tensor) -> None:
        self.total = self.total + pred.softmax(1).amax(1).sum().cpu()
        self.n += len(target)

    def compute(self) -> Tensor:
        return self.total / self.n


class Weighted(nn.Module):
    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(pred, target, label_smoothing=0.1)


dls = fashion_mnist(size=28, download=False)
learn = Learner(dls, xresnet18(n_out=dls.c), loss_func=Weighted(), metrics=[accuracy, balanced_error, MeanConfidence()])
learn.metrics = {"f1": F1Score(average="macro"), "own": skm_to_fastai(f1_score, average="macro")}
learn.metrics = partial(top_k_accuracy, k=3)
learn.fit(1)
print(learn.recorder.values[-1], learn.recorder.history["f1"])
learn.save("model")
learn.load("model").unfreeze()

F1Score(averge="macro")  # error expected
Learner(dls, "resnet")  # error expected
