"""The claims' table: who is compared, and when a verdict is given."""

import numpy as np
import pandas as pd
import pytest

from bivrec.studies.claims import check_claims, chosen_by_validation

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


def ranks_of(model: str, view: str, generator: np.random.Generator, best: int) -> pd.DataFrame:
    users = np.arange(300)
    rows = {
        "dataset": "a",
        "model": model,
        "view": view,
        "seed": 0,
        "user": users,
        "num_targets": 1,
        "item": users,
    }
    return pd.DataFrame(rows | {"rank": generator.integers(best, best + 30, size=300)})


def test_a_verdict_needs_an_adjusted_p_below_one_in_twenty(generator):
    ranks = pd.concat(
        [
            ranks_of("bivrec", "id", generator, 1),
            ranks_of("pure-id", "id", generator, 1),
            ranks_of("popularity", "id", generator, 9),
            ranks_of("sasrec", "id", generator, 9),
        ]
    )
    runs = pd.DataFrame(
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
    claims = check_claims(runs, ranks, pd.DataFrame(), "ndcg@20")
    told = claims.groupby(["claim", "theirs"])["verdict"].agg(list)
    assert told["0 it learns: above popularity", "popularity id"] == [
        "holds",
        "open",
    ]  # of BivRec, of SASRec
    assert told["1 BivRec's ID view is above every ID baseline", "sasrec id"] == [
        "holds"
    ]  # the best baseline is named once
    assert told["2 joint training lifts the ID view", "pure-id id"] == ["open"]
    assert (claims["adjusted p"] >= claims["p"]).all() and (claims["low"] <= claims["mean"]).all()
    tests = claims.drop_duplicates(
        ["ours", "theirs"]
    )  # a pair that stands for two claims is one test
    assert len(tests) < len(claims) and claims["adjusted p"].min() == pytest.approx(
        claims["p"].min() * len(tests)
    )
