"""Recommendations for many users at once: what they hold, what they leave out, and why."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from bivrec.errors import DataError
from bivrec.experiment.interests import interest_items
from bivrec.explore.api import score_items, top_items
from bivrec.portable import lists as module
from bivrec.portable.folder import load
from bivrec.portable.lists import recommend, recommend_many


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)


def history_of(histories, user) -> list:
    return histories.loc[histories["user"] == user, "item"].tolist()


@pytest.mark.parametrize("name", ["bivrec", "sasrec-sum", "comirec-sa", "popularity"])
def test_every_user_gets_the_list_of_their_own_history(untrained, histories, name):
    model = load("planted", name) if name == "popularity" else untrained(name)
    lists = recommend_many(model, histories, k=5)
    assert lists.columns.tolist() == "user rank item title score view interest".split()
    assert lists["user"].unique().tolist() == histories["user"].unique().tolist()
    titles = dict(zip(model.ids, model.items["title"]))
    for user, own in lists.groupby("user"):
        history = history_of(histories, user)
        assert own["rank"].tolist() == [1, 2, 3, 4, 5]
        scores = list(score_items(model, model.find(history)).values())[-1]
        assert own["score"].to_numpy() == pytest.approx(np.sort(scores)[::-1][:5], abs=1e-4)
        assert own["item"].tolist() == recommend(model, history, k=5)
        assert not own["item"].isin(history).any()
        assert own["title"].tolist() == [titles[item] for item in own["item"]]


@pytest.mark.parametrize("view", ["id", "multimodal"])
def test_the_interest_and_the_reason_are_the_explorers(bivrec, histories, view):
    lists = recommend_many(bivrec, histories, k=6, view=view, reasons=True)
    titles = bivrec.items["title"]
    for user in histories["user"].unique()[:8]:
        history = bivrec.find(history_of(histories, user))
        top = top_items(bivrec, history, history[:0], k=6)
        top = top[top["view"] == view]
        own = lists[lists["user"] == user]
        assert own["item"].tolist() == top["item"].tolist()
        assert own["interest"].tolist() == [f"{view} {number}" for number in top["interest"]]
        owned = interest_items(bivrec.trained, history, k=3)
        owned = owned[(owned["view"] == view) & (owned["kind"] == "owned")]
        for number, because in zip(top["interest"], own["because"]):
            items = owned.loc[owned["interest"] == number, "item"]
            assert because == "; ".join(titles[items])


def test_both_views_name_the_one_that_ranks_the_item_higher(bivrec, histories):
    both = recommend_many(bivrec, histories, k=4, reasons=True)
    user = both["user"].iloc[0]
    scores = score_items(bivrec, bivrec.find(history_of(histories, user)))
    for row in both[both["user"] == user].itertuples():
        number, shares = bivrec.numbers[str(row.item)], {}
        for view in ("id", "multimodal"):
            shares[view] = scores[view][number] - np.logaddexp.reduce(scores[view])
        assert row.interest.split()[0] == max(shares, key=shares.get)
    alone = recommend_many(bivrec, histories, k=100, view="multimodal", reasons=True)
    same = both.merge(alone, on=["user", "item", "interest"])
    assert len(same) and (same["because_x"] == same["because_y"]).all()


def test_models_without_several_interests_give_no_reason(untrained, histories):
    lists = recommend_many(untrained("sasrec"), histories, k=3, reasons=True)
    assert (lists[["interest", "because"]] == "").all(axis=None)
    lists = recommend_many(untrained("without-cluster-attention"), histories, k=3, reasons=True)
    assert (lists["because"] == "").all()


def test_only_allowed_items(bivrec, histories):
    allowed = bivrec.ids[:30]
    lists = recommend_many(bivrec, histories, k=50, allowed=allowed)
    assert lists["item"].isin(allowed).all() and np.isfinite(lists["score"]).all()
    for user, own in lists.groupby("user"):
        assert {*own["item"]} == {*allowed} - {*history_of(histories, user)}


def test_ids_may_be_text_and_rows_of_users_may_mix(bivrec, histories):
    mixed = histories.astype({"item": str}).sample(frac=1, random_state=0)
    place = mixed.groupby("user").cumcount()
    ordered = histories.assign(place=histories.groupby("user").cumcount())
    mixed = mixed.assign(place=place).sort_values("place", kind="stable")
    assert mixed["user"].tolist() != ordered["user"].tolist()
    again = recommend_many(bivrec, mixed, k=3).set_index("user")
    for user in ("u0", again.index[-1]):
        own = mixed.loc[mixed["user"] == user, "item"].tolist()
        if own:
            assert again.loc[user, "item"].tolist() == recommend(bivrec, own, k=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"histories": pd.DataFrame({"user": ["a"], "item": [7]})}, "planted has no item 7"),
        ({"histories": pd.DataFrame({"user": [], "item": []})}, "the history has no items"),
        ({"k": 0}, "k is 0; it must be a whole number, at least 1"),
        ({"k": 2.0}, "k is 2.0; it must be a whole number"),
        ({"k": True}, "k is True; it must be a whole number"),
        ({"k": "3"}, "k is '3'; it must be a whole number"),
        ({"k": None}, "k is None; it must be a whole number"),
        ({"recommender": "planted"}, "recommender is of the type str; give a trained model"),
        ({"histories": [[1000], [1001]]}, "histories is of the type list; give a pandas DataFrame"),
        ({"histories": pl.DataFrame({"user": [1]})}, "of the type DataFrame; give a pandas Data"),
        ({"histories": pd.DataFrame({"User": [1]})}, "has the columns User; it needs user and it"),
        (
            {"histories": pd.DataFrame([["a", 1, 2]], columns=["user", "item", "item"])},
            "histories has 2 columns item; keep one of them",
        ),
        (
            {"histories": pd.DataFrame({"user": ["a"], "item": [[1000, 1001]]})},
            r"row 1: the item is \[1000, 1001\]; give one row per .*; use explode\('item'\)",
        ),
        (
            {"histories": pd.DataFrame({"user": ["a", None], "item": [1000, 1001]})},
            "histories, row 2 has no user",
        ),
        (
            {"histories": pd.DataFrame({"user": ["a", "b"], "item": [1000, None]})},
            "histories, row 2 has no item",
        ),
        ({"view": ["id"]}, r"bivrec has no view \['id'\]; it has id, multimodal, both"),
        ({"view": ""}, "bivrec has no view ''; it has"),
        ({"allowed": "1002"}, "allowed is '1002'; give a list of item ids"),
        ({"allowed": 1002}, "allowed is 1002; give a list of item ids"),
        ({"view": "sound"}, "bivrec has no view 'sound'; it has id, multimodal, both"),
        ({"allowed": ["moon"]}, "planted has no item 'moon'"),
    ],
)
def test_errors_are_one_sentence(bivrec, histories, any_types, given, message):
    with pytest.raises(DataError, match=message):
        recommend_many(**{"recommender": bivrec, "histories": histories, **given})


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (1000, "history is 1000; give a list of item ids"),
        (None, "history is None; give a list of item ids"),
        ("1000", "history is '1000'; give a list of item ids"),
        ([[1000, 1001]], r"history holds \[1000, 1001\] in place of an id; give the ids of one"),
        ([1000, None], "row 2 has no item"),
        ([1000.5], "planted has no item 1000.5"),
        ([], "the history has no items; give at least one"),
    ],
)
def test_a_history_is_a_list_of_ids(bivrec, any_types, history, message):
    with pytest.raises(DataError, match=message):
        recommend(bivrec, history)


def test_whole_numbers_of_any_type_and_sets(bivrec, any_types):
    best = recommend(bivrec, [1000, 1001], k=2)
    assert recommend(bivrec, np.array([1000.0, 1001.0]), k=np.int64(2)) == best
    assert recommend(bivrec, pd.Series([1000, 1001]), k=2) == best
    histories = pd.DataFrame({"user": 0, "item": [1000, 1001]})
    assert recommend_many(bivrec, histories, allowed={best[1]})["item"].tolist() == best[1:]
