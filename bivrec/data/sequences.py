"""Raw tables to k-core sequences, and the files in which a stage saves them."""

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from jaxtyping import Int64, UInt64
from numpy import ndarray

from bivrec.data.types import Raw, Sequences
from bivrec.errors import DataError
from bivrec.outputs import reading
from bivrec.settings import Expected, Split

TABLES = {  # the saved tables, and the columns that each has at least
    "catalogue": {"item", "title", "year", "genres", "description"},
    "tags": {"user", "item", "tag", "time"},
}


def hash_pairs(user: Int64[ndarray, "n"], item: Int64[ndarray, "n"]) -> UInt64[ndarray, "n"]:
    """A fixed pseudo-random number for each pair (splitmix64). It orders interactions of the same
    time, so that neither ids nor the file's order leak into the sequences."""
    with np.errstate(over="ignore"):
        mixed = user.astype("uint64") * np.uint64(0x9E3779B97F4A7C15) + item.astype("uint64")
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))


def keep_core(interactions: pd.DataFrame, least: int) -> pd.DataFrame:
    """The k-core: drops users and items with fewer than `least` interactions until none is left."""
    codes = [pd.factorize(interactions[column])[0] for column in ("user", "item")]
    rows = np.arange(len(interactions))
    while True:
        rare = np.zeros(len(rows), dtype=bool)
        for code in codes:
            rare |= np.bincount(code[rows])[code[rows]] < least
        if not rare.any():
            return interactions.iloc[rows]
        rows = rows[~rare]


def build_sequences(raw: Raw, split: Split, name: str) -> Sequences:
    """The k-core's interactions in order of time. Of a repeated pair the first counts; ties in time
    follow a fixed hash of user and item, or the file's order (`split.ties`).

    Raises DataError if the k-core is empty.
    """
    table = keep_core(_first_of_each_pair(raw.interactions), split.min_interactions)
    if table.empty:
        needed = f"{split.min_interactions} interactions (params.yaml: split.min_interactions)"
        remedy = "lower it, or give the dataset more users, more items or longer histories"
        raise DataError(f"{name} is empty: no user and item have {needed}; {remedy}")
    user, item, time = (table[column].to_numpy() for column in ("user", "item", "time"))
    ties = hash_pairs(user, item) if split.ties == "hash" else table.index.to_numpy()
    table = table.iloc[np.lexsort((ties, time, user))]
    users, user = np.unique(table["user"].to_numpy(), return_inverse=True)
    item_ids, item = np.unique(table["item"].to_numpy(), return_inverse=True)
    return Sequences(
        items=item.astype("int64"),
        starts=np.concatenate([[0], np.cumsum(np.bincount(user))]).astype("int64"),
        times=table["time"].to_numpy(),
        users=users,
        catalogue=raw.items.set_index("item").loc[item_ids].reset_index(),
        tags=_number_tags(raw.tags, users, item_ids),
    )


def _first_of_each_pair(interactions: pd.DataFrame) -> pd.DataFrame:
    """Each user and item once, at their first time; the index is the row in the file."""
    table = interactions.reset_index(drop=True)
    user, item, time = (table[column].to_numpy() for column in ("user", "item", "time"))
    order = np.lexsort((time, item, user))
    repeated = (np.diff(user[order], prepend=-1) == 0) & (np.diff(item[order], prepend=-1) == 0)
    return table.iloc[order[~repeated]]


def _number_tags(
    tags: pd.DataFrame, users: Int64[ndarray, "user"], item_ids: Int64[ndarray, "catalogue"]
) -> pd.DataFrame:
    """The tags of these users and items, whose ids become positions."""
    tags = tags[tags["user"].isin(users) & tags["item"].isin(item_ids)]
    user, item = np.searchsorted(users, tags["user"]), np.searchsorted(item_ids, tags["item"])
    return tags.assign(user=user, item=item).reset_index(drop=True)


def check_counts(expected: Expected, published: pd.DataFrame, core: Sequences, name: str) -> str:
    """Compares a dataset with its known counts: a sentence; DataError if `expected.strict`."""
    counts = (core.num_users, core.num_items, len(core.items))
    if expected.of == "published":
        counts = (published["user"].nunique(), published["item"].nunique(), len(published))
    known = (expected.users, expected.items, expected.interactions)
    if counts == known:
        return f"{name}: users, items and interactions are those expected"
    named = zip(counts, known, ("users", "items", "interactions"))
    differences = ", ".join(f"{n:,} {what}, not {m:,}" for n, m, what in named if n != m)
    message = f"{name} has {differences} ({expected.of}): another release, or a truncated file"
    if expected.strict:
        key = f"datasets.{name}.expected.strict"
        raise DataError(f"{message}; if this is intended, set {key}: false in params.yaml")
    return message


def save_sequences(sequences: Sequences, folder: Path) -> None:
    """Saves arrays as npz and tables as Parquet, in which text stays text; no pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("items", "starts", "times", "users")
    np.savez(folder / "arrays.npz", **{name: getattr(sequences, name) for name in names})
    save_table(sequences.catalogue, folder / "catalogue.parquet")
    save_table(sequences.tags, folder / "tags.parquet")


def load_sequences(folder: Path) -> Sequences:
    """What `save_sequences` wrote; raises DataError if it is missing or damaged."""
    if not (folder / "tags.parquet").is_file():
        name = f"build/{folder.parent.name}/{folder.name}"
        raise DataError(f"{name} is missing; `make repro` makes it")
    with reading(folder):
        tables = {name: load_table(folder / f"{name}.parquet", TABLES[name]) for name in TABLES}
        with open(folder / "arrays.npz", "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Sequences(**arrays, **tables)


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Saves a table of integers and text as Parquet."""
    columns = {
        name: pl.Series(column.to_list(), dtype=pl.Int64 if column.dtype.kind == "i" else pl.String)
        for name, column in table.items()
    }
    pl.DataFrame(columns).write_parquet(path)


def load_table(path: Path, needed: set[str]) -> pd.DataFrame:
    """What `save_table` wrote; raises OSError or ValueError if it cannot be read or lacks a needed
    column."""
    try:
        with open(path, "rb") as file:
            table = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(str(error)) from None
    if missing := needed - set(table.columns):
        raise ValueError(f"without {', '.join(sorted(missing))}")
    text = {name: table[name].to_list() for name in table.columns if table[name].dtype == pl.String}
    columns = {name: table[name].to_numpy() for name in table.columns if name not in text}
    columns |= {name: pd.Series(values, dtype=str) for name, values in text.items()}
    return pd.DataFrame({name: columns[name] for name in table.columns})


def describe(sequences: Sequences) -> pd.DataFrame:
    """The statistics by which a dataset is known."""
    num_users, num_items, total = sequences.num_users, sequences.num_items, len(sequences.items)
    popularity = np.bincount(sequences.items, minlength=num_items)
    top = np.sort(popularity)[-len(popularity) // 10 :].sum()
    borders = sequences.starts[1:-1] - 1  # between the last item of a user and the next's first
    ties = np.delete(np.diff(sequences.times) == 0, borders)
    figures = {
        "users": num_users,
        "items": num_items,
        "interactions": total,
        "density, %": round(100 * total / num_users / num_items, 2),
        "median history": int(np.median(sequences.lengths)),
        "longest history": int(sequences.lengths.max()),
        "median interactions an item": int(np.median(popularity)),
        "share of the 10 % most popular items, %": round(100 * top / popularity.sum(), 1),
        "neighbours tied in time, %": round(100 * float(ties.mean()), 1),
    }
    rows = [(figure, f"{value:,}") for figure, value in figures.items()]
    rows.append(("time span", " to ".join(_dates(sequences.times))))
    return pd.DataFrame(rows, columns=["figure", "value"])


def _dates(times: Int64[ndarray, "interaction"]) -> list[str]:
    """The first and the last time: as dates if they are seconds since 1970, else as numbers."""
    ends = [int(times.min()), int(times.max())]
    if 1e8 < ends[0] and ends[1] < 1e10:
        return [str(np.datetime64(end, "s"))[:10] for end in ends]
    return [f"{end:,}" for end in ends]
