"""MovieLens' CSV and .dat files."""

from pathlib import Path

import pandas as pd
import polars as pl

from bivrec.data.readers.common import NO_TAGS, _frame, _name, read_table
from bivrec.data.sequences import RESTORE
from bivrec.data.types import Raw
from bivrec.errors import DataError
from bivrec.settings import Folder, MovieLens


def read_movielens(folder: Path, settings: MovieLens, mend: str = RESTORE) -> Raw:
    """A MovieLens CSV release; every rating is an interaction, the domain is the films of the years asked for."""
    pair = {"userId": "whole number", "movieId": "whole number"}
    ratings = read_table(
        folder / "ratings.csv", pair | {"rating": "number", "timestamp": "whole number"}, mend
    )
    films = read_table(
        folder / "movies.csv", {"movieId": "whole number", "title": "text", "genres": "text"}, mend
    )
    tags = read_table(
        folder / "tags.csv", pair | {"tag": "text", "timestamp": "whole number"}, mend
    )
    tags = _frame(user=tags["userId"], item=tags["movieId"], tag=tags["tag"].to_list())
    ratings = _frame(user=ratings["userId"], item=ratings["movieId"], time=ratings["timestamp"])
    return _film_domain(folder, ".csv", ratings, films, tags, settings, mend, 2)


def read_movielens_dat(folder: Path, settings: Folder, mend: str = RESTORE) -> Raw:
    """MovieLens-1M: `::` between fields, latin-1, no header, no tags."""
    tables, columns = {}, dict.fromkeys(("user", "item", "rating", "time"), "whole number")
    for name, kinds in (
        ("ratings", columns),
        ("movies", {"movieId": "whole number", "title": "text", "genres": "text"}),
    ):
        path = folder / f"{name}.dat"
        text = (
            path.read_bytes().replace(b"::", b"\t").decode("latin-1").encode()
            if path.is_file()
            else None
        )
        if text == b"":
            raise DataError(f"{_name(path)} is empty, not a table; {mend}")
        tables[name] = read_table(path, kinds, mend, "\t", text)
    ratings = _frame(**{name: tables["ratings"][name] for name in ("user", "item", "time")})
    return _film_domain(
        folder,
        ".dat",
        ratings,
        tables["movies"],
        NO_TAGS,
        MovieLens(folder=settings.folder),
        mend,
        1,
    )


def _film_domain(
    folder: Path,
    kind: str,
    ratings: pd.DataFrame,
    films: pl.DataFrame,
    tags: pd.DataFrame,
    settings: MovieLens,
    mend: str,
    first: int,
) -> Raw:
    """The films of the years asked for, and what users did with them."""
    films = _frame(
        item=films["movieId"], title=films["title"].to_list(), genres=films["genres"].to_list()
    )
    for film in films.loc[films["item"].duplicated(), "item"]:
        raise DataError(f"{folder.name}/movies{kind} lists film {film} twice; {mend}")
    for row, film in ratings.loc[~ratings["item"].isin(films["item"]), "item"].items():
        raise DataError(
            f"{folder.name}/ratings{kind}, line {row + first}: film {film} is not in movies{kind}; {mend}"
        )
    titles = (
        films["title"]
        .str.strip()
        .str.extract(r"^(?P<title>.*?)\s*(?:\((?P<year>\d{4})(?:[–-]\d{0,4})?\))?$")
    )
    genres = films["genres"].replace("(no genres listed)", "").str.replace("|", ", ")
    items = pd.DataFrame(
        {
            "item": films["item"],
            "title": titles["title"],
            "year": pd.to_numeric(titles["year"]),
            "genres": genres,
            "description": "",
        }
    )
    if settings.first_year is None and settings.last_year is None:
        return Raw(ratings, items.fillna({"year": 0}).astype({"year": "int64"}), tags)
    items = items[
        items["year"].between(settings.first_year or 0, settings.last_year or 9999)
    ].astype({"year": "int64"})
    return Raw(
        *(
            part[part["item"].isin(items["item"])].reset_index(drop=True)
            for part in (ratings, items, tags)
        )
    )
