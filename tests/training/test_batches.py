"""Batches hold what the sequences hold."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from bivrec.settings import load_settings
from bivrec.training.batches import draw_batches

TRAINING = load_settings("planted").training


def test_an_epoch_supervises_each_target_once(planted):
    """And a position's target is the item after it."""
    train = planted.fold(0).train
    follows = {(int(a), int(b)) for row in train for a, b in itertools.pairwise(row)}
    expected, seen = sum(len(row) - 1 for row in train), 0
    for batch in draw_batches(train, TRAINING, 24, 4, 0):
        assert batch.items.shape[1] % 4 == 0 and batch.items.shape[1] <= 24
        pairs = set(zip(batch.items[batch.mask].tolist(), batch.targets[batch.mask].tolist()))
        assert pairs <= follows
        assert torch.equal(batch.supervised, batch.mask) and (batch.probe < batch.mask.sum(1)).all()
        seen += int(batch.supervised.sum())
        if seen >= expected:
            break
    assert seen == expected


def test_one_target_a_row(planted):
    settings = replace(TRAINING, supervision="one_target")
    for batch in itertools.islice(draw_batches(planted.fold(0).train, settings, 24, 4, 0), 5):
        last = batch.mask.sum(1) - 1
        assert (batch.supervised.sum(1) == 1).all()
        assert torch.equal(batch.supervised.int().argmax(1), last)
        assert torch.equal(batch.probe, last)


def test_sequences_too_short_to_learn_from():
    with pytest.raises(ValueError, match="no training sequence has two items"):
        next(draw_batches([np.array([1]), np.array([2])], TRAINING, 24, 4, 0))


def test_the_seed_determines_batches_and_their_seeds(planted):
    def draw(seed):
        return itertools.islice(draw_batches(planted.fold(0).train, TRAINING, 24, 4, seed), 20)

    first, again, other = list(draw(0)), list(draw(0)), list(draw(1))
    assert all(torch.equal(a.items, b.items) and a.seed == b.seed for a, b in zip(first, again))
    assert len({batch.seed for batch in (*first, *other)}) == 40
