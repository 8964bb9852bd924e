"""How a user's interests differ, against loops and limits."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.evaluation import user_metrics
from bivrec.experiment.registry import Trained, build_model
from bivrec.experiment.runs import rank_models
from bivrec.experiment.structure import (
    COLLAPSED,
    CONTROLS,
    TOP,
    apply_control,
    compare_controls,
    effective_number,
    has_structure,
    interest_structure,
    rank_controls,
    share_of_others,
    structure_of_users,
    structure_runs,
    summarise_structure,
)

CHANGES = {"model.num_interests": 3, "model.num_nearest": 1}


@pytest.fixture(scope="module")
def domain():
    return Domain("planted", CHANGES)


@pytest.fixture(scope="module")
def trained(domain):
    return Trained("bivrec", 0, build_model(domain, "bivrec", 0).eval())


def test_numbers_of_interests_by_hand():
    nearest, owned = torch.tensor([[0, 0, 1, 2], [1, 1, 1, 0]]), torch.ones(2, 4, dtype=torch.bool)
    owned[1, 3] = False
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert effective_number(nearest, owned, 3).tolist() == pytest.approx([math.exp(entropy), 1.0])
    assert share_of_others(nearest).tolist() == pytest.approx([0.5, 0.25])


def test_structure_by_loop(domain, trained):
    cases = domain.fold(0).test
    table = interest_structure(trained, cases).set_index(["view", "user"])
    history, user, model = cases.histories[3], cases.users[3], trained.model
    items = torch.from_numpy(history[-model.max_length :])[None]
    tables, mask = model.tables(), torch.ones_like(items, dtype=torch.bool)
    items = torch.nn.functional.pad(items, (0, -items.shape[1] % model.multiple))
    mask = torch.nn.functional.pad(mask, (0, -mask.shape[1] % model.multiple))
    lists = {}
    for view, interests in model.encode_last(items, mask, tables).items():
        scores = interests[0] @ tables[view].T
        scores[:, history] = -torch.inf
        lists[view] = [set(row.topk(TOP).indices.tolist()) for row in scores]
        pairs = [(0, 1), (0, 2), (1, 2)]
        cosines = [torch.cosine_similarity(*interests[0, [a, b]], dim=0).item() for a, b in pairs]
        overlaps = [len(lists[view][a] & lists[view][b]) / TOP for a, b in pairs]
        row = table.loc[(view, user)]
        assert row["cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
        assert row["overlap"] == pytest.approx(np.mean(overlaps), abs=1e-5)
    assert table["effective_interests"].between(1, 3 + 1e-5).all()
    assert table["other_interests"].between(0, 1 - 1 / 3).all()


def test_merged_interests_are_their_mean(trained):
    rows = torch.zeros(1, 4).long(), torch.ones(1, 4).bool(), trained.model.tables()
    merged = apply_control(trained.model, "interests merged").encode_last(*rows)
    for view, interests in trained.model.encode_last(*rows).items():
        assert torch.equal(merged[view], interests.mean(1, keepdim=True))


def test_each_view_is_allocated_by_draws_of_its_own_that_repeat(trained):
    logits = torch.zeros(4, 30, 3)
    first, again = (
        [view.clusters.allocate(logits) for view in control.views.values()]
        for control in (apply_control(trained.model, "allocation randomised") for _ in range(2))
    )
    assert all(map(torch.equal, first, again))
    same = (first[0] * first[1]).sum(-1).mean().item()  # F = 1 of K = 3
    assert same == pytest.approx(1 / 3, abs=0.15)


def test_controls_leave_the_model_as_it_was(domain, trained):
    history = domain.fold(0).test.histories[:4]
    before = trained.model.score(history)["both"]
    for control in CONTROLS:
        assert not torch.equal(apply_control(trained.model, control).score(history)["both"], before)
    assert torch.equal(trained.model.score(history)["both"], before)


def test_runs_hold_each_measure(domain, trained):
    runs = structure_runs(domain, structure_of_users(domain, [trained]), "training")
    wanted = {"cosine", "overlap", "effective_interests", "other_interests", "same_interest"}
    assert set(runs["metric"]) == wanted and not runs.isna().any().any()


def test_a_control_is_compared_on_the_same_users(domain, trained):
    ranks = rank_models(domain, [trained])
    controls = rank_controls(domain, [trained])
    table = compare_controls(ranks, controls, "ndcg@20").set_index(["ours", "theirs"])
    assert len(table) == len(CONTROLS) * 3
    means = [user_metrics(x[x["view"] == "id"])["ndcg@20"].mean() for x in (ranks, controls)]
    merged = controls[controls["condition"] == "interests merged"]
    means[1] = user_metrics(merged[merged["view"] == "id"])["ndcg@20"].mean()
    loss = table.loc[("bivrec id", "bivrec, interests merged id"), "mean"]
    assert loss == pytest.approx(means[0] - means[1])


def test_verdicts_on_the_bounds():
    values = {
        "overlap": [0.4, 0.5],
        "effective_interests": [1.0, 1.5],
        "other_interests": [0.2, 0.5],
    }
    rows = [
        ("bivrec", 0, "id", user, measure, value)
        for measure, pair in values.items()
        for user, value in enumerate(pair)
    ]
    users = pd.DataFrame(rows, columns="model seed view user measure value".split())
    judged = summarise_structure(users, num_interests=4).set_index("measure")
    assert judged["verdict"].to_dict() == {
        "overlap": "holds",
        "effective_interests": "fails",
        "other_interests": "open",
    }
    assert judged.loc["overlap", "mean"] == pytest.approx(0.45)


def test_collapsed_interests_fail_though_equal_values_have_no_interval():
    rows = [("bivrec", 0, "id", user, "effective_interests", 1.0) for user in range(5)]
    users = pd.DataFrame(rows, columns="model seed view user measure value".split())
    assert summarise_structure(users, num_interests=4)["verdict"].tolist() == ["fails"]


def test_collapsed_interests_supply_no_share_of_the_list(domain):
    """Of one vector K times, any may score an item best: the share of the others says nothing."""
    collapsed = Trained("bivrec", 0, build_model(domain, "bivrec", 0).eval())
    with torch.no_grad():
        collapsed.model.views["id"].clusters.norms[2].weight.zero_()
        collapsed.model.views["id"].clusters.norms[2].bias.fill_(1)
    users = structure_of_users(domain, [collapsed])
    judged = summarise_structure(users, num_interests=3).set_index(["view", "measure"])["mean"]
    assert judged["id", "overlap"] > COLLAPSED and ("id", "other_interests") not in judged
    assert judged["multimodal", "overlap"] < COLLAPSED
    assert judged["multimodal", "other_interests"] > 0


def test_a_catalogue_shorter_than_the_lists():
    changes = CHANGES | {"datasets.planted.planted.num_kinds": 2}
    changes["datasets.planted.planted.items_per_kind"] = 9
    small = Domain("planted", changes)
    model = Trained("bivrec", 0, build_model(small, "bivrec", 0).eval())
    assert small.sequences.num_items < TOP
    table = interest_structure(model, small.fold(0).test)
    assert table["overlap"].between(0, 1).all() and table["cosine"].notna().all()


def test_one_interest_has_no_structure(domain):
    one = Domain("planted", {"model.num_interests": 1, "model.num_nearest": 1})
    models = [Trained("bivrec", 0, build_model(one, "bivrec", 0))]
    models.append(Trained("popularity", 0, build_model(domain, "popularity", 0)))
    assert not any(map(has_structure, models))
    users = structure_of_users(domain, models)
    assert not len(structure_runs(domain, users, "training"))
    assert not len(summarise_structure(users, 1))
    controls = rank_controls(domain, models)
    assert not len(compare_controls(rank_models(domain, models), controls, "ndcg@20"))
