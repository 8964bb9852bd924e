"""Studies: what is disturbed and what is not, groups that lose nobody, items held out, a view carried over."""

import numpy as np
import pandas as pd
import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.errors import SettingsError
from bivrec.evaluation import rank_cases
from bivrec.experiment.cost import count_costs
from bivrec.experiment.registry import Trained, build_model
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_models
from bivrec.settings import load_settings
from bivrec.studies.cold_start import (
    group_by_history,
    group_by_popularity,
    interest_use,
    lend_vectors,
    name_groups,
    new_items,
    order_groups,
    train_before,
    without_new_items,
)
from bivrec.studies.diagnosis import diagnose, view_balance
from bivrec.studies.grids import train_grid
from bivrec.studies.noise import (
    REACH,
    breaking_points,
    compare_losses,
    disturb,
    disturb_features,
    disturbed,
    noise_curves,
    train_noisy,
    with_features,
)
from bivrec.studies.protocols import protocol_domain
from bivrec.studies.transfer import adapt, carry_view

FEW = {"training.num_steps": 10}


@pytest.fixture(scope="module")
def trained():
    return train_models(Domain("planted", FEW), ["bivrec"])[0]


@pytest.mark.parametrize("kind", ["replace", "insert", "delete", "shuffle"])
def test_histories_are_disturbed_as_it_says(planted, kind):
    cases, num_items = planted.fold(0).test, planted.sequences.num_items
    noisy = disturb(planted, 0, kind, 0.5)[0].test
    assert (
        all((a == b).all() for a, b in zip(noisy.targets, cases.targets))
        and (noisy.users == cases.users).all()
    )
    shares = []
    for before, after, wanted in zip(cases.histories, noisy.histories, cases.targets):
        strangers = set(after) - set(before)
        assert (
            not strangers & set(wanted) and len(after) == len(set(after)) and max(after) < num_items
        )
        gone, come = len(set(before) - set(after)) / len(before), len(strangers) / len(before)
        shares.append(
            {
                "replace": gone,
                "insert": come,
                "delete": gone,
                "shuffle": (before != after).mean() if kind == "shuffle" else 0,
            }[kind]
        )
        assert kind in ("replace", "insert") or not strangers
        if kind == "shuffle":
            assert (
                max(
                    abs(np.flatnonzero(after == item)[0] - place)
                    for place, item in enumerate(before)
                )
                <= 2 * REACH
            )
    assert 0.3 < np.mean(shares) < 0.75
    clean = disturb(planted, 0, kind, 0.0)[0].test
    assert all((a == b).all() for a, b in zip(clean.histories, cases.histories))
    every = disturb(planted, 0, kind, 1.0, training=True)[0]
    assert all(len(history) >= 1 for history in (*every.test.histories, *every.train))


def test_training_is_disturbed_only_when_asked(planted):
    train = planted.fold(0).train
    assert all(
        a is b or (a == b).all()
        for a, b in zip(disturb(planted, 0, "replace", 0.5)[0].train, train)
    )
    noisy = disturb(planted, 0, "replace", 0.5, training=True)[0]
    assert 0.4 < np.mean([(a != b).mean() for a, b in zip(noisy.train, train)]) < 0.6
    assert all(
        (a == b).all()
        for a, b in zip(noisy.validation.histories, planted.fold(0).validation.histories)
    )


def test_features_are_disturbed_as_it_says(planted):
    features = planted.features(0)
    blurred = disturb_features(features, "blur", 2.0, 0)
    for name, (values, mask) in features.items():
        gap = (blurred[name][0] - values)[mask]
        assert torch.allclose(gap.std(0) / values[mask].std(0), torch.tensor(2.0), atol=0.6)
        assert all(
            torch.equal(disturb_features(features, kind, 0.0, 0)[name][0], values)
            for kind in ("blur", "swap", "no_text", "no_image")
        )
    swapped = disturb_features(features, "swap", 0.5, 0)
    moved = (swapped["text"][0] != features["text"][0]).any(1)
    assert 0.3 < moved.float().mean() < 0.7 and torch.equal(
        moved, (swapped["image"][0] != features["image"][0]).any(1)
    )
    assert torch.equal(
        swapped["text"][0].sort(0).values, features["text"][0].sort(0).values
    )  # nobody's features are lost
    bare = disturb_features(features, "no_text", 0.6, 0)
    assert (
        0.45 < (~bare["text"][1]).float().mean() < 0.75
        and not bare["text"][0][~bare["text"][1]].any()
    )
    assert torch.equal(bare["image"][0], features["image"][0]) and bare["image"][1].all()


def test_both_sides_are_disturbed_together(planted):
    parts, features = disturb(planted, 0, "replace_and_swap", 0.5)
    alone, swapped = disturb(planted, 0, "replace", 0.5)[0], disturb(planted, 0, "swap", 0.5)[1]
    assert all((a == b).all() for a, b in zip(parts.test.histories, alone.test.histories))
    assert torch.equal(features["image"][0], swapped["image"][0])


def test_other_features_change_one_view_only(planted, trained):
    noisy, history = (
        with_features(trained, disturb_features(planted.features(0), "blur", 1.0, 0)),
        [planted.sequences.of(0)],
    )
    before, after = trained.model.score(history), noisy.model.score(history)
    assert torch.equal(before["id"], after["id"]) and not torch.equal(
        before["multimodal"], after["multimodal"]
    )


def test_what_is_kept_and_where_it_breaks():
    """Two users at ranks that make NDCG@10 1, 1/2 of the users, none; the line from 1 to 0.5 passes 0.9 at a fifth."""
    rank = {0.0: [1, 1], 0.5: [1, 60], 1.0: [60, 60]}
    rows = [
        ("a", "id", "replace", level, 0, user, 1, user, r)
        for level, ranks in rank.items()
        for user, r in enumerate(ranks)
    ]
    ranks = pd.DataFrame(
        rows,
        columns=["model", "view", "noise", "level", "seed", "user", "num_targets", "item", "rank"],
    )
    curves = noise_curves(ranks, "ndcg@10")
    assert (
        curves["kept"].tolist() == [1.0, 0.5, 0.0]
        and (curves["low"] <= curves["kept"]).all()
        and (curves["kept"] <= curves["high"]).all()
    )
    point = breaking_points(curves).iloc[0]
    assert point["area"] == pytest.approx(0.5) and point["breaks at"] == pytest.approx(0.1)
    assert np.isnan(breaking_points(curves.assign(kept=1.0)).iloc[0]["breaks at"])


def test_losses_under_noise_are_compared_user_by_user():
    rank = {("a", 0.0): [1, 1], ("a", 0.3): [1, 50], ("b", 0.0): [1, 1], ("b", 0.3): [50, 50]}
    rows = [
        (model, "id", 0, user, 1, user, r, "swap", level)
        for (model, level), ranks in rank.items()
        for user, r in enumerate(ranks)
    ]
    ranks = pd.DataFrame(
        rows,
        columns=["model", "view", "seed", "user", "num_targets", "item", "rank", "noise", "level"],
    )
    test = compare_losses(ranks, ("a", "id"), ("b", "id"), "ndcg@10", "swap", 0.3)
    assert (
        test["mean"] == pytest.approx(0.5) and test["users"] == 2
    )  # a loses one of two users, b both


def test_training_under_noise_is_judged_on_both(planted):
    domain = Domain("planted", FEW | {"noise.trained": {"no_text": [0.9]}})
    ranks = train_noisy(domain, ["pure-mm"])
    noisy, clean = (ranks[ranks["tested"] == how]["rank"].to_numpy() for how in ("noisy", "clean"))
    assert len(noisy) == len(clean) and (noisy != clean).any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"noise.levels": {"swap": [0.1, 0.5]}}, "they must rise from 0"),
        ({"noise.levels": {"swap": [0.0, 1.5]}}, "swap has the level 1.5, which is a share"),
        ({"noise.levels": {"swop": [0.0, 0.5]}}, "noise.levels.swop"),
        ({"noise.trained": {"replace": [0.0]}}, "noise.trained.replace.0: 0.0 is refused"),
    ],
)
def test_levels_that_make_no_sense_are_said(changes, said):
    with pytest.raises(SettingsError, match=said):
        load_settings("planted", changes)


class Fixed:
    """Two views that agree on half of their top two; together they follow the first."""

    def score(self, histories):
        one, other = torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[4.0, 1.0, 3.0, 2.0]])
        return {"id": one, "multimodal": other, "both": one}


def test_whose_recommendations_are_heard(planted):
    assert view_balance(Trained("bivrec", 0, Fixed()), planted.fold(0).test, 2) == {
        "id in both": 1.0,
        "multimodal in both": 0.5,
        "id in multimodal": 0.5,
    }


def test_groups():
    assert list(name_groups([0, 5, 6, 10, 11], [5, 10])) == ["0-5", "0-5", "6-10", "6-10", "> 10"]
    table = order_groups(
        pd.DataFrame(
            {"kind": ["b", "b", "a", "b", "a"], "group": ["> 10", "6-10", "10", "0-5", "2"]}
        )
    )
    assert list(zip(table["kind"], table["group"])) == [
        ("b", "0-5"),
        ("b", "6-10"),
        ("b", "> 10"),
        ("a", "2"),
        ("a", "10"),
    ]


def test_groups_lose_nobody(planted):
    ranks = rank_models(planted, train_models(planted, ["popularity"]))
    users, items = (
        group_by_history(planted, ranks, [10, 20]),
        group_by_popularity(planted, ranks, [5, 20]),
    )
    assert len(users) == len(items) == len(ranks)
    counts = np.bincount(
        np.concatenate(planted.fold(0).train), minlength=planted.sequences.num_items
    )
    for row in items.itertuples():
        low, high = {"0-5": (0, 5), "6-20": (6, 20), "> 20": (21, 10**9)}[row.group]
        assert low <= counts[row.item] <= high
    assert (
        items.groupby(["user", "group"], observed=True)["num_targets"].first()
        == items.groupby(["user", "group"], observed=True).size()
    ).all()


def test_new_items_are_met_by_nobody(planted):
    new, parts = new_items(planted), planted.fold(0)
    assert 0.03 < new.mean() < 0.2
    held = without_new_items(parts, new)
    met = np.concatenate(
        [*held.train, *held.validation.histories, *held.validation.targets, *held.test.histories]
    )
    assert not new[met].any() and new[np.concatenate(held.test.targets)].all()
    assert len(held.train) == len(parts.train) and len(held.validation) <= len(parts.validation)
    whole = {user: set(targets) for user, targets in zip(parts.test.users, parts.test.targets)}
    assert all(
        set(targets) <= whole[user] for user, targets in zip(held.test.users, held.test.targets)
    )
    domain = Domain("planted", FEW)
    grown = train_before(domain, "bivrec", 0, new).model
    fresh = build_model(domain, "bivrec", 0).state_dict()["items.id.ids"]
    moved = (grown.state_dict()["items.id.ids"] != fresh).any(1).numpy()
    assert (moved == ~new).all()  # a new item's ID vector is as it was at the start
    assert len(rank_cases(grown, held.test)) == 3 * sum(
        len(targets) for targets in held.test.targets
    )
    known = [grown.score([row])["id"] for row in held.test.histories[:2]]
    assert all(scores.shape == (1, planted.sequences.num_items) for scores in known)


def test_interests_in_use_are_counted(planted, trained):
    use = interest_use(planted, [trained], [10, 20])
    assert use["interests in use"].between(1, planted.settings.model.num_interests + 1e-4).all()
    assert use["clearest share"].between(1 / planted.settings.model.num_interests, 1 + 1e-4).all()
    assert len(use) == 2 * len(planted.fold(0).test)


def test_a_grid_tries_every_combination():
    changes = {
        "training.num_steps": 2,
        "grids": {"small": {"model.scales": [[1], [1, 2]], "model.dropout": [0.0, 0.5]}},
    }
    table = train_grid(Domain("planted", changes), "small", "ndcg@20")
    assert (
        len(table) == 4 * 3
        and set(table["model.scales"]) == {"[1]", "[1, 2]"}
        and set(table["trial"]) == {0, 1, 2, 3}
    )
    assert (table["low"] <= table["value"]).all() and table["value"].nunique() > 4


def test_the_multimodal_view_travels():
    source, target = (
        Domain("planted", {"training.num_steps": 40}),
        Domain("planted-other", {"training.num_steps": 40}),
    )
    carried, donor = (
        carry_view(source, target, "bivrec", 0),
        train_models(source, ["bivrec"], [0])[0].model,
    )
    tokens = "views.multimodal.clusters.tokens"
    assert torch.equal(carried.model.state_dict()[tokens], donor.state_dict()[tokens])
    assert set(rank_models(target, [carried])["view"]) == {"multimodal"}
    assert not torch.equal(
        adapt(target, carried, 0.5, 20).model.state_dict()[tokens], donor.state_dict()[tokens]
    )
    whole = carry_view(source, target, "bivrec", 0, into="bivrec")
    assert (
        torch.equal(whole.model.state_dict()[tokens], donor.state_dict()[tokens])
        and whole.model.items["id"].ids.shape[0] == target.sequences.num_items
    )
    whole.model.views["multimodal"].clusters.tokens.requires_grad_(False)
    adapted = adapt(target, whole, 0.5, 20).model.state_dict()
    assert torch.equal(adapted[tokens], donor.state_dict()[tokens]) and not torch.equal(
        adapted["items.id.ids"], whole.model.items["id"].ids
    )


def test_protocols_split_one_domain_three_ways(planted):
    assert protocol_domain(planted, "by_user") is planted
    others = [protocol_domain(planted, name) for name in ("leave_one_out", "by_time")]
    assert [domain.settings.split.protocol for domain in others] == ["leave_one_out", "by_time"]
    assert all(
        domain.features(0)["text"][0].shape == planted.features(0)["text"][0].shape
        for domain in others
    )


def test_disturbed_gives_the_model_and_the_cases(planted, trained):
    noisy, cases = disturbed(planted, trained, "replace", 0.5)
    assert len(cases) == len(planted.fold(0).test) and noisy.model is not trained.model


def test_operations_are_those_of_the_matrix_products():
    """A step of one view less costs less, and twice the batch about twice as much."""
    one, two = (
        count_costs(
            Domain("planted", {"training.batch_size": size, "features.num_components": 1}),
            "pure-id",
        )["flops_per_step"]
        for size in (16, 32)
    )
    assert 1.5 < two / one < 2.5
    both, single = (count_costs(Domain("planted"), name) for name in ("bivrec", "pure-id"))
    assert all(both[key] > single[key] > 0 for key in ("flops_per_step", "memory_mb"))


def test_memory_counts_what_a_step_holds():
    """A batch twice as large keeps about twice as much for its backward pass; weights and features are there without any."""
    small, large = (
        count_costs(Domain("planted", {"training.batch_size": size}), "bivrec")["memory_mb"]
        for size in (8, 16)
    )
    model = build_model(Domain("planted"), "bivrec", 0)
    still = (
        5 * sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    ) / 1e6
    assert 1.6 < (large - still) / (small - still) < 2.4


def test_lent_vectors_are_the_features_of_the_new_items_alone(planted, trained):
    new = new_items(planted)
    lent = lend_vectors(trained, new).model
    chosen, before, after = (
        torch.from_numpy(new),
        trained.model.items["id"].ids,
        lent.items["id"].ids,
    )
    assert torch.equal(before[~chosen], after[~chosen]) and not torch.equal(
        before[chosen], after[chosen]
    )
    assert torch.allclose(
        torch.cosine_similarity(after[chosen], lent.items["multimodal"]()[chosen], -1),
        torch.ones(int(new.sum())),
        atol=1e-5,
    )
    assert torch.allclose(
        after[chosen].norm(dim=-1), before[~chosen].norm(dim=-1).mean(), atol=1e-5
    )


def test_diagnoses_of_a_trained_model(planted, trained):
    found = diagnose(planted, trained).set_index(["diagnostic", "view"])["value"]
    assert (
        found["kept with the newest 3 items"].index.tolist() == ["both", "id", "multimodal"]
        and (found > 0).all()
    )
    assert (
        found["kept with 30 % of the features swapped", "id"] == 1
    )  # the ID view reads no features
    assert (
        set(found["part of the combined top 20"].index) == {"id", "multimodal"}
        and found["part of the combined top 20"].max() <= 1
    )
    rival = diagnose(planted, train_models(planted, ["sasrec"], [0])[0])
    assert set(rival["view"]) == {"id"} and "part of the combined top 20" not in set(
        rival["diagnostic"]
    )
