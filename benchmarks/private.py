"""Figures of a dataset that may not be part of the project, after its stages 03 and 04.

Writes main.csv, claims.csv, structure.csv and runs.csv from build/ to the dataset's folder here, and
their tables into its README.md.

    python benchmarks/private.py amazon-baby
"""

import sys

import pandas as pd
from record import HERE, fill

from bivrec.data.domain import Domain
from bivrec.outputs import read_output
from bivrec.studies.claims import assign_verdicts, check_claims
from bivrec.studies.report import (
    claims_table,
    main_table,
    side_by_side_table,
    structure_table,
    to_markdown,
)

LOOKS = 2  # times that these users were tested with the present settings: docs/confirmatory.md


def read(stage: str, dataset: str, name: str, place: str = "build") -> pd.DataFrame:
    """An output of a stage, with the column dataset."""
    return read_output(stage, dataset, name, place=place).assign(dataset=dataset)


def main(dataset: str) -> None:
    metric = Domain(dataset).settings.studies.primary_metric
    stages = "03_training", "04_ablations"
    ranks, runs = read(stages[0], dataset, "ranks.csv"), read(stages[0], dataset, "runs.csv")
    variants = [read(stage, dataset, "variants.csv") for stage in stages]
    compared = pd.concat([ranks, *variants]).drop_duplicates(ignore_index=True)
    claims = check_claims(runs, compared, pd.DataFrame(), metric)
    claims = claims[claims["family"] == "confirmatory"].copy()
    claims["adjusted p"] = (LOOKS * claims["adjusted p"]).clip(upper=1)
    claims["verdict"] = assign_verdicts(claims)
    means = main_table(ranks)
    runs = runs[runs["metric"].isin(["ndcg@20", "recall@20", "hr@20", "users"])]
    structure = read(stages[0], dataset, "structure.csv", "results")
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
