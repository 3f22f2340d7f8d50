import numpy as np
import torch

from minilearner.data.tensor_types import TensorBase, TensorCategory, TensorImage, TensorMask


def test_a_tensor_keeps_its_kind():
    image = TensorImage(torch.zeros(3, 4, 4))
    assert isinstance(image / 2, TensorImage) and isinstance(image[0], TensorImage) and isinstance(image, TensorBase)
    assert TensorImage.create(np.zeros((3, 4, 4))).shape == (3, 4, 4) and repr(TensorCategory(2)) == "TensorCategory(2)"
    assert ["a", "b", "c"][TensorCategory(2)] == "c"


def test_an_image_and_a_mask_draw_themselves():
    ax = TensorImage(torch.zeros(3, 4, 5)).show(title="a")
    assert ax.images[0].get_array().shape == (4, 5, 3) and ax.get_title() == "a"
    assert TensorMask(torch.zeros(4, 5)).show(ctx=ax) is ax and ax.images[1].get_alpha() == 0.5
