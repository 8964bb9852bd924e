"""The data's types: raw tables, sequences, evaluation cases and folds."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Int64
from numpy import ndarray


@dataclass(frozen=True)
class Raw:
    """A dataset as published: interactions (user, item, time), items (item, title, year, genres,
    description) and tags (user, item, tag, time). Text ids are numbered; `items.id` holds the
    originals."""

    interactions: pd.DataFrame
    items: pd.DataFrame
    tags: pd.DataFrame


@dataclass(frozen=True)
class Sequences:
    """All users' items, oldest first, one user after the other; users and items count from 0.

    `starts[u]` is where user u's items begin, `users` are the published ids, and row i of
    `catalogue` describes item i.
    """

    items: Int64[ndarray, "interaction"]
    starts: Int64[ndarray, "user_plus_one"]
    times: Int64[ndarray, "interaction"]
    users: Int64[ndarray, "user"]
    catalogue: pd.DataFrame
    tags: pd.DataFrame

    @property
    def num_users(self) -> int:
        return len(self.users)

    @property
    def num_items(self) -> int:
        return len(self.catalogue)

    @property
    def titles(self) -> pd.Series:
        """Each item's title; where it has none, its published id."""
        ids, titles = self.catalogue.get("id", self.catalogue["item"]), self.catalogue["title"]
        return titles.where(titles.str.strip() != "", "item " + ids.astype(str))

    @property
    def lengths(self) -> Int64[ndarray, "user"]:
        return np.diff(self.starts)

    def of(self, user: int | np.integer) -> Int64[ndarray, "position"]:
        """A user's items, oldest first."""
        return self.items[self.starts[user] : self.starts[user + 1]]


@dataclass(frozen=True)
class EvalCases:
    """What a model is evaluated on: each user's history, and the items that follow it as targets.
    With `mask_history` the items of the history are not ranked; `whole` holds the true histories
    where the model reads others. `fold`: its number, 0 where the protocol has no folds."""

    users: Int64[ndarray, "case"]
    histories: tuple[Int64[ndarray, "_"], ...]
    targets: tuple[Int64[ndarray, "_"], ...]
    mask_history: bool = True
    fold: int = 0
    whole: tuple[Int64[ndarray, "_"], ...] | None = None

    def __len__(self) -> int:
        return len(self.users)

    @property
    def masked(self) -> tuple[Int64[ndarray, "_"], ...]:
        """The items of each case that are not ranked."""
        rows = self.histories if self.whole is None else self.whole
        return rows if self.mask_history else tuple(row[:0] for row in rows)

    def reading(self, histories: tuple[Int64[ndarray, "_"], ...]) -> "EvalCases":
        """The same cases with noisy or cut histories as the model's input: the items that are
        ranked stay the same, so that only the input changes."""
        whole = self.histories if self.whole is None else self.whole
        return replace(self, histories=histories, whole=whole)


@dataclass(frozen=True)
class Fold:
    """One split of a dataset: training histories, and the cases for validation and test. `end`: the
    date that ends the training, if the protocol has one."""

    train: tuple[Int64[ndarray, "_"], ...]
    train_users: Int64[ndarray, "train_user"]
    validation: EvalCases
    test: EvalCases
    end: int | None = None
