"""`python -m bivrec`."""

import sys

try:
    from bivrec.pipeline.cli import main
except ImportError as missing:
    if (missing.name or "").startswith("bivrec"):
        raise
    what = "is not installed" if isinstance(missing, ModuleNotFoundError) else "is damaged"
    mend = "run `make setup` (`make clean setup` where .venv is damaged), then `. .venv/bin/activate` or the make targets"
    sys.exit(f"ERROR: the package {missing.name} {what} for {sys.executable}; {mend}")

sys.exit(main())
