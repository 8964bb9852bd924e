"""What all sequential models share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor, nn

from bivrec.model.losses import combine, score_catalogue
from bivrec.settings import Settings
from bivrec.training.distributed import num_processes, own_rows

Tables = dict[str, Float[Tensor, "catalogue dim"]]

Interests = dict[str, Float[Tensor, "batch position interest dim"]]

Newest = dict[str, Float[Tensor, "batch interest dim"]]

Scores = dict[str, Float[Tensor, "batch catalogue"]]


@dataclass(frozen=True)
class Batch:
    """Rows of items, oldest first and padded at the end; the target after each position; which positions are
    supervised; and one probed position a row, where the views are contrasted. `seed` seeds whatever else a step draws
    at random (negatives, rows of the mutual loss), so that processes that share the batch draw the same."""

    items: Int64[Tensor, "batch position"]
    mask: Bool[Tensor, "batch position"]
    targets: Int64[Tensor, "batch position"]
    supervised: Bool[Tensor, "batch position"]
    probe: Int64[Tensor, "batch"]
    seed: int = 0
    weight: float | Tensor = 1.0  # of its mean over targets in the mean over processes
    first: int | Tensor = 0  # its first target's place among those of all processes

    def own(self) -> "Batch":
        """This process's rows of it; all of them where there is one process."""
        if num_processes() == 1:
            return self
        rows = own_rows(len(self.items))
        counts = self.supervised.sum(1)
        part = {
            name: getattr(self, name)[rows]
            for name in ("items", "mask", "targets", "supervised", "probe")
        }
        return Batch(
            **part,
            seed=self.seed,
            weight=num_processes() * counts[rows].sum() / counts.sum(),
            first=counts[: rows.start].sum(),
        )

    def among_its_items(
        self, drawn: Int64[Tensor, "drawn"], num_items: int
    ) -> tuple["Batch", Int64[Tensor, "drawn"], Int64[Tensor, "item"]]:
        """The batch and the drawn items in the numbering of the items that either holds, and these: no other has a part in a step."""
        held = torch.zeros(num_items, dtype=torch.bool, device=drawn.device)
        for part in (self.items.flatten(), self.targets.flatten(), drawn):
            held[part] = True
        place = held.cumsum(0) - 1
        return (
            replace(self, items=place[self.items], targets=place[self.targets]),
            place[drawn],
            held.nonzero()[:, 0],
        )


def pad(
    histories: Sequence[Int64[ndarray, "_"]], max_length: int, multiple: int
) -> tuple[Int64[Tensor, "batch position"], Bool[Tensor, "batch position"]]:
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
        return torch.func.functional_call(
            encoder, dict(zip(names, given[len(inputs) :])), given[: len(inputs)]
        )

    samples = [part.detach().clone().requires_grad_(part.requires_grad) for part in inputs]
    samples += [
        value.detach().requires_grad_(value.requires_grad) for value in values
    ]  # read where they are
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(
        False
    )  # recorded on a stream of its own, as is to be
    with torch.random.fork_rng([inputs[0].device]):
        recorded = torch.cuda.make_graphed_callables(
            call, tuple(samples), allow_unused_input=True, pool=pool
        )
    return lambda *given: recorded(*given, *values)


class SequentialModel(nn.Module, ABC):
    """What BivRec and its neural rivals share: histories in, scores of the whole catalogue out."""

    settings: Settings
    max_length: int
    multiple: int = 1
    causal: bool = True
    graphs: dict[tuple, Callable] | None = (
        None  # while a GPU trains small batches: its encoders, recorded
    )

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
                self.graphs[(id(encoder),)] = (
                    torch.cuda.graph_pool_handle()
                )  # one memory for all shapes: one at a time is under way
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
    def interests(
        self, items: Int64[Tensor, "batch position"], mask: Bool[Tensor, "batch position"]
    ) -> Interests:
        """The interests after every position, by view."""

    @abstractmethod
    def newest(
        self,
        items: Int64[Tensor, "batch position"],
        mask: Bool[Tensor, "batch position"],
        tables: Tables,
    ) -> Newest:
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
        items, mask = (
            part.to(self.device) for part in pad(histories, self.max_length, self.multiple)
        )
        tables = self.tables()
        scores = {
            view: score_catalogue(interests, tables[view])
            for view, interests in self.newest(items, mask, tables).items()
        }
        if was_training:
            self.train()
        settings = self.settings.model
        return scores | (
            {"both": combine(scores, settings.combination, settings.multimodal_share)}
            if len(scores) == 2
            else {}
        )
