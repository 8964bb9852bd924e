"""Figures of data and features."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, Int64
from matplotlib.figure import Figure
from numpy import ndarray
from PIL import Image

from bivrec.plots.style import COLOURS, INK, start_panels


def draw_histories(lengths: Int64[ndarray, "user"], popularity: Int64[ndarray, "item"]) -> Figure:
    """How long histories are, and how unequally items are met."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.8))
    sns.histplot(lengths, log_scale=True, ax=left, color=COLOURS["bivrec"], edgecolor="white")
    left.axvline(np.median(lengths), color=INK, lw=1)
    left.annotate(
        f" median {int(np.median(lengths))}",
        (np.median(lengths), left.get_ylim()[1] * 0.93),
        color=INK,
    )
    left.set(xlabel="items in a history", ylabel="users")
    right.plot(
        np.arange(1, len(popularity) + 1), np.sort(popularity)[::-1], color=COLOURS["bivrec"]
    )
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


def draw_features(
    points: dict[str, Float[ndarray, "item 2"]], groups: Sequence[str], legend: str
) -> Figure:
    """Items on a plane, one panel a modality, coloured by group (the seven largest, then the rest)."""
    figure, panels = start_panels(points, 3.9, 3.1)
    named = pd.Series(groups)
    top = list(named.value_counts().index[:7])
    named, order = named.where(named.isin(top), "other"), [*top, "other"][: named.nunique()]
    for modality, axis in panels.items():
        last, (x, y) = modality == list(panels)[-1], points[modality].T
        sns.scatterplot(
            x=x,
            y=y,
            hue=named,
            hue_order=order,
            palette="colorblind",
            s=9,
            lw=0,
            ax=axis,
            legend=last,
        )
        axis.set(title=modality, xticks=[], yticks=[], xlabel="", ylabel="")
    sns.move_legend(axis, "center left", bbox_to_anchor=(1, 0.5), title=legend, markerscale=1.6)
    return figure
