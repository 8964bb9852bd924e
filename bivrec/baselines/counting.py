"""Baselines that only count: popularity and item neighbours."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray
from scipy.sparse import csr_array, vstack

from bivrec.model.base import Scores
from bivrec.settings import ItemKNN

ROWS_AT_ONCE = 1024  # of the items' similarities that are held densely


class Popularity:
    """An item's score is its number of training interactions, whatever the history."""

    def __init__(self, train: Sequence[Int64[ndarray, "_"]], num_items: int):
        counts = np.bincount(np.concatenate(train), minlength=num_items)
        self.counts = torch.from_numpy(counts).float()

    def score(self, histories: Sequence[Int64[ndarray, "_"]]) -> Scores:
        return {"id": self.counts.expand(len(histories), -1)}


class ItemNeighbours:
    """ItemKNN: cosine between the items' sets of training users.

    The newest `num_recent` items of a history vote (0: all), each weighted by decay ** age.
    """

    def __init__(self, settings: ItemKNN, train: Sequence[Int64[ndarray, "_"]], num_items: int):
        self.settings = settings
        users = np.repeat(np.arange(len(train)), [len(row) for row in train])
        ones, entries = np.ones(len(users), "float32"), (users, np.concatenate(train))
        seen = csr_array((ones, entries), shape=(len(train), num_items))
        common = (seen.T @ seen).tocoo()
        norm = np.sqrt(common.diagonal()).clip(1e-6)
        row, column = common.row, common.col
        values = np.where(row == column, 0, common.data / norm[column] / norm[row])
        similarity = csr_array((values, (row, column)), shape=common.shape)
        if settings.num_neighbours:
            similarity = _keep_nearest(similarity, settings.num_neighbours)
        self.similarity = similarity  # sparse: most pairs of a large catalogue share no user

    def score(self, histories: Sequence[Int64[ndarray, "_"]]) -> Scores:
        rows = []
        for history in histories:
            newest = history[-self.settings.num_recent :][::-1]
            weights = self.settings.decay ** torch.arange(len(newest), dtype=torch.float)
            rows.append(weights @ torch.from_numpy(self.similarity[newest].toarray()))
        return {"id": torch.stack(rows)}


def _keep_nearest(similarity: csr_array, num_neighbours: int) -> csr_array:
    """The matrix with the largest values of each row alone."""
    rows = []
    for start in range(0, similarity.shape[0], ROWS_AT_ONCE):
        dense = torch.from_numpy(similarity[start : start + ROWS_AT_ONCE].toarray())
        top = dense.topk(min(num_neighbours, dense.shape[1]), 1)
        rows.append(csr_array(torch.zeros_like(dense).scatter_(1, top.indices, top.values).numpy()))
    return vstack(rows, format="csr")
