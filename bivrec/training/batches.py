"""Training batches, cut from the packed sequences on the device that holds them."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray
from torch import Tensor

from bivrec.model.base import Batch
from bivrec.settings import Training

Rows = tuple[Int64[ndarray, "row"], Int64[ndarray, "row"]]  # first item, number of inputs

# Sampled at a time under one_target, so that rows of similar length share a batch.
BATCHES_AHEAD = 16


def draw_batches(
    train: Sequence[Int64[ndarray, "_"]],
    settings: Training,
    max_length: int,
    multiple: int,
    seed: int,
    device: torch.device | None = None,
) -> Iterator[Batch]:
    """An endless stream of batches, padded to a multiple of `multiple`; rows of similar
    length share a batch.

    every_position: each epoch cuts every sequence, from a random offset on, into windows of at most
    `max_length` targets, and supervises every position. one_target: a random user and a random
    prefix, as the paper samples; one target per row, its last. Raises ValueError if no sequence has
    two items.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    step_seeds = generator.spawn(1)[0]  # a separate stream, which leaves the batches as they are
    items = torch.from_numpy(np.concatenate(train)).to(device)
    lengths = np.array([len(sequence) for sequence in train])
    starts, usable = np.cumsum(lengths) - lengths, lengths >= 2
    starts, lengths = starts[usable], lengths[usable]
    if not len(starts):
        raise ValueError("no training sequence has two items; nothing can be predicted")
    every = settings.supervision == "every_position"
    while True:
        if every:
            first, size = cut_windows(starts, lengths, max_length, generator)
        else:
            num_rows = BATCHES_AHEAD * settings.batch_size
            first, size = sample_prefixes(starts, lengths, max_length, num_rows, generator)
        for rows in group_by_length(size, settings.batch_size, generator):
            count = len(rows)
            last = size[rows] - 1
            probe = (generator.random(count) * size[rows]).astype("int64") if every else last
            step_seed = int(step_seeds.integers(1 << 62))
            yield make_batch(items, first[rows], size[rows], probe, multiple, every, step_seed)


def cut_windows(
    starts: Int64[ndarray, "sequence"],
    lengths: Int64[ndarray, "sequence"],
    max_length: int,
    generator: np.random.Generator,
) -> Rows:
    """One epoch's rows: sequences less their last item, cut into windows from a random offset."""
    cut, end = generator.integers(max_length, size=len(lengths)), lengths - 1
    num_windows = np.maximum(0, -((cut - end) // max_length)) + (cut > 0)
    user = np.repeat(np.arange(len(lengths)), num_windows)
    number = np.arange(len(user)) - (np.cumsum(num_windows) - num_windows)[user] + (cut == 0)[user]
    begin = np.maximum(0, cut[user] + (number - 1) * max_length)
    return starts[user] + begin, np.minimum(end[user], cut[user] + number * max_length) - begin


def sample_prefixes(
    starts: Int64[ndarray, "sequence"],
    lengths: Int64[ndarray, "sequence"],
    max_length: int,
    num_rows: int,
    generator: np.random.Generator,
) -> Rows:
    """Rows that end before a random target of a random user, with at most `max_length` inputs."""
    user = generator.choice(len(starts), size=num_rows)
    target = 1 + (generator.random(num_rows) * (lengths[user] - 1)).astype("int64")
    size = np.minimum(target, max_length)
    return starts[user] + target - size, size


def group_by_length(
    size: Int64[ndarray, "row"], batch_size: int, generator: np.random.Generator
) -> list[Int64[ndarray, "_"]]:
    """Groups rows of similar length, ties in random order; the groups are in random order."""
    order = np.argsort(size + generator.random(len(size)), kind="stable")
    groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [groups[number] for number in generator.permutation(len(groups))]


def make_batch(
    items: Int64[Tensor, "interaction"],
    first: Int64[ndarray, "row"],
    size: Int64[ndarray, "row"],
    probe: Int64[ndarray, "row"],
    multiple: int,
    every: bool,
    seed: int,
) -> Batch:
    """`size` inputs from index `first` of the packed items; a position's target is the item after
    it.
    """
    position = torch.arange(-(-size.max() // multiple) * multiple, device=items.device)
    first, size, probe = torch.from_numpy(np.stack([first, size, probe])).to(items.device)
    mask = position < size[:, None]
    index = (first[:, None] + position).clamp_max(len(items) - 2)
    supervised = mask if every else position == size[:, None] - 1
    return Batch(items[index] * mask, mask, items[index + 1] * mask, supervised, probe, seed)
