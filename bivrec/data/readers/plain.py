"""Your own data, in the plain form."""

import difflib
from pathlib import Path

import polars as pl

from bivrec.data.readers.common import (
    TEXTS,
    build_raw,
    check_file,
    read_table,
    short_path,
    whole_numbers,
    wrong_columns,
    wrong_number,
)
from bivrec.data.types import Raw
from bivrec.errors import RESTORE, DataError
from bivrec.settings import Folder

MAX_ROWS = 1 << 29

MISNAMES = {"title": ("name", "product_title", "product_name", "item_title", "item_name")}


def read_plain(folder: Path, settings: Folder, remedy: str = RESTORE) -> Raw:
    """`interactions` with the columns user, item and time, and optionally `items` with item and any
    of title, year, genres and description; each .parquet or .csv. Ids are whole numbers or text."""
    interactions = _read_either(folder, "interactions", ["user", "item", "time"], remedy)
    if interactions is None:
        where = f"{folder.parent.name}/{folder.name}"
        raise DataError(f"{where} has neither interactions.parquet nor interactions.csv; {remedy}")
    items = _read_either(folder, "items", ["item"], remedy)
    if items is not None:
        _check_names(items[0], items[1].columns)
    path, table = interactions
    times, valid = whole_numbers(table["time"])
    if not valid.all():
        row = int(valid.argmin())
        remedy = "fix it; dates are written as seconds since 1970"
        wrong = wrong_number(table["time"][row], "whole number", remedy, True)
        raise DataError(f"{short_path(path)}, row {row + 1}: time {wrong}")
    columns = {"user": table["user"], "item": table["item"], "time": times}
    return build_raw(path, columns, items, remedy)


def _read_either(
    folder: Path, name: str, columns: list[str], remedy: str
) -> tuple[Path, pl.DataFrame] | None:
    """The Parquet or CSV table of that name with its path, if there is one; all columns are text.
    Raises DataError if there are both, of which one may be old."""
    paths = [folder / f"{name}.parquet", folder / f"{name}.csv"]
    found = [path for path in paths if path.is_symlink() or path.exists()]
    if len(found) > 1:
        problem = f"has both {paths[0].name} and {paths[1].name}"
        raise DataError(f"{folder.parent.name}/{folder.name} {problem}; remove one")
    for path in found:
        check_file(path, remedy)
        if path.suffix == ".parquet":
            return path, read_parquet(path, columns, remedy)
        return path, read_table(path, dict.fromkeys(columns, "text"), remedy, others=True)
    return None


def check_texts(folder: Path) -> None:
    """Raises DataError if the list of items, where there is one, has no column that becomes
    text."""
    for path in (folder / "items.parquet", folder / "items.csv"):
        columns = _column_names(path) if path.is_file() else TEXTS
        if not {*TEXTS, "year"} & set(columns):
            problem = "has no column title, year, genres or description"
            remedy = "add one, or set features.modality: image"
            theirs = f"its columns are {','.join(columns)[:80]}"
            raise DataError(f"{short_path(path)} {problem}; {theirs}; {remedy}")


def _column_names(path: Path) -> list[str]:
    """The columns of a table that has been read before."""
    if path.suffix == ".parquet":
        return pl.scan_parquet(path, glob=False).collect_schema().names()
    return pl.read_csv(path, n_rows=0, glob=False).columns


def _check_names(path: Path, columns: list[str]) -> None:
    """Raises DataError for a column such as `Title`, `genre` or `name`, which would be ignored."""
    for name in (*TEXTS, "year"):
        others = {column.lower(): column for column in columns}
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
        near += [other for other in MISNAMES.get(name, ()) if other in others]
        if near and name not in columns:
            problem = f"has the column {others[near[0]]!r}, but no {name!r}"
            raise DataError(f"{short_path(path)} {problem}; rename it or remove it")


def read_parquet(
    path: Path, columns: list[str], remedy: str, max_rows: int = MAX_ROWS
) -> pl.DataFrame:
    """These columns, and what describes items, as text. The number of rows is checked before they
    are read: a column of one value takes no room on the disk."""
    name = short_path(path)
    try:
        table = pl.scan_parquet(path, glob=False)
        names, num_rows = table.collect_schema().names(), table.select(pl.len()).collect().item()
        if num_rows > max_rows:
            raise DataError(f"{name} has {num_rows:,} rows, more than {max_rows:,}; {remedy}")
        if not set(columns) <= set(names):
            raise wrong_columns(path, names, f"not {','.join(columns)}", remedy)
        if columns == ["item"]:
            _check_names(path, names)
        chosen = [column for column in names if column in (*columns, *TEXTS, "year")]
        return table.select(pl.col(chosen).cast(pl.String).fill_null("")).collect()
    except DataError:
        raise
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        problem = f"cannot be read as Parquet ({type(error).__name__})"
        raise DataError(f"{name} {problem}; {remedy}") from None
