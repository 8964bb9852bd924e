"""Gaussian attention against loops that follow the paper's words, and what must not mix in it."""

import math

import pytest
import torch

from bivrec.model.attention import GaussianAttention, gaussian_weights
from bivrec.model.embedding import PatchLayout, by_residue

KERNELS = ["rbf", "rbf_normalised", "distance", "softmax"]
DIM, HEADS, LENGTH, SCALES = 8, 2, 8, (1, 2, 4)


def attention_of(kernel: str) -> GaussianAttention:
    attention = GaussianAttention(DIM, HEADS, kernel, LENGTH)
    if attention.bias is not None:
        torch.nn.init.normal_(attention.bias)
    return attention


def layout_of(mask: torch.Tensor) -> PatchLayout:
    """The patches of every prefix of rows of LENGTH items."""
    flat = torch.cat([by_residue(mask, scale).flatten(1) for scale in SCALES], 1)
    return PatchLayout(flat, tuple((scale, LENGTH // scale) for scale in SCALES), True)


def attend_by_loop(attention, x, t, head, others, scale):
    """One head of the patch at position t, which takes from the patches at `others`."""
    width = DIM // HEADS
    query, key, value = attention.project(x).view(LENGTH, 3, HEADS, width).unbind(1)
    logits = []
    for j in others:
        steps = abs(t - j) // scale
        if attention.kernel == "distance":
            bias = -(steps**2) / (2 * attention.width[head] ** 2 + 1e-6)
        else:
            bias = attention.bias[steps, head]
        if attention.kernel.startswith("rbf"):
            similarity = -(query[t, head] - key[j, head]).square().sum() / 2
        else:
            similarity = query[t, head] @ key[j, head]
        logits.append(similarity / math.sqrt(width) + bias)
    weights = torch.stack(logits).exp()
    weights = weights if attention.kernel == "rbf" else weights / weights.sum()
    return weights @ value[others, head]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [True, False])
def test_gaussian_attention_by_loop(kernel, causal):
    attention, real = attention_of(kernel), 7
    layout = layout_of(torch.arange(LENGTH)[None] < real)
    x = torch.randn(1, len(SCALES) * LENGTH, DIM)
    inputs, outputs = (layout.split(part) for part in (x, attention(x, layout, causal)))
    for scale, patches, mixed in zip(SCALES, inputs, outputs):
        by_position = layout.at_prefixes(patches)[0]
        for t in range(real):
            last = t + 1 if causal else real
            others = list(range(t % scale, last, scale))
            heads = [
                attend_by_loop(attention, by_position, t, head, others, scale)
                for head in range(HEADS)
            ]
            found = mixed[0, t % scale, t // scale]
            assert torch.allclose(found, attention.out(torch.cat(heads)), atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [True, False])
def test_rows_scales_and_residues_do_not_mix(kernel, causal):
    attention = attention_of(kernel)
    layout = layout_of(torch.arange(LENGTH) < torch.tensor([[8], [5], [1]]))
    x = torch.randn(3, len(SCALES) * LENGTH, DIM)
    before = attention(x, layout, causal)
    starts = [0]  # the first patch of each residue of each scale
    for num_residues, num_patches in layout.shapes:
        starts += [starts[-1] + num_patches * (n + 1) for n in range(num_residues)]
    for start, end in zip(starts, starts[1:]):
        changed = x.clone()
        changed[1, start:end] += 1
        same = attention(changed, layout, causal) == before
        assert same[[0, 2]].all() and same[1, :start].all() and same[1, end:].all()
        assert not same[1, start:end].all(-1).any()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [True, False])
def test_patches_of_padding_give_nothing(kernel, causal):
    attention, mask = attention_of(kernel), torch.arange(LENGTH)[None] < 5
    layout = layout_of(mask)
    x = torch.randn(1, len(SCALES) * LENGTH, DIM)
    changed = torch.where(layout.mask[..., None], x, 99.0)
    before, after = (attention(part, layout, causal)[layout.mask] for part in (x, changed))
    assert torch.equal(before, after)


def test_rbf_is_a_kernel():
    query = torch.randn(5, 4)
    weights = gaussian_weights(query, query, torch.zeros(5, 5), "rbf")
    assert torch.allclose(weights.diagonal(), torch.ones(5))
    assert (weights > 0).all() and (weights <= 1 + 1e-6).all()
