"""Sequential baselines on item IDs, and their multimodal forms: SASRec, GRU4Rec, ComiRec-SA."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding

from bivrec.baselines.neural import CausalTransformer, NeuralBaseline
from bivrec.model.base import (
    Batch,
    Interests,
    ItemRows,
    LastInterests,
    Mask,
    SequentialModel,
    Tables,
)
from bivrec.settings import Settings


class SASRec(NeuralBaseline):
    """Self-attentive sequential recommendation; the full softmax replaces the one negative."""

    def build(self) -> None:
        self.encoder = CausalTransformer(self.settings)

    def read(self, items, mask, table):
        return self.encoder(embedding(items, table), mask)[:, :, None]

    def encode_last(self, items, mask, tables):
        return {
            view: self.encoder.encode_last(embedding(items, table), mask)[:, None]
            for view, table in tables.items()
        }


class SummedSASRec(SequentialModel):
    """The fair baseline of two views: a SASRec on IDs and one on features, trained separately.

    Their scores are combined as BivRec's are.
    """

    def __init__(self, settings: Settings, num_items: int, features: dict):
        super().__init__()
        self.settings, self.max_length = settings, settings.model.max_length
        self.parts = nn.ModuleDict()
        for view in ("id", "multimodal"):
            self.parts[view] = SASRec(settings, num_items, features, view)

    def tables(self) -> Tables:
        return {view: part.tables()[view] for view, part in self.parts.items()}

    def interests(self, items: ItemRows, mask: Mask) -> Interests:
        return {view: part.interests(items, mask)[view] for view, part in self.parts.items()}

    def encode_last(self, items: ItemRows, mask: Mask, tables: Tables) -> LastInterests:
        last = {}
        for view, part in self.parts.items():
            last |= part.encode_last(items, mask, {view: tables[view]})
        return last

    def encode_batch(self, batch: Batch, tables: Tables) -> dict[str, Tensor]:
        encoded = {}
        for part in self.parts.values():
            encoded |= part.encode_batch(batch, tables)
        return encoded

    def row_loss(
        self, encoded: dict[str, Tensor], batch: Batch, tables: Tables
    ) -> Float[Tensor, ""]:
        """The sum of two losses that share no parameter."""
        return sum(part.row_loss(encoded, batch, tables) for part in self.parts.values())


class GRU4Rec(NeuralBaseline):
    """A recurrent net over the items' vectors; a linear map reads its state."""

    def build(self) -> None:
        baseline = self.baseline
        self.dropout = nn.Dropout(self.settings.model.dropout)
        self.cells = nn.GRU(self.dim, baseline.inner_dim, baseline.num_layers, batch_first=True)
        self.out = nn.Linear(baseline.inner_dim, self.dim)

    def read(self, items, mask, table):
        states, _ = self.cells(self.dropout(embedding(items, table)))
        return self.out(states)[:, :, None]


class ComiRecSA(NeuralBaseline):
    r"""$u_k = \sum_j A_{jk} e_j$ with $A = \mathrm{softmax}_j(W_2 \tanh(W_1 (e_j + P_j)))$.

    The sum runs over the items of a prefix, here for every prefix; the original reads one per row.
    """

    def build(self) -> None:
        dim, num_interests = self.dim, self.baseline.num_interests
        self.position = nn.Parameter(torch.randn(self.max_length, dim) * 0.02)
        self.attend = nn.Sequential(
            nn.Linear(dim, 4 * dim, bias=False),
            nn.Tanh(),
            nn.Linear(4 * dim, num_interests, bias=False),
        )
        self.dropout = nn.Dropout(self.settings.model.dropout)

    def read(self, items, mask, table):
        vectors, length = self.dropout(embedding(items, table)), items.shape[1]
        logits = self.attend(vectors + self.position[:length]).transpose(1, 2)
        later = torch.ones(length, length, dtype=torch.bool, device=items.device).triu(1)
        shares = logits[:, :, None].masked_fill(later, -torch.inf).softmax(-1)
        return (shares @ vectors[:, None]).transpose(1, 2)  # batch position interest dim
