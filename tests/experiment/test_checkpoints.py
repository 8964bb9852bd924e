"""A checkpoint is used for the run that it belongs to, and no other."""

import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.errors import DataError
from bivrec.experiment.checkpoints import load_checkpoint, save_checkpoint
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
