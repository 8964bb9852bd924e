"""The code that a training depends on, by the imports that lead to it."""

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


@cache
def training_code() -> str:
    """The SHA-256 of every file of this package that trains, chooses and builds models."""
    files = sorted(imported_files(PACKAGE / "experiment" / "training.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def imported_files(module: Path) -> set[Path]:
    """The module and the package's files that it imports, through others and in functions too.

    `bivrec/__init__.py` is left out: it imports `explore` on demand, for readers, and nothing that
    trains uses it.
    """
    files, waiting = set(), [module]
    while waiting:
        if (file := waiting.pop()) not in files:
            files.add(file)
            waiting += [path for name in _imported_names(file) for path in _files_of(name)]
    return files


def _imported_names(file: Path) -> set[str]:
    """Dotted names of the imports; `from a import b` is both a and a.b, which may be a module."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _files_of(name: str) -> list[Path]:
    """The package's files that an import runs: the module, and each folder's `__init__`."""
    package, *parts = name.split(".")
    if package != PACKAGE.name:
        return []
    folders = [PACKAGE.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    files = [file for path in folders for file in (path / "__init__.py", path.with_suffix(".py"))]
    return [file for file in files if file.is_file()]
