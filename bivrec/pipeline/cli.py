"""The command line."""

import errno
import json
import signal
import sys
from typing import Any

from bivrec.data.download import fetch
from bivrec.errors import NotebookError, SettingsError
from bivrec.pipeline.checks import check_data, check_store, choose, record_raw_files
from bivrec.pipeline.environment import forget_git
from bivrec.pipeline.notebooks import write_sources
from bivrec.pipeline.provenance import summary
from bivrec.pipeline.runner import end_with_caller, refresh_notebooks, run_notebook, start_processes
from bivrec.pipeline.verify import verify
from bivrec.settings import check_params, pick, project_root

USAGE = """python -m bivrec COMMAND
  check [PROFILE]              params.yaml, data/ and the files of the datasets
  source                       the notebooks without outputs, for the stages to run
  run NOTEBOOK [KEY=VALUE ...] one notebook as a stage
  notebooks                    every notebook on its defaults, saved with outputs
  fetch DATASET [accept]       a published dataset
  choose DATASET ...           the datasets that params.yaml studies
  verify                       results/ against the committed ones
  summary PROFILE SINCE        the stages that ran since then (UTC)
  store                        the files of dvcstore/ against their names"""


def typed(text: str) -> Any:
    """A parameter from the command line: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def run_stage(notebook: str, *options: str) -> None:
    """Runs a notebook as a stage, with options KEY=VALUE."""
    start_processes(["run", notebook, *options])
    end_with_caller()
    pairs = (option.partition("=") for option in options)
    run_notebook(notebook, {key: typed(value) for key, _, value in pairs})


def check(profile: str = "default") -> None:
    """Checks settings and data before DVC starts."""
    pick(check_params().profiles, profile, "profile")
    check_data()
    record_raw_files(profile)


def source() -> None:
    """The stage `source`."""
    write_sources()
    record_raw_files("default")


def fetch_dataset(name: str, *accept: str) -> str:
    """Fetches a dataset, whose licence `accept` accepts; returns what was done."""
    return fetch(name, pick(check_params().datasets, name, "dataset"), "accept" in accept)


# name: function, least and most arguments
COMMANDS = {
    "check": (check, 0, 1),
    "source": (source, 0, 0),
    "run": (run_stage, 1, 99),
    "notebooks": (refresh_notebooks, 0, 0),
    "fetch": (fetch_dataset, 1, 2),
    "choose": (lambda *names: choose([*names]), 1, 99),
    "verify": (verify, 0, 0),
    "summary": (summary, 2, 2),
    "store": (check_store, 0, 0),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status; every error is one line on stderr."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    forget_git()
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["help"]
    command, least, most = COMMANDS.get(name, (None, 0, -1))
    if not least <= len(rest) <= most:
        print(USAGE)
        return 0 if name == "help" else 2
    try:
        if message := command(*rest):
            print(message)
    except KeyboardInterrupt:
        print("interrupted; no result was changed; `make repro` resumes", file=sys.stderr)
        return 130
    except (SettingsError, NotebookError, ValueError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ERROR: {_explain(error)}", file=sys.stderr)
        return 1
    return 0


def _explain(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free some space there" if full else "grant read and write access to it"
    path, reason = error.filename or project_root(), error.strerror or error
    return f"{path} cannot be read or written ({reason}); {remedy}, and run it again"
