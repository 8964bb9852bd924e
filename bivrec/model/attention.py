"""Gaussian attention within each scale."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from bivrec.model.embedding import Dropout, Linear

CACHED_CELLS = 1 << 17  # numbers that a CPU computes at a time: few enough for a core's cache

FEW_PATCHES = 24  # that attend in one product, whatever their scale and prefix: cheaper than many small products


def own_patches(
    num_positions: int, scales: tuple[int, ...], device: torch.device | None = None
) -> Bool[Tensor, "scale position position"]:
    """Which patches a prefix is cut into: the prefix that ends at t has those that end at t, t - scale, t - 2 scale, ..."""
    place = torch.arange(num_positions, device=device)
    behind = place[:, None] - place
    return torch.stack([(behind >= 0) & (behind % scale == 0) for scale in scales])


def gaussian_weights(
    query: Float[Tensor, "*group patch dim"],
    key: Float[Tensor, "*group patch dim"],
    bias: Float[Tensor, "*#group patch patch"],
    kernel: str,
) -> Float[Tensor, "*group patch patch"]:
    r"""How much patch i takes from patch j; a bias of minus infinity forbids it.

    rbf: $\exp(-\lVert q_i - k_j \rVert^2 / 2\sqrt{d} + b_{ij})$, not normalised (our reconstruction: the paper's kernel is
    not known); rbf_normalised: the same with rows summing to 1; distance and softmax: $q_i \cdot k_j$ in place of the
    Gaussian of their distance, rows summing to 1 (`distance` differs in its bias).
    """
    logits = query @ key.transpose(-1, -2)
    if kernel.startswith("rbf"):
        logits = (
            logits - (query.square().sum(-1)[..., :, None] + key.square().sum(-1)[..., None, :]) / 2
        )
    logits = logits * query.shape[-1] ** -0.5 + bias
    return logits.exp() if kernel == "rbf" else logits.softmax(-1)


def _chunks(whole: Float[Tensor, "batch *shape"]) -> list[slice]:
    """Rows of it that a CPU's cache holds; on a GPU all."""
    count = max(1, len(whole) if whole.is_cuda else CACHED_CELLS // max(1, whole[:1].numel()))
    return [slice(start, start + count) for start in range(0, len(whole), count)]


class _GaussianMixture(torch.autograd.Function):
    """The values mixed by the rbf kernel's weights, and the exact gradient, some rows at a time: what is quadratic in the patches is
    made, used and passed over while it lies in the cache. `places` are the groups that attend, [batch patch] of all but the last
    axis, and how many apart in them patches of one prefix are: those between are groups of their own. `seen`, where not all
    patches are: weights are not normalised, so nothing is taken from a patch whose value is nought. Powers are of 2, cheaper than
    those of e, and much so where a bias forbids; a square of a distance is a product of vectors that hold their own squares."""

    @staticmethod
    def forward(ctx, mixed, num_heads, places, seen, *biases):
        width = mixed.shape[-1] // 3
        factor, taken, kept = (
            math.log2(math.e) * (width // num_heads) ** -0.5,
            mixed.new_empty(*mixed.shape[:-1], width),
            [],
        )
        for place, apart, bias in zip(*places, biases):
            whole, given = (
                _GaussianMixture.heads(mixed[place], apart, 3, num_heads),
                _GaussianMixture.heads(taken[place], apart, 1, num_heads)[0],
            )
            real = (
                None
                if seen is None
                else seen[place].unflatten(1, (-1, apart)).transpose(1, 2)[:, :, None]
            )
            bias = (math.log2(math.e) * bias)[:, None]
            weights = mixed.new_empty(*whole.shape[1:-1], whole.shape[-2])
            for rows in _chunks(weights):
                query, key, value = whole[:, rows].contiguous()
                own, ones = (
                    (
                        part.square().sum(-1, keepdim=True).mul_(-factor / 2)
                        for part in (query, key)
                    ),
                    torch.ones_like(query[..., :1]),
                )
                square, other = own
                joined = (
                    torch.cat([query * factor, square, ones], -1).flatten(0, 2),
                    torch.cat([key, ones, other], -1).flatten(0, 2),
                )
                part = weights[rows]
                torch.bmm(joined[0], joined[1].mT, out=part.flatten(0, 2))
                part += bias if len(bias) == 1 else bias[rows]
                value = value if real is None else value * real[rows]
                given[rows] = torch.bmm(part.exp2_().flatten(0, 2), value.flatten(0, 2)).view(
                    value.shape
                )
            kept.append(weights)
        ctx.save_for_backward(mixed, seen, *kept)
        ctx.places, ctx.shared = places, [len(bias) == 1 for bias in biases]
        return taken

    @staticmethod
    def backward(ctx, upstream):
        mixed, seen, *kept = ctx.saved_tensors
        num_heads, grad, bias_grads = kept[0].shape[2], torch.empty_like(mixed), []
        for place, apart, weights, shared in zip(*ctx.places, kept, ctx.shared):
            whole, whole_grad = (
                _GaussianMixture.heads(part[place], apart, 3, num_heads) for part in (mixed, grad)
            )
            given = _GaussianMixture.heads(upstream[place], apart, 1, num_heads)[0]
            real = (
                None
                if seen is None
                else seen[place].unflatten(1, (-1, apart)).transpose(1, 2)[:, :, None]
            )
            scale, bias_grad = (
                whole.shape[-1] ** -0.5,
                mixed.new_zeros(1 if shared else len(weights), *weights.shape[2:]),
            )
            for rows in _chunks(weights):
                query, key, value = parts = whole[:, rows].contiguous()
                query_grad, key_grad, value_grad = whole_grad[:, rows]
                flat, above, part = (
                    parts[:2].flatten(1, 3),
                    given[rows].reshape(value.shape).flatten(0, 2),
                    weights[rows].flatten(0, 2),
                )
                value_grad.copy_((part.mT @ above).view(value.shape))
                if real is not None:
                    value = value * real[rows]
                    value_grad.mul_(real[rows])
                logits = torch.baddbmm(
                    part, above, value.flatten(0, 2).mT, beta=0, alpha=scale
                ).mul_(part)
                bias_grad[slice(None) if shared else rows] += logits.view(weights[rows].shape).sum(
                    (0, 1) if shared else 1
                )
                for grads, own, pairs, other in (
                    (query_grad, query, logits, flat[1]),
                    (key_grad, key, logits.mT, flat[0]),
                ):
                    torch.addcmul(
                        (pairs @ other).view(own.shape),
                        own,
                        pairs.sum(2).view(own.shape[:-1])[..., None],
                        value=-1,
                        out=grads,
                    )
            bias_grads.append(bias_grad / scale)
        return grad, None, None, None, *bias_grads

    @staticmethod
    def heads(
        x: Tensor, apart: int, parts: int, num_heads: int
    ) -> Float[Tensor, "part batch between head patch dim"]:
        """Where queries, keys and values lie, or what is taken."""
        return (
            x.unflatten(1, (-1, apart))
            .unflatten(-1, (parts, num_heads, -1))
            .permute(3, 0, 2, 4, 1, 5)
        )


class GaussianAttention(nn.Module):
    """Attention among the patches of one scale, with a bias for the distance between patches; scales share weights."""

    def __init__(self, dim: int, num_heads: int, kernel: str, max_length: int, biased: bool = True):
        super().__init__()
        self.num_heads, self.kernel = num_heads, kernel
        self.project = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)
        self.bias = (
            nn.Parameter(torch.zeros(max_length, num_heads))
            if biased and kernel != "distance"
            else None
        )
        self.width = nn.Parameter(torch.full((num_heads,), 2.0)) if kernel == "distance" else None

    def place_bias(
        self, num_positions: int, scales: tuple[int, ...]
    ) -> Float[Tensor, "scale #head position position"]:
        """A learned number a distance, or the Gaussian prior $-(i-j)^2 / 2\\sigma^2$ of kernel `distance` (both in patches)."""
        place = torch.arange(num_positions, device=self.out.weight.device)
        return self._distance_bias(
            torch.stack([(place[:, None] - place).abs() // scale for scale in scales])
        )

    def _distance_bias(
        self, distance: Int64[Tensor, "*group patch patch"]
    ) -> Float[Tensor, "*group #head patch patch"]:
        if self.width is not None:
            return -distance[..., None, :, :].square() / (
                2 * self.width.square()[:, None, None] + 1e-6
            )
        if self.bias is None:
            return self.out.weight.new_zeros(distance.shape)[..., None, :, :]
        return nn.functional.embedding(distance, self.bias).movedim(-1, -3)

    def forward(
        self,
        x: Float[Tensor, "scale batch position dim"],
        mask: Bool[Tensor, "batch position"],
        scales: tuple[int, ...],
        causal: bool,
    ) -> Float[Tensor, "scale batch position dim"]:
        num_positions, mixed = x.shape[2], self.project(x)
        if self.bias is None and self.kernel == "softmax" and causal and scales == (1,):
            heads = (
                part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
                for part in mixed.flatten(0, 1).chunk(3, -1)
            )
            return self.out(
                nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
                .transpose(1, 2)
                .flatten(-2)[None]
            )
        if (
            self.kernel == "rbf" and causal and not x.is_cuda
        ):  # a prefix's own patches are a scale apart: no other is looked at
            biases = [
                self._own_bias([num_positions // scale], True).mT for scale in scales
            ]  # oldest first
            return self.out(
                _GaussianMixture.apply(
                    mixed, self.num_heads, (range(len(scales)), scales), None, *biases
                )
            )
        own, itself = (
            own_patches(num_positions, scales, x.device)[:, None],
            torch.eye(num_positions, dtype=torch.bool, device=x.device),
        )
        allowed = own if causal else (own | own.mT) & (mask[:, None, :] | itself)
        forbidden = torch.zeros(allowed.shape, device=x.device).masked_fill_(
            ~allowed, float("-inf")
        )[:, :, None]
        return self.out(
            self._mix(mixed, forbidden + self.place_bias(num_positions, scales)[:, None])
        )

    def among(
        self,
        x: Float[Tensor, "batch patch dim"],
        mask: Bool[Tensor, "batch patch"],
        sizes: list[int],
        causal: bool,
    ) -> Float[Tensor, "batch patch dim"]:
        """The same among one prefix's own patches, `sizes` of them a scale, scale after scale, newest first. Few of them, and those
        of several prefixes, attend in one product in which nothing passes from one scale or prefix to another."""
        together = max(
            (rows for rows in range(1, FEW_PATCHES // sum(sizes) + 1) if len(x) % rows == 0),
            default=0,
        )
        groups = [sizes * together] if together else [[count] for count in sizes]
        cut, rows, mixed = (
            [sum(counts) for counts in groups],
            len(x) // max(1, together),
            self.project(x),
        )
        mixed, mask = mixed.view(rows, sum(cut), mixed.shape[-1]), mask.reshape(rows, sum(cut))
        biases = [self._own_bias(counts, causal) for counts in groups]
        if self.kernel == "rbf":
            places = [
                (slice(None), slice(end - count, end))
                for count, end in zip(cut, itertools.accumulate(cut))
            ]
            taken = _GaussianMixture.apply(
                mixed,
                self.num_heads,
                (places, [1] * len(places)),
                mask[..., None].to(mixed.dtype),
                *biases,
            )
        else:
            parts = []
            for part, bias, seen in zip(mixed.split(cut, 1), biases, mask.split(cut, 1)):
                hidden = ~(
                    seen[:, None, :] | torch.eye(seen.shape[1], dtype=torch.bool, device=x.device)
                )[:, None]
                parts.append(
                    self._mix(part[None], bias.masked_fill(hidden, float("-inf"))[None])[0]
                )
            taken = torch.cat(parts, 1)
        return self.out(taken.view(x.shape))

    def _own_bias(self, counts: list[int], causal: bool) -> Float[Tensor, "1 head patch patch"]:
        """The biases among patches of several scales or prefixes that lie one after the other, `counts` of them each, newest first."""
        device = self.out.weight.device
        group = torch.cat(
            [torch.full((count,), number, device=device) for number, count in enumerate(counts)]
        )
        age = torch.cat([torch.arange(count, device=device) for count in counts])
        older = age[:, None] - age
        hidden = (group[:, None] != group) | (
            (older > 0) & causal
        )  # another prefix or scale, or what came after
        return (
            self._distance_bias(older.abs())
            .expand(self.num_heads, -1, -1)
            .masked_fill(hidden, float("-inf"))[None]
        )

    def last(
        self, x: Float[Tensor, "batch position dim"], ends: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch dim"]:
        """What one position a row takes from those up to it, of kernel `softmax` without a bias and of one scale. The query is
        taken through the keys' map, and the mean through the values', so that nothing is projected at the other positions."""
        rows, place = (
            torch.arange(len(x), device=x.device),
            torch.arange(x.shape[1], device=x.device),
        )
        maps = self.project.weight.unflatten(0, (3, self.num_heads, -1))
        biases = self.project.bias.unflatten(
            0, (3, self.num_heads, -1)
        )  # that of the keys is the same for all of a row
        query = torch.einsum("bd,hed->bhe", x[rows, ends], maps[0]) + biases[0]
        logits = torch.einsum("bhe,hed->bhd", query, maps[1]) @ x.mT * maps.shape[2] ** -0.5
        shares = logits.masked_fill((place > ends[:, None])[:, None], float("-inf")).softmax(-1)
        return self.out((torch.einsum("bhd,hed->bhe", shares @ x, maps[2]) + biases[2]).flatten(1))

    def _mix(
        self, mixed: Float[Tensor, "scale batch position mixed"], bias: Tensor
    ) -> Float[Tensor, "scale batch position dim"]:
        """The values, mixed by the kernel's weights."""
        if self.kernel == "rbf":
            return _GaussianMixture.apply(
                mixed,
                self.num_heads,
                (range(len(mixed)), [1] * len(mixed)),
                None,
                *bias.expand(-1, -1, self.num_heads, -1, -1),
            )
        return self._split(
            mixed, lambda query, key, value: gaussian_weights(query, key, bias, self.kernel) @ value
        )

    def _split(
        self, mixed: Float[Tensor, "scale batch position mixed"], attend: Callable
    ) -> Float[Tensor, "scale batch position dim"]:
        """Attention with queries, keys and values by head."""
        return attend(*self._heads(mixed)).transpose(2, 3).flatten(-2)

    def _heads(
        self, mixed: Float[Tensor, "scale batch position mixed"]
    ) -> tuple[Float[Tensor, "scale batch head position dim"], ...]:
        """Queries, keys and values by head."""
        return mixed.unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5).unbind(0)


class Block(nn.Module):
    """Attention, Gaussian or another, and a feed-forward net, each normalised before and added after."""

    def __init__(self, attention: nn.Module, dim: int, inner_dim: int, dropout: float):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.attention = attention
        self.feed = nn.Sequential(
            Linear(dim, inner_dim), nn.ReLU(inplace=True), Linear(inner_dim, dim)
        )
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "*group position dim"], *context: Any, attend: Callable | None = None
    ) -> Float[Tensor, "*group position dim"]:
        x = x + self.dropout((attend or self.attention)(self.norms[0](x), *context))
        return x + self.dropout(self.feed(self.norms[1](x).flatten(0, -2)).view(x.shape))

    def last(
        self, x: Float[Tensor, "batch position dim"], ends: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch dim"]:
        """The same at one position a row, where nothing reads the others."""
        state = x[torch.arange(len(x), device=x.device), ends] + self.dropout(
            self.attention.last(self.norms[0](x), ends)
        )
        return state + self.dropout(self.feed(self.norms[1](state)))
