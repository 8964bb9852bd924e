"""MMRec's and RecBole's .inter files."""

from pathlib import Path

from bivrec.data.readers.common import MAX_LINE, ROLES, _name, _own_ids, read_table
from bivrec.data.sequences import RESTORE
from bivrec.data.types import Raw
from bivrec.errors import DataError
from bivrec.settings import Folder


def read_mmrec(folder: Path, settings: Folder, mend: str = RESTORE) -> Raw:
    """MMRec's and RecBole's `<name>.inter`: tabs, a header, RecBole's with types (`user_id:token`); of its columns the
    users, items and times. Items are their numbers alone: no titles."""
    files = sorted(folder.glob("*.inter"))
    if len(files) != 1:
        raise DataError(
            f"{folder.parent.name}/{folder.name} has {len(files)} files *.inter, where one is needed; {mend}"
        )
    with open(files[0], "rb") as file:
        header = file.readline(MAX_LINE).decode("utf-8", "replace").rstrip("\r\n").split("\t")
    short = {field.split(":")[0].lower(): field for field in header}
    columns = {
        role: next((short[name] for name in names if name in short), None)
        for role, names in ROLES.items()
    }
    for role, column in columns.items():
        if column is None:
            raise DataError(
                f"{_name(files[0])} has the columns {','.join(header)[:80]}, none of which is the {role} ({', '.join(ROLES[role])}); {mend}"
            )
    kinds = {
        column: "text" if column.endswith(":token") else "whole number"
        for column in columns.values()
    }
    table = read_table(files[0], kinds, mend, "\t", some=True)
    return _own_ids(files[0], {role: table[column] for role, column in columns.items()}, None, mend)
