"""BivRec: two views of the same history; each recommends, and each learns from the other."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import embedding

from bivrec.model.base import (
    Batch,
    Interests,
    ItemRows,
    LastInterests,
    Mask,
    SequentialModel,
    Tables,
)
from bivrec.model.clusters import mutual_information
from bivrec.model.cross_view import VIEWS, CrossViewLearning, ViewPair
from bivrec.model.embedding import ItemTable, align_newest, by_residue
from bivrec.model.losses import choose_interest
from bivrec.model.view import ViewEncoder
from bivrec.settings import Settings

Encoded = dict[str, dict[str, Tensor]]


class BivRec(SequentialModel):
    """The whole model; with one view in `model.views` it is PureID or PureMM.

    Paper: the recommendation losses of both views and the losses between them are trained jointly,
    on one target per row (`one_target`). Ours: every position of a row is supervised at once.
    """

    def __init__(self, settings: Settings, num_items: int, features: dict):
        super().__init__()
        model = settings.model
        self.settings, self.max_length = settings, model.max_length
        self.multiple, self.readout = max(model.scales), model.readout
        self.causal = settings.training.supervision == "every_position"
        self.items = nn.ModuleDict(
            {view: ItemTable(view, num_items, features, model.dim) for view in model.views}
        )
        self.views = nn.ModuleDict({view: ViewEncoder(model, self.causal) for view in model.views})
        both = len(model.views) == 2
        self.cross_view = CrossViewLearning(settings.cross_view, model.dim) if both else None

    def anneal(self, progress: float) -> None:
        for view in self.views.values():
            view.clusters.anneal(progress)

    def tables(self) -> Tables:
        return {view: table() for view, table in self.items.items()}

    def encode_every(self, items: ItemRows, mask: Mask, tables: Tables, **layout: bool) -> Encoded:
        """Interests after every position and the patches' logits, by view."""
        encoded = {}
        for view, encoder in self.views.items():
            interests, logits = encoder(embedding(items, tables[view]), mask, **layout)
            encoded[view] = {"interests": interests, "logits": logits}
        return encoded

    def encode_rows(self, items: ItemRows, mask: Mask, tables: Tables) -> Encoded:
        """Interests after each whole row, and the logits of its patches, by view."""
        return self.encode_every(*align_newest(items, mask), tables, every_prefix=False)

    def patch_masks(
        self, mask: Mask, every_prefix: bool | None = None
    ) -> list[Bool[Tensor, "batch patch"]]:
        """The patches that are not padding, by scale, in the order of their logits;
        `every_prefix=None` takes the layout of `encode_batch`."""
        scales = self.settings.model.scales
        if not (self.causal if every_prefix is None else every_prefix):
            mask = align_newest(mask.long(), mask)[1]
            return [by_residue(mask, scale)[:, -1] for scale in scales]
        return [by_residue(mask, scale).flatten(1) for scale in scales]

    def encode(
        self, items: ItemRows, mask: Mask, tables: Tables
    ) -> dict[
        str,
        tuple[
            Float[Tensor, "batch position interest dim"],
            Float[Tensor, "scale batch position interest"],
        ],
    ]:
        """Interests after every position, and each position's logits at every scale, by view."""
        encoded, num_scales = {}, len(self.settings.model.scales)
        for view, parts in self.encode_every(items, mask, tables).items():
            by_scale = parts["logits"].chunk(num_scales, 1)
            logits = [
                x.unflatten(1, (scale, -1)).transpose(1, 2).flatten(1, 2)
                for x, scale in zip(by_scale, self.settings.model.scales)
            ]
            encoded[view] = parts["interests"], torch.stack(logits)
        return encoded

    def interests(self, items: ItemRows, mask: Mask) -> Interests:
        encoded = self.encode_every(items, mask, self.tables())
        return {view: parts["interests"] for view, parts in encoded.items()}

    def encode_last(self, items: ItemRows, mask: Mask, tables: Tables) -> LastInterests:
        encoded = self.encode_rows(items, mask, tables)
        return {view: parts["interests"][:, 0] for view, parts in encoded.items()}

    def encode_batch(self, batch: Batch, tables: Tables) -> Encoded:
        encode = self.encode_every if self.causal else self.encode_rows
        return encode(batch.items, batch.mask, tables)

    def supervised_interests(
        self, encoded: Encoded, batch: Batch
    ) -> dict[str, Float[Tensor, "row interest dim"]]:
        """The interests from which each target is predicted, by view."""
        if not self.causal:
            return {view: parts["interests"][:, 0] for view, parts in encoded.items()}
        return {view: batch.at_supervised(parts["interests"]) for view, parts in encoded.items()}

    def row_loss(self, encoded: Encoded, batch: Batch, tables: Tables) -> Float[Tensor, ""]:
        """Each view's recommendation loss, weighted."""
        weights = self.settings.cross_view
        weights = {"id": weights.id_weight, "multimodal": weights.multimodal_weight}
        targets, total = batch.targets[batch.supervised], 0
        for view, interests in self.supervised_interests(encoded, batch).items():
            table = tables[view]
            if self.readout == "hard":
                interests = choose_interest(interests, table, targets)
            negatives = self.sample_negatives(batch, len(table))
            loss = self.interest_softmax(interests, table, targets, negatives)
            total = total + weights[view] * loss
        return total

    def batch_loss(self, encoded: Encoded, batch: Batch, tables: Tables) -> Float[Tensor, ""]:
        """Information of patches and interests in each view, and the losses between the views."""
        model, masks = self.settings.model, self.patch_masks(batch.mask)
        mask = torch.cat(masks, 1)
        total = torch.zeros((), device=mask.device)
        if model.information_weight and model.pooling == "cluster":
            groups = masks if model.information_within == "scale" else [mask]
            sizes = [group.shape[1] for group in groups]
            for parts in encoded.values():
                pairs = zip(parts["logits"].split(sizes, 1), groups)
                information = sum(mutual_information(*pair) for pair in pairs) / len(groups)
                total = total - model.information_weight * information
        if self.cross_view is None:
            return total
        return total + self.cross_view(self.pair_views(encoded, batch, tables, mask))

    def pair_views(
        self, encoded: Encoded, batch: Batch, tables: Tables, mask: Bool[Tensor, "batch patch"]
    ) -> ViewPair:
        """What the losses between the views compare: probes, patches, items, recommendations."""
        settings, targets = self.settings.cross_view, batch.targets[batch.supervised]
        row = torch.arange(len(batch.probe), device=batch.probe.device)
        probe = batch.probe if self.causal else torch.zeros_like(batch.probe)
        items = targets.unique()
        items = items[batch.sample(len(items), settings.item_rows, 1)]
        rows = batch.sample(len(targets), settings.mutual_rows, 2)
        negatives = self.sample_negatives(batch, len(tables["id"]))
        supervised = self.supervised_interests(encoded, batch)
        return ViewPair(
            [encoded[view]["interests"][row, probe] for view in VIEWS],
            [encoded[view]["logits"] for view in VIEWS],
            mask,
            [tables[view][items] for view in VIEWS],
            [supervised[view][rows] for view in VIEWS],
            [tables[view] if negatives is None else tables[view][negatives] for view in VIEWS],
        )
