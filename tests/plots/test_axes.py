import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from minilearner.plots.axes import show_image, show_images, subplots


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 40, 60),
        np.zeros((40, 60, 3)),
        Image.new("RGB", (60, 40)),
        torch.zeros(1, 40, 60),
        torch.zeros(40, 60),
    ],
)
def test_an_image_of_any_kind_is_drawn_upright(image):
    ax = show_image(image, title="a", cmap="gray")
    assert ax.images[0].get_array().shape[:2] == (40, 60) and ax.get_title() == "a" and not ax.axison
    _, (given,) = subplots()
    assert show_image(image, ctx=given) is given
    plt.close("all")


def test_images_stand_in_a_grid():
    figure, grid = subplots(1, 3, imsize=2, suptitle="all")
    assert grid.shape == (3,) and figure.get_size_inches().tolist() == [6, 2.6]
    show_images([torch.zeros(3, 4, 4)] * 3, nrows=2, titles=["a", "b", "c"])
    assert [ax.get_title() for ax in plt.gcf().axes] == ["a", "b", "c", ""]
    plt.close("all")
