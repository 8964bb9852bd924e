"""Results: what a notebook run as a stage saves, and what later stages read."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import pandas as pd

from bivrec.errors import DataError, SettingsError
from bivrec.settings import profile_folder, project_root, repro_command

# Columns of saved tables that hold text, also where it looks like numbers, as `007` or `true`
TEXT_COLUMNS = (
    "profile dataset protocol study condition model view split metric claim family ours theirs "
    "verdict diagnostic what"
).split()

LEFT_OUT = "left-out.json"  # in build/, for a stage that a dataset has no features for

# Columns of numbers, one of which may be missing
NUMBERS = ("value", "mean", "low", "high", "p", "detectable")

Place = Literal["results", "top", "build", "log", "partial"]


def output_folder(place: Place) -> Path | None:
    """Where the running stage saves its outputs; None for a notebook run by hand, which saves
    nothing.

    results: the stage's own folder there, committed. top: the profile's results/ itself. build:
    read by later stages. log: differs between runs, so nothing may depend on it. partial: the
    stage's trainings, under way and finished, from which its next run continues.
    """
    folder = os.environ.get(f"BIVREC_{place.upper()}")
    return Path(folder) if folder else None


def write_atomically(path: Path, text: str) -> None:
    """Writes the whole file or, when interrupted, nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


def progress(work: Iterable, what: str, unit: str, total: int | None = None) -> Iterator:
    """The work under a progress bar: in an open notebook, in a terminal, or in the terminal from
    which the pipeline was started (BIVREC_TERMINAL). Executed notebooks, logs and tests show
    none."""
    from tqdm import tqdm as plain_bar
    from tqdm.auto import tqdm

    terminal = os.environ.get("BIVREC_TERMINAL")
    options = {"desc": what, "total": total, "unit": f" {unit}", "leave": False}
    if terminal:
        with open(terminal, "w") as file:
            yield from plain_bar(work, file=file, **options)
    elif terminal is None:
        notebook = "IPython" in sys.modules and sys.modules["IPython"].get_ipython()
        yield from tqdm(work, disable=not (notebook or sys.stderr.isatty()), **options)
    else:
        yield from work


def save_output(content: Any, name: str, place: Place = "results") -> None:
    """Saves a table (CSV, six decimals; Parquet by its name), a figure (PNG) or a mapping (JSON)
    under its name."""
    if not (folder := output_folder(place)):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        import polars as pl

        columns = {column: content[column].to_numpy() for column in content}
        pl.DataFrame(columns).write_parquet(folder / name)
    elif isinstance(content, pd.DataFrame):
        content.to_csv(folder / name, index=False, float_format="%.6f", lineterminator="\n")
    elif isinstance(content, Mapping):
        (folder / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
    else:
        content.savefig(folder / name, metadata={"Software": None})


def read_csv(source: Path | StringIO) -> pd.DataFrame:
    """A table that `save_output` wrote: text stays text, empty text is empty, and an empty number
    is none."""
    text, missing = dict.fromkeys(TEXT_COLUMNS, str), dict.fromkeys(NUMBERS, "")
    return pd.read_csv(source, dtype=text, keep_default_na=False, na_values=missing)


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet table that `save_output` wrote; raises ValueError if it is damaged."""
    import polars as pl

    try:
        table = pl.read_parquet(path.read_bytes())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(str(error)) from None
    return pd.DataFrame({column: table[column].to_numpy() for column in table.columns})


def read_output(
    stage: str, label: str, name: str, profile: str = "default", place: Place = "build"
) -> pd.DataFrame:
    """A table that a stage saved in build/ or results/; raises SettingsError if it is missing or
    damaged."""
    path = profile_folder(place, profile) / stage / label / name
    shown = path.relative_to(project_root())
    if not path.is_file():
        raise SettingsError(f"{shown} is missing; `{repro_command(profile)}` makes it")
    try:
        return read_parquet(path) if path.suffix == ".parquet" else read_csv(path)
    except ValueError as error:
        problem = f"{shown} is damaged ({type(error).__name__})"
        raise SettingsError(f"{problem}; remove {shown.parent}; `make repro` remakes it") from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises DataError, with what to do, for whatever an unreadable or damaged stage output
    raises."""
    try:
        yield
    except PermissionError as error:
        raise DataError(f"{error.filename} may not be read; make it readable") from None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        BadZipFile,
    ) as error:
        problem = f"{path} is damaged ({type(error).__name__})"
        raise DataError(f"{problem}; remove it; `make repro` remakes it") from None
