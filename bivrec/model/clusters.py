"""Cluster attention: patches choose among K interest tokens."""

import itertools

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from bivrec.model.attention import _chunks, own_patches
from bivrec.model.embedding import Dropout
from bivrec.settings import Model


def assign(
    logits: Float[Tensor, "*group interest"],
    num_nearest: int,
    temperature: float,
    hard: bool,
    noisy: bool,
) -> Float[Tensor, "*group interest"]:
    """Gumbel-softmax over interests; hard keeps the F nearest as ones and the soft gradient (straight-through)."""
    if noisy:
        logits = logits - torch.empty_like(logits).exponential_().clamp_min(1e-20).log()
    soft = (logits / temperature).softmax(-1)
    if not hard:
        return soft
    nearest = torch.zeros_like(soft).scatter_(-1, soft.topk(num_nearest, -1).indices, 1.0)
    return nearest - soft.detach() + soft


def sum_prefixes(
    x: Float[Tensor, "scale batch position channel"], scales: tuple[int, ...]
) -> Float[Tensor, "batch position channel"]:
    """For every prefix, the sum over its own patches of all scales."""
    own = own_patches(x.shape[2], scales, x.device).to(x.dtype).transpose(0, 1).flatten(1)
    return own @ x.transpose(0, 1).flatten(1, 2)


class _Given(torch.autograd.Function):
    """What patches give, and the exact gradient, some rows at a time, with no product of share and patch kept: a prefix's own
    patches are a scale apart, so that their sums are one product with a triangle of ones."""

    @staticmethod
    def forward(ctx, shares, patches, scales):
        ctx.save_for_backward(shares, patches)
        ctx.scales, given = scales, patches.new_empty(*shares.shape[1:], patches.shape[-1])
        for rows in _chunks(given):
            for number, scale in enumerate(scales):
                products = shares[number, rows, :, :, None] * patches[number, rows, :, None]
                whole, products = (
                    part.view(len(part), -1, scale * part[0, 0].numel())
                    for part in (given[rows], products)
                )
                torch.baddbmm(
                    whole, _Given.ones(whole), products, beta=float(number > 0), out=whole
                )
        return given

    @staticmethod
    def backward(ctx, upstream):
        shares, patches = ctx.saved_tensors
        shares_grad, patches_grad, upstream = (
            torch.empty_like(shares),
            torch.empty_like(patches),
            upstream.contiguous(),
        )
        for rows in _chunks(upstream):
            for number, scale in enumerate(ctx.scales):
                part = upstream[rows]
                whole = part.view(len(part), -1, scale * part[0, 0].numel())
                sums, patch, patch_grad = (
                    (_Given.ones(whole).mT @ whole).view(part.shape),
                    patches[number, rows],
                    patches_grad[number, rows],
                )
                torch.sum(sums * patch[:, :, None], -1, out=shares_grad[number, rows])
                torch.mul(sums[:, :, 0], shares[number, rows, :, :1], out=patch_grad)
                for interest in range(1, shares.shape[-1]):
                    patch_grad.addcmul_(
                        sums[:, :, interest], shares[number, rows, :, interest, None]
                    )
        return shares_grad, patches_grad, None

    @staticmethod
    def ones(whole: Float[Tensor, "row patch _"]) -> Float[Tensor, "row patch patch"]:
        """Which patches a prefix has, itself the newest."""
        return whole.new_ones(whole.shape[1], whole.shape[1]).tril_().expand(len(whole), -1, -1)


def give(
    shares: Float[Tensor, "scale batch position interest"],
    patches: Float[Tensor, "scale batch position dim"],
    scales: tuple[int, ...],
) -> Float[Tensor, "batch position interest dim"]:
    """For every prefix, the sum of its own patches of all scales, by the shares that each interest has of them."""
    if not patches.is_cuda:
        return _Given.apply(shares, patches, scales)
    products = (shares[..., None] * patches[..., None, :]).flatten(
        -2
    )  # a GPU takes them all at once
    return sum_prefixes(products, scales).unflatten(-1, (shares.shape[-1], patches.shape[-1]))


def information(
    allocation: Float[Tensor, "scale batch position interest"], mask: Bool[Tensor, "batch position"]
) -> Float[Tensor, ""]:
    r"""Mutual information of patches and interests, in nats: $H(\bar p) - \overline{H(p)}$, at most $\log K$. High when
    each patch belongs clearly to an interest and all interests are used."""
    shares = allocation.softmax(-1)[:, mask]
    whole = shares.mean((0, 1))
    return (shares * shares.clamp_min(1e-9).log()).sum(-1).mean() - (
        whole * whole.clamp_min(1e-9).log()
    ).sum()


class ClusterAttention(nn.Module):
    r"""Patches give themselves to their F nearest of K interest tokens: $u_k = \mathrm{LN}(T_k + W \frac{\sum_j A_{jk} v_j}{\sum_j A_{jk} + 1} + \sum_s x^s_t)$.

    The last term, the newest patch of every scale, is ours (`last_state`). Noise is drawn in training only; padding is
    left out of numerator and denominator. The sums run over the prefix's own patches, for every prefix at once.
    """

    def __init__(self, settings: Model):
        super().__init__()
        self.settings, self.temperature = settings, settings.temperature
        self.tokens = nn.Parameter(torch.randn(settings.num_interests, settings.dim) * 0.5)
        self.norms = nn.ModuleList([nn.LayerNorm(settings.dim) for _ in range(3)])
        self.query, self.key, self.value, self.out = (
            nn.Linear(settings.dim, settings.dim) for _ in range(4)
        )
        self.sharpness = (
            nn.Parameter(torch.tensor(5.0).log()) if settings.similarity == "cosine" else None
        )
        self.dropout = Dropout(settings.dropout)

    def anneal(self, progress: float) -> None:
        """The temperature of the assignment's noise, on a line from `temperature` to `final_temperature`, if there is one."""
        start, end = self.settings.temperature, self.settings.final_temperature
        self.temperature = start if end is None else start + progress * (end - start)

    def allocate(
        self, patches: Float[Tensor, "*group patch dim"]
    ) -> Float[Tensor, "*group patch interest"]:
        """Noise-free scores of each patch for each interest token: cosines times a learned sharpness, or scaled products
        (the public code), which start so near to each other that few patches ever choose."""
        key, query = self.key(patches), self.query(self.norms[1](self.tokens))
        if self.sharpness is None:
            return key @ query.T * self.settings.dim**-0.5
        return (
            key
            @ normalize(query, dim=-1).T
            * (
                self.sharpness.exp()
                / torch.linalg.vector_norm(key, dim=-1, keepdim=True).clamp_min(1e-12)
            )
        )

    def forward(
        self,
        x: Float[Tensor, "scale batch position dim"],
        mask: Bool[Tensor, "batch position"],
        scales: tuple[int, ...],
    ) -> tuple[
        Float[Tensor, "batch position interest dim"], Float[Tensor, "scale batch position interest"]
    ]:
        """The interests after every position; and each patch's noise-free scores for the tokens."""
        allocation, shares, patches = self._share(x, mask)
        return self._gather(
            give(shares, patches, scales), sum_prefixes(shares, scales), x.sum(0)
        ), allocation

    def newest(
        self,
        x: Float[Tensor, "batch patch dim"],
        mask: Bool[Tensor, "batch patch"],
        sizes: list[int],
    ) -> tuple[Float[Tensor, "batch interest dim"], Float[Tensor, "batch patch interest"]]:
        """The same after one prefix a row, from its own patches, `sizes` of them a scale, newest first."""
        allocation, shares, patches = self._share(x, mask)
        first = list(itertools.accumulate(sizes[:-1], initial=0))
        return self._gather(shares.mT @ patches, shares.sum(1), x[:, first].sum(1)), allocation

    def _share(
        self, x: Float[Tensor, "*group patch dim"], mask: Bool[Tensor, "*#group patch"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each patch's noise-free scores for the tokens, the shares it gives to each, and the patches, normalised."""
        settings, patches = self.settings, self.norms[0](x)
        allocation = self.allocate(patches)
        if settings.pooling == "cluster":
            shares = assign(
                allocation,
                settings.num_nearest,
                self.temperature,
                settings.assignment == "hard",
                self.training,
            )
        else:
            shares = (
                allocation.exp() if settings.pooling == "attention" else torch.ones_like(allocation)
            )
        return allocation, shares * mask[..., None].to(shares.dtype), patches

    def _gather(
        self,
        given: Float[Tensor, "*prefix interest dim"],
        count: Float[Tensor, "*prefix interest"],
        newest: Float[Tensor, "*prefix dim"],
    ) -> Float[Tensor, "*prefix interest dim"]:
        """The interests from the sums over patches. The values' map and that of their mean follow each other on sums, so both are
        taken once an interest, as one, instead of once a patch."""
        weight, bias, whole = (
            self.out.weight @ self.value.weight,
            self.out.weight @ self.value.bias,
            count[..., None] + 1,
        )
        mean = nn.functional.linear(given / whole, weight, self.out.bias) + (1 - 1 / whole) * bias
        interests = self.tokens + self.dropout(mean)
        return self.norms[2](
            interests + newest[..., None, :] if self.settings.last_state else interests
        )
