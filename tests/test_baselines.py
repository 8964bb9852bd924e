"""The neural rivals against loops that follow their sources' definitions, and what none of them may do."""

import math

import pytest
import torch
from torch.nn.functional import gelu

from bivrec.experiment.registry import FAMILIES
from bivrec.model.base import Batch
from bivrec.model.cross_view import info_nce
from bivrec.model.losses import interest_softmax
from bivrec.settings import load_settings, vary

NEURAL = [
    name
    for name, variant in load_settings().models.items()
    if variant.family not in ("popularity", "itemknn")
]
WITH_FEATURES = [
    name for name in NEURAL if name not in ("pure-id", "sasrec", "gru4rec", "comirec-sa")
]
NUM_ITEMS, LENGTH = 40, 7


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def some_features(modalities=("text", "image")):
    """Random features; the text of items 3 and 4 and the image of items 4 and 5 is missing."""
    gone = {"text": [3, 4], "image": [4, 5]}
    masks = {
        name: torch.tensor([item not in gone[name] for item in range(NUM_ITEMS)])
        for name in modalities
    }
    return {name: (torch.randn(NUM_ITEMS, 6), mask) for name, mask in masks.items()}


def model_of(name, features=None, **changes):
    settings = load_settings(
        "planted",
        {"model.dim": 8, **{key.replace("__", "."): value for key, value in changes.items()}},
    )
    variant = settings.models[name]
    model = FAMILIES[variant.family](
        vary(settings, variant, name), NUM_ITEMS, features or some_features()
    )
    for part in (
        p for key, p in model.named_parameters() if ".missing." in key or key.endswith("ids")
    ):
        torch.nn.init.normal_(part)
    return model.eval()


def row(length=LENGTH):
    items = torch.arange(length)[None] + 1
    return items, torch.ones(1, length, dtype=torch.bool)


def supervised(model, items, mask):
    """A batch in the model's regime: every position, or the last of a row."""
    last = mask.sum(1) - 1
    every = getattr(model, "causal", True)
    chosen = mask if every else torch.arange(items.shape[1]) == last[:, None]
    return Batch(items, mask, items + 1, chosen, last // 2 if every else last)


def state_of(model):
    """The interests after the whole of one row, and the row's vectors by source."""
    items, mask = row()
    (interests,) = model.interests(items, mask).values()
    vectors = {"id": model.items.ids, **model.items.parts()}
    return interests[0, -1], {
        name: part[items[0]] for name, part in vectors.items() if part is not None
    }


def attend(queries, keys, values, heads):
    """Causal attention by loops; `queries` and `keys` are lists of sources whose products are summed."""
    length, width = values.shape[0], values.shape[1] // heads
    out = torch.zeros_like(values)
    for head in range(heads):
        cut = slice(head * width, (head + 1) * width)
        for t in range(length):
            logits = torch.stack(
                [
                    sum(q[t, cut] @ k[j, cut] for q, k in zip(queries, keys)) / math.sqrt(width)
                    for j in range(t + 1)
                ]
            )
            out[t, cut] = sum(share * values[j, cut] for j, share in enumerate(logits.softmax(0)))
    return out


def transform(encoder, vectors):
    """A pre-normalised causal transformer by loops."""
    x = (
        encoder.embedding.norm(vectors)
        + encoder.embedding.position[: len(vectors)]
        + encoder.embedding.scale[0]
    )
    for block in encoder.blocks:
        query, key, value = block.attention.project(block.norms[0](x)).chunk(3, -1)
        x = x + block.attention.out(attend([query], [key], value, block.attention.num_heads))
        x = x + block.feed(block.norms[1](x))
    return encoder.norm(x)


def test_sasrec_by_loop():
    model = model_of("sasrec")
    state, vectors = state_of(model)
    assert torch.allclose(state[0], transform(model.encoder, vectors["id"])[-1], atol=1e-5)


def test_gru4rec_by_loop():
    """Reset and update gates, in the order r, z, n."""
    model = model_of("gru4rec", baseline__inner_dim=5)
    got, vectors = state_of(model)
    cells, state = model.cells, torch.zeros(5)
    for e in vectors["id"]:
        given, kept = (
            (cells.weight_ih_l0 @ e + cells.bias_ih_l0).chunk(3),
            (cells.weight_hh_l0 @ state + cells.bias_hh_l0).chunk(3),
        )
        reset, update = torch.sigmoid(given[0] + kept[0]), torch.sigmoid(given[1] + kept[1])
        state = (1 - update) * torch.tanh(given[2] + reset * kept[2]) + update * state
    assert torch.allclose(got[0], model.out(state), atol=1e-5)


@pytest.mark.parametrize("name", NEURAL)
def test_what_is_scored_is_what_all_positions_have_at_the_last(name):
    """However little of a history's other positions a model computes for it; rows end where they may."""
    model, items = model_of(name, model__max_length=8), torch.randint(NUM_ITEMS, (5, 8))
    last = torch.tensor([7, 0, 3, 4, 6])
    mask = torch.arange(8) <= last[:, None]
    with torch.no_grad():
        newest, whole = model.newest(items, mask, model.tables()), model.interests(items, mask)
    assert newest.keys() == whole.keys()
    assert all(
        torch.allclose(newest[view], whole[view][torch.arange(5), last], atol=1e-5)
        for view in whole
    )


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_comirec_by_loop(scale):
    """Also where the scores are so large that their exponentials overflow."""
    model = model_of("comirec-sa", baseline__num_interests=3)
    torch.nn.init.normal_(model.attend[2].weight, std=scale)
    got, vectors = state_of(model)
    inner, outer, e = model.attend[0].weight, model.attend[2].weight, vectors["id"]
    assert got.shape == (3, 8) and inner.shape == (32, 8)
    for k in range(3):
        logits = [
            (outer[k] @ torch.tanh(inner @ (e[j] + model.position[j]))).item()
            for j in range(LENGTH)
        ]
        shares = [math.exp(logit - max(logits)) for logit in logits]
        assert torch.allclose(
            got[k], sum(share / sum(shares) * e[j] for j, share in enumerate(shares)), atol=1e-5
        )


def test_comirec_trains_the_nearest_interest():
    model = model_of("comirec-sa", baseline__num_interests=3)
    items, mask = row()
    interests, table = model.interests(items, mask)["id"][0], model.items.ids
    total = 0.0
    for t in range(LENGTH):
        nearest = max(interests[t], key=lambda u: (u @ table[9]).item())
        total -= (table @ nearest).log_softmax(0)[9].item() / LENGTH
    assert model.loss(
        Batch(items, mask, torch.full_like(items, 9), mask, torch.tensor([0]))
    ).item() == pytest.approx(total, abs=1e-4)


def test_fdsa_by_loop():
    model = model_of("fdsa")
    state, vectors = state_of(model)
    mixed = []
    for text, image in zip(vectors["text"], vectors["image"]):
        shares = torch.cat([model.attend(text), model.attend(image)]).softmax(0)
        mixed.append(shares[0] * text + shares[1] * image)
    states = [
        transform(encoder, rows)[-1]
        for encoder, rows in zip(model.encoders, (vectors["id"], torch.stack(mixed)))
    ]
    linear, norm = model.join
    assert torch.allclose(state[0], norm(linear(torch.cat(states))), atol=1e-5)


@pytest.mark.parametrize("name", ["nova", "dif-sr"])
def test_side_information_enters_queries_and_keys_only(name):
    model = model_of(name)
    state, vectors = state_of(model)
    first, last, *norms = model.norms
    x, sides = (
        first(vectors["id"]),
        [model.position[:LENGTH], norms[0](vectors["text"]), norms[1](vectors["image"])],
    )
    for block in model.blocks:
        h = block.norms[0](x)
        sources = [h + sum(sides)] if name == "nova" else [h, *sides]
        queries, keys = zip(
            *(
                look(source).chunk(2, -1)
                for look, source in zip(block.attention.look, sources, strict=True)
            )
        )
        x = x + block.attention.out(
            attend(queries, keys, block.attention.value(h), block.attention.num_heads)
        )
        x = x + block.feed(block.norms[1](x))
    assert torch.allclose(state[0], last(x)[-1], atol=1e-5)


def test_mmmlp_by_loop():
    model = model_of("mmmlp")
    state, vectors = state_of(model)
    states = []
    for (norm, *blocks), rows in zip(
        model.streams, (vectors["id"], vectors["text"], vectors["image"]), strict=True
    ):
        x = norm(rows)
        for block in blocks:
            (inner, outer), (first, second), h = (
                block.attention.weights,
                block.attention.biases,
                block.norms[0](x),
            )
            hidden = [
                gelu(sum(inner[i, j] * h[j] for j in range(i + 1)) + first[i])
                for i in range(LENGTH)
            ]
            x = x + torch.stack(
                [
                    sum(outer[t, i] * hidden[i] for i in range(t + 1)) + second[t]
                    for t in range(LENGTH)
                ]
            )
            x = x + block.feed(block.norms[1](x))
        states.append(x[-1])
    assert torch.allclose(state[0], model.join(torch.cat(states)), atol=1e-5)


def test_mmsrec_by_loop():
    """Scores are cosines over the temperature; the alignment counts each item with both modalities once."""
    model = model_of("mmsrec", baseline__alignment_weight=0.3)
    items, mask = row()
    items[0, 6] = 1
    text, image = model.items.parts().values()
    fused = model.fuse(torch.cat([model.norms[0](text), model.norms[1](image)], -1))
    direction = fused / fused.norm(dim=1, keepdim=True)
    state = transform(model.encoder, direction[items[0]])[-1]
    expected = [(state @ v / state.norm() / v.norm()).item() / 0.05 for v in fused]
    assert torch.allclose(
        model.score([items[0].numpy()])["multimodal"][0], torch.tensor(expected), atol=1e-4
    )
    both = [1, 2, 6]  # 3, 4 and 5 lack a modality
    batch = Batch(items, mask, items + 1, mask, torch.tensor([0]))
    plain = interest_softmax(
        model.interests(items, mask)["multimodal"][0], model.tables()["multimodal"], items[0] + 1
    )
    assert torch.allclose(
        model.loss(batch), plain + 0.3 * info_nce(text[both], image[both], 0.05), atol=1e-5
    )
    lonely = Batch(
        torch.tensor([[4]]), mask[:, :1], torch.tensor([[5]]), mask[:, :1], torch.tensor([0])
    )
    assert torch.isfinite(model.loss(lonely))


@pytest.mark.parametrize("name", ["fdsa", "nova", "dif-sr", "mmmlp"])
def test_scores_are_by_the_ids(name):
    model = model_of(name)
    assert set(model.tables()) == {"both"} and model.tables()["both"] is model.items.ids


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_what_stands_under_a_mask_is_never_read(name):
    features = some_features()
    model = model_of(name, features)
    before = model.score([row()[0][0].numpy()])
    loud = {
        key: (torch.where(mask[:, None], values, 1e6), mask)
        for key, (values, mask) in features.items()
    }
    for module in model.modules():
        if hasattr(module, "maps"):
            module.set_features(loud)
    after = model.score([row()[0][0].numpy()])
    assert all(torch.equal(before[view], after[view]) for view in before)


@pytest.mark.parametrize("name", WITH_FEATURES)
@pytest.mark.parametrize("modality", ["text", "image"])
def test_one_modality_is_enough(name, modality):
    model = model_of(name, some_features([modality])).train()
    items, mask = row(8)
    assert torch.isfinite(model.loss(supervised(model, items, mask)))


@pytest.mark.parametrize("name", NEURAL)
def test_every_part_learns(name):
    model = model_of(name).train()
    items, mask = (
        torch.stack([torch.arange(24), torch.arange(24).flip(0)]),
        torch.ones(2, 24, dtype=torch.bool),
    )
    model.loss(supervised(model, items, mask)).backward()
    silent = [
        key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert silent == []
