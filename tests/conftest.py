"""Fixtures that the tests of several packages share."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from bivrec.data.domain import Domain, prepare
from bivrec.errors import DataError, NotebookError, SettingsError
from bivrec.pipeline.cli import main
from bivrec.settings import load_settings


class Project:
    """A project in a folder: the real settings, a dataset `mine` in the plain form, a small
    notebook and earlier results."""

    def __init__(self, root: Path, folder: Path):
        self.source, self.root, self.raw = root, folder, folder / "raw" / "mine"
        mine = {
            "source": "plain",
            "plain": {"folder": "mine"},
            "settings": {"studies.seeds": [0], "studies.retrained_seeds": [0]},
        }
        text, first = (root / "params.yaml").read_text(), "datasets:\n"
        added = f"{first}  mine: {json.dumps(mine)}\n"
        self.write("params.yaml", text.replace(first, added, 1))
        self.write("results/01_small/planted/table.csv", "a\n1\n")
        rows = [f"u{u},i{i},{7 * u + i}\n" for u in range(40) for i in range(u % 3, 9)]
        self.write("raw/mine/interactions.csv", "user,item,time\n" + "".join(rows))
        rows = [f"i{i},Thing {i}\n" for i in range(9)]
        self.write("raw/mine/items.csv", "item,title\n" + "".join(rows))
        self.notebook("print(dataset)")

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def notebook(self, *sources: str) -> None:
        parameters = 'dataset = "planted"\nprofile = "default"\nnote = ""'
        first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
        cells = [first, *map(new_code_cell, sources)]
        path = self.root / "notebooks" / "01_small.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells), path)

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text, old
        self.write(name, text.replace(old, new, 1))

    def content(self) -> dict[str, str]:
        """Every file, by its hash."""
        files = (path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink())
        return {
            path.relative_to(self.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }

    @property
    def dataset(self):
        return load_settings("mine").datasets["mine"]

    def read(self) -> None:
        """What 01_data_prep does with the dataset."""
        prepare(Domain("mine"))


@pytest.fixture
def project(root, tmp_path, monkeypatch) -> Project:
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    monkeypatch.delenv("BIVREC_DATA", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.chdir(tmp_path)
    return Project(root, tmp_path)


@pytest.fixture
def refuses(project, capsys) -> Callable[[list[str] | Callable], str]:
    """Asserts that a command or a function refuses with one of our errors, in one line, and that
    the project is as before, with nothing new outside build/; gives the message."""

    def refuse(act: list[str] | Callable) -> str:
        before = project.content()
        if callable(act):
            with pytest.raises((SettingsError, DataError, NotebookError)) as caught:
                act()
            message = str(caught.value)
        else:
            assert main(act) not in (0, None)
            message = capsys.readouterr().err.removesuffix("\n")
            assert message.startswith("ERROR: ")
        after = project.content()
        assert before.items() <= after.items(), "something was overwritten or lost"
        added = after.keys() - before.keys()
        assert all(name.startswith("build/") and ".running-" not in name for name in added)
        assert message and "\n" not in message and "Traceback" not in message, message
        return message

    return refuse


@pytest.fixture(autouse=True)
def seeded():
    """Tests that draw with torch's global generator draw the same numbers every time."""
    torch.manual_seed(0)
