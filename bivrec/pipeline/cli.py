"""The command line."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version

from bivrec.errors import NotebookError, SettingsError
from bivrec.pipeline.environment import forget_git

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
  run NOTEBOOK [KEY=VALUE ...]
                               one notebook as a stage
  notebooks                    every notebook on its defaults, saved with outputs
  verify                       results/ against the committed ones
  readme                       the tables of results/, into README.md and docs/studies.md
  summary PROFILE SINCE        the stages that ran since then (UTC)"""
HELP = ("help", "--help", "-h")
FORMS = dict(re.findall(r"(?m)^  (\w+)((?: \S+)*)(?:  |$)", USAGE))  # arguments by command


def find_command(name: str) -> tuple[Callable | None, int, int]:
    """A command's function with its least and most arguments; imports only what it needs."""
    if name in ("recommend", "export"):
        from bivrec.portable.commands import COMMANDS
    else:
        from bivrec.pipeline.commands import COMMANDS
    return COMMANDS[name]


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit status; every error is one line on stderr."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    forget_git()
    if hasattr(sys.stdout, "reconfigure"):  # for titles that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return run_command(*(sys.argv[1:] if arguments is None else arguments) or ["help"])
    except KeyboardInterrupt:
        return fail("interrupted; no result was changed; `make repro` resumes", 130)
    except BrokenPipeError:  # the reader of stdout has seen enough, as `| head` has
        forget_stdout()
        return 0
    except (SettingsError, NotebookError, ValueError) as error:
        return fail(f"ERROR: {error}")
    except OSError as error:
        return fail(f"ERROR: {_explain(error)}")


def fail(message: str, status: int = 1) -> int:
    """Prints a message on stderr; returns the exit status."""
    print(message, file=sys.stderr)
    return status


def run_command(name: str, *rest: str) -> int:
    """Runs one command, shows what it returns, and returns the exit status."""
    own_help = name in ("recommend", "export")
    if name in HELP or name in FORMS and not own_help and {*HELP} & {*rest}:
        return show(USAGE)
    if name == "--version":
        return show(read_version())
    if problem := find_misuse(name, rest):
        return fail(f"ERROR: {problem}", 2)
    try:
        return show(find_command(name)[0](*rest))
    except SystemExit:  # of a parser that has shown its help
        show(None)
        raise


def find_misuse(name: str, rest: Sequence[str]) -> str:
    """What is wrong with a call, or nothing."""
    if name not in FORMS:
        close = get_close_matches(name, FORMS, 1)
        remedy = f"did you mean {close[0]}?" if close else "see `bivrec --help`"
        return f"there is no command {name!r}; {remedy}"
    _, least, most = find_command(name)
    if len(rest) < least:
        return f"{name} needs{FORMS[name]}; see `bivrec --help`"
    if len(rest) > most:
        return f"{name} takes{FORMS[name] or ' nothing'}, not {' '.join(rest)}; see `bivrec --help`"
    return ""


def read_version() -> str:
    """The version that is installed."""
    try:
        return f"bivrec {version('bivrec')}"
    except PackageNotFoundError:
        return "bivrec is not installed here; pyproject.toml has its version"


def show(message: str | None) -> int:
    """Prints a message and what waits to be printed; returns the exit status 0."""
    try:
        print(message or "", end="\n" if message else "", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        forget_stdout()
        problem = f"the output cannot be written ({error.strerror})"
        raise SettingsError(f"{problem}; free some space there, or send it elsewhere") from None
    return 0


def forget_stdout() -> None:
    """Drops what waits to be printed, which Python would try to print when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free some space there" if full else "grant read and write access to it"
    path = error.filename or os.environ.get("BIVREC_ROOT", "the current folder")
    reason = error.strerror or error
    return f"{path} cannot be read or written ({reason}); {remedy}, and run it again"
