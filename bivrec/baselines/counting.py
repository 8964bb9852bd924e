"""Baselines that only count: popularity and item neighbours."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray
from scipy.sparse import csr_array

from bivrec.model.base import Scores
from bivrec.settings import ItemKNN


class Popularity:
    """An item's score is its number of training interactions, whatever the history."""

    def __init__(self, train: Sequence[Int64[ndarray, "_"]], num_items: int):
        counts = np.bincount(np.concatenate(train), minlength=num_items)
        self.counts = torch.from_numpy(counts).float()

    def score(self, histories: Sequence[Int64[ndarray, "_"]]) -> Scores:
        return {"id": self.counts.expand(len(histories), -1)}


class ItemNeighbours:
    """ItemKNN: cosine between the items' sets of training users.

    The newest items of a history vote, each weighted by decay ** age.
    """

    def __init__(self, settings: ItemKNN, train: Sequence[Int64[ndarray, "_"]], num_items: int):
        self.settings = settings
        users = np.repeat(np.arange(len(train)), [len(row) for row in train])
        ones, entries = np.ones(len(users), "float32"), (users, np.concatenate(train))
        seen = csr_array((ones, entries), shape=(len(train), num_items))
        common = (seen.T @ seen).toarray()
        norm = np.sqrt(common.diagonal()).clip(1e-6)
        np.fill_diagonal(common, 0)
        self.similarity = torch.from_numpy(common / norm / norm[:, None])
        if settings.num_neighbours:
            top = self.similarity.topk(min(settings.num_neighbours, num_items), 1)
            zeros = torch.zeros_like(self.similarity)
            self.similarity = zeros.scatter_(1, top.indices, top.values)

    def score(self, histories: Sequence[Int64[ndarray, "_"]]) -> Scores:
        rows = []
        for history in histories:
            newest = torch.from_numpy(history[-self.settings.num_recent :][::-1].copy())
            weights = self.settings.decay ** torch.arange(len(newest), dtype=torch.float)
            rows.append(weights @ self.similarity[newest])
        return {"id": torch.stack(rows)}
