"""Baselines that adapt frozen features by a mixture of experts: UniSRec and TedRec."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv1d, embedding, normalize, softplus
from torch.nn.functional import pad as pad_zeros

from bivrec.baselines.neural import CausalTransformer, NeuralBaseline
from bivrec.model.base import Mask, Tables


class ExpertMap(nn.Module):
    r"""$\sum_k g_k(x)\,(W_k x - c_k)$ with $g = \mathrm{softmax}(G x + \epsilon)$.

    UniSRec's adaptor: an expert is a parametric whitening $W_k (x - b_k)$, here with
    $c_k = W_k b_k$ as its parameter, and the noise $\epsilon$ of the gates, drawn in training only,
    has a learned scale. With several positions, $c_k$ is another one at each position of a row.
    """

    def __init__(
        self, num_features: int, dim: int, num_experts: int, dropout: float, num_positions: int
    ):
        super().__init__()
        self.experts = nn.Linear(num_features, num_experts * dim, bias=False)
        self.shift = nn.Parameter(torch.zeros(num_positions, num_experts, dim))
        self.gate = nn.Linear(num_features, num_experts, bias=False)
        self.noise = nn.Linear(num_features, num_experts, bias=False)
        nn.init.zeros_(self.gate.weight), nn.init.zeros_(self.noise.weight)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "*batch position feature"]
    ) -> Float[Tensor, "*batch position dim"]:
        gates = self.gate(x)
        if self.training:
            gates = gates + torch.randn_like(gates) * (softplus(self.noise(x)) + 0.01)
        mapped = self.experts(self.dropout(x)).unflatten(-1, self.shift.shape[1:])
        mapped = mapped - self.shift[: x.shape[-2]]
        return (gates.softmax(-1)[..., None] * mapped).sum(-2)


class UniSRec(NeuralBaseline):
    """UniSRec (KDD 2022): adapted text vectors, a transformer over them, cosine scores.

    Inputs `multimodal` are its inductive form, `fused` its transductive one, which adds ID vectors.
    It is trained from scratch, without its pre-training on other domains; the full softmax at every
    position replaces that at the last. History and catalogue share a step's dropout and noise.
    """

    def build(self, num_positions: int = 1) -> None:
        sizes = self.dim, self.baseline.num_experts, self.settings.model.dropout, num_positions
        for name, linear in self.items.maps.items():
            self.items.maps[name] = ExpertMap(linear.in_features, *sizes)
            nn.init.normal_(self.items.missing[name], std=0.02)  # zeros have no cosine
        self.encoder = CausalTransformer(self.settings)

    def tables(self) -> Tables:
        return {self.view: normalize(self.items(), dim=-1)}

    def read(self, items, mask, table):
        return self.encode(embedding(items, table), mask)

    def encode(
        self, vectors: Float[Tensor, "batch position dim"], mask: Mask
    ) -> Float[Tensor, "batch position 1 dim"]:
        """The direction of the state after every position, over the temperature."""
        states = normalize(self.encoder(vectors, mask), dim=-1)
        return states[:, :, None] / self.baseline.temperature


def causal_convolution(
    x: Float[Tensor, "batch position dim"], weights: Float[Tensor, "*#batch position dim"]
) -> Float[Tensor, "batch position dim"]:
    r"""$y_t = \sum_{i \le t} w_{t-i} \odot x_i$: the product of the Fourier transforms of x and w,
    followed by enough padding that nothing comes round from the end."""
    length = x.shape[1]
    rows, kernels = (v.expand_as(x).transpose(1, 2).flatten(0, 1) for v in (x, weights))
    mixed = conv1d(
        pad_zeros(rows, (length - 1, 0))[None], kernels.flip(-1)[:, None], groups=len(rows)
    )
    return mixed[0].unflatten(0, (len(x), -1)).transpose(1, 2)


class TedRec(UniSRec):
    r"""TedRec (CIKM 2024): the text and the IDs of a history, fused in the frequency domain.

    A product of their Fourier transforms is a convolution of the sequences, which is circular in
    the original: in a long history, later items reach earlier positions. Here every position is
    supervised, so it is causal, $\sum_{i \le t} \mathrm{text}_{t-i} \odot \mathrm{id}_i$, as is the
    learned filter of the IDs that is added. In histories of at most half of `model.max_length`, the
    product of text and IDs is the original's. Scores are cosines with the ID vectors.
    """

    inputs = "fused"

    def build(self) -> None:
        super().build(num_positions=self.max_length)
        scale = 0.02 * (2 / self.max_length) ** 0.5  # of a spectrum that starts at 0.02
        self.filter = nn.Parameter(torch.randn(self.max_length, self.dim) * scale)
        self.gates = nn.ModuleList([nn.Linear(self.dim, 1), nn.Linear(self.dim, 1)])

    def tables(self) -> Tables:
        return {self.view: normalize(self.items.ids, dim=-1)}

    def read(self, items, mask, table):
        ids, modalities = embedding(items, self.items.ids), self.items.project_features(items)
        text = sum(modalities.values()) * self.max_length**-0.5
        parts = (
            causal_convolution(ids, self.filter[: items.shape[1]]),
            causal_convolution(ids, text),
        )
        vectors = sum(gate(part).sigmoid() * part for gate, part in zip(self.gates, parts))
        # Their variance is below the layer norm's epsilon.
        return self.encode(normalize(vectors, dim=-1), mask)
