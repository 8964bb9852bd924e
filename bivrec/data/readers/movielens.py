"""MovieLens' CSV and .dat files."""

import codecs
from pathlib import Path

import pandas as pd
import polars as pl

from bivrec.data.readers.common import DAT, NO_TAGS, check_text, read_table, short_path, to_pandas
from bivrec.data.types import Raw
from bivrec.errors import RESTORE, DataError
from bivrec.settings import Folder, MovieLens

FILMS = {"movieId": "whole number", "title": "text", "genres": "text"}

TITLE = r"(?s)^(?P<title>.*?)\s*(?:\((?P<year>[0-9]{4})(?: ?[–-] ?[0-9]{0,4} ?)?\))?$"


def read_movielens(folder: Path, settings: MovieLens, remedy: str = RESTORE) -> Raw:
    """A CSV release: every rating is an interaction; only films of the given years belong to the
    domain."""
    pair, time = (
        {"userId": "whole number", "movieId": "whole number"},
        {"timestamp": "whole number"},
    )
    ratings = read_table(folder / "ratings.csv", pair | {"rating": "number"} | time, remedy)
    films = read_table(folder / "movies.csv", FILMS, remedy)
    tags = read_table(folder / "tags.csv", pair | {"tag": "text"} | time, remedy)
    tags = to_pandas(
        user=tags["userId"], item=tags["movieId"], tag=tags["tag"].to_list(), time=tags["timestamp"]
    )
    ratings = to_pandas(user=ratings["userId"], item=ratings["movieId"], time=ratings["timestamp"])
    items = _read_films(folder / "movies.csv", films, remedy)
    _check_ratings(folder / "ratings.csv", ratings, items, 1, remedy)
    return _films_of_years(Raw(ratings, items, tags), settings)


def read_movielens_dat(folder: Path, settings: Folder, remedy: str = RESTORE) -> Raw:
    """MovieLens-1M: columns separated by `::`, latin-1 or UTF-8, no header, no tags."""
    columns = dict.fromkeys(("user", "item", "rating", "time"), "whole number")
    ratings = _read_dat(folder / "ratings.dat", columns, remedy)
    films = _read_dat(folder / "movies.dat", FILMS, remedy)
    ratings = to_pandas(user=ratings["user"], item=ratings["item"], time=ratings["time"])
    items = _read_films(folder / "movies.dat", films, remedy)
    _check_ratings(folder / "ratings.dat", ratings, items, 0, remedy)
    return Raw(ratings, items, NO_TAGS)


def _read_dat(path: Path, columns: dict[str, str], remedy: str) -> pl.DataFrame:
    """The table as UTF-8, which a file in latin-1 with other letters than English ones never is."""
    check_text(path, remedy)
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8).replace(b"::", DAT.encode())
    try:
        content.decode()
    except UnicodeDecodeError:
        content = content.decode("latin-1").encode()
    if not content.strip():
        raise DataError(f"{short_path(path)} is empty, not a table; {remedy}")
    return read_table(path, columns, remedy, DAT, content)


def _read_films(path: Path, films: pl.DataFrame, remedy: str) -> pd.DataFrame:
    """Items with titles, years (0 if unknown) and genres; raises DataError for a film listed
    twice."""
    for film in films["movieId"].filter(films["movieId"].is_duplicated())[:1]:
        raise DataError(f"{path.parent.name}/{path.name} lists film {film} twice; {remedy}")
    titles = pd.Series(films["title"].to_list(), dtype=str).str.strip().str.extract(TITLE)
    genres = pd.Series(films["genres"].to_list(), dtype=str).replace("(no genres listed)", "")
    return to_pandas(
        item=films["movieId"],
        title=titles["title"],
        year=pd.to_numeric(titles["year"]).fillna(0).astype("int64"),
        genres=genres.str.replace("|", ", "),
        description="",
    )


def _check_ratings(
    path: Path, ratings: pd.DataFrame, items: pd.DataFrame, header_lines: int, remedy: str
) -> None:
    """Raises DataError for the first rating of a film that is not listed."""
    for row, film in ratings.loc[~ratings["item"].isin(items["item"]), "item"].items():
        where = f"{path.parent.name}/{path.name}, line {row + 1 + header_lines}"
        raise DataError(f"{where}: film {film} is not in movies{path.suffix}; {remedy}")


def _films_of_years(raw: Raw, settings: MovieLens) -> Raw:
    """The domain of the films from `first_year` to `last_year`; all films if neither is given.
    Raises DataError if there are none."""
    if settings.first_year is None and settings.last_year is None:
        return raw
    first, last = settings.first_year or 1, settings.last_year or 9999
    items = raw.items.loc[raw.items["year"].between(first, last), "item"]
    if items.empty:
        problem = f"{settings.folder}/movies.csv has no film of the years {first} to {last}"
        remedy = "change movielens.first_year or movielens.last_year in params.yaml"
        raise DataError(f"{problem}; {remedy}")
    tables = (raw.interactions, raw.items, raw.tags)
    return Raw(*(table[table["item"].isin(items)].reset_index(drop=True) for table in tables))
