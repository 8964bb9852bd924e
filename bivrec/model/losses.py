"""Recommendation: the next-item loss over the full catalogue, for one interest or many, without keeping the scores."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bivrec.training.distributed import alike

CHUNK_CELLS = {
    "cpu": 1 << 18,
    "cuda": 1 << 26,
}  # scores held at a time: few enough for a core's cache, enough for all of a GPU;

CELLS_PER_NUMBER = 2  # or this many a number of the table, where that is more: rows enough for each reading of the table

WIDEST = 8  # a catalogue of which as many are fewer than the interests that whole rows of scores hold is read in tiles

TILE = 1024  # interests in a tile of scores, which then has as many items as leave it in the cache

LARGEST_POWER = (
    100.0  # of 2 that a score may reach before rows are shifted; sums over a catalogue stay finite
)

GROUP = 4096  # interests that attend to the catalogue together on a GPU: a small catalogue too keeps all of it at work


class _InterestSoftmax(torch.autograd.Function):
    """Loss and its exact gradient in one pass over chunks of rows; no [rows, catalogue] tensor outlives its chunk. A catalogue too
    large for that is read in blocks, and its scores twice: once for the rows' sums, once for the gradients.

    With $E = 2^{s \\log_2 e}$ the gradient is $E / Z$ less the target's share: $Z$ divides the small products $E \\cdot$ table
    and $E^T \\cdot$ interests instead of $E$, the target is taken off them, and powers of 2 are cheaper than those of e. A
    row is shifted by its largest score only where a product that the norms allow could overflow. With a sampled
    catalogue the target is left out of what was drawn and counted by itself, and each other item stands for `weight` items.
    """

    @staticmethod
    def forward(ctx, interests, table, targets, largest, kind, drawn, num_items):
        rows, num_interests, dim = interests.shape
        wanted = table[targets][:, None]
        left, right = (
            (interests * math.log2(math.e)).to(kind),
            (table if drawn is None else table[drawn]).to(kind),
        )
        shifted = rows > 0 and (
            left.is_cuda
            or bool(left.float().norm(dim=-1).amax() * table.norm(dim=-1).amax() > LARGEST_POWER)
        )  # a GPU is not waited for
        own = (interests * wanted).sum(-1)
        if largest:
            own = own.masked_fill(own < own.amax(1, keepdim=True), float("-inf"))
        weight = interests.new_ones(rows)
        if drawn is not None:
            place = targets.new_full((len(table),), -1).scatter_(
                0, drawn, torch.arange(len(drawn), device=drawn.device)
            )[targets]
            weight = (num_items - 1) / (len(drawn) - (place >= 0).to(table.dtype))
        shares, total, shift = (
            own.softmax(1)[..., None],
            interests.new_zeros(rows),
            interests.new_zeros(rows),
        )
        interests_grad, right_grad = torch.zeros_like(interests), table.new_zeros(right.shape)
        cells = CHUNK_CELLS[left.device.type]
        if WIDEST * len(right) > cells:
            chunk, size = max(1, TILE // num_interests), max(1, cells // TILE)
        else:
            chunk, size = (
                max(
                    1, max(cells, CELLS_PER_NUMBER * right.numel()) // (num_interests * len(right))
                ),
                len(right),
            )
        chunk = max(1, min(rows, chunk))
        held, across = (_apart(left, length, size) for length in (chunk * num_interests, dim))
        blocks = [
            slice(start, min(start + size, len(right))) for start in range(0, len(right), size)
        ]

        def read(here: slice, block: slice) -> tuple[Tensor, Tensor]:
            """Scores of a block of the catalogue, by rows, and as the matrix that they are."""
            columns = across[:, : block.stop - block.start]
            if len(blocks) > 1 or not here.start:
                columns.copy_(right[block].T)
            flat = torch.mm(
                left[here].flatten(0, 1),
                columns,
                out=held[: (here.stop - here.start) * num_interests, : columns.shape[1]],
            )
            return flat.view(-1, num_interests, columns.shape[1]), flat

        def raise_to_powers(scores: Tensor, here: slice, block: slice) -> None:
            """In place, with noughts for interests that are not the largest and for a row's target."""
            if shifted:
                scores -= shift[here, None, None].to(kind)
            scores.exp2_()
            if largest:
                scores.masked_fill_(scores < scores.amax(1, keepdim=True), 0)
            if drawn is not None:
                hit = ((place[here] >= block.start) & (place[here] < block.stop)).nonzero()[:, 0]
                scores[hit, :, place[here][hit] - block.start] = 0

        for start in range(0, rows, chunk):
            here = slice(start, min(start + chunk, rows))
            if shifted:
                shift[here] = own[here].amax(1) * math.log2(math.e)
            for block in blocks:
                scores, powers = read(here, block)
                if shifted:
                    higher = torch.maximum(scores.amax((1, 2)).to(shift.dtype), shift[here])
                    total[here] *= (shift[here] - higher).exp2()
                    shift[here] = higher
                raise_to_powers(scores, here, block)
                total[here] += scores.sum((1, 2), dtype=total.dtype)
            total[here] *= weight[here]
            if drawn is not None:
                total[here] += (own[here] * math.log2(math.e) - shift[here, None]).exp2().sum(1)
            per_item = (total[here] / weight[here])[:, None, None]
            part = (interests[here] / per_item).flatten(0, 1)
            for block in blocks:
                if len(blocks) > 1:
                    scores, powers = read(here, block)
                    raise_to_powers(scores, here, block)
                interests_grad[here] += (powers @ right[block]).view(-1, num_interests, dim)
                if kind == table.dtype:
                    right_grad[block].addmm_(powers.T, part)
                else:
                    right_grad[block] += powers.T @ part.to(kind)
            interests_grad[here] /= per_item
        if drawn is None:
            table_grad = right_grad
        else:
            table_grad = torch.zeros_like(table).index_add_(0, drawn, right_grad)
            shares = (
                shares
                - ((own * math.log2(math.e) - shift[:, None]).exp2() / total[:, None])[..., None]
            )
        interests_grad -= shares * wanted
        table_grad.index_add_(0, targets, (shares * interests).sum(1), alpha=-1)
        ctx.save_for_backward(interests_grad, table_grad)
        ctx.scale = 1 / max(1, rows)
        return (total.log() + shift * math.log(2) - own.logsumexp(1)).sum() * ctx.scale

    @staticmethod
    def backward(ctx, upstream):
        interests_grad, table_grad = (
            grad.mul_(upstream * ctx.scale) for grad in ctx.saved_tensors
        )  # in place: a large table's is not held twice
        return interests_grad, table_grad, None, None, None, None, None


def _apart(like: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """An empty matrix for products over the catalogue. In float32 its rows lie an odd number of cache lines apart: each starts
    with one, and no two of them far apart share a place in the cache, whatever the number of items."""
    return like.new_empty(
        num_rows, (-(-num_columns // 16) | 1) * 16 if like.dtype == torch.float32 else num_columns
    )[:, :num_columns]


class _CatalogueAttention(torch.autograd.Function):
    """The same on a GPU, by PyTorch's fused attention, which holds no scores in memory at all: interests attend to the catalogue.

    What the kernel gives beside its output is $\\log Z$ of each interest, and the output, a mean of items, is that number's
    gradient. The table's is what the kernel takes back to its values when their upstream gradient is the interests themselves,
    each by its part of the row's $Z$ (that to queries and keys is not asked for).
    """

    @staticmethod
    def forward(ctx, interests, table, targets, kind):
        rows, num_interests, dim = interests.shape
        wanted = table[targets][:, None]
        own = (interests * wanted).sum(-1)
        shares = own.softmax(1)[..., None]

        def grouped(x: Tensor) -> Tensor:
            flat = x.flatten(0, 1).to(kind)
            return torch.nn.functional.pad(flat, (0, 0, 0, -len(flat) % GROUP)).view(
                -1, 1, GROUP, dim
            )

        query = grouped(interests)
        key = table.to(kind).expand(len(query), 1, -1, -1)
        taken, logs, take_back = _attend(query, key)
        logs = logs.flatten()[: rows * num_interests].view(rows, num_interests)
        total = logs.logsumexp(1)
        part = (logs - total[:, None]).exp()[..., None]
        interests_grad = (
            taken.flatten(0, 2)[: rows * num_interests].view(interests.shape) * part
            - shares * wanted
        )
        table_grad = take_back(grouped(part * interests)).sum((0, 1), dtype=table.dtype)
        table_grad.index_add_(0, targets, (shares * interests).sum(1), alpha=-1)
        ctx.save_for_backward(interests_grad, table_grad)
        ctx.scale = 1 / max(1, rows)
        return (total - own.logsumexp(1)).sum() * ctx.scale

    @staticmethod
    def backward(ctx, upstream):
        interests_grad, table_grad = ctx.saved_tensors
        return (
            interests_grad * (upstream * ctx.scale),
            table_grad * (upstream * ctx.scale),
            None,
            None,
        )


def _attend(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Callable]:
    """Attention whose values are its keys, the logarithms of its sums, and the way back from the output's gradient to the values'."""
    kernels, exact = torch.ops.aten, {"scale": 1.0}
    if not query.is_cuda:
        out, logs = kernels._scaled_dot_product_flash_attention_for_cpu(query, key, key, **exact)
        back = kernels._scaled_dot_product_flash_attention_for_cpu_backward
        return (
            out,
            logs,
            lambda upstream: back(upstream, query, key, key, out, logs, 0.0, False, **exact)[2],
        )
    out, logs, *context, seed, offset, _ = kernels._scaled_dot_product_flash_attention(
        query, key, key, **exact
    )
    back = kernels._scaled_dot_product_flash_attention_backward
    return (
        out,
        logs,
        lambda upstream: back(
            upstream, query, key, key, out, logs, *context, 0.0, False, seed, offset, **exact
        )[2],
    )


def knows_bfloat16() -> bool:
    """Whether the GPU, or where there is none the processor, multiplies bfloat16 by itself; such a GPU has fused attention too."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def catalogue_type(precision: str) -> torch.dtype:
    """The type in which matrix products over the catalogue are taken: what is named, or under `auto` bfloat16 where the
    processor multiplies it by itself (twice as fast) and float32 elsewhere (where bfloat16 would be emulated)."""
    if precision == "auto":
        precision = "bfloat16" if knows_bfloat16() else "float32"
    return getattr(torch, precision)


def interest_softmax(
    interests: Float[Tensor, "row interest dim"],
    table: Float[Tensor, "catalogue dim"],
    targets: Int64[Tensor, "row"],
    largest: bool = False,
    kind: torch.dtype = torch.float32,
    drawn: Int64[Tensor, "drawn"] | None = None,
    num_items: int | None = None,
) -> Float[Tensor, ""]:
    r"""Mean over rows of $-\log \sum_k e^{u_k \cdot e_y} / \sum_k \sum_i e^{u_k \cdot e_i}$, in nats.

    One interest gives the usual cross-entropy. With several it is the smooth form of the test's score, the maximum
    over interests; `largest` trains on that maximum itself, and the paper's code on the interest nearest to the target
    (`choose_interest`). `kind` is the type in which the products over the catalogue are taken (`catalogue_type`).
    `drawn`: a sampled softmax; these items, drawn alike from the whole catalogue and none twice, stand for all (their
    chance of being drawn is what logQ corrects for), which makes the denominator right in the mean; of a catalogue of
    `num_items`, where the table holds only some of it.
    """
    fused = (
        interests.is_cuda
        and kind == torch.bfloat16
        and knows_bfloat16()
        and interests.shape[-1] % 8 == 0
    )
    if fused and drawn is None and not largest and len(interests):
        return _CatalogueAttention.apply(interests, table, targets, kind)
    return _InterestSoftmax.apply(
        interests.contiguous(), table, targets, largest, kind, drawn, num_items or len(table)
    )


def draw_items(
    num_items: int, num_negatives: int, device: torch.device
) -> Int64[Tensor, "drawn"] | None:
    """The items of a step's sampled softmax; None for the full one."""
    return (
        alike(torch.randperm(num_items, device=device)[:num_negatives])
        if 0 < num_negatives < num_items
        else None
    )


def choose_interest(
    interests: Float[Tensor, "row interest dim"],
    table: Float[Tensor, "catalogue dim"],
    targets: Int64[Tensor, "row"],
) -> Float[Tensor, "row 1 dim"]:
    """The hard readout of ComiRec and of the authors' release: the interest with the largest product with the target."""
    nearest = torch.einsum("rkd,rd->rk", interests, table[targets]).argmax(1)
    return interests[torch.arange(len(interests)), nearest][:, None]


def score_catalogue(
    interests: Float[Tensor, "row interest dim"], table: Float[Tensor, "catalogue dim"]
) -> Float[Tensor, "row catalogue"]:
    """An item's score is its largest product with any interest."""
    aligned = torch.nn.functional.pad(
        table, (0, 0, 0, -len(table) % 16)
    )  # products whose rows begin with a cache line are taken faster
    scores = (interests @ aligned.T)[..., : len(table)]
    return scores[:, 0] if scores.shape[1] == 1 else scores.amax(1)


def recommendations(
    interests: Float[Tensor, "row interest dim"], table: Float[Tensor, "catalogue dim"]
) -> Float[Tensor, "row catalogue"]:
    """The chance of each item that `interest_softmax` trains, in logarithms (nats)."""
    scores = interests @ table.T
    return scores.flatten(1).softmax(1).view(scores.shape).sum(1).clamp_min(1e-12).log()


def combine(
    views: dict[str, Float[Tensor, "row catalogue"]], combination: str, multimodal_share: float
) -> Float[Tensor, "row catalogue"]:
    """Both views' scores as one: log-softmaxes, or scores in standard deviations over the catalogue, added by share."""
    shares = {"id": 2 * (1 - multimodal_share), "multimodal": 2 * multimodal_share}
    if combination == "log_softmax":
        return sum(shares[view] * scores.log_softmax(-1) for view, scores in views.items())
    return sum(
        shares[view] * (scores - scores.mean(-1, keepdim=True)) / scores.std(-1, keepdim=True)
        for view, scores in views.items()
    )
