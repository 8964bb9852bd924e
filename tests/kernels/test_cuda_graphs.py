"""Encoders that are record_encoders as CUDA graphs, with a stand-in for CUDA's recording."""

import itertools
from contextlib import nullcontext

import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.experiment.registry import build_model
from bivrec.kernels.cuda_graphs import record_encoders
from bivrec.training.batches import draw_batches


@pytest.fixture
def recordings(monkeypatch) -> list[torch.Size]:
    """The shapes that are record_encoders; the stand-in hands the function back."""
    shapes = []

    def record(call, samples, **_):
        shapes.append(samples[0].shape)
        return call

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.random, "fork_rng", lambda _: nullcontext())
    return shapes


def train(name: str, within) -> list[torch.Tensor]:
    """The last of 12 losses, and every gradient, summed."""
    domain = Domain("planted", {"model.dropout": 0.0, "model.assignment": "soft"})
    model = build_model(domain, name, 0).train()
    batches = draw_batches(domain.fold(0).train, model.settings.training, 24, 12, 0)
    with within(model):
        for batch in itertools.islice(batches, 12):
            loss = model.loss(batch)
            loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bivrec", "sasrec-sum"])
def test_a_recorded_encoder_is_the_encoder(recordings, name):
    """A shape is recorded when it occurs again; gradients reach the encoder's own parameters."""
    pairs = zip(train(name, record_encoders), train(name, lambda _: nullcontext()), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    assert len(recordings) >= 2 and len(set(recordings)) >= 2


def test_nothing_is_recorded_outside_training_nor_left_behind(recordings, planted):
    model, batches = build_model(planted, "bivrec", 0), []
    model.eval()
    history = planted.fold(0).train[0]
    with record_encoders(model):
        batches = [model.score([history]) for _ in range(3)]
        assert all("forward" in vars(view) for view in model.views.values())
    assert not recordings and not any("forward" in vars(view) for view in model.views.values())
    assert torch.equal(batches[0]["both"], model.score([history])["both"])


def test_an_annealed_temperature_is_not_recorded(recordings):
    """A graph would fix it."""
    domain = Domain("planted", {"model.final_temperature": 0.2, "model.assignment": "hard"})
    model = build_model(domain, "bivrec", 0)
    with record_encoders(model):
        assert not any("forward" in vars(module) for module in model.modules())
