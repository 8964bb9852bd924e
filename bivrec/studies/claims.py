"""The paper's claims as paired tests."""

import numpy as np
import pandas as pd

from bivrec.evaluation import holm, interval_table
from bivrec.experiment.runs import COMPARED, compare

Pair = tuple[str, str]  # a model and one of its views

BIVREC_VARIANTS = ("bivrec", "bivrec-one-target", "bivrec-paper", "pure-id", "pure-mm")

# What is claimed, of which pair, against which. The validation users choose where the model is
# "best baseline" (any but BIVREC_VARIANTS) or the view is "best".
CLAIMS: list[tuple[str, Pair, Pair]] = [
    ("0 it learns: above popularity", ("bivrec", "id"), ("popularity", "id")),
    ("0 it learns: above popularity", ("sasrec", "id"), ("popularity", "id")),
    ("1 BivRec's ID view is above every ID baseline", ("bivrec", "id"), ("best baseline", "id")),
    ("1 BivRec's ID view is above every ID baseline", ("bivrec", "id"), ("sasrec", "id")),
    ("1 BivRec is above every baseline", ("bivrec", "best"), ("best baseline", "best")),
    ("1 BivRec is above every baseline", ("bivrec", "best"), ("sasrec-fused", "both")),
    ("1 BivRec is above two views trained separately", ("bivrec", "best"), ("sasrec-sum", "both")),
    ("2 joint training lifts the ID view", ("bivrec", "id"), ("pure-id", "id")),
    ("2 joint training lifts the multimodal view",
     ("bivrec", "multimodal"), ("pure-mm", "multimodal")),
    ("4 features lift the baselines", ("sasrec-fused", "both"), ("sasrec", "id")),
    ("4 features lift the baselines", ("gru4rec-fused", "both"), ("gru4rec", "id")),
    ("4 features lift the baselines", ("comirec-sa-fused", "both"), ("comirec-sa", "id")),
    ("ours: every position teaches more than one target",
     ("bivrec", "both"), ("bivrec-one-target", "both")),
    ("ours: our additions lift the paper's parts", ("bivrec", "both"), ("bivrec-paper", "both")),
]  # fmt: skip


def chosen_by_validation(scores: pd.Series, pair: Pair) -> Pair:
    """The (model, view) that a pair of `CLAIMS` stands for.

    `scores`: validation means indexed by (model, view); the best that fits the pair is chosen."""
    model, view = pair
    candidates = [
        (name, of)
        for name, of in scores.index
        if (name not in BIVREC_VARIANTS if model == "best baseline" else name == model)
        and view in ("best", of)
    ]
    return max(candidates, key=scores.get) if candidates else pair


def _test_claims(scores: pd.Series, ranks: pd.DataFrame, metric: str, name: str) -> list[dict]:
    """The claims that one dataset's test ranks can decide."""
    means = interval_table(ranks, metric, ["model", "view"]).set_index(["model", "view"])["mean"]
    rows = []
    for claim, *pairs in CLAIMS:
        ours, theirs = (chosen_by_validation(scores, pair) for pair in pairs)
        if ours in means.index and theirs in means.index:
            test = {"claim": claim, "dataset": name, **compare(ranks, ours, theirs, metric)}
            rows.append(test | {"relative": test["mean"] / means[theirs]})
    return rows


def check_claims(
    runs: pd.DataFrame, ranks: pd.DataFrame, further: pd.DataFrame, metric: str
) -> pd.DataFrame:
    """The claims that can be checked, each a paired test over the same test users of a dataset.

    `further` holds the tests that the studies made. The p-values are Holm-adjusted over the whole
    table; the verdict is *holds* or *fails* where the adjusted p is below 0.05, else *open*."""
    judged = runs[(runs["study"] == "training") & (runs["split"] == "validation")]
    judged, rows = judged[judged["metric"] == metric], []
    for name, part in ranks.groupby("dataset", sort=False):
        scores = judged[judged["dataset"] == name].groupby(["model", "view"])["value"].mean()
        rows += _test_claims(scores, part, metric, name)
    same = ["dataset", "ours", "theirs"]
    table = pd.concat([pd.DataFrame(rows), further], ignore_index=True)
    if not len(table):
        return pd.DataFrame(columns=["claim", "dataset", *COMPARED, "adjusted p", "verdict"])
    table = table.drop_duplicates(["claim", *same])
    tests = table.drop_duplicates([*same, "mean", "p"])  # one pair may stand for two claims
    tests = tests[[*same, "mean", "p"]].assign(**{"adjusted p": holm(tests["p"].to_numpy())})
    table = table.merge(tests, on=[*same, "mean", "p"])
    verdict = np.where(table["mean"] > 0, "holds", "fails")
    table["verdict"] = np.where(table["adjusted p"] < 0.05, verdict, "open")
    return table.sort_values(["claim", "dataset"], kind="stable", ignore_index=True)
