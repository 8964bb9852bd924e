"""Notebooks read and checked, and stripped of what differs from run to run."""

import json
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from bivrec.errors import NotebookError
from bivrec.outputs import write_atomically
from bivrec.settings import check_params, project_root

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def strip(notebook: NotebookNode, outputs: bool = False) -> NotebookNode:
    """The notebook, changed in place: no metadata but tags, ids by position, no outputs unless
    `outputs` keeps them."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"c{number:03d}"
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code" and not outputs:
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def _join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Consecutive parts of one stream as one: the kernel's clock decides where it cuts them."""
    joined: list[NotebookNode] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        stream = output["output_type"] == last.get("output_type") == "stream"
        if stream and output["name"] == last["name"]:
            last["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def scrub(notebook: NotebookNode) -> NotebookNode:
    """An executed notebook without times, paths of this machine and versions, changed in place:
    the same bytes whenever and wherever it ran."""
    for cell in strip(notebook, outputs=True).cells:
        if not cell.get("outputs"):
            continue
        cell["outputs"] = _join_streams(cell["outputs"])
        for output in cell["outputs"]:
            if "metadata" in output:
                output["metadata"] = {}
            for key in {"text", "data"} & set(output):
                output[key] = json.loads(json.dumps(output[key]).replace(str(project_root()), "."))
    return notebook


def read_notebook(path: Path) -> NotebookNode:
    """Reads a notebook; raises NotebookError unless it has exactly one cell of parameters."""
    name = f"notebooks/{path.name}"
    try:
        nbformat.validate(notebook := nbformat.read(path, as_version=4))
    except Exception as error:
        reason = f"{name} is not a notebook ({error.__class__.__name__})"
        raise NotebookError(f"{reason}; restore it with `git checkout {name}`") from None
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise NotebookError(
            f"{name} has {len(tagged)} cells tagged 'parameters'; it needs exactly one"
        )
    return notebook


def write_scrubbed(executed: Path, target: Path) -> None:
    """Writes an executed notebook without what differs from run to run."""
    notebook = scrub(nbformat.read(executed, as_version=4))
    write_atomically(target, nbformat.writes(notebook) + "\n")


def write_sources() -> None:
    """Checks params.yaml and every notebook, and writes the notebooks without outputs to
    build/notebooks. Files that would not change are not touched."""
    check_params()
    root = project_root()
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        text = nbformat.writes(strip(read_notebook(path))) + "\n"
        target = root / "build" / "notebooks" / path.name
        if not target.is_file() or target.read_text("utf-8") != text:
            write_atomically(target, text)
