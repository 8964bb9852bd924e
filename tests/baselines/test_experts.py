"""UniSRec against loops that follow its definition."""

import pytest
import torch
from loops import build, row, some_features, transform


def mix_experts(experts, x):
    """The experts' whitened maps of one vector, weighed by the gates without noise."""
    shares, parts = experts.gate(x).softmax(0), experts.experts.weight.chunk(len(experts.shift))
    return sum(g * (w @ x - c) for g, w, c in zip(shares, parts, experts.shift, strict=True))


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
    assert len(experts.shift) == 8


def test_the_gates_are_noisy_in_training_only():
    experts, x = build("unisrec", model__dropout=0.0).items.maps["text"], torch.randn(3, 6)
    assert torch.equal(experts(x), experts(x))
    experts.train()
    assert not torch.equal(experts(x), experts(x))
