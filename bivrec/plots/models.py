"""Figures of trained models."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator
from torch import Tensor

from bivrec.experiment.runs import combined_views
from bivrec.plots.style import (
    GREY,
    add_legend,
    colour_of,
    draw_dots,
    label_log_axis,
    label_text,
    label_views,
    name_metric,
    shade_of,
    start_panels,
    style_views,
)


def _marker(points: pd.Series | pd.DataFrame) -> str:
    """A line through one point is invisible without a marker."""
    return "o" if len(points) == 1 else ""


def draw_curves(curves: pd.DataFrame, metric: str) -> Figure:
    """Left: training loss by step, a line per model, as a share of its first value, since models
    minimise different losses. Right: validation metric by step, a line per model and view; dashes
    distinguish the views here only. Seeds are averaged."""
    height = max(3.0, 0.2 * len(curves.drop_duplicates(["model", "view"])))
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, height), width_ratios=(1, 1.3))
    for model, rows in curves.drop_duplicates(["model", "seed", "step"]).groupby(
        "model", sort=False
    ):
        means = rows.groupby("step")["loss"].mean()
        left.plot(means / means.iloc[0], color=colour_of(model), marker=_marker(means))
    left.set(xlabel="step", ylabel="training loss, share of first")
    left.set(title="a solid line per model")
    shown = curves[curves["metric"] == metric]
    for pair, style in style_views(shown).items():
        rows = shown[(shown["model"] == pair[0]) & (shown["view"] == pair[1])]
        means = rows.groupby("step")["value"].mean()
        right.plot(means, **style, marker=_marker(means))
    right.set(xlabel="step", ylabel=f"{name_metric(metric)}, validation users", ylim=(0, None))
    right.set(title="a line style per view")
    add_legend(right)
    return figure


def draw_cost(curves: pd.DataFrame, metric: str, cost: str) -> Figure:
    """The validation metric of each model's combined or only view against what its training has
    cost so far: the column `cost`, seconds or targets. Seeds are averaged."""
    shown = combined_views(curves[curves["metric"] == metric])
    figure, axis = plt.subplots(figsize=(6.4, max(3.4, 0.22 * shown["model"].nunique())))
    for model, rows in shown.groupby("model", sort=False):
        means = rows.groupby("step")[[cost, "value"]].mean()
        width = 2.4 if model.startswith("bivrec") else 1.2
        look = {"color": colour_of(model), "label": model, "lw": width}
        axis.plot(means[cost], means["value"], **look, marker=_marker(means))
    axis.set(xscale="log", xlabel=f"{cost}, one training", ylim=(0, None))
    axis.set(ylabel=f"{name_metric(metric)}, validation users")
    label_log_axis(axis.xaxis, EngFormatter(sep=""))
    add_legend(axis)
    return figure


def draw_models(table: pd.DataFrame, metric: str) -> Figure:
    """Each model and view with its interval, in the order of their means.

    Columns: model, view, mean, low, high; a panel per dataset where there is a column dataset."""
    if "dataset" not in table:
        table = table.assign(dataset="")
    order = table.groupby(["model", "view"])["mean"].mean().sort_values().index
    labels = label_views(order.to_frame())
    height = 0.32 * len(order) + 0.9
    figure, panels = start_panels(table["dataset"], 3.4, height, margin=2.6, sharey=True)
    for name, axis in panels.items():
        rows = table[table["dataset"] == name]
        position = order.get_indexer(pd.MultiIndex.from_frame(rows[["model", "view"]]))
        colours = [colour_of(model) for model in rows["model"]]
        draw_dots(axis, rows, position, colours, list(labels.values()))
        label = f"{name_metric(metric)}, test users (95 % interval)"
        axis.set(title=name, xlim=(min(0, rows["low"].min()), None), xlabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(5))  # labels that do not touch
    return figure


def draw_allocation(
    allocation: Float[Tensor, "scale position interest"],
    titles: Sequence[str],
    scales: Sequence[int],
) -> Figure:
    """The share that each patch of a history gives to each interest, a panel per scale.

    The rows are the items of the history, oldest on top; a patch covers the rows of its items."""
    size = (2.4 + 1.3 * len(scales), 0.19 * len(titles) + 1.1)
    figure, axes = plt.subplots(1, len(scales), figsize=size, squeeze=False, sharey=True)
    for axis, shares, scale in zip(axes.flat, allocation, scales):
        ends = list(range((len(titles) - 1) % scale, len(titles), scale))
        edges = [0, *(end + 1 for end in ends)]  # the oldest patch may begin before the first row
        grid = range(shares.shape[-1] + 1), edges, shares[ends]
        image = axis.pcolormesh(*grid, cmap="Blues", vmin=0, vmax=1, edgecolor=GREY, lw=0.3)
        axis.set_xticks([x + 0.5 for x in grid[0][:-1]], grid[0][:-1])
        axis.set(title=f"patches of {scale}", xlabel="interest", ylim=(len(titles), 0))
        axis.grid(False)
        axis.tick_params(axis="y", length=0)
    rows = [row + 0.5 for row in range(len(titles))]
    axes[0, 0].set_yticks(rows, [label_text(title) for title in titles], fontsize=8)
    figure.colorbar(image, ax=axes, label="share of the patch", shrink=0.6)
    return figure


LIST_LINES = 6  # items shown of each list of `draw_user`


def draw_user(
    patches: pd.DataFrame, lists: pd.DataFrame, titles: Sequence[str], newest: int = 24
) -> Figure:
    """One user's patches and interests in one view, from `allocate_patches` and
    `interest_items` with a column title.

    Left: the newest items of the history, oldest on top, and their patches at each scale with the
    numbers and colours of the interests that own them, the nearest first. Right: for each
    interest, the newest items that it owns and the items that it recommends."""
    rows = -(-lists["interest"].nunique() // 2)
    first = max(0, len(titles) - newest)
    height = max(0.2 * (len(titles) - first), 2.4 * rows) + 0.4
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, height), width_ratios=(1, 1.9))
    scales = sorted(patches["scale"].unique())
    for (scale, *ends), owners in patches.groupby(["scale", "first", "last"]):
        if ends[1] >= first:
            top = max(ends[0], first)
            _draw_patch(left, scales.index(scale), top, ends[1], owners["interest"].tolist())
    labels = [label_text(title, 30) for title in titles[first:]]
    left.set_yticks(range(first, len(titles)), labels, fontsize=7)
    left.set_xticks(
        [x + 0.46 for x in range(len(scales))], [f"patches\nof {scale}" for scale in scales]
    )
    left.set(xlim=(0, len(scales)), ylim=(len(titles) - 0.5, first - 0.5))
    left.set_title("the newest at the bottom", fontsize=8)
    left.grid(False)
    left.tick_params(length=0)
    left.spines[:].set_visible(False)
    right.set(xlim=(0, 2), ylim=(rows * (2 * LIST_LINES + 5), 0))
    right.axis("off")
    for interest, own in lists.groupby("interest"):
        _write_lists(right, interest, own)
    return figure


def _draw_patch(axis: Axes, column: int, first: int, last: int, interests: Sequence[int]) -> None:
    """A block per patch, divided among its interests."""
    width = 0.92 / len(interests)
    for number, interest in enumerate(interests):
        x = column + number * width
        size = (width, last - first + 0.92)
        axis.add_patch(Rectangle((x, first - 0.46), *size, color=shade_of(interest), lw=0))
        middle = (x + width / 2, (first + last) / 2)
        axis.text(*middle, str(interest), ha="center", va="center", fontsize=7)


def _write_lists(axis: Axes, interest: int, lists: pd.DataFrame) -> None:
    """An interest's name on its colour, above what it owns and what it recommends."""
    x, y = interest % 2, (interest // 2) * (2 * LIST_LINES + 5) + 0.5
    box = {"facecolor": shade_of(interest), "lw": 0, "boxstyle": "round,pad=0.25"}
    axis.text(x + 0.02, y, f"interest {interest}", va="center", fontsize=9, bbox=box)
    for kind, heading in (("owned", "newest items it owns"), ("recommended", "it recommends")):
        names = lists.loc[lists["kind"] == kind, "title"].tolist()[:LIST_LINES] or ["none"]
        axis.text(x, y + 1.3, heading, va="center", fontsize=8, color="#595959", style="italic")
        for line, name in enumerate(names):
            axis.text(x, y + 2.3 + line, label_text(name, 38), va="center", fontsize=8)
        y += LIST_LINES + 1.5
