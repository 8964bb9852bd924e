"""What the data are: raw tables, sequences, folds and evaluation cases."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int64
from numpy import ndarray


@dataclass(frozen=True)
class Raw:
    """A dataset as published: interactions (user, item, time), items (item, title, genres, year, description), tags (user, item, tag)."""

    interactions: pd.DataFrame
    items: pd.DataFrame
    tags: pd.DataFrame


@dataclass(frozen=True)
class Sequences:
    """Every user's items, oldest first, users one after the other; items and users are numbered from 0."""

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
    def lengths(self) -> Int64[ndarray, "user"]:
        return np.diff(self.starts)

    def of(self, user: int | np.integer) -> Int64[ndarray, "position"]:
        return self.items[self.starts[user] : self.starts[user + 1]]


@dataclass(frozen=True)
class EvalCases:
    """Questions put to a model: a user's history, and the items that followed it; whether only others than the history's are ranked."""

    users: Int64[ndarray, "case"]
    histories: tuple[Int64[ndarray, "_"], ...]
    targets: tuple[Int64[ndarray, "_"], ...]
    mask_history: bool = True

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Fold:
    """One fold: what is trained on, and the cases that choose and that judge."""

    train: tuple[Int64[ndarray, "_"], ...]
    train_users: Int64[ndarray, "train_user"]
    validation: EvalCases
    test: EvalCases
