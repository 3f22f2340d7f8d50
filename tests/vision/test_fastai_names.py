"""A script with fastai's names does what fastai would do."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import googlenet, resnet18

from minilearner import DataLoaders, Learner, ParamScheduler
from minilearner.metrics import metric_names
from minilearner.models.xresnet import xresnet18
from minilearner.vision.families import model_meta
from minilearner.vision.fastai_names import (
    Metric,
    SchedCos,
    SchedExp,
    SchedLin,
    SchedNo,
    SchedPoly,
    combine_scheds,
)


class ShareRight(Metric):
    def reset(self):
        self.right, self.n = 0, 0

    def accumulate(self, learn):
        pred, (y,) = learn.to_detach(learn.pred), learn.to_detach(learn.yb)
        assert not pred.requires_grad and torch.equal(y, learn.y)
        self.right, self.n = self.right + (pred.argmax(1) == y).sum(), self.n + len(y)

    @property
    def value(self):
        return self.right / self.n


def learner(**options):
    torch.manual_seed(0)
    x, y = torch.randn(50, 4), torch.randint(3, (50,))
    return Learner(DataLoaders.from_arrays((x, y), (x, y), bs=16, seed=0), nn.Linear(4, 3), **options)


def test_a_metric_written_for_fastai_works():
    learn = learner(metrics=ShareRight())
    _, share = learn.validate()
    preds, targets = learn.get_preds()
    assert share == pytest.approx(float((preds.argmax(1) == targets).float().mean()))


def test_a_metric_without_accumulate_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="Metric must define accumulate"):
        Metric().update(torch.zeros(1), torch.zeros(1))
    with pytest.raises(NotImplementedError, match="Metric must define the property `value`"):
        Metric().compute()


def test_schedules_run_from_start_to_end():
    assert [SchedLin(1, 3)(p) for p in (0, 0.5, 1)] == [1, 2, 3]
    assert [SchedCos(1, 3)(p) for p in (0, 0.5, 1)] == pytest.approx([1, 2, 3])
    assert [SchedExp(1, 4)(p) for p in (0, 0.5, 1)] == [1, 2, 4]
    assert [SchedNo(1, 3)(p) for p in (0, 0.5, 1)] == [1, 1, 1]
    assert [SchedPoly(1, 3, 2)(p) for p in (0, 0.5, 1)] == [1, 1.5, 3]


def test_combined_schedules_train():
    schedule = combine_scheds([0.25, 0.75], [SchedLin(0.0, 1e-2), SchedCos(1e-2, 0.0)])
    learn = learner()
    record = learn.fit(2, cbs=ParamScheduler({"lr": schedule}))
    places = np.arange(len(record.steps)) / len(record.steps)
    assert [step["lr"] for step in record.steps] == pytest.approx([schedule(p) for p in places])


def test_the_facts_of_an_architecture_are_found_by_its_constructor():
    assert model_meta[resnet18]["cut"] == -2 and model_meta[xresnet18]["cut"] == -4
    assert model_meta[resnet18]["stats"][0] == (0.485, 0.456, 0.406)
    assert callable(model_meta[googlenet]["cut"])
    body = nn.Sequential(*list(resnet18().children())[:-2])
    groups = model_meta[resnet18]["split"](nn.Sequential(body, nn.Linear(512, 2)))
    assert [len(group) for group in groups] == [30, 30, 2]
    assert resnet18 in model_meta and nn.Linear not in model_meta and "resnet18" not in model_meta
    assert len(model_meta) == len(set(model_meta)) > 50


def test_the_property_name_of_a_metric_names_its_column():
    class Own(ShareRight):
        @property
        def name(self):
            return "right (%)"

    assert metric_names([Own()]) == ["right (%)"]
