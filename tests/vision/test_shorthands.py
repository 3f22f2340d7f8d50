import numpy as np
import pytest
import torch
from PIL import Image

from minilearner.vision.shorthands import store_attr, tensor, to_cpu, to_detach, to_device


def test_a_tensor_of_numbers_lists_arrays_and_images():
    assert torch.equal(tensor(0, 1, 2), torch.tensor([0, 1, 2])) and tensor(3).shape == ()
    assert torch.equal(tensor([[1, 2], [3, 4]]), torch.tensor([[1, 2], [3, 4]]))
    for data in (np.array([0.5]), [0.5], 0.5, torch.tensor([0.5], dtype=torch.float64)):
        assert tensor(data).dtype == torch.float32
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    assert torch.equal(tensor(image), torch.arange(6, dtype=torch.uint8).reshape(2, 3))
    x = torch.zeros(1)
    assert tensor(x) is x


def test_batches_move_whole():
    x = torch.ones(2, requires_grad=True)
    batch = ((x, [x * 2]), {"y": x})
    (a, [b]), rest = to_cpu(batch)
    assert torch.equal(a, x) and torch.equal(b, x * 2) and list(rest) == ["y"]
    assert not to_detach(batch)[0][1][0].requires_grad and to_device(x, "cpu").device.type == "cpu"
    assert to_device(torch.zeros(1), "meta").is_meta


class Point:
    def __init__(self, x, y=2, *, z=3, **options):
        store_attr(**options)


class Some:
    def __init__(self, x, y, z):
        store_attr("x, y", but="y")


def test_arguments_become_attributes():
    assert vars(Point(1, q=4)) == {"x": 1, "y": 2, "z": 3, "q": 4}
    assert vars(Some(1, 2, 3)) == {"x": 1}
    with pytest.raises(KeyError):
        store_attr("no_such_argument", self=Point(1))
