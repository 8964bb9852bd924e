"""Figures of the studies: differences, curves under noise, groups, transfer."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from bivrec.figures import COLOURS, GREY, INK, VIEW_NAMES, colour_of, draw_dots, start_panels, style_of


def draw_differences(table: pd.DataFrame, metric: str) -> Figure:
    """Paired differences (columns label, view, mean, low, high) against zero, a panel a view."""
    labels = pd.Index(table["label"].unique()[::-1])
    views = [view for view in VIEW_NAMES if view in set(table["view"])]
    figure, panels = start_panels(views, 2.6, 0.36 * len(labels) + 1, margin=1.6, sharex=True, sharey=True)
    for view, axis in panels.items():
        part = table[table["view"] == view]
        axis.axvline(0, color=INK, lw=1)
        draw_dots(axis, part, labels.get_indexer(part["label"]), np.where(part["low"] * part["high"] > 0, COLOURS["bivrec"], GREY), labels)
        axis.set(title=VIEW_NAMES[view])
    figure.supxlabel(f"variant minus whole model, {metric.upper()} (95 % interval over users; grey: crosses zero)", fontsize=9)
    return figure


def draw_noise(table: pd.DataFrame, metric: str) -> Figure:
    """Share of the clean metric that is kept as noise grows: a panel a kind of noise, a line a model and view."""
    figure, panels = start_panels(table["noise"], 4.2, 3.0, margin=1.2, sharey=True)
    for (kind, *pair), line in table.groupby(["noise", "model", "view"], sort=False):
        panels[kind].plot(line["level"], 100 * line["kept"], **style_of(*pair), marker="o", ms=3.5)
        panels[kind].set(xlabel=kind)
    first, *_, last = panels.values()
    first.set(ylabel=f"{metric.upper()} kept, %", ylim=(0, None))
    last.legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
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
    """The target's metric by share of its training users, a line a way to start, with intervals over users."""
    figure, axis = plt.subplots(figsize=(6.6, 3.2))
    colours = dict(zip(table["start"].unique(), sns.color_palette("colorblind"))) | {"popularity": colour_of("popularity")}
    for number, (start, line) in enumerate(table.groupby("start", sort=False)):
        place = 100 * line["share"] + 0.7 * number
        axis.vlines(place, line["low"], line["high"], color=colours[start], lw=1.2)
        axis.plot(place, line["mean"], marker="o", ms=4, color=colours[start], label=start, ls="-" if len(line) > 1 else "")
    axis.set(xlabel="target's training users, %", ylabel=f"{metric.upper()}, target's test users", ylim=(0, None))
    axis.legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
    return figure
