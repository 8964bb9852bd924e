"""Ranks and their comparison, and rows of runs.csv."""

import numpy as np
import pandas as pd
import pytest

from bivrec.experiment.runs import RUN_COLUMNS, compare, mark_tuning_users, rank_models, to_runs
from bivrec.experiment.training import train_models


def test_runs_have_their_columns(planted):
    runs = to_runs(planted, "training", rank_models(planted, train_models(planted, ["popularity"])))
    assert list(runs.columns) == RUN_COLUMNS and not runs.duplicated(RUN_COLUMNS[:-1]).any()
    assert {"ndcg@20", "recall@20", "hr@10", "comirec_ndcg@20"} <= set(runs["metric"])
    counts = runs.loc[runs["metric"] == "users", "value"]
    assert counts.tolist() == [len(planted.fold(0).test)]


def test_ranks_name_the_fold_and_the_users_on_whom_settings_were_tuned(planted):
    count, tuning = planted.settings.split.num_folds, planted.settings.tuning.seeds
    ranks = rank_models(planted, train_models(planted, ["popularity"], [1, 1 + count]))
    assert (ranks["fold"] == 1).all() and ranks["seed"].nunique() == 2
    ranks = pd.concat([ranks, ranks.assign(user=planted.fold(tuning[0]).validation.users[0])])
    users = np.concatenate([planted.fold(seed).validation.users for seed in tuning])
    tuned = mark_tuning_users(planted, ranks)["tuned"]
    assert tuned.any() and (tuned == ranks["user"].isin(users)).all()


def test_models_are_compared_in_the_seeds_of_both():
    rows = [
        (model, "id", seed, seed % 2, user, 1, 0, rank)
        for model, seeds, rank in (("a", range(4), 1), ("b", range(2), 2))
        for seed in seeds
        for user in ((0, 1, 2) if seed % 2 else (3, 4))
    ]
    names = ["model", "view", "seed", "fold", "user", "num_targets", "item", "rank"]
    found = compare(pd.DataFrame(rows, columns=names), ("a", "id"), ("b", "id"), "ndcg@10")
    assert found["users"] == 5 and found["mean"] == pytest.approx(1 - 1 / np.log2(3))
