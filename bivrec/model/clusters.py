"""Intra-view interest decomposition, second half: Cluster attention into K interests."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from bivrec.model.embedding import PatchLayout
from bivrec.settings import Model


def assign(
    logits: Float[Tensor, "*group interest"],
    num_nearest: int,
    temperature: float,
    hard: bool,
    noisy: bool,
) -> Float[Tensor, "*group interest"]:
    r"""Gumbel-softmax over interests: $\tilde A = \mathrm{softmax}((\ell + g) / \tau)$.

    `hard` keeps the F nearest interests as ones and passes the gradient of $\tilde A$ straight
    through: $A = \mathrm{top}_F(\ell + g) - \mathrm{sg}(\tilde A) + \tilde A$; at a low temperature
    most of $\tilde A$ is 0, where nothing is nearest. `noisy` draws $g = -\log E$, E exponential;
    otherwise g is 0.
    """
    if noisy:
        logits = logits - torch.empty_like(logits).exponential_().clamp_min(1e-20).log()
    soft = (logits / temperature).softmax(-1)
    if not hard:
        return soft
    nearest = torch.zeros_like(soft).scatter_(-1, logits.topk(num_nearest, -1).indices, 1.0)
    return nearest - soft.detach() + soft


def sum_over_prefixes(
    x: Float[Tensor, "batch residue patch *rest"],
) -> Float[Tensor, "batch residue patch *rest"]:
    """For the prefix that ends with each patch, the sum over the patches of that prefix."""
    owned = x.new_ones(x.shape[2], x.shape[2]).tril()
    return (owned @ x.flatten(3)).view(x.shape)


def newest_owned(
    shares: Float[Tensor, "batch residue patch interest"],
    x: Float[Tensor, "batch residue patch dim"],
) -> Float[Tensor, "batch residue patch interest dim"]:
    r"""The newest patch that each interest owns: $n_t = A_t x_t + (1 - A_t)\, n_{t-1}$."""
    ones = shares.new_ones(shares.shape[2], shares.shape[2])
    left = (1 - ones.triu(1)[..., None] * shares[:, :, None]).cumprod(3)  # of patch j at prefix t
    weights = ones.triu()[..., None] * left * shares[:, :, :, None]
    return torch.einsum("brjtk,brjd->brtkd", weights, x)


class ClusterAttention(nn.Module):
    r"""Each patch gives its value to the F nearest of K learned tokens, one token per interest.

    $u_k = \mathrm{LN}\big(T_k + W \frac{\sum_j A_{jk} v_j}{1 + \sum_j A_{jk}}
    + \sum_s A^s_{tk} x^s_t\big)$,

    summed over the patches of the prefix, at all scales. Ours: the last term, the newest
    patch of every scale for the interests that own it (`newest: owners`; with `per_interest`, the
    newest patch that each interest owns), and cosine similarity. Padding contributes nothing; noise
    is drawn in training only.
    """

    def __init__(self, settings: Model):
        super().__init__()
        self.settings, self.temperature = settings, settings.temperature
        dim = settings.dim
        self.tokens = nn.Parameter(torch.randn(settings.num_interests, dim) * 0.5)
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(3)])
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        cosine = settings.similarity == "cosine"
        self.sharpness = nn.Parameter(torch.tensor(5.0).log()) if cosine else None
        self.dropout = nn.Dropout(settings.dropout)

    def anneal(self, progress: float) -> None:
        """Moves the temperature linearly to `final_temperature`, where that is set."""
        start, end = self.settings.temperature, self.settings.final_temperature
        self.temperature = start if end is None else start + progress * (end - start)

    def compare(
        self, patches: Float[Tensor, "batch patch dim"]
    ) -> Float[Tensor, "batch patch interest"]:
        """Noise-free logits of patches and tokens: cosine times a learned sharpness, or `dot`.

        `dot`, the scaled product of the public code, starts with logits too close together to
        separate the interests.
        """
        key, query = self.key(patches), self.query(self.norms[1](self.tokens))
        if self.sharpness is None:
            return key @ query.T * self.settings.dim**-0.5
        return self.sharpness.exp() * normalize(key, dim=-1) @ normalize(query, dim=-1).T

    def allocate(
        self, logits: Float[Tensor, "batch patch interest"]
    ) -> Float[Tensor, "batch patch interest"]:
        """A, the share of each patch that each interest receives; the ablations share with all."""
        settings = self.settings
        if settings.pooling == "attention":
            return logits.exp()
        if settings.pooling == "mean":
            return torch.ones_like(logits)
        hard = settings.assignment == "hard"
        return assign(logits, settings.num_nearest, self.temperature, hard, noisy=self.training)

    def pool_patches(
        self,
        shares: Float[Tensor, "batch patch interest"],
        values: Float[Tensor, "batch patch dim"],
        layout: PatchLayout,
    ) -> Float[Tensor, "batch prefix interest dim"]:
        r"""$\sum_j A_{jk} v_j \,/\, (1 + \sum_j A_{jk})$ over the patches of each prefix."""
        total, count = 0, 0
        for share, value in zip(layout.split(shares), layout.split(values)):
            weighted = share[..., None] * value[..., None, :]  # batch residue patch interest dim
            total = total + layout.at_prefixes(sum_over_prefixes(weighted))
            count = count + layout.at_prefixes(sum_over_prefixes(share))
        return total / (1 + count[..., None])

    def forward(
        self, x: Float[Tensor, "batch patch dim"], layout: PatchLayout
    ) -> tuple[Float[Tensor, "batch prefix interest dim"], Float[Tensor, "batch patch interest"]]:
        """The interests after every prefix of the layout, and each patch's noise-free logits."""
        patches = self.norms[0](x)
        logits = self.compare(patches)
        shares = self.allocate(logits) * layout.mask[..., None].to(x.dtype)
        pooled = self.pool_patches(shares, self.value(patches), layout)
        interests = self.tokens + self.dropout(self.out(pooled))
        if self.settings.newest != "none":
            all_own = self.settings.newest == "all" or self.settings.pooling != "cluster"
            owned = torch.ones_like(shares) if all_own else shares
            interests = interests + self.newest_patches(owned, x, layout)
        return self.norms[2](interests), logits

    def newest_patches(
        self,
        shares: Float[Tensor, "batch patch interest"],
        x: Float[Tensor, "batch patch dim"],
        layout: PatchLayout,
    ) -> Float[Tensor, "batch prefix interest dim"]:
        r"""$\sum_s A^s_{tk} x^s_t$: each prefix's newest patches, to the interests they go to; or
        the newest patches that each interest owns (`per_interest`)."""
        scales = zip(layout.split(shares), layout.split(x))
        if self.settings.newest == "per_interest":
            return sum(layout.at_prefixes(newest_owned(*scale)) for scale in scales)
        return sum(
            layout.at_prefixes(share)[..., None] * layout.at_prefixes(part)[:, :, None]
            for share, part in scales
        )


def mutual_information(
    logits: Float[Tensor, "batch patch interest"], mask: Bool[Tensor, "batch patch"]
) -> Float[Tensor, ""]:
    r"""$H(\bar p) - \overline{H(p_j)}$ of a row's patches and interests, mean over rows (ours).

    In nats, at most $\log K$. It is high when each patch clearly belongs to one interest and each
    history uses all interests.
    """
    weights = mask / mask.sum(1, keepdim=True).clamp_min(1)  # batch patch
    shares = logits.softmax(-1)
    mean = (shares * weights[..., None]).sum(1)  # batch interest
    of_mean, of_patches = (-(x * x.clamp_min(1e-9).log()).sum(-1) for x in (mean, shares))
    return (of_mean - (of_patches * weights).sum(1)).mean()
