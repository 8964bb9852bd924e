"""The losses, in the paper's order: recommendation, coarse, fine; and ours. All in nats."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def interest_softmax(
    interests: Float[Tensor, "row interest dim"],
    table: Float[Tensor, "catalogue dim"],
    targets: Int64[Tensor, "row"],
    negatives: Int64[Tensor, "negative"] | None = None,
) -> Float[Tensor, ""]:
    r"""Mean over rows of $-\log \sum_k e^{u_k \cdot e_y} / \sum_k \sum_i e^{u_k \cdot e_i}$.

    One interest gives the usual cross-entropy over the catalogue. `negatives` are distinct items
    sampled uniformly from the catalogue that stand for the rest of it (a sampled softmax).
    """
    target_scores = torch.einsum("rkd,rd->rk", interests, table[targets]).logsumexp(1)
    if negatives is None:
        log_total = (interests @ table.T).flatten(1).logsumexp(1)
        return (log_total - target_scores).mean()
    hit = negatives == targets[:, None]  # a target counts once, as itself
    scores = (interests @ table[negatives].T).masked_fill(hit[:, None], -torch.inf)
    weight = (len(table) - 1) / (len(negatives) - hit.sum(1))
    log_rest = scores.flatten(1).logsumexp(1) + weight.log()
    return (torch.logaddexp(log_rest, target_scores) - target_scores).mean()


def choose_interest(
    interests: Float[Tensor, "row interest dim"],
    table: Float[Tensor, "catalogue dim"],
    targets: Int64[Tensor, "row"],
) -> Float[Tensor, "row 1 dim"]:
    """The interest nearest to the target: the hard readout of ComiRec and of the public code."""
    nearest = torch.einsum("rkd,rd->rk", interests, table[targets]).argmax(1)
    return interests[torch.arange(len(interests)), nearest][:, None]


def read_out(
    scores: Float[Tensor, "row interest catalogue"], readout: str
) -> Float[Tensor, "row catalogue"]:
    r"""$\mathrm{score}(i) = \log \sum_k \exp(u_k \cdot e_i)$, as `interest_softmax` trains it.

    Under the hard readout, $\max_k u_k \cdot e_i$: ComiRec's retrieval and the public code's.
    """
    return scores.amax(1) if readout == "hard" else scores.logsumexp(1)


def combine(views: dict[str, Float[Tensor, "row catalogue"]]) -> Float[Tensor, "row catalogue"]:
    """The score of both views together: the sum of their log-softmaxes."""
    return sum(scores.log_softmax(-1) for scores in views.values())


def info_nce(
    a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"], temperature: float
) -> Float[Tensor, ""]:
    r"""Symmetric InfoNCE of cosines: row i of one side against all rows of the other.

    The coarse loss takes it between the views' whole interests of the same user.
    """
    similarity = normalize(a, dim=-1) @ normalize(b, dim=-1).T / temperature
    positive = torch.arange(len(a), device=a.device)
    return (cross_entropy(similarity, positive) + cross_entropy(similarity.T, positive)) / 2


def allocation_divergence(
    a: Float[Tensor, "batch patch interest"],
    b: Float[Tensor, "batch patch interest"],
    mask: Bool[Tensor, "batch patch"],
) -> Float[Tensor, ""]:
    r"""The fine loss: symmetric KL between two views' noise-free allocations of the same patch.

    $\frac12 \sum_k (\alpha_k - \beta_k)(\log \alpha_k - \log \beta_k)$, averaged over patches. The
    form is our reconstruction: the paper says only "similarity of interest allocation".
    """
    log_a, log_b = a[mask].log_softmax(-1), b[mask].log_softmax(-1)
    return ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum(-1).mean() / 2


def log_recommendations(
    interests: Float[Tensor, "row interest dim"], table: Float[Tensor, "catalogue dim"]
) -> Float[Tensor, "row catalogue"]:
    """The log-probability of each item under the model that `interest_softmax` trains."""
    return (interests @ table.T).logsumexp(1).log_softmax(-1)


def mutual_learning(
    interests: Sequence[Float[Tensor, "row interest dim"]],
    tables: Sequence[Float[Tensor, "catalogue dim"]],
    learners: Sequence[int] = (0, 1),
) -> Float[Tensor, ""]:
    r"""$\sum_{\text{learner}} \mathrm{KL}(p^{\text{teacher}} \Vert p^{\text{learner}})$ (ours).

    Each of the two views in `learners` learns from what the other recommends, which is held fixed.
    """
    log_p = [log_recommendations(*view) for view in zip(interests, tables)]
    loss = 0
    for learner in learners:
        teacher = log_p[1 - learner].detach()
        loss = loss + (teacher.exp() * (teacher - log_p[learner])).sum(1).mean()
    return loss
