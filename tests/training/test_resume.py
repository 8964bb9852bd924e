"""A training that was killed resumes, bit-identical."""

import itertools

import pandas as pd
import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.experiment.training import train_model
from bivrec.training.resume import load_state, save_state


def assert_same_weights(first, second):
    other = second.model.state_dict()
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("name", ["bivrec", "gru4rec", "bivrec-one-target", "without-coarse-loss"])
@pytest.mark.parametrize("killed_at", [7, 31, 45])
def test_a_killed_training_resumes_bit_identical(tmp_path, monkeypatch, name, killed_at):
    """Killed at any step and started again: weights and curve of an undisturbed training, to the
    last bit.
    """
    changes = {
        "training.num_steps": 40,
        "training.step_factor": 1.0,
        "training.evaluate_every": 15,
        "model.final_temperature": 0.5,
    }
    domain = Domain("planted", changes)
    whole = train_model(domain, name, 0)
    last = whole.record.curve["step"].max()
    monkeypatch.setenv("BIVREC_PARTIAL", str(tmp_path))
    family, count = type(whole.model), itertools.count(1)
    loss = family.loss

    def killed(self, batch):
        if next(count) == killed_at:
            raise KeyboardInterrupt
        return loss(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(family, "loss", killed)
        try:
            train_model(domain, name, 0)
        except KeyboardInterrupt:
            assert killed_at <= last
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"] * (killed_at > 15)
    steps = itertools.count()
    monkeypatch.setattr(family, "loss", lambda self, batch: (next(steps), loss(self, batch))[1])
    resumed = train_model(domain, name, 0)
    assert next(steps) == (0 if killed_at > last else last - (killed_at - 1) // 15 * 15)
    assert_same_weights(whole, resumed)
    curves = [trained.record.curve.drop(columns="seconds") for trained in (whole, resumed)]
    pd.testing.assert_frame_equal(*curves, check_exact=True)
    assert whole.record.best_step == resumed.record.best_step
    assert whole.record.num_targets == resumed.record.num_targets


@pytest.mark.parametrize("killed_at", [12, 25])
def test_a_killed_training_with_patience_resumes_bit_identical(tmp_path, monkeypatch, killed_at):
    """Killed before, and after the training stopped: it stops where an undisturbed one does."""
    changes = {"training.num_steps": 100, "training.evaluate_every": 5, "training.patience": 2}
    rates = {"training.learning_rate": 0.1, "training.average_decay": 0.0}  # no lasting progress
    domain = Domain("planted", changes | rates)
    whole = train_model(domain, "pure-id", 0)
    last = whole.record.curve["step"].max()
    assert last < 100
    monkeypatch.setenv("BIVREC_PARTIAL", str(tmp_path))
    count, loss = itertools.count(1), type(whole.model).loss

    def killed(self, batch):
        if next(count) == min(killed_at, last):
            raise KeyboardInterrupt
        return loss(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(type(whole.model), "loss", killed)
        with pytest.raises(KeyboardInterrupt):
            train_model(domain, "pure-id", 0)
    resumed = train_model(domain, "pure-id", 0)
    monkeypatch.setattr(type(whole.model), "loss", lambda *_: pytest.fail("trained"))
    for other in (resumed, train_model(domain, "pure-id", 0)):  # the second is read, not trained
        assert_same_weights(whole, other)
        curves = [trained.record.curve.drop(columns="seconds") for trained in (whole, other)]
        pd.testing.assert_frame_equal(*curves, check_exact=True)


@pytest.mark.parametrize(
    "changed",
    [
        {"model.dropout": 0.3},
        {"training.learning_rate": 0.004},
        {"features.num_components": 8},
        {"split.history_share": 0.5},
        {"studies.primary_metric": "recall@20"},
    ],
    ids=str,
)
def test_a_training_under_other_settings_starts_from_the_beginning(tmp_path, monkeypatch, changed):
    monkeypatch.setenv("BIVREC_PARTIAL", str(tmp_path))
    train_model(Domain("planted", {"training.num_steps": 2}), "bivrec", 0)
    before = set(tmp_path.iterdir())
    train_model(Domain("planted", {"training.num_steps": 2} | changed), "bivrec", 0)
    assert len(before) == 1 and len(set(tmp_path.iterdir())) == 2


def test_a_damaged_state_starts_the_training_again(tmp_path, monkeypatch):
    domain = Domain("planted", {"training.num_steps": 20})
    monkeypatch.setenv("BIVREC_PARTIAL", str(tmp_path))
    whole = train_model(domain, "pure-id", 0)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert_same_weights(whole, train_model(domain, "pure-id", 0))


def test_a_state_is_read_as_it_was_written(tmp_path):
    path, x = tmp_path / "folder" / "state.safetensors", torch.arange(6.0).view(2, 3)
    record = {"step": 3, "curve": [{"value": 0.1}]}
    save_state(path, record, {"best": {"a.weight": x.T}, "moments": {"0": {"step": x[0]}}})
    loaded, tensors = load_state(path)
    assert loaded == record and torch.equal(tensors["best"]["a.weight"], x.T)
    assert torch.equal(tensors["moments"]["0"]["step"], x[0])
    assert load_state(tmp_path / "none") == ({}, {})
