"""What the neural baselines share, and the causal transformer that several are built from."""

from abc import abstractmethod
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from bivrec.model.attention import Block
from bivrec.model.base import (
    Batch,
    Interests,
    ItemRows,
    LastInterests,
    Mask,
    SequentialModel,
    Tables,
)
from bivrec.model.embedding import ItemTable, MultiScaleEmbedding
from bivrec.model.losses import choose_interest
from bivrec.settings import Settings


class NeuralBaseline(SequentialModel):
    """What the neural baselines share: one view, one table of items, every position supervised.

    Inputs `id` are the original; `multimodal` and `fused` (ID plus projected features) are its
    multimodal forms. A model that is multimodal by definition names its `inputs`. The full softmax
    stands in for the sampled losses of the originals.
    """

    inputs: str | None = None

    def __init__(
        self, settings: Settings, num_items: int, features: dict, inputs: str | None = None
    ):
        super().__init__()
        self.settings, self.baseline = settings, settings.baseline
        self.dim, self.max_length = settings.model.dim, settings.model.max_length
        self.num_modalities = len(features)
        inputs = inputs or self.inputs or self.baseline.inputs
        self.view = {"id": "id", "multimodal": "multimodal", "fused": "both"}[inputs]
        self.items = ItemTable(inputs, num_items, features, self.dim)
        self.build()

    @abstractmethod
    def build(self) -> None:
        """Makes the model's parts."""

    @abstractmethod
    def read(
        self, items: ItemRows, mask: Mask, table: Float[Tensor, "catalogue dim"]
    ) -> Float[Tensor, "batch position interest dim"]:
        """The interests after every position; most models have one, their state."""

    def tables(self) -> Tables:
        return {self.view: self.items()}

    def interests(self, items: ItemRows, mask: Mask) -> Interests:
        return {view: self.read(items, mask, table) for view, table in self.tables().items()}

    def encode_last(self, items: ItemRows, mask: Mask, tables: Tables) -> LastInterests:
        last = mask.sum(1) - 1
        return {
            view: at_positions(self.read(items, mask, table), last)
            for view, table in tables.items()
        }

    def encode_batch(self, batch: Batch, tables: Tables) -> dict[str, Tensor]:
        table = tables[self.view]
        return {self.view: self.read(batch.items, batch.mask, table)}

    def row_loss(
        self, encoded: dict[str, Tensor], batch: Batch, tables: Tables
    ) -> Float[Tensor, ""]:
        """Cross-entropy over the catalogue, with several interests that of the nearest."""
        table, targets = tables[self.view], batch.targets[batch.supervised]
        interests = batch.at_supervised(encoded[self.view])
        if interests.shape[1] > 1:
            interests = choose_interest(interests, table, targets)
        negatives = self.sample_negatives(batch, len(table))
        return self.interest_softmax(interests, table, targets, negatives)


def at_positions(
    x: Float[Tensor, "batch position *rest"], position: Int64[Tensor, "batch"]
) -> Float[Tensor, "batch *rest"]:
    """One position of each row."""
    return x[torch.arange(x.shape[0], device=x.device), position]


class CausalAttention(nn.Module):
    """Softmax attention in which each position sees itself and what came before."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.project, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch position dim"]
    ) -> Float[Tensor, "batch position dim"]:
        query, key, value = self.project_heads(x)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def project_heads(
        self, x: Float[Tensor, "batch position dim"]
    ) -> Float[Tensor, "3 batch head position head_dim"]:
        """Queries, keys and values."""
        heads = self.project(x).unflatten(-1, (3, self.num_heads, -1))
        return heads.permute(2, 0, 3, 1, 4)

    def at_last(
        self, x: Float[Tensor, "batch position dim"], last: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch dim"]:
        """The output at one position of each row alone."""
        query, key, value = self.project_heads(x)
        query = at_positions(query.transpose(1, 2), last)[:, :, None]  # batch head 1 dim
        seen = torch.arange(x.shape[1], device=x.device) <= last[:, None]  # batch position
        mixed = scaled_dot_product_attention(query, key, value, seen[:, None, None])
        return self.out(mixed.flatten(1))


class FilteredAttention(CausalAttention):
    r"""BSARec (AAAI 2024): $\alpha (L x + \beta^2 \odot (x - L x)) + (1 - \alpha)\,$attention.

    $L$ keeps the lowest frequencies of a history padded in front to `model.max_length`, $\beta$ is
    learned. A Fourier transform of the row would mix later positions into earlier ones, each of
    which is supervised here. So $L$ is causal: position t receives what the filter of its own
    prefix gives at t, where the original is supervised. In deeper blocks the states that it filters
    saw their own prefixes alone, in the original the whole one.
    """

    def __init__(self, settings: Settings):
        model, baseline = settings.model, settings.baseline
        super().__init__(model.dim, baseline.num_heads)
        self.share = baseline.filter_share
        self.high = nn.Parameter(torch.randn(model.dim))
        kept = torch.arange(model.max_length // 2 + 1) < baseline.num_frequencies
        weights = torch.fft.irfft(kept.float(), model.max_length)  # by lag
        index = torch.arange(model.max_length)
        low_pass = weights[index[:, None] - index].tril()
        self.register_buffer("low_pass", low_pass, persistent=False)

    def forward(
        self, x: Float[Tensor, "batch position dim"]
    ) -> Float[Tensor, "batch position dim"]:
        low = self.low_pass[: x.shape[1], : x.shape[1]] @ x
        return self.mix(x, low, super().forward(x))

    def at_last(
        self, x: Float[Tensor, "batch position dim"], last: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch dim"]:
        low = torch.einsum("bt,btd->bd", self.low_pass[last, : x.shape[1]], x)
        return self.mix(at_positions(x, last), low, super().at_last(x, last))

    def mix(
        self,
        x: Float[Tensor, "*row dim"],
        low: Float[Tensor, "*row dim"],
        attended: Float[Tensor, "*row dim"],
    ) -> Float[Tensor, "*row dim"]:
        """The filter's output, from the low frequencies, and the attention's."""
        filtered = low + self.high.square() * (x - low)
        return self.share * filtered + (1 - self.share) * attended


class SwiGLU(nn.Module):
    """A feed-forward network without biases, whose hidden units are gated by SiLU."""

    def __init__(self, dim: int, inner_dim: int):
        super().__init__()
        self.inner = nn.Linear(dim, 2 * inner_dim, bias=False)
        self.out = nn.Linear(inner_dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "*row dim"]) -> Float[Tensor, "*row dim"]:
        gate, value = self.inner(x).chunk(2, -1)
        return self.out(silu(gate) * value)


class GatedBlock(Block):
    r"""$x + \sigma(W x) \odot f(\mathrm{LN}(x))$, where f is attention, then a SwiGLU network.

    LiGR's block (arXiv 2502.03417), with which eSASRec (RecSys 2025, arXiv 2508.06450) replaces
    SASRec's. The network is as wide as `baseline.inner_dim`, the original's four times `model.dim`.
    """

    def __init__(self, attention: nn.Module, dim: int, inner_dim: int, dropout: float):
        super().__init__(attention, dim, inner_dim, dropout)
        self.feed = SwiGLU(dim, inner_dim)
        self.gates = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim)])

    def add(
        self, x: Float[Tensor, "*row dim"], attended: Float[Tensor, "*row dim"]
    ) -> Float[Tensor, "*row dim"]:
        x = x + self.gates[0](x).sigmoid() * self.dropout(attended)
        return x + self.gates[1](x).sigmoid() * self.dropout(self.feed(self.norms[1](x)))


def build_block(settings: Settings) -> Block:
    """A causal block of the kind `baseline.block`."""
    model, baseline = settings.model, settings.baseline
    if baseline.block == "filtered":
        attention = FilteredAttention(settings)
    else:
        attention = CausalAttention(model.dim, baseline.num_heads)
    kind = GatedBlock if baseline.block == "gated" else Block
    return kind(attention, model.dim, baseline.inner_dim, model.dropout)


class CausalTransformer(nn.Module):
    """SASRec's encoder; `baseline.block` is the kind of its blocks."""

    recordable = True  # as a CUDA graph

    def __init__(self, settings: Settings):
        super().__init__()
        model = settings.model
        self.embedding = MultiScaleEmbedding(replace(model, scales=(1,)))
        blocks = [build_block(settings) for _ in range(settings.baseline.num_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(model.dim)

    def forward(
        self, vectors: Float[Tensor, "batch position dim"], mask: Mask
    ) -> Float[Tensor, "batch position dim"]:
        x, _ = self.embedding(vectors, mask)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def encode_last(
        self, vectors: Float[Tensor, "batch position dim"], mask: Mask
    ) -> Float[Tensor, "batch dim"]:
        """The state after the last item of each row, the only one that the last block computes."""
        x, _ = self.embedding(vectors, mask)
        *earlier, block = self.blocks
        for other in earlier:
            x = other(x)
        last = mask.sum(1) - 1
        attended = block.attention.at_last(block.norms[0](x), last)
        return self.norm(block.add(at_positions(x, last), attended))
