"""The command line."""

import errno
import signal
import sys
from collections.abc import Callable

from bivrec.errors import NotebookError, SettingsError
from bivrec.pipeline.environment import forget_git
from bivrec.settings import project_root

USAGE = """bivrec COMMAND  (also: python -m bivrec COMMAND)

Use a trained model; MODEL is a dataset, an exported folder, or hf://user/name:
  recommend MODEL ITEM ...     what follows these items (ids, oldest first)
  recommend MODEL --users FILE --out LISTS
                               a list for each user, as .parquet or .csv
  export MODEL FOLDER          the model with all that it needs, to take along
  recommend --help             and export --help: their options

Prepare the study:
  fetch DATASET [accept]       a published dataset
  choose DATASET ...           the datasets that params.yaml studies
  check [PROFILE]              params.yaml, data/ and the files of the datasets
  data DATASET                 its files, read as notebook 01 does, in figures
  store                        the files of dvcstore/ against their names

Run it, as the Makefile and dvc.yaml do:
  source                       the notebooks without outputs, for the stages to run
  run NOTEBOOK [KEY=VALUE ...] one notebook as a stage
  notebooks                    every notebook on its defaults, saved with outputs
  verify                       results/ against the committed ones
  summary PROFILE SINCE        the stages that ran since then (UTC)"""
HELP = ("help", "--help", "-h")


def find_command(name: str) -> tuple[Callable | None, int, int]:
    """A command's function with its least and most arguments; imports only what it needs."""
    if name in HELP:
        return None, 0, -1
    if name in ("recommend", "export"):
        from bivrec.portable.commands import COMMANDS
    else:
        from bivrec.pipeline.commands import COMMANDS
    return COMMANDS.get(name, (None, 0, -1))


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status; every error is one line on stderr."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    forget_git()
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["help"]
    command, least, most = find_command(name)
    asks = name not in ("recommend", "export") and {*HELP} & {*rest}
    if asks or not least <= len(rest) <= most:
        print(USAGE)
        return 0 if asks or name in HELP else 2
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
