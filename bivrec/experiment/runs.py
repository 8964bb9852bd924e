"""Ranks of trained models, their metrics as rows of runs.csv, and paired comparisons."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bivrec.data.domain import Domain
from bivrec.data.splits import split_sequences
from bivrec.errors import LeftOut
from bivrec.evaluation import mean_over_users, paired_test, rank_cases, units_of, user_metrics
from bivrec.experiment.registry import Trained
from bivrec.outputs import progress

RUN_COLUMNS = "profile dataset protocol study condition model view seed split metric value".split()

COMPARED = "ours theirs metric mean low high p detectable users".split()

CURVE_COLUMNS = "step loss seconds targets view metric value model seed".split()


def require_both_views(*domains: Domain) -> None:
    """Raises LeftOut for a domain on which BivRec has one view: most studies compare the two."""
    for domain in domains:
        settings = domain.settings
        if len(settings.model.views) < 2:
            problem = f"{domain.name}: model.views is {list(settings.model.views)}"
            if not settings.features.modalities:
                problem = f"{domain.name}: no features are read, so BivRec has its ID view alone"
            raise LeftOut(f"{problem}, and this study compares its two views")


def learning_curves(models: Sequence[Trained]) -> pd.DataFrame:
    """Loss and validation metrics by step, of every model that was trained by gradients here;
    without any, a table without rows."""
    curves = [t.record.curve.assign(model=t.name, seed=t.seed) for t in models if t.record]
    if not curves:
        return pd.DataFrame(columns=CURVE_COLUMNS)
    return pd.concat(curves, ignore_index=True)


def rank_models(
    domain: Domain,
    models: Sequence[Trained],
    split: str = "test",
    lists: list[pd.DataFrame] | None = None,
    **labels: str,
) -> pd.DataFrame:
    """Ranks of the split's targets by model, seed and view; `labels` are further columns.
    Appends the users' lists to `lists`, if given (`rank_and_list`)."""
    tables = []
    for trained in progress(models, "ranking", "models"):
        own, run = None if lists is None else [], {"model": trained.name, "seed": trained.seed}
        ranks = rank_cases(trained.model, getattr(domain.fold(trained.seed), split), lists=own)
        tables.append(ranks.assign(**run, split=split, **labels))
        if own:
            lists.append(pd.concat(own).assign(**run))
    return pd.concat(tables, ignore_index=True)


def rank_and_list(domain: Domain, models: Sequence[Trained]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The ranks of the test targets (`rank_models`), and the test users' lists from the same
    scores: model, view, seed, fold, user, rank, item and interest (`evaluation.list_items`)."""
    lists: list[pd.DataFrame] = []
    ranks = rank_models(domain, models, lists=lists)
    return ranks, pd.concat(lists, ignore_index=True)


def mark_tuning_users(domain: Domain, ranks: pd.DataFrame) -> pd.DataFrame:
    """The ranks with a column tuned: whether settings were tuned on the user, who was a validation
    user of one of `tuning.seeds`."""
    settings, tuned = domain.settings, []
    for seed in settings.tuning.seeds:
        tuned += [*split_sequences(domain.sequences, settings.split, seed).validation.users]
    return ranks.assign(tuned=ranks["user"].isin(tuned))


def combined_views(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each model's combined view, or of its only view (columns model, view)."""
    combined = table["view"] == "both"
    return table[combined | ~table["model"].isin(table.loc[combined, "model"])]


def label_run(domain: Domain, study: str) -> dict[str, str]:
    """The columns of runs.csv that all rows of a study on a domain share."""
    protocol = domain.settings.split.protocol
    return {"profile": domain.profile, "dataset": domain.name, "protocol": protocol, "study": study}


def to_runs(domain: Domain, study: str, ranks: pd.DataFrame) -> pd.DataFrame:
    """Means over users, and their number (metric `users`), in the columns of runs.csv; `condition`
    is empty where the ranks have none."""
    ranks = ranks if "condition" in ranks else ranks.assign(condition="")
    keys, users = ["condition", "model", "view", "seed", "split"], user_metrics(ranks)
    counts = users.groupby(keys).size().reset_index(name="value").assign(metric="users")
    table = pd.concat([mean_over_users(users, keys), counts])
    table = table.assign(**label_run(domain, study))[RUN_COLUMNS]
    return table.sort_values(RUN_COLUMNS[:-1]).reset_index(drop=True)


def compare(
    ranks: pd.DataFrame, ours: tuple[str, str], theirs: tuple[str, str], metric: str
) -> dict[str, Any]:
    """The paired test of two (model, view) pairs over the same users, in the seeds of both."""
    pair = [
        ranks[(ranks["model"] == model) & (ranks["view"] == view)] for model, view in (ours, theirs)
    ]
    seeds = set(pair[0]["seed"]).intersection(pair[1]["seed"])
    users = [user_metrics(table[table["seed"].isin(seeds)]) for table in pair]
    tables = [table[[*units_of(table), metric]] for table in users]
    names = {"ours": " ".join(ours), "theirs": " ".join(theirs), "metric": metric}
    return names | paired_test(*tables, metric)


def compare_pairs(
    ranks: pd.DataFrame, pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]], metric: str
) -> pd.DataFrame:
    """`compare` of those pairs that the ranks hold, a row each."""
    ranked = set(zip(ranks["model"], ranks["view"]))
    rows = [compare(ranks, *pair, metric) for pair in pairs if ranked.issuperset(pair)]
    numbers = dict.fromkeys(("mean", "low", "high", "p", "detectable"), float) | {"users": int}
    return pd.DataFrame(rows, columns=COMPARED).astype(numbers)
