"""What a larger budget gains when every model is tuned at it: two pages of the same data.

Writes the table of the trials that each page's search chose (tuning.csv; validation users of seed
1) to the README.md of the first.

    python benchmarks/tuned.py amazon-baby-long amazon-baby
"""

import sys

import pandas as pd
from budgets import KEYS, choose
from record import HERE, fill

from bivrec.studies.report import to_markdown

COLUMNS = {
    "training.learning_rate": "learning rate",
    "model.dropout": "dropout",
    "best_step": "best step",
    "value": "NDCG@20",
}


def read_chosen(folder: str) -> pd.DataFrame:
    """The chosen trials, by model and view."""
    trials = choose(pd.read_csv(HERE / folder / "tuning.csv"))
    return trials.set_index(KEYS)[[*COLUMNS]].rename(columns=COLUMNS)


def compare(*folders: str) -> pd.DataFrame:
    tables = {folder: read_chosen(folder) for folder in folders}
    table = pd.concat(tables, names=["page"]).reset_index()
    return table.sort_values(KEYS, kind="stable")[[*KEYS, "page", *COLUMNS.values()]]


def main(folder: str, other: str) -> None:
    table = compare(other, folder)
    table["NDCG@20"] = table["NDCG@20"].map("{:.4f}".format)
    fill("tuned", [to_markdown(table)], HERE / folder / "README.md")


if __name__ == "__main__":
    main(*sys.argv[1:])
