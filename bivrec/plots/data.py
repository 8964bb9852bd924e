"""Figures of data and features."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, Int64
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy import ndarray
from PIL import Image
from sklearn.manifold import TSNE

from bivrec.plots.style import (
    COLOURS,
    INK,
    INTEREST_COLOURS,
    VIEW_NAMES,
    label_log_axis,
    label_text,
    start_panels,
)


def draw_histories(lengths: Int64[ndarray, "user"], popularity: Int64[ndarray, "item"]) -> Figure:
    """Left: the users' history lengths. Right: each item's number of interactions, in order."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.8))
    colour, median = COLOURS["bivrec"], np.median(lengths)
    bins = np.log10(_whole_bins(lengths))
    sns.histplot(lengths, log_scale=True, bins=bins, ax=left, color=colour, edgecolor="white")
    left.axvline(median, color=INK, lw=1)
    top = left.get_ylim()[1]
    left.annotate(f" median {int(median)}", (median, top * 1.03), color=INK)
    left.set_ylim(0, 1.15 * top)  # the words stand above the bars
    left.set(xlabel="items in a history", ylabel="users")
    label_log_axis(left.xaxis, StrMethodFormatter("{x:g}"))  # short histories lie below ten
    right.plot(np.arange(1, len(popularity) + 1), np.sort(popularity)[::-1], color=colour)
    right.set(xscale="log", yscale="log", xlabel="item, by popularity", ylabel="interactions")
    return figure


def _whole_bins(lengths: Int64[ndarray, "user"]) -> Float[ndarray, "edge"]:
    """Edges of bins on a logarithmic scale. Where they are narrower than one item, they move to
    the middle between whole numbers, so that no bin is empty for lack of one."""
    edges = 10 ** np.histogram_bin_edges(np.log10(lengths), "auto")
    if np.diff(edges).min() >= 1:
        return edges
    edges[[0, -1]] = lengths.min(), lengths.max() + 1
    return np.unique(np.ceil(edges)) - 0.5


def draw_images(images: Sequence[Image.Image], titles: Sequence[str], columns: int = 6) -> Figure:
    """The items' images as the encoder reads them, with their titles."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.25 * columns, 1.5 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles):
        axis.imshow(image)
        axis.set_title(label_text(title), fontsize=8)
    return figure


def project(points: Float[ndarray, "point dim"]) -> Float[ndarray, "point 2"]:
    """t-SNE of points on a plane, with a perplexity of 15 or, for fewer than 46 points, a third of
    a point's neighbours. Identical points all lie at the origin."""
    if not np.ptp(points, axis=0).any():
        return np.zeros((len(points), 2), dtype="float32")
    perplexity = max(1.0, min(15.0, (len(points) - 1) / 3))
    return TSNE(perplexity=perplexity, random_state=0).fit_transform(points)


GENRES = ("Action", "Comedy", "Drama", "Adventure", "Crime", "Animation", "Horror", "Children",
          "Documentary")  # fmt: skip


def _colour_groups(groups: Sequence[str]) -> dict[str, str]:
    """A colour for each group: a genre of GENRES has the same in every figure, others take those
    that are left."""
    colours = [to_hex(colour) for colour in sns.color_palette("colorblind")]
    grey = colours.pop(7)
    fixed = {group: colours[GENRES.index(group)] for group in groups if group in GENRES}
    free = (colour for colour in colours if colour not in fixed.values())
    return {group: fixed.get(group) or next(free) for group in groups} | {"other": grey}


def draw_features(
    points: dict[str, Float[ndarray, "item 2"]],
    groups: Sequence[str],
    legend: str,
    palette: Sequence[str] | None = None,
    direction: str = "principal component",
    num_groups: int = 7,
) -> Figure:
    """Items on a plane, a panel per modality, coloured by group: the largest ones, then others.

    A single group needs no legend. Points that are not numbers, of what is missing, stay away."""
    figure, panels = start_panels(points, 3.9, 3.1)
    groups = pd.Series([label_text(group) for group in groups])
    top = list(groups.value_counts().index[:num_groups])
    groups = groups.where(groups.isin(top), "other")
    order = [*top, "other"][: groups.nunique()]
    last = list(panels)[-1]
    for name, axis in panels.items():
        x, y = points[name][:, 0], points[name][:, -1]  # on a line if they have one number each
        look = {"palette": palette or _colour_groups(top), "s": 9, "lw": 0}
        look["legend"] = name == last and groups.nunique() > 1
        sns.scatterplot(x=x, y=y, hue=groups, hue_order=order, ax=axis, **look)
        second = "second" if points[name].shape[1] > 1 else "first"
        axis.set(title=name, xticks=[], yticks=[])
        axis.set(xlabel=f"first {direction}", ylabel=f"{second} {direction}")
    if axis.get_legend():
        sns.move_legend(axis, "center left", bbox_to_anchor=(1, 0.5), title=legend, markerscale=1.6)
    return figure


def draw_interests(interests: dict[str, Float[ndarray, "user interest dim"]]) -> Figure:
    """The users' interests on planes of t-SNE, a panel per view, coloured by interest token. Of
    many users evenly spaced ones are drawn: at most 1,000 interests, since t-SNE is slow."""
    users, num_interests, dim = next(iter(interests.values())).shape
    shown = slice(None, None, -(-users // max(1, 1000 // num_interests)))
    points = {
        VIEW_NAMES[view]: project(own[shown].reshape(-1, dim)) for view, own in interests.items()
    }
    tokens = [str(token) for _ in range(users)[shown] for token in range(num_interests)]
    palette = INTEREST_COLOURS
    if num_interests > len(palette):
        palette = sns.color_palette("husl", num_interests).as_hex()
    return draw_features(
        points, tokens, "interest", palette, "dimension of t-SNE", num_groups=num_interests
    )
