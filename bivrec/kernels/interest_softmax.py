"""The recommendation loss without a tensor of rows by catalogue.

The fast form of `losses.interest_softmax`: value and gradient are computed in one pass over chunks
of rows, so the scores of a chunk stay in the processor's cache and memory does not grow with rows
times catalogue.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bivrec.kernels.catalogue_attention import catalogue_softmax, is_supported
from bivrec.model import losses

CHUNK_CELLS = {"cpu": 1 << 18, "cuda": 1 << 26}  # scores held at a time
CELLS_PER_ENTRY = 2  # minimum scores per table entry, to amortise each pass over the table
LARGEST_POWER = 100.0  # power of 2 up to which sums over a catalogue stay finite unshifted
LOG2_E = math.log2(math.e)


def chunk_rows(table: Tensor, num_interests: int, cells: int | None = None) -> int:
    """How many rows' scores are held at a time."""
    cells = cells or max(CHUNK_CELLS[table.device.type], CELLS_PER_ENTRY * table.numel())
    return max(1, cells // (num_interests * len(table)))


class InterestSoftmax(torch.autograd.Function):
    r"""Loss and gradient of `losses.interest_softmax` over the full catalogue.

    With $E = 2^{s \log_2 e}$ the gradient is $E / Z$ less the target's share. $Z$ divides the small
    products $E \cdot$ table and $E^T \cdot$ interests instead of $E$, and powers of 2 are cheaper
    than powers of e. Rows are shifted by their largest score only where the norms admit overflow.
    """

    @staticmethod
    def forward(ctx, interests, table, targets, dtype, cells):
        num_rows, num_interests, dim = interests.shape
        queries, items = (interests * LOG2_E).to(dtype), table.to(dtype)
        bound = queries.float().norm(dim=-1).amax() * table.norm(dim=-1).amax() if num_rows else 0
        shifted = interests.is_cuda or bool(bound > LARGEST_POWER)  # on a GPU always: no sync
        interests_grad, table_grad = torch.empty_like(interests), torch.zeros_like(table)
        log_total, size = interests.new_empty(num_rows), chunk_rows(table, num_interests, cells)
        across = items.T.contiguous()
        for start in range(0, num_rows, size):
            rows = slice(start, start + size)
            scores = (queries[rows].flatten(0, 1) @ across).view(-1, num_interests, len(items))
            shift = scores.amax((1, 2)) if shifted else 0
            powers = (scores - shift[:, None, None] if shifted else scores).exp2_()
            total = powers.sum((1, 2), dtype=table.dtype)
            log_total[rows] = (total.log2() + shift) / LOG2_E
            powers, total = powers.flatten(0, 1), total[:, None, None]
            interests_grad[rows] = (powers @ items).view(-1, num_interests, dim) / total
            share = (interests[rows] / total).flatten(0, 1).to(dtype)
            if dtype == table.dtype:
                table_grad.addmm_(powers.T, share)
            else:
                table_grad += powers.T @ share
        wanted = table[targets][:, None]
        target_scores = (interests * wanted).sum(-1)
        shares = target_scores.softmax(1)[..., None]
        interests_grad -= shares * wanted
        table_grad.index_add_(0, targets, (shares * interests).sum(1), alpha=-1)
        ctx.save_for_backward(interests_grad, table_grad)
        ctx.scale = 1 / max(1, num_rows)
        return (log_total - target_scores.logsumexp(1)).sum() * ctx.scale

    @staticmethod
    def backward(ctx, upstream):
        # In place: the gradient of a large catalogue is not held twice.
        interests_grad, table_grad = (x.mul_(upstream * ctx.scale) for x in ctx.saved_tensors)
        return interests_grad, table_grad, None, None, None


def interest_softmax(
    interests: Float[Tensor, "row interest dim"],
    table: Float[Tensor, "catalogue dim"],
    targets: Int64[Tensor, "row"],
    negatives: Int64[Tensor, "negative"] | None = None,
    dtype: torch.dtype = torch.float32,
    cells: int | None = None,
) -> Float[Tensor, ""]:
    """As `losses.interest_softmax`; `dtype` is that of the products over the catalogue.

    A sampled softmax is small enough for the reference form. On a GPU with native bfloat16 the
    catalogue's fused attention takes over. `cells` sets the scores held at a time (tests).
    """
    if negatives is not None:
        return losses.interest_softmax(interests, table, targets, negatives)
    if len(interests) and is_supported(interests, dtype):
        return catalogue_softmax(interests, table, targets, dtype)
    return InterestSoftmax.apply(interests.contiguous(), table, targets, dtype, cells)
