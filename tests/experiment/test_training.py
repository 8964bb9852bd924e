"""Trained models: repeated, in parallel, beside each other."""

import random

import numpy as np
import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.errors import SettingsError
from bivrec.experiment.registry import build_model
from bivrec.experiment.runs import compare, rank_models
from bivrec.experiment.training import describe_fit, train_model, train_models

SHORT = {"training.num_steps": 12, "training.warmup_steps": 4, "training.evaluate_every": 6}


def same_weights(first, second) -> bool:
    other = second.model.state_dict()
    return all(torch.equal(x, other[name]) for name, x in first.model.state_dict().items())


def test_training_repeats_bit_for_bit_and_beats_popularity(planted):
    first, second = train_model(planted, "sasrec", 0), train_model(planted, "sasrec", 0)
    assert same_weights(first, second)
    assert first.record.best_step in first.record.curve["step"].unique()
    ranks = rank_models(planted, [first, *train_models(planted, ["popularity"])])
    assert compare(ranks, ("sasrec", "id"), ("popularity", "id"), "ndcg@20")["low"] > 0


@pytest.mark.parametrize("name", ["esasrec", "bsarec", "unisrec", "tedrec"])
def test_a_baseline_learns(planted, name):
    ranks = rank_models(planted, train_models(planted, [name, "popularity"]))
    (view,) = ranks[ranks["model"] == name]["view"].unique()
    assert compare(ranks, (name, view), ("popularity", "id"), "ndcg@20")["low"] > 0


def test_parallel_jobs_give_the_bits_of_one_process():
    names, steps = ["sasrec", "pure-mm"], {"training.num_steps": 10}
    one = train_models(Domain("planted", steps), names)
    two = train_models(Domain("planted", steps | {"machine.num_workers": 2}), names)
    for first, second in zip(one, two):
        assert first.name == second.name and same_weights(first, second)


def test_a_model_beside_another_changes_none_of_its_numbers():
    names = ["popularity", "gru4rec", "pure-mm", "sasrec", "itemknn"]
    (alone,) = train_models(Domain("planted", SHORT), ["sasrec"])
    beside = train_models(Domain("planted", SHORT | {"machine.num_workers": 1}), names)
    same = next(trained for trained in beside if trained.name == "sasrec")
    curves = [trained.record.curve.drop(columns="seconds") for trained in (alone, same)]
    assert same_weights(alone, same) and curves[0].equals(curves[1])


def test_the_state_of_the_process_changes_nothing():
    first = train_model(Domain("planted", SHORT), "bivrec", 0)
    for number in (1, 2):
        random.seed(number), np.random.seed(number), torch.manual_seed(number)
        torch.rand(number)
    assert same_weights(first, train_model(Domain("planted", SHORT), "bivrec", 0))


@pytest.mark.parametrize(("name", "modality"), [("text-only", "text"), ("image-only", "image")])
def test_a_model_reads_the_features_of_its_own_modality(planted, name, modality):
    assert list(build_model(planted, name, 0).items["multimodal"].maps) == [modality]
    assert list(build_model(planted, "bivrec", 0).items["multimodal"].maps) == ["text", "image"]


def test_shuffled_features_are_those_of_other_items(planted):
    names = "bivrec", "shuffled-features", "shuffled-features"
    tables = [build_model(planted, name, 0).items["multimodal"] for name in names]
    own, other, again = (torch.cat([t.text_values, t.image_values], 1) for t in tables)
    order = torch.cdist(other, own).argmin(1)
    assert torch.equal(other, again)
    assert torch.equal(other, own[order])  # text and image of an item stay together
    assert (order != torch.arange(len(order))).float().mean() > 0.9


def test_an_unknown_model_is_reported(planted):
    with pytest.raises(SettingsError, match="there is no model 'gru'"):
        build_model(planted, "gru", 0)


def test_what_a_cpu_saved_of_a_training_is_not_continued_on_a_gpu(planted, monkeypatch):
    """It holds no random state of a GPU."""
    model, settings = build_model(planted, "sasrec", 0), planted.settings
    described = [describe_fit(model, settings, planted.fold(0), 0, None)]
    monkeypatch.setattr(type(model), "device", property(lambda _: torch.device("cuda")))
    described.append(describe_fit(model, settings, planted.fold(0), 0, None))
    assert len(set(described)) == 2
