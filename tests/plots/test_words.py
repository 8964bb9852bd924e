"""Titles and genres are drawn as they are written."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from PIL import Image

from bivrec.plots.data import draw_features, draw_histories, draw_images, draw_interests, project
from bivrec.plots.models import draw_allocation, draw_user
from bivrec.plots.style import INTEREST_COLOURS, label_text, shade_of

TITLES = ["Ca$$h 2", "$9.99 to $5", r"a\$b $x$", "two\nlines\x00", "\udc80 x" + 60 * "y"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_labels():
    assert label_text("Ca$$h 2") == r"Ca\$\$h 2"
    assert label_text("two\nlines\x00") == "two lines "
    assert label_text("Heat (1995)") == "Heat (1995)"
    assert label_text("x" * 60) == "x" * 23 + "…"
    assert label_text("$" * 60) == r"\$" * 23 + "…"  # no escape is cut in two


def test_titles_and_genres_are_no_mathematics():
    shares = torch.full((1, len(TITLES), 2), 0.5)
    draw_allocation(shares, TITLES, [1]).canvas.draw()
    draw_images([Image.new("RGB", (4, 4))] * len(TITLES), TITLES).canvas.draw()
    points = {"text": np.arange(2.0 * len(TITLES)).reshape(-1, 2)}
    figure = draw_features(points, TITLES, "first genre")
    figure.canvas.draw()
    assert r"Ca\$\$h 2" in [text.get_text() for text in figure.axes[0].get_legend().texts]


def test_words_of_every_script_are_drawn():
    words = ["_hidden", r"\frac{", "100 %", "😀", "עברית", "a\u2028b"]
    points = {"text": np.arange(2.0 * len(words)).reshape(-1, 2)}
    figure = draw_features(points, words, "first genre")
    figure.canvas.draw()
    shown = [text.get_text().strip("\u200b") for text in figure.axes[0].get_legend().texts]
    assert shown == [*words[:-1], "a b"]


@pytest.mark.parametrize("num_points", [1, 2, 3, 12])
def test_a_plane_of_few_points(generator, num_points):
    plane = project(generator.normal(size=(num_points, 8)).astype("float32"))
    assert plane.shape == (num_points, 2) and np.isfinite(plane).all()
    assert not project(np.ones((num_points, 8), "float32")).any()


def test_a_genre_has_one_colour_in_every_figure():
    found = []
    for genres in (["Drama", "Drama", "Comedy", "Western"], ["Comedy", "Drama", "Action", "x"]):
        figure = draw_features({"text": np.arange(8.0).reshape(-1, 2)}, genres, "first genre")
        (axis,) = figure.axes
        assert axis.get_xlabel() == "first principal component"
        legend = axis.get_legend()
        colours = [to_hex(handle.get_color()) for handle in legend.legend_handles]
        found.append(dict(zip((text.get_text() for text in legend.texts), colours)))
        assert len(set(colours)) == len(colours)
    assert all(found[0][genre] == found[1][genre] for genre in ("Drama", "Comedy"))


def test_patches_cover_the_rows_of_their_items():
    """Of five items the oldest is alone in its patch of two."""
    shares = torch.rand(2, 5, 3)
    one, two, _ = draw_allocation(shares, ["a"] * 5, [1, 2]).axes
    edges = [axis.collections[0].get_coordinates()[:, 0, 1].tolist() for axis in (one, two)]
    assert edges == [[0, 1, 2, 3, 4, 5], [0, 1, 3, 5]]
    assert np.allclose(two.collections[0].get_array(), shares[1, [0, 2, 4]])


def test_a_single_group_has_no_legend_and_what_is_missing_no_point():
    points = np.array([[0.0, 1.0], [2.0, 3.0], [np.nan, np.nan]])
    figure = draw_features({"text": points, "image": points}, ["none"] * 3, "first genre")
    assert [axis.get_legend() for axis in figure.axes] == [None, None]
    drawn = np.ma.filled(figure.axes[0].collections[0].get_offsets(), np.nan)
    assert np.isfinite(drawn).all(1).sum() == 2


def test_interests_of_many_users_are_thinned(generator, monkeypatch):
    monkeypatch.setattr("bivrec.plots.data.project", lambda points: points[:, :2])
    interests = {"id": generator.normal(size=(5000, 3, 4)).astype("float32")}
    figure = draw_interests(interests)
    drawn = figure.axes[0].collections[0].get_offsets()
    assert 900 < len(drawn) <= 1000
    assert np.allclose(drawn[:4], interests["id"][[0, 0, 0, 16], [0, 1, 2, 0], :2])
    (few,) = draw_interests({"id": interests["id"][:4]}).axes
    assert len(few.collections[0].get_offsets()) == 12


@pytest.mark.parametrize("number", [2, 8, 10, 12])
def test_every_interest_has_its_own_colour_and_label(number, generator, monkeypatch):
    monkeypatch.setattr("bivrec.plots.data.project", lambda points: points[:, :2])
    (axis,) = draw_interests({"id": generator.normal(size=(20, number, 4))}).axes
    labels = [text.get_text() for text in axis.get_legend().texts]
    assert labels == [str(interest) for interest in range(number)]
    colours = [to_hex(colour) for colour in axis.collections[0].get_facecolors()]
    assert len({*colours[:number]}) == number and colours[:number] == colours[number : 2 * number]
    if number <= len(INTEREST_COLOURS):
        assert colours[:number] == [colour.lower() for colour in INTEREST_COLOURS[:number]]


def test_a_users_patches_have_the_colours_of_their_interests():
    patches = [(1, 0, 0, 0), (1, 0, 0, 2), (1, 1, 1, 2), (1, 1, 1, 0), (2, 0, 1, 1), (2, 0, 1, 2)]
    patches = pd.DataFrame(patches, columns=["scale", "first", "last", "interest"])
    lists = [(0, "owned", TITLES[0]), (0, "recommended", TITLES[1]), (1, "recommended", "b")]
    lists = pd.DataFrame(lists, columns=["interest", "kind", "title"])
    figure = draw_user(patches, lists, TITLES[:2])
    figure.canvas.draw()
    left, right = figure.axes
    blocks = [(to_hex(block.get_facecolor()), *block.get_bbox().bounds) for block in left.patches]
    assert [block[0] for block in blocks] == [shade_of(k) for k in (0, 2, 2, 0, 1, 2)]
    assert np.allclose([block[3] for block in blocks], 0.46)  # half a column for each of two
    assert np.allclose([block[4] for block in blocks], [0.92] * 4 + [1.92] * 2)
    written = [text.get_text() for text in right.texts]
    assert {"interest 0", "interest 1", "none", label_text(TITLES[0]), "b"} <= set(written)
    (newest, _) = draw_user(patches, lists, TITLES[:2], newest=1).axes
    assert len(newest.patches) == 4 and len(newest.get_yticks()) == 1


def test_short_histories_have_ticks_between_powers_of_ten():
    axis = draw_histories(np.array([5, 6, 7, 9, 12, 30]), np.arange(1, 7)).axes[0]
    axis.figure.canvas.draw()
    labels = {text.get_text() for text in axis.get_xticklabels()}
    assert {"5", "10", "20"} <= labels


def test_no_bar_is_empty_between_short_histories():
    lengths = np.repeat(np.arange(5, 31), np.arange(2600, 0, -100))
    bars = draw_histories(lengths, np.arange(1, 7)).axes[0].patches
    heights = [bar.get_height() for bar in bars]
    assert min(heights) > 0 and sum(heights) == len(lengths)
    assert heights[:4] == [2600, 2500, 2400, 2300]
