"""Popularity and item neighbours, computed by hand."""

import math
import tracemalloc

import numpy as np
import pytest
import torch

from bivrec.baselines import ItemNeighbours, Popularity
from bivrec.settings import load_settings, vary

TRAIN = [np.array([0, 1, 2]), np.array([0, 1]), np.array([0, 3])]


def test_popularity_by_hand():
    assert Popularity(TRAIN, 5).score([np.array([4])])["id"][0].tolist() == [3, 2, 1, 1, 0]


def test_neighbours_by_hand():
    """Item 0 is the newest; item 3, one older, weighs a half."""
    settings = load_settings("planted", {"itemknn.decay": 0.5}).itemknn
    scores = ItemNeighbours(settings, TRAIN, 5).score([np.array([3, 0])])["id"][0]
    cosine = {1: 2 / math.sqrt(6), 2: 1 / math.sqrt(3), 3: 1 / math.sqrt(3)}  # of the users' sets
    expected = [0.5 * cosine[3], cosine[1], cosine[2], cosine[3], 0.0]
    assert torch.allclose(scores, torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize(("name", "read"), [("itemknn", 60), ("itemknn-recency", 50)])
def test_the_items_of_a_history_that_vote(name, read):
    """The plain form reads whole histories."""
    settings = load_settings()
    settings = vary(settings, settings.models[name]).itemknn
    pairs = [np.array([item, item + 60]) for item in range(60)]  # an item and its one neighbour
    scores = ItemNeighbours(settings, pairs, 120).score([np.arange(60)])["id"][0]
    assert (scores[60:] > 0).tolist() == [False] * (60 - read) + [True] * read


def test_neighbours_of_a_large_catalogue_fit_in_memory(generator):
    """8,000 items that few users share: their pairs would fill 256 MB."""
    train, settings = (
        [generator.integers(8000, size=6) for _ in range(500)],
        load_settings().itemknn,
    )
    tracemalloc.start()
    scores = ItemNeighbours(settings, train, 8000).score([train[0][:1]])["id"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert scores.shape == (1, 8000) and scores[0, train[0][1:]].min() > 0


def test_the_nearest_neighbours_alone(generator):
    train = [generator.choice(3000, size=20, replace=False) for _ in range(300)]
    every, few = (
        ItemNeighbours(
            load_settings("planted", {"itemknn.num_neighbours": kept}).itemknn, train, 3000
        )
        for kept in (0, 7)
    )
    item = np.array([train[0][0]])
    of_all, of_few = every.score([item])["id"][0], few.score([item])["id"][0]
    assert (of_few > 0).sum() == 7
    assert torch.equal(of_few.topk(7).values, of_all.topk(7).values)
