"""`python -m bivrec`, and the command `bivrec`."""

import sys


def start() -> int:
    """The command line; a missing package ends in what to do."""
    try:
        from bivrec.pipeline.cli import main

        return main()
    except ImportError as missing:
        if (missing.name or "").startswith("bivrec"):
            raise
        what = "is not installed" if isinstance(missing, ModuleNotFoundError) else "is damaged"
        sys.exit(
            f"ERROR: the package {missing.name} {what} for {sys.executable}; run `make setup` "
            f"(`make clean setup` where .venv is damaged), then `. .venv/bin/activate` or the make "
            f"targets; without make, `pip install '.[study]'`"
        )


if __name__ == "__main__":
    sys.exit(start())
