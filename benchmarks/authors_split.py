"""The paper's Baby in the authors' own split and protocol: users given, histories not masked.

The column `split` of raw/amazon-baby/interactions.csv names each user's part; of the validation and
test users the first 80 % of a history predicts the rest. Items of the same day stay in the file's
order. Stages 01 and 02 must have run. Writes authors_split.csv and its table in README.md to the
dataset's folder here.

    python benchmarks/authors_split.py SEED...
"""

import sys
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from record import HERE, fill

from bivrec.data.domain import Domain
from bivrec.data.sequences import build_sequences
from bivrec.data.types import EvalCases, Fold
from bivrec.evaluation import mean_metrics, rank_cases
from bivrec.experiment.registry import build_model
from bivrec.settings import project_root, vary
from bivrec.studies.report import to_markdown
from bivrec.training.loop import fit
from bivrec.training.seeds import derive_seed

NAME, FOLDER = "amazon-baby", HERE / "amazon-baby"
PROTOCOL = {"split.ties": "file", "split.mask_history": False}
MODELS = (
    "popularity",
    "itemknn-recency",
    "bivrec",
    "without-cross-view-learning",
    "pure-id",
    "pure-mm",
    "sasrec-fused",
    "sasrec-sum",
)
SHOWN = ("recall@20", "ndcg@20", "comirec_ndcg@20", "hr@20")


class GivenUsers(Domain):
    """The dataset with the users of each part as published."""

    @cached_property
    def sequences(self):
        return build_sequences(self.raw, self.settings.split, self.name)

    def fold(self, seed: int) -> Fold:
        path = project_root() / "raw" / NAME / "interactions.csv"
        part = pd.read_csv(path).groupby("user")["split"].first()
        part = part.loc[self.sequences.users].to_numpy()
        trains = np.flatnonzero(part == "train")
        rows = tuple(self.sequences.of(user) for user in trains)
        return Fold(rows, trains, self.cases(part == "valid"), self.cases(part == "test"))

    def cases(self, chosen: np.ndarray) -> EvalCases:
        users, split = np.flatnonzero(chosen), self.settings.split
        rows = [self.sequences.of(user) for user in users]
        cuts = [int(split.history_share * len(row)) for row in rows]
        histories = tuple(row[:cut] for row, cut in zip(rows, cuts))
        targets = tuple(row[cut:] for row, cut in zip(rows, cuts))
        return EvalCases(users, histories, targets, split.mask_history)


def measure(domain: Domain, name: str, seed: int) -> pd.DataFrame:
    """Metrics of the test users by view; the validation users choose the step."""
    settings = vary(domain.settings, domain.variant(name), name)
    fold, model = domain.fold(seed), build_model(domain, name, seed)
    if isinstance(model, torch.nn.Module):
        torch.manual_seed(derive_seed(seed, name, "noise"))
        batches = derive_seed(seed, "batches")
        fit(model, fold, settings.training, batches, settings.studies.primary_metric)
    table = mean_metrics(rank_cases(model, fold.test), (20, 50))
    return table.assign(model=name, seed=seed)


def write_table() -> None:
    table = pd.read_csv(FOLDER / "authors_split.csv")
    means = table.pivot_table("value", ["model", "view"], "metric", "mean")[[*SHOWN]]
    means["seeds"] = table.groupby(["model", "view"])["seed"].nunique()
    means = means.sort_values("ndcg@20", ascending=False).reset_index()
    means[[*SHOWN]] = means[[*SHOWN]].map("{:.4f}".format)
    fill("authors_split", [to_markdown(means)], FOLDER / "README.md")


def main(seeds: list[int]) -> None:
    domain, tables = GivenUsers(NAME, PROTOCOL), []
    for seed in seeds:
        for name in MODELS:
            tables.append(measure(domain, name, seed))
            whole = pd.concat(tables, ignore_index=True)
            whole.to_csv(FOLDER / "authors_split.csv", index=False, float_format="%.6f")
            print(name, seed, flush=True)
    write_table()


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]])
