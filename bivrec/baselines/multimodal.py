"""Multimodal baselines: FDSA, NOVA, DIF-SR, MMMLP and MMSRec."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu, normalize, scaled_dot_product_attention

from bivrec.baselines.neural import CausalTransformer, NeuralBaseline
from bivrec.model.attention import Block
from bivrec.model.base import Batch, Tables
from bivrec.model.losses import info_nce


class SideInformed(NeuralBaseline):
    """Models that read IDs and features and score by the ID vectors only, as their sources do."""

    inputs = "fused"

    def tables(self) -> Tables:
        return {self.view: self.items.ids}


class FDSA(SideInformed):
    """Two transformers: on items, and on features that attention mixes over the modalities."""

    def build(self) -> None:
        self.attend = nn.Linear(self.dim, 1, bias=False)
        self.encoders = nn.ModuleList([CausalTransformer(self.settings) for _ in range(2)])
        self.join = nn.Sequential(nn.Linear(2 * self.dim, self.dim), nn.LayerNorm(self.dim))

    def read(self, items, mask, table):
        modalities = self.items.project_features(items).values()
        parts = torch.stack([*modalities], 2)  # batch position modality dim
        mixed = (self.attend(parts).softmax(2) * parts).sum(2)
        inputs = embedding(items, table), mixed
        states = [encoder(vectors, mask) for encoder, vectors in zip(self.encoders, inputs)]
        return self.join(torch.cat(states, -1))[:, :, None]


class SideAttention(nn.Module):
    r"""Causal attention with side information in queries and keys only.

    $\mathrm{softmax}\big(\sum_s q_s \cdot k_s / \sqrt{d_h}\big)\, v$, the values being the items'.
    Each source s has queries and keys of its own, or one pair serves the sum of all sources.
    """

    def __init__(self, dim: int, num_heads: int, num_pairs: int):
        super().__init__()
        self.num_heads = num_heads
        self.look = nn.ModuleList([nn.Linear(dim, 2 * dim) for _ in range(num_pairs)])
        self.value, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch position dim"], *sides: Float[Tensor, "_ position dim"]
    ) -> Float[Tensor, "batch position dim"]:
        sources = (x, *sides) if len(self.look) > 1 else (sum(sides, x),)
        pairs = [
            look(source).unflatten(-1, (2, self.num_heads, -1)).expand(x.shape[0], -1, -1, -1, -1)
            for look, source in zip(self.look, sources)
        ]
        # A product of concatenated vectors is the sum of the products.
        query, key = torch.cat(pairs, -1).permute(2, 0, 3, 1, 4)
        value = self.value(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        scale = value.shape[-1] ** -0.5
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
        return self.out(mixed.transpose(1, 2).flatten(2))


class NOVA(SideInformed):
    """Non-invasive attention: item, position and features in queries and keys, items in values."""

    def build(self, num_pairs: int = 1) -> None:
        dim, baseline, dropout = self.dim, self.baseline, self.settings.model.dropout
        self.position = nn.Parameter(torch.randn(self.max_length, dim) * 0.02)
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(2 + self.num_modalities)])
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList()
        for _ in range(baseline.num_layers):
            attention = SideAttention(dim, baseline.num_heads, num_pairs)
            self.blocks.append(Block(attention, dim, baseline.inner_dim, dropout))

    def read(self, items, mask, table):
        first, last, *norms = self.norms
        x = self.dropout(first(embedding(items, table)))
        modalities = self.items.project_features(items).values()
        features = [norm(part) for norm, part in zip(norms, modalities)]
        for block in self.blocks:
            x = block(x, self.position[None, : items.shape[1]], *features)
        return last(x)[:, :, None]


class DIFSR(NOVA):
    """Decoupled side information: each source has queries and keys of its own, products summed.

    The original's predictor of attributes has no counterpart for continuous features.
    """

    def build(self) -> None:
        super().build(num_pairs=2 + self.num_modalities)


class TriangularMixing(nn.Module):
    """An MLP across positions whose lower-triangular matrices hide later positions.

    The original's matrices are full and serve the last position only.
    """

    def __init__(self, length: int):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2, length, length) * length**-0.5)
        self.biases = nn.Parameter(torch.zeros(2, length, 1))

    def forward(
        self, x: Float[Tensor, "batch position dim"]
    ) -> Float[Tensor, "batch position dim"]:
        length = x.shape[1]
        inner, outer = self.weights.tril()[:, :length, :length]
        first, last = self.biases[:, :length]
        return outer @ gelu(inner @ x + first) + last


class MMMLP(SideInformed):
    """Stacks of MLP-mixers, one on items and one on each modality; their states are joined."""

    def build(self) -> None:
        dim, num_streams = self.dim, 1 + self.num_modalities
        self.streams = nn.ModuleList([self.build_stream() for _ in range(num_streams)])
        width = num_streams * dim
        self.join = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim), nn.LayerNorm(dim))

    def build_stream(self) -> nn.Sequential:
        baseline, dropout = self.baseline, self.settings.model.dropout
        mixers = [
            Block(TriangularMixing(self.max_length), self.dim, baseline.inner_dim, dropout)
            for _ in range(baseline.num_layers)
        ]
        return nn.Sequential(nn.LayerNorm(self.dim), *mixers)

    def read(self, items, mask, table):
        inputs = embedding(items, table), *self.items.project_features(items).values()
        states = [stream(vectors) for stream, vectors in zip(self.streams, inputs)]
        return self.join(torch.cat(states, -1))[:, :, None]


class MMSRec(NeuralBaseline):
    """Features only: text and image fused in each item, a transformer over items, cosine scores.

    An InfoNCE aligns the text and the image of an item.
    """

    inputs = "multimodal"

    def build(self) -> None:
        self.norms = nn.ModuleList([nn.LayerNorm(self.dim) for _ in range(self.num_modalities)])
        self.fuse = nn.Linear(self.num_modalities * self.dim, self.dim)
        self.encoder = CausalTransformer(self.settings)

    def tables(self) -> Tables:
        modalities = self.items.project_features().values()
        parts = [norm(part) for norm, part in zip(self.norms, modalities)]
        return {self.view: normalize(self.fuse(torch.cat(parts, -1)), dim=-1)}

    def read(self, items, mask, table):
        states = normalize(self.encoder(embedding(items, table), mask), dim=-1)
        return states[:, :, None] / self.baseline.temperature

    def batch_loss(self, encoded, batch: Batch, tables: Tables) -> Float[Tensor, ""]:
        """The alignment of those items of the batch that have both modalities."""
        loss = super().batch_loss(encoded, batch, tables)
        if self.num_modalities < 2:
            return loss
        items = batch.items[batch.mask].unique()
        items = items[self.items.text_mask[items] & self.items.image_mask[items]]
        if not len(items):
            return loss
        text_and_image = self.items.project_features(items).values()
        alignment = info_nce(*text_and_image, self.baseline.temperature)
        return loss + self.baseline.alignment_weight * alignment
