"""Histories and lists of recommendations in tables and files."""

import os
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
from numpy import ndarray

from bivrec.errors import DataError

COLUMNS = "the columns user and item (oldest first), and may have time"


def check_histories(histories: Any, name: str) -> None:
    """Raises DataError unless each row of a table has a user and an item."""
    if not isinstance(histories, pd.DataFrame):
        problem = f"{name} is of the type {type(histories).__name__}"
        raise DataError(f"{problem}; give a pandas DataFrame with the columns user and item")
    check_columns([*histories.columns], name)
    for column in ("user", "item"):
        values = histories[column]
        for row, value in enumerate(values if values.dtype == object else (), 1):
            if not isinstance(value, Hashable):
                remedy = f"give one row per user and item; use explode('{column}')"
                raise DataError(f"{name}, row {row}: the {column} is {value!r:.60}; {remedy}")
        check_gaps(values.isna().to_numpy(), name, column)


def check_columns(columns: list, name: str) -> None:
    """Raises DataError for a table without the columns user and item, or with two of a name."""
    if not {"user", "item"} <= {*columns}:
        has = ", ".join(map(str, columns)) or "none"
        raise DataError(f"{name} has the columns {has}; it needs user and item")
    for column in ("user", "item"):
        if (count := columns.count(column)) > 1:
            raise DataError(f"{name} has {count} columns {column}; keep one of them")


def check_gaps(gaps: Any, name: str, column: str) -> None:
    """Raises DataError for the first of the rows that lack a value."""
    if gaps.any():
        problem = f"{name}, row {int(gaps.argmax()) + 1} has no {column}"
        raise DataError(f"{problem}; write it there, or remove the row")


def read_histories(path: str | Path) -> pd.DataFrame:
    """The columns user and item of a CSV or Parquet file, in order of its column time if it has
    one. Raises DataError if it cannot be read or a row lacks one of them."""
    table = read_table(Path(path))
    check_columns(table.columns, str(path))
    histories = pd.DataFrame({name: table[name].to_list() for name in ("user", "item")})
    blank = histories.isna().all(axis=1).to_numpy()  # empty lines of a CSV file
    histories = histories[~blank].reset_index(drop=True)
    if histories.empty:
        raise DataError(f"{path} has no rows; give at least one user and item")
    check_histories(histories, str(path))
    if "time" not in table.columns:
        return histories
    times = read_times(table["time"].filter(~pl.Series(blank)), str(path))
    return histories.iloc[times.argsort(kind="stable")].reset_index(drop=True)


def read_table(path: Path) -> pl.DataFrame:
    """A CSV or Parquet file, in which the ids of CSV stay text; raises DataError if there is none
    that can be read."""
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        return pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        problem = f"{path} cannot be read ({type(error).__name__})"
        raise DataError(f"{problem}; it must be CSV or Parquet with {COLUMNS}") from None


def read_times(times: pl.Series, name: str) -> ndarray:
    """Times as numbers, from numbers or from ISO dates (UTC unless they have a zone); raises
    DataError for one that is neither, and for a column of both."""
    check_gaps(times.is_null().to_numpy(), name, "time")
    try:
        numbers = times.cast(pl.Float64, strict=False)
        if numbers.is_null().all():
            dates = times.str.extract(r"^(\d{4}-\d\d-\d\d.*)")
            numbers = dates.str.to_datetime(strict=False, time_zone="UTC").cast(pl.Float64)
    except pl.exceptions.PolarsError:
        numbers = pl.Series([None] * len(times), dtype=pl.Float64)
    if wrong := (~numbers.is_finite().fill_null(False)).arg_true().to_list():
        shown = f"row {wrong[0] + 1}: its time {times[wrong[0]]!r}"
        remedy = "write every time as seconds since 1970, or every time as a date such as"
        problem = f"{name}, {shown} cannot be ordered with the others; {remedy}"
        raise DataError(f"{problem} 2026-11-30 16:00:00, or leave the column out")
    return numbers.to_numpy()


def read_items(path: str | Path) -> list[str]:
    """The item ids of a text file, one per line. Raises DataError if it has none or cannot be
    read."""
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        problem = f"{path} cannot be read ({type(error).__name__})"
        raise DataError(f"{problem}; give a text file with an item id per line") from None
    if not (items := [line.strip() for line in lines if line.strip()]):
        raise DataError(f"{path} is empty; give a text file with an item id per line")
    return items


def check_out(path: str | Path, inputs: list[str]) -> None:
    """Raises DataError for a file that `write_lists` cannot write, and for one that is read."""
    path = Path(path)
    check_suffix(path)
    if not path.parent.is_dir():
        raise DataError(f"the folder {path.parent} does not exist; make it")
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file")
    if path.exists() and any(Path(file).exists() and path.samefile(file) for file in inputs):
        raise DataError(f"{path} is read and would be overwritten; give --out another name")


def check_suffix(path: str | Path) -> None:
    """Raises DataError for a name that `write_lists` cannot write."""
    if Path(path).suffix not in (".parquet", ".csv"):
        raise DataError(f"{path} is neither .parquet nor .csv; name the file with one of them")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes a file's place once it is written."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_lists(lists: pd.DataFrame, path: str | Path) -> None:
    """Writes a table as Parquet or CSV, by the file's suffix, whole or not at all; raises DataError
    for another suffix and a place that cannot be written."""
    check_suffix(path)
    path = Path(path).resolve()  # a link stays one
    table = pl.DataFrame({name: column.to_list() for name, column in lists.items()})
    try:
        with replacing(path) as part:
            table.write_parquet(part) if path.suffix == ".parquet" else table.write_csv(part)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be written ({reason}); write elsewhere") from None
