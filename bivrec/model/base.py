"""What BivRec and the neural baselines share: histories in, scores of the catalogue out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor, nn

from bivrec.model import losses
from bivrec.settings import Settings

ItemRows = Int64[Tensor, "batch position"]
Mask = Bool[Tensor, "batch position"]
Tables = dict[str, Float[Tensor, "catalogue dim"]]
Interests = dict[str, Float[Tensor, "batch position interest dim"]]
LastInterests = dict[str, Float[Tensor, "batch interest dim"]]
Scores = dict[str, Float[Tensor, "batch catalogue"]]


@dataclass(frozen=True)
class Batch:
    """Rows of items, oldest first, padded at the end.

    `targets` holds the item after each position, `supervised` the positions that are trained,
    `probe` the one position per row at which the views are contrasted. `seed` seeds the samples
    of `sample`, so that processes that share a batch take identical ones.
    """

    items: ItemRows
    mask: Mask
    targets: Int64[Tensor, "batch position"]
    supervised: Bool[Tensor, "batch position"]
    probe: Int64[Tensor, "batch"]
    seed: int = 0

    def sample(self, population: int, size: int, stream: int) -> Int64[Tensor, "sample"]:
        """Distinct indices below `population`; each `stream` is independent of the others."""
        generator = torch.Generator().manual_seed(self.seed + stream)
        return torch.randperm(population, generator=generator)[:size].to(self.items.device)

    def at_supervised(self, x: Float[Tensor, "batch position *rest"]) -> Float[Tensor, "row *rest"]:
        """The rows of x that are trained, in the order of `targets[supervised]`."""
        return x.flatten(0, 1).index_select(0, self.supervised.flatten().nonzero()[:, 0])


def pad(
    histories: Sequence[Int64[ndarray, "_"]], max_length: int, multiple: int
) -> tuple[Int64[Tensor, "batch position"], Bool[Tensor, "batch position"]]:
    """The newest items of each history, padded at the end to a multiple of the largest scale."""
    newest = [np.asarray(history[-max_length:]) for history in histories]
    lengths = np.array([len(history) for history in newest], dtype="int64")
    num_positions = -(-lengths.max(initial=1) // multiple) * multiple
    mask = np.arange(num_positions) < lengths[:, None]
    items = np.zeros(mask.shape, dtype="int64")
    items[mask] = np.concatenate([*newest, np.empty(0, dtype="int64")])
    return torch.from_numpy(items), torch.from_numpy(mask)


class SequentialModel(nn.Module, ABC):
    """A model that is trained on batches of rows and ranks the catalogue after a history.

    The loss has two parts. `row_loss` is a mean over targets, so a process can take it on its own
    rows; `batch_loss` compares rows with each other and needs the whole batch.
    """

    settings: Settings
    max_length: int
    multiple: int = 1  # row lengths are multiples of it
    readout: str = "hard"  # how scores come from several interests, see `losses.read_out`
    interest_softmax = staticmethod(losses.interest_softmax)  # `kernels.use_fast` replaces it

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @abstractmethod
    def tables(self) -> Tables:
        """The vector of every item, by view."""

    @abstractmethod
    def encode_batch(self, batch: Batch, tables: Tables) -> dict[str, Any]:
        """What the losses need of each row: nested dicts of tensors whose first axis is the row."""

    @abstractmethod
    def row_loss(self, encoded: dict[str, Any], batch: Batch, tables: Tables) -> Float[Tensor, ""]:
        """The mean recommendation loss of the supervised positions, in nats."""

    def batch_loss(
        self, encoded: dict[str, Any], batch: Batch, tables: Tables
    ) -> Float[Tensor, ""]:
        """The losses between rows or views; most models have none."""
        return torch.zeros((), device=batch.mask.device)

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """What a step minimises."""
        tables = self.tables()
        encoded = self.encode_batch(batch, tables)
        return self.row_loss(encoded, batch, tables) + self.batch_loss(encoded, batch, tables)

    def anneal(self, progress: float) -> None:
        """Sets what depends on the progress of training, from 0 to 1; most models set nothing."""

    @abstractmethod
    def interests(self, items: ItemRows, mask: Mask) -> Interests:
        """The interests after every position, by view."""

    @abstractmethod
    def encode_last(self, items: ItemRows, mask: Mask, tables: Tables) -> LastInterests:
        """The interests after the last item of each row, by view: what is scored."""

    def score_catalogue(self, interests: LastInterests, tables: Tables) -> Scores:
        """Scores of all items, by view; with two views also `both`."""
        scores = {
            view: losses.read_out(u @ tables[view].T, self.readout) for view, u in interests.items()
        }
        return scores | ({"both": losses.combine(scores)} if len(scores) == 2 else {})

    def sample_negatives(self, batch: Batch, num_items: int) -> Int64[Tensor, "negative"] | None:
        """The items that stand for the catalogue in this step; None for the full softmax."""
        num_negatives = self.settings.training.num_negatives
        return batch.sample(num_items, num_negatives, 0) if 0 < num_negatives < num_items else None

    @torch.inference_mode()
    def encode_histories(
        self, histories: Sequence[Int64[ndarray, "_"]]
    ) -> tuple[LastInterests, Tables]:
        """The interests after each history and the items' vectors, by view, without noise.

        Raises:
            ValueError: a history has no items.
        """
        if any(len(history) == 0 for history in histories):
            raise ValueError("a history without items cannot be ranked by a sequential model")
        training = self.training
        self.eval()
        items, mask = (x.to(self.device) for x in pad(histories, self.max_length, self.multiple))
        tables = self.tables()
        interests = self.encode_last(items, mask, tables)
        self.train(training)
        return interests, tables

    @torch.inference_mode()
    def score(self, histories: Sequence[Int64[ndarray, "_"]]) -> Scores:
        """Scores of all items after each history, by view; with two views also `both`."""
        return self.score_catalogue(*self.encode_histories(histories))
