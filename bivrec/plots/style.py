"""Colours, labels and panels that all figures share."""

from collections.abc import Collection, Iterable
from math import log10
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from jaxtyping import Int64
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, LogLocator, NullFormatter
from numpy import ndarray

INK, GREY = "#2b2b2b", "#9a9a9a"

COLOURS = {  # distinct for colour-blind readers too
    "bivrec": "#0072B2", "bivrec-one-target": "#111111", "bivrec-paper": "#8A2BE2",
    "pure-id": "#56B4E9", "pure-mm": "#009E73",
    "sasrec": "#D55E00", "sasrec-fused": "#E69F00", "sasrec-sum": "#CC79A7",
    "gru4rec": "#0247A9", "gru4rec-fused": "#2497FD", "comirec-sa": "#79036D",
    "comirec-sa-fused": "#FCBEC7", "fdsa": "#4E3320", "nova": "#B7A94F", "dif-sr": "#6EDFF7",
    "mmmlp": "#BDDD8E", "mmsrec": "#F2D161", "itemknn": "#8c6d31", "itemknn-recency": "#6b4c12",
    "popularity": "#7f7f7f", "esasrec": "#8B1A1A", "bsarec": "#FF8A80", "unisrec": "#0B5D4E",
    "tedrec": "#9B6A2F", "pure-sum": "#007A8A",
    "shared-newest": "#E6007E", "plain-interests": "#5FA800",
}  # fmt: skip

INTEREST_COLOURS = (  # by interest; neighbours are distinct
    "#0173B2", "#DE8F05", "#029E73", "#CC78BC", "#949494", "#56B4E9", "#D55E00", "#ECE133",
    "#CA9161", "#FBAFE4",
)  # fmt: skip

VIEW_NAMES = {"id": "ID view", "multimodal": "multimodal view", "both": "both views"}

VIEW_DASHES = {"id": (1, 0), "multimodal": (4, 1.5), "both": (1, 1)}


WIDE_FONTS = (  # for titles that the theme's font has no glyphs for, in order of preference
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "Droid Sans Fallback", "Hiragino Sans", "PingFang SC", "Yu Gothic",
    "Microsoft YaHei", "Arial Unicode MS", "Unifont",
)  # fmt: skip


def set_theme() -> None:
    """The look of all figures; each notebook's first cell calls it."""
    sns.set_theme("paper", "ticks", font_scale=1.1)
    installed = set(font_manager.get_font_names())
    plt.rcParams |= {
        "font.family": ["sans-serif", *(font for font in WIDE_FONTS if font in installed)],
        "figure.dpi": 100,
        "savefig.dpi": 100,
        "figure.constrained_layout.use": True,
        "svg.hashsalt": "bivrec",  # SVG files are the same bytes each time
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": "#ececec",
        "legend.frameon": False,
    }


def label_text(text: str, width: int = 24) -> str:
    """A title or genre as a label: on one line, cut with an ellipsis to at most `width` characters.

    `$` is escaped, since matplotlib reads text between two of them as mathematics, and a leading
    `_`, which keeps a label out of a legend; characters that cannot be printed become spaces."""
    line = "".join(letter if letter.isprintable() else " " for letter in str(text))
    if len(line) > width:
        line = line[: width - 1].rstrip() + "…"
    return ("\u200b" if line.startswith("_") else "") + line.replace("$", r"\$")


def name_metric(metric: str) -> str:
    """A metric as the text writes it: NDCG@20, Recall@20, HR@20."""
    return metric.upper().replace("RECALL", "Recall")


def colour_of(model: str) -> str:
    """A model's colour, shared by its forms ("bivrec, lent"); dark grey for unknown models."""
    return COLOURS.get(model.split(",")[0], "#4d4d4d")


def shade_of(interest: int) -> str:
    """An interest's colour, light enough for dark text on it."""
    colour = to_rgb(INTEREST_COLOURS[interest % len(INTEREST_COLOURS)])
    return to_hex([0.45 * part + 0.55 for part in colour])


def label_views(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    """A label for each model and view of the table (columns model, view), in order of appearance.

    It names the view where the table has several views of the model, so labels are distinct."""
    pairs = table[["model", "view"]].drop_duplicates()
    single = ~pairs["model"].duplicated(keep=False)
    return {
        (model, view): model if alone else f"{model} ({VIEW_NAMES[view]})"
        for model, view, alone in zip(pairs["model"], pairs["view"], single)
    }


def style_views(table: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """The line of each model and view of the table: colour by model, dashes by view, label."""
    return {
        (model, view): {"color": colour_of(model), "dashes": VIEW_DASHES[view], "label": label}
        for (model, view), label in label_views(table).items()
    }


def start_panels(
    names: Iterable[str], width: float, height: float, margin: float = 0, **shared: bool
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a row of panels, by name. Inches: `width` of a panel, `height`, and `margin`
    for labels and legends beside the panels."""
    names = list(dict.fromkeys(names))
    size = (width * len(names) + margin, height)
    figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, **shared)
    return figure, dict(zip(names, axes[0]))


def label_log_axis(axis: Axis, formatter: Formatter) -> None:
    """Ticks at round numbers of a logarithmic axis on which all is drawn; the fewer decades it
    spans, the closer."""
    low, high = axis.get_view_interval()
    decades = log10(high / low)
    subs = (1,) if decades > 2 else (1, 2, 5) if decades > 1 else (1, 1.5, 2, 3, 5, 7)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())


def draw_dots(
    axis: Axes,
    table: pd.DataFrame,
    position: Int64[ndarray, "row"],
    colours: Collection[str],
    labels: Collection[str],
) -> None:
    """Each row's mean as a dot and its interval as a bar, at its position among the labels."""
    axis.hlines(position, table["low"], table["high"], color=colours, lw=2)
    axis.scatter(table["mean"], position, color=colours, s=36, clip_on=False, zorder=3)
    axis.set_yticks(range(len(labels)), labels)


def collect_labels(axes: Iterable[Axes]) -> tuple[list[Artist], list[str]]:
    """The handles and labels of a legend for all the panels, each label once."""
    labels: dict[str, Artist] = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels()):
            labels.setdefault(label, handle)
    return [*labels.values()], [*labels]


def add_legend(axis: Axes) -> None:
    """The legend, to the right of the panel: its labels, then those that only other panels of the
    figure have."""
    look = {"bbox_to_anchor": (1, 1), "loc": "upper left", "fontsize": 8}
    axis.legend(*collect_labels((axis, *axis.figure.axes)), **look)
