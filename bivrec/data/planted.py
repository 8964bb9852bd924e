"""Planted: a small generated dataset whose interests are known, so that a figure can be checked against the truth."""

import colorsys
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int64, UInt8
from numpy import ndarray

from bivrec.data.types import Raw
from bivrec.settings import Planted

SHAPES = ("disc", "ring", "square", "cross", "stripes", "triangle", "diamond", "checks")

NOUNS = ("moon", "halo", "window", "compass", "field", "mountain", "kite", "mosaic")

SCENES = (
    "a quiet harbour",
    "a train at night",
    "an old orchard",
    "a frozen lake",
    "a busy market",
    "a desert road",
    "a tall lighthouse",
)

SIDE = 32


@dataclass(frozen=True)
class PlantedRaw(Raw):
    """The raw tables, each item's rendered image, and the truth: its kind."""

    images: UInt8[ndarray, "item height width 3"]
    kinds: Int64[ndarray, "item"]


def _draw(
    kind: int, num_kinds: int, generator: np.random.Generator
) -> UInt8[ndarray, "height width 3"]:
    """A shape in its kind's colour on a dark ground, a little moved, resized, tinted and grained."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    x, y = x - generator.uniform(-4, 4), y - generator.uniform(-4, 4)
    size, radius = generator.uniform(8, 12), np.hypot(x, y)
    inside = {
        "disc": radius < size,
        "ring": (radius < size) & (radius > size / 2),
        "square": np.maximum(abs(x), abs(y)) < size,
        "cross": (np.minimum(abs(x), abs(y)) < size / 3) & (np.maximum(abs(x), abs(y)) < size),
        "stripes": (y // 4) % 2 == 0,
        "triangle": (y > -size) & (y < size) & (abs(x) < (y + size) / 2),
        "diamond": abs(x) + abs(y) < size,
        "checks": ((x // 6) + (y // 6)) % 2 == 0,
    }[SHAPES[kind]]
    colour = 255 * np.array(
        colorsys.hsv_to_rgb((kind / num_kinds + generator.normal(0, 0.02)) % 1, 0.8, 0.9)
    )
    image = np.where(inside[..., None], colour, 40.0) + generator.normal(0, 12, (SIDE, SIDE, 1))
    return image.clip(0, 255).astype("uint8")


def make_planted(settings: Planted) -> PlantedRaw:
    """Items of a few kinds; users who follow 2 to 4 kinds and drift from the first to the last.

    A user stays with a kind for a few steps, then moves to another of theirs; the later in the history, the likelier
    the later kinds. Inside a kind the next item is a near neighbour of the last, so that order matters. All items
    and users come from the seed alone.
    """
    generator = np.random.Generator(np.random.PCG64(settings.seed))
    num_kinds, per_kind = settings.num_kinds, settings.items_per_kind
    kinds = np.repeat(np.arange(num_kinds), per_kind)
    images = np.stack([_draw(kind, num_kinds, generator) for kind in kinds.tolist()])
    genres = [f"{SHAPES[kind]} pictures" for kind in kinds]
    titles = [
        f"{NOUNS[kind].title()} {number}"
        for kind in range(num_kinds)
        for number in range(1, per_kind + 1)
    ]
    scenes, first = generator.integers(len(SCENES), size=len(kinds)), 1000 * settings.seed
    descriptions = [
        f"A {NOUNS[kind]} over {SCENES[scene]}, drawn as a {SHAPES[kind]}."
        for kind, scene in zip(kinds, scenes)
    ]
    items = pd.DataFrame(
        {
            "item": first + np.arange(len(kinds)),
            "title": titles,
            "year": 2000 + settings.seed,
            "genres": genres,
            "description": descriptions,
        }
    )

    rows = []
    for user in range(settings.num_users):
        liked = generator.choice(
            num_kinds, size=generator.integers(2, min(4, num_kinds) + 1), replace=False
        )
        length = int(generator.integers(settings.mean_length // 2, settings.mean_length * 3 // 2))
        places = {kind: int(generator.integers(per_kind)) for kind in liked}
        kind = liked[0]
        for step in range(length):
            if generator.random() < 0.35:
                drift = np.exp(
                    -(((np.arange(len(liked)) / (len(liked) - 1)) - step / length) ** 2) * 4
                )
                kind = generator.choice(liked, p=drift / drift.sum())
            places[kind] = (places[kind] + int(generator.integers(1, 4))) % per_kind
            rows.append((user, first + kind * per_kind + places[kind], step))
    interactions = pd.DataFrame(rows, columns=["user", "item", "time"]).drop_duplicates(
        ["user", "item"], ignore_index=True
    )
    no_tags = pd.DataFrame(columns=["user", "item", "tag"]).astype(
        {"user": "int64", "item": "int64", "tag": str}
    )
    return PlantedRaw(interactions, items, no_tags, images=images, kinds=kinds)
