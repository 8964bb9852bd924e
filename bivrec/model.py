"""BivRec: two views of the same history, each recommends, and each learns from the other."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor, nn
from torch.nn.functional import embedding

from bivrec.cross_view import CrossViewLearning
from bivrec.decomposition import ViewEncoder, information
from bivrec.embedding import ItemTable, recompute
from bivrec.processes import alike, gather, num_processes, own_rows
from bivrec.recommendation import catalogue_type, choose_interest, combine, draw_items, interest_softmax, score_catalogue
from bivrec.settings import Settings

Tables = dict[str, Float[Tensor, "catalogue dim"]]
Interests = dict[str, Float[Tensor, "batch position interest dim"]]
Newest = dict[str, Float[Tensor, "batch interest dim"]]
Scores = dict[str, Float[Tensor, "batch catalogue"]]
PART_CELLS = {"cpu": 1 << 18, "cuda": 1 << 25}  # one_target: numbers in the vectors of the items that an encoder reads at a time
HELD_PARTS = 4  # of a batch, of all views, from whose reading everything is kept for the backward pass; from others nothing is


@dataclass(frozen=True)
class Batch:
    """Rows of items, oldest first and padded at the end; the target after each position; which positions are
    supervised; and one probed position a row, where the views are contrasted."""

    items: Int64[Tensor, "batch position"]
    mask: Bool[Tensor, "batch position"]
    targets: Int64[Tensor, "batch position"]
    supervised: Bool[Tensor, "batch position"]
    probe: Int64[Tensor, "batch"]
    weight: float | Tensor = 1.0  # of its mean over targets in the mean over processes
    first: int | Tensor = 0  # its first target's place among those of all processes

    def own(self) -> "Batch":
        """This process's rows of it; all of them where there is one process."""
        if num_processes() == 1:
            return self
        rows = own_rows(len(self.items))
        counts = self.supervised.sum(1)
        part = {name: getattr(self, name)[rows] for name in ("items", "mask", "targets", "supervised", "probe")}
        return Batch(**part, weight=num_processes() * counts[rows].sum() / counts.sum(), first=counts[: rows.start].sum())

    def among_its_items(self, drawn: Int64[Tensor, "drawn"], num_items: int) -> tuple["Batch", Int64[Tensor, "drawn"], Int64[Tensor, "item"]]:
        """The batch and the drawn items in the numbering of the items that either holds, and these: no other has a part in a step."""
        held = torch.zeros(num_items, dtype=torch.bool, device=drawn.device)
        for part in (self.items.flatten(), self.targets.flatten(), drawn):
            held[part] = True
        place = held.cumsum(0) - 1
        return replace(self, items=place[self.items], targets=place[self.targets]), place[drawn], held.nonzero()[:, 0]


def pad(histories: Sequence[Int64[ndarray, "_"]], max_length: int, multiple: int) -> tuple[Int64[Tensor, "batch position"], Bool[Tensor, "batch position"]]:
    """The newest items of each history, oldest first, padded at the end to a multiple of the largest scale."""
    newest = [np.asarray(history[-max_length:]) for history in histories]
    counts = np.array([len(history) for history in newest], dtype="int64")
    mask = np.arange(-(-counts.max(initial=1) // multiple) * multiple) < counts[:, None]
    items = np.zeros(mask.shape, dtype="int64")
    items[mask] = np.concatenate([*newest, np.empty(0, dtype="int64")])
    return torch.from_numpy(items), torch.from_numpy(mask)


def record(encoder: nn.Module, inputs: Sequence[Tensor], pool: Any) -> Callable:
    """The encoder, its parameters among its inputs, as a CUDA graph for inputs of these shapes: forward and backward."""
    names, values = zip(*encoder.named_parameters())

    def call(*given: Tensor) -> Any:
        return torch.func.functional_call(encoder, dict(zip(names, given[len(inputs) :])), given[: len(inputs)])

    samples = [part.detach().clone().requires_grad_(part.requires_grad) for part in inputs]
    samples += [value.detach().requires_grad_(value.requires_grad) for value in values]  # read where they are
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)  # recorded on a stream of its own, as is to be
    with torch.random.fork_rng([inputs[0].device]):
        recorded = torch.cuda.make_graphed_callables(call, tuple(samples), allow_unused_input=True, pool=pool)
    return lambda *given: recorded(*given, *values)


class SequentialModel(nn.Module, ABC):
    """What BivRec and its neural rivals share: histories in, scores of the whole catalogue out."""

    settings: Settings
    max_length: int
    multiple: int = 1
    causal: bool = True
    graphs: dict[tuple, Callable] | None = None  # while a GPU trains small batches: its encoders, recorded

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def encode(self, encoder: nn.Module, *inputs: Tensor) -> Any:
        """What the encoder gives. Where `graphs` are kept, a shape of inputs that comes again is recorded as a CUDA graph, forward
        and backward, and from then on the device starts its hundreds of small kernels by itself."""
        if self.graphs is None or not (self.training and torch.is_grad_enabled()):
            return encoder(*inputs)
        key = (id(encoder), *(tuple(part.shape) for part in inputs))
        if key not in self.graphs:
            self.graphs[key] = encoder
        elif self.graphs[key] is encoder:
            if (id(encoder),) not in self.graphs:
                self.graphs[(id(encoder),)] = torch.cuda.graph_pool_handle()  # one memory for all shapes: one at a time is under way
            self.graphs[key] = record(encoder, inputs, self.graphs[(id(encoder),)])
        return self.graphs[key](*inputs)

    def record_encoders(self, on: bool) -> None:
        """Whether encoders are recorded from here on, this model's and its parts'; what was recorded is let go."""
        for part in self.modules():
            if isinstance(part, SequentialModel):
                part.graphs = {} if on else None

    def anneal(self, progress: float) -> None:
        """What changes as training goes on, from 0 to 1: nothing, unless a model says otherwise."""

    @abstractmethod
    def interests(self, items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"]) -> Interests:
        """The interests after every position, by view."""

    @abstractmethod
    def newest(self, items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"], tables: Tables) -> Newest:
        """The interests after the last position of each row, by view: what is scored."""

    @abstractmethod
    def tables(self) -> Tables:
        """The items' vectors, by view."""

    @torch.inference_mode()
    def score(self, histories: Sequence[Int64[ndarray, "_"]]) -> Scores:
        """Scores of all items after each history, by view, and where there are two views the two combined (`both`); a
        history without items is refused."""
        if any(len(history) == 0 for history in histories):
            raise ValueError("a history without items cannot be ranked by a sequential model")
        was_training = self.training
        if was_training:
            self.eval()
        items, mask = (part.to(self.device) for part in pad(histories, self.max_length, self.multiple))
        tables = self.tables()
        scores = {view: score_catalogue(interests, tables[view]) for view, interests in self.newest(items, mask, tables).items()}
        if was_training:
            self.train()
        settings = self.settings.model
        return scores | ({"both": combine(scores, settings.combination, settings.multimodal_share)} if len(scores) == 2 else {})


class BivRec(SequentialModel):
    """The whole model; with one view in `model.views` it is PureID or PureMM."""

    def __init__(self, settings: Settings, num_items: int, features: dict):
        super().__init__()
        self.settings, self.num_items = settings, num_items
        self.max_length, self.multiple = settings.model.max_length, max(settings.model.scales)
        self.causal, self.kind = settings.training.supervision == "every_position", catalogue_type(settings.training.precision)
        self.items = nn.ModuleDict({view: ItemTable(view, num_items, features, settings.model.dim, self.kind) for view in settings.model.views})
        self.views = nn.ModuleDict({view: ViewEncoder(settings.model) for view in settings.model.views})
        both = len(settings.model.views) == 2
        self.cross_view = CrossViewLearning(settings.cross_view, settings.model.dim) if both else None

    def anneal(self, progress: float) -> None:
        if self.settings.model.final_temperature is not None:
            self.record_encoders(False)  # a recording would hold the temperature fixed
        for view in self.views.values():
            view.clusters.anneal(progress)

    def tables(self, items: Int64[Tensor, "catalogue"] | None = None) -> Tables:
        return {view: table(items) for view, table in self.items.items()}

    def read(self, items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"], tables: dict) -> dict:
        """Interests after every position [batch position interest dim] and allocation scores, by view."""
        if not self.causal:
            return {view: encoder(embedding(items, tables[view]), mask, False) for view, encoder in self.views.items()}
        return {view: self.encode(encoder, embedding(items, tables[view]), mask) for view, encoder in self.views.items()}

    def read_newest(self, items: Int64[Tensor, "batch position"], ends: Int64[Tensor, "batch"], tables: dict) -> tuple[dict, Bool[Tensor, "batch patch"]]:
        """Interests after the prefix that ends at `ends` [batch 1 interest dim] and the allocation scores of its own
        patches, by view; and which of these are real."""
        place = ends[:, None] - torch.arange(items.shape[1], device=items.device)
        mask, items, read = place >= 0, items.gather(1, place.clamp_min(0)), {}
        cells, whole = items.numel() * self.settings.model.dim, not (self.training and torch.is_grad_enabled())
        count = 1 if whole else min(len(items), -(-cells // PART_CELLS[items.device.type]))
        surplus = len(self.views) * count - HELD_PARTS  # the first ones, whose turn in the backward pass is last
        for view, encoder in self.views.items():
            parts, found = zip(embedding(items, tables[view]).tensor_split(count), mask.tensor_split(count)), []
            for part in parts:
                found.append(encoder.newest(*part, self.causal) if surplus <= 0 else recompute(encoder, encoder.newest, *part, self.causal))
                surplus -= 1
            interests, allocation, real = found[0] if count == 1 else map(torch.cat, zip(*found))
            read[view] = interests[:, None], allocation[None]
        return read, real

    def interests(self, items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"]) -> Interests:
        return {view: interests for view, (interests, _) in self.read(items, mask, self.tables()).items()}

    def newest(self, items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"], tables: Tables) -> Newest:
        return {view: interests[:, 0] for view, (interests, _) in self.read_newest(items, mask.sum(1) - 1, tables)[0].items()}

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
            rows = {view: interests.flatten(0, 1).index_select(0, places) for view, (interests, _) in read.items()}
        else:  # one target a row: no other prefix is asked for
            read, real = self.read_newest(own.items, own.probe, tables)
            rows = {view: interests[:, 0] for view, (interests, _) in read.items()}
            real = gather(real.float(), len(batch.items)) > 0
        weights = {"id": settings.cross_view.id_weight, "multimodal": settings.cross_view.multimodal_weight}
        targets, total = own.targets[own.supervised], 0
        allocations = {view: gather(allocation.transpose(0, 1), len(batch.items)).transpose(0, 1) for view, (_, allocation) in read.items()}
        for view, allocation in allocations.items():
            chosen = choose_interest(rows[view], tables[view], targets) if settings.model.readout == "hard" else rows[view]
            if weights[view]:
                loss = interest_softmax(chosen, tables[view], targets, settings.model.readout == "max", self.kind, drawn, self.num_items)
                total = total + weights[view] * own.weight * loss
            if settings.model.information_weight and settings.model.pooling == "cluster":
                total = total - settings.model.information_weight * information(allocation, real)
        if self.cross_view is None:
            return total
        at = (torch.arange(len(own.probe)), own.probe if self.causal else 0)
        probed = {view: gather(interests[at], len(batch.items)) for view, (interests, _) in read.items()}
        return total + self._between(tables, probed, allocations, real, rows, batch.targets[batch.supervised], own.first, drawn)

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
        settings, views, recommending, known = self.settings.cross_view, ("id", "multimodal"), [], []
        items = torch.unique(targets) if settings.item_weight else targets[:1]
        if len(items) > settings.item_rows:
            items = items[alike(torch.randperm(len(items), device=items.device))[: settings.item_rows]]
        if settings.mutual_weight:
            few = alike(torch.randperm(len(targets), device=targets.device))[: settings.mutual_rows] - first
            here = ((few >= 0) & (few < len(rows["id"]))).nonzero()[:, 0]
            recommending = [gather(rows[view][few[here]], len(few), here) for view in views]
            known = [tables[view] if drawn is None else tables[view][drawn] for view in views]

        def held(view: str, x: Tensor) -> Tensor:
            return x if settings.learner in ("both", view) else x.detach()

        whole = ([held(view, part[view]) for view in views] for part in (probed, allocations))
        return self.cross_view(*whole, real, [held(view, tables[view][items]) for view in views], recommending, known)
