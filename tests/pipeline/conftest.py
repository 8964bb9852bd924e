"""A separate project with one small notebook."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from bivrec.pipeline.notebooks import write_sources

PARAMETERS = 'dataset = "planted"\nprofile = "default"'


@pytest.fixture
def small(root, tmp_path, monkeypatch):
    """A separate project: the real settings and module, one small notebook."""
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    (tmp_path / "bivrec").symlink_to(root / "bivrec")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.chdir(tmp_path)

    def write(*sources: str) -> None:
        cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
        cells += [new_code_cell(source) for source in sources]
        kernel = {"kernelspec": {"name": "python3", "display_name": "x"}}
        nbformat.write(new_notebook(cells=cells, metadata=kernel), "notebooks/01_small.ipynb")
        write_sources()

    write.root = tmp_path
    return write
