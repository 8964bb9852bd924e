"""The code that a checkpoint depends on follows from imports."""

import ast
import os
import shutil

import pytest

from bivrec.experiment import code


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package, whose files a test may change."""
    shutil.copytree(code.PACKAGE, tmp_path / "bivrec", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "bivrec")
    code.training_code.cache_clear()
    yield tmp_path / "bivrec"
    code.training_code.cache_clear()


def change(file):
    file.write_text(file.read_text() + "\n# changed\n")
    code.training_code.cache_clear()


def test_what_trains_and_chooses_is_in_it_and_what_reads_results_is_not():
    start = code.PACKAGE / "experiment" / "training.py"
    files = {str(file.relative_to(code.PACKAGE)) for file in code.imported_files(start)}
    assert {"evaluation.py", "baselines/neural.py", "data/splits.py", "settings/schema.py"} <= files
    assert {"training/loop.py", "training/batches.py", "training/distributed.py"} <= files
    assert {"model/bivrec.py", "model/base.py", "experiment/registry.py"} <= files
    assert not {file.split(os.sep)[0] for file in files} & {
        "studies",
        "plots",
        "pipeline",
        "explore",
    }


@pytest.mark.parametrize("changed", ["evaluation.py", "model/losses.py", "settings/__init__.py"])
def test_code_that_trains_changes_it(package, changed):
    before = code.training_code()
    change(package / changed)
    assert code.training_code() != before


@pytest.mark.parametrize("changed", ["studies/claims.py", "plots/style.py", "__init__.py"])
def test_other_code_does_not(package, changed):
    before = code.training_code()
    change(package / changed)
    assert code.training_code() == before


def test_imports_in_functions_and_of_modules_are_followed(package):
    (package / "x.py").write_text(
        "def f():\n    from bivrec.plots import style\n    import numpy\n"
    )
    files = {file.relative_to(package).as_posix() for file in code.imported_files(package / "x.py")}
    assert {"x.py", "plots/__init__.py", "plots/style.py"} <= files


def test_no_import_is_relative():
    """Only absolute imports are followed."""
    for file in code.PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), file
