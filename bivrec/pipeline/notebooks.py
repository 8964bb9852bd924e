"""Notebooks stripped, scrubbed, checked and refreshed."""

import json
from pathlib import Path

import nbformat

from bivrec.errors import NotebookError
from bivrec.outputs import write_atomically
from bivrec.settings import check_params, project_root


def strip(notebook: nbformat.NotebookNode, outputs: bool = False) -> nbformat.NotebookNode:
    """A notebook's sources, with or without outputs: no metadata but tags, and ids by place."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"c{number:03d}"
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code" and not outputs:
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def scrub(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An executed notebook without times, machine paths and versions: the same bytes whenever and wherever it ran. What a cell
    printed is one text, in however many parts the kernel sent it."""
    for cell in strip(notebook, outputs=True).cells:
        whole = []
        for output in cell.get("outputs", []):
            if (
                whole
                and output["output_type"] == whole[-1]["output_type"] == "stream"
                and output["name"] == whole[-1]["name"]
            ):
                whole[-1]["text"] += output["text"]
            else:
                whole.append(output)
        for output in whole:
            if "metadata" in output:
                output["metadata"] = {}
            for key in {"text", "data"} & set(output):
                output[key] = json.loads(json.dumps(output[key]).replace(str(project_root()), "."))
        if whole:
            cell["outputs"] = whole
    return notebook


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook with its one cell of parameters."""
    try:
        nbformat.validate(notebook := nbformat.read(path, as_version=4))
    except Exception as error:
        told = f"notebooks/{path.name} is not a notebook ({error.__class__.__name__})"
        raise NotebookError(
            f"{told}; restore it with `git checkout notebooks/{path.name}`"
        ) from None
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise NotebookError(
            f"notebooks/{path.name} has {len(tagged)} cells tagged 'parameters'; it needs exactly one"
        )
    return notebook


def write_sources() -> None:
    """The stage `source`: checks params.yaml and every notebook, and writes the notebooks' bare sources to build/notebooks,
    which the stages run, so that saved outputs never count as a change."""
    check_params()
    root = project_root()
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        text = nbformat.writes(strip(read_notebook(path))) + "\n"
        target = root / "build" / "notebooks" / path.name
        if not target.is_file() or target.read_text("utf-8") != text:
            write_atomically(target, text)
