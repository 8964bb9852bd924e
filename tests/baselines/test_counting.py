"""Popularity and item neighbours, computed by hand."""

import math

import numpy as np
import torch

from bivrec.baselines import ItemNeighbours, Popularity
from bivrec.settings import load_settings

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
