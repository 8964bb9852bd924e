"""Figures: one look for all, the same colour for the same model everywhere, intervals over users where there are users."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, Int64
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image
from torch import Tensor

INK, PALE = "#2b2b2b", "#d9d9d9"
COLOURS = {  # apart for colour-blind eyes too
    "bivrec": "#0072B2",
    "pure-id": "#56B4E9",
    "pure-mm": "#009E73",
    "sasrec": "#D55E00",
    "sasrec-fused": "#E69F00",
    "sasrec-sum": "#CC79A7",
    "gru4rec": "#0247A9",
    "gru4rec-fused": "#2497FD",
    "comirec-sa": "#79036D",
    "comirec-sa-fused": "#FCBEC7",
    "fdsa": "#4E3320",
    "nova": "#B7A94F",
    "dif-sr": "#6EDFF7",
    "mmmlp": "#BDDD8E",
    "mmsrec": "#F2D161",
    "itemknn": "#8c6d31",
    "itemknn-recency": "#6b4c12",
    "popularity": "#7f7f7f",
}
VIEW_NAMES = {"id": "ID view", "multimodal": "multimodal view", "both": "both views"}
VIEW_DASHES = {"id": (1, 0), "multimodal": (4, 1.5), "both": (1, 1)}


def set_theme() -> None:
    """Called once, in each notebook's first cell."""
    sns.set_theme("paper", "ticks", font_scale=1.1)
    plt.rcParams |= {
        "figure.dpi": 100,
        "savefig.dpi": 100,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.grid": True,
        "grid.color": "#ececec",
        "axes.axisbelow": True,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "svg.hashsalt": "bivrec",
    }


def colour_of(model: str) -> str:
    """A model's own colour; models without one are grey."""
    return COLOURS.get(model, "#4d4d4d")


def label_of(model: str, view: str) -> str:
    """How a model's view is called in figures and tables."""
    return f"{model} ({VIEW_NAMES[view]})" if model in ("bivrec", "sasrec-sum") else model


def draw_histories(lengths: Int64[ndarray, "user"], popularity: Int64[ndarray, "item"]) -> Figure:
    """How long histories are, and how unequally items are met."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.8))
    sns.histplot(lengths, log_scale=True, ax=left, color=COLOURS["bivrec"], edgecolor="white")
    left.axvline(np.median(lengths), color=INK, lw=1)
    left.annotate(f" median {int(np.median(lengths))}", (np.median(lengths), left.get_ylim()[1] * 0.93), color=INK)
    left.set(xlabel="items in a history", ylabel="users")
    right.plot(np.arange(1, len(popularity) + 1), np.sort(popularity)[::-1], color=COLOURS["bivrec"])
    right.set(xscale="log", yscale="log", xlabel="item, by popularity", ylabel="interactions")
    return figure


def draw_images(images: Sequence[Image.Image], titles: Sequence[str], columns: int = 6) -> Figure:
    """A sheet of items as the encoder sees them."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.25 * columns, 1.5 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles):
        axis.imshow(image)
        axis.set_title(title, fontsize=8)
    return figure


def draw_features(points: dict[str, Float[ndarray, "item 2"]], groups: Sequence[str], legend: str) -> Figure:
    """Items on a plane, one panel a modality, coloured by group (the seven largest, then the rest)."""
    figure, axes = plt.subplots(1, len(points), figsize=(3.9 * len(points), 3.1), squeeze=False)
    named = pd.Series(groups)
    top = list(named.value_counts().index[:7])
    named = named.where(named.isin(top), "other")
    for axis, (modality, xy) in zip(axes.flat, points.items()):
        last = axis is axes.flat[-1]
        sns.scatterplot(
            x=xy[:, 0],
            y=xy[:, 1],
            hue=named,
            hue_order=[*top, *(["other"] if (named == "other").any() else [])],
            palette="colorblind",
            s=9,
            lw=0,
            ax=axis,
            legend=last,
        )
        axis.set(title=modality, xticks=[], yticks=[], xlabel="", ylabel="")
        if last:
            sns.move_legend(axis, "center left", bbox_to_anchor=(1, 0.5), title=legend, markerscale=1.6)
    return figure


def draw_curves(curves: pd.DataFrame, metric: str) -> Figure:
    """Training loss and validation metric by step, a line a model (and view), seeds averaged."""
    num_lines = len(curves.drop_duplicates(["model", "view"]))
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, max(3.0, 0.2 * num_lines)), width_ratios=(1, 1.3))
    losses = curves.drop_duplicates(["model", "seed", "step"]).groupby(["model", "step"])["loss"].mean()
    for model in curves["model"].unique():
        losses[model].plot(ax=left, color=colour_of(model))
    left.set(xlabel="step", ylabel="training loss, nats")
    chosen = curves[curves["metric"] == metric].groupby(["model", "view", "step"], sort=False)["value"].mean()
    for (model, view), line in chosen.groupby(level=["model", "view"], sort=False):
        right.plot(line.droplevel(["model", "view"]), color=colour_of(model), dashes=VIEW_DASHES[view], label=label_of(model, view))
    right.set(xlabel="step", ylabel=f"{metric.upper()}, validation users", ylim=(0, None))
    right.legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
    return figure


def draw_field(table: pd.DataFrame, metric: str) -> Figure:
    """Each model and view with its interval over users."""
    table = table.sort_values("mean").reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(6.4, 0.32 * len(table) + 0.8))
    for place, row in table.iterrows():
        axis.plot([row["low"], row["high"]], [place, place], color=colour_of(row["model"]), lw=2)
        axis.plot(row["mean"], place, "o", color=colour_of(row["model"]), ms=6)
    axis.set_yticks(range(len(table)), [label_of(model, view) for model, view in zip(table["model"], table["view"])])
    axis.set(xlabel=f"{metric.upper()}, test users (mean, 95 % interval over users)", xlim=(0, None))
    return figure


def draw_field_panels(table: pd.DataFrame, metric: str) -> Figure:
    """The field on every dataset, a panel each, models in the order of their mean over datasets."""
    names = list(dict.fromkeys(table["dataset"]))
    order = table.groupby(["model", "view"])[metric].mean().sort_values().index.tolist()
    figure, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names) + 2.2, 0.32 * len(order) + 1), sharey=True, squeeze=False)
    for axis, name in zip(axes.flat, names):
        for _, row in table[table["dataset"] == name].iterrows():
            place = order.index((row["model"], row["view"]))
            axis.plot([row["low"], row["high"]], [place, place], color=colour_of(row["model"]), lw=2)
            axis.plot(row[metric], place, "o", color=colour_of(row["model"]), ms=6)
        axis.set(title=name, xlim=(0, None), xlabel=f"{metric.upper()}, test users")
        axis.set_yticks(range(len(order)), [label_of(*pair) for pair in order])
    return figure


def draw_differences(table: pd.DataFrame, metric: str) -> Figure:
    """Paired differences (columns label, view, mean, low, high) against zero, a panel a view."""
    views = [view for view in VIEW_NAMES if view in set(table["view"])]
    labels = list(dict.fromkeys(table["label"]))[::-1]
    figure, axes = plt.subplots(1, len(views), figsize=(2.6 * len(views) + 1.6, 0.36 * len(labels) + 1), sharex=True, sharey=True, squeeze=False)
    for axis, view in zip(axes.flat, views):
        axis.axvline(0, color=INK, lw=1)
        for _, row in table[table["view"] == view].iterrows():
            place, sure = labels.index(row["label"]), row["low"] > 0 or row["high"] < 0
            axis.plot([row["low"], row["high"]], [place, place], color=COLOURS["bivrec"] if sure else "#9a9a9a", lw=2)
            axis.plot(row["mean"], place, "o", color=COLOURS["bivrec"] if sure else "#9a9a9a", ms=6)
        axis.set(title=VIEW_NAMES[view])
        axis.set_yticks(range(len(labels)), labels)
    figure.supxlabel(f"variant minus whole model, {metric.upper()} (95 % interval over users; grey: crosses zero)", fontsize=9)
    return figure


def draw_noise(table: pd.DataFrame, metric: str) -> Figure:
    """Share of the clean metric that is kept as noise grows: a panel a kind of noise, a line a model and view."""
    kinds = list(dict.fromkeys(table["noise"]))
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.2 * len(kinds) + 1.2, 3.0), sharey=True, squeeze=False)
    for axis, kind in zip(axes.flat, kinds):
        for (model, view), line in table[table["noise"] == kind].groupby(["model", "view"], sort=False):
            axis.plot(line["level"], 100 * line["kept"], color=colour_of(model), dashes=VIEW_DASHES[view], marker="o", ms=3.5, label=label_of(model, view))
        axis.set(xlabel=kind)
    axes.flat[0].set(ylabel=f"{metric.upper()} kept, %", ylim=(0, None))
    axes.flat[-1].legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
    return figure


def draw_groups(table: pd.DataFrame, metric: str) -> Figure:
    """The metric by group, a panel a kind of group, a line a model and view, with intervals over users."""
    kinds = list(dict.fromkeys(table["kind"]))
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.2 * len(kinds) + 1.2, 3.1), squeeze=False)
    for axis, kind in zip(axes.flat, kinds):
        part = table[table["kind"] == kind]
        names, lines = list(dict.fromkeys(part["group"])), list(part.groupby(["model", "view"], sort=False))
        for number, ((model, view), line) in enumerate(lines):
            place = np.array([names.index(group) for group in line["group"]]) + 0.06 * (number - len(lines) / 2)
            axis.vlines(place, line["low"], line["high"], color=colour_of(model), lw=1.2)
            axis.plot(place, line["mean"], color=colour_of(model), dashes=VIEW_DASHES[view], marker="o", ms=3.5, label=label_of(model, view))
        axis.set_xticks(range(len(names)), names)
        axis.set(xlabel=kind, ylabel=metric.upper(), ylim=(0, None))
    axes.flat[-1].legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
    return figure


def draw_transfer(table: pd.DataFrame, metric: str) -> Figure:
    """The target's metric by share of its training users, a line a way to start, with intervals over users."""
    figure, axis = plt.subplots(figsize=(6.6, 3.2))
    styles = dict(zip(dict.fromkeys(table["start"]), sns.color_palette("colorblind"))) | {"popularity": colour_of("popularity")}
    for number, (start, line) in enumerate(table.groupby("start", sort=False)):
        place = 100 * line["share"] + 0.7 * number
        axis.vlines(place, line["low"], line["high"], color=styles[start], lw=1.2)
        axis.plot(place, line["mean"], marker="o", ms=4, color=styles[start], label=start, ls="-" if len(line) > 1 else "")
    axis.set(xlabel="target's training users, %", ylabel=f"{metric.upper()}, target's test users", ylim=(0, None))
    axis.legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
    return figure


def draw_allocation(allocation: Float[Tensor, "scale position interest"], titles: Sequence[str], scales: Sequence[int]) -> Figure:
    """A history's patches shared among the interests, a panel a scale; each patch is named by its newest item."""
    figure, axes = plt.subplots(1, len(scales), figsize=(2.2 + 1.7 * len(scales), 0.19 * len(titles) + 1.1), squeeze=False)
    for axis, shares, scale in zip(axes.flat, allocation, scales):
        ends = list(range((len(titles) - 1) % scale, len(titles), scale))
        image = axis.imshow(shares[ends], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_yticks(range(len(ends)), [titles[end][:24] for end in ends], fontsize=6)
        axis.set_xticks(range(shares.shape[-1]))
        axis.set(title=f"patches of {scale}", xlabel="interest")
        axis.grid(False)
    figure.colorbar(image, ax=axes, label="share of the patch", shrink=0.6)
    return figure
