"""Intra-view interest decomposition, first half: Gaussian attention within each scale."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import embedding

from bivrec.model.embedding import PatchLayout


def gaussian_weights(
    query: Float[Tensor, "*group patch dim"],
    key: Float[Tensor, "*group patch dim"],
    bias: Float[Tensor, "*#group patch patch"],
    kernel: str,
) -> Float[Tensor, "*group patch patch"]:
    r"""The weight of patch j in the output of patch i; a bias of minus infinity makes it zero.

    rbf: $\exp(-\lVert q_i - k_j \rVert^2 / 2\sqrt{d} + b_{ij})$, not normalised. The paper does not
    say which kernel it uses, so this is our reconstruction. rbf_normalised: the same, rows summing
    to 1. softmax and distance: $q_i \cdot k_j$ in place of the Gaussian of their distance, rows
    summing to 1; `distance` has another bias.
    """
    logits = query @ key.transpose(-1, -2)
    if kernel.startswith("rbf"):
        squares = query.square().sum(-1)[..., :, None] + key.square().sum(-1)[..., None, :]
        logits = logits - squares / 2
    logits = logits * query.shape[-1] ** -0.5 + bias
    return logits.exp() if kernel == "rbf" else logits.softmax(-1)


class GaussianAttention(nn.Module):
    """Attention among the patches of one scale, biased by their distance; scales share weights."""

    def __init__(self, dim: int, num_heads: int, kernel: str, max_length: int):
        super().__init__()
        self.num_heads, self.kernel = num_heads, kernel
        self.project, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        prior = kernel == "distance"
        self.bias = None if prior else nn.Parameter(torch.zeros(max_length, num_heads))
        self.width = nn.Parameter(torch.full((num_heads,), 2.0)) if prior else None

    def distance_bias(self, num_patches: int) -> Float[Tensor, "head patch patch"]:
        r"""A learned bias for each distance in patches, or the prior $-(i-j)^2 / 2\sigma^2$."""
        index = torch.arange(num_patches, device=self.out.weight.device)
        distance = (index[:, None] - index).abs()
        if self.width is None:
            return embedding(distance, self.bias).movedim(-1, 0)
        return -distance.square() / (2 * self.width.square()[:, None, None] + 1e-6)

    def forward(
        self, x: Float[Tensor, "batch patch dim"], layout: PatchLayout, causal: bool
    ) -> Float[Tensor, "batch patch dim"]:
        """Attention within each residue of each scale; if `causal`, to no later patch."""
        scales = zip(layout.split(self.project(x)), layout.split(layout.mask))
        mixed = [self.attend(projected, mask, causal) for projected, mask in scales]
        return self.out(torch.cat([part.flatten(1, 2) for part in mixed], 1))

    def attend(
        self,
        projected: Float[Tensor, "batch residue patch projection"],
        mask: Bool[Tensor, "batch residue patch"],
        causal: bool,
    ) -> Float[Tensor, "batch residue patch dim"]:
        """One scale: each patch attends to those of its residue that are not padding."""
        heads = projected.unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(3, 0, 1, 4, 2, 5)  # batch residue head patch dim
        itself = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
        allowed = mask[..., None, :] | itself  # batch residue patch patch
        if causal:
            allowed = allowed & torch.ones_like(itself).tril()
        hidden = torch.zeros_like(allowed, dtype=query.dtype).masked_fill(~allowed, -torch.inf)
        bias = self.distance_bias(mask.shape[-1]) + hidden[:, :, None]
        weights = gaussian_weights(query, key, bias, self.kernel)
        return (weights @ value).transpose(2, 3).flatten(3)


class Block(nn.Module):
    """A pre-normalised residual block: attention, then a feed-forward network."""

    def __init__(self, attention: nn.Module, dim: int, inner_dim: int, dropout: float):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.attention = attention
        self.feed = nn.Sequential(nn.Linear(dim, inner_dim), nn.ReLU(), nn.Linear(inner_dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch position dim"], *context: Any
    ) -> Float[Tensor, "batch position dim"]:
        return self.add(x, self.attention(self.norms[0](x), *context))

    def add(
        self, x: Float[Tensor, "*row dim"], attended: Float[Tensor, "*row dim"]
    ) -> Float[Tensor, "*row dim"]:
        """The block's output at some positions, from its input and its attention there."""
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed(self.norms[1](x)))
