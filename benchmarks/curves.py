"""`make bench-curves`: what a step of BivRec costs as one size grows.

The other sizes stay. Each point is a process of its own, on one thread; the median of a few steps
after two that do not count. Writes curves.csv after each curve, and curves.png.

    python benchmarks/curves.py [SIZE ...]     only these sizes (num_items, length, ...)
    python benchmarks/curves.py draw           the figure alone
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from bench import MEASURES, run
from matplotlib.ticker import EngFormatter, NullFormatter
from record import HERE

from bivrec.outputs import write_atomically
from bivrec.plots.style import COLOURS, set_theme

BASE = {
    "num_items": 3000,
    "length": 48,
    "model.num_interests": 2,
    "model.num_nearest": 1,
    "model.newest": "all",
    "training.batch_size": 32,
}
GROWING = {
    "num_items": [3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000],
    "length": [20, 48, 100, 200, 500],
    "model.num_interests": [1, 2, 4, 8],
    "training.batch_size": [8, 32, 128, 512],
}
NAMES = {
    "num_items": "items",
    "length": "items in a history",
    "model.num_interests": "interests",
    "training.batch_size": "rows a step",
}
NEGATIVES = {"full softmax": 0, "4,096 negatives": 4096}
IN_BOTH = ("ID vectors", "first moments", "second moments", "multimodal vectors")
TABLES = {  # a vector per item each, held when a step holds most
    "full softmax": (
        *IN_BOTH,
        "softmax's gradient of ID vectors",
        "of multimodal vectors",
        "mutual learning's gradient of ID vectors",
        "of multimodal vectors",
    ),
    "4,096 negatives": (*IN_BOTH, "gradient of ID vectors", "of multimodal vectors"),
}
DIM, FEATURES = 64, (32, 32)
PALETTE = [COLOURS["bivrec"], COLOURS["sasrec"]]


def measure(sizes: dict, num_negatives: int) -> dict:
    """One point, in a process of its own."""
    length = -(-sizes["length"] // 4) * 4  # a multiple of the largest scale
    changes = {key: value for key, value in sizes.items() if "." in key}
    MEASURES["point"] = (
        "ours",
        "train",
        "none",
        {
            "model": "bivrec",
            "max_length": length,
            "batch_size": sizes["training.batch_size"],
            "steps": 5,
            "even": {"num_items": sizes["num_items"], "length": length + 1, "features": FEATURES},
            "changes": changes | {"training.num_negatives": num_negatives},
            "runner": True,
        },
    )
    return run("point")


def tables_mb(num_items: int, softmax: str) -> float:
    """The tables of items, float32, and the features of text and image."""
    return num_items * 4 * (len(TABLES[softmax]) * DIM + sum(FEATURES)) / 2**20


def measure_curve(size: str, softmax: str) -> list[dict]:
    rows = []
    for value in GROWING[size]:
        sizes, num_negatives = BASE | {size: value}, NEGATIVES[softmax]
        if num_negatives and num_negatives >= sizes["num_items"]:
            continue
        figures = measure(sizes, num_negatives)
        row = {"size": size, "softmax": softmax, "value": value}
        row |= {"step_ms": figures["step_ms_median"], "rss_mb": figures["rss_mb"]}
        row |= {"tables_mb": tables_mb(sizes["num_items"], softmax), "torch": figures["torch"]}
        print(row, flush=True)
        rows.append(row)
    return rows


def record_curve(rows: list[dict]) -> pd.DataFrame:
    """The table of curves.csv with this curve in place of its earlier rows, written."""
    table, path = pd.DataFrame(rows), HERE / "curves.csv"
    if path.is_file():
        known = pd.read_csv(path)
        earlier = known["size"].eq(rows[0]["size"]) & known["softmax"].eq(rows[0]["softmax"])
        table = pd.concat([known[~earlier], table])
    order = [*GROWING, *NEGATIVES].index
    table = table.sort_values(
        ["size", "softmax"], key=lambda x: x.map(order), kind="stable", ignore_index=True
    )
    write_atomically(path, table.to_csv(index=False, float_format="%.1f"))
    return table


def main(sizes: list[str]) -> None:
    for size in sizes or GROWING:
        for softmax in NEGATIVES if size == "num_items" else ["full softmax"]:
            table = record_curve(measure_curve(size, softmax))
    draw(table)


def draw(table: pd.DataFrame) -> None:
    """A column a size: a step's milliseconds (dashed: linear growth) and its peak memory."""
    set_theme()
    figure, axes = plt.subplots(2, len(GROWING), figsize=(3 * len(GROWING), 5), sharey="row")
    labels = {"step_ms": "step, ms", "rss_mb": "peak memory, MB"}
    for (size, part), column in zip(table.groupby("size", sort=False), axes.T):
        for axis, name in zip(column, labels):
            draw_curve(axis, part, size, name, labels[name])
        if size == "num_items":
            draw_without_tables(column[1], part)
            column[0].legend(fontsize=8)
        ends = np.array([part["value"].min(), part["value"].max()])
        linear = part["step_ms"].max() * ends / ends[1]
        column[0].plot(ends, linear, color="#9a9a9a", lw=0.8, ls="--", zorder=0)
    figure.savefig(HERE / "curves.png", metadata={"Software": None})


def draw_curve(axis: plt.Axes, part: pd.DataFrame, size: str, name: str, label: str) -> None:
    palette = PALETTE[: part["softmax"].nunique()]
    sns.lineplot(part, x="value", y=name, hue="softmax", palette=palette, marker="o", ax=axis)
    axis.set(xscale="log", yscale="log", xlabel=NAMES[size], ylabel=label)
    axis.set_xticks(GROWING[size], [EngFormatter(sep="")(value) for value in GROWING[size]])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.get_legend().remove()


def draw_without_tables(axis: plt.Axes, part: pd.DataFrame) -> None:
    """Dotted: the memory less the tables of items."""
    for (_, one), colour in zip(part.groupby("softmax", sort=False), PALETTE):
        memory = one["rss_mb"] - one["tables_mb"]
        style = {"color": colour, "ls": ":", "marker": ".", "label": "without the item tables"}
        axis.plot(one["value"], memory, **style)
    axis.legend(*(entries[-2:-1] for entries in axis.get_legend_handles_labels()), fontsize=8)


if __name__ == "__main__":
    draw(pd.read_csv(HERE / "curves.csv")) if sys.argv[1:] == ["draw"] else main(sys.argv[1:])
