"""Cluster attention against loops that follow the paper's words."""

import math

import pytest
import torch

from bivrec.errors import SettingsError
from bivrec.model.clusters import ClusterAttention, assign, mutual_information, sum_over_prefixes
from bivrec.model.embedding import PatchLayout, by_residue
from bivrec.settings import load_settings

DIM, LENGTH, SCALES = 8, 8, (1, 2, 4)


def clusters_of(**changes) -> ClusterAttention:
    changes = {f"model.{key}": value for key, value in changes.items()}
    return ClusterAttention(load_settings("planted", {"model.dim": DIM} | changes).model).eval()


@pytest.mark.parametrize("num_nearest", [1, 2, 4])
def test_assignment_by_loop(num_nearest):
    logits = torch.randn(6, 4)
    hard = assign(logits, num_nearest, 0.7, hard=True, noisy=False)
    for row, shares in zip(logits, hard):
        nearest = sorted(range(4), key=lambda k: -row[k])[:num_nearest]
        expected = torch.tensor([float(k in nearest) for k in range(4)])
        assert torch.allclose(shares, expected, atol=1e-6)
    soft = assign(logits, num_nearest, 0.7, hard=False, noisy=False)
    assert torch.allclose(soft, (logits / 0.7).softmax(-1))


def test_the_nearest_interests_are_found_at_a_low_temperature():
    """All but the largest share of the softmax are 0."""
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, -2.0, -1.0, 4.0]])
    hard = assign(logits, 2, 1e-3, hard=True, noisy=False)
    assert hard.tolist() == [[0, 1, 0, 1], [1, 0, 0, 1]]


def test_a_hard_assignment_passes_the_gradient_of_the_soft_one():
    logits, upstream = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    hard, soft = (
        torch.autograd.grad(assign(logits, 1, 1.0, form, noisy=False), logits, upstream)[0]
        for form in (True, False)
    )
    assert torch.allclose(hard, soft) and hard.abs().sum() > 0


def test_a_noisy_assignment_samples_the_softmax():
    """The Gumbel-max trick."""
    logits = torch.tensor([1.0, 0.0]).expand(4000, 2)
    share = assign(logits, 1, 1.0, hard=True, noisy=True).mean(0)
    assert abs(share[0] - torch.tensor([1.0, 0.0]).softmax(0)[0]) < 0.03


def test_noise_is_drawn_in_training_only():
    clusters, logits = clusters_of(temperature=1.0), torch.randn(1, 50, 6)
    assert torch.equal(clusters.allocate(logits), clusters.allocate(logits))
    clusters.train()
    assert not torch.equal(clusters.allocate(logits), clusters.allocate(logits))


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_sums_over_prefixes_by_loop(scale):
    x = torch.randn(2, 8, 5)
    sums = sum_over_prefixes(by_residue(x, scale))
    for t in range(8):
        expected = x[:, t % scale : t + 1 : scale].sum(1)
        assert torch.allclose(sums[:, t % scale, t // scale], expected, atol=1e-5)


def share_by_loop(logits, settings):
    """What one patch gives to each interest."""
    if settings.pooling == "attention":
        return logits.exp()
    if settings.pooling == "mean":
        return torch.ones_like(logits)
    hard = settings.assignment == "hard"
    return assign(logits, settings.num_nearest, settings.temperature, hard, noisy=False)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_nearest": 2},
        {"assignment": "soft"},
        {"pooling": "mean"},
        {"pooling": "attention"},
        {"newest": "all"},
        {"newest": "per_interest"},
        {"newest": "per_interest", "num_nearest": 2},
        {"newest": "per_interest", "assignment": "soft"},
        {"newest": "none"},
        {"similarity": "dot"},
    ],
)
def test_cluster_attention_by_loop(changes):
    clusters, real = clusters_of(**changes), 6
    settings = clusters.settings
    mask = torch.arange(LENGTH)[None] < real
    flat = torch.cat([by_residue(mask, scale).flatten(1) for scale in SCALES], 1)
    layout = PatchLayout(flat, tuple((scale, LENGTH // scale) for scale in SCALES), True)
    x = torch.randn(1, len(SCALES) * LENGTH, DIM)
    interests, logits = clusters(x, layout)
    patches, logits = (
        [layout.at_prefixes(part)[0] for part in layout.split(y)] for y in (x, logits)
    )
    for t in range(real):
        total, count, newest = torch.zeros(settings.num_interests, DIM), 0, 0
        for number, scale in enumerate(SCALES):
            owned = share_by_loop(logits[number][t], settings)
            if settings.pooling != "cluster":
                owned = torch.ones_like(owned)
            owned = {"owners": owned, "all": torch.ones_like(owned)}.get(settings.newest, 0 * owned)
            newest = newest + owned[:, None] * patches[number][t]
            newest_owned = torch.zeros_like(total)
            for j in range(t % scale, t + 1, scale):
                share = share_by_loop(logits[number][j], settings)
                value = clusters.value(clusters.norms[0](patches[number][j]))
                total, count = total + share[:, None] * value, count + share
                newest_owned.lerp_(patches[number][j].expand(len(share), -1), share[:, None])
            if settings.newest == "per_interest":
                newest = newest + newest_owned
        expected = clusters.tokens + clusters.out(total / (1 + count[:, None]))
        expected = clusters.norms[2](expected + newest)
        assert torch.allclose(interests[0, t], expected, atol=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_similarity_of_patches_and_tokens_by_loop(similarity):
    clusters, patches = clusters_of(similarity=similarity), torch.randn(1, 3, DIM)
    logits = clusters.compare(patches)
    for j in range(3):
        for k, token in enumerate(clusters.tokens):
            key, query = clusters.key(patches[0, j]), clusters.query(clusters.norms[1](token))
            expected = key @ query / math.sqrt(DIM)
            if similarity == "cosine":
                expected = key @ query / (key.norm() * query.norm()) * clusters.sharpness.exp()
            assert abs((logits[0, j, k] - expected).item()) < 1e-5


def test_mutual_information_is_zero_for_uniform_or_single_interests_and_full_for_clear_even_ones():
    mask = torch.tensor([[True] * 4 + [False] * 2])
    clear = 50 * torch.eye(4)[torch.tensor([[0, 1, 2, 3, 0, 0]])]
    single = 50 * torch.eye(4)[torch.zeros(1, 6, dtype=torch.long)]
    assert abs(float(mutual_information(clear, mask)) - math.log(4)) < 1e-4  # padding is left out
    assert abs(float(mutual_information(torch.zeros(1, 6, 4), mask))) < 1e-5
    assert abs(float(mutual_information(single, mask))) < 1e-4
    apart = 50 * torch.eye(4)[torch.tensor([[0] * 6, [1] * 6])]  # each row in one interest
    assert abs(float(mutual_information(apart, torch.ones(2, 6, dtype=torch.bool)))) < 1e-4


def test_the_temperature_changes_linearly():
    clusters = clusters_of(temperature=1.0, final_temperature=0.2)
    for progress, temperature in ((0.0, 1.0), (0.5, 0.6), (1.0, 0.2)):
        clusters.anneal(progress)
        assert clusters.temperature == pytest.approx(temperature)
    with pytest.raises(SettingsError, match="final_temperature .* soft assignment"):
        clusters_of(final_temperature=0.2, assignment="soft")
