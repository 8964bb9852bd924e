"""The field: what BivRec is compared with, under the same protocol, features and budget."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from scipy.sparse import csr_array
from torch import Tensor, nn

from bivrec.decomposition import GaussianBlock
from bivrec.embedding import ItemTable, MultiScaleEmbedding
from bivrec.model import Batch, Scores, SequentialModel
from bivrec.recommendation import interest_softmax
from bivrec.settings import ItemKNN, Settings


class Popularity:
    """An item's score is its number of training interactions, whatever the history."""

    def __init__(self, train: Sequence[Int64[ndarray, "_"]], num_items: int):
        self.counts = torch.from_numpy(np.bincount(np.concatenate(train), minlength=num_items)).float()

    def score(self, histories: Sequence[Int64[ndarray, "_"]]) -> Scores:
        return {"id": self.counts.expand(len(histories), -1)}


class ItemNeighbours:
    """ItemKNN: cosine between items' sets of training users; the newest items vote, each weighted by decay ** age."""

    def __init__(self, settings: ItemKNN, train: Sequence[Int64[ndarray, "_"]], num_items: int):
        self.settings = settings
        users = np.repeat(np.arange(len(train)), [len(row) for row in train])
        seen = csr_array((np.ones(len(users), "float32"), (users, np.concatenate(train))), shape=(len(train), num_items))
        together = (seen.T @ seen).toarray()
        length = np.sqrt(together.diagonal()).clip(1e-6)
        np.fill_diagonal(together, 0)
        self.similarity = torch.from_numpy(together / length / length[:, None])
        if settings.num_neighbours:
            kept = self.similarity.topk(min(settings.num_neighbours, num_items), 1)
            self.similarity = torch.zeros_like(self.similarity).scatter_(1, kept.indices, kept.values)

    def score(self, histories: Sequence[Int64[ndarray, "_"]]) -> Scores:
        rows = []
        for history in histories:
            newest = torch.from_numpy(history[-self.settings.num_recent :][::-1].copy())
            rows.append(self.settings.decay ** torch.arange(len(newest), dtype=torch.float) @ self.similarity[newest])
        return {"id": torch.stack(rows)}


class SASRec(SequentialModel):
    """Self-attentive sequential recommendation: one scale, softmax attention, one interest, full softmax at every position.

    Inputs `id` are the original; `multimodal` and `fused` (ID plus projected features) are its multimodal forms. The
    original's binary loss with one negative is replaced by the full softmax, which later work found stronger.
    """

    def __init__(self, settings: Settings, num_items: int, features: dict):
        super().__init__()
        own, self.max_length = settings.sasrec, settings.model.max_length
        self.view = {"id": "id", "multimodal": "multimodal", "fused": "both"}[own.inputs]
        self.items = ItemTable(own.inputs, num_items, features, settings.model.dim)
        self.embedding = MultiScaleEmbedding(replace(settings.model, scales=(1,), dropout=own.dropout))
        sizes = (settings.model.dim, own.num_heads, own.inner_dim, "softmax", self.max_length, own.dropout)
        self.blocks = nn.ModuleList([GaussianBlock(*sizes, biased=False) for _ in range(own.num_layers)])
        self.norm = nn.LayerNorm(settings.model.dim)

    def tables(self) -> dict[str, Float[Tensor, "catalogue dim"]]:
        return {self.view: self.items()}

    def read(
        self, items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"], table: Float[Tensor, "catalogue dim"]
    ) -> Float[Tensor, "batch position 1 dim"]:
        """The state after every position, as the one interest."""
        x = self.embedding(table[items], mask)
        for block in self.blocks:
            x = block(x, mask, (1,), causal=True)
        return self.norm(x[0])[:, :, None]

    def interests(
        self, items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"]
    ) -> dict[str, Float[Tensor, "batch position interest dim"]]:
        return {self.view: self.read(items, mask, self.items())}

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy at the supervised positions."""
        table = self.items()
        states = self.read(batch.items, batch.mask, table)[batch.supervised]
        return interest_softmax(states, table, batch.targets[batch.supervised])


class SummedSASRec(SequentialModel):
    """Two SASRecs, one on IDs and one on features, trained side by side and never together: scores summed as BivRec's.
    The fair rival of two views."""

    def __init__(self, settings: Settings, num_items: int, features: dict):
        super().__init__()
        self.max_length = settings.model.max_length
        parts = {view: replace(settings, sasrec=replace(settings.sasrec, inputs=view)) for view in ("id", "multimodal")}
        self.parts = nn.ModuleDict({view: SASRec(part, num_items, features) for view, part in parts.items()})

    def tables(self) -> dict[str, Float[Tensor, "catalogue dim"]]:
        return {view: part.items() for view, part in self.parts.items()}

    def interests(
        self, items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"]
    ) -> dict[str, Float[Tensor, "batch position interest dim"]]:
        return {view: part.read(items, mask, part.items()) for view, part in self.parts.items()}

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The sum of two losses that share no parameter."""
        return sum(part.loss(batch) for part in self.parts.values())

    def score(self, histories: Sequence[Int64[ndarray, "_"]]) -> Scores:
        """Both models' scores, and their sum after a log-softmax each (`both`)."""
        scores = super().score(histories)
        return scores | {"both": sum(score.log_softmax(-1) for score in scores.values())}
