"""The paper's claims as paired tests."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from bivrec.evaluation import holm, interval_table
from bivrec.experiment.runs import COMPARED, compare

NEGLIGIBLE = 0.003  # of the primary metric: an effect that lies within these bounds does not matter

Pair = tuple[str, str]  # a model and one of its views

BIVREC_VARIANTS = ("bivrec", "bivrec-one-target", "bivrec-paper", "pure-id", "pure-mm", "pure-sum")


class Claim(NamedTuple):
    """What is claimed, of which pair, against which."""

    text: str
    ours: Pair
    theirs: Pair


# Fixed in docs/confirmatory.md before they are run
CONFIRMATORY = [
    Claim("0 it learns: above popularity", ("bivrec", "both"), ("popularity", "id")),
    Claim("1 BivRec is above fused features", ("bivrec", "both"), ("sasrec-fused", "both")),
    Claim("1 BivRec is above two views trained separately",
          ("bivrec", "both"), ("sasrec-sum", "both")),
    Claim("2 joint training lifts the ID view", ("bivrec", "id"), ("pure-id", "id")),
    Claim("2 joint training lifts the multimodal view",
          ("bivrec", "multimodal"), ("pure-mm", "multimodal")),
    Claim("2 joint training lifts both views together", ("bivrec", "both"), ("pure-sum", "both")),
    *(Claim("5 every part is needed: without-cross-view-learning",
            ("bivrec", view), ("without-cross-view-learning", view))
      for view in ("id", "multimodal", "both")),
    *(Claim(f"9 the interests matter: {control}",
            ("bivrec", "both"), (f"bivrec, {control}", "both"))
      for control in ("allocation randomised", "interests merged")),
]  # fmt: skip

# The validation users choose where the model is "best baseline" (any but BIVREC_VARIANTS) or the
# view is "best".
EXPLORATORY = [
    Claim("0 it learns: above popularity", ("bivrec", "id"), ("popularity", "id")),
    Claim("0 it learns: above popularity", ("sasrec", "id"), ("popularity", "id")),
    Claim("1 BivRec's ID view is above every ID baseline",
          ("bivrec", "id"), ("best baseline", "id")),
    Claim("1 BivRec's ID view is above every ID baseline", ("bivrec", "id"), ("sasrec", "id")),
    Claim("1 BivRec is above every baseline", ("bivrec", "best"), ("best baseline", "best")),
    Claim("4 features lift the baselines", ("sasrec-fused", "both"), ("sasrec", "id")),
    Claim("4 features lift the baselines", ("gru4rec-fused", "both"), ("gru4rec", "id")),
    Claim("4 features lift the baselines", ("comirec-sa-fused", "both"), ("comirec-sa", "id")),
    Claim("ours: every position teaches more than one target",
          ("bivrec", "both"), ("bivrec-one-target", "both")),
    Claim("ours: above bivrec-paper, which is not tuned",
          ("bivrec", "both"), ("bivrec-paper", "both")),
]  # fmt: skip

FAMILIES = {"confirmatory": CONFIRMATORY, "exploratory": EXPLORATORY}


def chosen_by_validation(scores: pd.Series, pair: Pair) -> Pair:
    """The (model, view) that a pair of `EXPLORATORY` stands for.

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
    rows, claims = [], [(family, *claim) for family in FAMILIES for claim in FAMILIES[family]]
    for family, text, *pairs in claims:
        ours, theirs = (chosen_by_validation(scores, pair) for pair in pairs)
        if ours in means.index and theirs in means.index:
            test = {"claim": text, "dataset": name, "family": family}
            test |= compare(ranks, ours, theirs, metric)
            rows.append(test | {"relative": test["mean"] / means[theirs]})
    return rows


def check_claims(
    runs: pd.DataFrame, ranks: pd.DataFrame, further: pd.DataFrame, metric: str
) -> pd.DataFrame:
    """The claims that can be checked, each a paired test over the same test users of a dataset.

    `further` holds the tests that the studies made, which are exploratory. Holm adjusts the
    p-values over all datasets, within each family."""
    validation = runs[(runs["study"] == "training") & (runs["split"] == "validation")]
    validation, rows = validation[validation["metric"] == metric], []
    for name, part in ranks.groupby("dataset", sort=False):
        scores = (
            validation[validation["dataset"] == name].groupby(["model", "view"])["value"].mean()
        )
        rows += _test_claims(scores, part, metric, name)
    table = pd.concat([pd.DataFrame(rows), further], ignore_index=True)
    if not len(table):
        columns = ["claim", "dataset", "family", *COMPARED, "relative", "adjusted p", "verdict"]
        return pd.DataFrame(columns=columns)
    table["family"] = table["family"].fillna("exploratory") if rows else "exploratory"
    table = table.drop_duplicates(["claim", "dataset", "ours", "theirs"])
    table = pd.concat([_adjust(family) for _, family in table.groupby("family")])
    table["verdict"] = assign_verdicts(table)
    keys = ["family", "claim", "dataset"]
    return table.sort_values(keys, kind="stable", ignore_index=True)


def _adjust(family: pd.DataFrame) -> pd.DataFrame:
    """The tests of a family with Holm's adjusted p; one test may stand for two claims."""
    same = ["dataset", "ours", "theirs", "mean", "p"]
    tests = family[same].drop_duplicates()
    return family.merge(tests.assign(**{"adjusted p": holm(tests["p"].to_numpy())}), on=same)


def assign_verdicts(tests: pd.DataFrame) -> np.ndarray:
    """A word for each test: *holds* or *fails* where the adjusted p is below 0.05, else
    *negligible* where the whole interval lies within `NEGLIGIBLE` of 0, else *open*."""
    decided = tests["adjusted p"] < 0.05
    small = (tests["low"] >= -NEGLIGIBLE) & (tests["high"] <= NEGLIGIBLE)
    words = {"holds": decided & (tests["mean"] > 0), "fails": decided, "negligible": small}
    return np.select(list(words.values()), list(words), "open")


def without_tuning_users(
    claims: pd.DataFrame, runs: pd.DataFrame, ranks: pd.DataFrame, metric: str
) -> pd.DataFrame:
    """The confirmatory claims of `check_claims` beside the same tests without the users on whom
    settings were tuned (column tuned of the ranks; columns that end in "without")."""
    few = check_claims(runs, ranks[~ranks["tuned"].astype(bool)], pd.DataFrame(), metric)
    keys = ["claim", "dataset", "ours", "theirs"]
    shown = ["mean", "low", "high", "users", "verdict"]
    pair = [t.loc[t["family"] == "confirmatory", [*keys, *shown]] for t in (claims, few)]
    return pair[0].merge(pair[1], "left", keys, suffixes=("", " without"))
