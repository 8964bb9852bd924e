"""Rows of runs.csv."""

from bivrec.experiment.runs import RUN_COLUMNS, rank_models, to_runs
from bivrec.experiment.training import train_models


def test_runs_have_their_columns(planted):
    runs = to_runs(planted, "training", rank_models(planted, train_models(planted, ["popularity"])))
    assert list(runs.columns) == RUN_COLUMNS and not runs.duplicated(RUN_COLUMNS[:-1]).any()
    assert {"ndcg@20", "recall@20", "hr@10", "comirec_ndcg@20"} <= set(runs["metric"])
    counts = runs.loc[runs["metric"] == "users", "value"]
    assert counts.tolist() == [len(planted.fold(0).test)]
