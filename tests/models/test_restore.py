import pytest
import torch
from torch import nn

from minilearner.models.restore import BufferCopy, evaluation_mode, restore_buffers, restore_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[1].eval()  # one flag that differs from the others
    return model


def flags_of(model):
    return [module.training for module in model.modules()]


def copy_of(tensors):
    return [t.clone() for t in tensors]


def are_equal(before, tensors):
    return all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))


def test_evaluation_mode_ends_with_the_flag_that_each_module_had(model):
    before = flags_of(model)
    with pytest.raises(KeyError), evaluation_mode(model):
        assert not any(flags_of(model))
        model[1].train()
        raise KeyError
    assert flags_of(model) == before


def test_buffers_come_back_also_if_another_tensor_took_their_place(model):
    before, mean = copy_of(model.buffers()), model[1].running_mean
    with restore_buffers(model):
        model.train()(torch.randn(8, 3))
        model[1].running_mean = torch.ones(4)
    assert are_equal(before, model.buffers()) and model[1].running_mean is mean


def test_a_buffer_that_is_none_stays_none():
    model = nn.BatchNorm1d(2, track_running_stats=False)
    copy = BufferCopy(model)
    copy.put_back()
    assert copy.values == [None] * 3 and model.running_mean is None


def test_a_model_comes_back_to_the_bit(model):
    model[0].weight.requires_grad_(False)
    model[0].bias.grad = torch.ones(4)
    before = copy_of(model.state_dict().values()), flags_of(model), [p.requires_grad for p in model.parameters()]
    with restore_model(model):
        model.train().requires_grad_(True)
        model(torch.randn(8, 3)).sum().backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert are_equal(before[0], model.state_dict().values())
    assert (flags_of(model), [p.requires_grad for p in model.parameters()]) == before[1:]
    assert model[0].bias.grad.tolist() == [1, 1, 1, 1] and model[1].weight.grad is None
