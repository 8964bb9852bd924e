"""UniSRec and TedRec against loops that follow their definitions."""

import pytest
import torch
from loops import LENGTH, build, row, some_features, transform

from bivrec.baselines.experts import causal_convolution


def mix_experts(experts, x, position=0):
    """The experts' whitened maps of one vector, weighed by the gates without noise."""
    shares, shifts = experts.gate(x).softmax(0), experts.shift[position]
    parts = experts.experts.weight.chunk(len(shifts))
    return sum(g * (w @ x - c) for g, w, c in zip(shares, parts, shifts, strict=True))


def with_random_weights(model):
    """Those that start at zero."""
    for key, parameter in model.named_parameters():
        if key.endswith(("shift", "gate.weight", "noise.weight")):
            torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("inputs", ["multimodal", "fused"])
def test_unisrec_by_loop(inputs):
    features = some_features(["text"])
    model = with_random_weights(build("unisrec", features, models__unisrec__settings={
        "baseline.inputs": inputs, "baseline.temperature": 0.07
    }))  # fmt: skip
    table, (values, mask) = model.items, features["text"]
    experts, missing = table.maps["text"], table.missing["text"]
    vectors = [mix_experts(experts, x) if there else missing for x, there in zip(values, mask)]
    vectors = torch.stack(vectors) + (table.ids if inputs == "fused" else 0)
    direction, items = vectors / vectors.norm(dim=1, keepdim=True), row()[0][0]
    state = transform(model.encoder, direction[items])[-1]
    (scores,) = model.score([items.numpy()]).values()
    assert torch.allclose(scores[0], direction @ state / state.norm() / 0.07, atol=1e-4)
    assert experts.shift.shape == (1, 8, 8)


def test_the_causal_convolution_is_a_product_of_spectra():
    """Of sequences followed by as much padding again; every row has a filter, or all have one."""
    x, weights = torch.randn(2, 3, 9, 4)
    for filters in (weights, weights[0]):
        spectra = (torch.fft.rfft(v, 18, dim=-2) for v in (x, filters))
        expected = torch.fft.irfft(next(spectra) * next(spectra), 18, dim=-2)[:, :9]
        assert torch.allclose(causal_convolution(x, filters), expected, atol=1e-5)


def test_tedrec_by_loop():
    features = some_features(["text"])
    model = with_random_weights(build("tedrec", features))
    torch.nn.init.normal_(model.filter)
    table, (values, mask), items = model.items, features["text"], row()[0][0]
    experts, missing, length = table.maps["text"], table.missing["text"], model.max_length
    assert experts.shift.shape == (length, 8, 8)
    text = [
        mix_experts(experts, values[item], t) if mask[item] else missing
        for t, item in enumerate(items)
    ]
    vectors, ids = [], table.ids[items]
    for t in range(LENGTH):
        filtered = sum(model.filter[t - i] * ids[i] for i in range(t + 1))
        fused = sum(text[t - i] * ids[i] for i in range(t + 1)) / length**0.5
        gates = [torch.sigmoid(gate(x)) for gate, x in zip(model.gates, (filtered, fused))]
        vector = gates[0] * filtered + gates[1] * fused
        vectors.append(vector / vector.norm())
    state = transform(model.encoder, torch.stack(vectors))[-1]
    expected = table.ids @ state / table.ids.norm(dim=1) / state.norm() / 0.07
    assert torch.allclose(model.score([items.numpy()])["both"][0], expected, atol=1e-4)


def test_the_gates_are_noisy_in_training_only():
    experts, x = build("unisrec", model__dropout=0.0).items.maps["text"], torch.randn(3, 6)
    assert torch.equal(experts(x), experts(x))
    experts.train()
    assert not torch.equal(experts(x), experts(x))
