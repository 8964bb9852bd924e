"""The command line."""

import errno
import json
import signal
import sys
from typing import Any

from bivrec.data.download import fetch
from bivrec.errors import NotebookError, SettingsError
from bivrec.pipeline.checks import check_data, check_files, check_store, choose
from bivrec.pipeline.notebooks import write_sources
from bivrec.pipeline.provenance import summary
from bivrec.pipeline.runner import (
    end_with_caller,
    refresh_notebooks,
    run_notebook,
    share_among_processes,
)
from bivrec.pipeline.verify import verify
from bivrec.settings import check_params, pick, project_root


def typed(text: str) -> Any:
    """A parameter from the command line: a number, true, false, a JSON list or object, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def main(arguments: list[str] | None = None) -> int:
    """`python -m bivrec COMMAND`: source | run NOTEBOOK [KEY=VALUE ...] | notebooks | check [PROFILE] | verify |
    store | fetch DATASET [accept] | choose DATASET ... | summary PROFILE SINCE"""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["help"]
    try:
        if command == "source":
            write_sources()
            check_files("default")
        elif command == "run" and rest:
            share_among_processes([command, *rest])
            end_with_caller()
            run_notebook(
                rest[0],
                {
                    key: typed(value)
                    for key, _, value in (argument.partition("=") for argument in rest[1:])
                },
            )
        elif command == "notebooks":
            refresh_notebooks()
        elif command == "check":
            pick(check_params().profiles, rest[0] if rest else "default", "profile")
            check_data()
            check_files(rest[0] if rest else "default")
        elif command == "fetch" and rest:
            print(
                fetch(
                    rest[0], pick(check_params().datasets, rest[0], "dataset"), "accept" in rest[1:]
                )
            )
        elif command == "choose" and rest:
            print(choose(rest))
        elif command == "summary" and len(rest) == 2:
            print(summary(*rest))
        elif command == "store":
            check_store()
        elif command == "verify":
            print(verify())
        else:
            print(main.__doc__)
            return 0 if command == "help" else 2
    except KeyboardInterrupt:
        print("interrupted; nothing was changed, `make repro` goes on from here", file=sys.stderr)
        return 130
    except (SettingsError, NotebookError, ValueError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        mend = "free some space there" if full else "make it one that you may read and write"
        print(
            f"ERROR: {error.filename or project_root()} cannot be read or written ({error.strerror or error}); {mend}, and run it again",
            file=sys.stderr,
        )
        return 1
    return 0
