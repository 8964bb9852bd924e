"""Cross-view interest learning: what each view learns from the other."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn

from bivrec.model.losses import allocation_divergence, info_nce, mutual_learning
from bivrec.settings import CrossView

VIEWS = ("id", "multimodal")


@dataclass(frozen=True)
class ViewPair:
    """What is compared; each list holds the ID view, then the multimodal view."""

    probed: list[Float[Tensor, "batch interest dim"]]  # interests at one position per row
    allocations: list[Float[Tensor, "batch patch interest"]]  # noise-free logits
    mask: Bool[Tensor, "batch patch"]
    items: list[Float[Tensor, "item dim"]]  # vectors of some of the batch's items
    recommending: list[Float[Tensor, "row interest dim"]]  # interests of some supervised positions
    tables: list[Float[Tensor, "catalogue dim"]]  # what they recommend from


class CrossViewLearning(nn.Module):
    """The weighted sum of the losses between the views.

    The paper's: coarse (InfoNCE of the mean interests, after a projection head of each view, which
    is ours) and fine (both views allocate each patch to the same interests). Ours: an item's ID
    vector agrees with its projected features, and each view learns from the other's
    recommendations. A view that is not a `learner` is held fixed.
    """

    def __init__(self, settings: CrossView, dim: int):
        super().__init__()
        self.settings = settings
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
            for _ in VIEWS
        )

    def hold_teacher(self, views: list[Tensor]) -> list[Tensor]:
        """The same two tensors, without a gradient for the view that does not learn."""
        learner = self.settings.learner
        return [x if learner in ("both", view) else x.detach() for view, x in zip(VIEWS, views)]

    def forward(self, pair: ViewPair) -> Float[Tensor, ""]:
        """In nats; a loss whose weight is 0 is not computed."""
        settings, loss = self.settings, pair.probed[0].new_zeros(())
        if settings.coarse_weight:
            probed = self.hold_teacher(pair.probed)
            whole = [head(view.mean(1)) for head, view in zip(self.heads, probed)]
            loss = loss + settings.coarse_weight * info_nce(*whole, settings.coarse_temperature)
        if settings.fine_weight:
            allocations = self.hold_teacher(pair.allocations)
            fine = allocation_divergence(*allocations, pair.mask)
            loss = loss + settings.fine_weight * fine
        if settings.item_weight:
            items = self.hold_teacher(pair.items)
            loss = loss + settings.item_weight * info_nce(*items, settings.item_temperature)
        if settings.mutual_weight:
            learners = [n for n, view in enumerate(VIEWS) if settings.learner in ("both", view)]
            mutual = mutual_learning(pair.recommending, pair.tables, learners)
            loss = loss + settings.mutual_weight * mutual
        return loss
