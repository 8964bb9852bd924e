"""Results: what a notebook run as a stage keeps, and what later stages read back."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from bivrec.errors import SettingsError
from bivrec.settings import profile_folder, project_root

LEFT_OUT = "left-out.json"  # of a stage that could not be made of a dataset, in build/

Place = Literal["results", "top", "build", "log", "partial"]


def output_folder(place: Place) -> Path | None:
    """Where the running stage keeps things: results (its own folder there, committed), top (its profile's results/ itself),
    build (read by later stages), log (differs from run to run, so that nothing may depend on it), partial (trainings under
    way, gone when the stage is done). None outside the pipeline: a notebook run by hand writes nothing."""
    folder = os.environ.get(f"BIVREC_{place.upper()}")
    return Path(folder) if folder else None


def write_atomically(path: Path, text: str) -> None:
    """The file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


def progress(work: Iterable, what: str, unit: str, total: int | None = None) -> Iterator:
    """The work, under a bar with its rate and the time left: in a notebook that is read, in a terminal, and in the terminal
    that the pipeline was started from (BIVREC_TERMINAL). Executed notebooks, logs and tests get none."""
    from tqdm.auto import tqdm

    terminal, notebook = (
        os.environ.get("BIVREC_TERMINAL"),
        "IPython" in sys.modules and sys.modules["IPython"].get_ipython(),
    )
    if terminal is None:
        yield from tqdm(
            work,
            what,
            total,
            leave=False,
            unit=f" {unit}",
            disable=not (notebook or sys.stderr.isatty()),
        )
    elif terminal:
        from tqdm import tqdm as plain

        with open(terminal, "w") as file:
            yield from plain(work, what, total, leave=False, unit=f" {unit}", file=file)
    else:
        yield from work


def save_output(
    content: pd.DataFrame | Figure | Mapping[str, Any], name: str, place: Place = "results"
) -> None:
    """Keeps a table (CSV, six decimals), a figure (PNG) or a record (JSON) under its name."""
    if not (folder := output_folder(place)):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Figure):
        content.savefig(folder / name, metadata={"Software": None})
    elif isinstance(content, pd.DataFrame):
        content.to_csv(folder / name, index=False, float_format="%.6f", lineterminator="\n")
    else:
        (folder / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")


def read_output(stage: str, label: str, name: str, profile: str = "default") -> pd.DataFrame:
    """A table that an earlier stage kept in build/, named exactly: a run that is not asked for is never counted."""
    path = profile_folder("build", profile) / stage / label / name
    if not path.is_file():
        raise SettingsError(
            f"{path.relative_to(project_root())} is missing; `make repro{'' if profile == 'default' else f' PROFILE={profile}'}` makes it"
        )
    try:
        return pd.read_csv(path, keep_default_na=False)
    except ValueError as error:
        told = f"{path.relative_to(project_root())} is damaged ({error.__class__.__name__})"
        raise SettingsError(
            f"{told}; remove {path.parent.relative_to(project_root())}, and `make repro` makes it anew"
        ) from None
