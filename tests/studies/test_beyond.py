"""The measures of lists on examples computed by hand."""

import numpy as np
import pandas as pd
import pytest

from bivrec.data.domain import Domain
from bivrec.evaluation import user_metrics
from bivrec.experiment.runs import rank_and_list
from bivrec.experiment.training import train_models
from bivrec.studies.beyond import (
    Background,
    accuracy_and,
    compare_variants,
    describe_differences,
    estimate_measures,
    genre_shares,
    gini,
    incidence,
    intra_list_diversity,
    measure_accuracy,
    measure_lists,
    measure_users,
    miscalibration,
    self_information,
)


def lists_of(*lists: list[int], num_items: int = 4):
    row = np.repeat(np.arange(len(lists)), [len(items) for items in lists])
    return incidence(row, np.concatenate(lists).astype("int64"), (len(lists), num_items))


def test_self_information_is_in_bits_and_finite():
    train = [np.array([0, 1]), np.array([0]), np.array([0, 1]), np.array([0]), np.array([0])]
    train += [np.array([0])] * 2  # 7 users: all have item 0, two have item 1, none has item 2
    assert self_information(train, 3) == pytest.approx([0, -np.log2(3 / 8), 3])


def test_diversity_is_one_minus_the_mean_cosine_of_pairs():
    vectors = np.array([[2.0, 0], [0, 3], [5, 0], [0, 0]])  # cosines 0, 1, 0; the last has none
    found = intra_list_diversity(lists_of([0, 1, 2], [0, 2], [0, 1, 3], [1, 3]), vectors)
    assert found[:3] == pytest.approx([2 / 3, 0, 1]) and np.isnan(found[3])
    genres = genre_shares(["War, Drama", "Drama", "", "War"])
    assert (genre_shares(["War|Drama", "Drama", "", "War"]) != genres).nnz == 0
    assert genres.toarray()[:, :2].tolist() == [[0.5, 0.5], [0, 1], [0, 0], [1, 0]]
    found = intra_list_diversity(lists_of([0, 1], [1, 3], [1, 2]), genres)
    assert found[:2] == pytest.approx([1 - np.sqrt(0.5), 1]) and np.isnan(found[2])


def test_miscalibration_is_the_divergence_from_the_history():
    genres = genre_shares(["War", "Drama", "War, Drama", ""])
    lists = lists_of([0], [2], [0, 0, 1], [3])
    histories = lists_of([0, 1], [0, 1], [0, 1], [0, 1])
    third = 0.5 * np.log2(0.5 / (0.99 * 2 / 3 + 0.005)) + 0.5 * np.log2(0.5 / (0.33 + 0.005))
    first = 0.5 * np.log2(0.5 / 0.995) + 0.5 * np.log2(0.5 / 0.005)  # no drama in the list
    found = miscalibration(lists, histories, genres)
    assert found[:3] == pytest.approx([first, 0, third]) and np.isnan(found[3])


@pytest.mark.parametrize(
    ("exposure", "value"), [([3, 3, 3, 3], 0), ([0, 0, 0, 8], 0.75), ([2, 1, 1], 1 / 6)]
)
def test_gini(exposure, value):
    assert gini(np.array(exposure, dtype=float)) == pytest.approx(value)


def test_the_measures_of_two_users():
    """User 7 has items 0 and 1 and is shown 2 and 3; user 5 has 3 and is shown 2 alone."""
    background = Background(
        np.array([1.0, 3, 0, 2]),
        np.eye(4),
        genre_shares([""] * 4),
        lists_of([3], [0, 1]),
        pd.Index([5, 7]),
    )
    lists = pd.DataFrame({"user": [7, 7, 5], "rank": [1, 2, 1], "item": [2, 3, 2]})
    found = measure_users(lists, background).set_index(["measure", "user"])["value"].to_dict()
    assert found == pytest.approx(
        {
            ("diversity", 7): 1,
            ("novelty", 7): 1,
            ("novelty", 5): 0,
            ("popularity_lift", 7): 1,
            ("popularity_lift", 5): 2,
            ("coverage", -1): 0.5,
            ("gini", -1): (1 * 1 + 3 * 2) / (4 * 3),
        },
        abs=1e-6,
    )


@pytest.fixture(scope="module")
def planted_lists():
    domain = Domain("planted", {"training.num_steps": 10})
    models = train_models(domain, ["bivrec", "popularity"])
    return rank_and_list(domain, models)


def test_lists_hold_the_items_that_rank_first(planted_lists):
    """With the targets, lists give the accuracy of the ranks, where scores are not tied."""
    ranks, lists = (table[table["model"] == "bivrec"] for table in planted_lists)
    assert (lists.groupby(["view", "user"]).size() == 20).all()
    keys = ["view", "user", "item"]
    both = ranks.merge(lists, on=keys, suffixes=("", "_listed"))
    assert len(both) == (ranks["rank"] <= 20).sum() > 0
    assert (both["rank"] == both["rank_listed"]).all()
    several = set(lists.loc[lists["view"] != "both", "interest"])
    assert len(several) > 1 and -1 not in several
    assert set(lists.loc[lists["view"] == "both", "interest"]) == {-1}


def test_measures_beside_accuracy(planted_lists):
    ranks, lists = (table.assign(dataset="planted") for table in planted_lists)
    accuracy = measure_accuracy(ranks, lists, "ndcg@20")
    users = pd.concat([accuracy, measure_lists(lists)], ignore_index=True)
    table = estimate_measures(users)
    means = table.pivot(index=["model", "view"], columns="measure", values="mean")
    expected = user_metrics(ranks).groupby(["model", "view"])["ndcg@20"].mean()
    assert means["ndcg@20"].to_numpy() == pytest.approx(expected.to_numpy())
    assert means["coverage"]["popularity", "id"] < means["coverage"]["bivrec", "both"] <= 1
    assert means["gini"]["popularity", "id"] > means["gini"]["bivrec", "both"]
    assert means["popularity_lift"].idxmax() == ("popularity", "id")
    points = accuracy_and(table, "ndcg@20", "diversity")
    assert len(points) == 4 and not points[["x", "y"]].isna().any(axis=None)
    saved = measure_accuracy(ranks[ranks["model"] == "bivrec"], lists, "ndcg@20")
    assert set(saved["model"]) == {"bivrec"}  # whose ranks are saved


def test_the_answer_follows_from_the_intervals():
    runs = {"bivrec": (0.5, 0.31), "shared-newest": (0.4, 0.3), "plain-interests": (0.7, 0.1)}
    rows = [
        ("d", model, "both", fold, fold, user, measure, value + 0.01 * user * (model == "bivrec"))
        for model, values in runs.items()
        for measure, value in zip(("diversity", "ndcg@20"), values)
        for fold, user in ((0, 1), (1, -2), (2, 3), (3, -2))
    ]
    users = pd.DataFrame(rows, columns="dataset model view seed fold user measure value".split())
    found = compare_variants(users)
    assert found["mean"].tolist() == pytest.approx([0.1, -0.2, 0.01, 0.21])
    first, second = describe_differences(found, "ndcg@20").splitlines()
    assert first.startswith("d: BivRec's lists are more diverse (diversity +0.1000, ")
    assert "not measurably more or less accurate (ndcg@20 +0.0100, " in first
    assert "less diverse" in second and "more accurate" in second
    assert second.endswith("than plain-interests's.")
    none = compare_variants(users[users["model"] == "bivrec"])
    assert describe_differences(none, "ndcg@20") == (
        "No list of shared-newest or of plain-interests is compared here."
    )
