"""SASRec, GRU4Rec and ComiRec-SA against loops that follow their sources' definitions."""

import math

import pytest
import torch
from loops import LENGTH, attend, build, row, state_of, transform

from bivrec.model.base import Batch


def test_sasrec_by_loop():
    model = build("sasrec")
    state, vectors = state_of(model)
    assert torch.allclose(state[0], transform(model.encoder, vectors["id"])[-1], atol=1e-5)


def test_esasrec_by_loop():
    """Both gates read what the block adds to, not its normalised form."""
    model = build("esasrec")
    (found,), vectors = state_of(model)
    encoder, e = model.encoder, vectors["id"]
    x = encoder.embedding.norm(e) + encoder.embedding.position[:LENGTH] + encoder.embedding.scale[0]
    for block in encoder.blocks:
        query, key, value = block.attention.project(block.norms[0](x)).chunk(3, -1)
        mixed = block.attention.out(attend([query], [key], value, block.attention.num_heads))
        x = x + torch.sigmoid(block.gates[0](x)) * mixed
        gate, hidden = block.feed.inner(block.norms[1](x)).chunk(2, -1)
        fed = block.feed.out(gate * torch.sigmoid(gate) * hidden)
        x = x + torch.sigmoid(block.gates[1](x)) * fed
    assert len(encoder.blocks) == 2 and torch.allclose(found, encoder.norm(x)[-1], atol=1e-5)


def test_bsarec_filters_every_prefix_at_its_end():
    """The low frequencies of each prefix by a Fourier transform, padded in front to full length."""
    model = build("bsarec", baseline__num_frequencies=2, model__max_length=12)
    attention, x = model.encoder.blocks[0].attention, torch.randn(1, LENGTH, 8)
    low = []
    for end in range(1, LENGTH + 1):
        padded = torch.cat([torch.zeros(12 - end, 8), x[0, :end]])
        spectrum = torch.fft.fft(padded.double(), dim=0)
        spectrum[2:-1] = 0  # frequencies 0, 1 and -1 stay
        low.append(torch.fft.ifft(spectrum, dim=0).real[-1].float())
    filtered = torch.stack(low) + attention.high**2 * (x[0] - torch.stack(low))
    query, key, value = attention.project(x[0]).chunk(3, -1)
    attended = attention.out(attend([query], [key], value, attention.num_heads))
    assert torch.allclose(attention(x)[0], 0.7 * filtered + 0.3 * attended, atol=1e-5)


def test_a_sum_of_two_sasrecs_is_both():
    model = build("sasrec-sum")
    items, mask = row()
    interests = model.interests(items, mask)
    for view, part in model.parts.items():
        table = part.tables()[view]
        expected = transform(part.encoder, table[items[0]])[-1]
        assert torch.allclose(interests[view][0, -1, 0], expected, atol=1e-5)
    batch = Batch(items, mask, items + 1, mask, torch.tensor([0]))
    expected = sum(part.loss(batch) for part in model.parts.values())
    assert torch.allclose(model.loss(batch), expected)


def test_gru4rec_by_loop():
    """Reset and update gates, in the order r, z, n."""
    model = build("gru4rec", baseline__inner_dim=5)
    found, vectors = state_of(model)
    cells, state = model.cells, torch.zeros(5)
    for e in vectors["id"]:
        inputs = (cells.weight_ih_l0 @ e + cells.bias_ih_l0).chunk(3)
        past = (cells.weight_hh_l0 @ state + cells.bias_hh_l0).chunk(3)
        reset, update = torch.sigmoid(inputs[0] + past[0]), torch.sigmoid(inputs[1] + past[1])
        state = (1 - update) * torch.tanh(inputs[2] + reset * past[2]) + update * state
    assert torch.allclose(found[0], model.out(state), atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_comirec_by_loop(scale):
    """Also where the scores are so large that their exponentials overflow."""
    model = build("comirec-sa", baseline__num_interests=3)
    torch.nn.init.normal_(model.attend[2].weight, std=scale)
    found, vectors = state_of(model)
    inner, outer, e = model.attend[0].weight, model.attend[2].weight, vectors["id"]
    assert found.shape == (3, 8) and inner.shape == (32, 8)
    for k in range(3):
        hidden = [torch.tanh(inner @ (e[j] + model.position[j])) for j in range(LENGTH)]
        logits = [(outer[k] @ h).item() for h in hidden]
        shares = [math.exp(logit - max(logits)) for logit in logits]
        expected = sum(share / sum(shares) * e[j] for j, share in enumerate(shares))
        assert torch.allclose(found[k], expected, atol=1e-5)


def test_comirec_trains_the_nearest_interest():
    model = build("comirec-sa", baseline__num_interests=3)
    items, mask = row()
    interests, table = model.interests(items, mask)["id"][0], model.items.ids
    total = 0.0
    for t in range(LENGTH):
        nearest = max(interests[t], key=lambda u: (u @ table[9]).item())
        total -= (table @ nearest).log_softmax(0)[9].item() / LENGTH
    batch = Batch(items, mask, torch.full_like(items, 9), mask, torch.tensor([0]))
    assert model.loss(batch).item() == pytest.approx(total, abs=1e-4)
