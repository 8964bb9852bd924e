"""Titles and genres are drawn as they are written."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from bivrec.plots.data import draw_features, draw_images, project
from bivrec.plots.models import draw_allocation
from bivrec.plots.style import label_text

TITLES = ["Ca$$h 2", "$9.99 to $5", r"a\$b $x$", "two\nlines\x00", "\udc80 x" + 60 * "y"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_labels():
    assert label_text("Ca$$h 2") == r"Ca\$\$h 2"
    assert label_text("two\nlines\x00") == "two lines "
    assert label_text("Heat (1995)") == "Heat (1995)"
    assert label_text("x" * 60) == "x" * 24
    assert label_text("$" * 60) == r"\$" * 24  # no escape is cut in two


def test_titles_and_genres_are_no_mathematics():
    shares = torch.full((1, len(TITLES), 2), 0.5)
    draw_allocation(shares, TITLES, [1]).canvas.draw()
    draw_images([Image.new("RGB", (4, 4))] * len(TITLES), TITLES).canvas.draw()
    points = {"text": np.arange(2.0 * len(TITLES)).reshape(-1, 2)}
    figure = draw_features(points, TITLES, "first genre")
    figure.canvas.draw()
    assert r"Ca\$\$h 2" in [text.get_text() for text in figure.axes[0].get_legend().texts]


@pytest.mark.parametrize("num_points", [1, 2, 3, 12])
def test_a_plane_of_few_points(generator, num_points):
    plane = project(generator.normal(size=(num_points, 8)).astype("float32"))
    assert plane.shape == (num_points, 2) and np.isfinite(plane).all()
    assert not project(np.ones((num_points, 8), "float32")).any()
