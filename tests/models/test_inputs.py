"""Several inputs of a batch are spread over the arguments of a model."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

from minilearner import DataLoaders, Learner, load_learner
from minilearner.models.inputs import n_required_inputs, spread_inputs

A, B = torch.arange(8.0).reshape(4, 2), torch.arange(12.0).reshape(4, 3)


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


def model(forward):
    return type("Model", (nn.Module,), {"forward": forward})()


ONE, TWO = model(lambda self, x: x), model(lambda self, a, b: a)
OPTIONAL, ANY = model(lambda self, a, b=None: a), model(lambda self, *inputs: inputs)
NAMED, OPEN = model(lambda self, a, *, b: a), model(lambda self, a, **others: a)


@pytest.mark.parametrize(
    ("given", "to", "expected"),
    [
        (A, ONE, ((A,), {})),
        ((A, B), TWO, ((A, B), {})),
        ([A, B], TWO, ((A, B), {})),
        (Pair(A, B), TWO, ((A, B), {})),
        ((A, B), OPTIONAL, ((A, B), {})),
        ([A, B], OPTIONAL, ((A, B), {})),
        ([A, B], ANY, ((A, B), {})),
        ((A, B), ONE, (((A, B),), {})),
        ([A, B], ONE, (([A, B],), {})),
        (((A, B),), ONE, (((A, B),), {})),
        ({"b": B, "a": A}, TWO, ((), {"b": B, "a": A})),
        ({"b": B, "a": A}, NAMED, ((), {"b": B, "a": A})),
        ({"a": A}, OPTIONAL, ((), {"a": A})),
        ({"a": A, "c": B}, OPEN, ((), {"a": A, "c": B})),
        ({"a": A, "c": B}, ONE, (({"a": A, "c": B},), {})),
        ({"a": A, "c": B}, TWO, (({"a": A, "c": B},), {})),
        ({"a": A}, ANY, (({"a": A},), {})),
        ({"a": A, "c": B}, model(lambda self, **named: named), ((), {"a": A, "c": B})),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)], OPTIONAL, (([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)],), {})),
    ],
)
def test_inputs_are_spread_as_forward_takes_them(given, to, expected):
    torch.testing.assert_close(spread_inputs(to, given), expected)


def test_the_number_of_inputs_that_a_model_needs_is_known():
    assert [n_required_inputs(m) for m in (ONE, TWO, OPTIONAL, ANY)] == [1, 2, 1, None]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 1), nn.Linear(3, 1)

    def forward(self, a, b):
        return self.a(a) + self.b(b)


class Items(torch.utils.data.Dataset):
    def __init__(self, kind):
        g = torch.Generator().manual_seed(0)
        self.a, self.b, self.y = torch.randn(8, 2, generator=g), torch.randn(8, 3, generator=g), torch.ones(8, 1)
        self.kind = kind

    def __len__(self):
        return 8

    def item(self, i):
        return {"b": self.b[i], "a": self.a[i]} if self.kind == "by name" else self.kind((self.a[i], self.b[i]))

    def __getitem__(self, i):
        return self.item(i), self.y[i]


@pytest.fixture(params=[tuple, list, "by name"])
def learn(request, tmp_path):
    items = Items(request.param)
    learn = Learner(DataLoaders(items, items, bs=4), Two(), nn.MSELoss(), torch.optim.SGD, path=tmp_path, device="cpu")
    learn.items_of_test = items
    with learn.no_logging():
        yield learn


def test_several_inputs_train_as_in_a_plain_loop(learn):
    items, plain = learn.items_of_test, Two()
    plain.load_state_dict(learn.model.state_dict())
    optimizer = torch.optim.SGD(plain.parameters(), 0.1)
    order = learn.dls.train.source.sampler.order(0)
    for picked in order.split(4):
        optimizer.zero_grad()
        nn.functional.mse_loss(plain(items.a[picked], items.b[picked]), items.y[picked]).backward()
        optimizer.step()
    learn.fit(1, 0.1)
    torch.testing.assert_close(dict(learn.model.state_dict()), dict(plain.state_dict()), rtol=0, atol=0)


def test_several_inputs_are_predicted_whole_and_one_by_one(learn):
    items = learn.items_of_test
    with torch.no_grad():
        wanted = learn.model(items.a, items.b)
    torch.testing.assert_close(learn.get_preds(with_input=True).preds, wanted)
    torch.testing.assert_close(learn.predict(items.item(2)).probabilities, wanted[2])
    test = learn.dls.test_dl([items.item(i) for i in range(6)])
    torch.testing.assert_close(learn.get_preds(dl=test).preds, wanted[:6])
    assert "a" in str(learn.summary())


def test_several_inputs_are_exported(learn):
    items = learn.items_of_test
    with torch.no_grad():
        wanted = learn.model(items.a, items.b)
    program = torch.export.load(learn.export(format="torch_export")).module()
    torch.testing.assert_close(program(items.a[:3], items.b[:3]), wanted[:3])
    loaded = load_learner(learn.export(), model=Two(), device="cpu")
    torch.testing.assert_close(loaded.predict(items.item(2)).probabilities, wanted[2])


def test_several_inputs_go_to_onnx_by_their_names(learn):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    items = learn.items_of_test
    with torch.no_grad():
        wanted = learn.model(items.a, items.b)
    session = runtime.InferenceSession(str(learn.export(format="onnx")), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"a": items.a[:3].numpy(), "b": items.b[:3].numpy()})
    torch.testing.assert_close(torch.from_numpy(found), wanted[:3])
