"""Sequences: raw interactions become each user's items in order of time, then the split into train, validation and test."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int64
from numpy import ndarray

from bivrec.settings import MovieLens, Split

RESTORE = "restore it with `make restore`"


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the line, the value and the mend."""


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
class Cases:
    """Questions put to a model: a user's history, and the items that followed it."""

    users: Int64[ndarray, "case"]
    histories: tuple[Int64[ndarray, "_"], ...]
    targets: tuple[Int64[ndarray, "_"], ...]

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Parts:
    """One fold: what is trained on, and the cases that choose and that judge."""

    train: tuple[Int64[ndarray, "_"], ...]
    train_users: Int64[ndarray, "train_user"]
    validation: Cases
    test: Cases


def _read_table(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """A CSV with just these columns, each a 'whole number', a 'number' or 'text'; the first bad line is named."""
    name = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    if not path.is_file():
        raise DataError(f"{name} is missing; {RESTORE}")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text (byte {error.start}); {RESTORE}") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{name} is not a table: {str(error).strip().removeprefix('Error tokenizing data. C error: ')}; mend the line or {RESTORE}") from None
    if list(table.columns) != list(columns):
        raise DataError(f"{name} has the columns {','.join(map(str, table.columns))[:80]}, not {','.join(columns)}; {RESTORE}")
    for column, kind in columns.items():
        if kind == "text":
            continue
        numbers = pd.to_numeric(table[column], errors="coerce")
        good = np.isfinite(numbers) if kind == "number" else (numbers % 1 == 0) & numbers.between(0, 2**53, inclusive="left")
        if not good.all():
            told = f"line {good.argmin() + 2}: {column} {table[column][good.argmin()][:40]!r} is not a {kind}"
            raise DataError(f"{name}, {told}; mend the line or {RESTORE}")
        table[column] = numbers.astype("float64" if kind == "number" else "int64")
    return table


def read_movielens(data: Path, settings: MovieLens) -> Raw:
    """A MovieLens CSV release; every rating is an interaction, the domain is the films of the years asked for."""
    folder = data / settings.folder
    pair = {"userId": "whole number", "movieId": "whole number"}
    ratings = _read_table(folder / "ratings.csv", pair | {"rating": "number", "timestamp": "whole number"})
    films = _read_table(folder / "movies.csv", {"movieId": "whole number", "title": "text", "genres": "text"})
    tags = _read_table(folder / "tags.csv", pair | {"tag": "text", "timestamp": "whole number"})
    for film in films.loc[films["movieId"].duplicated(), "movieId"]:
        raise DataError(f"{settings.folder}/movies.csv lists film {film} twice; {RESTORE}")
    for row, film in ratings.loc[~ratings["movieId"].isin(films["movieId"]), "movieId"].items():
        raise DataError(f"{settings.folder}/ratings.csv, line {row + 2}: film {film} is not in movies.csv; {RESTORE}")
    titles = films["title"].str.strip().str.extract(r"^(?P<title>.*?)\s*(?:\((?P<year>\d{4})(?:[–-]\d{0,4})?\))?$")
    genres = films["genres"].replace("(no genres listed)", "").str.replace("|", ", ")
    items = pd.DataFrame({"item": films["movieId"], "title": titles["title"], "year": pd.to_numeric(titles["year"]), "genres": genres, "description": ""})
    items = items[items["year"].between(settings.first_year, settings.last_year)].astype({"year": "int64"})
    names = {"userId": "user", "movieId": "item", "timestamp": "time"}
    interactions, tags = ratings.rename(columns=names)[["user", "item", "time"]], tags.rename(columns=names)[["user", "item", "tag"]]
    return Raw(*(part[part["item"].isin(items["item"])].reset_index(drop=True) for part in (interactions, items, tags)))


def _tie_order(user: Int64[ndarray, "n"], item: Int64[ndarray, "n"]) -> ndarray:
    """A fixed pseudo-random number a pair (splitmix64): ties in time are broken by it, so no id or file order leaks in."""
    with np.errstate(over="ignore"):
        mixed = user.astype("uint64") * np.uint64(0x9E3779B97F4A7C15) + item.astype("uint64")
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))


def keep_core(interactions: pd.DataFrame, least: int) -> pd.DataFrame:
    """The k-core: users and items with fewer than `least` interactions are dropped until nothing changes."""
    while True:
        few = interactions.groupby("user")["item"].transform("size").lt(least) | interactions.groupby("item")["user"].transform("size").lt(least)
        if not few.any():
            return interactions
        interactions = interactions[~few]


def build_sequences(raw: Raw, split: Split, name: str) -> Sequences:
    """Sequences in order of time. A pair seen twice keeps its first time; ties follow a fixed hash of user and item."""
    table = keep_core(raw.interactions.sort_values(["user", "item", "time"]).drop_duplicates(["user", "item"]), split.min_interactions)
    if table.empty:
        raise DataError(f"{name} is empty: no user and item have {split.min_interactions} interactions (params.yaml: split.min_interactions)")
    table = table.assign(tie=_tie_order(table["user"].to_numpy(), table["item"].to_numpy())).sort_values(["user", "time", "tie"])
    users, user = np.unique(table["user"].to_numpy(), return_inverse=True)
    item_ids, item = np.unique(table["item"].to_numpy(), return_inverse=True)
    catalogue = raw.items.set_index("item").loc[item_ids].reset_index()
    tags = raw.tags[raw.tags["user"].isin(users) & raw.tags["item"].isin(item_ids)]
    tags = tags.assign(user=np.searchsorted(users, tags["user"]), item=np.searchsorted(item_ids, tags["item"])).reset_index(drop=True)
    starts = np.concatenate([[0], np.cumsum(np.bincount(user))])
    return Sequences(item.astype("int64"), starts.astype("int64"), table["time"].to_numpy(), users, catalogue, tags)


def save_sequences(sequences: Sequences, folder: Path) -> None:
    """Arrays as npz, tables as CSV; no pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "arrays.npz", items=sequences.items, starts=sequences.starts, times=sequences.times, users=sequences.users)
    sequences.catalogue.to_csv(folder / "catalogue.csv", index=False)
    sequences.tags.to_csv(folder / "tags.csv", index=False)


def load_sequences(folder: Path) -> Sequences:
    """What `save_sequences` wrote."""
    if not (folder / "tags.csv").is_file():
        raise DataError(f"build/{folder.parent.name}/{folder.name} is missing; `make repro` makes it")
    catalogue, tags = (pd.read_csv(folder / f"{name}.csv", keep_default_na=False) for name in ("catalogue", "tags"))
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        return Sequences(**arrays, catalogue=catalogue, tags=tags)


def fold_of_users(users: Int64[ndarray, "user"], num_folds: int) -> Int64[ndarray, "user"]:
    """Each user's fold, from a fixed hash of the published id: every user tests in just one fold, and in the same fold
    of every domain, so that a model of one domain never trained on another's test users."""
    return (_tie_order(users, np.zeros_like(users)) % np.uint64(num_folds)).astype("int64")


def split_sequences(sequences: Sequences, split: Split, seed: int) -> Parts:
    """The fold of a seed.

    by_user (the paper's): users of fold s test, of fold s + 1 validate, the others train; of a held-out history of n
    items the first int(share * n) are given and all later ones are targets. The paper draws one split; ours turns with
    the seed, so that more users judge.
    leave_one_out: everybody trains on all but the last two items; the second-to-last validates, the last tests.
    by_time: one date ends the training, at history_share of all interactions, and another, half way through the rest, the
    validation; a user is a case of the period in which the first int(share * n) items are done, and the items after them
    (validation: before the second date) are targets, so that nothing is learned from what came later.
    """
    everyone, lengths = np.arange(sequences.num_users), sequences.lengths

    def cases(users: Int64[ndarray, "case"], cuts: Int64[ndarray, "user"], ends: Int64[ndarray, "user"]) -> Cases:
        histories = tuple(sequences.of(user)[: cuts[user]] for user in users)
        return Cases(users, histories, tuple(sequences.of(user)[cuts[user] : ends[user]] for user in users))

    if split.protocol == "leave_one_out":
        validation, test = (cases(everyone, lengths - back, lengths - back + 1) for back in (2, 1))
        return Parts(validation.histories, everyone, validation, test)
    if split.protocol == "by_time":
        cuts, share = (split.history_share * lengths).astype("int64"), split.history_share
        first, second = np.quantile(sequences.times, [share, (1 + share) / 2], method="lower")
        asked = sequences.times[sequences.starts[:-1] + cuts]
        before = {date: np.add.reduceat((sequences.times < date).astype("int64"), sequences.starts[:-1]) for date in (first, second)}
        validation = cases(everyone[(asked >= first) & (asked < second) & (cuts > 0)], cuts, before[second])
        test = cases(everyone[(asked >= second) & (cuts > 0)], cuts, lengths)
        known = everyone[before[first] > 0]
        return Parts(tuple(sequences.of(user)[: before[first][user]] for user in known), known, validation, test)
    folds, cuts = fold_of_users(sequences.users, split.num_folds), (split.history_share * lengths).astype("int64")
    validation, test = (cases(everyone[folds == fold % split.num_folds], cuts, lengths) for fold in (seed + 1, seed))
    train_users = np.setdiff1d(everyone, np.concatenate([validation.users, test.users]))
    return Parts(tuple(sequences.of(user) for user in train_users), train_users, validation, test)


def describe(sequences: Sequences) -> pd.DataFrame:
    """The statistics by which a dataset is known."""
    lengths, popularity = sequences.lengths, np.bincount(sequences.items, minlength=sequences.num_items)
    ties = np.diff(sequences.times) == 0
    ties[sequences.starts[1:-1] - 1] = False
    figures = {
        "users": sequences.num_users,
        "items": sequences.num_items,
        "interactions": len(sequences.items),
        "density, %": round(100 * len(sequences.items) / sequences.num_users / sequences.num_items, 2),
        "median history": int(np.median(lengths)),
        "longest history": int(lengths.max()),
        "median interactions an item": int(np.median(popularity)),
        "share of the 10 % most popular items, %": round(100 * np.sort(popularity)[-len(popularity) // 10 :].sum() / popularity.sum(), 1),
        "neighbours tied in time, %": round(100 * float(ties.mean()), 1),
    }
    return pd.DataFrame({"figure": list(figures), "value": [f"{value:,}" for value in figures.values()]})
