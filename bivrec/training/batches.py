"""Batches cut from packed sequences."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray

from bivrec.model.base import Batch
from bivrec.settings import Training

BATCHES_AHEAD = 16  # drawn at a time under one_target


def draw_batches(
    train: Sequence[Int64[ndarray, "_"]],
    settings: Training,
    max_length: int,
    multiple: int,
    seed: int,
    device: torch.device | None = None,
) -> Iterator[Batch]:
    """Batches without end, cut on the device, which holds all sequences; only rows' places go there.

    every_position: each epoch cuts every sequence, from a random place on, into windows of at most `max_length`
    targets; every position is supervised. one_target: a random user and a random cut, as the paper samples; one target a
    row. Rows of like length go together, of an epoch or of some batches drawn ahead.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    packed, lengths = (
        torch.from_numpy(np.concatenate(train)).to(device),
        np.array([len(row) for row in train]),
    )
    starts, usable = np.cumsum(lengths) - lengths, np.flatnonzero(lengths >= 2)
    if not len(usable):
        raise ValueError("no training sequence has two items; nothing can be predicted")

    def gather(first: Int64[ndarray, "row"], size: Int64[ndarray, "row"], every: bool) -> Batch:
        """Rows of `size` inputs from place `first` of the packed items; the target of a position is the item after it."""
        position = torch.arange(-(-size.max() // multiple) * multiple, device=device)
        probe = (generator.random(len(size)) * size).astype("int64") if every else size - 1
        first, size, probe = torch.from_numpy(np.stack([first, size, probe])).to(device)
        mask = position < size[:, None]
        spot = (first[:, None] + position).clamp_max(len(packed) - 2)
        return Batch(
            packed[spot] * mask,
            mask,
            packed[spot + 1] * mask,
            mask if every else position == size[:, None] - 1,
            probe,
        )

    every = settings.supervision == "every_position"
    while True:
        if every:
            cut, end = generator.integers(max_length, size=len(usable)), lengths[usable] - 1
            windows = np.maximum(0, -((cut - end) // max_length)) + (cut > 0)
            user = np.repeat(np.arange(len(usable)), windows)
            number = np.arange(len(user)) - (np.cumsum(windows) - windows)[user] + (cut == 0)[user]
            begin = np.maximum(0, cut[user] + (number - 1) * max_length)
            first, size = (
                starts[usable][user] + begin,
                np.minimum(end[user], cut[user] + number * max_length) - begin,
            )
        else:
            user = generator.choice(usable, size=BATCHES_AHEAD * settings.batch_size)
            cut = 1 + (generator.random(len(user)) * (lengths[user] - 1)).astype("int64")
            size = np.minimum(cut, max_length)
            first = starts[user] + cut - size
        order = np.argsort(size + generator.random(len(size)), kind="stable")
        groups = [
            order[start : start + settings.batch_size]
            for start in range(0, len(order), settings.batch_size)
        ]
        for group in generator.permutation(len(groups)):
            yield gather(first[groups[group]], size[groups[group]], every)
