"""Colours, labels and panels that all figures share."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    plt.rcParams |= {
        "figure.dpi": 100,
        "savefig.dpi": 100,
        "figure.constrained_layout.use": True,
        "svg.hashsalt": "bivrec",
    }
    plt.rcParams |= {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.axisbelow": True,
    }
    plt.rcParams |= {"axes.grid": True, "grid.color": "#ececec", "legend.frameon": False}


def colour_of(model: str) -> str:
    """A model's own colour, also of a form of it ("bivrec, lent"); models without one are grey."""
    return COLOURS.get(model.split(",")[0], "#4d4d4d")


def label_of(model: str, view: str) -> str:
    """How a model's view is called in figures and tables."""
    return (
        f"{model} ({VIEW_NAMES[view]})"
        if model.split(",")[0] in ("bivrec", "sasrec-sum")
        else model
    )


def style_of(model: str, view: str) -> dict[str, Any]:
    """The line of a model and view."""
    return {"color": colour_of(model), "dashes": VIEW_DASHES[view], "label": label_of(model, view)}


def start_panels(
    names: Iterable[str], width: float, height: float, margin: float = 0, **shared: bool
) -> tuple[Figure, dict[str, Axes]]:
    """A row of panels, by name; `margin` is the room for what stands beside them."""
    names = list(dict.fromkeys(names))
    figure, axes = plt.subplots(
        1, len(names), figsize=(width * len(names) + margin, height), squeeze=False, **shared
    )
    return figure, dict(zip(names, axes[0]))


def draw_dots(
    axis: Axes,
    table: pd.DataFrame,
    place: Sequence[int],
    colours: Sequence[str],
    labels: Sequence[str],
) -> None:
    """A row's mean as a dot and its interval as a bar, at its place among the labels."""
    axis.hlines(place, table["low"], table["high"], color=colours, lw=2)
    axis.scatter(table["mean"], place, color=colours, s=36)
    axis.set_yticks(range(len(labels)), labels)
