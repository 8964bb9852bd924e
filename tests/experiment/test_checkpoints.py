"""A checkpoint is used for the run that it belongs to, and no other."""

from dataclasses import replace

import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.errors import DataError
from bivrec.experiment.checkpoints import describe_run, hash_data, load_checkpoint, save_checkpoint
from bivrec.experiment.training import train_model


def test_checkpoints(tmp_path):
    domain, path = Domain("planted", {"training.num_steps": 10}), tmp_path / "bivrec-0.safetensors"
    trained, history = train_model(domain, "bivrec", 0), [domain.sequences.of(0)]
    save_checkpoint(domain, trained, path)
    loaded = load_checkpoint(domain, "bivrec", 0, path).score(history)
    for view, scores in trained.model.score(history).items():
        assert torch.equal(loaded[view], scores)
    other = Domain("planted", {"training.num_steps": 11})
    assert load_checkpoint(other, "bivrec", 0, path) is None
    users = {"num_kinds": 6, "items_per_kind": 20, "num_users": 150, "mean_length": 24, "seed": 1}
    fewer = Domain("planted", {"training.num_steps": 10, "datasets.planted.planted": users})
    assert fewer.sequences.num_items == domain.sequences.num_items
    assert load_checkpoint(fewer, "bivrec", 0, path) is None
    assert load_checkpoint(domain, "bivrec", 1, path) is None
    assert load_checkpoint(domain, "bivrec", 0, tmp_path / "none") is None
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="bivrec-0.safetensors is damaged"):
        load_checkpoint(domain, "bivrec", 0, path)


def test_a_checkpoint_belongs_to_the_features_that_its_model_reads(tmp_path, monkeypatch):
    changes, names = {"training.num_steps": 2, "training.warmup_steps": 1}, ("bivrec", "pure-id")
    domain, encode = Domain("planted", changes), Domain.encode_images
    for name in names:
        save_checkpoint(domain, train_model(domain, name, 0), tmp_path / name)

    def replaced(domain: Domain):
        encoded = encode(domain)
        return replace(encoded, values=encoded.values[::-1])

    for same, change in ((True, encode), (False, replaced)):
        monkeypatch.setattr(Domain, "encode_images", change)
        other = Domain("planted", changes)
        loaded = [load_checkpoint(other, name, 0, tmp_path / name) for name in names]
        assert [model is not None for model in loaded] == [same, True]


def test_a_checkpoint_belongs_to_its_users_and_times(planted):
    sequences = planted.sequences
    for key in ("users", "times", "items", "starts"):
        changed = replace(sequences, **{key: getattr(sequences, key) + 1})
        assert hash_data(changed) != hash_data(sequences), key


def test_a_checkpoint_belongs_to_the_metric_that_chose_its_step(planted):
    other = Domain("planted", {"studies.primary_metric": "recall@20"})
    assert describe_run(planted, "bivrec", 0) != describe_run(other, "bivrec", 0)


def test_a_checkpoint_belongs_to_the_family_of_its_model(planted):
    """Two families may have the same name, one after the other, and the same settings."""
    fdsa = {"family": "fdsa", "settings": planted.settings.models["nova"].settings}
    other = Domain("planted", {"models.nova": fdsa})
    assert describe_run(planted, "nova", 0) != describe_run(other, "nova", 0)
