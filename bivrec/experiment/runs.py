"""Ranks, runs and paired comparisons."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bivrec.data.domain import Domain
from bivrec.evaluation import paired_test, rank_cases, user_metrics
from bivrec.experiment.registry import Trained
from bivrec.outputs import progress

RUN_COLUMNS = [
    "profile",
    "dataset",
    "protocol",
    "study",
    "condition",
    "model",
    "view",
    "seed",
    "split",
    "metric",
    "value",
]


def learning_curves(models: Sequence[Trained]) -> pd.DataFrame:
    """Loss and validation metrics by step, of every model that was trained by gradients here."""
    return pd.concat(
        [t.record.curve.assign(model=t.name, seed=t.seed) for t in models if t.record],
        ignore_index=True,
    )


def rank_models(
    domain: Domain, models: Sequence[Trained], split: str = "test", **labels: str
) -> pd.DataFrame:
    """The ranks of every target of the split's users, by model, seed and view, with further labels as columns."""
    tables = []
    for trained in progress(models, "ranking", "models"):
        ranks = rank_cases(trained.model, getattr(domain.fold(trained.seed), split))
        tables.append(ranks.assign(model=trained.name, seed=trained.seed, split=split, **labels))
    return pd.concat(tables, ignore_index=True)


def to_runs(domain: Domain, study: str, ranks: pd.DataFrame) -> pd.DataFrame:
    """Means over users in the columns of runs.csv; `condition` is empty unless the ranks carry one."""
    ranks = ranks if "condition" in ranks else ranks.assign(condition="")
    keys = ["condition", "model", "view", "seed", "split"]
    table = user_metrics(ranks)
    names = [name for name in table.columns if "@" in name]
    table = (
        table.groupby(keys, sort=True)[names]
        .mean()
        .reset_index()
        .melt(keys, var_name="metric", value_name="value")
    )
    table = table.assign(
        profile=domain.profile,
        dataset=domain.name,
        protocol=domain.settings.split.protocol,
        study=study,
    )
    return table[RUN_COLUMNS].sort_values(RUN_COLUMNS[:-1]).reset_index(drop=True)


def compare(
    ranks: pd.DataFrame, ours: tuple[str, str], theirs: tuple[str, str], metric: str
) -> dict[str, Any]:
    """The paired test of two (model, view) pairs over the same users."""
    users = user_metrics(ranks)
    tables = [
        users[(users["model"] == model) & (users["view"] == view)][["seed", "user", metric]]
        for model, view in (ours, theirs)
    ]
    return {
        "ours": " ".join(ours),
        "theirs": " ".join(theirs),
        "metric": metric,
        **paired_test(*tables, metric),
    }
