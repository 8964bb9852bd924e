"""Raw tables to k-core sequences, and the files that keep them."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from jaxtyping import Int64
from numpy import ndarray

from bivrec.data.types import Raw, Sequences
from bivrec.errors import DataError
from bivrec.settings import Expected, Split

RESTORE = "restore it with `make restore`"


def _tie_order(user: Int64[ndarray, "n"], item: Int64[ndarray, "n"]) -> ndarray:
    """A fixed pseudo-random number a pair (splitmix64): ties in time are broken by it, so no id or file order leaks in."""
    with np.errstate(over="ignore"):
        mixed = user.astype("uint64") * np.uint64(0x9E3779B97F4A7C15) + item.astype("uint64")
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))


def keep_core(interactions: pd.DataFrame, least: int) -> pd.DataFrame:
    """The k-core: users and items with fewer than `least` interactions are dropped until nothing changes."""
    codes, kept = (
        [pd.factorize(interactions[column])[0] for column in ("user", "item")],
        np.arange(len(interactions)),
    )
    while True:
        few = np.zeros(len(kept), dtype=bool)
        for code in codes:
            few |= np.bincount(code[kept])[code[kept]] < least
        if not few.any():
            return interactions.iloc[kept]
        kept = kept[~few]


def build_sequences(raw: Raw, split: Split, name: str) -> Sequences:
    """Sequences in order of time. A pair seen twice keeps its first time; ties in time follow a fixed hash of user and item,
    or the order of the file (`split.ties`)."""
    table = raw.interactions.reset_index(drop=True)
    user, item, time = (table[column].to_numpy() for column in ("user", "item", "time"))
    order = np.lexsort((time, item, user))
    again = (np.diff(user[order], prepend=-1) == 0) & (np.diff(item[order], prepend=-1) == 0)
    table = keep_core(table.iloc[order[~again]], split.min_interactions)
    if table.empty:
        raise DataError(
            f"{name} is empty: no user and item have {split.min_interactions} interactions (params.yaml: split.min_interactions)"
        )
    user, item, time = (table[column].to_numpy() for column in ("user", "item", "time"))
    table = table.iloc[
        np.lexsort(
            (_tie_order(user, item) if split.ties == "hash" else table.index.to_numpy(), time, user)
        )
    ]
    users, user = np.unique(table["user"].to_numpy(), return_inverse=True)
    item_ids, item = np.unique(table["item"].to_numpy(), return_inverse=True)
    catalogue = raw.items.set_index("item").loc[item_ids].reset_index()
    tags = raw.tags[raw.tags["user"].isin(users) & raw.tags["item"].isin(item_ids)]
    tags = tags.assign(
        user=np.searchsorted(users, tags["user"]), item=np.searchsorted(item_ids, tags["item"])
    ).reset_index(drop=True)
    starts = np.concatenate([[0], np.cumsum(np.bincount(user))])
    return Sequences(
        item.astype("int64"),
        starts.astype("int64"),
        table["time"].to_numpy(),
        users,
        catalogue,
        tags,
    )


def check_counts(expected: Expected, published: pd.DataFrame, kept: Sequences, name: str) -> str:
    """Compares a dataset with the counts by which it is known: an error where `expected.strict`, else what differs is said."""
    counts = (kept.num_users, kept.num_items, len(kept.items))
    found = (
        counts
        if expected.of == "kept"
        else (published["user"].nunique(), published["item"].nunique(), len(published))
    )
    wanted = (expected.users, expected.items, expected.interactions)
    if found == wanted:
        return f"{name}: users, items and interactions are those expected"
    told = ", ".join(
        f"{n:,} {what}, not {m:,}"
        for n, m, what in zip(found, wanted, ("users", "items", "interactions"))
        if n != m
    )
    told = f"{name} has {told} ({expected.of}): another release, or a file cut short"
    if expected.strict:
        raise DataError(
            f"{told}; if you meant it, set datasets.{name}.expected.strict: false in params.yaml"
        )
    return told


def save_sequences(sequences: Sequences, folder: Path) -> None:
    """Arrays as npz, tables as CSV; no pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "arrays.npz",
        items=sequences.items,
        starts=sequences.starts,
        times=sequences.times,
        users=sequences.users,
    )
    sequences.catalogue.to_csv(folder / "catalogue.csv", index=False)
    sequences.tags.to_csv(folder / "tags.csv", index=False)


def load_sequences(folder: Path) -> Sequences:
    """What `save_sequences` wrote."""
    if not (folder / "tags.csv").is_file():
        raise DataError(
            f"build/{folder.parent.name}/{folder.name} is missing; `make repro` makes it"
        )
    try:
        catalogue, tags = (
            pd.read_csv(folder / f"{name}.csv", keep_default_na=False, dtype={"id": str})
            for name in ("catalogue", "tags")
        )
        with open(folder / "arrays.npz", "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Sequences(**arrays, catalogue=catalogue, tags=tags)
    except PermissionError as error:
        raise DataError(f"{error.filename} may not be read; make it readable") from None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        BadZipFile,
    ) as error:
        raise DataError(
            f"{folder} is damaged ({error.__class__.__name__}); remove it, and `make repro` makes it anew"
        ) from None


def describe(sequences: Sequences) -> pd.DataFrame:
    """The statistics by which a dataset is known."""
    lengths, popularity = (
        sequences.lengths,
        np.bincount(sequences.items, minlength=sequences.num_items),
    )
    ties = np.diff(sequences.times) == 0
    ties[sequences.starts[1:-1] - 1] = False
    figures = {
        "users": sequences.num_users,
        "items": sequences.num_items,
        "interactions": len(sequences.items),
        "density, %": round(
            100 * len(sequences.items) / sequences.num_users / sequences.num_items, 2
        ),
        "median history": int(np.median(lengths)),
        "longest history": int(lengths.max()),
        "median interactions an item": int(np.median(popularity)),
        "share of the 10 % most popular items, %": round(
            100 * np.sort(popularity)[-len(popularity) // 10 :].sum() / popularity.sum(), 1
        ),
        "neighbours tied in time, %": round(100 * float(ties.mean()), 1),
    }
    ends = [int(sequences.times.min()), int(sequences.times.max())]
    dated = [
        str(np.datetime64(end, "s"))[:10] if 1e8 < ends[0] and ends[1] < 1e10 else f"{end:,}"
        for end in ends
    ]
    return pd.DataFrame(
        {
            "figure": [*figures, "time span"],
            "value": [*(f"{value:,}" for value in figures.values()), " to ".join(dated)],
        }
    )
