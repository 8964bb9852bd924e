"""`make bench-curves`: what a training step of BivRec costs as one size grows and the others stay. Writes curves.csv and curves.png.

Each point is a process of its own, on one thread; the median of a few steps after four that are not counted.

    python benchmarks/curves.py [SIZE ...]     these sizes alone (num_items, length, ...), the others' points kept
    python benchmarks/curves.py draw           the figure alone
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from bench import HERE, MEASURES, run
from matplotlib.ticker import EngFormatter, NullFormatter

from bivrec.plots.style import COLOURS, set_theme

BASE = {"num_items": 3000, "length": 48, "model.num_interests": 2, "training.batch_size": 32}
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
NEGATIVES = {"full softmax": 0, "4,096 items drawn": 4096}
TABLES = {  # of a vector an item, held whole when a step holds most
    "full softmax": ("ID vectors", "first moments", "second moments", "multimodal vectors")
    + (
        "softmax's gradient of ID vectors",
        "of multimodal vectors",
        "mutual learning's gradient of ID vectors",
        "of multimodal vectors",
    ),
    "4,096 items drawn": (
        "ID vectors",
        "first moments",
        "second moments",
        "gradient of ID vectors",
    ),
}
DIM, FEATURES = 64, [32, 32]


def point(sizes: dict, num_negatives: int) -> dict:
    length = -(-sizes["length"] // 4) * 4
    changes = {key: value for key, value in sizes.items() if "." in key} | {
        "training.num_negatives": num_negatives,
        "training.precision": "auto",
    }
    even = {"num_items": sizes["num_items"], "length": length + 1}
    MEASURES["point"] = (
        "ours",
        "train",
        "none",
        {
            "model": "bivrec",
            "max_length": length,
            "batch_size": sizes["training.batch_size"],
            "steps": 5,
            "even": even | {"features": FEATURES},
            "changes": changes,
            "runner": True,
        },
    )
    return run("point")


def tables_mb(num_items: int, softmax: str) -> float:
    """The items' vectors and what training keeps beside them, float32, with the features of text and image."""
    return num_items * 4 * (len(TABLES[softmax]) * DIM + sum(FEATURES)) / 2**20


def main(sizes: list[str]) -> None:
    rows = []
    for size, values in ((size, GROWING[size]) for size in sizes or GROWING):
        for name, num_negatives in (
            NEGATIVES.items() if size == "num_items" else [("full softmax", 0)]
        ):
            for value in values:
                if not num_negatives or num_negatives < value:
                    found = point(BASE | {size: value}, num_negatives)
                    rows.append(
                        (
                            size,
                            name,
                            value,
                            found["step_ms_median"],
                            found["rss_mb"],
                            tables_mb((BASE | {size: value})["num_items"], name),
                            found["torch"],
                        )
                    )
                    print(rows[-1], flush=True)
    table = pd.DataFrame(
        rows, columns=["size", "softmax", "value", "step_ms", "rss_mb", "tables_mb", "torch"]
    )
    if sizes:
        known = pd.read_csv(HERE / "curves.csv")
        table = pd.concat([table, known[~known["size"].isin(sizes)]]).sort_values(
            "size", key=lambda names: names.map(list(GROWING).index), kind="stable"
        )
    table.to_csv(HERE / "curves.csv", index=False, float_format="%.1f")
    draw(table)


def draw(table: pd.DataFrame) -> None:
    """A panel a size: the step's milliseconds, and its memory below, dotted: without the items' tables; the grey line is linear growth."""
    set_theme()
    figure, axes = plt.subplots(2, len(GROWING), figsize=(3 * len(GROWING), 5), sharey="row")
    colours = [COLOURS["bivrec"], COLOURS["sasrec"]]
    for (size, part), column in zip(table.groupby("size", sort=False), axes.T):
        for axis, figure_of, label in zip(
            column, ("step_ms", "rss_mb"), ("step, ms", "peak memory, MB")
        ):
            sns.lineplot(
                part,
                x="value",
                y=figure_of,
                hue="softmax",
                palette=colours[: part["softmax"].nunique()],
                marker="o",
                ax=axis,
            )
            axis.set(xscale="log", yscale="log", xlabel=NAMES[size], ylabel=label)
            axis.set_xticks(GROWING[size], [EngFormatter(sep="")(value) for value in GROWING[size]])
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.legend(
                fontsize=8
            ) if size == "num_items" and figure_of == "step_ms" else axis.get_legend().remove()
        ends = np.array([part["value"].min(), part["value"].max()])
        if size == "num_items":
            for (_, one), colour in zip(part.groupby("softmax", sort=False), colours):
                column[1].plot(
                    one["value"],
                    one["rss_mb"] - one["tables_mb"],
                    color=colour,
                    ls=":",
                    marker=".",
                    label="without the items' tables",
                )
            column[1].legend(
                *(part[-2:-1] for part in column[1].get_legend_handles_labels()), fontsize=8
            )
        column[0].plot(
            ends, part["step_ms"].max() * ends / ends[1], color="#9a9a9a", lw=0.8, ls="--", zorder=0
        )
    figure.savefig(HERE / "curves.png", metadata={"Software": None})


if __name__ == "__main__":
    draw(pd.read_csv(HERE / "curves.csv")) if sys.argv[1:] == ["draw"] else main(sys.argv[1:])
