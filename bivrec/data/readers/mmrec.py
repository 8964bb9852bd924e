"""MMRec's and RecBole's .inter files."""

from pathlib import Path

import polars as pl

from bivrec.data.readers.common import (
    MAX_LINE,
    build_raw,
    check_text,
    read_table,
    short_path,
    wrong_columns,
)
from bivrec.data.types import Raw
from bivrec.errors import RESTORE, DataError
from bivrec.settings import Folder

ROLES = {
    "user": ("userid", "user_id", "user"),
    "item": ("itemid", "item_id", "item"),
    "time": ("timestamp", "time"),
}

SEPARATORS = {"comma": ",", "semicolon": ";", "space": " "}


def read_mmrec(folder: Path, settings: Folder, remedy: str = RESTORE) -> Raw:
    """`<name>.inter`: tab-separated, with a header, RecBole's with types (`user_id:token`). Only
    users, items and times are read; items have no titles."""
    files = sorted(path for path in folder.glob("*.inter") if not path.name.startswith("."))
    if len(files) != 1:
        where = f"{folder.parent.name}/{folder.name}"
        raise DataError(f"{where} has {len(files)} files *.inter, not one; {remedy}")
    columns = _find_columns(files[0], remedy)
    types = {c: "text" if c.endswith(":token") else "whole number" for c in columns.values()}
    types[columns["time"]] = "timestamp"
    table = read_table(files[0], types, remedy, "\t", others=True)
    users, items, times = (table[column] for column in columns.values())
    series = {"user": users, "item": items, "time": _whole_times(users, times)}
    return build_raw(files[0], series, None, remedy)


def _whole_times(users: pl.Series, times: pl.Series) -> pl.Series:
    """Times without fractions; their ranks if some user's order depends on the fractions."""
    whole = times.floor().cast(pl.Int64)
    pairs = pl.DataFrame({"user": users, "time": times, "whole": whole})
    if pairs.n_unique(["user", "whole"]) == pairs.n_unique(["user", "time"]):
        return whole
    return times.rank("dense").cast(pl.Int64)


def _find_columns(path: Path, remedy: str) -> dict[str, str]:
    """The columns of users, items and times."""
    check_text(path, remedy)
    with open(path, "rb") as file:
        line = file.readline(MAX_LINE)
    header = line.decode("utf-8-sig", "replace").rstrip("\r\n").split("\t")
    if not line.strip():
        raise DataError(f"{short_path(path)} is empty, not a table; {remedy}")
    if any("\r" in column for column in header):
        raise wrong_columns(path, header, "", remedy)
    for name, separator in SEPARATORS.items():
        if len(header) == 1 and separator in header[0]:
            problem = f"separated by {name}s, not tabs"
            raise wrong_columns(path, header, problem, f"replace each {name} by a tab")
    columns, known = {}, {column.split(":")[0].lower(): column for column in header}
    for role, names in ROLES.items():
        column = next((known[name] for name in names if name in known), None)
        if column is None:
            problem = f"none of which is the {role} ({', '.join(names)})"
            raise wrong_columns(path, header, problem, remedy)
        columns[role] = column
    return columns
