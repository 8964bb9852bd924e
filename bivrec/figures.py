"""Figures: one look for all, the same colour for the same model everywhere, intervals over users where there are users."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from numpy import ndarray
from PIL import Image
from torch import Tensor

INK, GREY = "#2b2b2b", "#9a9a9a"
COLOURS = {  # apart for colour-blind eyes too
    "bivrec": "#0072B2", "bivrec-one-target": "#111111", "pure-id": "#56B4E9", "pure-mm": "#009E73", "sasrec": "#D55E00", "sasrec-fused": "#E69F00", "sasrec-sum": "#CC79A7",
    "gru4rec": "#0247A9", "gru4rec-fused": "#2497FD", "comirec-sa": "#79036D", "comirec-sa-fused": "#FCBEC7", "fdsa": "#4E3320", "nova": "#B7A94F",
    "dif-sr": "#6EDFF7", "mmmlp": "#BDDD8E", "mmsrec": "#F2D161", "itemknn": "#8c6d31", "itemknn-recency": "#6b4c12", "popularity": "#7f7f7f",
}  # fmt: skip
VIEW_NAMES = {"id": "ID view", "multimodal": "multimodal view", "both": "both views"}
VIEW_DASHES = {"id": (1, 0), "multimodal": (4, 1.5), "both": (1, 1)}


def set_theme() -> None:
    """Called once, in each notebook's first cell."""
    sns.set_theme("paper", "ticks", font_scale=1.1)
    plt.rcParams |= {"figure.dpi": 100, "savefig.dpi": 100, "figure.constrained_layout.use": True, "svg.hashsalt": "bivrec"}
    plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK, "axes.axisbelow": True}
    plt.rcParams |= {"axes.grid": True, "grid.color": "#ececec", "legend.frameon": False}


def colour_of(model: str) -> str:
    """A model's own colour, also of a form of it ("bivrec, lent"); models without one are grey."""
    return COLOURS.get(model.split(",")[0], "#4d4d4d")


def label_of(model: str, view: str) -> str:
    """How a model's view is called in figures and tables."""
    return f"{model} ({VIEW_NAMES[view]})" if model.split(",")[0] in ("bivrec", "sasrec-sum") else model


def style_of(model: str, view: str) -> dict[str, Any]:
    """The line of a model and view."""
    return {"color": colour_of(model), "dashes": VIEW_DASHES[view], "label": label_of(model, view)}


def start_panels(names: Iterable[str], width: float, height: float, margin: float = 0, **shared: bool) -> tuple[Figure, dict[str, Axes]]:
    """A row of panels, by name; `margin` is the room for what stands beside them."""
    names = list(dict.fromkeys(names))
    figure, axes = plt.subplots(1, len(names), figsize=(width * len(names) + margin, height), squeeze=False, **shared)
    return figure, dict(zip(names, axes[0]))


def draw_dots(axis: Axes, table: pd.DataFrame, place: Sequence[int], colours: Sequence[str], labels: Sequence[str]) -> None:
    """A row's mean as a dot and its interval as a bar, at its place among the labels."""
    axis.hlines(place, table["low"], table["high"], color=colours, lw=2)
    axis.scatter(table["mean"], place, color=colours, s=36)
    axis.set_yticks(range(len(labels)), labels)


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
    figure, panels = start_panels(points, 3.9, 3.1)
    named = pd.Series(groups)
    top = list(named.value_counts().index[:7])
    named, order = named.where(named.isin(top), "other"), [*top, "other"][: named.nunique()]
    for modality, axis in panels.items():
        last, (x, y) = modality == list(panels)[-1], points[modality].T
        sns.scatterplot(x=x, y=y, hue=named, hue_order=order, palette="colorblind", s=9, lw=0, ax=axis, legend=last)
        axis.set(title=modality, xticks=[], yticks=[], xlabel="", ylabel="")
    sns.move_legend(axis, "center left", bbox_to_anchor=(1, 0.5), title=legend, markerscale=1.6)
    return figure


def draw_curves(curves: pd.DataFrame, metric: str) -> Figure:
    """Training loss and validation metric by step, a line a model (and view), seeds averaged."""
    height = max(3.0, 0.2 * len(curves.drop_duplicates(["model", "view"])))
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, height), width_ratios=(1, 1.3))
    for model, line in curves.groupby("model", sort=False):
        left.plot(line.drop_duplicates(["seed", "step"]).groupby("step")["loss"].mean(), color=colour_of(model))
    left.set(xlabel="step", ylabel="training loss, nats")
    for pair, line in curves[curves["metric"] == metric].groupby(["model", "view"], sort=False):
        right.plot(line.groupby("step")["value"].mean(), **style_of(*pair))
    right.set(xlabel="step", ylabel=f"{metric.upper()}, validation users", ylim=(0, None))
    right.legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
    return figure


def draw_cost(curves: pd.DataFrame, metric: str, cost: str) -> Figure:
    """What quality cost: the validation metric of each model's combined or only view by seconds, or by targets, so far."""
    combined = curves["model"].isin(curves.loc[curves["view"] == "both", "model"])
    main = curves[(curves["metric"] == metric) & (~combined | (curves["view"] == "both"))]
    figure, axis = plt.subplots(figsize=(6.4, max(3.4, 0.22 * main["model"].nunique())))
    for model, line in main.groupby("model", sort=False):
        means = line.groupby("step")[[cost, "value"]].mean()
        axis.plot(means[cost], means["value"], color=colour_of(model), label=model, lw=2.4 if model.startswith("bivrec") else 1.2)
    axis.set(xscale="log", xlabel=f"{cost}, one training", ylabel=f"{metric.upper()}, validation users", ylim=(0, None))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.legend(bbox_to_anchor=(1, 1), loc="upper left", fontsize=8)
    return figure


def draw_field(table: pd.DataFrame, metric: str) -> Figure:
    """Each model and view with its interval over users."""
    return draw_field_panels(table.assign(dataset="").rename(columns={"mean": metric}), metric)


def draw_field_panels(table: pd.DataFrame, metric: str) -> Figure:
    """The field on every dataset, a panel each, models in the order of their mean over datasets."""
    order = table.groupby(["model", "view"])[metric].mean().sort_values().index
    figure, panels = start_panels(table["dataset"], 3.4, 0.32 * len(order) + 0.9, margin=2.6, sharey=True)
    for name, axis in panels.items():
        part = table[table["dataset"] == name].rename(columns={metric: "mean"})
        place = order.get_indexer(pd.MultiIndex.from_frame(part[["model", "view"]]))
        draw_dots(axis, part, place, [colour_of(model) for model in part["model"]], [label_of(*pair) for pair in order])
        axis.set(title=name, xlim=(0, None), xlabel=f"{metric.upper()}, test users (95 % interval)")
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
