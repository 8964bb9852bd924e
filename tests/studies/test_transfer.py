"""A view carried to another domain."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.data.features import describe_items
from bivrec.errors import LeftOut
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_models
from bivrec.studies.transfer import (
    adapt,
    carry_view,
    share_of_users,
    shared_items,
    target_features,
    transfer,
)

TOKENS = "views.multimodal.clusters.tokens"


@pytest.fixture(scope="module")
def domains():
    return [Domain(name, {"training.num_steps": 40}) for name in ("planted", "planted-other")]


@pytest.fixture(scope="module")
def donor(domains):
    return train_models(domains[0], ["bivrec"], [0])[0].model.state_dict()


def test_the_multimodal_view_travels(domains, donor):
    target = domains[1]
    carried = carry_view(*domains, "bivrec", 0)
    assert torch.equal(carried.model.state_dict()[TOKENS], donor[TOKENS])
    assert set(rank_models(target, [carried])["view"]) == {"multimodal"}
    adapted = adapt(target, carried, 0.5, 20).model.state_dict()
    assert not torch.equal(adapted[TOKENS], donor[TOKENS])


def test_an_id_view_stands_beside_it(domains, donor):
    target = domains[1]
    whole = carry_view(*domains, "bivrec", 0, into="bivrec")
    assert torch.equal(whole.model.state_dict()[TOKENS], donor[TOKENS])
    assert whole.model.items["id"].ids.shape[0] == target.sequences.num_items
    whole.model.views["multimodal"].clusters.tokens.requires_grad_(False)
    adapted = adapt(target, whole, 0.5, 20).model.state_dict()
    assert torch.equal(adapted[TOKENS], donor[TOKENS])
    assert not torch.equal(adapted["items.id.ids"], whole.model.items["id"].ids)


def test_a_target_has_the_tags_of_the_users_who_train(domains):
    """Before any of them trains, it has none."""
    source, target = domains[0], Domain("planted-other")
    sequences = target.sequences
    pairs = [(user, item) for user in range(sequences.num_users) for item in sequences.of(user)]
    tags = pd.DataFrame(pairs, columns=["user", "item"]).assign(tag="fine", time=0)
    vars(target)["sequences"] = replace(sequences, tags=tags)
    tagged = []
    for share in (0.0, 0.01, 1.0):
        fold = share_of_users(target, 0, share)
        items = set(np.concatenate([np.empty(0, int), *fold.train]).tolist())
        texts = describe_items(target.sequences, fold)
        assert {item for item, text in enumerate(texts) if text.endswith(". fine")} == items
        tagged.append(len(items))
        if share < 1:
            values = target_features(source, target, 0, share)["text"][0]
            known = target.features(0, basis=source)["text"][0]
            assert not torch.equal(values, known)
    assert tagged[0] == 0 < tagged[1] < tagged[2] == sequences.num_items
    bare = Domain("planted-other").features(0, basis=source)["text"][0]
    assert torch.allclose(target_features(source, target, 0, 0.0)["text"][0], bare, atol=1e-6)


def test_items_are_shared_if_their_ids_and_titles_are():
    films = pd.DataFrame({"item": [0, 1, 2], "title": ["Heat", "", "Alien"]})
    others = pd.DataFrame({"item": [0, 1, 2, 3], "title": ["Heat", "", "Solaris", "Alien"]})
    assert shared_items(films, others)["item"].tolist() == [0]
    assert len(shared_items(films, films[["item", "title"]][1:2])) == 0


def test_domains_whose_features_differ_in_kind_are_left_out(monkeypatch):
    both, text = Domain("planted"), Domain("planted-other", {"features.modality": "text"})
    with pytest.raises(LeftOut, match="planted has text and image, planted-other has text; set"):
        transfer(both, text)
    with pytest.raises(LeftOut, match="planted-other has text, planted has text and image; set"):
        transfer(text, both)
    read = Domain.item_features

    def half(domain, modality, seed):
        features = read(domain, modality, seed)
        return replace(
            features, values=features.values[:, : 32 if domain.name == "planted" else 99]
        )

    monkeypatch.setattr(Domain, "item_features", half)
    sentence = (
        "the text vectors of planted have 32 numbers, those of planted-other 64; "
        "give both the same features.text_encoder"
    )
    with pytest.raises(LeftOut, match=sentence):
        transfer(both, Domain("planted-other"))


@pytest.mark.parametrize("protocol", ["by_interactions", "leave_one_out", "by_time"])
def test_protocols_under_which_test_users_may_train_are_left_out(protocol):
    pair = [Domain(name, {"split.protocol": protocol}) for name in ("planted", "planted-other")]
    with pytest.raises(LeftOut, match="may train on test users of planted-other; set by_user for"):
        transfer(*pair)


def test_a_training_with_fixed_tokens_is_another_one(domains, donor, tmp_path, monkeypatch):
    """Each is saved and read on its own."""
    monkeypatch.setenv("BIVREC_PARTIAL", str(tmp_path))
    found = []
    for fixed in (False, True):
        carried = carry_view(*domains, "bivrec", 0)
        carried.model.views["multimodal"].clusters.tokens.requires_grad_(not fixed)
        found.append(adapt(domains[1], carried, 0.5, 20).model.state_dict())
    free, held = found
    assert torch.equal(held[TOKENS], donor[TOKENS]) and not torch.equal(free[TOKENS], donor[TOKENS])
    key = "views.multimodal.clusters.out.weight"
    assert not torch.equal(free[key], held[key])


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"model.dim": 16}, "planted has model.dim: 16, planted-other 32; set the same for both"),
        (
            {"model.scales": [1]},
            r"has model.scales: \(1,\), planted-other \(1, 2, 4\); set the same",
        ),
        ({"model.kernel": "distance"}, "planted has model.kernel: distance, planted-other rbf"),
        ({"features.num_components": 8}, "planted has features.num_components: 8, planted-other"),
        ({"split.num_folds": 4}, "planted has split.num_folds: 4, planted-other"),
        (
            {"models.pure-mm.settings": {"model.views": ["multimodal"], "model.num_interests": 2}},
            "planted has model.num_interests: 2, planted-other 6",
        ),
    ],
)
def test_domains_whose_models_or_folds_differ_are_left_out(changes, told, monkeypatch):
    trained = "bivrec.studies.transfer.train_models"
    monkeypatch.setattr(trained, lambda *_: pytest.fail("trained"))
    with pytest.raises(LeftOut, match=told):
        transfer(Domain("planted", changes), Domain("planted-other"))


def test_domains_may_differ_in_what_training_alone_reads(monkeypatch):
    monkeypatch.setattr("bivrec.studies.transfer.run_jobs", lambda *_: [pd.DataFrame()])
    changes = {"model.dropout": 0.1, "training.num_steps": 5, "model.information_weight": 0.0}
    assert transfer(Domain("planted", changes), Domain("planted-other")).empty
