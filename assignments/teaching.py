"""What the assignments share: the planted data, the figures, and a guard for figures that need a task solved first."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from bivrec.data.domain import Domain
from bivrec.plots.style import COLOURS, set_theme

torch.set_num_threads(1)
set_theme()
BLUE, ORANGE, GREEN, PURPLE = (
    COLOURS[name] for name in ("bivrec", "sasrec", "pure-mm", "sasrec-sum")
)


def planted() -> Domain:
    """The generated data: 160 users, 120 items of 6 kinds, every kind known."""
    return Domain("planted")


def solved(*values) -> bool:
    """Whether all values are there; else says what a figure waits for."""
    if any(value is None or value is ... for value in values):
        print("This cell waits for the task above.")
        return False
    return True


def numbers(values):
    """A tensor, array or list as an array to draw."""
    return (
        values.detach().numpy()
        if isinstance(values, torch.Tensor)
        else np.array([float(value) for value in values])
        if np.ndim(values) < 2
        else np.array(values)
    )


def heat_maps(panels, xlabel="key", ylabel="query", largest=None):
    """Matrices side by side, a panel each."""
    figure, axes = plt.subplots(1, len(panels), figsize=(2.9 * len(panels), 2.7), squeeze=False)
    for axis, (title, values) in zip(axes[0], panels.items()):
        image = axis.imshow(numbers(values), cmap="Blues", vmin=0, vmax=largest, aspect="auto")
        axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axis.grid(False)
        axis.locator_params(integer=True)
        figure.colorbar(image, ax=axis, shrink=0.7)
    plt.show()


def lines(x, series, xlabel, ylabel, log=False):
    """Curves over x, one a name."""
    figure, axis = plt.subplots(figsize=(5.4, 3))
    for (name, values), colour in zip(
        series.items(), (BLUE, ORANGE, GREEN, PURPLE, "#7f7f7f", "#111111")
    ):
        axis.plot(x, numbers(values), marker="o", ms=4, color=colour, label=name)
    axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log else "linear")
    if log:
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.minorticks_off()
    axis.legend()
    plt.show()


def bars(names, values, ylabel):
    """A bar a name."""
    figure, axis = plt.subplots(figsize=(1.2 + 0.9 * len(names), 2.8))
    axis.bar(names, [float(value) for value in values], color=BLUE)
    axis.set(ylabel=ylabel)
    plt.show()
