"""Numbers that travel with the gradients, in one process."""

import pytest
import torch
from torch import nn

from minilearner.training.carried_sums import CarriedSums


def test_the_backward_pass_brings_the_numbers_whatever_the_loss_is_multiplied_by():
    wrapped = CarriedSums(nn.Linear(2, 1), 3)
    loss = wrapped.attach(wrapped(torch.ones(4, 2)).mean(), [1.0, 2.0, 0.5])
    (loss * 1024).backward()
    assert wrapped.receive() == [1.0, 2.0, 0.5]


def test_a_loss_without_gradients_is_refused_as_torch_refuses_it():
    wrapped = CarriedSums(nn.Linear(2, 1), 3)
    loss = wrapped.attach(wrapped(torch.ones(4, 2)).mean().detach(), [1.0, 2.0, 0.5])
    with pytest.raises(RuntimeError, match="does not require grad"):
        loss.backward()
