"""Figures of trained models."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from torch import Tensor

from bivrec.plots.style import colour_of, draw_dots, label_of, start_panels, style_of


def draw_curves(curves: pd.DataFrame, metric: str) -> Figure:
    """Training loss and validation metric by step, a line a model (and view), seeds averaged."""
    height = max(3.0, 0.2 * len(curves.drop_duplicates(["model", "view"])))
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, height), width_ratios=(1, 1.3))
    for model, line in curves.groupby("model", sort=False):
        left.plot(
            line.drop_duplicates(["seed", "step"]).groupby("step")["loss"].mean(),
            color=colour_of(model),
        )
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
        axis.plot(
            means[cost],
            means["value"],
            color=colour_of(model),
            label=model,
            lw=2.4 if model.startswith("bivrec") else 1.2,
        )
    axis.set(
        xscale="log",
        xlabel=f"{cost}, one training",
        ylabel=f"{metric.upper()}, validation users",
        ylim=(0, None),
    )
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
    figure, panels = start_panels(
        table["dataset"], 3.4, 0.32 * len(order) + 0.9, margin=2.6, sharey=True
    )
    for name, axis in panels.items():
        part = table[table["dataset"] == name].rename(columns={metric: "mean"})
        place = order.get_indexer(pd.MultiIndex.from_frame(part[["model", "view"]]))
        draw_dots(
            axis,
            part,
            place,
            [colour_of(model) for model in part["model"]],
            [label_of(*pair) for pair in order],
        )
        axis.set(title=name, xlim=(0, None), xlabel=f"{metric.upper()}, test users (95 % interval)")
    return figure


def draw_allocation(
    allocation: Float[Tensor, "scale position interest"],
    titles: Sequence[str],
    scales: Sequence[int],
) -> Figure:
    """A history's patches shared among the interests, a panel a scale; each patch is named by its newest item."""
    figure, axes = plt.subplots(
        1, len(scales), figsize=(2.2 + 1.7 * len(scales), 0.19 * len(titles) + 1.1), squeeze=False
    )
    for axis, shares, scale in zip(axes.flat, allocation, scales):
        ends = list(range((len(titles) - 1) % scale, len(titles), scale))
        image = axis.imshow(shares[ends], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_yticks(range(len(ends)), [titles[end][:24] for end in ends], fontsize=6)
        axis.set_xticks(range(shares.shape[-1]))
        axis.set(title=f"patches of {scale}", xlabel="interest")
        axis.grid(False)
    figure.colorbar(image, ax=axes, label="share of the patch", shrink=0.6)
    return figure
