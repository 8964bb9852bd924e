"""Baselines that adapt frozen features by a mixture of experts: UniSRec."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize, softplus

from bivrec.baselines.neural import CausalTransformer, NeuralBaseline
from bivrec.model.base import Tables


class ExpertMap(nn.Module):
    r"""$\sum_k g_k(x)\,(W_k x - c_k)$ with $g = \mathrm{softmax}(G x + \epsilon)$.

    UniSRec's adaptor: an expert is a parametric whitening $W_k (x - b_k)$, here with
    $c_k = W_k b_k$ as its parameter, and the noise $\epsilon$ of the gates, drawn in training only,
    has a learned scale.
    """

    def __init__(self, num_features: int, dim: int, num_experts: int, dropout: float):
        super().__init__()
        self.experts = nn.Linear(num_features, num_experts * dim, bias=False)
        self.shift = nn.Parameter(torch.zeros(num_experts, dim))
        self.gate = nn.Linear(num_features, num_experts, bias=False)
        self.noise = nn.Linear(num_features, num_experts, bias=False)
        nn.init.zeros_(self.gate.weight), nn.init.zeros_(self.noise.weight)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*row feature"]) -> Float[Tensor, "*row dim"]:
        gates = self.gate(x)
        if self.training:
            gates = gates + torch.randn_like(gates) * (softplus(self.noise(x)) + 0.01)
        mapped = self.experts(self.dropout(x)).unflatten(-1, self.shift.shape) - self.shift
        return (gates.softmax(-1)[..., None] * mapped).sum(-2)


class UniSRec(NeuralBaseline):
    """UniSRec (KDD 2022): adapted text vectors, a transformer over them, cosine scores.

    Inputs `multimodal` are its inductive form, `fused` its transductive one, which adds ID vectors.
    It is trained from scratch, without its pre-training on other domains; the full softmax at every
    position replaces that at the last. History and catalogue share a step's dropout and noise.
    """

    def build(self) -> None:
        num_experts, dropout = self.baseline.num_experts, self.settings.model.dropout
        for name, linear in self.items.maps.items():
            self.items.maps[name] = ExpertMap(linear.in_features, self.dim, num_experts, dropout)
            nn.init.normal_(self.items.missing[name], std=0.02)  # zeros have no cosine
        self.encoder = CausalTransformer(self.settings)

    def tables(self) -> Tables:
        return {self.view: normalize(self.items(), dim=-1)}

    def read(self, items, mask, table):
        states = normalize(self.encoder(embedding(items, table), mask), dim=-1)
        return states[:, :, None] / self.baseline.temperature
