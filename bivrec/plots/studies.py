"""Figures of the studies."""

import itertools
from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from bivrec.experiment.runs import combined_views
from bivrec.plots.style import (
    COLOURS,
    GREY,
    INK,
    VIEW_NAMES,
    add_legend,
    collect_labels,
    colour_of,
    draw_dots,
    label_log_axis,
    name_metric,
    start_panels,
    style_views,
)
from bivrec.settings import Settings

NOISE_NAMES = {  # a kind of noise and the unit of its level
    "replace": "share of items replaced", "insert": "share of items inserted",
    "delete": "share of items deleted", "shuffle": "share of items shuffled",
    "blur": "noise on features,\nstandard deviations",
    "swap": "share of items\nwith swapped features",
    "no_text": "share of items\nwithout their text",
    "no_image": "share of items\nwithout their image",
    "replace_and_swap": "share of items replaced\nand of features swapped",
}  # fmt: skip

GROUP_NAMES = {"history cut to the newest": "newest items kept of the history"}


def draw_differences(table: pd.DataFrame, metric: str) -> Figure:
    """Paired differences between variants and the whole model, a panel per view.

    Columns: label, view, mean, low, high."""
    labels = pd.Index(table["label"].unique()[::-1])
    views = [view for view in VIEW_NAMES if view in set(table["view"])]
    height = 0.36 * len(labels) + 1
    figure, panels = start_panels(views, 2.6, height, margin=1.6, sharex=True, sharey=True)
    for view, axis in panels.items():
        rows = table[table["view"] == view]
        colours = np.where(rows["low"] * rows["high"] > 0, COLOURS["bivrec"], GREY)
        axis.axvline(0, color=INK, lw=1)
        draw_dots(axis, rows, labels.get_indexer(rows["label"]), colours, labels)
        axis.set(title=VIEW_NAMES[view])
    note = "(95 % interval; grey: crosses zero)"
    figure.supxlabel(f"variant minus whole model, {name_metric(metric)} {note}", fontsize=9)
    return figure


def draw_noise(curves: pd.DataFrame, metric: str) -> Figure:
    """The share of the clean metric that is retained as noise grows, with its intervals.

    A panel per noise, a line per model and view of `noise_curves`."""
    kinds, styles = list(dict.fromkeys(curves["noise"])), style_views(curves)
    rows, columns = -(-len(kinds) // 3), min(len(kinds), 3)
    size = (3 * columns + 1.5, max(2.5 * rows, 3.8))  # room for the label beside one row
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    for axis in axes.flat[len(kinds) :]:
        axis.axis("off")
    for kind, axis in zip(kinds, axes.flat):
        for pair, line in curves[curves["noise"] == kind].groupby(["model", "view"], sort=False):
            low, high, colour = 100 * line["low"], 100 * line["high"], colour_of(pair[0])
            axis.plot(line["level"], 100 * line["retained"], **styles[pair], marker="o", ms=3.5)
            axis.fill_between(line["level"], low, high, color=colour, alpha=0.08, lw=0)
        axis.axhline(100, color=GREY, lw=0.8)
        axis.set(xlabel=NOISE_NAMES.get(kind, kind))
    axes[0, 0].set_ylim(0, None)  # shared, so only now is all that is drawn within
    figure.supylabel(f"{name_metric(metric)} retained, % (95 % interval)", fontsize=9)
    figure.legend(*collect_labels(axes.flat), loc="outside right upper", fontsize=8)
    return figure


def _default_cell(settings: Settings, keys: list[str]) -> dict[str, str]:
    """The study's values of some settings, as text like the cells of a grid."""
    values = {}
    for key in keys:
        section, name = key.split(".")
        value = getattr(getattr(settings, section), name)
        values[key] = str(list(value) if isinstance(value, tuple) else value)
    return values


def _frame_cell(axis: Axes, cells: pd.DataFrame, row: str, column: str) -> bool:
    """Frames a cell; False if there is none in that row and column."""
    if row not in cells.index or column not in cells.columns:
        return False
    corner = cells.columns.get_loc(column), cells.index.get_loc(row)
    frame = plt.Rectangle(corner, 1, 1, fill=False, ec="#D55E00", lw=3, clip_on=False)
    axis.add_patch(frame)
    return True


def draw_grid(table: pd.DataFrame, name: str, settings: Settings, metric: str) -> Figure:
    """A grid of one or two settings as heat maps of the metric, a panel per view.

    The cell of the study's own setting is framed, if the grid has it."""
    across, *down = settings.grids[name]
    default = _default_cell(settings, [across, *down])
    rows, table = down[0] if down else "metric", table.assign(metric="")
    views = [view for view in VIEW_NAMES if view in set(table["view"])]
    figure, panels = start_panels(views, 3.0, 0.45 * table[rows].nunique() + 1.5)
    look = {"annot": True, "fmt": ".3f", "annot_kws": {"fontsize": 8}, "cmap": "viridis"}
    look |= {"cbar": False, "vmin": table["value"].min(), "vmax": table["value"].max()}
    title = f"{name}: {name_metric(metric)}, test users"
    for view, axis in panels.items():
        cells = table[table["view"] == view]
        cells = cells.pivot_table(index=rows, columns=across, values="value", sort=False)
        sns.heatmap(cells, ax=axis, **look)
        framed = _frame_cell(axis, cells, default.get(rows, ""), default[across])
        axis.set(title=VIEW_NAMES[view], xlabel=across.split(".")[1])
        axis.set(ylabel=rows.split(".")[1] if down else "")
    figure.suptitle(title + "; framed: the study's own setting" * framed, fontsize=9)
    return figure


def draw_groups(table: pd.DataFrame, metric: str) -> Figure:
    """The metric by group with its intervals, a panel per kind of group, a line per model and view.

    A column users, if there is one, stands under the names of the groups."""
    styles = style_views(table)
    figure, panels = start_panels(table["kind"], 4.2, 3.1, margin=1.2)
    for kind, axis in panels.items():
        rows = table[table["kind"] == kind]
        names, lines = pd.Index(rows["group"].unique()), rows.groupby(["model", "view"], sort=False)
        for number, (pair, line) in enumerate(lines):
            position = names.get_indexer(line["group"]) + 0.06 * (number - len(lines) / 2)
            axis.vlines(position, line["low"], line["high"], color=colour_of(pair[0]), lw=1.2)
            axis.plot(position, line["mean"], **styles[pair], marker="o", ms=3.5)
        if "users" in rows:
            users = rows.drop_duplicates("group")["users"]
            names = [f"{name}\n{number:,} users" for name, number in zip(names, users)]
        axis.set_xticks(range(len(names)), names, fontsize=8)
        axis.set(xlabel=GROUP_NAMES.get(kind, kind), ylabel=name_metric(metric))
        axis.set_ylim(min(0, rows["low"].min()), None)
    add_legend(axis)
    return figure


def _draw_level(axis: Axes, table: pd.DataFrame, label: str) -> None:
    colour = colour_of("popularity")
    for row in table.itertuples():
        axis.axhspan(row.low, row.high, color=colour, alpha=0.12, lw=0)
        axis.axhline(row.mean, color=colour, lw=1, ls=(0, (4, 2)), label=label)


def draw_transfer(table: pd.DataFrame, metric: str) -> Figure:
    """The target's metric by share of its training users, a line per start, with its
    intervals; a level marks the target's popularity.

    Columns: start, share, mean, low, high."""
    figure, axis = plt.subplots(figsize=(8.2, 3.8))
    _draw_level(axis, table[table["start"] == "popularity"], "popularity, all users")
    table = table[table["start"] != "popularity"]
    shares = sorted(table["share"].unique())
    colours = dict(zip(table["start"].unique(), sns.color_palette("colorblind")))
    for number, (start, line) in enumerate(table.groupby("start", sort=False)):
        look = {"color": colours[start], "label": start, "ls": "-" if len(line) > 1 else ""}
        beside = 0.05 * (number - (len(colours) - 1) / 2)
        position = np.array([shares.index(share) for share in line["share"]]) + beside
        axis.vlines(position, line["low"], line["high"], color=colours[start], lw=1.2)
        axis.plot(position, line["mean"], marker="o", ms=4, **look)
    names = ["zero-shot" if share == 0 else f"{100 * share:g}%" for share in shares]
    axis.set_xticks(range(len(shares)), names)
    axis.set(xlabel="target's training users", ylim=(0, None))
    axis.set(ylabel=f"{name_metric(metric)}, target's test users")
    add_legend(axis)
    return figure


MARKS = "osD^vPX<>phd*"


def _style_models(models: Iterable[str]) -> dict[str, dict[str, str]]:
    """A colour and a mark for each model, in the order of COLOURS: no two of up to 13 models have
    the same mark."""
    models = list(dict.fromkeys(models))
    models.sort(key=[*COLOURS, *models].index)
    marks = itertools.cycle(MARKS)
    return {model: {"color": colour_of(model), "marker": next(marks)} for model in models}


def draw_tradeoff(table: pd.DataFrame, metric: str, label: str) -> Figure:
    """Quality against the cost of training, a point per model, a panel per dataset.

    Columns: dataset, model, cost, quality, and its interval (low, high)."""
    height = max(3.4, 0.2 * table["model"].nunique())
    figure, panels = start_panels(table["dataset"], 3.6, height, margin=1.6, sharey=True)
    best_first = table.sort_values("quality", ascending=False)
    styles = _style_models(table["model"])
    for name, axis in panels.items():
        for row in best_first[best_first["dataset"] == name].itertuples():
            look = styles[row.model]
            axis.vlines(row.cost, row.low, row.high, color=look["color"], lw=1)
            axis.plot(row.cost, row.quality, **look, ls="", ms=6, label=row.model)
        axis.set(title=name, xscale="log", xlabel=label)
        label_log_axis(axis.xaxis, StrMethodFormatter("{x:g}"))
    add_legend(axis)
    next(iter(panels.values())).set(ylabel=f"{name_metric(metric)}, test users (95 % interval)")
    return figure


AXIS_NAMES = {
    "diversity": "diversity of a list: 1 - mean cosine of features",
    "genre_diversity": "diversity of a list: 1 - mean cosine of genres",
}


COMPARED = ("bivrec", "shared-newest", "plain-interests")


def draw_beyond(table: pd.DataFrame, metric: str, measure: str) -> Figure:
    """Accuracy against the diversity of the lists of each model's combined or only view, with both
    intervals, a panel per dataset. BivRec and the variants that the text compares are large.

    Columns: dataset, model, view, x, x_low, x_high, y, y_low, y_high (`accuracy_and`)."""
    best_first = combined_views(table).sort_values("y", ascending=False)
    styles = _style_models(best_first["model"])
    height = max(3.6, 0.2 * len(styles))
    figure, panels = start_panels(table["dataset"], 3.8, height, margin=1.8, sharey=True)
    for name, axis in panels.items():
        for row in best_first[best_first["dataset"] == name].itertuples():
            own, look = row.model in COMPARED, styles[row.model]
            bars = {"color": look["color"], "alpha": 0.8 if own else 0.35, "lw": 1}
            axis.hlines(row.y, row.x_low, row.x_high, **bars)
            axis.vlines(row.x, row.y_low, row.y_high, **bars)
            look = {**look, "mec": "white", "mew": 0.4, "ms": 9 if own else 7}
            axis.plot(row.x, row.y, **look, ls="", zorder=4 - own, label=row.model)
        axis.set(title=name)
        axis.xaxis.set_major_locator(MaxNLocator(5))
    figure.supxlabel(f"{AXIS_NAMES[measure]} (95 % intervals)", fontsize=9)
    add_legend(axis)
    next(iter(panels.values())).set(ylabel=f"{name_metric(metric)}, test users")
    return figure
