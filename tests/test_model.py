"""The model's parts against loops that follow the words of the paper, and what must not reach where."""

import itertools
import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from bivrec import decomposition, recommendation
from bivrec.baselines import ItemNeighbours, Popularity
from bivrec.data.domain import Domain
from bivrec.errors import SettingsError
from bivrec.experiment.registry import FAMILIES, build_model
from bivrec.model.attention import (
    GaussianAttention,
    _GaussianMixture,
    gaussian_weights,
    own_patches,
)
from bivrec.model.base import Batch, pad
from bivrec.model.bivrec import BivRec
from bivrec.model.clusters import ClusterAttention, assign, give, information, sum_prefixes
from bivrec.model.cross_view import allocation_difference, info_nce, mutual_learning
from bivrec.model.embedding import Dropout, ItemTable, Linear, MultiScaleEmbedding, cut_patches
from bivrec.model.losses import (
    CHUNK_CELLS,
    _CatalogueAttention,
    catalogue_type,
    choose_interest,
    combine,
    draw_items,
    interest_softmax,
    recommendations,
    score_catalogue,
)
from bivrec.settings import load_settings, vary
from bivrec.training.batches import draw_batches

KERNELS = ["rbf", "rbf_normalised", "distance", "softmax"]
NEURAL = [
    name
    for name, variant in load_settings().models.items()
    if variant.family not in ("popularity", "itemknn")
]
CAUSAL = [
    name for name in NEURAL if name != "bivrec-one-target"
]  # which reads each prefix by itself, whole


def settings_with(**changes):
    return load_settings("planted", {f"model.{key}": value for key, value in changes.items()})


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def batch() -> Batch:
    items, mask = pad([np.arange(5, 16), np.arange(30, 34), np.arange(60, 68)], 24, 4)
    targets = torch.where(mask, items + 1, 0)
    return Batch(items, mask, targets, mask, torch.tensor([3, 0, 7]))


def with_one_target(batch: Batch) -> Batch:
    last = batch.mask.sum(1) - 1
    return replace(
        batch, supervised=torch.arange(batch.items.shape[1]) == last[:, None], probe=last
    )


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("mean", [False, True])
def test_patches_by_loop(scale, mean):
    items = torch.randn(2, 12, 3)
    cut = cut_patches(items, (1, scale), mean)[1]
    for end in range(12):
        patch = items[:, max(0, end - scale + 1) : end + 1]
        expected = patch.mean(1) if mean else patch.sum(1)
        assert torch.allclose(cut[:, end], expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_each_prefix_finds_its_own_non_overlapping_patches(scale):
    """Cut the prefix that ends at t from its newest item backwards: its patches are those that end at t, t - scale, ..."""
    items = torch.randn(1, 12, 3)
    cut, which = cut_patches(items, (scale,))[0, 0], own_patches(12, (scale,))[0]
    for end in range(12):
        prefix, own = items[0, : end + 1], []
        while len(prefix):
            own.insert(0, prefix[-scale:].sum(0))
            prefix = prefix[:-scale]
        assert torch.allclose(cut[which[end]], torch.stack(own), atol=1e-5)


def test_sums_over_prefixes_by_loop():
    x, scales = torch.randn(2, 3, 8, 5), (1, 4)
    sums = sum_prefixes(x, scales)
    for t in range(8):
        expected = sum(
            x[number, :, t % scale : t + 1 : scale].sum(1) for number, scale in enumerate(scales)
        )
        assert torch.allclose(sums[:, t], expected, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [True, False])
def test_gaussian_attention_by_loop(kernel, causal):
    dim, heads, scale, length, real = 8, 2, 2, 8, 7
    attention = GaussianAttention(dim, heads, kernel, length)
    if attention.bias is not None:
        torch.nn.init.normal_(attention.bias)
    x, mask = torch.randn(1, 1, length, dim), (torch.arange(length) < real)[None]
    got = attention(x, mask, (scale,), causal)[0, 0]
    query, key, value = attention.project(x[0, 0]).view(length, 3, heads, dim // heads).unbind(1)
    for t in range(real):
        out = []
        for head in range(heads):
            logits, seen = [], []
            for j in range(t % scale, length, scale):
                if j > t if causal else (j >= real and j != t):
                    continue
                away = abs(t - j) // scale
                place = (
                    -(away**2) / (2 * attention.width[head] ** 2 + 1e-6)
                    if kernel == "distance"
                    else attention.bias[away, head]
                )
                gap = (
                    (query[t, head] - key[j, head]).square().sum() / -2
                    if kernel.startswith("rbf")
                    else query[t, head] @ key[j, head]
                )
                logits.append(gap / math.sqrt(dim // heads) + place)
                seen.append(value[j, head])
            weights = torch.stack(logits).exp()
            weights = weights if kernel == "rbf" else weights / weights.sum()
            out.append(weights @ torch.stack(seen))
        assert torch.allclose(got[t], attention.out(torch.cat(out)), atol=1e-5)


@pytest.mark.parametrize("cells", [1 << 17, 1])  # rows together, and one at a time
@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_the_fused_gaussian_attention_is_autograds(monkeypatch, causal, newest, cells):
    monkeypatch.setattr(decomposition, "CACHED_CELLS", cells)
    attention = GaussianAttention(8, 2, "rbf", 8)
    torch.nn.init.normal_(attention.bias)
    shape = (3, 14, 8) if newest else (2, 3, 8, 8)
    x, upstream, found = torch.randn(shape, requires_grad=True), torch.randn(shape), []
    mask, sizes = torch.arange(8) < torch.tensor([[8], [5], [1]]), [8, 4, 2]
    real = torch.cat([mask[:, :: 8 // size] for size in sizes], 1)

    def plain(mixed, num_heads, places, seen, *biases):
        real = (
            mixed
            if seen is None
            else mixed * torch.cat([torch.ones_like(mixed[..., :16]), seen.expand(-1, -1, 8)], -1)
        )
        taken = mixed.new_zeros(*mixed.shape[:-1], 8)
        for place, apart, bias in zip(*places, biases):
            query, key, value = (
                real[place]
                .unflatten(1, (-1, apart))
                .unflatten(-1, (3, num_heads, -1))
                .permute(3, 0, 2, 4, 1, 5)
                .unbind(0)
            )
            taken[place] = (
                (gaussian_weights(query, key, bias[:, None], "rbf") @ value)
                .permute(0, 3, 1, 2, 4)
                .flatten(3)
                .flatten(1, 2)
            )
        return taken

    for attend in (_GaussianMixture.apply, plain):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_GaussianMixture, "apply", attend)
            taken = (
                attention.among(x, real, sizes, causal)
                if newest
                else attention(x, mask, (1, 4), causal)
            )
        taken.backward(upstream)
        found.append([taken, x.grad, attention.project.weight.grad, attention.bias.grad])
        x.grad = attention.project.weight.grad = attention.bias.grad = None
    assert (
        all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(*found))
        and found[0][3].abs().sum() > 1
    )


@pytest.mark.parametrize("cells", [1 << 17, 1])
def test_sums_of_what_patches_give_are_those_of_their_products(monkeypatch, cells):
    """Their gradients too."""
    monkeypatch.setattr(decomposition, "CACHED_CELLS", cells)
    for length, scales in ((8, (1, 2, 4)), (6, (1, 3)), (4, (4,))):
        shares, patches = (
            torch.rand(len(scales), 2, length, 3, requires_grad=True),
            torch.randn(len(scales), 2, length, 5, requires_grad=True),
        )
        given, products = (
            give(shares, patches, scales),
            (shares[..., None] * patches[..., None, :]).flatten(-2),
        )
        plain, upstream = (
            sum_prefixes(products, scales).unflatten(-1, (3, 5)),
            torch.randn(given.shape),
        )
        assert torch.allclose(given, plain, atol=1e-5)
        for ours, theirs in zip(
            *(torch.autograd.grad(whole, (shares, patches), upstream) for whole in (given, plain))
        ):
            assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_linear_map_is_the_same_where_a_model_only_scores():
    x, linear = torch.randn(3, 7, 8), Linear(8, 5)
    with torch.inference_mode():
        scored = linear(x)
    assert torch.allclose(
        scored, torch.nn.functional.linear(x, linear.weight, linear.bias), atol=1e-6
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [True, False])
def test_scales_and_prefixes_in_one_product_do_not_mix(monkeypatch, causal, kernel):
    """A scale at a time, all scales of a prefix, of two and of all four together (six are not a divisor): the same, gradients too."""
    attention, found = GaussianAttention(8, 2, kernel, 8), []
    x, upstream = torch.randn(4, 7, 8, requires_grad=True), torch.randn(4, 7, 8)
    mask = torch.arange(4) < torch.tensor([[4], [3], [1], [2]])
    real = torch.cat([mask[:, ::scale] for scale in (1, 2, 4)], 1)
    if attention.bias is not None:
        torch.nn.init.normal_(attention.bias)
    for most in (0, 7, 14, 42):
        monkeypatch.setattr("bivrec.decomposition.FEW_PATCHES", most)
        taken = attention.among(x, real, [4, 2, 1], causal)
        leaves = {"x": x} | dict(attention.named_parameters())
        found.append([taken, *torch.autograd.grad(taken, list(leaves.values()), upstream)])
    assert all(
        torch.allclose(ours, apart, atol=1e-5)
        for parts in found[1:]
        for ours, apart in zip(parts, found[0])
    )
    changed = x.detach().clone()
    changed[2] += 1
    assert torch.equal(
        attention.among(changed, real, [4, 2, 1], causal)[[0, 1, 3]], found[3][0][[0, 1, 3]]
    )


def test_the_fast_softmax_attention_is_the_plain_one():
    plain = GaussianAttention(8, 2, "softmax", 8)
    fast = GaussianAttention(8, 2, "softmax", 8, biased=False)
    fast.load_state_dict(plain.state_dict(), strict=False)
    x, mask = torch.randn(1, 3, 8, 8), torch.ones(3, 8, dtype=torch.bool)
    assert torch.allclose(plain(x, mask, (1,), True), fast(x, mask, (1,), True), atol=1e-5)


def test_rbf_is_a_kernel():
    query = torch.randn(5, 4)
    weights = gaussian_weights(query, query, torch.zeros(5, 5), "rbf")
    assert (
        torch.allclose(weights.diagonal(), torch.ones(5))
        and (weights > 0).all()
        and (weights <= 1 + 1e-6).all()
    )


@pytest.mark.parametrize("num_nearest", [1, 2, 4])
def test_assignment_by_loop(num_nearest):
    logits = torch.randn(6, 4)
    hard = assign(logits, num_nearest, 0.7, hard=True, noisy=False)
    for row, given in zip(logits, hard):
        nearest = sorted(range(4), key=lambda k: -row[k])[:num_nearest]
        assert torch.allclose(
            given, torch.tensor([float(k in nearest) for k in range(4)]), atol=1e-6
        )
    soft = assign(logits, num_nearest, 0.7, hard=False, noisy=False)
    assert torch.allclose(soft, (logits / 0.7).softmax(-1))


def test_assignment_is_straight_through_and_noisy_in_training_only():
    logits = torch.randn(5, 4, requires_grad=True)
    weights = torch.randn(5, 4)
    (assign(logits, 1, 1.0, True, False) * weights).sum().backward()
    hard, logits.grad = logits.grad, None
    (assign(logits, 1, 1.0, False, False) * weights).sum().backward()
    assert torch.allclose(hard, logits.grad) and hard.abs().sum() > 0
    many = torch.stack(
        [assign(torch.tensor([1.0, 0.0]), 1, 1.0, True, True) for _ in range(4000)]
    ).mean(0)
    assert (
        abs(many[0] - torch.tensor([1.0, 0.0]).softmax(0)[0]) < 0.03
    )  # Gumbel-max draws from the softmax


CLUSTERS = [
    {},
    {"num_nearest": 2},
    {"assignment": "soft"},
    {"pooling": "mean"},
    {"pooling": "attention"},
    {"last_state": False},
    {"similarity": "dot"},
]


def test_only_the_items_of_a_step_are_projected(planted, batch, monkeypatch):
    """With items drawn, leaving out the vectors of items that neither a row holds nor was drawn changes no loss and no gradient."""
    found = []
    for supervised in (batch, with_one_target(batch)):
        supervision = "every_position" if supervised is batch else "one_target"
        changes = {
            "training.supervision": supervision,
            "training.num_negatives": 30,
            "cross_view.mutual_weight": 1.0,
        }
        for whole in (False, True):
            if whole:
                monkeypatch.setattr(
                    Batch, "among_its_items", lambda self, drawn, _: (self, drawn, None)
                )
            torch.manual_seed(3)
            model = model_of(planted, "bivrec", changes).train()
            assert (
                whole
                or len(supervised.among_its_items(torch.arange(3), model.num_items)[2])
                < model.num_items
            )
            loss = model.loss(supervised)
            loss.backward()
            found.append(
                (loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None})
            )
            monkeypatch.undo()
    for (loss, some), (expected, every) in (found[:2], found[2:]):
        assert torch.allclose(loss, expected, atol=1e-5) and some.keys() == every.keys()
        assert all(
            torch.allclose(gradient, every[name], atol=1e-4 * (1 + gradient.abs().max()))
            for name, gradient in some.items()
        )


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("items", [None, torch.tensor([[3, 0, 3], [17, 8, 1]])])
@pytest.mark.parametrize("every", [1, 3])  # of how many items one has its features
def test_features_are_projected_in_blocks(kind, items, every, monkeypatch):
    monkeypatch.setattr("bivrec.embedding.FEATURE_CELLS", 4 * 6)  # blocks of four items
    values, mask = torch.randn(18, 6), torch.arange(18) % every == 0
    table = ItemTable("multimodal", 18, {"text": (values, mask)}, 5, kind)
    torch.nn.init.normal_(table.missing["text"])
    learned, found, chosen = (
        [table.maps["text"].weight, table.missing["text"]],
        table(items),
        slice(None) if items is None else items,
    )
    expected = torch.where(mask[chosen][..., None], values[chosen] @ learned[0].T, learned[1])
    slope = torch.randn(found.shape)
    gradients, wanted = (
        torch.autograd.grad((whole * slope).sum(), learned) for whole in (found, expected)
    )
    near = {"atol": 1e-5} if kind == torch.float32 else {"rtol": 0.05, "atol": 0.1}
    assert found.dtype == torch.float32 and torch.allclose(found, expected, **near)
    assert all(torch.allclose(*pair, **near) for pair in zip(gradients, wanted))


@pytest.mark.parametrize("changes", CLUSTERS)
def test_cluster_attention_by_loop(changes):
    settings = settings_with(dim=8, **changes).model
    clusters = ClusterAttention(settings).eval()
    scales, length, real = (1, 2, 4), 8, 6
    x, mask = torch.randn(3, 1, length, 8), (torch.arange(length) < real)[None]
    interests, allocation = clusters(x, mask, scales)
    for t in range(real):
        given, count, newest = (
            torch.zeros(settings.num_interests, 8),
            torch.zeros(settings.num_interests),
            torch.zeros(8),
        )
        for number, scale in enumerate(scales):
            newest += x[number, 0, t]
            for j in range(t % scale, t + 1, scale):
                if settings.pooling != "cluster":
                    share = (
                        allocation[number, 0, j].exp()
                        if settings.pooling == "attention"
                        else torch.ones(settings.num_interests)
                    )
                else:
                    share = assign(
                        allocation[number, 0, j],
                        settings.num_nearest,
                        settings.temperature,
                        settings.assignment == "hard",
                        False,
                    )
                given += share[:, None] * clusters.value(clusters.norms[0](x[number, 0, j]))
                count += share
        expected = (
            clusters.tokens
            + clusters.out(given / (count[:, None] + 1))
            + (newest if settings.last_state else 0)
        )
        assert torch.allclose(interests[0, t], clusters.norms[2](expected), atol=1e-5)


def test_similarity_of_patches_and_tokens_by_loop():
    for similarity in ("cosine", "dot"):
        clusters, patches = (
            ClusterAttention(settings_with(dim=8, similarity=similarity).model),
            torch.randn(1, 1, 3, 8),
        )
        allocation = clusters.allocate(patches)
        for j in range(3):
            for k, token in enumerate(clusters.tokens):
                key, query = (
                    clusters.key(patches[0, 0, j]),
                    clusters.query(clusters.norms[1](token)),
                )
                length = (
                    key.norm() * query.norm() / clusters.sharpness.exp()
                    if similarity == "cosine"
                    else math.sqrt(8)
                )
                assert abs((allocation[0, 0, j, k] - key @ query / length).item()) < 1e-5


def test_information_is_none_for_uniform_or_single_interests_and_full_for_clear_even_ones():
    mask = torch.tensor([[True] * 4 + [False] * 2])
    clear = 50 * torch.eye(4)[torch.tensor([0, 1, 2, 3, 0, 0])][None, None]
    assert abs(float(information(clear, mask)) - math.log(4)) < 1e-4  # padding is left out
    assert abs(float(information(torch.zeros(2, 1, 6, 4), mask))) < 1e-5
    assert (
        abs(
            float(
                information(50 * torch.eye(4)[torch.zeros(6, dtype=torch.long)][None, None], mask)
            )
        )
        < 1e-4
    )


def test_one_scale_is_the_single_scale_model():
    settings = settings_with(scales=[1], max_length=24).model
    embedding = MultiScaleEmbedding(settings).eval()
    items = torch.randn(2, 6, settings.dim)
    got = embedding(items, torch.ones(2, 6, dtype=torch.bool))
    assert got.shape[0] == 1
    assert torch.allclose(
        got[0], embedding.norm(items) + embedding.position[:6] + embedding.scale[0], atol=1e-5
    )


@pytest.mark.parametrize("num_interests", [1, 3])
def test_the_fused_loss_is_autograds(num_interests):
    interests, table = (
        torch.randn(700, num_interests, 8, requires_grad=True),
        torch.randn(900, 8, requires_grad=True),
    )
    targets = torch.randint(900, (700,))
    loss = interest_softmax(interests, table, targets)
    loss.backward()
    fused = interests.grad, table.grad
    interests.grad = table.grad = None
    scores = torch.einsum("rkd,nd->rkn", interests, table)
    own = scores[torch.arange(700), :, targets].logsumexp(1)
    plain = (scores.flatten(1).logsumexp(1) - own).mean()
    plain.backward()
    assert torch.allclose(loss, plain, rtol=1e-5)
    assert torch.allclose(fused[0], interests.grad, atol=1e-6) and torch.allclose(
        fused[1], table.grad, atol=1e-5
    )
    if num_interests == 1:
        assert torch.allclose(
            loss, torch.nn.functional.cross_entropy(scores[:, 0], targets), rtol=1e-5
        )


@pytest.mark.parametrize(
    "rows, num_interests, num_items", [(1, 1, 5), (700, 3, 900), (2500, 2, 77)]
)
def test_attention_to_the_catalogue_is_the_same_loss(rows, num_interests, num_items):
    """The way of a GPU, by PyTorch's attention kernel for CPUs: the loss and both gradients, below and above a group of rows."""
    interests, table = torch.randn(rows, num_interests, 64) * 0.4, torch.randn(num_items, 64) * 0.4
    interests.requires_grad_(), table.requires_grad_()
    targets = torch.randint(num_items, (rows,))
    losses = (
        _CatalogueAttention.apply(interests, table, targets, torch.float32),
        interest_softmax(interests, table, targets),
    )
    assert torch.allclose(*losses, rtol=1e-5)
    for found, exact in zip(*(torch.autograd.grad(loss, (interests, table)) for loss in losses)):
        assert (found - exact).norm() < 1e-5 * exact.norm()


def test_a_recorded_encoder_is_the_encoder(monkeypatch):
    """With a stand-in for CUDA's recording, which hands the function back: a shape is recorded when it comes again, and
    gradients reach the encoder's own parameters."""
    shapes = []

    def stand_in(call, samples, **_):
        shapes.append(samples[0].shape)
        return call

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", stand_in)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.random, "fork_rng", lambda _: nullcontext())
    domain = Domain("planted", {"model.dropout": 0.0, "model.assignment": "soft"})
    for name in ("bivrec", "sasrec-sum"):
        found = []
        for recorded in (False, True):
            model = build_model(domain, name, 0).train()
            model.record_encoders(recorded)
            torch.manual_seed(0)
            for batch in itertools.islice(
                draw_batches(domain.fold(0).train, model.settings.training, 24, 12, 0), 12
            ):
                loss = model.loss(batch)
                loss.backward()
            found.append([loss.detach(), *(p.grad for p in model.parameters())])
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found))
    assert len(shapes) >= 4 and len(set(shapes)) >= 2


def test_the_fused_loss_on_the_largest_score_and_in_half_precision():
    interests, table = (
        torch.randn(300, 3, 8, requires_grad=True),
        torch.randn(500, 8, requires_grad=True),
    )
    targets = torch.randint(500, (300,))
    loss = interest_softmax(interests, table, targets, largest=True)
    loss.backward()
    fused = interests.grad, table.grad
    interests.grad = table.grad = None
    plain = torch.nn.functional.cross_entropy(score_catalogue(interests, table), targets)
    plain.backward()
    assert torch.allclose(loss, plain, rtol=1e-5)
    assert torch.allclose(fused[0], interests.grad, atol=1e-6) and torch.allclose(
        fused[1], table.grad, atol=1e-5
    )
    exact = interest_softmax(interests, table, targets)
    interests.grad = None
    exact.backward()
    whole, interests.grad = interests.grad, None
    half = interest_softmax(interests, table, targets, kind=torch.bfloat16)
    half.backward()
    assert (
        abs((half - exact).item()) < 0.01 and (interests.grad - whole).norm() < 0.02 * whole.norm()
    )


@pytest.mark.parametrize("size", [1.0, 30.0, 300.0])
def test_the_fused_loss_never_overflows(size):
    interests, table = (size * torch.randn(4, 2, 8)).requires_grad_(), torch.randn(50, 8)
    targets = torch.randint(50, (4,))
    loss = interest_softmax(interests, table, targets)
    loss.backward()
    scores = torch.einsum("rkd,nd->rkn", interests.double(), table.double())
    plain = (
        scores.flatten(1).logsumexp(1) - scores[torch.arange(4), :, targets].logsumexp(1)
    ).mean()
    assert torch.isfinite(interests.grad).all() and loss.item() == pytest.approx(
        plain.item(), rel=1e-4
    )


def test_the_type_of_products_over_the_catalogue(monkeypatch):
    assert (
        catalogue_type("float32") is torch.float32 and catalogue_type("bfloat16") is torch.bfloat16
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for known, kind in (
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known)
        assert catalogue_type("auto") is kind
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, kind in (
        ((7, 5), torch.float32),
        ((8, 0), torch.bfloat16),
        ((9, 0), torch.bfloat16),
    ):
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda capability=capability: capability
        )
        assert catalogue_type("auto") is kind


def test_recommendations_are_the_chances_that_are_trained():
    interests, table, targets = torch.randn(6, 3, 8), torch.randn(20, 8), torch.randint(20, (6,))
    chances = recommendations(interests, table)
    assert torch.allclose(chances.exp().sum(1), torch.ones(6), atol=1e-5)
    assert torch.allclose(
        -chances[torch.arange(6), targets].mean(),
        interest_softmax(interests, table, targets),
        atol=1e-5,
    )


@pytest.mark.parametrize("learners", [(0, 1), (0,), (1,)])
@pytest.mark.parametrize("cells", [1 << 20, 400])  # the catalogue whole, and in blocks
def test_mutual_learning_is_the_divergence_from_a_teacher_that_is_held_fixed(
    monkeypatch, learners, cells
):
    monkeypatch.setitem(CHUNK_CELLS, "cpu", cells)
    interests = [torch.randn(6, 3, 8, requires_grad=True) for _ in range(2)]
    tables = [torch.randn(40, 8, requires_grad=True) for _ in range(2)]
    logs = [recommendations(*pair) for pair in zip(interests, tables)]
    by_hand = sum(
        (logs[1 - one].exp() * (logs[1 - one] - logs[one])).detach().sum(1).mean()
        for one in learners
    )
    wanted = torch.autograd.grad(
        3 * sum((logs[1 - one].exp().detach() * (logs[1 - one].detach() - logs[one])).sum(1).mean() for one in learners),
        [*interests, *tables], allow_unused=True,
    )  # fmt: skip
    loss = mutual_learning(interests, tables, learners)
    found = torch.autograd.grad(3 * loss, [*interests, *tables], allow_unused=True)
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    for ours, theirs, number in zip(found, wanted, (0, 1, 0, 1)):
        assert (ours is None) == (theirs is None) == (number not in learners)
        assert ours is None or torch.allclose(ours, theirs, atol=1e-5)
    assert mutual_learning([interests[0]] * 2, [tables[0]] * 2).abs().item() < 1e-6


def test_views_that_are_far_apart_still_learn_from_each_other():
    """Chances too small for a number of their own count as what they are, not as nought."""
    interests, table = torch.tensor([[[200.0, 0.0]]], requires_grad=True), torch.eye(2)
    loss = mutual_learning([interests, torch.tensor([[[0.0, 200.0]]])], [table, table], [0])
    loss.backward()
    assert loss.item() == pytest.approx(200) and torch.allclose(
        interests.grad, torch.tensor([[[1.0, -1.0]]])
    )


@pytest.mark.parametrize("learner", ["both", "id", "multimodal"])
def test_only_the_learner_learns_from_the_other_view(planted, batch, learner):
    """Without recommendation losses, what reaches a view's parameters comes from the losses between the views alone."""
    changes = {
        "id_weight": 0.0,
        "multimodal_weight": 0.0,
        "coarse_weight": 1.0,
        "fine_weight": 1.0,
        "item_weight": 1.0,
        "mutual_weight": 1.0,
    }
    settings = load_settings(
        "planted",
        {f"cross_view.{key}": value for key, value in changes.items()}
        | {"cross_view.learner": learner},
    )
    model = BivRec(
        vary(
            settings,
            replace(planted.settings.models["bivrec"], settings={"model.information_weight": 0.0}),
        ),
        120,
        planted.features(0),
    ).train()
    model.loss(batch).backward()
    for view in ("id", "multimodal"):
        moved = any(
            p.grad is not None and p.grad.abs().sum() > 0
            for p in [*model.items[view].parameters(), *model.views[view].parameters()]
        )
        assert moved == (learner in ("both", view))


def test_views_combined_by_hand():
    views = {"id": torch.randn(2, 5), "multimodal": 3 * torch.randn(2, 5)}
    even = combine(views, "log_softmax", 0.5)
    assert torch.allclose(even, views["id"].log_softmax(1) + views["multimodal"].log_softmax(1))
    assert (combine(views, "standard_score", 0.0).argsort(1) == views["id"].argsort(1)).all()
    assert (
        combine(views, "standard_score", 1.0).argsort(1) == views["multimodal"].argsort(1)
    ).all()


def test_hard_readout_and_scores_by_loop():
    interests, table, targets = torch.randn(4, 3, 5), torch.randn(7, 5), torch.tensor([0, 3, 6, 3])
    chosen, scores = choose_interest(interests, table, targets), score_catalogue(interests, table)
    for row in range(4):
        products = [float(interests[row, k] @ table[targets[row]]) for k in range(3)]
        assert (chosen[row, 0] == interests[row, int(np.argmax(products))]).all()
        for item in range(7):
            assert (
                abs(
                    scores[row, item]
                    - max(float(interests[row, k] @ table[item]) for k in range(3))
                )
                < 1e-5
            )


def test_info_nce_by_loop():
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    a_, b_ = (x / x.norm(dim=1, keepdim=True) for x in (a, b))
    total = 0.0
    for i in range(5):
        forward = sum(math.exp(float(a_[i] @ b_[j]) / 0.07) for j in range(5))
        backward = sum(math.exp(float(a_[j] @ b_[i]) / 0.07) for j in range(5))
        total -= math.log(math.exp(float(a_[i] @ b_[i]) / 0.07) / forward) + math.log(
            math.exp(float(a_[i] @ b_[i]) / 0.07) / backward
        )
    assert abs(float(info_nce(a, b, 0.07)) - total / 10) < 1e-4
    assert info_nce(a, a, 0.07) < info_nce(a, b, 0.07)


@pytest.mark.parametrize("temperature", [0.1, 0.01])
def test_info_nce_of_both_directions_at_once_is_that_of_each(monkeypatch, temperature):
    """In several chunks of rows; at the lower temperature powers could overflow, and each direction is computed apart."""
    a, b, found = torch.randn(50, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True), []
    for power, cells in ((100, 1 << 20), (100, 4 * 50 * 7), (0, 1 << 20)):
        monkeypatch.setattr("bivrec.cross_view.LARGEST_POWER", power)
        monkeypatch.setitem(CHUNK_CELLS, "cpu", cells)
        loss = info_nce(a, b, temperature)
        found.append([loss, *torch.autograd.grad(3 * loss, (a, b))])
    similarity = (
        torch.nn.functional.normalize(a.double())
        @ torch.nn.functional.normalize(b.double()).T
        / temperature
    )
    exact = -(similarity.log_softmax(1) + similarity.log_softmax(0)).diagonal().mean() / 2
    exact = [exact, *torch.autograd.grad(3 * exact, (a, b))]
    assert all(
        torch.allclose(ours, wanted.float(), rtol=1e-4, atol=1e-5)
        for parts in found
        for ours, wanted in zip(parts, exact)
    )


@pytest.mark.parametrize("form", ["kl", "mse", "co_assignment"])
def test_allocation_difference(form):
    a, b = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    mask = torch.arange(4) < torch.tensor([[4], [2], [3]])
    assert (
        abs(float(allocation_difference(a, a, mask, form)))
        < 1e-6
        < float(allocation_difference(a, b, mask, form))
    )
    beyond = b.clone()
    beyond[:, ~mask] = 100.0  # padding is inert
    assert torch.allclose(
        allocation_difference(a, b, mask, form), allocation_difference(a, beyond, mask, form)
    )
    renamed = allocation_difference(a, a.roll(1, -1), mask, form)
    assert (float(renamed) < 1e-6) == (
        form == "co_assignment"
    )  # blind to how interests are numbered
    if form == "kl":
        p, q = a[0, 0, 0].softmax(0), b[0, 0, 0].softmax(0)
        by_hand = (
            sum(float(p[k] * (p[k] / q[k]).log() + q[k] * (q[k] / p[k]).log()) for k in range(5))
            / 2
        )
        alone = torch.zeros(3, 4, dtype=torch.bool)
        alone[0, 0] = True
        assert abs(float(allocation_difference(a[:1], b[:1], alone, form)) - by_hand) < 1e-5


def model_of(planted, name, changes=None):
    variant = planted.settings.models[name]
    settings = vary(
        vary(load_settings("planted"), variant, name), replace(variant, settings=changes or {})
    )
    return FAMILIES[variant.family](
        settings, planted.sequences.num_items, planted.features(0)
    ).eval()


@pytest.mark.parametrize("name", CAUSAL)
def test_no_position_sees_its_target_or_later_items(planted, batch, name):
    """Another future leaves every earlier interest as it was, to the last bit."""
    model = model_of(planted, name)
    before = model.interests(batch.items, batch.mask)
    changed = batch.items.clone()
    changed[0, 6:] = 99
    after = model.interests(changed, batch.mask)
    for view in before:
        assert torch.equal(before[view][0, :6], after[view][0, :6])
        assert all((before[view][0, t] != after[view][0, t]).any() for t in range(6, 11))


@pytest.mark.parametrize(
    ("name", "kernel"),
    [*((name, "rbf") for name in CAUSAL), *(("bivrec", kernel) for kernel in KERNELS[1:])],
)
def test_a_prefix_alone_gives_what_it_gives_inside_the_row(planted, name, kernel):
    """One row supervises every position exactly: the causal form is the model run on each prefix."""
    model = model_of(planted, name, {"model.kernel": kernel})
    history = np.arange(3, 22)
    items, mask = pad([history], model.max_length, model.multiple)
    whole = model.interests(items, mask)
    for end in (1, 2, 3, 5, 8, 13, 19):
        items, mask = pad([history[:end]], model.max_length, model.multiple)
        alone = model.interests(items, mask)
        for view in whole:
            assert torch.allclose(
                alone[view][0, end - 1], whole[view][0, end - 1], rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize(
    ("name", "supervision"),
    [*((name, "every_position") for name in NEURAL), ("bivrec", "one_target")],
)
def test_padding_is_inert(planted, name, supervision):
    model = model_of(planted, name, {"training.supervision": supervision})
    histories = [np.arange(5, 12), np.arange(40, 43)]
    alone = [model.score([history]) for history in histories]
    together = model.score([*histories, np.arange(70, 94)])
    items, mask = pad([*histories, np.arange(70, 94)], model.max_length, model.multiple)
    before, after = (
        model.interests(items, mask),
        model.interests(items.masked_fill(~mask, 99), mask),
    )
    for view in together:
        for row in (0, 1):
            assert torch.allclose(alone[row][view][0], together[view][row], atol=1e-4)
    assert all(torch.equal(before[view][mask], after[view][mask]) for view in before)


@pytest.mark.parametrize("name", NEURAL)
def test_scoring_twice_is_the_same_and_training_is_not(planted, name):
    model = model_of(planted, name).train()
    first, second = model.score([np.arange(9)]), model.score([np.arange(9)])
    assert model.training and all(torch.equal(first[view], second[view]) for view in first)
    items, mask = pad([np.arange(9)], model.max_length, model.multiple)
    one, two = model.interests(items, mask), model.interests(items, mask)
    assert not any(torch.equal(one[view], two[view]) for view in one)


@pytest.mark.parametrize("name", ["bivrec", "sasrec-sum"])
def test_both_adds_the_views_and_no_history_is_refused(planted, name):
    model = model_of(planted, name)
    scores = model.score([np.arange(9)])
    assert torch.allclose(
        scores["both"], scores["id"].log_softmax(-1) + scores["multimodal"].log_softmax(-1)
    )
    with pytest.raises(ValueError, match="a history without items"):
        model.score([np.arange(9), np.arange(0)])


def test_every_part_learns(planted, batch):
    """Each parameter of the whole model receives a gradient, each loss its share."""
    model = BivRec(planted.settings, planted.sequences.num_items, planted.features(0)).train()
    model.loss(batch).backward()
    silent = [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert [
        name for name in silent if ".missing." not in name
    ] == []  # nothing is missing in planted
    quiet = vary(planted.settings, planted.settings.ablations["without-coarse-loss"])
    model = BivRec(quiet, planted.sequences.num_items, planted.features(0)).train()
    model.loss(batch).backward()
    assert all(p.grad is None for p in model.cross_view.parameters())


@pytest.mark.parametrize(
    ("name", "readout"),
    [
        *((name, "log_sum_exp") for name in NEURAL),
        *((name, form) for name in ("bivrec", "pure-mm") for form in ("hard", "max")),
    ],
)
def test_one_batch_overfits(planted, batch, name, readout):
    model = model_of(planted, name, {"model.dropout": 0.0, "model.readout": readout}).train()
    optimiser = torch.optim.AdamW(model.parameters(), 0.01)
    batch = batch if model.causal else with_one_target(batch)
    first = model.loss(batch).item()
    for _ in range(150):
        optimiser.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.25 * first


def test_item_table_masks_what_is_missing():
    values, mask = torch.randn(5, 3), torch.tensor([True, True, False, True, False])
    table = ItemTable("multimodal", 5, {"text": (values, mask), "image": (values, ~mask)}, 4)
    torch.nn.init.normal_(table.missing["text"])
    torch.nn.init.normal_(table.missing["image"])
    got = table()
    for item in range(5):
        text = table.maps["text"](values[item]) if mask[item] else table.missing["text"]
        image = table.maps["image"](values[item]) if not mask[item] else table.missing["image"]
        assert torch.allclose(got[item], text + image, atol=1e-6)
    table.set_features(
        {"text": (torch.where(mask[:, None], values, 1e6), mask), "image": (values, ~mask)}
    )
    assert torch.equal(table(), got)  # what stands under a mask is never read


def test_dropout_keeps_the_mean():
    dropout, x = Dropout(0.3), torch.ones(200_000)
    dropped = dropout.train()(x)
    assert (
        abs(float((dropped == 0).float().mean()) - 0.3) < 0.01
        and abs(float(dropped.mean()) - 1) < 0.01
    )
    assert dropout.eval()(x) is x


def test_popularity_and_neighbours_by_hand():
    train = [np.array([0, 1, 2]), np.array([0, 1]), np.array([0, 3])]
    assert Popularity(train, 5).score([np.array([4])])["id"][0].tolist() == [3, 2, 1, 1, 0]
    settings = load_settings("planted", {"itemknn.decay": 0.5}).itemknn
    scores = ItemNeighbours(settings, train, 5).score([np.array([3, 0])])["id"][0]
    near = {
        (0, 1): 2 / math.sqrt(6),
        (0, 2): 1 / math.sqrt(3),
        (0, 3): 1 / math.sqrt(3),
    }  # cosine of the sets of users
    expected = [
        0.5 * near[0, 3],
        near[0, 1],
        near[0, 2],
        near[0, 3],
        0.0,
    ]  # item 0 is newest, item 3 weighs a half
    assert torch.allclose(scores, torch.tensor(expected), atol=1e-6)


def test_the_temperature_goes_down_a_line(planted):
    model = BivRec(
        load_settings("planted", {"model.final_temperature": 0.2}),
        planted.sequences.num_items,
        planted.features(0),
    )
    for progress, temperature in ((0.5, 0.6), (1.0, 0.2)):
        model.anneal(progress)
        assert all(
            view.clusters.temperature == pytest.approx(temperature) for view in model.views.values()
        )
    with pytest.raises(SettingsError, match="final_temperature is set, but with a soft assignment"):
        load_settings("planted", {"model.final_temperature": 0.2, "model.assignment": "soft"})


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_the_sampled_loss_is_autograds(size):
    interests, table = (
        (size * torch.randn(60, 3, 8)).requires_grad_(),
        torch.randn(40, 8, requires_grad=True),
    )
    targets, drawn = torch.randint(40, (60,)), torch.randperm(40)[:10]
    interest_softmax(interests, table, targets, drawn=drawn).backward()
    fused = interests.grad, table.grad
    interests.grad = table.grad = None
    scores, rows = torch.einsum("rkd,nd->rkn", interests, table), []
    for row, target in zip(scores, targets.tolist()):
        others = [item for item in drawn.tolist() if item != target]
        rest = row[:, others] + math.log(
            39 / len(others)
        )  # each stands for so many of the 39 others
        rows.append(
            torch.cat([row[:, target], rest.flatten()]).logsumexp(0) - row[:, target].logsumexp(0)
        )
    plain = torch.stack(rows).mean()
    plain.backward()
    assert interest_softmax(interests, table, targets, drawn=drawn).item() == pytest.approx(
        plain.item(), rel=1e-4
    )
    assert torch.allclose(fused[0], interests.grad, atol=1e-5) and torch.allclose(
        fused[1], table.grad, atol=1e-4 * size
    )


def test_the_sampled_loss_with_all_items_is_the_full_one_and_half_draws_are_right_in_the_mean():
    interests, table, targets = torch.randn(50, 2, 8), torch.randn(40, 8), torch.randint(40, (50,))
    full = interest_softmax(interests, table, targets)
    assert torch.allclose(
        interest_softmax(interests, table, targets, drawn=torch.randperm(40)), full, atol=1e-5
    )
    scores = torch.einsum("rkd,nd->rkn", interests, table)
    own = scores[torch.arange(50), :, targets].logsumexp(1)
    chances = [
        (
            interest_softmax(
                interests[row : row + 1],
                table,
                targets[row : row + 1],
                drawn=torch.randperm(40)[:20],
            )
            + own[row]
        ).exp()
        for row in range(1)
        for _ in range(3000)
    ]
    assert torch.stack(chances).mean().item() == pytest.approx(
        scores[0].exp().sum().item(), rel=0.02
    )


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_drawn", [None, 30])
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_a_large_catalogue_is_read_in_tiles(monkeypatch, size, largest, num_drawn, kind):
    interests, table = (
        (size * torch.randn(60, 3, 8)).requires_grad_(),
        torch.randn(40, 8, requires_grad=True),
    )
    targets, drawn = (
        torch.randint(40, (60,)),
        None if num_drawn is None else torch.randperm(40)[:num_drawn],
    )
    shapes, apart, found = [], recommendation._apart, []
    monkeypatch.setattr(
        recommendation, "_apart", lambda like, *shape: shapes.append(shape) or apart(like, *shape)
    )
    for cells in (CHUNK_CELLS["cpu"], 84):
        monkeypatch.setitem(CHUNK_CELLS, "cpu", cells)
        monkeypatch.setattr(recommendation, "TILE", 12)
        loss = interest_softmax(interests, table, targets, largest, kind, drawn)
        found.append([loss, *torch.autograd.grad(3 * loss, (interests, table))])
    assert shapes[0] == (180, num_drawn or 40) and shapes[2] == (12, 7)
    for whole, tiled in zip(*found):
        assert torch.allclose(
            whole, tiled, atol=1e-5 if kind == torch.float32 else 0.02 * whole.abs().max().item()
        )


@pytest.mark.parametrize(("num_negatives", "count"), [(0, None), (40, None), (100, None), (15, 15)])
def test_drawn_items_are_distinct(num_negatives, count):
    drawn = draw_items(40, num_negatives, torch.device("cpu"))
    assert (drawn is None) if count is None else len(drawn.unique()) == count


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.patch": "mean"},
        *({"model.kernel": kernel} for kernel in ("rbf_normalised", "distance", "softmax")),
    ],
)
@pytest.mark.parametrize("supervision", ["one_target", "every_position"])
def test_one_prefix_a_row_is_that_of_all_prefixes(planted, batch, changes, supervision):
    """What one_target reads, and how it learns from it, and what either scores by, is what reading every prefix gives there."""
    model = model_of(planted, "bivrec", {"training.supervision": supervision, **changes})
    ends, rows = batch.mask.sum(1) - 1, torch.arange(len(batch.items))
    found = []
    for newest in (True, False):
        model.zero_grad()
        tables = model.tables()
        if newest:
            read, real = model.read_newest(batch.items, ends, tables)
            interests = {view: read[view][0][:, 0] for view in read}
            assert real.sum() == sum(
                (ends // scale + 1).sum() for scale in model.settings.model.scales
            )
        else:
            interests = {
                view: every[rows, ends]
                for view, (every, _) in model.read(batch.items, batch.mask, tables).items()
            }
        sum(
            (part * torch.linspace(-1, 1, part.shape[-1])).sin().sum()
            for part in interests.values()
        ).backward()
        found.append(
            (
                interests,
                {
                    name: p.grad.clone()
                    for name, p in model.named_parameters()
                    if p.grad is not None
                },
            )
        )
    assert all(
        torch.allclose(found[0][0][view], found[1][0][view], atol=1e-5) for view in found[0][0]
    )
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        assert torch.allclose(
            gradient, found[1][1][name], atol=1e-4 * (1 + gradient.abs().max())
        ), name


def test_what_is_computed_anew_is_the_same(planted, batch, monkeypatch):
    """Keeping nothing for the backward pass changes no gradient, dropout and Gumbel noise included; nor does it matter how
    many rows go together."""
    settings, found, batch = (
        {"training.supervision": "one_target", "model.dropout": 0.4},
        [],
        with_one_target(batch),
    )
    monkeypatch.setattr("bivrec.model.PART_CELLS", {"cpu": 2 * batch.items.shape[1] * 32})
    monkeypatch.setattr("bivrec.model.HELD_PARTS", 1)
    for kept in (False, True):
        if kept:
            monkeypatch.setattr("bivrec.model.recompute", lambda _, call, *inputs: call(*inputs))
        torch.manual_seed(3)
        model = model_of(planted, "bivrec", settings).train()
        for _ in range(2):
            model.zero_grad()
            model.loss(batch).backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) and all(torch.equal(a, b) for a, b in zip(*found))
    model, losses = (
        model_of(
            planted,
            "bivrec",
            {
                **settings,
                "model.dropout": 0.0,
                "model.pooling": "mean",
                "cross_view.mutual_weight": 0.0,
            },
        ),
        [],
    )
    for most in (1, 1 << 30):
        monkeypatch.setattr("bivrec.model.PART_CELLS", {"cpu": most})
        losses.append(model.loss(batch).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
