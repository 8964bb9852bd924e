"""Noise: what it changes, what it leaves, and how its effect is measured."""

import numpy as np
import pandas as pd
import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.errors import SettingsError
from bivrec.evaluation import rank_cases
from bivrec.experiment.training import train_models
from bivrec.settings import load_settings
from bivrec.studies.noise import (
    MAX_SHIFT,
    add_feature_noise,
    add_noise_to_fold,
    breaking_points,
    compare_losses,
    expose_to_noise,
    noise_curves,
    train_noisy,
    with_features,
)


def same(ours, theirs) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", ["replace", "insert", "delete", "shuffle"])
def test_history_noise(planted, kind):
    cases, num_items = planted.fold(0).test, planted.sequences.num_items
    noisy = add_noise_to_fold(planted, 0, kind, 0.5)[0].test
    assert same(noisy.targets, cases.targets) and np.array_equal(noisy.users, cases.users)
    shares = []
    for before, after, wanted in zip(cases.histories, noisy.histories, cases.targets):
        added, removed = set(after) - set(before), set(before) - set(after)
        assert not added & set(wanted) and max(after) < num_items
        assert len(after) == len(set(after))
        assert kind in ("replace", "insert") or not added
        if kind == "shuffle":
            moves = [np.flatnonzero(after == item)[0] - at for at, item in enumerate(before)]
            assert np.abs(moves).max() <= 2 * MAX_SHIFT
            shares.append((before != after).mean())
        else:
            shares.append(len(added if kind == "insert" else removed) / len(before))
    assert 0.3 < np.mean(shares) < 0.75
    assert same(add_noise_to_fold(planted, 0, kind, 0.0)[0].test.histories, cases.histories)
    every = add_noise_to_fold(planted, 0, kind, 1.0, training=True)[0]
    assert all(len(history) >= 1 for history in (*every.test.histories, *every.train))


@pytest.mark.parametrize("kind", ["replace", "insert", "delete", "shuffle"])
def test_history_noise_changes_nothing_for_a_model_that_reads_no_history(planted, kind):
    """The same items are ranked: a lost item does not return, a false one is not missing."""
    model = train_models(planted, ["popularity"])[0].model
    noisy, clean = add_noise_to_fold(planted, 0, kind, 0.5)[0].test, planted.fold(0).test
    ranks = [rank_cases(model, cases)["rank"].to_numpy() for cases in (noisy, clean)]
    assert np.array_equal(*ranks) and not same(noisy.histories, clean.histories)


def test_training_has_noise_on_request_only(planted):
    clean = planted.fold(0)
    assert same(add_noise_to_fold(planted, 0, "replace", 0.5)[0].train, clean.train)
    noisy = add_noise_to_fold(planted, 0, "replace", 0.5, training=True)[0]
    assert 0.4 < np.mean([(a != b).mean() for a, b in zip(noisy.train, clean.train)]) < 0.6
    assert same(noisy.validation.histories, clean.validation.histories)


def test_feature_noise(planted):
    features = planted.features(0)
    blurred = add_feature_noise(features, "blur", 2.0, 0)
    for name, (values, mask) in features.items():
        gap = (blurred[name][0] - values)[mask]
        assert torch.allclose(gap.std(0) / values[mask].std(0), torch.tensor(2.0), atol=0.6)
        for kind in ("blur", "swap", "no_text", "no_image"):
            assert torch.equal(add_feature_noise(features, kind, 0.0, 0)[name][0], values)
    text, image = features["text"][0], features["image"][0]
    swapped = add_feature_noise(features, "swap", 0.5, 0)
    moved = (swapped["text"][0] != text).any(1)
    assert 0.3 < moved.float().mean() < 0.7
    assert torch.equal(moved, (swapped["image"][0] != image).any(1))
    assert torch.equal(swapped["text"][0].sort(0).values, text.sort(0).values)  # none is lost
    bare = add_feature_noise(features, "no_text", 0.6, 0)
    values, mask = bare["text"]
    assert 0.45 < (~mask).float().mean() < 0.75 and not values[~mask].any()
    assert torch.equal(bare["image"][0], image) and bare["image"][1].all()


def test_noise_on_both_sides_is_the_noise_of_each(planted):
    fold, features = add_noise_to_fold(planted, 0, "replace_and_swap", 0.5)
    replaced = add_noise_to_fold(planted, 0, "replace", 0.5)[0]
    swapped = add_noise_to_fold(planted, 0, "swap", 0.5)[1]
    assert same(fold.test.histories, replaced.test.histories)
    assert torch.equal(features["image"][0], swapped["image"][0])


@pytest.mark.slow
def test_other_features_change_one_view_only(planted, trained):
    noisy = with_features(trained, add_feature_noise(planted.features(0), "blur", 1.0, 0))
    history = [planted.sequences.of(0)]
    before, after = trained.model.score(history), noisy.model.score(history)
    assert torch.equal(before["id"], after["id"])
    assert not torch.equal(before["multimodal"], after["multimodal"])


def test_a_model_meets_all_test_cases_under_noise(planted, trained):
    noisy, cases = expose_to_noise(planted, trained, "replace", 0.5)
    assert len(cases) == len(planted.fold(0).test) and noisy.model is not trained.model


def test_training_under_noise_is_judged_on_both(planted):
    changes = {"training.num_steps": 10, "noise.trained": {"no_text": [0.9]}}
    ranks = train_noisy(Domain("planted", changes), ["pure-mm"])
    noisy, clean = (ranks[ranks["tested"] == how]["rank"].to_numpy() for how in ("noisy", "clean"))
    assert len(noisy) == len(clean) and (noisy != clean).any()


def test_what_is_retained_and_where_it_breaks():
    """Ranks of two users that make NDCG@10 1, then 1/2, then 0: straight lines from 1 to 0.5 pass
    0.9 at a fifth of the way."""
    rank = {0.0: [1, 1], 0.5: [1, 60], 1.0: [60, 60]}
    rows = [
        ("a", "id", "replace", level, 0, user, 1, user, r)
        for level, ranks in rank.items()
        for user, r in enumerate(ranks)
    ]
    names = ["model", "view", "noise", "level", "seed", "user", "num_targets", "item", "rank"]
    curves = noise_curves(pd.DataFrame(rows, columns=names), "ndcg@10")
    assert curves["retained"].tolist() == [1.0, 0.5, 0.0]
    assert (curves["low"] <= curves["retained"]).all()
    assert (curves["retained"] <= curves["high"]).all()
    point = breaking_points(curves).iloc[0]
    assert point["area"] == pytest.approx(0.5) and point["breaks at"] == pytest.approx(0.1)
    assert np.isnan(breaking_points(curves.assign(retained=1.0)).iloc[0]["breaks at"])


def test_a_noise_curve_is_a_mean_over_users_not_over_trainings():
    """Two trainings test the user of fold 0, one that of fold 1: each user counts once."""
    ranks = [(0, 0, 7, 1), (0, 5, 7, 1), (1, 1, 8, 60)]
    rows = [("a", "id", "swap", 0.0, *unit, 1, 0, r) for *unit, r in ranks]
    names = ["model", "view", "noise", "level", "fold", "seed", "user", "num_targets", "item"]
    curves = noise_curves(pd.DataFrame(rows, columns=[*names, "rank"]), "ndcg@10")
    assert curves["value"].item() == 0.5


def test_losses_under_noise_are_compared_user_by_user():
    """From clean to swapped, a loses one of its two users, b both."""
    rank = {("a", 0.0): [1, 1], ("a", 0.3): [1, 50], ("b", 0.0): [1, 1], ("b", 0.3): [50, 50]}
    rows = [
        (model, "id", 0, user, 1, user, r, "swap", level)
        for (model, level), ranks in rank.items()
        for user, r in enumerate(ranks)
    ]
    names = ["model", "view", "seed", "user", "num_targets", "item", "rank", "noise", "level"]
    ranks = pd.DataFrame(rows, columns=names)
    test = compare_losses(ranks, ("a", "id"), ("b", "id"), "ndcg@10", "swap", 0.3)
    assert test["mean"] == pytest.approx(0.5) and test["users"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise.levels": {"swap": [0.1, 0.5]}}, "they must increase from 0"),
        ({"noise.levels": {"swap": [0.0, 1.5]}}, "swap has the level 1.5, which is a share"),
        ({"noise.levels": {"swop": [0.0, 0.5]}}, "noise.levels.swop"),
        ({"noise.trained": {"replace": [0.0]}}, "noise.trained.replace.0: 0.0 is refused"),
    ],
)
def test_levels_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        load_settings("planted", changes)
