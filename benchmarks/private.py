"""Figures of a dataset that may not be part of the project, after its stages 03 and 04.

Before stage 04 has run, its tests count in Holm's adjustment with p = 1.

Writes main.csv, claims.csv, structure.csv and runs.csv from build/ to the dataset's folder here, and
their tables into its README.md.

    python benchmarks/private.py amazon-baby
"""

import sys

import numpy as np
import pandas as pd
from record import HERE, fill

from bivrec.data.domain import Domain
from bivrec.errors import SettingsError
from bivrec.evaluation import holm
from bivrec.outputs import read_output
from bivrec.studies.claims import CONFIRMATORY, check_claims, judge
from bivrec.studies.report import (
    claims_table,
    main_table,
    side_by_side_table,
    structure_table,
    to_markdown,
)


def read(stage: str, dataset: str, name: str, place: str = "build") -> pd.DataFrame:
    """An output of a stage, with the column dataset."""
    return read_output(stage, dataset, name, place=place).assign(dataset=dataset)


def read_variants(dataset: str) -> pd.DataFrame:
    """Ranks of the variants of both stages."""
    variants = read("03_training", dataset, "variants.csv")
    try:
        return pd.concat([variants, read("04_ablations", dataset, "variants.csv")])
    except SettingsError as missing:
        print(missing)
        return variants


def test_claims(dataset: str, runs: pd.DataFrame, ranks: pd.DataFrame) -> pd.DataFrame:
    """The dataset's confirmatory family."""
    compared = pd.concat([ranks, read_variants(dataset)]).drop_duplicates(ignore_index=True)
    metric = Domain(dataset).settings.studies.primary_metric
    claims = check_claims(runs, compared, pd.DataFrame(), metric)
    claims = claims[claims["family"] == "confirmatory"].copy()
    missing = np.ones(len(CONFIRMATORY) - len(claims))
    claims["adjusted p"] = holm(np.concatenate([claims["p"], missing]))[: len(claims)]
    return claims.assign(verdict=judge(claims))


def main(dataset: str) -> None:
    ranks, runs = (read("03_training", dataset, name) for name in ("ranks.csv", "runs.csv"))
    claims, means = test_claims(dataset, runs, ranks), main_table(ranks)
    runs = runs[runs["metric"].isin(["ndcg@20", "recall@20", "hr@20", "users"])]
    structure = read("03_training", dataset, "structure.csv", "results")
    tables = {"main": means, "claims": claims, "structure": structure, "runs": runs}
    folder = HERE / dataset
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6f")
    shown = {
        "main": side_by_side_table(means),
        "claims": claims_table(claims),
        "structure": structure_table(structure),
    }
    for name, table in shown.items():
        fill(name, [to_markdown(table)], folder / "README.md")


if __name__ == "__main__":
    main(sys.argv[1])
