"""Ranks and metrics against sums by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from bivrec.evaluation import (
    estimate_mean,
    holm,
    interval_table,
    mean_metrics,
    over_folds,
    over_users,
    paired_test,
    rank_cases,
    target_ranks,
    user_metrics,
)


def ranks_of(*users):
    rows = [
        ("id", user, len(ranks), item, rank)
        for user, ranks in enumerate(users)
        for item, rank in enumerate(ranks)
    ]
    return pd.DataFrame(rows, columns=["view", "user", "num_targets", "item", "rank"])


def test_metrics_by_hand():
    table = user_metrics(ranks_of([1, 3, 40], [12], [11, 60])).set_index("user")
    gain = [1 / math.log2(1 + 1), 1 / math.log2(3 + 1)]
    assert table.loc[0, "recall@10"] == pytest.approx(2 / 3)
    assert table.loc[0, "hr@10"] == 1 and table.loc[1, "hr@10"] == 0 and table.loc[1, "hr@20"] == 1
    ideal_three = 1 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    ideal_two = 1 / math.log2(2) + 1 / math.log2(3)
    assert table.loc[0, "ndcg@10"] == pytest.approx(sum(gain) / ideal_three)
    assert table.loc[0, "comirec_ndcg@10"] == pytest.approx(
        sum(gain) / ideal_two
    )  # the DCG of as many hits
    assert table.loc[0, "ndcg@50"] == pytest.approx((sum(gain) + 1 / math.log2(41)) / ideal_three)
    assert table.loc[2, "ndcg@20"] == pytest.approx(1 / math.log2(12) / ideal_two)
    assert (
        table.loc[2, "recall@50"] == 0.5
        and table.loc[1, "ndcg@10"] == table.loc[1, "comirec_ndcg@10"] == 0
    )


def test_more_targets_than_ranks():
    """A user with 30 targets, the first 20 ranks all hits: recall 20/30, NDCG 1."""
    table = user_metrics(ranks_of(list(range(1, 21)) + list(range(100, 110))))
    assert table["ndcg@20"][0] == pytest.approx(1) and table["recall@20"][0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("num_targets", [5, 1])
def test_ranks_by_sorting(generator, num_targets):
    scores = torch.from_numpy(generator.normal(size=(4, 50))).float()
    histories = [generator.choice(50, 8, replace=False) for _ in range(4)]
    targets = [np.setdiff1d(np.arange(50), history)[:num_targets] for history in histories]
    for row, ranks in enumerate(target_ranks(scores, histories, targets)):
        order = [
            item
            for item in scores[row].argsort(descending=True).tolist()
            if item not in histories[row]
        ]
        assert ranks.tolist() == [order.index(item) + 1 for item in targets[row]]


def test_equal_scores_count_against_the_target():
    (ranks,) = target_ranks(torch.zeros(1, 30), [np.array([0, 1])], [np.array([5, 9])])
    assert ranks.tolist() == [28, 28]  # constant scores earn nothing


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_ranks_are_counted_exactly_in_any_type(dtype):
    scores = torch.zeros(2, 5001, dtype=dtype)
    scores[0, 7] = 1
    if dtype == torch.float64:
        scores[1, :5], scores[1, 9] = 1 + 1e-12, 1  # the same in float32; one of the five is masked
    ranks = target_ranks(
        scores, [np.array([0]), np.array([1])], [np.array([7, 8]), np.array([9, 10])]
    )
    assert [part.tolist() for part in ranks] == [
        [1, 5000],
        [5, 5000] if dtype == torch.float64 else [5000, 5000],
    ]


def test_ranks_keep_the_order_of_the_cases(planted):
    """Cases are scored in order of length; the table has them in their order."""
    cases = planted.fold(0).test

    class ByUser:
        def score(self, histories):
            scores = -torch.arange(planted.sequences.num_items).repeat(len(histories), 1).float()
            for row, history in zip(scores, histories):
                case = next(i for i, h in enumerate(cases.histories) if h is history)
                row[torch.as_tensor(cases.targets[case])] = torch.arange(
                    len(cases.targets[case]), 0, -1.0
                )
            return {"id": scores, "both": -scores}

    table = rank_cases(ByUser(), cases, 7)
    for view, part in table.groupby("view", sort=False):
        assert part["item"].tolist() == np.concatenate(cases.targets).tolist()
        assert (
            part["user"].tolist()
            == np.repeat(cases.users, [len(items) for items in cases.targets]).tolist()
        )
        best = np.concatenate([np.arange(1, len(items) + 1) for items in cases.targets])
        assert (part["rank"].to_numpy() == best).all() == (view == "id")


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        target_ranks(torch.full((1, 5), float("nan")), [np.array([0])], [np.array([1])])
    for strange in ("nan", "inf", "-inf"):
        scores = torch.zeros(2, 5).index_put_(
            (torch.tensor(1), torch.tensor(3)), torch.tensor(float(strange))
        )
        with pytest.raises(ValueError, match="not finite"):
            target_ranks(scores, [np.array([0])] * 2, [np.array([1])] * 2)


def test_batches_of_cases_do_not_matter(planted):
    from bivrec.experiment.registry import build_model

    model, cases = build_model(planted, "bivrec", 0), planted.fold(0).test
    one, many = rank_cases(model, cases, 256), rank_cases(model, cases, 3)
    assert (
        one.sort_values(["view", "user", "item"])["rank"].tolist()
        == many.sort_values(["view", "user", "item"])["rank"].tolist()
    )


def test_without_the_mask_the_history_is_ranked_too(planted):
    """As the authors' code: a model that recommends what was seen ranks its targets lower."""
    from dataclasses import replace

    cases = planted.fold(0).test

    class Repeats:
        def score(self, histories):
            scores = torch.arange(planted.sequences.num_items).repeat(len(histories), 1).float()
            for row, history in zip(scores, histories):
                row[torch.as_tensor(history)] += 1000
            return {"id": scores}

    masked, plain = (
        rank_cases(Repeats(), part) for part in (cases, replace(cases, mask_history=False))
    )
    lengths = dict(zip(cases.users.tolist(), map(len, cases.histories)))
    assert (plain["rank"] - masked["rank"]).tolist() == [lengths[user] for user in plain["user"]]


def test_means_are_over_users_not_targets():
    means = mean_metrics(ranks_of([1], [60, 60, 60])).set_index("metric")["value"]
    assert means["recall@20"] == pytest.approx(0.5)


def test_a_perfect_and_a_hopeless_model(planted):
    cases = planted.fold(0).test

    class Oracle:
        def __init__(self, sign):
            self.sign = sign

        def score(self, histories):
            scores = torch.rand(len(histories), planted.sequences.num_items)
            for row, history in enumerate(histories):
                case = next(i for i, h in enumerate(cases.histories) if h is history)
                scores[row, torch.as_tensor(cases.targets[case])] += self.sign
            return {"id": scores}

    assert mean_metrics(rank_cases(Oracle(2), cases)).set_index("metric")["value"][
        "ndcg@20"
    ] == pytest.approx(1)
    assert (
        mean_metrics(rank_cases(Oracle(-2), cases)).set_index("metric")["value"]["ndcg@20"] < 0.02
    )


def test_bootstrap_covers_and_repeats(generator):
    values = generator.normal(0.3, 1, 400)
    found, error = over_users(values), values.std() / math.sqrt(400)
    assert found.low < found.mean < found.high and found == over_users(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert found.detectable == pytest.approx((1.96 + 0.84) * error, rel=0.05)


@pytest.mark.parametrize("values", [[0.3], [0.5, 0.5, 0.5], [0.1 + 0.2, 0.3]])
@pytest.mark.parametrize("folds", [[0, 0, 0], [0, 1, 2]])
def test_one_user_or_equal_values_decide_nothing(values, folds):
    users = pd.DataFrame({"fold": folds[: len(values)], "user": range(len(values)), "m": values})
    mean, low, high, p, detectable = estimate_mean(users, "m")
    assert mean == pytest.approx(values[0]) and p == 1
    assert np.isnan([low, high, detectable]).all()


def test_folds_by_hand():
    """Two folds of one and three users, with means 4 and 0: the mean is 1, the squared error
    (1 * 9 + 3 * 1) / (1 * 4) = 3, and t with one degree of freedom is a Cauchy variable."""
    found = over_folds(np.array([4.0, -1.0, 0.0, 1.0]), np.array([7, 2, 2, 2]))
    reach = math.tan(math.pi * 0.475) * math.sqrt(3)
    assert found[:3] == pytest.approx((1, 1 - reach, 1 + reach))
    assert found.p == pytest.approx(1 - 2 * math.atan(1 / math.sqrt(3)) / math.pi)
    assert found.detectable == pytest.approx(reach + math.tan(math.pi * 0.3) * math.sqrt(3))


def test_trainings_of_a_fold_are_averaged_first():
    rows = [
        (0, 0, "a", 1.0),
        (5, 0, "a", 3.0),
        (0, 0, "b", 5.0),
        (5, 0, "b", 5.0),
        (1, 1, "c", 7.0),
    ]
    users = pd.DataFrame(rows, columns=["seed", "fold", "user", "m"])
    expected = over_folds(np.array([2.0, 5.0, 7.0]), np.array([0, 0, 1]))
    assert estimate_mean(users, "m") == expected
    once = over_users(np.array([2.0, 5.0, 7.0]))
    assert estimate_mean(users.drop(columns="fold"), "m") == once
    zero = users.assign(m=0.0)
    assert paired_test(users, zero, "m") == {**expected._asdict(), "users": 3}


def simulated(generator, effect, trainings=1, sizes=(60, 60, 60, 60, 60)):
    """Users' differences and their folds: an effect of each training on all users of its fold, in
    standard errors of a fold's mean, and an effect of each user."""
    folds = np.repeat(np.arange(len(sizes)), sizes)
    shift = generator.normal(size=(len(sizes), trainings)).mean(1) * effect / np.sqrt(60)
    return generator.normal(size=len(folds)) + shift[folds], folds


NULLS = {
    "no effect of trainings": {"effect": 0.0},
    "as large as that of users": {"effect": 1.0},
    "large": {"effect": 4.0},
    "two initialisations": {"effect": 2.0, "trainings": 2},
    "folds of unequal size": {"effect": 1.0, "sizes": (40, 50, 60, 70, 80)},
}


def coverage(null, generator, estimate, studies=1500) -> float:
    """How often the interval of a mean of 0 contains 0."""
    found = [estimate(*simulated(generator, **null)) for _ in range(studies)]
    return np.mean([low <= 0 <= high for _, low, high, *_ in found])


@pytest.mark.slow
@pytest.mark.parametrize("null", NULLS.values(), ids=NULLS.keys())
def test_intervals_over_folds_cover_a_null_as_often_as_they_say(null, generator):
    assert 0.93 <= coverage(null, generator, over_folds) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("effect", "most"), [(1.0, 0.9), (4.0, 0.5)])
def test_intervals_over_users_cover_too_little_where_trainings_differ(effect, most, generator):
    """The reason for folds: an interval over users takes the error of a training for an effect."""
    null = {"effect": effect}
    assert coverage(null, generator, lambda values, folds: over_users(values), 80) < most


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 2.0])
def test_an_effect_of_the_detectable_size_is_found_in_four_of_five_studies(effect, generator):
    studies = [simulated(generator, effect) for _ in range(1500)]
    size = math.sqrt(np.mean([over_folds(*study).detectable ** 2 for study in studies]))
    found = [over_folds(values + size, folds).p < 0.05 for values, folds in studies]
    assert 0.76 < np.mean(found) < 0.84


def test_a_group_of_one_user_has_no_interval_in_a_table():
    ranks = pd.concat([ranks_of([1], [9]).assign(group="a"), ranks_of([3]).assign(group="b")])
    table = interval_table(ranks, "ndcg@10", ["group"]).set_index("group")
    assert table.loc["b", "mean"] == pytest.approx(1 / math.log2(3 + 1))
    assert table[["low", "high"]].isna().any(axis=1).to_dict() == {"a": False, "b": True}


def test_paired_difference_needs_the_same_users():
    ours = pd.DataFrame({"seed": 0, "user": [1, 2, 3], "m": [0.5, 0.6, 0.8]})
    theirs = pd.DataFrame({"seed": 0, "user": [3, 2, 1], "m": [0.6, 0.5, 0.4]})
    found = paired_test(ours, theirs, "m")
    assert found["mean"] == pytest.approx(0.4 / 3) and found["users"] == 3
    assert (found["low"], found["high"]) == pytest.approx((0.1, 0.2)) and found["p"] == 2e-4
    with pytest.raises(ValueError, match="different users"):
        paired_test(ours, theirs[:2], "m")


def test_the_p_value_is_that_of_a_t_test_where_that_holds(generator):
    from scipy.stats import ttest_1samp

    for shift in (0.0, 0.08, 0.15):
        values = generator.normal(shift, 1, 400)
        zero, ours = (pd.DataFrame({"user": range(400), "m": m}) for m in (0.0, values))
        assert paired_test(ours, zero, "m")["p"] == pytest.approx(
            ttest_1samp(values, 0).pvalue, abs=0.02
        )


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1.0, 1.0])


def test_interval_table_keeps_every_group():
    ranks = pd.concat([ranks_of([1], [2]).assign(model="a"), ranks_of([3], [4]).assign(model="b")])
    table = interval_table(ranks, "ndcg@10", ["model"])
    assert table["model"].tolist() == ["a", "b"] and (table["low"] <= table["mean"]).all()
