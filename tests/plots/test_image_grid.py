from itertools import pairwise

import numpy as np
import pytest
import torch

from minilearner.plots.image_grid import plot_images
from minilearner.plots.palette import palette

NEUTRAL, RIGHT, WRONG = palette().ink, palette().right, palette().wrong


def draw_one(image):
    return np.asarray(plot_images([image], ["a"]).axes[0].images[0].get_array())


def test_grey_and_colour_images_stand_below_their_titles():
    grey, rgb = np.full((1, 4, 4), 0.5), torch.zeros(3, 4, 4)
    rgb[0] = 1.0
    figure = plot_images([grey, rgb, grey], ["a", "b", "c"], colors=[RIGHT, WRONG, NEUTRAL])
    assert [ax.get_title() for ax in figure.axes] == ["a", "b", "c", ""]
    assert [ax.title.get_color() for ax in figure.axes[:3]] == [RIGHT, WRONG, NEUTRAL]
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    assert figure.axes[0].images[0].get_array().shape == (4, 4)
    assert figure.axes[1].images[0].get_array()[0, 0].tolist() == [1, 0, 0]


def test_a_few_values_outside_the_range_are_clipped_and_the_others_stay():
    image = torch.full((3, 10, 10), 0.25)
    image[:, 0, 0] = torch.tensor([1.5, -0.5, 0.5])
    assert draw_one(image)[0, 0].tolist() == [1, 0, 0.5]
    assert draw_one(image)[5, 5].tolist() == [0.25] * 3
    assert draw_one(image[:1])[0, 0] == 1


def test_a_standardized_image_is_scaled_to_its_own_range():
    image = torch.linspace(-2, 2, 48).view(3, 4, 4)
    np.testing.assert_allclose(draw_one(image), ((image + 2) / 4).permute(1, 2, 0), atol=1e-6)


def test_the_grid_is_the_given_one_or_about_square():
    images, titles = [np.zeros((1, 2, 2))] * 5, ["t"] * 5
    assert plot_images(images, titles).axes[0].get_gridspec().get_geometry() == (2, 3)
    assert plot_images(images, titles, ncols=5).axes[0].get_gridspec().get_geometry() == (1, 5)
    assert plot_images(images, titles, nrows=5).axes[0].get_gridspec().get_geometry() == (5, 1)
    assert plot_images(images, titles, figsize=(3, 4)).get_size_inches().tolist() == [3, 4]
    with pytest.raises(ValueError, match="must hold 5 images. Received: nrows=2, ncols=2"):
        plot_images(images, titles, nrows=2, ncols=2)


def test_titles_stay_within_the_figure_and_do_not_overlap():
    titles = ["american pit bull terrier\nstaffordshire bull terrier"] * 6
    figure = plot_images([np.zeros((1, 4, 4))] * 6, titles, heading="actual, predicted below")
    figure.canvas.draw()
    boxes = [ax.title.get_window_extent() for ax in figure.axes]
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes[:3]))
    assert all(box.x0 > 0 and box.x1 < figure.bbox.x1 and box.y1 < figure.bbox.y1 for box in boxes)
