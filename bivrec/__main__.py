"""`python -m bivrec`."""

import sys

try:
    from bivrec.pipeline.cli import main
except ImportError as missing:
    if (missing.name or "").startswith("bivrec"):
        raise
    what = "is not installed" if isinstance(missing, ModuleNotFoundError) else "is damaged"
    sys.exit(
        f"ERROR: the package {missing.name} {what} for {sys.executable}; run `make setup` "
        f"(`make clean setup` where .venv is damaged), then `. .venv/bin/activate` or the make "
        f"targets"
    )

sys.exit(main())
