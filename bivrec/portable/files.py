"""Histories and lists of recommendations in files."""

from pathlib import Path

import pandas as pd
import polars as pl

from bivrec.errors import DataError

COLUMNS = "the columns user and item (oldest first), and may have time"


def read_histories(path: str | Path) -> pd.DataFrame:
    """The columns user and item of a CSV or Parquet file, in order of its column time if it has
    one. Raises DataError if it cannot be read."""
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            table = pl.read_parquet(path)
        else:
            table = pl.read_csv(path, infer_schema=False)  # ids stay text
        if "time" in table.columns:
            table = table.sort(pl.col("time").cast(pl.Float64), maintain_order=True)
        table = table.select("user", "item").drop_nulls()
    except (OSError, pl.exceptions.PolarsError) as error:
        problem = f"{path} cannot be read ({type(error).__name__})"
        raise DataError(f"{problem}; it must be CSV or Parquet with {COLUMNS}") from None
    return pd.DataFrame({name: table[name].to_list() for name in table.columns})


def read_items(path: str | Path) -> list[str]:
    """The item ids of a text file, one per line. Raises DataError if it cannot be read."""
    try:
        return Path(path).read_text("utf-8").split()
    except (OSError, ValueError) as error:
        problem = f"{path} cannot be read ({type(error).__name__})"
        raise DataError(f"{problem}; give a text file with an item id per line") from None


def check_suffix(path: str | Path) -> None:
    """Raises DataError for a name that `write_lists` cannot write."""
    if Path(path).suffix not in (".parquet", ".csv"):
        raise DataError(f"{path} is neither .parquet nor .csv; name the file with one of them")


def write_lists(lists: pd.DataFrame, path: str | Path) -> None:
    """Writes a table as Parquet or CSV, by the file's suffix; raises DataError for another one."""
    check_suffix(path)
    table = pl.DataFrame({name: column.to_list() for name, column in lists.items()})
    table.write_parquet(path) if Path(path).suffix == ".parquet" else table.write_csv(path)
