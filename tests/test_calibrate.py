"""A learner that was calibrated predicts with its temperature, and so does its export."""

import pytest
import torch
from torch import nn

from minilearner import DataLoaders, Learner, load_learner
from minilearner.data.targets import Category, ClassNumbers, MultiCategory, Regression
from minilearner.errors import DataError
from minilearner.results.multi_label import MultiLabelInterpretation


class Sure(nn.Module):
    """Returns its inputs times 4, where the data were drawn from the inputs as they are."""

    def __init__(self, factor=4.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        return x * self.factor


def data(n=3000, **how):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=g)
    y = torch.multinomial(x.softmax(1), 1, generator=g)[:, 0]
    return DataLoaders.from_arrays((x[:64], y[:64]), (x, y), bs=64, **how)


@pytest.fixture
def learn():
    learn = Learner(data(vocab=["a", "b", "c"]), Sure())
    with learn.no_logging():
        yield learn


def test_the_temperature_is_found_and_used_by_everything_that_predicts(learn):
    before, x = learn.get_preds(), torch.randn(3)
    found = learn.calibrate()
    assert found.temperature == pytest.approx(4, rel=0.1)
    after = learn.get_preds()
    logits = learn.dls.valid.x * 4
    assert torch.allclose(after.preds, (logits / found.temperature).softmax(1), atol=1e-6)
    assert torch.equal(after.preds.argmax(1), before.preds.argmax(1))
    expected = (4 * x / found.temperature).softmax(0)
    assert torch.allclose(learn.predict(x).probabilities, expected, atol=1e-6)
    assert learn.get_preds(with_loss=True).losses.mean() == pytest.approx(learn.validate()[0], rel=1e-5)


def test_the_loss_and_another_learner_of_the_same_loaders_stay(learn):
    other = Learner(learn.dls, Sure())
    loss = learn.validate()
    learn.calibrate()
    assert learn.validate() == loss
    with other.no_logging():
        assert other.dls.target.temperature == 1 and other.get_preds().preds.max() > learn.get_preds().preds.max()
        other.fit(1)
    learn.fit(1)
    assert torch.equal(learn.model.factor, other.model.factor)  # the loaders were at the same place


def test_a_second_calibration_finds_nothing_left_to_do(learn):
    first = learn.calibrate().temperature
    assert learn.calibrate().temperature == pytest.approx(1, abs=1e-3)
    assert learn.dls.target.temperature == pytest.approx(first, rel=1e-3)


def test_an_export_keeps_the_temperature(learn, tmp_path):
    learn.calibrate()
    loaded = load_learner(learn.export(tmp_path / "m.safetensors"), model=Sure())
    x = torch.randn(5, 3)
    with loaded.no_logging():
        assert loaded.dls.target.temperature == learn.dls.target.temperature
        ours, theirs = (one.get_preds(dl=one.dls.test_dl(x)).preds for one in (learn, loaded))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("format", ["onnx", "torch_export"])
def test_graphs_for_other_runtimes_keep_the_temperature(learn, tmp_path, format):
    x = torch.randn(5, 3)
    before = learn.get_preds(dl=learn.dls.test_dl(x)).preds
    learn.calibrate()
    path = learn.export(tmp_path / f"m{'.onnx' if format == 'onnx' else '.pt2'}", format=format)
    if format == "onnx":
        session = pytest.importorskip("onnxruntime", reason="the extra onnx").InferenceSession(str(path))
        found = torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0])
    else:
        found = torch.export.load(path).module()(x)
    expected = learn.get_preds(dl=learn.dls.test_dl(x)).preds
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(found, before, atol=1e-2)


def test_targets_keep_their_temperature_and_refuse_what_is_none():
    soft = Category(["a", "b"]).with_temperature(2)
    pred = torch.tensor([[1.0, 3.0]])
    assert torch.equal(soft.activate(pred), (pred / 2).softmax(1)) and soft.vocab == ("a", "b")
    assert torch.equal(ClassNumbers(temperature=2.0).activate(pred), soft.activate(pred))
    assert repr(soft) == repr(Category(["a", "b"]))
    for bad in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="`temperature` must be positive"):
            soft.with_temperature(bad)


def test_what_cannot_be_calibrated_is_an_error():
    x = torch.eye(3).repeat(4, 1)
    perfect = Learner(DataLoaders.from_arrays((x, x.argmax(1)), (x, x.argmax(1)), bs=4), Sure())
    numbers = Learner(DataLoaders.from_arrays((x, x[:, 0]), (x, x[:, 0]), bs=4, target=Regression()), nn.Linear(3, 1))
    with perfect.no_logging(), pytest.raises(DataError, match="all its items are right"):
        perfect.calibrate()
    assert perfect.dls.target.temperature == 1
    with pytest.raises(ValueError, match="needs targets of one class for each item. Received: Regression"):
        numbers.calibrate()
    y = (x > 0.5).float()
    several = Learner(DataLoaders.from_arrays((x, y), (x, y), bs=4, target=MultiCategory(["a", "b", "c"])), Sure())
    with several.no_logging():
        with pytest.raises(ValueError, match="best_thresholds.*for each label"):
            several.calibrate()
        with pytest.raises(ValueError, match="one class for each item"):
            MultiLabelInterpretation.from_learner(several).calibration().temperature  # noqa: B018
