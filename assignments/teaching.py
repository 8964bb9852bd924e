"""What the assignments share: planted data, figures, and a guard for unsolved tasks."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bivrec.data.domain import Domain
from bivrec.model.embedding import cut_patches
from bivrec.plots.style import COLOURS, set_theme

torch.set_num_threads(1)
set_theme()
BLUE, ORANGE, GREEN, PURPLE = (
    COLOURS[name] for name in ("bivrec", "sasrec", "pure-mm", "sasrec-sum")
)


def planted() -> Domain:
    """The generated data: 160 users, 120 items of 6 kinds, every kind known."""
    return Domain("planted")


def patches_by_position(
    items: Float[Tensor, "batch position dim"], scale: int
) -> Float[Tensor, "batch position dim"]:
    """The patch that ends at each position, by the package's `cut_patches`."""
    return cut_patches(items, scale).transpose(1, 2).flatten(1, 2)


def solved(*values) -> bool:
    """Whether all values exist; otherwise prints what the figure waits for."""
    if any(value is None or value is ... for value in values):
        print("This cell waits for the task above.")
        return False
    return True


def to_array(values) -> np.ndarray:
    """A tensor, an array or a list as an array for a figure."""
    if isinstance(values, torch.Tensor):
        return values.detach().numpy()
    if np.ndim(values) < 2:
        return np.array([float(value) for value in values])
    return np.array(values)


def heat_maps(panels, xlabel="key", ylabel="query", largest=None):
    """One panel per named matrix."""
    figure, axes = plt.subplots(1, len(panels), figsize=(2.9 * len(panels), 2.7), squeeze=False)
    for axis, (title, values) in zip(axes[0], panels.items()):
        image = axis.imshow(to_array(values), cmap="Blues", vmin=0, vmax=largest, aspect="auto")
        axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axis.grid(False)
        axis.locator_params(integer=True)
        figure.colorbar(image, ax=axis, shrink=0.7)
    plt.show()


def lines(x, series, xlabel, ylabel, log=False):
    """One curve over x per named series."""
    figure, axis = plt.subplots(figsize=(5.4, 3))
    colours = (BLUE, ORANGE, GREEN, PURPLE, "#7f7f7f", "#111111")
    for (name, values), colour in zip(series.items(), colours):
        axis.plot(x, to_array(values), marker="o", ms=4, color=colour, label=name)
    axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log else "linear")
    if log:
        axis.set_xticks(x, [f"{value:g}" for value in x])
        axis.minorticks_off()
    axis.legend()
    plt.show()


def bars(names, values, ylabel):
    """One bar per name."""
    figure, axis = plt.subplots(figsize=(1.2 + 0.9 * len(names), 2.8))
    axis.bar(names, [float(value) for value in values], color=BLUE)
    axis.set(ylabel=ylabel)
    plt.show()
