"""`python -m bivrec`."""

import sys

try:
    from bivrec.pipeline import main
except ModuleNotFoundError as missing:
    if (missing.name or "").startswith("bivrec"):
        raise
    sys.exit(f"ERROR: the package {missing.name} is not installed for {sys.executable}; run `make setup`, then `. .venv/bin/activate` or the make targets")

sys.exit(main())
