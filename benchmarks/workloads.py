"""The sets on which speed is measured, generated with published sizes.

Needs numpy only, since every peer's environment imports it. They are for cost only: items follow
Zipf's law, and there is nothing to learn.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIZES = {  # users, items, interactions, features of text and image
    "baby-size": (19_445, 7_050, 160_792, (384, 4096)),
    "ml-1m-size": (6_040, 3_416, 999_611, (384, 1280)),
}


@dataclass(frozen=True)
class Workload:
    """Every user's items in order of time, from 0, one user after the other."""

    name: str
    items: np.ndarray
    starts: np.ndarray
    num_items: int
    features: tuple[int, ...]

    def rows(self) -> list[np.ndarray]:
        return [self.items[a:b] for a, b in zip(self.starts[:-1], self.starts[1:])]

    def interactions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """User, item and time of every interaction."""
        lengths = np.diff(self.starts)
        users = np.repeat(np.arange(len(lengths)), lengths)
        return users, self.items, np.arange(len(self.items)) - np.repeat(self.starts[:-1], lengths)

    def item_features(self) -> list[np.ndarray]:
        """Text and image of every item, at random."""
        generator = np.random.default_rng(0)
        return [
            generator.standard_normal((self.num_items, width), dtype="float32")
            for width in self.features
        ]


def generated(name: str) -> Workload:
    users, num_items, interactions, features = SIZES[name]
    generator = np.random.default_rng(0)
    lengths = np.maximum(
        5, np.round(generator.lognormal(0, 0.7, users) * interactions / users / np.exp(0.245))
    ).astype("int64")
    lengths = np.minimum(
        np.maximum(5, np.round(lengths * interactions / lengths.sum()).astype("int64")),
        num_items // 2,
    )
    chances = 1 / (np.arange(num_items) + 10) ** 0.8
    chances = np.log(chances / chances.sum())
    rows = [
        np.argpartition(-(chances + generator.gumbel(size=num_items)), length)[:length]
        for length in lengths
    ]
    rows = [generator.permutation(row) for row in rows]
    return Workload(
        name, np.concatenate(rows), np.concatenate([[0], np.cumsum(lengths)]), num_items, features
    )


def even(
    num_items: int, length: int, num_users: int = 1000, features: tuple[int, ...] = (32, 32)
) -> Workload:
    """Users with histories of one length, items at random: for `curves.py`."""
    items = np.random.default_rng(0).integers(num_items, size=num_users * length)
    return Workload("even", items, np.arange(0, len(items) + 1, length), num_items, features)


def save(workload: Workload, path: Path) -> None:
    np.savez(
        path,
        items=workload.items,
        starts=workload.starts,
        num_items=workload.num_items,
        features=workload.features,
        name=workload.name,
    )


def load(path: Path) -> Workload:
    with np.load(path, allow_pickle=False) as kept:
        return Workload(
            str(kept["name"]),
            kept["items"],
            kept["starts"],
            int(kept["num_items"]),
            tuple(kept["features"].tolist()),
        )
