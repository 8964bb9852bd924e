"""BivRec: two views of the same history, each recommends, and each learns from the other."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding

from bivrec.model.base import Batch, Interests, Newest, SequentialModel, Tables
from bivrec.model.clusters import information
from bivrec.model.cross_view import CrossViewLearning
from bivrec.model.embedding import ItemTable, recompute
from bivrec.model.losses import catalogue_type, choose_interest, draw_items, interest_softmax
from bivrec.model.view import ViewEncoder
from bivrec.settings import Settings
from bivrec.training.distributed import alike, gather

PART_CELLS = {
    "cpu": 1 << 18,
    "cuda": 1 << 25,
}  # one_target: numbers in the vectors of the items that an encoder reads at a time

HELD_PARTS = 4  # of a batch, of all views, from whose reading everything is kept for the backward pass; from others nothing is


class BivRec(SequentialModel):
    """The whole model; with one view in `model.views` it is PureID or PureMM."""

    def __init__(self, settings: Settings, num_items: int, features: dict):
        super().__init__()
        self.settings, self.num_items = settings, num_items
        self.max_length, self.multiple = settings.model.max_length, max(settings.model.scales)
        self.causal, self.kind = (
            settings.training.supervision == "every_position",
            catalogue_type(settings.training.precision),
        )
        self.items = nn.ModuleDict(
            {
                view: ItemTable(view, num_items, features, settings.model.dim, self.kind)
                for view in settings.model.views
            }
        )
        self.views = nn.ModuleDict(
            {view: ViewEncoder(settings.model) for view in settings.model.views}
        )
        both = len(settings.model.views) == 2
        self.cross_view = (
            CrossViewLearning(settings.cross_view, settings.model.dim) if both else None
        )

    def anneal(self, progress: float) -> None:
        if self.settings.model.final_temperature is not None:
            self.record_encoders(False)  # a recording would hold the temperature fixed
        for view in self.views.values():
            view.clusters.anneal(progress)

    def tables(self, items: Int64[Tensor, "catalogue"] | None = None) -> Tables:
        return {view: table(items) for view, table in self.items.items()}

    def read(
        self,
        items: Int64[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        tables: dict,
    ) -> dict:
        """Interests after every position [batch position interest dim] and allocation scores, by view."""
        if not self.causal:
            return {
                view: encoder(embedding(items, tables[view]), mask, False)
                for view, encoder in self.views.items()
            }
        return {
            view: self.encode(encoder, embedding(items, tables[view]), mask)
            for view, encoder in self.views.items()
        }

    def read_newest(
        self, items: Int64[Tensor, "batch position"], ends: Int64[Tensor, "batch"], tables: dict
    ) -> tuple[dict, Bool[Tensor, "batch patch"]]:
        """Interests after the prefix that ends at `ends` [batch 1 interest dim] and the allocation scores of its own
        patches, by view; and which of these are real."""
        place = ends[:, None] - torch.arange(items.shape[1], device=items.device)
        mask, items, read = place >= 0, items.gather(1, place.clamp_min(0)), {}
        cells, whole = (
            items.numel() * self.settings.model.dim,
            not (self.training and torch.is_grad_enabled()),
        )
        count = 1 if whole else min(len(items), -(-cells // PART_CELLS[items.device.type]))
        surplus = (
            len(self.views) * count - HELD_PARTS
        )  # the first ones, whose turn in the backward pass is last
        for view, encoder in self.views.items():
            parts, found = (
                zip(embedding(items, tables[view]).tensor_split(count), mask.tensor_split(count)),
                [],
            )
            for part in parts:
                found.append(
                    encoder.newest(*part, self.causal)
                    if surplus <= 0
                    else recompute(encoder, encoder.newest, *part, self.causal)
                )
                surplus -= 1
            interests, allocation, real = found[0] if count == 1 else map(torch.cat, zip(*found))
            read[view] = interests[:, None], allocation[None]
        return read, real

    def interests(
        self, items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"]
    ) -> Interests:
        return {
            view: interests
            for view, (interests, _) in self.read(items, mask, self.tables()).items()
        }

    def newest(
        self,
        items: Int64[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        tables: Tables,
    ) -> Newest:
        return {
            view: interests[:, 0]
            for view, (interests, _) in self.read_newest(items, mask.sum(1) - 1, tables)[0].items()
        }

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Each view's recommendation loss at the supervised positions, and the losses between the views."""
        settings, needed = self.settings, None
        drawn = draw_items(self.num_items, settings.training.num_negatives, batch.items.device)
        if drawn is not None and not drawn.is_cuda:  # a GPU is not waited for
            batch, drawn, needed = batch.among_its_items(drawn, self.num_items)
        tables, own = self.tables(needed), batch.own()
        if self.causal:
            read, real = self.read(own.items, own.mask, tables), batch.mask
            places = own.supervised.flatten().nonzero()[:, 0]
            rows = {
                view: interests.flatten(0, 1).index_select(0, places)
                for view, (interests, _) in read.items()
            }
        else:  # one target a row: no other prefix is asked for
            read, real = self.read_newest(own.items, own.probe, tables)
            rows = {view: interests[:, 0] for view, (interests, _) in read.items()}
            real = gather(real.float(), len(batch.items)) > 0
        weights = {
            "id": settings.cross_view.id_weight,
            "multimodal": settings.cross_view.multimodal_weight,
        }
        targets, total = own.targets[own.supervised], 0
        allocations = {
            view: gather(allocation.transpose(0, 1), len(batch.items)).transpose(0, 1)
            for view, (_, allocation) in read.items()
        }
        for view, allocation in allocations.items():
            chosen = (
                choose_interest(rows[view], tables[view], targets)
                if settings.model.readout == "hard"
                else rows[view]
            )
            if weights[view]:
                loss = interest_softmax(
                    chosen,
                    tables[view],
                    targets,
                    settings.model.readout == "max",
                    self.kind,
                    drawn,
                    self.num_items,
                )
                total = total + weights[view] * own.weight * loss
            if settings.model.information_weight and settings.model.pooling == "cluster":
                total = total - settings.model.information_weight * information(allocation, real)
        if self.cross_view is None:
            return total
        at = (torch.arange(len(own.probe)), own.probe if self.causal else 0)
        probed = {
            view: gather(interests[at], len(batch.items)) for view, (interests, _) in read.items()
        }
        return total + self._between(
            tables,
            probed,
            allocations,
            real,
            rows,
            batch.targets[batch.supervised],
            own.first,
            drawn,
        )

    def _between(
        self,
        tables: dict,
        probed: dict,
        allocations: dict,
        real: Tensor,
        rows: dict,
        targets: Int64[Tensor, "row"],
        first: int | Tensor = 0,
        drawn: Int64[Tensor, "drawn"] | None = None,
    ) -> Float[Tensor, ""]:
        """The losses between the views; a view that is not to learn from them is held fixed. All but `rows`, whose first is
        that of the target `first`, are of the whole batch, whatever number of processes shares it. Items drawn to stand for
        the catalogue do so in recommendations too."""
        settings, views, recommending, known = (
            self.settings.cross_view,
            ("id", "multimodal"),
            [],
            [],
        )
        items = torch.unique(targets) if settings.item_weight else targets[:1]
        if len(items) > settings.item_rows:
            items = items[
                alike(torch.randperm(len(items), device=items.device))[: settings.item_rows]
            ]
        if settings.mutual_weight:
            few = (
                alike(torch.randperm(len(targets), device=targets.device))[: settings.mutual_rows]
                - first
            )
            here = ((few >= 0) & (few < len(rows["id"]))).nonzero()[:, 0]
            recommending = [gather(rows[view][few[here]], len(few), here) for view in views]
            known = [tables[view] if drawn is None else tables[view][drawn] for view in views]

        def held(view: str, x: Tensor) -> Tensor:
            return x if settings.learner in ("both", view) else x.detach()

        whole = ([held(view, part[view]) for view in views] for part in (probed, allocations))
        return self.cross_view(
            *whole, real, [held(view, tables[view][items]) for view in views], recommending, known
        )
