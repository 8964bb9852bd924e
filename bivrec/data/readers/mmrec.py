"""MMRec's and RecBole's .inter files."""

from pathlib import Path

from bivrec.data.readers.common import MAX_LINE, build_raw, read_table, wrong_columns
from bivrec.data.types import Raw
from bivrec.errors import RESTORE, DataError
from bivrec.settings import Folder

ROLES = {
    "user": ("userid", "user_id", "user"),
    "item": ("itemid", "item_id", "item"),
    "time": ("timestamp", "time"),
}


def read_mmrec(folder: Path, settings: Folder, remedy: str = RESTORE) -> Raw:
    """`<name>.inter`: tab-separated, with a header, RecBole's with types (`user_id:token`). Only
    users, items and times are read; items have no titles."""
    files = sorted(folder.glob("*.inter"))
    if len(files) != 1:
        where = f"{folder.parent.name}/{folder.name}"
        raise DataError(f"{where} has {len(files)} files *.inter, not one; {remedy}")
    columns = _find_columns(files[0], remedy)
    types = {c: "text" if c.endswith(":token") else "whole number" for c in columns.values()}
    table = read_table(files[0], types, remedy, "\t", others=True)
    return build_raw(files[0], {role: table[c] for role, c in columns.items()}, None, remedy)


def _find_columns(path: Path, remedy: str) -> dict[str, str]:
    """The columns of users, items and times."""
    with open(path, "rb") as file:
        header = file.readline(MAX_LINE).decode("utf-8", "replace").rstrip("\r\n").split("\t")
    columns, known = {}, {column.split(":")[0].lower(): column for column in header}
    for role, names in ROLES.items():
        column = next((known[name] for name in names if name in known), None)
        if column is None:
            problem = f"none of which is the {role} ({', '.join(names)})"
            raise wrong_columns(path, header, problem, remedy)
        columns[role] = column
    return columns
