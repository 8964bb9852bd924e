"""Figures of a dataset that may not be part of the project, after its stages 03 and 04.

Writes main.csv, claims.csv, structure.csv and runs.csv from build/ to the dataset's folder here, and
their tables into its README.md. With several checkouts, in which the stages trained models with
other seeds, BUILD is the folder build/ of each, this one's first.

    python benchmarks/private.py amazon-baby [BUILD ...]
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from record import HERE, fill

from bivrec.data.domain import Domain
from bivrec.evaluation import holm
from bivrec.outputs import read_output
from bivrec.settings import project_root
from bivrec.studies.claims import assign_verdicts, check_claims
from bivrec.studies.report import (
    claims_table,
    main_table,
    side_by_side_table,
    structure_table,
    to_markdown,
)

STAGES = "03_training", "04_ablations"
LOOKS = 2  # times that these users were tested with the present settings: docs/confirmatory.md
PAIR = ["claim", "dataset", "ours", "theirs"]


def read(build: Path, dataset: str, name: str, stages: tuple[str, ...] = STAGES) -> pd.DataFrame:
    """A table of a build folder, of all stages that wrote it, with the column dataset."""
    paths = [build / stage / dataset / name for stage in stages]
    tables = [pd.read_csv(path) for path in paths if path.is_file()]
    return pd.concat(tables, ignore_index=True).assign(dataset=dataset)


def confirmatory(runs: pd.DataFrame, ranks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The confirmatory claims whose models are among the ranks."""
    claims = check_claims(runs, ranks, pd.DataFrame(), metric)
    return claims[claims["family"] == "confirmatory"]


def combine_tests(first: pd.DataFrame, both: pd.DataFrame) -> pd.DataFrame:
    """The tests on all trainings of a model where both models have as many, the others on the
    first; adjusted together, and for each look at the users."""
    order = pd.MultiIndex.from_frame(first[PAIR])
    claims = pd.concat([both, first]).drop_duplicates(PAIR).set_index(PAIR).loc[order].reset_index()
    claims["adjusted p"] = np.minimum(1, LOOKS * holm(claims["p"].to_numpy()))
    return claims.assign(verdict=assign_verdicts(claims))


def main(dataset: str, *builds: Path) -> None:
    metric = Domain(dataset).settings.studies.primary_metric
    runs = pd.concat(read(build, dataset, "runs.csv", STAGES[:1]) for build in builds)
    means = pd.concat(read(build, dataset, "ranks.csv", STAGES[:1]) for build in builds)
    variants = pd.concat(read(build, dataset, "variants.csv") for build in builds)
    ranks = pd.concat([means, variants]).drop_duplicates(["model", "view", "seed", "user", "item"])
    seeds = ranks.groupby("model")["seed"].transform("nunique")
    first = ranks[ranks["seed"] < Domain(dataset).settings.split.num_folds]
    tests = [confirmatory(runs, part, metric) for part in (first, ranks[seeds == seeds.max()])]
    claims, means = combine_tests(*tests), main_table(means)
    runs = runs[runs["metric"].isin(["ndcg@20", "recall@20", "hr@20", "users"])]
    structure = read_output(STAGES[0], dataset, "structure.csv", place="results")
    structure = structure.assign(dataset=dataset)
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
    main(sys.argv[1], *map(Path, sys.argv[2:] or [project_root() / "build"]))
