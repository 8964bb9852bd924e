"""Sources: files as published, read line by line or column by column; the first thing wrong is named by file and line."""

import ast
import csv
import gzip
import hashlib
import html
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from bivrec.sequences import RESTORE, DataError, Raw
from bivrec.settings import Amazon, Dataset, Features, Folder, Modality, MovieLens, project_root

MAX_LINE, MAX_FILE, MAX_ROWS = 1 << 20, 1 << 34, 1 << 29  # bytes, bytes unpacked, rows
IMAGE_RECORD = np.dtype([("asin", "S10"), ("values", "<f4", (4096,))])
NO_TAGS = pd.DataFrame(columns=["user", "item", "tag"]).astype({"user": "int64", "item": "int64", "tag": str})
WORDS = ("title", "year", "genres", "description")
ROLES = {"user": ("userid", "user_id", "user"), "item": ("itemid", "item_id", "item"), "time": ("timestamp", "time")}


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
        numbers = numbers.fill_null(floats.set(~((floats % 1 == 0) & (floats.abs() < 2**53)), None).cast(pl.Int64))
    good = numbers.is_between(0, 2**53, closed="left").fill_null(False).to_numpy()
    return numbers.fill_null(0), good


def read_table(path: Path, columns: dict[str, str], mend: str = RESTORE, separator: str = ",", text: bytes | None = None, some: bool = False) -> pl.DataFrame:
    """A table with just these columns (with `some`, these and others), each a 'whole number', a 'number' or 'text'; the
    first bad line is named. `text` stands for the file's content, without a header."""
    name, quote = _name(path), '"' if separator == "," else None
    if not path.is_file():
        raise DataError(f"{name} is missing; {mend}")
    given = {"has_header": text is None, "new_columns": list(columns) if text is not None else None, "quote_char": quote}
    try:
        table = pl.read_csv(text or path, separator=separator, infer_schema=False, empty_string_is_null=False, glob=False, **given)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        raise DataError(f"{name}{_ragged_line(path, separator, text)}; mend the line or {mend}") from None
    if not set(columns) <= set(table.columns) or not (some or table.columns == list(columns)):
        if "UTF-8" in (told := _ragged_line(path, separator, text)):
            raise DataError(f"{name}{told}; {mend}")
        raise DataError(f"{name} has the columns {' '.join(','.join(table.columns).split())[:80]}, not {','.join(columns)}; {mend}")
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
        with io.TextIOWrapper(io.BytesIO(text) if text else open(path, "rb"), "utf-8", newline="") as file:
            csv.field_size_limit(1 << 24)
            rows = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE)
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
    return pd.DataFrame({name: column.to_numpy() if isinstance(column, pl.Series) else column for name, column in columns.items()})


def read_movielens(folder: Path, settings: MovieLens, mend: str = RESTORE) -> Raw:
    """A MovieLens CSV release; every rating is an interaction, the domain is the films of the years asked for."""
    pair = {"userId": "whole number", "movieId": "whole number"}
    ratings = read_table(folder / "ratings.csv", pair | {"rating": "number", "timestamp": "whole number"}, mend)
    films = read_table(folder / "movies.csv", {"movieId": "whole number", "title": "text", "genres": "text"}, mend)
    tags = read_table(folder / "tags.csv", pair | {"tag": "text", "timestamp": "whole number"}, mend)
    tags = _frame(user=tags["userId"], item=tags["movieId"], tag=tags["tag"].to_list())
    ratings = _frame(user=ratings["userId"], item=ratings["movieId"], time=ratings["timestamp"])
    return _film_domain(folder, ".csv", ratings, films, tags, settings, mend, 2)


def read_movielens_dat(folder: Path, settings: Folder, mend: str = RESTORE) -> Raw:
    """MovieLens-1M: `::` between fields, latin-1, no header, no tags."""
    tables, columns = {}, dict.fromkeys(("user", "item", "rating", "time"), "whole number")
    for name, kinds in (("ratings", columns), ("movies", {"movieId": "whole number", "title": "text", "genres": "text"})):
        path = folder / f"{name}.dat"
        text = path.read_bytes().replace(b"::", b"\t").decode("latin-1").encode() if path.is_file() else None
        if text == b"":
            raise DataError(f"{_name(path)} is empty, not a table; {mend}")
        tables[name] = read_table(path, kinds, mend, "\t", text)
    ratings = _frame(**{name: tables["ratings"][name] for name in ("user", "item", "time")})
    return _film_domain(folder, ".dat", ratings, tables["movies"], NO_TAGS, MovieLens(folder=settings.folder), mend, 1)


def _film_domain(folder: Path, kind: str, ratings: pd.DataFrame, films: pl.DataFrame, tags: pd.DataFrame, settings: MovieLens, mend: str, first: int) -> Raw:
    """The films of the years asked for, and what users did with them."""
    films = _frame(item=films["movieId"], title=films["title"].to_list(), genres=films["genres"].to_list())
    for film in films.loc[films["item"].duplicated(), "item"]:
        raise DataError(f"{folder.name}/movies{kind} lists film {film} twice; {mend}")
    for row, film in ratings.loc[~ratings["item"].isin(films["item"]), "item"].items():
        raise DataError(f"{folder.name}/ratings{kind}, line {row + first}: film {film} is not in movies{kind}; {mend}")
    titles = films["title"].str.strip().str.extract(r"^(?P<title>.*?)\s*(?:\((?P<year>\d{4})(?:[–-]\d{0,4})?\))?$")
    genres = films["genres"].replace("(no genres listed)", "").str.replace("|", ", ")
    items = pd.DataFrame({"item": films["item"], "title": titles["title"], "year": pd.to_numeric(titles["year"]), "genres": genres, "description": ""})
    if settings.first_year is None and settings.last_year is None:
        return Raw(ratings, items.fillna({"year": 0}).astype({"year": "int64"}), tags)
    items = items[items["year"].between(settings.first_year or 0, settings.last_year or 9999)].astype({"year": "int64"})
    return Raw(*(part[part["item"].isin(items["item"])].reset_index(drop=True) for part in (ratings, items, tags)))


def number_ids(names: Sequence[str]) -> Int64[ndarray, "name"]:
    """Each published id as a number of its own, from its bytes alone, so that a user is the same one in every dataset."""
    known = {name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1 for name in dict.fromkeys(names)}
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
                    raise DataError(f"{name}, line {number} is longer than {MAX_LINE:,} bytes; {mend}")
                if (size := size + len(line)) > MAX_FILE:
                    raise DataError(f"{name} unpacks to more than {MAX_FILE:,} bytes; {mend}")
                yield f"{name}, line {number}", line
    except FileNotFoundError:
        raise DataError(f"{name} is missing; {mend}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} is damaged or cut short after line {number} ({error.__class__.__name__}); {mend}") from None


def _record(line: bytes, where: str, mend: str) -> dict[str, Any]:
    """A line as JSON or, as in some of the published files, a Python literal."""
    try:
        record = json.loads(line)
    except ValueError:
        try:
            record = ast.literal_eval(line.decode("utf-8"))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise DataError(f"{where} is neither JSON nor a Python literal: {line[:40]!r}; {mend}") from None
    if not isinstance(record, dict):
        raise DataError(f"{where} is no record: {line[:40]!r}; {mend}")
    return record


def _plain_text(value: Any) -> str:
    """Words of a field, as text without mark-up."""
    return " ".join(html.unescape(value).split())[:2000] if isinstance(value, str) else ""


def read_amazon(folder: Path, settings: Amazon, mend: str = RESTORE) -> Raw:
    """McAuley's 5-core reviews of 2014, each an interaction at its day, and the products' titles, categories (without the
    first, the category itself), brands and descriptions. Ids are text, numbered by their hash, and kept in `id`."""
    users, items, times = [], [], []
    for where, line in _lines(folder / f"reviews_{settings.category}_5.json.gz", mend):
        record = _record(line, where, mend)
        user, item, time = (record.get(key) for key in ("reviewerID", "asin", "unixReviewTime"))
        if not (isinstance(user, str) and isinstance(item, str) and type(time) is int and 0 <= time < 2**53):
            raise DataError(f"{where} lacks a reviewerID, an asin or a unixReviewTime; {mend}")
        users.append(user), items.append(item), times.append(time)
    told = dict.fromkeys(items, ("", "", ""))
    for where, line in _lines(folder / f"meta_{settings.category}.json.gz", mend):
        asin = re.search(rb"""['"]asin['"]\s*:\s*['"]([^'"]+)['"]""", line)
        if asin is None:
            raise DataError(f"{where} has no asin; {mend}")
        if (item := asin[1].decode("latin-1")) in told:
            record = _record(line, where, mend)
            lists = record.get("categories") or []
            kinds = [word for path in lists if isinstance(path, list) for word in path[1:] if isinstance(word, str)]
            about = ". ".join(filter(None, (_plain_text(record.get(key)) for key in ("brand", "description"))))
            found = _plain_text(record.get("title")), ", ".join(dict.fromkeys(map(_plain_text, kinds))), about
            if told[item] not in (found, ("", "", "")):
                raise DataError(f"{where} lists {item} again, otherwise than before; {mend}")
            told[item] = found
    titles, genres, about = zip(*told.values()) if told else ((), (), ())
    catalogue = _frame(item=number_ids(list(told)), title=list(titles), year=0, genres=list(genres), description=list(about), id=list(told))
    return Raw(_frame(user=number_ids(users), item=number_ids(items), time=np.array(times, dtype="int64")), catalogue, NO_TAGS)


def read_mmrec(folder: Path, settings: Folder, mend: str = RESTORE) -> Raw:
    """MMRec's and RecBole's `<name>.inter`: tabs, a header, RecBole's with types (`user_id:token`); of its columns the
    users, items and times. Items are their numbers alone: no titles."""
    files = sorted(folder.glob("*.inter"))
    if len(files) != 1:
        raise DataError(f"{folder.parent.name}/{folder.name} has {len(files)} files *.inter, where one is needed; {mend}")
    with open(files[0], "rb") as file:
        header = file.readline(MAX_LINE).decode("utf-8", "replace").rstrip("\r\n").split("\t")
    short = {field.split(":")[0].lower(): field for field in header}
    columns = {role: next((short[name] for name in names if name in short), None) for role, names in ROLES.items()}
    for role, column in columns.items():
        if column is None:
            raise DataError(f"{_name(files[0])} has the columns {','.join(header)[:80]}, none of which is the {role} ({', '.join(ROLES[role])}); {mend}")
    kinds = {column: "text" if column.endswith(":token") else "whole number" for column in columns.values()}
    table = read_table(files[0], kinds, mend, "\t", some=True)
    return _own_ids(files[0], {role: table[column] for role, column in columns.items()}, None, mend)


def read_plain(folder: Path, settings: Folder, mend: str = RESTORE) -> Raw:
    """Anyone's data: `interactions` with the columns user, item and time, and `items` with item and any of title, year,
    genres and description, each .parquet or .csv; ids are whole numbers or text."""
    tables = {}
    for name, columns in (("interactions", ["user", "item", "time"]), ("items", ["item"])):
        path = next((folder / f"{name}{kind}" for kind in (".parquet", ".csv") if (folder / f"{name}{kind}").is_file()), None)
        if path is None and name == "interactions":
            raise DataError(f"{folder.parent.name}/{folder.name} has neither interactions.parquet nor interactions.csv; {mend}")
        if path is not None and path.suffix == ".csv":
            tables[name] = path, read_table(path, dict.fromkeys(columns, "text"), mend, some=True)
        elif path is not None:
            try:
                table = pl.scan_parquet(path, glob=False)
                found, rows = table.collect_schema().names(), table.select(pl.len()).collect().item()
                wanted = [column for column in found if column in (*columns, *WORDS)]
                table = table.select(pl.col(wanted).cast(pl.String).fill_null("")).collect() if rows <= MAX_ROWS else None
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
                raise DataError(f"{_name(path)} cannot be read as Parquet ({error.__class__.__name__}); {mend}") from None
            if table is None:
                raise DataError(f"{_name(path)} has {rows:,} rows, more than {MAX_ROWS:,}; {mend}")
            if not set(columns) <= set(found):
                raise DataError(f"{_name(path)} has the columns {' '.join(','.join(found).split())[:80]}, not {','.join(columns)}; {mend}")
            tables[name] = path, table
    path, table = tables["interactions"]
    times, good = whole_numbers(table["time"])
    for row in np.flatnonzero(~good)[:1]:
        raise DataError(f"{_name(path)}, row {row + 1}: time {table['time'][int(row)][:40]!r} is not a whole number; mend it")
    return _own_ids(path, {"user": table["user"], "item": table["item"], "time": times}, tables.get("items"), mend)


def _own_ids(path: Path, table: dict[str, pl.Series], about: tuple[Path, pl.DataFrame] | None, mend: str) -> Raw:
    """Interactions with ids that are whole numbers, or else text, which is numbered by its hash; items with what is told of them."""
    numbers = {}
    for role in ("user", "item"):
        text = table[role].cast(pl.String)
        for row in np.flatnonzero((text.fill_null("") == "").to_numpy())[:1]:
            raise DataError(f"{_name(path)}, row {row + 1} has no {role}; {mend}")
        names = text.unique(maintain_order=True)
        values, good = whole_numbers(names)
        whole = good.all() and (values.cast(pl.String) == names).all()  # 007 is a name
        codes = dict(zip(names.to_list(), (values.to_numpy() if whole else number_ids(names.to_list())).tolist()))
        numbers[role] = text.replace_strict(codes, return_dtype=pl.Int64)
    told = {column: [] for column in WORDS}
    if about is not None:
        where, items = about
        for item in items["item"].filter(items["item"].is_duplicated())[:1]:
            raise DataError(f"{_name(where)} lists item {item!r} twice; mend it")
        for item in set(codes) - set(items["item"].to_list()):
            raise DataError(f"{_name(path)} has the item {item!r}, which {where.name} lacks; add it there")
        items = items.filter(items["item"].is_in(list(codes)))
        ids, told = items["item"].to_list(), {column: items[column].to_list() for column in told if column in items.columns}
    else:
        ids = list(codes)
    years = whole_numbers(pl.Series(told.get("year") or ["0"] * len(ids)))[0]
    texts = {column: told.get(column) or [""] * len(ids) for column in ("title", "genres", "description")}
    catalogue = _frame(item=np.array([codes[name] for name in ids], dtype="int64"), **texts, year=years, id=ids)
    return Raw(_frame(user=numbers["user"], item=numbers["item"], time=table["time"]), catalogue, NO_TAGS)


READERS = {"movielens": read_movielens, "movielens_dat": read_movielens_dat, "amazon": read_amazon, "mmrec": read_mmrec, "plain": read_plain}


def read_dataset(name: str, dataset: Dataset) -> Raw:
    """A dataset's tables from its files."""
    folder = raw_folder(dataset.own.folder)
    mend = RESTORE if folder.parent == project_root() / "data" else f"fetch it again with `make fetch DATASET={name}`" if dataset.downloads else "mend the file"
    return READERS[dataset.source](folder, dataset.own, mend)


def array_file(dataset: Dataset, modality: Modality) -> Path | None:
    """The file of a modality's published vectors, where the dataset's form has one and it is there."""
    if dataset.source not in ("amazon", "mmrec", "plain"):
        return None
    names = {"mmrec": f"{modality}_feat.npy", "plain": f"{modality}.npy", "amazon": f"image_features_{getattr(dataset.own, 'category', '')}.b"}
    path = raw_folder(dataset.own.folder) / names[dataset.source]
    return path if path.is_file() and (dataset.source, modality) != ("amazon", "text") else None


def modalities_of(dataset: Dataset, features: Features) -> set[Modality]:
    """The modalities of which a dataset has anything, for the encoders that are set."""
    if dataset.source in ("planted", "movielens", "movielens_dat"):
        return {"text", "image"}
    folder, has = raw_folder(dataset.own.folder), set()
    for modality, encoder in (("text", features.text_encoder), ("image", features.image_encoder)):
        others = {"text": ("items.csv", "items.parquet") if dataset.source == "plain" else ("meta_*.json.gz",), "image": ("images/*",)}[modality]
        published = encoder == "published" or dataset.source == "mmrec"
        if array_file(dataset, modality) if published else any(any(folder.glob(name)) for name in others):
            has.add(modality)
    return has


def read_vectors(dataset: Dataset, modality: Modality, ids: Sequence[str]) -> tuple[Float[ndarray, "catalogue feature"], Bool[ndarray, "catalogue"]]:
    """The published vectors of these items, found by id, and which of them there are; numbers that are not finite are refused."""
    path, place = array_file(dataset, modality), {name: row for row, name in enumerate(ids)}
    if path is None:
        raise DataError(f"{dataset.own.folder} has no published {modality} vectors; set features.{modality}_encoder to one that encodes, or add the file")
    name, mask = _name(path), np.zeros(len(ids), dtype=bool)
    if dataset.source == "amazon":
        if path.stat().st_size % IMAGE_RECORD.itemsize:
            raise DataError(f"{name} has {path.stat().st_size:,} bytes, no multiple of {IMAGE_RECORD.itemsize:,}: it is cut short; fetch it again")
        values = np.zeros((len(ids), 4096), dtype="float32")
        with open(path, "rb") as file:
            while block := file.read(1024 * IMAGE_RECORD.itemsize):
                rows = np.frombuffer(block, IMAGE_RECORD)
                for row, asin in enumerate(rows["asin"].tolist()):
                    if (item := place.get(asin.decode("latin-1"))) is not None:
                        if mask[item]:
                            raise DataError(f"{name} has {ids[item]} twice; remove it and fetch it again")
                        values[item], mask[item] = rows["values"][row], True
    else:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # numpy reads the header as Python, whose tokeniser has errors of many kinds
            raise DataError(f"{name} cannot be read as an array of numbers ({' '.join(str(error).split())[:60]}); mend or remove it") from None
        if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
            raise DataError(f"{name} is an array {array.shape} of {array.dtype}, not rows of decimal numbers; mend or remove it")
        rows = _rows_of(path, dataset, len(array), ids)
        mask = rows >= 0
        values = np.zeros((len(ids), array.shape[1]), dtype="float32")
        values[mask] = array[rows[mask]]
    for item in np.flatnonzero(~np.isfinite(values).all(1))[:1]:
        raise DataError(f"{name}: the vector of item {ids[item]} has numbers that are not finite; mend or remove it")
    return values, mask


def _rows_of(path: Path, dataset: Dataset, num_rows: int, ids: Sequence[str]) -> Int64[ndarray, "catalogue"]:
    """Each item's row in an array of vectors, -1 where it has none: MMRec's row is the item's number, which goes up to the
    largest in the .inter file; in the plain form ids.csv names the rows."""
    name = _name(path)
    if dataset.source == "mmrec":
        numbers, good = whole_numbers(pl.Series(ids, dtype=pl.String))
        if not good.all():
            raise DataError(f"{name}: items are text in the .inter file, so that no row can be told to be theirs; use numbers, or the plain form")
        items = read_mmrec(path.parent, dataset.own, "mend it").items["item"]
        if num_rows != items.max() + 1:
            raise DataError(f"{name} has {num_rows:,} rows, but the items of the .inter file are numbered 0 to {items.max():,}; they do not belong together")
        return numbers.to_numpy()
    listed = read_table(path.parent / "ids.csv", {"item": "text"}, "list each row's item there")["item"].to_list()
    if len(listed) != num_rows or len(set(listed)) < len(listed):
        told = f"{len(listed):,} ids in ids.csv, {len(set(listed)):,} of them different"
        raise DataError(f"{name} has {num_rows:,} rows for {told}; there must be one each")
    rows = {item: row for row, item in enumerate(listed)}
    return np.array([rows.get(item, -1) for item in ids], dtype="int64")
