"""The field: what BivRec is compared with, under the same protocol, features and budget."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from bivrec.model.attention import Block, GaussianAttention
from bivrec.model.base import Batch, Interests, Newest, Scores, SequentialModel, Tables
from bivrec.model.cross_view import info_nce
from bivrec.model.embedding import Dropout, ItemTable, MultiScaleEmbedding
from bivrec.model.losses import catalogue_type, choose_interest, draw_items, interest_softmax
from bivrec.settings import ItemKNN, Settings


class Popularity:
    """An item's score is its number of training interactions, whatever the history."""

    def __init__(self, train: Sequence[Int64[ndarray, "_"]], num_items: int):
        self.counts = torch.from_numpy(
            np.bincount(np.concatenate(train), minlength=num_items)
        ).float()

    def score(self, histories: Sequence[Int64[ndarray, "_"]]) -> Scores:
        return {"id": self.counts.expand(len(histories), -1)}


class ItemNeighbours:
    """ItemKNN: cosine between items' sets of training users; the newest items vote, each weighted by decay ** age."""

    def __init__(self, settings: ItemKNN, train: Sequence[Int64[ndarray, "_"]], num_items: int):
        self.settings = settings
        users = np.repeat(np.arange(len(train)), [len(row) for row in train])
        seen = csr_array(
            (np.ones(len(users), "float32"), (users, np.concatenate(train))),
            shape=(len(train), num_items),
        )
        together = (seen.T @ seen).toarray()
        length = np.sqrt(together.diagonal()).clip(1e-6)
        np.fill_diagonal(together, 0)
        self.similarity = torch.from_numpy(together / length / length[:, None])
        if settings.num_neighbours:
            kept = self.similarity.topk(min(settings.num_neighbours, num_items), 1)
            self.similarity = torch.zeros_like(self.similarity).scatter_(
                1, kept.indices, kept.values
            )

    def score(self, histories: Sequence[Int64[ndarray, "_"]]) -> Scores:
        rows = []
        for history in histories:
            newest = torch.from_numpy(history[-self.settings.num_recent :][::-1].copy())
            rows.append(
                self.settings.decay ** torch.arange(len(newest), dtype=torch.float)
                @ self.similarity[newest]
            )
        return {"id": torch.stack(rows)}


class NeuralBaseline(SequentialModel):
    """What the neural rivals share: one view, one table of items, the full softmax at every supervised position. Inputs
    `id` are the original; `multimodal` and `fused` (ID plus projected features) are its multimodal forms. A model that
    is multimodal by itself names its `inputs`. `build` makes a model's parts."""

    inputs: str | None = None

    def __init__(self, settings: Settings, num_items: int, features: dict):
        super().__init__()
        self.settings, self.own = settings, settings.baseline
        self.dim, self.max_length, self.num_modalities = (
            settings.model.dim,
            settings.model.max_length,
            len(features),
        )
        inputs = self.inputs or self.own.inputs
        self.view = {"id": "id", "multimodal": "multimodal", "fused": "both"}[inputs]
        self.kind = catalogue_type(settings.training.precision)
        self.items = ItemTable(inputs, num_items, features, self.dim, self.kind)
        self.build()

    @abstractmethod
    def read(
        self,
        items: Int64[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        table: Float[Tensor, "catalogue dim"],
    ) -> Float[Tensor, "batch position interest dim"]:
        """The interests after every position; most models have one, their state."""

    def tables(self) -> Tables:
        return {self.view: self.items()}

    def interests(
        self, items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"]
    ) -> Interests:
        return {view: self.read(items, mask, table) for view, table in self.tables().items()}

    def newest(
        self,
        items: Int64[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        tables: Tables,
    ) -> Newest:
        at = torch.arange(len(items), device=items.device), mask.sum(1) - 1
        return {view: self.read(items, mask, table)[at] for view, table in tables.items()}

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy at the supervised positions, with several interests that of the one nearest to the target."""
        own = batch.own()
        table, targets = self.tables()[self.view], own.targets[own.supervised]
        interests = (
            self.read(own.items, own.mask, table)
            .flatten(0, 1)
            .index_select(0, own.supervised.flatten().nonzero()[:, 0])
        )
        if interests.shape[1] > 1:
            interests = choose_interest(interests, table, targets)
        drawn = draw_items(len(table), self.settings.training.num_negatives, targets.device)
        return own.weight * interest_softmax(interests, table, targets, kind=self.kind, drawn=drawn)


class CausalTransformer(nn.Module):
    """SASRec's encoder: one scale, softmax attention, each position seeing itself and what came before."""

    def __init__(self, settings: Settings):
        super().__init__()
        model, own = settings.model, settings.baseline
        self.embedding = MultiScaleEmbedding(replace(model, scales=(1,)))
        attentions = (
            GaussianAttention(model.dim, own.num_heads, "softmax", model.max_length, biased=False)
            for _ in range(own.num_layers)
        )
        self.blocks = nn.ModuleList(
            [Block(attention, model.dim, own.inner_dim, model.dropout) for attention in attentions]
        )
        self.norm = nn.LayerNorm(model.dim)

    def forward(
        self, vectors: Float[Tensor, "batch position dim"], mask: Bool[Tensor, "batch position"]
    ) -> Float[Tensor, "batch position dim"]:
        x = self.embedding(vectors, mask)
        for block in self.blocks:
            x = block(x, mask, (1,), True)
        return self.norm(x.flatten(0, 1))

    def last(
        self, vectors: Float[Tensor, "batch position dim"], mask: Bool[Tensor, "batch position"]
    ) -> Float[Tensor, "batch dim"]:
        """The same at each row's last position; of the last block nothing else is computed."""
        x, (*blocks, block) = self.embedding(vectors, mask), self.blocks
        for each in blocks:
            x = each(x, mask, (1,), True)
        return self.norm(block.last(x.flatten(0, 1), mask.sum(1) - 1))


class SASRec(NeuralBaseline):
    """Self-attentive sequential recommendation, with the full softmax in place of the original's one negative."""

    def build(self):
        self.encoder = CausalTransformer(self.settings)

    def read(self, items, mask, table):
        return self.encode(self.encoder, embedding(items, table), mask)[:, :, None]

    def newest(self, items, mask, tables):
        return {
            view: self.encoder.last(embedding(items, table), mask)[:, None]
            for view, table in tables.items()
        }


class SummedSASRec(SequentialModel):
    """The fair rival of two views: two SASRecs, one on IDs and one on features, trained apart; scores summed as BivRec's."""

    def __init__(self, settings: Settings, num_items: int, features: dict):
        super().__init__()
        self.settings, self.max_length = settings, settings.model.max_length
        parts = {
            view: replace(settings, baseline=replace(settings.baseline, inputs=view))
            for view in ("id", "multimodal")
        }
        self.parts = nn.ModuleDict(
            {view: SASRec(part, num_items, features) for view, part in parts.items()}
        )

    def tables(self) -> Tables:
        return {view: part.tables()[view] for view, part in self.parts.items()}

    def interests(
        self, items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"]
    ) -> Interests:
        return {view: part.interests(items, mask)[view] for view, part in self.parts.items()}

    def newest(
        self,
        items: Int64[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        tables: Tables,
    ) -> Newest:
        return {
            view: part.newest(items, mask, {view: tables[view]})[view]
            for view, part in self.parts.items()
        }

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The sum of two losses that share no parameter."""
        return sum(part.loss(batch) for part in self.parts.values())


class GRU4Rec(NeuralBaseline):
    """A recurrent net over the items' vectors; its state goes through a linear map."""

    def build(self):
        self.dropout = Dropout(self.settings.model.dropout)
        self.cells = nn.GRU(self.dim, self.own.inner_dim, self.own.num_layers, batch_first=True)
        self.out = nn.Linear(self.own.inner_dim, self.dim)

    def read(self, items, mask, table):
        return self.out(self.cells(self.dropout(embedding(items, table)))[0])[:, :, None]


class ComiRecSA(NeuralBaseline):
    r"""$u_k = \sum_j A_{jk} e_j$ with $A = \mathrm{softmax}_j(W_2 \tanh(W_1 (e_j + P_j)))$ over a prefix's items, for every
    prefix; the original reads one prefix a row."""

    def build(self):
        self.position = nn.Parameter(torch.randn(self.max_length, self.dim) * 0.02)
        self.attend = nn.Sequential(
            nn.Linear(self.dim, 4 * self.dim, bias=False),
            nn.Tanh(),
            nn.Linear(4 * self.dim, self.own.num_interests, bias=False),
        )
        self.dropout = Dropout(self.settings.model.dropout)

    def read(self, items, mask, table):
        vectors, length = self.dropout(embedding(items, table)), items.shape[1]
        logits = (
            self.attend(vectors + self.position[:length])
            .transpose(1, 2)[:, :, None]
            .expand(-1, -1, length, -1)
        )
        later = torch.ones(length, length, dtype=torch.bool, device=items.device).triu(1)
        shares = logits.masked_fill(later, float("-inf")).softmax(
            -1
        )  # batch interest prefix position
        return (shares @ vectors[:, None]).transpose(1, 2)


class SideInformed(NeuralBaseline):
    """Models that read IDs and features and score by the ID vectors alone, as their sources do."""

    inputs = "fused"

    def tables(self) -> Tables:
        return {self.view: self.items.ids}


class FDSA(SideInformed):
    """Two transformers, one on items, one on features that a learned attention mixes over modalities; their states joined."""

    def build(self):
        self.attend = nn.Linear(self.dim, 1, bias=False)
        self.encoders = nn.ModuleList([CausalTransformer(self.settings) for _ in range(2)])
        self.join = nn.Sequential(nn.Linear(2 * self.dim, self.dim), nn.LayerNorm(self.dim))

    def read(self, items, mask, table):
        parts = torch.stack([*self.items.parts(items).values()], 2)  # batch position modality dim
        mixed = (self.attend(parts).softmax(2) * parts).sum(2)
        states = [
            self.encode(encoder, vectors, mask)
            for encoder, vectors in zip(self.encoders, (embedding(items, table), mixed))
        ]
        return self.join(torch.cat(states, -1))[:, :, None]


class SideAttention(nn.Module):
    r"""Causal attention whose values are the items' alone: $\mathrm{softmax}\big(\sum_s q_s \cdot k_s / \sqrt{d_h}\big)\, v$, each
    source s with queries and keys of its own; or, where there is one pair of them, for the sum of all sources."""

    def __init__(self, dim: int, num_heads: int, num_pairs: int):
        super().__init__()
        self.num_heads = num_heads
        self.look = nn.ModuleList([nn.Linear(dim, 2 * dim) for _ in range(num_pairs)])
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch position dim"], *sides: Float[Tensor, "_ position dim"]
    ) -> Float[Tensor, "batch position dim"]:
        sources = (x, *sides) if len(self.look) > 1 else (sum(sides, x),)
        looks = [
            look(source).unflatten(-1, (2, self.num_heads, -1)).expand(len(x), -1, -1, -1, -1)
            for look, source in zip(self.look, sources)
        ]
        query, key = torch.cat(looks, -1).permute(
            2, 0, 3, 1, 4
        )  # a product of joined vectors is the sum of products
        value = self.value(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        taken = nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=value.shape[-1] ** -0.5
        )
        return self.out(taken.transpose(1, 2).flatten(2))


class NOVA(SideInformed):
    """Non-invasive attention: queries and keys from the sum of item, position and features, values from the item alone."""

    def build(self, num_pairs=1):
        self.position = nn.Parameter(torch.randn(self.max_length, self.dim) * 0.02)
        self.norms = nn.ModuleList([nn.LayerNorm(self.dim) for _ in range(2 + self.num_modalities)])
        self.dropout = Dropout(self.settings.model.dropout)
        attentions = (
            SideAttention(self.dim, self.own.num_heads, num_pairs)
            for _ in range(self.own.num_layers)
        )
        self.blocks = nn.ModuleList(
            [
                Block(attention, self.dim, self.own.inner_dim, self.settings.model.dropout)
                for attention in attentions
            ]
        )

    def read(self, items, mask, table):
        first, last, *norms = self.norms
        x = self.dropout(first(embedding(items, table)))
        sides = [
            self.position[None, : items.shape[1]],
            *(norm(part) for norm, part in zip(norms, self.items.parts(items).values())),
        ]
        for block in self.blocks:
            x = block(x, *sides)
        return last(x)[:, :, None]


class DIFSR(NOVA):
    """Decoupled side information: item, position and each modality have queries and keys of their own, whose products
    are summed. The original's predictor of attributes has no counterpart for continuous features."""

    def build(self):
        super().build(num_pairs=2 + self.num_modalities)


class TriangularMixing(nn.Module):
    """An MLP across positions with lower-triangular matrices, so that no position sees a later one; the original's are
    full and serve the last position only."""

    def __init__(self, length: int):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2, length, length) * length**-0.5)
        self.biases = nn.Parameter(torch.zeros(2, length, 1))

    def forward(
        self, x: Float[Tensor, "batch position dim"]
    ) -> Float[Tensor, "batch position dim"]:
        length = x.shape[1]
        (inner, outer), (first, last) = (
            self.weights.tril()[:, :length, :length],
            self.biases[:, :length],
        )
        return outer @ nn.functional.gelu(inner @ x + first) + last


class MMMLP(SideInformed):
    """Stacks of MLP-mixers, one on items and one on each modality; their states joined."""

    def build(self):
        dim, own, count = self.dim, self.own, 1 + self.num_modalities
        mixers = [
            [
                Block(
                    TriangularMixing(self.max_length),
                    dim,
                    own.inner_dim,
                    self.settings.model.dropout,
                )
                for _ in range(own.num_layers)
            ]
            for _ in range(count)
        ]
        self.streams = nn.ModuleList([nn.Sequential(nn.LayerNorm(dim), *stack) for stack in mixers])
        self.join = nn.Sequential(
            nn.LayerNorm(count * dim), nn.Linear(count * dim, dim), nn.LayerNorm(dim)
        )

    def read(self, items, mask, table):
        states = [
            stream(vectors)
            for stream, vectors in zip(
                self.streams, (embedding(items, table), *self.items.parts(items).values())
            )
        ]
        return self.join(torch.cat(states, -1))[:, :, None]


class MMSRec(NeuralBaseline):
    """Features alone: text and image fused an item, a transformer over the items, cosines with the fused vectors, and an
    InfoNCE that makes an item's text and image alike."""

    inputs = "multimodal"

    def build(self):
        self.norms = nn.ModuleList([nn.LayerNorm(self.dim) for _ in range(self.num_modalities)])
        self.fuse = nn.Linear(self.num_modalities * self.dim, self.dim)
        self.encoder = CausalTransformer(self.settings)

    def tables(self) -> Tables:
        parts = [norm(part) for norm, part in zip(self.norms, self.items.parts().values())]
        return {self.view: normalize(self.fuse(torch.cat(parts, -1)), dim=-1)}

    def read(self, items, mask, table):
        return (
            normalize(self.encode(self.encoder, embedding(items, table), mask), dim=-1)[:, :, None]
            / self.own.temperature
        )

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """The recommendation loss, and the alignment of those items of the batch that have both modalities."""
        loss, items = super().loss(batch), batch.items[batch.mask].unique()
        if self.num_modalities == 2:
            items = items[self.items.text_mask[items] & self.items.image_mask[items]]
            if len(items):
                loss = loss + self.own.alignment_weight * info_nce(
                    *self.items.parts(items).values(), self.own.temperature
                )
        return loss
