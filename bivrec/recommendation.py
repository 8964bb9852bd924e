"""Recommendation: the next-item loss over the full catalogue, for one interest or many, without keeping the scores."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CHUNK_CELLS = 1 << 20  # scores held at a time: 4 MB, so that they stay in a core's cache


class _InterestSoftmax(torch.autograd.Function):
    """Loss and its exact gradient in one pass over chunks of rows; no [rows, catalogue] tensor outlives its chunk."""

    @staticmethod
    def forward(ctx, interests, table, targets, largest, half):
        rows, num_interests, dim = interests.shape
        chunk = max(1, CHUNK_CELLS // (num_interests * len(table)))
        factor = torch.bfloat16 if half else table.dtype
        interests_grad, table_grad = torch.empty_like(interests), torch.zeros_like(table)
        left, right, loss = interests.to(factor), table.to(factor), interests.new_zeros(())
        for start in range(0, rows, chunk):
            part, target = left[start : start + chunk].reshape(-1, dim), targets[start : start + chunk]
            scores = (part @ right.T).view(len(target), num_interests, -1)
            if largest:
                scores = scores.masked_fill(scores < scores.amax(1, keepdim=True), float("-inf"))
            chances = torch.softmax(scores.flatten(1), 1, dtype=table.dtype).view(scores.shape)
            spot = target[:, None, None].expand(-1, num_interests, 1)
            hit = chances.gather(2, spot)
            total = hit.sum(1, keepdim=True).clamp_min(1e-30)
            loss -= total.log().sum()
            chances.scatter_(2, spot, hit - hit / total)
            chances = chances.view(-1, len(table)).to(factor)
            interests_grad[start : start + chunk] = (chances @ right).view(len(target), num_interests, dim)
            table_grad += chances.T @ part
        ctx.save_for_backward(interests_grad, table_grad)
        ctx.scale = 1 / max(1, rows)
        return loss * ctx.scale

    @staticmethod
    def backward(ctx, upstream):
        interests_grad, table_grad = ctx.saved_tensors
        return interests_grad * (upstream * ctx.scale), table_grad * (upstream * ctx.scale), None, None, None


def interest_softmax(
    interests: Float[Tensor, "row interest dim"],
    table: Float[Tensor, "catalogue dim"],
    targets: Int64[Tensor, "row"],
    largest: bool = False,
    half: bool = False,
) -> Float[Tensor, ""]:
    r"""Mean over rows of $-\log \sum_k e^{u_k \cdot e_y} / \sum_k \sum_i e^{u_k \cdot e_i}$, in nats.

    One interest gives the usual cross-entropy. With several it is the smooth form of the test's score, the maximum
    over interests; `largest` trains on that maximum itself, and the paper's code on the interest nearest to the target
    (`choose_interest`). `half` takes the matrix products in bfloat16, faster where the processor knows it.
    """
    return _InterestSoftmax.apply(interests.contiguous(), table, targets, largest, half)


def choose_interest(
    interests: Float[Tensor, "row interest dim"], table: Float[Tensor, "catalogue dim"], targets: Int64[Tensor, "row"]
) -> Float[Tensor, "row 1 dim"]:
    """The hard readout of ComiRec and of the authors' release: the interest with the largest product with the target."""
    nearest = torch.einsum("rkd,rd->rk", interests, table[targets]).argmax(1)
    return interests[torch.arange(len(interests)), nearest][:, None]


def score_catalogue(interests: Float[Tensor, "row interest dim"], table: Float[Tensor, "catalogue dim"]) -> Float[Tensor, "row catalogue"]:
    """An item's score is its largest product with any interest."""
    return torch.einsum("rkd,nd->rkn", interests, table).amax(1)


def recommendations(interests: Float[Tensor, "row interest dim"], table: Float[Tensor, "catalogue dim"]) -> Float[Tensor, "row catalogue"]:
    """The chance of each item that `interest_softmax` trains, in logarithms (nats)."""
    scores = torch.einsum("rkd,nd->rkn", interests, table)
    return scores.flatten(1).softmax(1).view(scores.shape).sum(1).clamp_min(1e-12).log()


def combine(views: dict[str, Float[Tensor, "row catalogue"]], combination: str, multimodal_share: float) -> Float[Tensor, "row catalogue"]:
    """Both views' scores as one: log-softmaxes, or scores in standard deviations over the catalogue, added by share."""
    shares = {"id": 2 * (1 - multimodal_share), "multimodal": 2 * multimodal_share}
    if combination == "log_softmax":
        return sum(shares[view] * scores.log_softmax(-1) for view, scores in views.items())
    return sum(shares[view] * (scores - scores.mean(-1, keepdim=True)) / scores.std(-1, keepdim=True) for view, scores in views.items())
