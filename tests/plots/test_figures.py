"""Figures show every row of their tables under its own label."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from bivrec.plots.models import draw_cost, draw_curves, draw_models
from bivrec.plots.studies import (
    draw_beyond,
    draw_differences,
    draw_grid,
    draw_groups,
    draw_noise,
    draw_tradeoff,
    draw_transfer,
)
from bivrec.plots.style import COLOURS, set_theme
from bivrec.settings import load_settings

PAIRS = [("bivrec", "id"), ("bivrec", "both"), ("bivrec-one-target", "id"),
         ("bivrec-one-target", "both"), ("sasrec", "id")]  # fmt: skip
LABELS = ["bivrec (ID view)", "bivrec (both views)", "bivrec-one-target (ID view)",
          "bivrec-one-target (both views)", "sasrec"]  # fmt: skip


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def table_of(**columns) -> pd.DataFrame:
    table = pd.DataFrame(PAIRS, columns=["model", "view"]).assign(low=0.1, high=0.9, **columns)
    return table.assign(mean=[0.5, 0.6, 0.3, 0.4, 0.2])


def legend_of(holder) -> list[str]:
    return [text.get_text() for text in holder.texts]


def test_models_stand_in_the_order_of_their_means():
    table = pd.concat([table_of(dataset=name) for name in "ab"])
    left, right = draw_models(table, "ndcg@20").axes
    assert [text.get_text() for text in left.get_yticklabels()] == [
        LABELS[number] for number in (4, 2, 3, 0, 1)
    ]
    assert left.get_title() == "a" and right.get_title() == "b"
    assert sorted(left.collections[-1].get_offsets()[:, 0]) == [0.2, 0.3, 0.4, 0.5, 0.6]
    (axis,) = draw_models(table_of(), "ndcg@20").axes
    assert axis.get_xlim()[0] == 0
    (axis,) = draw_models(table_of().assign(low=-0.1), "ndcg@20").axes
    assert axis.get_xlim()[0] == -0.1  # the whole interval is visible


def test_curves_are_named_by_model_and_view():
    steps = [table_of(step=step, seed=0, loss=1.0, value=0.1, seconds=1.0) for step in (1, 2)]
    curves = pd.concat(steps).assign(metric="ndcg@20")
    _, right = draw_curves(curves, "ndcg@20").axes
    assert legend_of(right.get_legend()) == LABELS
    (axis,) = draw_cost(curves, "ndcg@20", "seconds").axes  # combined or only views: a line a model
    assert legend_of(axis.get_legend()) == ["bivrec", "bivrec-one-target", "sasrec"]


def test_losses_of_different_models_share_an_axis():
    """A sum of two views' losses starts twice as high as one view's: each is drawn as a share."""
    curves = pd.concat(
        table_of(step=step, seed=seed, loss=loss, value=0.1, metric="ndcg@20")
        for seed in (0, 1)
        for step, loss in ((1, 12.0 + seed), (2, 6.0 + seed / 2))
    )
    curves.loc[curves["model"] == "sasrec", "loss"] /= 2
    left, _ = draw_curves(curves, "ndcg@20").axes
    assert all(line.get_ydata().tolist() == [1, 0.5] for line in left.lines)


def boxes_of(axis: plt.Axes) -> list[tuple[float, float]]:
    """Left and right end of each visible label of the x axis, in pixels."""
    axis.figure.canvas.draw()
    low, high = axis.get_xlim()
    shown = [tick.label1 for tick in axis.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [label.get_window_extent() for label in shown if label.get_text()]
    return sorted((box.x0, box.x1) for box in boxes)


@pytest.mark.parametrize("width", [150.0, 900.0, 3_000.0])
def test_an_axis_has_labels_that_do_not_touch(width):
    set_theme()
    costs = table_of(dataset="a", cost=[140, width, 300, 400, 146]).rename(
        columns={"mean": "quality"}
    )
    models = table_of().assign(low=0.1, high=0.226, mean=0.2)
    for figure in draw_tradeoff(costs, "ndcg@20", "GFLOP"), draw_models(models, "ndcg@20"):
        boxes = boxes_of(figure.axes[0])
        assert len(boxes) >= 3
        assert all(right < left for (_, right), (left, _) in zip(boxes, boxes[1:]))


def test_a_curve_of_one_point_is_visible():
    """A training with one look at the validation users; another model has two."""
    once = table_of(step=1, seed=0, loss=1.0, value=0.1, seconds=1.0).assign(metric="ndcg@20")
    twice = pd.concat([once, once.assign(step=2)]).replace("sasrec", "gru4rec")
    curves = pd.concat([once[once["model"] == "sasrec"], twice[twice["model"] == "gru4rec"]])
    figures = draw_curves(curves, "ndcg@20"), draw_cost(curves, "ndcg@20", "seconds")
    for axis in (axis for figure in figures for axis in figure.axes):
        markers = {len(line.get_xdata()): line.get_marker() for line in axis.lines}
        assert markers == {1: "o", 2: ""}


def test_noise_has_a_line_per_model_and_view():
    levels = [table_of(noise="swap", level=level, retained=1 - level) for level in (0.0, 0.5)]
    figure = draw_noise(pd.concat(levels), "ndcg@20")
    assert legend_of(figure.legends[0]) == LABELS
    assert figure.axes[0].get_xlabel() == "share of items\nwith swapped features"
    assert figure.get_supylabel().startswith("NDCG@20 retained")
    other = table_of(noise="blur", level=0.0, retained=1.0).replace("sasrec", "nova")
    assert legend_of(draw_noise(pd.concat([*levels, other]), "ndcg@20").legends[0]) == LABELS + [
        "nova"
    ]


@pytest.mark.parametrize("noises", [["swap"], ["swap", "blur"], ["swap", "blur", "no_text", "x"]])
def test_noise_leaves_no_column_empty_and_no_label_cut(noises):
    levels = [
        table_of(noise=noise, level=level, retained=1 - level)
        for noise in noises
        for level in (0.0, 0.5)
    ]
    figure = draw_noise(pd.concat(levels), "recall@20")
    figure.canvas.draw()
    columns = figure.axes[0].get_subplotspec().get_gridspec().ncols
    assert columns == min(3, len(noises))
    (label,) = (text for text in figure.texts if "retained" in text.get_text())
    box = label.get_window_extent()
    assert 0 <= box.y0 and box.y1 <= figure.bbox.y1


def test_tradeoff_has_a_point_per_model():
    table = table_of(dataset="a", cost=[1, 1, 2, 2, 3]).rename(columns={"mean": "quality"})
    (axis,) = draw_tradeoff(table[table["view"] != "id"], "ndcg@20", "GFLOP").axes
    assert legend_of(axis.get_legend()) == ["bivrec", "bivrec-one-target"]
    assert axis.get_xlabel() == "GFLOP" and axis.get_xscale() == "log"


def test_a_grid_frames_the_default():
    grid = {"model.num_interests": [1, 2, 4]}
    settings = load_settings("planted", {"model.num_interests": 2, "grids": {"small": grid}})
    table = pd.DataFrame({"model.num_interests": ["1", "2", "4"], "view": "id"})
    figure = draw_grid(table.assign(value=[0.1, 0.2, 0.3]), "small", settings, "ndcg@20")
    assert [patch.get_x() for patch in figure.axes[0].patches] == [1]
    assert figure.get_suptitle().endswith("test users; framed: the study's own setting")


def test_diversity_has_a_point_per_model_each_with_its_own_mark():
    table = table_of(dataset="a", x=0.4, x_low=0.3, x_high=0.5, y_low=0.1, y_high=0.9)
    table = table.rename(columns={"mean": "y"})
    figure = draw_beyond(table, "ndcg@20", "genre_diversity")
    (axis,) = figure.axes
    assert [line.get_ydata()[0] for line in axis.lines] == [0.6, 0.4, 0.2]  # combined or only views
    assert legend_of(axis.get_legend()) == ["bivrec", "bivrec-one-target", "sasrec"]
    assert "genres" in figure.get_supxlabel() and axis.get_ylabel() == "NDCG@20, test users"


def test_a_legend_names_the_models_of_all_panels_each_once():
    table = pd.concat([table_of(dataset="a"), table_of(dataset="b").replace("sasrec", "nova")])
    table = table[table["view"] != "both"].assign(cost=1.0, x=0.4, x_low=0.3, x_high=0.5)
    table["quality"] = table["y"] = table["mean"]
    beyond = table.assign(y_low=0.1, y_high=0.9)
    figures = (
        draw_tradeoff(table, "ndcg@20", "GFLOP"),
        draw_beyond(beyond, "ndcg@20", "diversity"),
        draw_groups(table.assign(kind=table["dataset"], group="0-5"), "ndcg@20"),
    )
    for figure in figures:
        left, right = figure.axes
        names = ["bivrec", "bivrec-one-target", "nova", "sasrec"]  # those of its own panel first
        assert legend_of(right.get_legend()) == names and left.get_legend() is None


@pytest.mark.parametrize("num_models", [13, 30])
def test_models_have_marks_of_their_own(num_models):
    models = [*COLOURS, "a", "b", "c", "d"][-num_models:]
    table = pd.DataFrame({"dataset": "a", "model": models, "quality": 0.2, "low": 0.1, "high": 0.3})
    (axis,) = draw_tradeoff(table.assign(cost=range(1, num_models + 1)), "hr@20", "GFLOP").axes
    marks = [line.get_marker() for line in axis.lines]
    assert len(set(marks)) == 13 and axis.get_ylabel().startswith("HR@20")


def test_a_grid_without_the_default_speaks_of_no_frame():
    grid = {"model.num_interests": [2, 4]}
    settings = load_settings("planted", {"model.num_interests": 8, "grids": {"small": grid}})
    table = pd.DataFrame({"model.num_interests": ["2", "4"], "view": "id", "value": [0.1, 0.2]})
    figure = draw_grid(table, "small", settings, "ndcg@20")
    assert not figure.axes[0].patches
    assert figure.get_suptitle() == "small: NDCG@20, test users"


def test_differences_stand_in_the_order_of_their_labels():
    table = table_of(label=["a", "a", "b", "b", "c"])
    id_view, both = draw_differences(table, "ndcg@20").axes
    assert [text.get_text() for text in id_view.get_yticklabels()] == ["c", "b", "a"]
    assert id_view.get_title() == "ID view" and both.get_title() == "both views"


def bars_of(axis) -> list[float]:
    """The heights of the bars that can be seen."""
    segments = [s for c in axis.collections if hasattr(c, "get_segments") for s in c.get_segments()]
    heights = [float(segment[1, 1] - segment[0, 1]) for segment in segments if len(segment) == 2]
    return [height for height in heights if np.isfinite(height)]


def test_a_mean_without_an_interval_has_no_bar():
    table = table_of(kind="items", group="0-5", start="from scratch", share=0.1, dataset="a")
    table.loc[table["model"] == "sasrec", ["low", "high"]] = np.nan
    costs = table.rename(columns={"mean": "quality"}).assign(cost=1.0)
    figures = (
        draw_groups(table, "ndcg@20"),
        draw_transfer(table, "ndcg@20"),
        draw_tradeoff(costs, "ndcg@20", "GFLOP"),
    )
    for figure in figures:
        figure.canvas.draw()
        assert bars_of(figure.axes[0]) == pytest.approx([0.8] * 4)
    (axis,) = draw_models(table, "ndcg@20").axes
    axis.figure.canvas.draw()
    segments, (*_, dots) = axis.collections[0].get_segments(), axis.collections
    assert [np.isfinite(s).all() and len(s) == 2 for s in segments] == [True] * 4 + [False]
    assert len(dots.get_offsets()) == 5


def test_groups_and_transfers_have_a_line_each():
    groups = pd.concat([table_of(kind="items", group=group) for group in ("0-5", "> 5")])
    (axis,) = draw_groups(groups, "ndcg@20").axes
    assert legend_of(axis.get_legend()) == LABELS
    (axis,) = draw_groups(groups.assign(kind="history cut to the newest", users=45), "ndcg@20").axes
    assert axis.get_xlabel() == "newest items kept of the history"
    names = [text.get_text() for text in axis.get_xticklabels()]
    assert names == ["0-5\n45 users", "> 5\n45 users"]
    assert axis.get_ylim()[0] == 0
    (axis,) = draw_groups(groups.assign(low=-0.1), "ndcg@20").axes
    assert axis.get_ylim()[0] == -0.1  # the whole interval is visible
    starts = ["popularity", "from scratch", "from scratch", "bivrec of a", "bivrec of a"]
    table = table_of(start=starts, share=[1.0, 0.1, 1.0, 0.0, 0.1])
    (axis,) = draw_transfer(table, "ndcg@20").axes
    names = ["popularity, all users", "from scratch", "bivrec of a"]
    assert legend_of(axis.get_legend()) == names
    ticks = [text.get_text() for text in axis.get_xticklabels()]
    assert ticks == ["zero-shot", "10%", "100%"]
    lines = [line for line in axis.lines if line.get_marker() == "o"]
    middle = sum(line.get_xdata()[line.get_xdata() > 0.5][0] for line in lines) / len(lines)
    assert middle == pytest.approx(1.0)  # around the tick of 10%
