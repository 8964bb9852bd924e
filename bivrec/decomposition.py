"""Intra-view interest decomposition: Gaussian attention within each scale, then Cluster attention into K interests."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from bivrec.embedding import Dropout, MultiScaleEmbedding
from bivrec.settings import Model


def by_residue(x: Shaped[Tensor, "batch position *rest"], scale: int) -> Shaped[Tensor, "batch scale patch *rest"]:
    """Positions t, t - scale, t - 2 scale, ... side by side: one ordinary sequence of patches for each t mod scale."""
    batch, position, *rest = x.shape
    return x.view(batch, position // scale, scale, *rest).transpose(1, 2)


def by_position(x: Shaped[Tensor, "batch scale patch *rest"]) -> Shaped[Tensor, "batch position *rest"]:
    """The inverse of `by_residue`."""
    batch, scale, patch, *rest = x.shape
    return x.transpose(1, 2).reshape(batch, patch * scale, *rest)


def gaussian_weights(
    query: Float[Tensor, "*group patch dim"],
    key: Float[Tensor, "*group patch dim"],
    bias: Float[Tensor, "*#group patch patch"],
    allowed: Bool[Tensor, "*#group patch patch"],
    kernel: str,
) -> Float[Tensor, "*group patch patch"]:
    r"""How much patch i takes from patch j.

    rbf: $\exp(-\lVert q_i - k_j \rVert^2 / 2\sqrt{d} + b_{ij})$, not normalised (our reconstruction: the paper's kernel is
    not known); rbf_normalised: the same with rows summing to 1; distance and softmax: $q_i \cdot k_j$ in place of the
    Gaussian of their distance, rows summing to 1 (`distance` differs in its bias).
    """
    logits = query @ key.transpose(-1, -2)
    if kernel.startswith("rbf"):
        logits = logits - query.square().sum(-1)[..., :, None] / 2 - key.square().sum(-1)[..., None, :] / 2
    logits = (logits * query.shape[-1] ** -0.5 + bias).masked_fill(~allowed, float("-inf"))
    return logits.exp() if kernel == "rbf" else logits.softmax(-1)


class GaussianAttention(nn.Module):
    """Attention among the patches of one scale, with a bias for the distance between patches; scales share weights."""

    def __init__(self, dim: int, num_heads: int, kernel: str, max_length: int, biased: bool = True):
        super().__init__()
        self.num_heads, self.kernel = num_heads, kernel
        self.project = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.zeros(num_heads, max_length)) if biased and kernel != "distance" else None
        self.width = nn.Parameter(torch.full((num_heads,), 2.0)) if kernel == "distance" else None

    def place_bias(self, num_patches: int) -> Float[Tensor, "head patch patch"]:
        """A learned number a distance, or the Gaussian prior $-(i-j)^2 / 2\\sigma^2$ of kernel `distance` (sigma in patches)."""
        place = torch.arange(num_patches, device=self.out.weight.device)
        distance = (place[:, None] - place).abs()
        if self.width is not None:
            return -distance.square() / (2 * self.width.square()[:, None, None] + 1e-6)
        return self.bias[:, distance] if self.bias is not None else distance.new_zeros(1, num_patches, num_patches, dtype=torch.float)

    def forward(
        self, x: Float[Tensor, "scale batch position dim"], mask: Bool[Tensor, "batch position"], scales: tuple[int, ...], causal: bool
    ) -> Float[Tensor, "scale batch position dim"]:
        mixed = []
        for rows, scale in zip(self.project(x), scales):
            heads = by_residue(rows.unflatten(-1, (3, self.num_heads, -1)), scale)  # batch scale patch 3 head dim
            query, key, value = heads.permute(3, 0, 1, 4, 2, 5).unbind(0)  # batch scale head patch dim
            num_patches = query.shape[-2]
            if self.kernel == "softmax" and causal and self.bias is None:
                taken = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            else:
                allowed = torch.ones(num_patches, num_patches, dtype=torch.bool, device=x.device)
                allowed = allowed.tril() if causal else (by_residue(mask, scale)[:, :, None, None] | allowed.tril(0).triu(0))
                taken = gaussian_weights(query, key, self.place_bias(num_patches), allowed, self.kernel) @ value
            mixed.append(by_position(taken.transpose(2, 3).flatten(-2)))
        return self.out(torch.stack(mixed))


class Block(nn.Module):
    """Attention, Gaussian or another, and a feed-forward net, each normalised before and added after."""

    def __init__(self, attention: nn.Module, dim: int, inner_dim: int, dropout: float):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.attention = attention
        self.feed = nn.Sequential(nn.Linear(dim, inner_dim), nn.ReLU(), nn.Linear(inner_dim, dim))
        self.dropout = Dropout(dropout)

    def forward(self, x: Float[Tensor, "*group position dim"], *context: Any) -> Float[Tensor, "*group position dim"]:
        x = x + self.dropout(self.attention(self.norms[0](x), *context))
        return x + self.dropout(self.feed(self.norms[1](x)))


def assign(logits: Float[Tensor, "*group interest"], num_nearest: int, temperature: float, hard: bool, noisy: bool) -> Float[Tensor, "*group interest"]:
    """Gumbel-softmax over interests; hard keeps the F nearest as ones and the soft gradient (straight-through)."""
    if noisy:
        logits = logits - torch.empty_like(logits).exponential_().clamp_min(1e-20).log()
    soft = (logits / temperature).softmax(-1)
    if not hard:
        return soft
    nearest = torch.zeros_like(soft).scatter_(-1, soft.topk(num_nearest, -1).indices, 1.0)
    return nearest - soft.detach() + soft


class ClusterAttention(nn.Module):
    r"""Patches give themselves to their F nearest of K interest tokens: $u_k = \mathrm{LN}(T_k + W \frac{\sum_j A_{jk} v_j}{\sum_j A_{jk} + 1} + \sum_s x^s_t)$.

    The last term, the newest patch of every scale, is ours (`last_state`). Noise is drawn in training only; padding is
    left out of numerator and denominator. The sums run over the prefix's own patches, for every prefix at once.
    """

    def __init__(self, settings: Model):
        super().__init__()
        self.settings = settings
        self.tokens = nn.Parameter(torch.randn(settings.num_interests, settings.dim) * 0.5)
        self.norms = nn.ModuleList([nn.LayerNorm(settings.dim) for _ in range(3)])
        self.query, self.key, self.value, self.out = (nn.Linear(settings.dim, settings.dim) for _ in range(4))
        self.dropout = Dropout(settings.dropout)

    def allocate(self, x: Float[Tensor, "scale batch position dim"]) -> Float[Tensor, "scale batch position interest"]:
        """Noise-free scores of each patch for each interest token."""
        return self.key(self.norms[0](x)) @ self.query(self.norms[1](self.tokens)).T * self.settings.dim**-0.5

    def forward(
        self, x: Float[Tensor, "scale batch position dim"], mask: Bool[Tensor, "batch position"], scales: tuple[int, ...]
    ) -> tuple[Float[Tensor, "batch position interest dim"], Float[Tensor, "scale batch position interest"]]:
        settings, allocation = self.settings, self.allocate(x)
        if settings.pooling == "cluster":
            shares = assign(allocation, settings.num_nearest, settings.temperature, settings.assignment == "hard", self.training)
        else:
            shares = torch.ones_like(allocation)
        shares = shares * mask[..., None]
        values = self.value(self.norms[0](x))
        given, count = 0, 0
        for share, value, scale in zip(shares, values, scales):
            given = given + by_position(by_residue(share[..., None] * value[..., None, :], scale).cumsum(2))
            count = count + by_position(by_residue(share, scale).cumsum(2))
        interests = self.tokens + self.dropout(self.out(given / (count[..., None] + 1)))
        if settings.last_state:
            interests = interests + x.sum(0)[:, :, None]
        return self.norms[2](interests), allocation


class ViewEncoder(nn.Module):
    """One view from items to interests: multi-scale embedding, Gaussian attention, Cluster attention."""

    def __init__(self, settings: Model):
        super().__init__()
        self.embedding = MultiScaleEmbedding(settings)
        attentions = (GaussianAttention(settings.dim, settings.num_heads, settings.kernel, settings.max_length) for _ in range(settings.num_layers))
        self.blocks = nn.ModuleList([Block(attention, settings.dim, settings.inner_dim, settings.dropout) for attention in attentions])
        self.clusters = ClusterAttention(settings)

    def forward(
        self, items: Float[Tensor, "batch position dim"], mask: Bool[Tensor, "batch position"], causal: bool = True
    ) -> tuple[Float[Tensor, "batch position interest dim"], Float[Tensor, "scale batch position interest"]]:
        """The K interests after every position, and each patch's noise-free scores for the interest tokens."""
        x = self.embedding(items, mask)
        for block in self.blocks:
            x = block(x, mask, self.embedding.scales, causal)
        return self.clusters(x, mask, self.embedding.scales)
