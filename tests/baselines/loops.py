"""Attention and a transformer by loops, and small models to compare with them."""

import math

import torch

from bivrec.experiment.own import load_class
from bivrec.experiment.registry import FAMILIES
from bivrec.model.base import SequentialModel
from bivrec.settings import load_settings, vary

NUM_ITEMS, LENGTH = 40, 7
NEURAL = [
    name
    for name, variant in load_settings().models.items()
    if variant.family not in ("popularity", "itemknn")
]


def some_features(modalities=("text", "image")) -> dict:
    """Random features; the text of items 3 and 4 and the image of items 4 and 5 is missing."""
    missing = {"text": torch.tensor([3, 4]), "image": torch.tensor([4, 5])}
    masks = {name: ~torch.isin(torch.arange(NUM_ITEMS), missing[name]) for name in modalities}
    return {name: (torch.randn(NUM_ITEMS, 6), mask) for name, mask in masks.items()}


def build(name: str, features: dict | None = None, **changes) -> SequentialModel:
    """An untrained model of 8 dimensions by its name in params.yaml, with random item vectors."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    settings = load_settings("planted", {"model.dim": 8} | changes)
    variant = settings.models[name]
    settings = vary(settings, variant, name)
    model_class = FAMILIES.get(variant.family) or load_class(variant.family)
    model = model_class(settings, NUM_ITEMS, features or some_features())
    for key, parameter in model.named_parameters():
        if ".missing." in key or key.endswith("ids"):
            torch.nn.init.normal_(parameter)
    return model.eval()


def row(length: int = LENGTH) -> tuple[torch.Tensor, torch.Tensor]:
    """Items 1, 2, ... and their mask."""
    return torch.arange(length)[None] + 1, torch.ones(1, length, dtype=torch.bool)


def state_of(model) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The interests after the whole of one row, and the vectors of its items by source."""
    items, mask = row()
    (interests,) = model.interests(items, mask).values()
    vectors = {"id": model.items.ids, **model.items.project_features()}
    found = {name: table[items[0]] for name, table in vectors.items() if table is not None}
    return interests[0, -1], found


def attend(queries, keys, values, num_heads):
    """Causal attention; `queries` and `keys` list sources, whose products are summed."""
    width, out = values.shape[1] // num_heads, torch.zeros_like(values)
    for head in range(num_heads):
        cut = slice(head * width, (head + 1) * width)
        for t in range(len(values)):
            logits = [
                sum(q[t, cut] @ k[j, cut] for q, k in zip(queries, keys)) / math.sqrt(width)
                for j in range(t + 1)
            ]
            shares = torch.stack(logits).softmax(0)
            out[t, cut] = sum(share * values[j, cut] for j, share in enumerate(shares))
    return out


def transform(encoder, vectors):
    """A pre-normalised causal transformer."""
    embedding = encoder.embedding
    x = embedding.norm(vectors) + embedding.position[: len(vectors)] + embedding.scale[0]
    for block in encoder.blocks:
        query, key, value = block.attention.project(block.norms[0](x)).chunk(3, -1)
        x = x + block.attention.out(attend([query], [key], value, block.attention.num_heads))
        x = x + block.feed(block.norms[1](x))
    return encoder.norm(x)
