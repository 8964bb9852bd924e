"""Tables of one's own, in the plain form."""

from pathlib import Path

import numpy as np
import polars as pl

from bivrec.data.readers.common import MAX_ROWS, WORDS, _name, _own_ids, read_table, whole_numbers
from bivrec.data.sequences import RESTORE
from bivrec.data.types import Raw
from bivrec.errors import DataError
from bivrec.settings import Folder


def read_plain(folder: Path, settings: Folder, mend: str = RESTORE) -> Raw:
    """Anyone's data: `interactions` with the columns user, item and time, and `items` with item and any of title, year,
    genres and description, each .parquet or .csv; ids are whole numbers or text."""
    tables = {}
    for name, columns in (("interactions", ["user", "item", "time"]), ("items", ["item"])):
        path = next(
            (
                folder / f"{name}{kind}"
                for kind in (".parquet", ".csv")
                if (folder / f"{name}{kind}").is_file()
            ),
            None,
        )
        if path is None and name == "interactions":
            raise DataError(
                f"{folder.parent.name}/{folder.name} has neither interactions.parquet nor interactions.csv; {mend}"
            )
        if path is not None and path.suffix == ".csv":
            tables[name] = path, read_table(path, dict.fromkeys(columns, "text"), mend, some=True)
        elif path is not None:
            try:
                table = pl.scan_parquet(path, glob=False)
                found, rows = (
                    table.collect_schema().names(),
                    table.select(pl.len()).collect().item(),
                )
                wanted = [column for column in found if column in (*columns, *WORDS)]
                table = (
                    table.select(pl.col(wanted).cast(pl.String).fill_null("")).collect()
                    if rows <= MAX_ROWS
                    else None
                )
            except (
                pl.exceptions.PolarsError,
                pl.exceptions.PanicException,
                OSError,
                ValueError,
            ) as error:
                raise DataError(
                    f"{_name(path)} cannot be read as Parquet ({error.__class__.__name__}); {mend}"
                ) from None
            if table is None:
                raise DataError(f"{_name(path)} has {rows:,} rows, more than {MAX_ROWS:,}; {mend}")
            if not set(columns) <= set(found):
                raise DataError(
                    f"{_name(path)} has the columns {' '.join(','.join(found).split())[:80]}, not {','.join(columns)}; {mend}"
                )
            tables[name] = path, table
    path, table = tables["interactions"]
    times, good = whole_numbers(table["time"])
    for row in np.flatnonzero(~good)[:1]:
        raise DataError(
            f"{_name(path)}, row {row + 1}: time {table['time'][int(row)][:40]!r} is not a whole number; mend it"
        )
    return _own_ids(
        path,
        {"user": table["user"], "item": table["item"], "time": times},
        tables.get("items"),
        mend,
    )
