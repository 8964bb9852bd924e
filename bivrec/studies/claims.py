"""The paper's claims as paired tests."""

import numpy as np
import pandas as pd

from bivrec.evaluation import holm, interval_table
from bivrec.experiment.runs import compare

OWN = ("bivrec", "bivrec-one-target", "pure-id", "pure-mm")

CLAIMS = [  # ours, theirs; "best": the one of its kind that the validation users choose
    ("0 it learns: above popularity", ("bivrec", "id"), ("popularity", "id")),
    ("0 it learns: above popularity", ("sasrec", "id"), ("popularity", "id")),
    ("1 BivRec's ID view is above every ID baseline", ("bivrec", "id"), ("best rival", "id")),
    ("1 BivRec's ID view is above every ID baseline", ("bivrec", "id"), ("sasrec", "id")),
    ("1 BivRec is above every baseline", ("bivrec", "best"), ("best rival", "best")),
    ("1 BivRec is above every baseline", ("bivrec", "best"), ("sasrec-fused", "both")),
    ("1 BivRec is above two views trained apart", ("bivrec", "best"), ("sasrec-sum", "both")),
    ("2 joint training lifts the ID view", ("bivrec", "id"), ("pure-id", "id")),
    (
        "2 joint training lifts the multimodal view",
        ("bivrec", "multimodal"),
        ("pure-mm", "multimodal"),
    ),
    ("4 features lift the baselines", ("sasrec-fused", "both"), ("sasrec", "id")),
    ("4 features lift the baselines", ("gru4rec-fused", "both"), ("gru4rec", "id")),
    ("4 features lift the baselines", ("comirec-sa-fused", "both"), ("comirec-sa", "id")),
    (
        "ours: every position teaches more than one target",
        ("bivrec", "both"),
        ("bivrec-one-target", "both"),
    ),
]


def chosen_by_validation(scores: pd.Series, pair: tuple[str, str]) -> tuple[str, str]:
    """The (model, view) that a pair of `CLAIMS` names, "best" being read from validation means indexed by (model, view)."""
    model, view = pair
    fit = [
        key
        for key in scores.index
        if (key[0] not in OWN if model == "best rival" else key[0] == model)
        and view in ("best", key[1])
    ]
    return max(fit, key=scores.get) if fit else pair


def check_claims(
    runs: pd.DataFrame, ranks: pd.DataFrame, further: pd.DataFrame, metric: str
) -> pd.DataFrame:
    """What of the paper's claims can be checked, each a paired test over the same users, Holm-adjusted over all of the table:
    *holds* or *fails* where the adjusted p is below 0.05, else *open*. `further` holds the studies' own tests."""
    rows = []
    judged = runs[
        (runs["study"] == "training") & (runs["split"] == "validation") & (runs["metric"] == metric)
    ]
    for name, part in ranks.groupby("dataset", sort=False):
        scores = judged[judged["dataset"] == name].groupby(["model", "view"])["value"].mean()
        present, means = (
            set(zip(part["model"], part["view"])),
            interval_table(part, metric, ["model", "view"]).set_index(["model", "view"])["mean"],
        )
        for claim, *pairs in CLAIMS:
            ours, theirs = (chosen_by_validation(scores, pair) for pair in pairs)
            if {ours, theirs} <= present:
                test = compare(part, ours, theirs, metric)
                rows.append(
                    {
                        "claim": claim,
                        "dataset": name,
                        **test,
                        "relative": test["mean"] / means[theirs],
                    }
                )
    table = pd.concat([pd.DataFrame(rows), further], ignore_index=True).drop_duplicates(
        ["claim", "dataset", "ours", "theirs"]
    )
    tests = table.drop_duplicates(same := ["dataset", "ours", "theirs", "mean", "p"])[
        same
    ]  # one pair may stand for two claims
    table = table.merge(tests.assign(**{"adjusted p": holm(tests["p"].to_numpy())}), on=same)
    told = np.where(table["mean"] > 0, "holds", "fails")
    table["verdict"] = np.where(table["adjusted p"] < 0.05, told, "open")
    return table.sort_values(["claim", "dataset"], kind="stable").reset_index(drop=True)
