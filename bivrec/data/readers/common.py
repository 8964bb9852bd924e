"""What the readers share: tables, records and ids."""

import ast
import csv
import gzip
import hashlib
import html
import io
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from jaxtyping import Bool, Int64
from numpy import ndarray

from bivrec.data.sequences import RESTORE
from bivrec.data.types import Raw
from bivrec.errors import DataError
from bivrec.settings import Dataset, project_root

MAX_LINE, MAX_FILE, MAX_ROWS = 1 << 20, 1 << 34, 1 << 29  # bytes, bytes unpacked, rows

NO_TAGS = pd.DataFrame(columns=["user", "item", "tag"]).astype(
    {"user": "int64", "item": "int64", "tag": str}
)

WORDS = ("title", "year", "genres", "description")

ROLES = {
    "user": ("userid", "user_id", "user"),
    "item": ("itemid", "item_id", "item"),
    "time": ("timestamp", "time"),
}


def raw_folder(folder: str) -> Path:
    """Where a dataset's files lie or are to be put: in BIVREC_DATA, else in raw/ or, embedded, data/ of the project."""
    own = [Path(os.environ["BIVREC_DATA"])] if os.environ.get("BIVREC_DATA") else []
    places = [place / folder for place in (*own, project_root() / "raw", project_root() / "data")]
    return next((place for place in places if place.is_dir()), places[0])


def needed_files(dataset: Dataset) -> tuple[str, ...]:
    """The files without which a dataset cannot be read; a name may be a pattern, and of `a|b` one is enough."""
    if dataset.source == "amazon":
        return f"reviews_{dataset.own.category}_5.json.gz", f"meta_{dataset.own.category}.json.gz"
    return {
        "movielens": ("ratings.csv", "movies.csv", "tags.csv"),
        "movielens_dat": ("ratings.dat", "movies.dat"),
        "mmrec": ("*.inter",),
        "plain": ("interactions.parquet|interactions.csv",),
    }.get(dataset.source, ())


def _name(path: Path) -> str:
    return f"{path.parent.parent.name}/{path.parent.name}/{path.name}"


def whole_numbers(column: pl.Series) -> tuple[pl.Series, Bool[ndarray, "row"]]:
    """The column as integers from 0 to 2^53, and which of it are such."""
    numbers = column.cast(pl.Int64, strict=False)
    if numbers.null_count():  # as 4.0 is
        floats = column.cast(pl.Float64, strict=False)
        numbers = numbers.fill_null(
            floats.set(~((floats % 1 == 0) & (floats.abs() < 2**53)), None).cast(pl.Int64)
        )
    good = numbers.is_between(0, 2**53, closed="left").fill_null(False).to_numpy()
    return numbers.fill_null(0), good


def read_table(
    path: Path,
    columns: dict[str, str],
    mend: str = RESTORE,
    separator: str = ",",
    text: bytes | None = None,
    some: bool = False,
) -> pl.DataFrame:
    """A table with just these columns (with `some`, these and others), each a 'whole number', a 'number' or 'text'; the
    first bad line is named. `text` stands for the file's content, without a header."""
    name, quote = _name(path), '"' if separator == "," else None
    if not path.is_file():
        raise DataError(f"{name} is missing; {mend}")
    given = {
        "has_header": text is None,
        "new_columns": list(columns) if text is not None else None,
        "quote_char": quote,
    }
    try:
        table = pl.read_csv(
            text or path,
            separator=separator,
            infer_schema=False,
            empty_string_is_null=False,
            glob=False,
            **given,
        )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        raise DataError(
            f"{name}{_ragged_line(path, separator, text)}; mend the line or {mend}"
        ) from None
    if not set(columns) <= set(table.columns) or not (some or table.columns == list(columns)):
        if "UTF-8" in (told := _ragged_line(path, separator, text)):
            raise DataError(f"{name}{told}; {mend}")
        raise DataError(
            f"{name} has the columns {' '.join(','.join(table.columns).split())[:80]}, not {','.join(columns)}; {mend}"
        )
    if (table[:, -1] == "").any() and ", line" in (ragged := _ragged_line(path, separator, text)):
        raise DataError(f"{name}{ragged}; mend the line or {mend}")
    table = table.filter(~pl.all_horizontal(pl.all() == "")) if len(table) else table  # blank lines
    for column, kind in columns.items():
        if kind == "text":
            continue
        if kind == "number":
            values = table[column].cast(pl.Float64, strict=False)
            good = values.is_finite().fill_null(False).to_numpy()
        else:
            values, good = whole_numbers(table[column])
        if not good.all():
            told = f"line {good.argmin() + 1 + (text is None)}: {column} {table[column][int(good.argmin())][:40]!r} is not a {kind}"
            raise DataError(f"{name}, {told}; mend the line or {mend}")
        table = table.with_columns(values.alias(column))
    return table


def _ragged_line(path: Path, separator: str, text: bytes | None) -> str:
    """What is wrong with a table that cannot be parsed."""
    try:
        with io.TextIOWrapper(
            io.BytesIO(text) if text else open(path, "rb"), "utf-8", newline=""
        ) as file:
            csv.field_size_limit(1 << 24)
            rows = csv.reader(
                file,
                delimiter=separator,
                quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE,
            )
            width = len(next(rows, ()))
            for row in rows:
                if row and len(row) != width:
                    return f", line {rows.line_num}: {len(row)} fields, not {width}"
        return " is not a table" if width else " is empty, not a table"
    except UnicodeDecodeError as error:
        return f" is not UTF-8 text ({error.reason})"
    except csv.Error as error:
        return f", line {rows.line_num}: {error}"


def _frame(**columns: Any) -> pd.DataFrame:
    """A pandas table, numbers without a copy."""
    return pd.DataFrame(
        {
            name: column.to_numpy() if isinstance(column, pl.Series) else column
            for name, column in columns.items()
        }
    )


def number_ids(names: Sequence[str]) -> Int64[ndarray, "name"]:
    """Each published id as a number of its own, from its bytes alone, so that a user is the same one in every dataset."""
    known = {
        name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
        for name in dict.fromkeys(names)
    }
    if len(set(known.values())) < len(known):
        raise DataError("two ids of the dataset have the same hash; rename one of them")
    return np.array([known[name] for name in names], dtype="int64")


def _lines(path: Path, mend: str) -> Iterator[tuple[str, bytes]]:
    """The lines of a gzip file, each with its place; a file cut short, a line beyond a mebibyte and a file that unpacks
    without end are refused."""
    name, number, size = _name(path), 0, 0
    try:
        with gzip.open(path) as file:
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise DataError(
                        f"{name}, line {number} is longer than {MAX_LINE:,} bytes; {mend}"
                    )
                if (size := size + len(line)) > MAX_FILE:
                    raise DataError(f"{name} unpacks to more than {MAX_FILE:,} bytes; {mend}")
                yield f"{name}, line {number}", line
    except FileNotFoundError:
        raise DataError(f"{name} is missing; {mend}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{name} is damaged or cut short after line {number} ({error.__class__.__name__}); {mend}"
        ) from None


def _record(line: bytes, where: str, mend: str) -> dict[str, Any]:
    """A line as JSON or, as in some of the published files, a Python literal."""
    try:
        record = json.loads(line)
    except ValueError:
        try:
            record = ast.literal_eval(line.decode("utf-8"))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise DataError(
                f"{where} is neither JSON nor a Python literal: {line[:40]!r}; {mend}"
            ) from None
    if not isinstance(record, dict):
        raise DataError(f"{where} is no record: {line[:40]!r}; {mend}")
    return record


def _plain_text(value: Any) -> str:
    """Words of a field, as text without mark-up."""
    return " ".join(html.unescape(value).split())[:2000] if isinstance(value, str) else ""


def _own_ids(
    path: Path, table: dict[str, pl.Series], about: tuple[Path, pl.DataFrame] | None, mend: str
) -> Raw:
    """Interactions with ids that are whole numbers, or else text, which is numbered by its hash; items with what is told of them."""
    numbers = {}
    for role in ("user", "item"):
        text = table[role].cast(pl.String)
        for row in np.flatnonzero((text.fill_null("") == "").to_numpy())[:1]:
            raise DataError(f"{_name(path)}, row {row + 1} has no {role}; {mend}")
        names = text.unique(maintain_order=True)
        values, good = whole_numbers(names)
        whole = good.all() and (values.cast(pl.String) == names).all()  # 007 is a name
        codes = dict(
            zip(
                names.to_list(),
                (values.to_numpy() if whole else number_ids(names.to_list())).tolist(),
            )
        )
        numbers[role] = text.replace_strict(codes, return_dtype=pl.Int64)
    told = {column: [] for column in WORDS}
    if about is not None:
        where, items = about
        for item in items["item"].filter(items["item"].is_duplicated())[:1]:
            raise DataError(f"{_name(where)} lists item {item!r} twice; mend it")
        for item in set(codes) - set(items["item"].to_list()):
            raise DataError(
                f"{_name(path)} has the item {item!r}, which {where.name} lacks; add it there"
            )
        items = items.filter(items["item"].is_in(list(codes)))
        ids, told = (
            items["item"].to_list(),
            {column: items[column].to_list() for column in told if column in items.columns},
        )
    else:
        ids = list(codes)
    years = whole_numbers(pl.Series(told.get("year") or ["0"] * len(ids)))[0]
    texts = {
        column: told.get(column) or [""] * len(ids) for column in ("title", "genres", "description")
    }
    catalogue = _frame(
        item=np.array([codes[name] for name in ids], dtype="int64"), **texts, year=years, id=ids
    )
    return Raw(
        _frame(user=numbers["user"], item=numbers["item"], time=table["time"]), catalogue, NO_TAGS
    )
