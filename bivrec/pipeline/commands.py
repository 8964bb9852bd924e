"""The commands of the study."""

import json
import re
from typing import Any

from bivrec.data.download import fetch
from bivrec.errors import SettingsError
from bivrec.pipeline.checks import check_data, check_store, choose, record_raw_files
from bivrec.pipeline.notebooks import write_sources
from bivrec.pipeline.provenance import summary
from bivrec.pipeline.runner import end_with_caller, refresh_notebooks, run_notebook, start_processes
from bivrec.pipeline.verify import verify
from bivrec.settings import check_params, pick


def typed(text: str) -> Any:
    """A parameter from the command line: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def run_stage(notebook: str, *options: str) -> None:
    """Runs a notebook as a stage, with options KEY=VALUE."""
    for option in options:
        if not re.match(r"\w+=", option):
            raise SettingsError(f"{option!r} is no option; write KEY=VALUE, as in dataset=planted")
    start_processes(["run", notebook, *options])
    end_with_caller()
    pairs = (option.partition("=") for option in options)
    run_notebook(notebook, {key: typed(value) for key, _, value in pairs})


def check(profile: str = "default") -> None:
    """Checks settings and data before DVC starts."""
    pick(check_params().profiles, profile, "profile")
    check_data()
    record_raw_files(profile)


def data(name: str) -> str:
    """Reads a dataset's files as notebook 01 does; returns its figures. Raises DataError for what
    is wrong with them."""
    from bivrec.data.domain import Domain, data_card, prepare
    from bivrec.data.sequences import describe

    pick(check_params().datasets, name, "dataset")
    domain = Domain(name)
    figures = [*data_card(domain).to_numpy(), *describe(prepare(domain)).to_numpy()]
    width = max(len(figure) for figure, _ in figures)
    return "\n".join(f"{figure:{width}}  {value}" for figure, value in figures)


def source() -> None:
    """The stage `source`."""
    write_sources()
    record_raw_files("default")


def fetch_dataset(name: str, *accept: str) -> str:
    """Fetches a dataset, whose licence `accept` accepts; returns what was done."""
    return fetch(name, pick(check_params().datasets, name, "dataset"), "accept" in accept)


def readme() -> None:
    """Writes the tables of results/ into the pages."""
    from bivrec.studies.report import write_pages

    write_pages()


# name: function, least and most arguments
COMMANDS = {
    "check": (check, 0, 1),
    "data": (data, 1, 1),
    "source": (source, 0, 0),
    "run": (run_stage, 1, 99),
    "notebooks": (refresh_notebooks, 0, 0),
    "fetch": (fetch_dataset, 1, 2),
    "choose": (lambda *names: choose([*names]), 1, 99),
    "verify": (verify, 0, 0),
    "readme": (readme, 0, 0),
    "summary": (summary, 2, 2),
    "store": (check_store, 0, 0),
}
