"""Cross-view interest learning: whole interests alike (coarse), and patches allocated alike (fine)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from bivrec.model.losses import CHUNK_CELLS, LARGEST_POWER, interest_softmax
from bivrec.settings import CrossView


class _BothSoftmaxes(torch.autograd.Function):
    """The mean of two cross-entropies, of rows among columns and of columns among rows, and the exact gradient: similarities and
    their exponentials serve both directions, and are computed twice, in chunks of rows that stay in the cache, but never kept."""

    @staticmethod
    def forward(ctx, a, b):
        left, num_rows = a * math.log2(math.e), max(1, CHUNK_CELLS[a.device.type] // len(b))
        chunks = [
            slice(start, min(start + num_rows, len(a))) for start in range(0, len(a), num_rows)
        ]
        held, rows, columns = (
            a.new_empty(num_rows, len(b)),
            a.new_empty(len(a)),
            b.new_zeros(len(b)),
        )

        def powers(here: slice) -> Tensor:
            return torch.mm(left[here], b.T, out=held[: here.stop - here.start]).exp2_()

        for here in chunks:
            part = powers(here)
            rows[here] = part.sum(1)
            columns += part.sum(0)
        a_grad, b_grad, by_row, by_column = torch.empty_like(a), -a, 1 / rows[:, None], 1 / columns
        for here in chunks:
            part = powers(here).mul_((by_row[here] + by_column) / 2)
            torch.mm(part, b, out=a_grad[here])
            b_grad.addmm_(part.T, a[here])
        ctx.save_for_backward(a_grad - b, b_grad)
        return ((rows.log() + columns.log()) / 2 - (a * b).sum(1)).mean()

    @staticmethod
    def backward(ctx, upstream):
        return tuple(part * (upstream / len(part)) for part in ctx.saved_tensors)


def info_nce(
    a: Float[Tensor, "batch dim"], b: Float[Tensor, "batch dim"], temperature: float
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE in nats: row i of one view against all rows of the other, its own row the positive."""
    a, b = normalize(a, dim=-1) / temperature, normalize(b, dim=-1)
    if math.log2(math.e) / temperature <= LARGEST_POWER and len(a):
        return _BothSoftmaxes.apply(a, b)
    own = torch.arange(len(a), device=a.device)
    return (interest_softmax(a[:, None], b, own) + interest_softmax(b[:, None], a, own)) / 2


def allocation_difference(
    a: Float[Tensor, "scale batch position interest"],
    b: Float[Tensor, "scale batch position interest"],
    mask: Bool[Tensor, "batch position"],
    form: str,
) -> Float[Tensor, ""]:
    """How differently two views allocate the same patches, from noise-free scores; 0 when they agree.

    kl: symmetric KL between a patch's two distributions over interests, in nats; mse: their mean squared difference;
    co_assignment: mean squared difference of "these two patches go together", blind to how interests are numbered.
    The form is our reconstruction: the paper names only "interest allocation similarity".
    """
    if form == "kl":
        log_a, log_b = a.log_softmax(-1), b.log_softmax(-1)
        return ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum(-1)[:, mask].mean() / 2
    a, b = a.softmax(-1), b.softmax(-1)
    if form == "mse":
        return (a - b).square().mean(-1)[:, mask].mean()
    together = (a @ a.transpose(-1, -2) - b @ b.transpose(-1, -2)).square()
    return together[:, mask[:, :, None] & mask[:, None, :]].mean()


class _MutualLearning(torch.autograd.Function):
    """The learners' divergences and the exact gradient, a block of the catalogue at a time: nothing is kept that has a number for
    each row and item. Of the divergence of b from a, the gradient to a's score of an item with an interest is the share of that
    interest in the item's chance, times the chance in a less that in b."""

    @staticmethod
    def forward(ctx, learners, *views):
        tables, rows, num_interests = views[1::2], len(views[0]), views[0].shape[1]
        flat = [interests.flatten(0, 1) for interests in views[::2]]
        size = max(1, CHUNK_CELLS[flat[0].device.type] // max(1, len(flat[0])))
        blocks = [slice(start, start + size) for start in range(0, len(tables[0]), size)]
        loss, grads = (
            flat[0].new_zeros(()),
            [
                torch.zeros_like(part) if place % 2 in learners else None
                for place, part in enumerate((*flat, *tables))
            ],
        )

        def read(view: int, here: slice) -> tuple[Tensor, Tensor, Tensor]:
            """Powers of an item's scores over that of its largest, their sum, and its logarithm with that of the largest; all of 2."""
            scores = ((flat[view] * math.log2(math.e)) @ tables[view][here].T).view(
                rows, num_interests, -1
            )
            largest = scores.amax(1)
            powers = scores.sub_(largest[:, None]).exp2_()
            total = powers.sum(1)
            return powers, total, largest + total.log2()

        whole = [[], []]
        for here in blocks:
            found = [read(view, here) for view in (0, 1)]
            for log, (_, _, items) in zip(whole, found):
                log.append((items * math.log(2)).logsumexp(1))
        whole = [torch.stack(parts, 1).logsumexp(1) / math.log(2) for parts in whole]
        for here in blocks:
            found = found if len(blocks) == 1 else [read(view, here) for view in (0, 1)]
            logs = [items - log[:, None] for (_, _, items), log in zip(found, whole)]
            chances = [part.exp2() for part in logs]
            for learner in learners:
                teacher = 1 - learner
                loss += (chances[teacher] * (logs[teacher] - logs[learner])).sum() * (
                    math.log(2) / max(1, rows)
                )
                powers, total, _ = found[learner]
                apart = (chances[learner] - chances[teacher]).div_(total).div_(max(1, rows))
                grad = powers.mul_(apart[:, None]).flatten(0, 1)
                grads[learner].addmm_(grad, tables[learner][here])
                torch.mm(grad.T, flat[learner], out=grads[2 + learner][here])
        ctx.shape = views[0].shape
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    def backward(ctx, upstream):
        grads = [grad if grad is None else grad.mul_(upstream) for grad in ctx.saved_tensors]
        interests = (grad if grad is None else grad.view(ctx.shape) for grad in grads[:2])
        return None, *(part for pair in zip(interests, grads[2:]) for part in pair)


def mutual_learning(
    interests: Sequence[Float[Tensor, "row interest dim"]],
    tables: Sequence[Float[Tensor, "catalogue dim"]],
    learners: Sequence[int] = (0, 1),
) -> Float[Tensor, ""]:
    r"""$\sum_{\text{learner}} \mathrm{KL}(p^{\text{teacher}} \Vert p^{\text{learner}})$ in nats, the mean over rows; $p$ of each of two views as in `recommendations`.

    Which of the two learn is told; the other's recommendations, the teacher's, are held fixed.
    """
    return _MutualLearning.apply(tuple(learners), interests[0], tables[0], interests[1], tables[1])


class CrossViewLearning(nn.Module):
    """The losses between views, each with its weight: coarse and fine as in the paper, and two of ours, items alike
    (InfoNCE between an item's ID vector and its projected features) and recommendations alike (mutual learning)."""

    def __init__(self, settings: CrossView, dim: int):
        super().__init__()
        self.settings = settings
        self.heads = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
                for _ in range(2)
            ]
        )

    def forward(
        self,
        interests: list[Float[Tensor, "batch interest dim"]],
        allocations: list[Float[Tensor, "scale batch position interest"]],
        mask: Bool[Tensor, "batch position"],
        items: list[Float[Tensor, "item dim"]],
        recommending: list[Float[Tensor, "row interest dim"]],
        tables: list[Float[Tensor, "catalogue dim"]],
    ) -> Float[Tensor, ""]:
        """Interests at one position a row; allocations at all; vectors of the batch's items; the interests of some rows and the
        catalogue that they recommend from. Lists hold the ID view, then the multimodal view."""
        settings, loss = self.settings, interests[0].new_zeros(())
        if settings.coarse_weight:
            whole = [head(view.mean(1)) for head, view in zip(self.heads, interests)]
            loss = loss + settings.coarse_weight * info_nce(*whole, settings.coarse_temperature)
        if settings.fine_weight:
            loss = loss + settings.fine_weight * allocation_difference(
                *allocations, mask, settings.fine_form
            )
        if settings.item_weight:
            loss = loss + settings.item_weight * info_nce(*items, settings.item_temperature)
        if settings.mutual_weight:
            learners = [0] * (settings.learner != "multimodal") + [1] * (settings.learner != "id")
            loss = loss + settings.mutual_weight * mutual_learning(recommending, tables, learners)
        return loss
