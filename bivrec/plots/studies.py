"""Figures of the studies."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from bivrec.plots.style import (
    COLOURS,
    GREY,
    INK,
    VIEW_NAMES,
    colour_of,
    draw_dots,
    start_panels,
    style_of,
)
from bivrec.settings import Settings


def draw_differences(table: pd.DataFrame, metric: str) -> Figure:
    """Paired differences (columns label, view, mean, low, high) against zero, a panel a view."""
    labels = pd.Index(table["label"].unique()[::-1])
    views = [view for view in VIEW_NAMES if view in set(table["view"])]
    figure, panels = start_panels(
        views, 2.6, 0.36 * len(labels) + 1, margin=1.6, sharex=True, sharey=True
    )
    for view, axis in panels.items():
        part = table[table["view"] == view]
        axis.axvline(0, color=INK, lw=1)
        draw_dots(
            axis,
            part,
            labels.get_indexer(part["label"]),
            np.where(part["low"] * part["high"] > 0, COLOURS["bivrec"], GREY),
            labels,
        )
        axis.set(title=VIEW_NAMES[view])
    figure.supxlabel(
        f"variant minus whole model, {metric.upper()} (95 % interval over users; grey: crosses zero)",
        fontsize=9,
    )
    return figure


NOISE_NAMES = {
    "replace": "items replaced", "insert": "items inserted", "delete": "items deleted", "shuffle": "items shuffled", "blur": "feature noise, s.d.",
    "swap": "features swapped", "no_text": "text dropped", "no_image": "image dropped", "replace_and_swap": "replaced and swapped",
}  # fmt: skip


def draw_noise(curves: pd.DataFrame, metric: str) -> Figure:
    """Share of the clean metric that is kept as noise grows, with intervals over users: a panel a kind of noise."""
    kinds = list(dict.fromkeys(curves["noise"]))
    figure, axes = plt.subplots(
        -(-len(kinds) // 3),
        3,
        figsize=(10.5, 2.5 * -(-len(kinds) // 3)),
        sharey=True,
        squeeze=False,
    )
    for axis in axes.flat[len(kinds) :]:
        axis.axis("off")
    for kind, axis in zip(kinds, axes.flat):
        for pair, line in curves[curves["noise"] == kind].groupby(["model", "view"], sort=False):
            axis.plot(line["level"], 100 * line["retained"], **style_of(*pair), marker="o", ms=3.5)
            axis.fill_between(
                line["level"],
                100 * line["low"],
                100 * line["high"],
                color=colour_of(pair[0]),
                alpha=0.08,
                lw=0,
            )
        axis.axhline(100, color=GREY, lw=0.8)
        axis.set(xlabel=NOISE_NAMES.get(kind, kind), ylim=(0, None))
    figure.supylabel(f"{metric.upper()} kept, % (95 % interval over users)", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def draw_grid(table: pd.DataFrame, name: str, settings: Settings, metric: str) -> Figure:
    """A grid of one or two settings as heat maps of the metric, a panel a view, the study's own setting framed."""
    across, *down = settings.grids[name]
    own = {
        key: getattr(getattr(settings, key.split(".")[0]), key.split(".")[1])
        for key in (across, *down)
    }
    default = {
        key: str(list(value) if isinstance(value, tuple) else value) for key, value in own.items()
    }
    rows = down[0] if down else "metric"
    figure, panels = start_panels(
        [view for view in VIEW_NAMES if view in set(table["view"])],
        3.0,
        0.45 * table.assign(metric="")[rows].nunique() + 1.5,
    )
    for view, axis in panels.items():
        cells = (
            table[table["view"] == view]
            .assign(metric="")
            .pivot_table(index=rows, columns=across, values="value", sort=False)
        )
        limits = {"vmin": table["value"].min(), "vmax": table["value"].max()}
        sns.heatmap(
            cells,
            annot=True,
            fmt=".3f",
            cmap="viridis",
            cbar=False,
            ax=axis,
            annot_kws={"fontsize": 8},
            **limits,
        )
        if default[across] in cells.columns and default.get(rows, "") in cells.index:
            corner = (
                cells.columns.get_loc(default[across]),
                cells.index.get_loc(default.get(rows, "")),
            )
            axis.add_patch(
                plt.Rectangle(corner, 1, 1, fill=False, ec="#D55E00", lw=3, clip_on=False)
            )
        axis.set(
            title=VIEW_NAMES[view],
            xlabel=across.split(".")[1],
            ylabel=rows.split(".")[1] if down else "",
        )
    figure.suptitle(
        f"{name}: {metric.upper()}, test users; framed: the study's own setting", fontsize=9
    )
    return figure


def draw_groups(table: pd.DataFrame, metric: str) -> Figure:
    """The metric by group, a panel a kind of group, a line a model and view, with intervals over users."""
    figure, panels = start_panels(table["kind"], 4.2, 3.1, margin=1.2)
    for kind, axis in panels.items():
        part = table[table["kind"] == kind]
        names, lines = pd.Index(part["group"].unique()), part.groupby(["model", "view"], sort=False)
        for number, (pair, line) in enumerate(lines):
            place = names.get_indexer(line["group"]) + 0.06 * (number - len(lines) / 2)
            axis.vlines(place, line["low"], line["high"], color=colour_of(pair[0]), lw=1.2)
            axis.plot(place, line["mean"], **style_of(*pair), marker="o", ms=3.5)
        axis.set_xticks(range(len(names)), names)
        axis.set(xlabel=kind, ylabel=metric.upper(), ylim=(0, None))
    axis.legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
    return figure


def draw_transfer(table: pd.DataFrame, metric: str) -> Figure:
    """The target's metric by share of its training users, a line a way to start, with intervals over users; the target's own
    popularity as a level."""
    figure, axis = plt.subplots(figsize=(8.2, 3.8))
    level = table[table["start"] == "popularity"]
    table = table[table["start"] != "popularity"]
    for row in level.itertuples():
        axis.axhspan(row.low, row.high, color=colour_of("popularity"), alpha=0.12, lw=0)
        axis.axhline(
            row.mean,
            color=colour_of("popularity"),
            lw=1,
            ls=(0, (4, 2)),
            label="popularity, all users",
        )
    shares = sorted(table["share"].unique())
    colours = dict(zip(table["start"].unique(), sns.color_palette("colorblind")))
    for number, (start, line) in enumerate(table.groupby("start", sort=False)):
        place = np.array([shares.index(share) for share in line["share"]]) + 0.05 * (number - 3)
        axis.vlines(place, line["low"], line["high"], color=colours[start], lw=1.2)
        axis.plot(
            place,
            line["mean"],
            marker="o",
            ms=4,
            color=colours[start],
            label=start,
            ls="-" if len(line) > 1 else "",
        )
    axis.set_xticks(
        range(len(shares)), ["zero-shot" if share == 0 else f"{share:.0%}" for share in shares]
    )
    axis.set(
        xlabel="target's training users",
        ylabel=f"{metric.upper()}, target's test users",
        ylim=(0, None),
    )
    axis.legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
    return figure


MARKS = "osD^vPX"  # beside the colour, so that many models can be told apart


def draw_tradeoff(table: pd.DataFrame, metric: str, label: str) -> Figure:
    """Quality against what its training cost (columns quality, low, high, cost), a point a model with its interval over users, a panel a dataset."""
    figure, panels = start_panels(
        table["dataset"], 3.6, max(3.4, 0.2 * table["model"].nunique()), margin=1.6, sharey=True
    )
    for name, axis in panels.items():
        for row in (
            table[table["dataset"] == name].sort_values("quality", ascending=False).itertuples()
        ):
            mark = MARKS[list(COLOURS).index(row.model) % len(MARKS) if row.model in COLOURS else 0]
            axis.vlines(row.cost, row.low, row.high, color=colour_of(row.model), lw=1)
            axis.plot(
                row.cost, row.quality, mark, color=colour_of(row.model), ms=6, label=row.model
            )
        axis.set(title=name, xscale="log", xlabel=label)
        axis.xaxis.set(
            major_locator=LogLocator(subs=(1, 2, 5)),
            major_formatter=StrMethodFormatter("{x:g}"),
            minor_formatter=NullFormatter(),
        )
    axis.legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
    next(iter(panels.values())).set(ylabel=f"{metric.upper()}, test users (95 % interval)")
    return figure
