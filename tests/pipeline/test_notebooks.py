"""Notebooks without what differs from run to run."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from bivrec.errors import NotebookError
from bivrec.pipeline.cli import main
from bivrec.pipeline.notebooks import read_notebook, scrub, strip, write_sources


def test_bad_notebooks(small, capsys):
    small("1")
    path = small.root / "notebooks" / "01_small.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), path)
    with pytest.raises(NotebookError, match="0 cells tagged 'parameters'"):
        read_notebook(path)
    path.write_text("{")
    assert main(["source"]) == 1
    assert "notebooks/01_small.ipynb is not a notebook" in capsys.readouterr().err


def test_saved_outputs_never_count(small):
    small("1 + 1")
    source = small.root / "build" / "notebooks" / "01_small.ipynb"
    before, stamp = source.read_bytes(), source.stat().st_mtime_ns
    notebook = nbformat.read(small.root / "notebooks" / "01_small.ipynb", 4)
    cell = notebook.cells[1]
    cell.outputs, cell.execution_count, cell.id = [new_output("stream", text="2")], 7, "other"
    notebook.metadata["widgets"] = {}
    nbformat.write(notebook, small.root / "notebooks" / "01_small.ipynb")
    write_sources()
    assert source.read_bytes() == before and source.stat().st_mtime_ns == stamp


def test_scrub_joins_what_a_cell_printed():
    """The kernel sends text in parts, cut by its clock."""
    cell = new_code_cell("print()")
    parts = [("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d")]
    cell.outputs = [new_output("stream", name=name, text=text) for name, text in parts]
    outputs = scrub(new_notebook(cells=[cell])).cells[0].outputs
    joined = [(output["name"], output["text"]) for output in outputs]
    assert joined == [("stdout", "ab"), ("stderr", "c"), ("stdout", "d")]


def test_scrub_removes_times_and_paths(small):
    small("1")
    tagged = {"papermill": {"duration": 1.5}, "tags": ["injected-parameters"]}
    cell = new_code_cell("x", metadata=tagged)
    data = {"text/plain": f"{small.root}/data"}
    cell.outputs = [new_output("display_data", data, metadata={"when": 3})]
    executed = new_notebook(cells=[cell], metadata={"papermill": {"start_time": "2026"}})
    text = nbformat.writes(scrub(executed))
    assert not re.search(f"2026|duration|when|{small.root}", text)
    assert "./data" in text and "injected-parameters" in text
    assert "outputs" in nbformat.writes(strip(new_notebook(cells=[new_code_cell("x")])))
