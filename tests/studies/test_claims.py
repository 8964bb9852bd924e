"""The claims' table: who is compared, and when a verdict is given."""

import re

import numpy as np
import pandas as pd
import pytest

from bivrec.studies.claims import (
    CONFIRMATORY,
    assign_verdicts,
    check_claims,
    chosen_by_validation,
    without_tuning_users,
)

VALIDATION = pd.Series(
    {
        ("bivrec", "id"): 0.2,
        ("bivrec", "both"): 0.3,
        ("pure-id", "id"): 0.9,
        ("sasrec", "id"): 0.25,
        ("fdsa", "both"): 0.1,
    }
)


def test_best_is_what_the_validation_users_choose():
    assert chosen_by_validation(VALIDATION, ("bivrec", "best")) == ("bivrec", "both")
    assert chosen_by_validation(VALIDATION, ("best baseline", "best")) == (
        "sasrec",
        "id",
    )  # BivRec's own forms are no baselines
    assert chosen_by_validation(VALIDATION, ("sasrec", "id")) == ("sasrec", "id")


def ranks_of(model: str, view: str, best: int, seed: int = 0) -> pd.DataFrame:
    """Ranks of 300 users in five folds, uniform over 30 ranks from the best one; seeds agree on
    users, not on ranks."""
    users = np.arange(300)
    rows = {
        "dataset": "a",
        "model": model,
        "view": view,
        "seed": users % 5,
        "fold": users % 5,
        "user": users,
        "num_targets": 1,
        "item": users,
        "tuned": users < 100,
    }
    generator = np.random.default_rng([best, seed])
    return pd.DataFrame(rows | {"rank": generator.integers(best, best + 30, size=300)})


RANKS = pd.concat(
    [
        ranks_of("bivrec", "id", 1),
        ranks_of("bivrec", "both", 1, seed=1),
        ranks_of("pure-id", "id", 1, seed=2),
        ranks_of("popularity", "id", 9),
        ranks_of("sasrec", "id", 9, seed=1),
    ]
)
RUNS = pd.DataFrame(
    {
        "study": "training",
        "split": "validation",
        "metric": "ndcg@20",
        "dataset": "a",
        "model": ["bivrec", "sasrec"],
        "view": "id",
        "value": [0.2, 0.1],
    }
)


def test_each_family_is_adjusted_by_its_own_number_of_tests():
    claims = check_claims(RUNS, RANKS, pd.DataFrame(), "ndcg@20")
    families = {name: part for name, part in claims.groupby("family")}
    found = {name: len(part) for name, part in families.items()}
    assert found == {"confirmatory": 2, "exploratory": 4}  # the best baseline is named once
    verdicts = claims.set_index(["claim", "ours", "theirs"])["verdict"].to_dict()
    assert verdicts["0 it learns: above popularity", "bivrec both", "popularity id"] == "holds"
    assert verdicts["0 it learns: above popularity", "sasrec id", "popularity id"] == "open"
    assert verdicts["2 joint training lifts the ID view", "bivrec id", "pure-id id"] == "open"
    assert (claims["low"] <= claims["mean"]).all() and (claims["detectable"] > 0).all()
    for part in families.values():
        tests = part.drop_duplicates(["ours", "theirs"])  # a pair may stand for two claims
        expected = part["p"].min() * len(tests)
        assert part["adjusted p"].min() == pytest.approx(expected)


def test_what_a_study_found_is_exploratory_and_a_confirmatory_claim_stands_once():
    claim = CONFIRMATORY[3]
    names = {"ours": " ".join(claim.ours), "theirs": " ".join(claim.theirs)}
    found = {"dataset": "a", "mean": 0.2, "low": 0.1, "high": 0.3, "p": 0.001, "metric": "ndcg@20"}
    rows = [{"claim": claim.text, **names, **found}, {"claim": "7 else", **names, **found}]
    claims = check_claims(RUNS, RANKS, pd.DataFrame(rows), "ndcg@20").set_index("claim")
    assert claims.loc[claim.text, "family"] == "confirmatory"
    assert claims.loc[claim.text, "mean"] != 0.2
    assert claims.loc["7 else", "family"] == "exploratory"
    alone = check_claims(RUNS, RANKS[:0], pd.DataFrame(rows), "ndcg@20")
    assert alone["family"].unique().tolist() == ["exploratory"]
    assert not len(check_claims(RUNS, RANKS[:0], pd.DataFrame(), "ndcg@20"))


def test_four_verdicts():
    tests = [
        (0.002, 0.001, 0.003, 0.01, "holds"),  # significant comes first, however small
        (-0.01, -0.02, -0.001, 0.01, "fails"),
        (0.001, -0.0015, 0.0029, 0.3, "negligible"),
        (0.001, -0.0015, 0.0031, 0.3, "open"),
        (-0.001, -0.0031, 0.001, 0.3, "open"),
        (0.0, np.nan, np.nan, 1.0, "open"),
    ]
    table = pd.DataFrame(tests, columns=["mean", "low", "high", "adjusted p", "verdict"])
    assert assign_verdicts(table).tolist() == table["verdict"].tolist()


def test_confirmatory_claims_stand_beside_themselves_without_tuning_users():
    claims = check_claims(RUNS, RANKS, pd.DataFrame(), "ndcg@20")
    table = without_tuning_users(claims, RUNS, RANKS, "ndcg@20")
    assert (
        table["claim"].tolist() == claims.loc[claims["family"] == "confirmatory", "claim"].tolist()
    )
    assert table["users"].tolist() == [300, 300] and table["users without"].tolist() == [200, 200]
    alone = check_claims(RUNS, RANKS[~RANKS["tuned"]], pd.DataFrame(), "ndcg@20")
    assert table["mean without"].tolist() == alone["mean"][:2].tolist()
    assert not (table["mean without"] == table["mean"]).any()


def test_the_page_fixes_the_confirmatory_claims(root):
    page = (root / "docs/confirmatory.md").read_text("utf-8")
    table = re.search(r"<!-- confirmatory -->\n(.*?)\n<!-- /confirmatory -->", page, re.DOTALL)[1]
    rows = [tuple(row.strip("| ").split(" | ")) for row in table.splitlines()[2:]]
    assert rows == [(c.text, " ".join(c.ours), " ".join(c.theirs)) for c in CONFIRMATORY]
