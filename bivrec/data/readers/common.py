"""What the readers share: where files are, tables whose first bad line is named, and ids."""

import csv
import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from jaxtyping import Bool, Int64
from numpy import ndarray

from bivrec.data.types import Raw
from bivrec.errors import RESTORE, DataError
from bivrec.settings import Dataset, project_root

MAX_LINE = 1 << 20  # bytes

NO_TAGS = pd.DataFrame(columns=["user", "item", "tag", "time"]).astype(
    {"user": "int64", "item": "int64", "tag": str, "time": "int64"}
)

MISSING = (  # texts that are nobody's id
    "", "nan", "NaN", "None", "null", "NULL", "NA", "N/A", "<NA>", "NaT",
)  # fmt: skip

DAT = "\x1f"  # what readers put in the place of `::`, so that a title may hold a tab

# A field with its end: quoted, with each quote inside doubled, or with no quote but pairs.
FIELD = re.compile(
    r'(?:"(?:[^"]|"")*+"|(?:[^",\r\n](?:[^",\r\n]|"[^",\r\n]*+")*+)?)(?:,|\r\n?|\n|\Z)'
)

TEXTS = ("title", "genres", "description")  # what a catalogue says about an item, beside its year


def raw_folder(folder: str) -> Path:
    """A dataset's folder: in BIVREC_DATA, raw/ or data/ of the project, whichever has it first. A
    folder that does not exist yet is to be made in the first of these. A relative BIVREC_DATA
    is relative to the project's folder, and `~` is the home folder. Raises DataError if it is a
    file.
    """
    places = [project_root() / "raw", project_root() / "data"]
    if chosen := os.environ.get("BIVREC_DATA"):
        places.insert(0, project_root() / os.path.expanduser(chosen))
        if places[0].is_file():
            raise DataError(f"BIVREC_DATA is {chosen}, a file; name the folder of the datasets")
    return next((p / folder for p in places if (p / folder).is_dir()), places[0] / folder)


def review_files(category: str) -> tuple[str, str]:
    """What Amazon's 5-core reviews of a category are called in the releases of 2018 and 2014."""
    return f"{category}_5.json.gz", f"reviews_{category}_5.json.gz"


def needed_files(dataset: Dataset) -> tuple[str, ...]:
    """The files that a dataset needs: names or patterns; of `a|b` one is enough."""
    if dataset.source == "amazon":
        category = dataset.source_settings.category
        return "|".join(review_files(category)), f"meta_{category}.json.gz"
    return {
        "movielens": ("ratings.csv", "movies.csv", "tags.csv"),
        "movielens_dat": ("ratings.dat", "movies.dat"),
        "mmrec": ("*.inter",),
        "plain": ("interactions.parquet|interactions.csv",),
    }.get(dataset.source, ())


def short_path(path: Path) -> str:
    """A file as messages name it: with the two folders above it."""
    return "/".join(path.parts[-3:])


def check_file(path: Path, remedy: str) -> None:
    """Raises DataError unless there is a file."""
    name = short_path(path)
    if path.is_dir():
        raise DataError(f"{name} is a folder, not a file; {remedy}")
    if path.is_symlink() and not path.exists():
        problem = f"is a link to {os.readlink(path)}, which does not exist"
        raise DataError(f"{name} {problem}; restore or remove it")
    if not path.is_file():
        raise DataError(f"{name} is missing; {remedy}")


def check_text(path: Path, remedy: str) -> None:
    """Raises DataError unless there is a file, and it is not UTF-16, as some programs save text."""
    check_file(path, remedy)
    with open(path, "rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{short_path(path)} is UTF-16 text, not UTF-8; save it as UTF-8")


def wrong_columns(path: Path, columns: Collection[str], problem: str, remedy: str) -> DataError:
    """The error for a table that has other columns than its format."""
    if any("\r" in column for column in columns):
        ends = f"{short_path(path)} has lines that end in a carriage return alone"
        return DataError(f"{ends}; save it with the line ends of Unix or Windows")
    shown = " ".join(",".join(columns).split())[:80]
    return DataError(f"{short_path(path)} has the columns {shown}, {problem}; {remedy}")


def whole_numbers(column: pl.Series) -> tuple[pl.Series, Bool[ndarray, "row"]]:
    """The column as integers, and which of its values are integers from 0 to 2^53."""
    numbers = column.cast(pl.Int64, strict=False)
    if numbers.null_count():  # 4.0 is a whole number too
        floats = column.cast(pl.Float64, strict=False)
        whole = (floats % 1 == 0) & (floats.abs() < 2**53)
        numbers = numbers.fill_null(floats.set(~whole, None).cast(pl.Int64))
    valid = numbers.is_between(0, 2**53, closed="left").fill_null(False).to_numpy()
    return numbers.fill_null(0), valid


def finite_numbers(column: pl.Series) -> tuple[pl.Series, Bool[ndarray, "row"]]:
    """The column as decimal numbers, and which of its values are finite ones."""
    numbers = column.cast(pl.Float64, strict=False)
    return numbers, numbers.is_finite().fill_null(False).to_numpy()


def timestamps(column: pl.Series) -> tuple[pl.Series, Bool[ndarray, "row"]]:
    """The column as times, fractions included, and which of its values are from 0 to 2^53."""
    whole, valid = whole_numbers(column)
    if valid.all():
        return whole, valid
    times, _ = finite_numbers(column)
    return times, times.is_between(0, 2**53, closed="left").fill_null(False).to_numpy()


def wrong_number(text: str, expected: str, remedy: str, time: bool) -> str:
    """What is wrong with a value that is not as expected, and the remedy."""
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if -np.inf < number < 0:
        return f"{text[:40]!r} is negative; {remedy}"
    if 2**53 <= number < np.inf:
        nanoseconds = "if it is in nanoseconds, divide it by 10^9, else " if time else ""
        return f"{text[:40]!r} is larger than 2^53; {nanoseconds}{remedy}"
    return f"{text[:40]!r} is not a {expected}; {remedy}"


PARSERS = {"whole number": whole_numbers, "number": finite_numbers, "timestamp": timestamps}


def read_table(
    path: Path,
    columns: Mapping[str, str],
    remedy: str = RESTORE,
    separator: str = ",",
    content: bytes | None = None,
    others: bool = False,
) -> pl.DataFrame:
    """A table with exactly these columns (`others`: and more), each a 'whole number', a 'number',
    a 'timestamp' or 'text'. `content` replaces the file's and has no header. Raises DataError for
    the first bad line."""
    name, header = short_path(path), content is None
    check_text(path, remedy)
    try:
        table = pl.read_csv(
            content or path,
            separator=separator,
            quote_char='"' if separator == "," else None,
            has_header=header,
            new_columns=None if header else list(columns),
            infer_schema=False,
            empty_string_is_null=False,
            glob=False,
        )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        problem = _parse_error(path, columns, separator, content)
        raise DataError(f"{name}{problem}; fix the line or {remedy}") from None
    complete = set(columns) <= set(table.columns)
    if not complete or not (others or table.columns == list(columns)):
        if "UTF-8" in (problem := _parse_error(path, columns, separator, content)):
            raise DataError(f"{name}{problem}; {remedy}")
        raise wrong_columns(path, table.columns, f"not {','.join(columns)}", remedy)
    if (table[:, -1] == "").any():  # polars fills short rows
        if ", line" in (problem := _parse_error(path, columns, separator, content)):
            raise DataError(f"{name}{problem}; fix the line or {remedy}")
    lines = np.arange(len(table)) + 1 + header
    if len(table):
        filled = ~table.select(pl.all_horizontal(pl.all() == "")).to_series()
        table, lines = table.filter(filled), lines[filled.to_numpy()]
    return _parse_values(table, columns, name, lines, remedy)


def _parse_values(
    table: pl.DataFrame,
    columns: Mapping[str, str],
    name: str,
    lines: Int64[ndarray, "row"],
    remedy: str,
) -> pl.DataFrame:
    """The table with its numbers and times as such; raises DataError for the first other value."""
    for column, expected in columns.items():
        if expected == "text":
            continue
        values, valid = PARSERS[expected](table[column])
        if not valid.all():
            row, fix = int(valid.argmin()), f"fix the line or {remedy}"
            wrong = wrong_number(table[column][row], expected, fix, "time" in column)
            raise DataError(f"{name}, line {lines[row]}: {column} {wrong}")
        table = table.with_columns(values.alias(column))
    return table


def _parse_error(
    path: Path, columns: Collection[str], separator: str, content: bytes | None
) -> str:
    """What is wrong with a table that polars cannot parse: the end of a sentence about the file."""
    try:
        text = (path.read_bytes() if content is None else content).decode()
    except UnicodeDecodeError as error:
        return f" is not UTF-8 text ({error.reason})"
    if not text.strip():
        return " is empty, not a table"
    width = 0 if content is None else len(columns)
    line, problem = _wrong_width(text, width, separator)
    quote_line, quote = _wrong_quote(text) if separator == "," else (0, "")
    if quote and (not problem or quote_line <= line):
        line, problem = quote_line, quote
    return f", line {line}: {problem}" if problem else " is not a table"


def _wrong_width(text: str, width: int, separator: str) -> tuple[int, str]:
    """The first line with another number of fields than the header, or `width`, and its problem."""
    quoting = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
    csv.field_size_limit(1 << 24)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting)
    separated = " separated by ::" if separator == DAT else ""
    try:
        width = width or len(next(rows))
        for row in rows:
            if row and len(row) != width:
                return rows.line_num, f"{len(row)} fields, not {width}{separated}"
    except csv.Error as error:
        return rows.line_num, str(error)
    return 0, ""


def _wrong_quote(text: str) -> tuple[int, str]:
    """The first line with a quote out of place, and its problem."""
    place = text.rfind("\n", 0, text.find('"')) + 1 if '"' in text else len(text)
    while place < len(text):
        field = FIELD.match(text, place)
        if not field:
            line = text.count("\n", 0, place) + 1
            if text[place] == '"' and '"' not in text[place + 1 :]:
                return line, "a quote without its end"
            return line, 'a quote inside a field; write it as "" and quote the field'
        place = field.end()
    return 0, ""


def to_pandas(**columns: Any) -> pd.DataFrame:
    """A pandas table of columns; polars numbers are not copied."""
    return pd.DataFrame(
        {
            name: column.to_numpy() if isinstance(column, pl.Series) else column
            for name, column in columns.items()
        }
    )


def number_ids(names: Sequence[str]) -> Int64[ndarray, "name"]:
    """A number for each text id, by a hash of its bytes alone: a user's number is the same in every
    dataset. Raises DataError if two ids share a hash."""
    known = {
        name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
        for name in dict.fromkeys(names)
    }
    if len(set(known.values())) < len(known):
        raise DataError("two ids of the dataset have the same hash; rename one of them")
    return np.array([known[name] for name in names], dtype="int64")


def build_raw(
    path: Path,
    columns: Mapping[str, pl.Series],
    listed: tuple[Path, pl.DataFrame] | None,
    remedy: str,
) -> Raw:
    """The raw tables of interactions in `path` whose users and items are text or whole numbers;
    `listed` is the table that describes the items, if there is one, with its file."""
    user, _ = _number(columns["user"], "user", path, remedy)
    item, numbers = _number(columns["item"], "item", path, remedy)
    interactions = to_pandas(user=user, item=item, time=columns["time"])
    items = pl.DataFrame({"item": list(numbers)}, schema={"item": pl.String})
    if listed is not None:
        items = _listed_items(numbers, path, *listed)
    years = _years(items["year"]) if "year" in items.columns else np.zeros(len(items), int)
    ids = items["item"].to_list()
    texts = {
        text: items[text].to_list() if text in items.columns else [""] * len(ids) for text in TEXTS
    }
    codes = np.array([numbers[name] for name in ids], dtype="int64")
    return Raw(interactions, to_pandas(item=codes, **texts, year=years, id=ids), NO_TAGS)


def _years(column: pl.Series) -> pl.Series:
    """Each value's year: a whole number from 1 to 9999, else the first four digits that stand alone
    (`1999-05-01`, `c. 1999`), else 0."""
    numbers, _ = whole_numbers(column)
    found = column.str.extract(r"(?:^|\D)(\d{4})(?:\D|$)").cast(pl.Int64).fill_null(0)
    valid = numbers.is_between(1, 9999)
    return numbers.zip_with(valid, found)


def _number(
    column: pl.Series, role: str, path: Path, remedy: str
) -> tuple[pl.Series, dict[str, int]]:
    """A column of ids as numbers, and the number of each id: the id itself if all are whole
    numbers, else the hash of its text. Empty texts and those in MISSING are no ids."""
    names = column.cast(pl.String).fill_null("")
    missing = names.is_in(MISSING)
    if missing.any():
        row = missing.arg_max()
        shown = f" ({names[row]!r} marks a missing one)" if names[row] else ""
        raise DataError(f"{short_path(path)}, row {row + 1} has no {role}{shown}; {remedy}")
    unique = names.unique(maintain_order=True)
    numbers, valid = whole_numbers(unique)
    if not valid.all() or (numbers.cast(pl.String) != unique).any():  # 007 is text
        numbers = pl.Series(number_ids(unique.to_list()))
    known = dict(zip(unique.to_list(), numbers.to_list()))
    return names.replace_strict(known, return_dtype=pl.Int64), known


def _listed_items(
    numbers: Mapping[str, int], path: Path, list_path: Path, items: pl.DataFrame
) -> pl.DataFrame:
    """The rows of the items that have interactions; raises DataError unless each is listed once."""
    for item in items["item"].filter(items["item"].is_duplicated())[:1]:
        raise DataError(f"{short_path(list_path)} lists item {item!r} twice; remove one")
    known = set(items["item"].to_list())
    for item in numbers:
        if item not in known:
            problem, remedy = f"has the item {item!r}, which {list_path.name} lacks", "add it there"
            near = next((name for name in known if _form(name) == _form(item)), None)
            if near is not None:
                remedy = _same_form(item, near)
            raise DataError(f"{short_path(path)} {problem}; {remedy}")
    return items.filter(items["item"].is_in(list(numbers)))


def _form(name: str) -> str:
    """An id without what the eye cannot see, and without the `.0` that pandas adds beside NaN."""
    visible = unicodedata.normalize("NFKC", name).replace("\ufeff", "").replace("\u200b", "")
    return visible.strip().removesuffix(".0")


def _same_form(item: str, near: str) -> str:
    """The remedy for an item that is listed in another form."""
    if item.strip().removesuffix(".0") == near:
        return f"write {near!r}, as there"
    if near.strip().removesuffix(".0") == item:
        return f"write {item!r} there, not {near!r}"
    remedy = f"write {_form(item)!r} in both"
    return f"it has {ascii(near)}, which differs only in Unicode form; {remedy}"
