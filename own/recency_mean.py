"""A model of one's own, as an example: notebook 11 trains it."""

import torch
from torch import nn
from torch.nn.functional import embedding

from bivrec.baselines.neural import NeuralBaseline


class RecencyMean(NeuralBaseline):
    r"""$u_t = W \sum_{j \le t} \gamma^{t - j} e_j \big/ \sum_{j \le t} \gamma^{t - j}$."""

    def build(self):
        self.decay = nn.Parameter(torch.tensor(2.0))  # gamma is its sigmoid, 0.88 at the start
        self.dropout = nn.Dropout(self.settings.model.dropout)
        self.out = nn.Linear(self.dim, self.dim)

    def read(self, items, mask, table):
        position = torch.arange(items.shape[1], device=items.device)
        age = position[:, None] - position  # of item j at position t; below 0 it is still to come
        weights = self.decay.sigmoid() ** age.clamp_min(0) * (age >= 0)
        means = weights / weights.sum(1, keepdim=True) @ self.dropout(embedding(items, table))
        return self.out(means)[:, :, None]  # batch position interest dim; here one interest
