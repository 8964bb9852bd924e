"""Cold start: groups that lose nobody, items held out of training, vectors lent to them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from bivrec.data.domain import Domain
from bivrec.data.features import describe_items
from bivrec.evaluation import rank_cases
from bivrec.experiment.registry import build_model
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_models
from bivrec.studies import cold_start
from bivrec.studies.cold_start import (
    group_by_history,
    group_by_popularity,
    interest_use,
    lend_vectors,
    name_groups,
    new_items,
    order_groups,
    rank_cut,
    train_before,
    without_new_items,
)


def test_groups():
    assert list(name_groups([0, 5, 6, 10, 11], [5, 10])) == ["0-5", "0-5", "6-10", "6-10", "> 10"]
    groups = {"kind": ["b", "b", "a", "b", "a"], "group": ["> 10", "6-10", "10", "0-5", "2"]}
    table = order_groups(pd.DataFrame(groups))
    assert table["kind"].tolist() == ["b", "b", "b", "a", "a"]
    assert table["group"].tolist() == ["0-5", "6-10", "> 10", "2", "10"]


def test_groups_lose_nobody(planted):
    ranks = rank_models(planted, train_models(planted, ["popularity"]))
    users = group_by_history(planted, ranks, [10, 20])
    items = group_by_popularity(planted, ranks, [5, 20])
    assert len(users) == len(items) == len(ranks)
    train = np.concatenate(planted.fold(0).train)
    counts = np.bincount(train, minlength=planted.sequences.num_items)
    for row in items.itertuples():
        low, high = {"0-5": (0, 5), "6-20": (6, 20), "> 20": (21, 10**9)}[row.group]
        assert low <= counts[row.item] <= high
    groups = items.groupby(["user", "group"], observed=True)
    assert (groups["num_targets"].first() == groups.size()).all()


def test_histories_are_cut_to_their_newest_items(planted):
    changed = Domain("planted", {"cold_start.history_cuts": [1, 1000]})
    models = train_models(changed, ["itemknn-recency"])
    cut, whole = rank_cut(changed, models), rank_models(changed, models)
    assert cut["group"].unique().tolist() == ["1", "1000"]
    uncut = cut.loc[cut["group"] == "1000", "rank"].to_numpy()
    assert np.array_equal(uncut, whole["rank"].to_numpy())
    assert not np.array_equal(cut.loc[cut["group"] == "1", "rank"].to_numpy(), uncut)


def test_a_cut_changes_nothing_for_a_model_that_reads_no_history(planted):
    """What is cut off does not return to the ranking."""
    models = train_models(planted, ["popularity"])
    whole = rank_models(planted, models)["rank"].to_numpy()
    for _, cut in rank_cut(planted, models).groupby("group"):
        assert np.array_equal(cut["rank"].to_numpy(), whole)


def test_new_items_are_met_by_nobody(planted):
    new, fold = new_items(planted), planted.fold(0)
    assert 0.03 < new.mean() < 0.2
    held = without_new_items(fold, new)
    cases = (held.validation.histories, held.validation.targets, held.test.histories)
    assert not new[np.concatenate([*held.train, *(row for rows in cases for row in rows)])].any()
    assert new[np.concatenate(held.test.targets)].all()
    assert len(held.train) == len(fold.train) and len(held.validation) <= len(fold.validation)
    whole = {user: set(targets) for user, targets in zip(fold.test.users, fold.test.targets)}
    for user, targets in zip(held.test.users, held.test.targets):
        assert set(targets) <= whole[user]
    seen = dict(zip(fold.test.users, fold.test.histories))
    assert all(seen[user] is row for user, row in zip(held.test.users, held.test.masked))


def test_new_items_have_no_tags():
    """A new item's tags would be from training users who know it, and say that it is popular."""
    domain = Domain("planted")
    new, sequences = new_items(domain), domain.sequences
    pairs = [(user, item) for user in range(sequences.num_users) for item in sequences.of(user)]
    tags = pd.DataFrame(pairs, columns=["user", "item"]).assign(tag="fine", time=0)
    vars(domain)["sequences"] = replace(sequences, tags=tags)
    before = without_new_items(domain.fold(0), new)
    texts = describe_items(domain.sequences, before)
    assert all(text.endswith(". fine") != is_new for text, is_new in zip(texts, new))
    encoded = domain._with_tags_of(before, domain.item_features("text", 0), 0)
    untagged = Domain("planted").item_features("text", 0).values
    assert np.allclose(encoded.values[new], untagged[new])
    tagged = domain.item_features("text", 0).values
    assert np.array_equal(encoded.values[~new], tagged[~new])
    assert not np.allclose(encoded.values[new], tagged[new])
    ours, theirs = (domain.features(0, fold=fold)["text"][0] for fold in (before, None))
    assert not torch.equal(ours, theirs)


def test_an_interest_without_any_share_counts_as_unused(planted, trained, monkeypatch):
    shares = torch.zeros(1, len(planted.fold(0).test), 3, 4)
    shares[..., 0] = 1.0
    read = {"allocation": shares, "mask": torch.ones(shares.shape[1:3], dtype=torch.bool)}
    monkeypatch.setattr(cold_start, "read_interests", lambda *_: {"id": read})
    assert (interest_use(planted, [trained], [10])["interests in use"] == 1).all()


def test_a_catalogue_grows_by_new_items(planted):
    new = new_items(planted)
    test = without_new_items(planted.fold(0), new).test
    domain = Domain("planted", {"training.num_steps": 10})
    grown = train_before(domain, "bivrec", 0, new).model
    fresh = build_model(domain, "bivrec", 0).state_dict()["items.id.ids"]
    moved = (grown.state_dict()["items.id.ids"] != fresh).any(1).numpy()
    assert (moved == ~new).all()  # a new item's ID vector is as it was initialised
    assert len(rank_cases(grown, test)) == 3 * sum(len(targets) for targets in test.targets)
    for row in test.histories[:2]:
        assert grown.score([row])["id"].shape == (1, planted.sequences.num_items)


def test_lent_vectors_are_the_features_of_the_new_items_alone(planted, trained):
    new = new_items(planted)
    lent, rows = lend_vectors(trained, new).model, torch.from_numpy(new)
    before, after = trained.model.items["id"].ids, lent.items["id"].ids
    assert torch.equal(before[~rows], after[~rows]) and not torch.equal(before[rows], after[rows])
    cosine = torch.cosine_similarity(after[rows], lent.items["multimodal"]()[rows], -1)
    assert torch.allclose(cosine, torch.ones(int(new.sum())), atol=1e-5)
    norms, known = after[rows].norm(dim=-1), before[~rows].norm(dim=-1).mean()
    assert torch.allclose(norms, known, atol=1e-5)


def test_interests_in_use_are_counted(planted, trained):
    use = interest_use(planted, [trained], [10, 20])
    num_interests = planted.settings.model.num_interests
    assert use["interests in use"].between(1, num_interests + 1e-4).all()
    assert use["clearest share"].between(1 / num_interests, 1 + 1e-4).all()
    assert len(use) == 2 * len(planted.fold(0).test)
