"""Planted: a small generated dataset with known interests, against which figures can be checked."""

import colorsys
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int64, UInt8
from numpy import ndarray

from bivrec.data.readers.common import NO_TAGS
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

SIDE = 32  # pixels


@dataclass(frozen=True)
class PlantedRaw(Raw):
    """The raw tables, each item's image, and the truth: each item's kind, which interests
    follow."""

    images: UInt8[ndarray, "item height width 3"]
    kinds: Int64[ndarray, "item"]


def _draw(
    kind: int, angle: float | None, num_kinds: int, generator: np.random.Generator
) -> UInt8[ndarray, "height width 3"]:
    """The kind's shape in its colour on a dark ground, with noise, at a random size; at a random
    place, or at an angle on a circle."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    place = generator.uniform(-4, 4), generator.uniform(-4, 4)
    if angle is not None:
        place = 8 * np.cos(angle), 8 * np.sin(angle)
    x, y = x - place[0], y - place[1]
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
    hue = (kind / num_kinds + generator.normal(0, 0.02)) % 1
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue, 0.8, 0.9))
    image = np.where(inside[..., None], colour, 40.0) + generator.normal(0, 12, (SIDE, SIDE, 1))
    return image.clip(0, 255).astype("uint8")


def make_planted(settings: Planted) -> PlantedRaw:
    """Items of a few kinds; users who follow 2 to 4 kinds and drift from the first to the last.

    A user stays with a kind for a few steps, then moves to another of theirs; the later in the
    history, the likelier the later kinds. Within a kind the next item is a near neighbour of the
    last, so order matters. Users of `alternating` data draw each step's kind from all kinds, and an
    item's place in its kind shows in its picture. Everything follows from the seed.
    """
    generator = np.random.Generator(np.random.PCG64(settings.seed))
    kinds = np.repeat(np.arange(settings.num_kinds), settings.items_per_kind)
    turn = 2 * np.pi * np.arange(len(kinds)) / settings.items_per_kind
    angles = turn.tolist() if settings.alternating else [None] * len(kinds)
    images = np.stack(
        [_draw(*item, settings.num_kinds, generator) for item in zip(kinds.tolist(), angles)]
    )
    scenes, first = generator.integers(len(SCENES), size=len(kinds)), 1000 * settings.seed
    items = pd.DataFrame(
        {
            "item": first + np.arange(len(kinds)),
            "title": [
                f"{NOUNS[kind].title()} {1 + row % settings.items_per_kind}"
                for row, kind in enumerate(kinds)
            ],
            "year": 2000 + settings.seed,
            "genres": [f"{SHAPES[kind]} pictures" for kind in kinds],
            "description": [
                f"A {NOUNS[kind]} over {SCENES[scene]}, drawn as a {SHAPES[kind]}."
                for kind, scene in zip(kinds, scenes)
            ],
        }
    )
    rows = [
        (user, first + item, step)
        for user in range(settings.num_users)
        for step, item in enumerate(_make_history(settings, generator))
    ]
    interactions = pd.DataFrame(rows, columns=["user", "item", "time"])
    interactions = interactions.drop_duplicates(["user", "item"], ignore_index=True)
    return PlantedRaw(interactions, items, NO_TAGS, images=images, kinds=kinds)


def _make_history(settings: Planted, generator: np.random.Generator) -> list[int]:
    """The items of one user, in order; `alternating` users draw the kind of each item anew."""
    num_kinds, per_kind, mean = settings.num_kinds, settings.items_per_kind, settings.mean_length
    num_liked = generator.integers(2, min(4, num_kinds) + 1)
    num_liked = num_kinds if settings.alternating else num_liked
    liked = generator.choice(num_kinds, size=num_liked, replace=False)
    length = int(generator.integers(mean // 2, mean * 3 // 2))
    newest = {kind: int(generator.integers(per_kind)) for kind in liked}
    kind, history = liked[0], []
    for step in range(length):
        if settings.alternating:
            kind = generator.choice(liked)
        elif generator.random() < 0.35:
            distance = np.arange(len(liked)) / (len(liked) - 1) - step / length
            drift = np.exp(-(distance**2) * 4)
            kind = generator.choice(liked, p=drift / drift.sum())
        newest[kind] = (newest[kind] + int(generator.integers(1, 4))) % per_kind
        history.append(int(kind * per_kind + newest[kind]))
    return history
