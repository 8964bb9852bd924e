"""FDSA, NOVA, DIF-SR, MMMLP and MMSRec against loops that follow their sources' definitions."""

import pytest
import torch
from loops import LENGTH, attend, build, row, state_of, transform
from torch.nn.functional import gelu

from bivrec.model.base import Batch
from bivrec.model.losses import info_nce, interest_softmax


def test_fdsa_by_loop():
    model = build("fdsa")
    state, vectors = state_of(model)
    mixed = []
    for text, image in zip(vectors["text"], vectors["image"]):
        shares = torch.cat([model.attend(text), model.attend(image)]).softmax(0)
        mixed.append(shares[0] * text + shares[1] * image)
    pairs = zip(model.encoders, (vectors["id"], torch.stack(mixed)))
    states = [transform(encoder, rows)[-1] for encoder, rows in pairs]
    linear, norm = model.join
    assert torch.allclose(state[0], norm(linear(torch.cat(states))), atol=1e-5)


@pytest.mark.parametrize("name", ["nova", "dif-sr"])
def test_side_information_enters_queries_and_keys_only(name):
    model = build(name)
    state, vectors = state_of(model)
    first, last, *norms = model.norms
    features = [norm(vectors[key]) for norm, key in zip(norms, ("text", "image"))]
    x, sides = first(vectors["id"]), [model.position[:LENGTH], *features]
    for block in model.blocks:
        h, attention = block.norms[0](x), block.attention
        sources = [h + sum(sides)] if name == "nova" else [h, *sides]
        pairs = zip(attention.look, sources, strict=True)
        queries, keys = zip(*(look(source).chunk(2, -1) for look, source in pairs))
        x = x + attention.out(attend(queries, keys, attention.value(h), attention.num_heads))
        x = x + block.feed(block.norms[1](x))
    assert torch.allclose(state[0], last(x)[-1], atol=1e-5)


def mix_by_loop(mixing, h):
    """An MLP across positions, each of which sees no later one."""
    (inner, outer), (first, second) = mixing.weights, mixing.biases
    hidden = [sum(inner[i, j] * h[j] for j in range(i + 1)) + first[i] for i in range(LENGTH)]
    hidden = [gelu(x) for x in hidden]
    mixed = [sum(outer[t, i] * hidden[i] for i in range(t + 1)) + second[t] for t in range(LENGTH)]
    return torch.stack(mixed)


def test_mmmlp_by_loop():
    model = build("mmmlp")
    state, vectors = state_of(model)
    states = []
    inputs = vectors["id"], vectors["text"], vectors["image"]
    for (norm, *blocks), rows in zip(model.streams, inputs, strict=True):
        x = norm(rows)
        for block in blocks:
            x = x + mix_by_loop(block.attention, block.norms[0](x))
            x = x + block.feed(block.norms[1](x))
        states.append(x[-1])
    assert torch.allclose(state[0], model.join(torch.cat(states)), atol=1e-5)


def test_mmsrec_scores_are_cosines_over_the_temperature():
    model, items = build("mmsrec"), row()[0][0]
    text, image = model.items.project_features().values()
    fused = model.fuse(torch.cat([model.norms[0](text), model.norms[1](image)], -1))
    direction = fused / fused.norm(dim=1, keepdim=True)
    state = transform(model.encoder, direction[items])[-1]
    expected = [(state @ v / state.norm() / v.norm()).item() / 0.05 for v in fused]
    scores = model.score([items.numpy()])["multimodal"][0]
    assert torch.allclose(scores, torch.tensor(expected), atol=1e-4)


def test_mmsrec_aligns_each_item_with_both_modalities_once():
    model = build("mmsrec", baseline__alignment_weight=0.3)
    text, image = model.items.project_features().values()
    items, mask = row()
    items[0, 6] = 1
    both = [1, 2, 6]  # 3, 4 and 5 lack a modality
    interests, table = model.interests(items, mask)["multimodal"][0], model.tables()["multimodal"]
    expected = interest_softmax(interests, table, items[0] + 1)
    expected = expected + 0.3 * info_nce(text[both], image[both], 0.05)
    batch = Batch(items, mask, items + 1, mask, torch.tensor([0]))
    assert torch.allclose(model.loss(batch), expected, atol=1e-5)
    item, mask = torch.tensor([[4]]), mask[:, :1]
    assert torch.isfinite(model.loss(Batch(item, mask, item + 1, mask, torch.tensor([0]))))


@pytest.mark.parametrize("name", ["fdsa", "nova", "dif-sr", "mmmlp"])
def test_scores_are_by_the_ids(name):
    model = build(name)
    assert set(model.tables()) == {"both"} and model.tables()["both"] is model.items.ids
