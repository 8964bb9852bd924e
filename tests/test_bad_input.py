"""Rubbish in, one clear sentence out: each case names the file or key, the value and the mend, exits with an error of our
own and no traceback, and overwrites nothing."""

import ctypes
import errno
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import polars as pl
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from bivrec import fetch as fetching
from bivrec import sources
from bivrec.data.domain import Domain, prepare
from bivrec.data.download import checksums, unpack
from bivrec.data.encoders import open_image
from bivrec.data.features import (
    ItemFeatures,
    load_features,
    load_image_vectors,
    save_features,
    save_image_vectors,
)
from bivrec.data.readers.registry import read_dataset
from bivrec.data.readers.vectors import read_vectors
from bivrec.data.sequences import load_sequences, save_sequences
from bivrec.errors import DataError, NotebookError, SettingsError
from bivrec.experiment.checkpoints import load_checkpoint, save_checkpoint
from bivrec.experiment.registry import build_model
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_models
from bivrec.outputs import progress, read_output
from bivrec.pipeline.cli import main
from bivrec.pipeline.notebooks import read_notebook, write_sources
from bivrec.settings import load_settings
from bivrec.studies.gather import stage_labels

OWN = (SettingsError, DataError, NotebookError)


def content_of(folder: Path) -> dict[str, str]:
    """Every file below the folder, by its hash."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


class Project:
    """A project of its own: the real settings, a dataset `mine` in the plain form, one small notebook, results of before."""

    def __init__(self, root: Path, folder: Path):
        self.source, self.root, self.raw = root, folder, folder / "raw" / "mine"
        mine = {
            "source": "plain",
            "plain": {"folder": "mine"},
            "settings": {"studies.seeds": [0], "studies.retrained_seeds": [0]},
        }
        text = (
            (root / "params.yaml")
            .read_text()
            .replace(
                "datasets:\n  planted:", f"datasets:\n  mine: {json.dumps(mine)}\n  planted:", 1
            )
        )
        self.write("params.yaml", text)
        self.write("results/01_small/planted/table.csv", "a\n1\n")
        self.write(
            "raw/mine/interactions.csv",
            "user,item,time\n"
            + "".join(f"u{u},i{i},{7 * u + i}\n" for u in range(40) for i in range(u % 3, 9)),
        )
        self.write(
            "raw/mine/items.csv", "item,title\n" + "".join(f"i{i},Thing {i}\n" for i in range(9))
        )
        self.notebook("print(dataset)")

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def notebook(self, *sources: str) -> None:
        cells = [
            new_code_cell(
                'dataset = "planted"\nprofile = "default"\nnote = ""',
                metadata={"tags": ["parameters"]},
            ),
            *map(new_code_cell, sources),
        ]
        path = self.root / "notebooks" / "01_small.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells), path)

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text, old
        self.write(name, text.replace(old, new, 1))

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


def refuses(act: list[str] | Callable, project: Project, capsys) -> str:
    """The one sentence with which a command or a function refuses; what stood in the project stands there as before, and
    nothing is new but in build/."""
    before = content_of(project.root)
    if callable(act):
        with pytest.raises(OWN) as caught:
            act()
        told = str(caught.value)
    else:
        assert main(act) not in (0, None)
        told = capsys.readouterr().err.removesuffix("\n")
        assert told.startswith("ERROR: ")
    after = content_of(project.root)
    assert {name: told for name, told in after.items() if name in before} == before, (
        "something was overwritten or lost"
    )
    assert all(
        name.startswith("build/") and ".running-" not in name
        for name in after.keys() - before.keys()
    )
    assert told and "\n" not in told and "Traceback" not in told, told
    return told


def settings(old: str, new: str):
    return lambda project: project.replace("params.yaml", old, new) or ["check"]


def whole(content: str | bytes):
    return lambda project: project.write("params.yaml", content) and ["check"]


def extra(text: str):
    """A line above all others of params.yaml."""
    return lambda project: (
        project.replace("params.yaml", "\nmachine:", f"\n{text}\nmachine:") or ["check"]
    )


def command(*words: str):
    return lambda project: list(words)


SCALES = "  scales: [1, 2, 4]"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)
)
SETTINGS = {
    "F larger than K": (settings("  num_nearest: 1", "  num_nearest: 9"), "model: num_nearest (F) is 9, more than num_interests (K), 2"),
    "L smaller than the largest scale": (settings("  max_length: 48", "  max_length: 2"), "scale 4 must divide the largest scale, 4, and max_length, 2"),
    "a scale of zero": (settings(SCALES, "  scales: [0, 2, 4]"), "model.scales.0: 0 is refused: Input should be greater than or equal to 1"),
    "no scale": (settings(SCALES, "  scales: []"), "model.scales: [] is refused"),
    "a key twice": (settings("\nstudies:\n", "\nstudies: {}\nstudies:\n"), 'is not YAML: found duplicate key "studies"'),
    "a tab": (settings("  dim: 64", "\tdim: 64"), "is not YAML: found character '\\t' that cannot start any token"),
    "a tag that would run code": (extra("x: !!python/object/apply:os.system [touch run]"), "is not YAML: could not determine a constructor for the tag"),
    "an alias of itself": (extra("x: &x [*x]"), "is no tree of settings (Circular reference detected)"),
    "aliases that fill the memory": (extra(BOMB), "is no tree of settings (it holds more than 1,048,576 characters"),
    "nesting without end": (extra("x: " + "[" * 3000 + "]" * 3000), "is no tree of settings (it is nested too deep)"),
    "a key that is a list": (extra("? [a, b]\n: 1"), "is no tree of settings (keys must be str"),
    "a date for a number": (settings("  dim: 64", "  dim: 2001-01-01"), 'model.dim: "2001-01-01" is refused'),
    "an infinite rate": (settings("  learning_rate: 0.004", "  learning_rate: .inf"), "training.learning_rate: Infinity is refused"),
    "a share that is no number": (settings("  multimodal_share: 0.5", "  multimodal_share: .nan"), "model.multimodal_share: NaN is refused"),
    "a negative seed": (settings("  seeds: [0, 1, 2, 3, 5, 7, 9]", "  seeds: [-1]"), "studies.seeds.0: -1 is refused"),
    "no seed": (settings("  seeds: [0, 1, 2, 3, 5, 7, 9]", "  seeds: []"), "studies.seeds: [] is refused"),
    "two folds": (settings("  num_folds: 10", "  num_folds: 2"), "split.num_folds: 2 is refused"),
    "all of a history": (settings("  history_share: 0.8", "  history_share: 1.0"), "split.history_share: 1.0 is refused"),
    "half a row": (settings("  batch_size: 16", "  batch_size: 1.5"), "training.batch_size: 1.5 is refused"),
    "everything dropped out": (settings("  dropout: 0.2", "  dropout: 1.0"), "model.dropout: 1.0 is refused"),
    "a modality that is none": (settings("  modality: both", "  modality: video"), 'features.modality: "video" is refused'),
    "an encoder that is none": (settings("  text_encoder: minilm", "  text_encoder: ../bert"), 'features.text_encoder: "../bert" is refused'),
    "a level above one": (settings("    swap: [0.0, 0.1, 0.3, 0.5]", "    swap: [0.0, 1.5]"), "swap has the level 1.5, which is a share and at most 1"),
    "levels that fall": (settings("    swap: [0.0, 0.1, 0.3, 0.5]", "    swap: [0.0, 0.5, 0.1]"), "they must rise from 0, what is clean"),
    "fewer than no workers": (settings("  num_workers: 0 ", "  num_workers: -1 "), "machine.num_workers: -1 is refused"),
    "an empty value": (settings("  dim: 64", "  dim:"), "model.dim: null is refused"),
    "a profile that is a path": (settings("  default: {}", "  default: {}\n  ../x: {}"), "profiles.../x"),
    "a model that is a path": (settings("  popularity: {family", "  ../x: {family: popularity, settings: {}}\n  popularity: {family"), "models.../x"),
    "a category that is a path": (settings("category: Baby}", "category: ../../x}"), 'datasets.baby.amazon.category: "../../x" is refused'),
    "a download by file://": (settings('url: "https://files.grouplens.org/datasets/movielens/ml-1m.zip"', 'url: "file:///etc/passwd"'), "file:///etc/passwd"),
    "a list": (whole("- a\n- b\n"), "params.yaml holds no settings; restore it with `git checkout params.yaml`"),
    "UTF-16": (whole("machine: {}".encode("utf-16")), "params.yaml cannot be read (UnicodeDecodeError); restore it"),
    "a zero byte": (whole("machine:\0 1"), "params.yaml is not YAML"),
    "a folder": (lambda project: ((project.root / "params.yaml").unlink(), (project.root / "params.yaml").mkdir()) and ["check"], "cannot be read (IsADirectoryError)"),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(project, capsys, case):
    arrange, told = SETTINGS[case]
    sentence = refuses(arrange(project), project, capsys)
    assert told in sentence and "params.yaml" in sentence
    assert not (project.root / "run").exists()


def test_a_study_that_a_dataset_has_no_features_for_is_left_out(project, capsys):
    project.notebook(
        "before = 1",
        'from bivrec.settings import LeftOut\nraise LeftOut("mine has no features")',
        "print('never')",
    )
    write_sources()
    assert main(["run", "01_small", "dataset=mine"]) == 0
    assert "01_small (mine) is left out: mine has no features" in capsys.readouterr().out
    assert json.loads(
        (project.root / "build" / "01_small" / "mine" / "left-out.json").read_text()
    ) == {"left out": "mine has no features"}
    executed = nbformat.read(project.root / "results" / "01_small" / "mine" / "01_small.ipynb", 4)
    assert [output.text for cell in executed.cells for output in cell.outputs] == [
        "Left out: mine has no features\n"
    ]
    project.replace(
        "params.yaml", "  datasets: [movies-classic, movies-modern]", "  datasets: [mine, planted]"
    )
    (project.root / "build" / "01_small").rename(project.root / "build" / "05_noise")
    assert ("05_noise", "planted") in stage_labels("default") and (
        "05_noise",
        "mine",
    ) not in stage_labels("default")


def test_the_summary_tells_what_ran_and_where_to_look(project, capsys):
    project.notebook("print(1)")
    write_sources()
    assert main(["run", "01_small", "dataset=planted"]) == 0
    assert main(["summary", "default", "2000-01-01 00:00"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("1 stages ran, 0 min ") and told[1].split()[0] == "01_small/planted"
    assert told[2].startswith("Look at results/08_report/all/08_report.ipynb")
    assert main(["summary", "default", "2999-01-01 00:00"]) == 0
    assert capsys.readouterr().out.startswith(
        "Nothing had to run: every result is up to date.\nLook at "
    )


def test_a_bar_goes_to_the_terminal_that_it_is_told_and_nowhere_else(tmp_path, capfd, monkeypatch):
    (tmp_path / "terminal").touch()
    for terminal in ("", str(tmp_path / "terminal")):
        monkeypatch.setenv("BIVREC_TERMINAL", terminal)
        assert list(progress(range(3), "training", "steps")) == [0, 1, 2]
    assert (
        "training:   0%" in (tmp_path / "terminal").read_text()
        and "steps" in (tmp_path / "terminal").read_text()
    )
    monkeypatch.delenv("BIVREC_TERMINAL")
    assert list(progress(iter("ab"), "training", "steps", 2)) == ["a", "b"]
    assert capfd.readouterr() == ("", "")


COMMANDS = {
    "a dataset that is a path": (command("run", "01_small", "dataset=../../x"), "there is no dataset '../../x'; known are mine, planted"),
    "a dataset to fetch that is a path": (command("fetch", "../../x"), "there is no dataset '../../x'; known are"),
    "a dataset to choose that is a path": (command("choose", "../../x"), "there is no dataset '../../x'; known are"),
    "a profile that is a path": (command("run", "01_small", "profile=../x"), "there is no profile '../x'; known are"),
    "a notebook that is a path": (command("run", "../../notebooks/01_small"), "'../../notebooks/01_small' is no notebook's name but a path; name one of"),
    "an absolute notebook": (command("run", "/etc/passwd"), "'/etc/passwd' is no notebook's name but a path"),
    "a dataset that is a number": (command("run", "01_small", "profile=1"), "there is no profile '1'"),
    "a parameter that there is not": (command("run", "01_small", "seed=1"), "01_small.ipynb has no parameter 'seed'; it has dataset, profile, note"),
    "results that are not there": (command("verify"), "results/runs.csv is not committed; nothing to compare with"),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(project, capsys, case):
    write_sources()
    arrange, told = COMMANDS[case]
    assert told in refuses(arrange(project), project, capsys)


def table(name: str, old: str, new: str):
    return lambda project: project.replace(f"raw/mine/{name}", old, new) or project.read


def file(name: str, content: str | bytes):
    return lambda project: project.write(f"raw/mine/{name}", content) and project.read


def parquet(frame: pl.DataFrame, name: str = "interactions"):
    return lambda project: frame.write_parquet(project.raw / f"{name}.parquet") or project.read


def array(content, ids: str = "item\n" + "".join(f"i{n}\n" for n in range(9))):
    """Published vectors of the items."""

    def arrange(project):
        project.write("raw/mine/ids.csv", ids)
        if isinstance(content, bytes):
            project.write("raw/mine/image.npy", content)
        else:
            np.save(project.raw / "image.npy", content)
        return lambda: read_vectors(project.dataset, "image", [f"i{n}" for n in range(9)])

    return arrange


def npy_header(shape: tuple[int, ...], tail: bytes = b"") -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return content.getvalue() + tail


ONE_EACH = "user,item,time\n" + "".join(f"u{u},i{u % 9},{u}\n" for u in range(40))
FEW = "user,item,time\n" + "".join(f"u{u},i{i},{i}\n" for u in range(5) for i in range(9))
ROWS = pl.DataFrame({"user": ["a", None], "item": ["i1", "i2"], "time": [1, 2]})
PLAIN = "raw/mine/interactions.csv"
DATA = {
    "not UTF-8": (file("interactions.csv", b"user,item,time\nr\xe9n\xe9,i1,1\n"), f"{PLAIN} is not UTF-8 text"),
    "UTF-16": (file("interactions.csv", "user,item,time\na,i1,1\n".encode("utf-16")), f"{PLAIN} is not UTF-8 text"),
    "no byte": (file("interactions.csv", b""), f"{PLAIN} is empty, not a table; mend the line or mend the file"),
    "zero bytes": (file("interactions.csv", bytes(4096)), PLAIN),
    "a header and no more": (file("interactions.csv", "user,item,time\n"), "mine is empty: no user and item have 5 interactions"),
    "an empty domain: every user has one item": (file("interactions.csv", ONE_EACH), "mine is empty: no user and item have 5 interactions (params.yaml: split.min"),
    "a time that is NaN": (table("interactions.csv", "u1,i1,8\n", "u1,i1,nan\n"), "row 10: time 'nan' is not a whole number; mend it"),
    "a time that is inf": (table("interactions.csv", "u1,i1,8\n", "u1,i1,inf\n"), "row 10: time 'inf' is not a whole number; mend it"),
    "a time before all times": (table("interactions.csv", "u1,i1,8\n", "u1,i1,-8\n"), "row 10: time '-8' is not a whole number"),
    "a time of the far future": (table("interactions.csv", "u1,i1,8\n", f"u1,i1,{2**63}\n"), "row 10: time '9223372036854775808' is not a whole number"),
    "a row cut short": (table("interactions.csv", "u1,i1,8\n", "u1,i1\n"), f"{PLAIN}, line 11: 2 fields, not 3; mend the line"),
    "a quote that never ends": (table("interactions.csv", "u1,i1,8\n", 'u1,"i1,8\n'), PLAIN),
    "no item": (table("interactions.csv", "u1,i1,8\n", "u1,,8\n"), "row 10 has no item"),
    "an item that is not listed": (table("items.csv", "i3,", "i33,"), "has the item 'i3', which items.csv lacks; add it there"),
    "items without their column": (table("items.csv", "item,", "thing,"), "raw/mine/items.csv has the columns thing,title, not item"),
    "a folder in a file's place": (lambda p: ((p.raw / "interactions.csv").unlink(), (p.raw / "interactions.csv").mkdir()) and p.read, "has neither interactions.parquet nor"),
    "no folder": (lambda p: shutil.rmtree(p.raw) or p.read, "raw/mine has neither interactions.parquet nor interactions.csv; mend the file"),
    "Parquet without a user": (parquet(ROWS), "raw/mine/interactions.parquet, row 2 has no user"),
    "Parquet without a column": (parquet(ROWS.drop("time")), "raw/mine/interactions.parquet has the columns user,item, not user,item,time"),
    "Parquet with lists": (parquet(ROWS.with_columns(user=pl.Series([[1], [2]]))), "raw/mine/interactions.parquet"),
    "Parquet of no row": (parquet(ROWS[:0]), "mine is empty: no user and item have 5 interactions"),
    "vectors that are infinite": (array(np.full((9, 2), np.inf, "float32")), "image.npy: the vector of item i0 has numbers that are not finite; mend or remove"),
    "vectors of whole numbers": (array(np.ones((9, 2), int)), "raw/mine/image.npy is an array (9, 2) of int64, not rows of decimal numbers; mend"),
    "vectors that would be unpickled": (array(b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (9, 2), }".ljust(117) + b"\ncos\nsystem\n."), "image.npy cannot be read as an array of numbers"),
    "vectors without a byte": (array(b""), "raw/mine/image.npy cannot be read as an array of numbers"),
    "vectors cut short": (array(npy_header((9, 4), bytes(100))), "raw/mine/image.npy cannot be read as an array of numbers"),
    "vectors that would fill the memory": (array(npy_header((9, 1 << 40))), "raw/mine/image.npy cannot be read as an array of numbers"),
    "no vector, but wide": (array(npy_header((0, 1 << 40)), "item\n"), "raw/mine/image.npy"),
    "vectors of nobody": (array(np.ones((9, 2), "float32"), "item\n"), "has 9 rows for 0 ids in ids.csv"),
    "vectors of one twice": (array(np.ones((9, 2), "float32"), "item\n" + "i1\n" * 9), "9 ids in ids.csv, 1 of them different; there must be one each"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_data_files(project, capsys, case):
    arrange, told = DATA[case]
    assert told in refuses(arrange(project), project, capsys)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"PK\x05\x06" + bytes(18),
        bytes.upper,
    ],
)
def test_what_a_stage_kept_is_damaged(project, capsys, damage):
    """Sequences and features in build/: cut short, emptied, or with their names changed."""
    features = ItemFeatures(np.ones((9, 2), "float32"), np.ones(9, bool), "mine")
    sequences = Domain("planted").sequences
    for name, save, load in (
        (
            "text.npz",
            lambda folder: save_features(folder, "text", features),
            lambda folder: load_features(folder, "text"),
        ),
        ("arrays.npz", lambda folder: save_sequences(sequences, folder), load_sequences),
    ):
        folder = project.root / "build" / name
        save(folder)
        load(folder)
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
        told = refuses(partial(load, folder), project, capsys)
        assert (
            str(folder) in told
            and "is damaged" in told
            and told.endswith("remove it, and `make repro` makes it anew")
        )


def test_what_a_stage_kept_may_not_be_read(project, capsys, monkeypatch):
    """Not ours to read is not damaged: removing it would be the wrong mend."""

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    folder = project.root / "build"
    save_features(
        folder, "text", ItemFeatures(np.ones((9, 2), "float32"), np.ones(9, bool), "mine")
    )
    save_sequences(Domain("planted").sequences, folder)
    monkeypatch.setattr("builtins.open", refuse)
    for load, name in (
        (lambda: load_features(folder, "text"), "text.npz"),
        (lambda: load_sequences(folder), "catalogue.csv"),
    ):
        with pytest.raises(
            DataError, match=f"{re.escape(str(folder / name))} may not be read; make it readable"
        ):
            load()


@pytest.mark.parametrize(
    "change",
    [
        {"item_ids": None},
        {"item_ids": ["a", "b"]},
        {"item_ids": [1]},
        {"item_ids": [1, 1 << 70]},
        None,
        [1],
    ],
)
def test_a_manifest_that_does_not_name_its_vectors(project, capsys, change):
    folder = project.root / "data" / "posters"
    save_image_vectors(folder, np.array([1, 2]), np.ones((2, 3), "float32"), "mine")
    assert load_image_vectors(folder)[0].tolist() == [1, 2]
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest = manifest | change if isinstance(change, dict) else change
    if isinstance(change, dict) and change["item_ids"] is None:
        del manifest["item_ids"]
    project.write("data/posters/manifest.json", json.dumps(manifest))
    assert "data/posters" in (
        told := refuses(lambda: load_image_vectors(folder), project, capsys)
    ) and told.endswith("restore it with `make restore`")


def test_fewer_users_than_folds(project, capsys, monkeypatch):
    project.write("raw/mine/interactions.csv", FEW)
    monkeypatch.setenv("BIVREC_BUILD", str(project.root / "build" / "01_data_prep" / "mine"))
    project.read()
    told = refuses(lambda: Domain("mine").fold(0), project, capsys)
    assert (
        "mine: of its 5 users nobody" in told
        and "in fold 0 (by_user); lower split.num_folds, 10, or add users" in told
    )


def test_a_gzip_that_unpacks_without_end(project, capsys, monkeypatch):
    monkeypatch.setattr(sources, "MAX_FILE", 1 << 20)
    line = (
        json.dumps(
            {"reviewerID": "A1", "asin": "B1", "unixReviewTime": 1, "reviewText": " " * 5000}
        )
        + "\n"
    )
    path = project.write("raw/baby/reviews_Baby_5.json.gz", gzip.compress(line.encode() * 1000))
    assert path.stat().st_size < 50_000
    baby = sources.Amazon(folder="baby", category="Baby")
    assert "reviews_Baby_5.json.gz unpacks to more than 1,048,576 bytes" in refuses(
        lambda: sources.read_amazon(path.parent, baby), project, capsys
    )


def test_parquet_with_more_rows_than_memory(project, capsys, monkeypatch):
    """A column of one value takes no room on the disk, whatever its length."""
    monkeypatch.setattr(sources, "MAX_ROWS", 99_999)
    pl.DataFrame({"user": ["a"] * 100_000, "item": "i1", "time": 1}).write_parquet(
        project.raw / "interactions.parquet"
    )
    assert (project.raw / "interactions.parquet").stat().st_size < 5000
    assert "interactions.parquet has 100,000 rows, more than 99,999" in refuses(
        lambda: read_dataset("mine", project.dataset), project, capsys
    )


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        '{"interactions.csv": 5}',
        '{"interactions.csv": {"sha256": null, "stamp": []}}',
        "[" * 5000,
    ],
)
def test_a_record_of_checksums_that_is_none(project, capsys, record):
    project.write("raw/mine/checksums.json", record)
    told = refuses(lambda: checksums("mine", project.dataset), project, capsys)
    assert (
        f"{project.raw / 'checksums.json'} is damaged; remove it, and the files count as seen for the first time"
        in told
    )


def test_a_published_file_in_a_folder_below_has_changed(project, capsys):
    dataset = load_settings("ml-1m").datasets["ml-1m"]
    for name in ("ratings.dat", "movies.dat", "more/about.txt"):
        project.write(f"raw/ml-1m/{name}", "1")
    checksums("ml-1m", dataset)
    project.write("raw/ml-1m/more/about.txt", "other")
    assert "about.txt has changed: its sha256 was" in refuses(
        lambda: checksums("ml-1m", dataset), project, capsys
    )


def archive(
    project: Project,
    *members: tuple[str, bytes],
    edit: Callable[[bytearray], None] = lambda content: None,
) -> Callable:
    with zipfile.ZipFile(project.root / "raw" / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members:
            packed.writestr(name, content)
    content = bytearray((project.root / "raw" / "a.zip").read_bytes())
    edit(content)
    path = project.write("raw/a.zip", bytes(content))
    return lambda: unpack(path, project.root / "raw" / "into")


def encrypt(content: bytearray) -> None:
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1


def unknown_method(content: bytearray) -> None:
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(mark) + place] = 99


def flip(content: bytearray) -> None:
    content[content.index(b"ml/ratings.dat") + 20] ^= 0xFF


def lie_about_size(content: bytearray) -> None:
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 10)


RATINGS = ("ml/ratings.dat", b"1::1::5::7\n" * 1000)
ARCHIVES = {
    "a path upward": (((RATINGS, ("ml/../../x", b"evil")), None), "holds 'ml/../../x', which leads outside its folder; nothing was unpacked"),
    "an absolute path": (((RATINGS, ("/tmp/x", b"evil")), None), "holds '/tmp/x', which leads outside its folder"),
    "a name that is none": (((RATINGS, (".", b"evil")), None), "holds '.', which leads outside its folder; nothing was unpacked"),
    "a password": (((RATINGS,), encrypt), "is encrypted, password required"),
    "a method of packing that is unknown": (((RATINGS,), unknown_method), "a.zip cannot be unpacked (That compression method is not supported)"),
    "a flipped byte": (((RATINGS,), flip), "a.zip cannot be unpacked"),
    "a size that is a lie": (((RATINGS,), lie_about_size), "a.zip cannot be unpacked (Bad CRC-32"),
    "no archive": (((RATINGS,), lambda content: content.clear()), "a.zip cannot be unpacked (File is not a zip file); remove it and fetch it again"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(project, capsys, case):
    (members, edit), told = ARCHIVES[case]
    assert told in refuses(
        archive(project, *members, edit=edit or (lambda content: None)), project, capsys
    )
    assert not [path for path in project.root.rglob("*.dat")]


def test_an_archive_that_unpacks_without_end(project, capsys, monkeypatch):
    monkeypatch.setattr(fetching, "MAX_UNPACKED", 1000)
    act = archive(project, ("ml/ratings.dat", bytes(10_000_000)))
    assert (project.root / "raw" / "a.zip").stat().st_size < 20_000
    told = refuses(
        lambda: unpack(
            project.root / "raw" / "a.zip", project.root / "raw" / "into", fetching.MAX_UNPACKED
        ),
        project,
        capsys,
    )
    assert "a.zip would fill more than 1,000 bytes; nothing was unpacked" in told
    act()  # within the bound of 16 GiB it is data


def test_an_archive_replaces_nothing_and_brings_no_record(project):
    act = archive(project, RATINGS, ("ml/movies.dat", b"theirs"), ("ml/checksums.json", b"{}"))
    project.write("raw/into/movies.dat", "placed by hand")
    act()
    into = project.root / "raw" / "into"
    assert (
        (into / "movies.dat").read_text() == "placed by hand"
        and (into / "ratings.dat").read_bytes() == RATINGS[1]
        and not (into / "checksums.json").exists()
    )


def png(width: int, height: int, chunks: bytes = b"") -> bytes:
    """A PNG that says it has this size, and almost no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunks
        + pixels
        + chunk(b"IEND", b"")
    )


def picture(kind: str, mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert(mode).save(content, kind)
    return content.getvalue()


IMAGES = {
    "no byte": b"",
    "text": b"no image at all",
    "a drawing": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "a JPEG cut short": picture("JPEG")[:300],
    "a PNG cut short": picture("PNG")[:-200],
    "a WebP cut short": picture("WEBP")[:200],
    "a bomb of 400 million pixels": png(20_000, 20_000),
    "a bomb of 54 million pixels": png(9_000, 6_000),
    "a size of zero": png(0, 5),
    "a text that unpacks without end": png(8, 8, b"\0\0\0\0zTXt"),
}  # fmt: skip


@pytest.mark.parametrize("case", IMAGES)
def test_images(project, capsys, case):
    path = project.write("images/1.png", IMAGES[case])
    told = refuses(lambda: open_image(path, path.name), project, capsys)
    assert "image 1.png" in told and told.endswith(
        ("; replace or remove it", "make it smaller or remove it")
    )


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("PNG", "1"),
        ("PNG", "L"),
        ("PNG", "P"),
        ("PNG", "LA"),
        ("PNG", "RGBA"),
        ("PNG", "I;16"),
        ("JPEG", "CMYK"),
        ("WEBP", "RGBA"),
    ],
)
def test_an_image_of_another_mode_is_read_as_rgb(project, kind, mode):
    path = project.write("images/1.png", picture(kind, mode))
    image = open_image(path, path.name)
    assert (image.mode, image.size) == ("RGB", (64, 64)) and len(
        set(np.asarray(image).ravel().tolist())
    ) > 1


NOTEBOOKS = {
    "a list": "[]",
    "no cells": json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}}),
    "cells that are none": json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [1]}),
    "another format": json.dumps({"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}),
    "no UTF-8": b'{"nbformat": 4, "\xff": 1}',
    "no byte": b"",
    "nesting without end": "[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("case", NOTEBOOKS)
def test_notebooks(project, capsys, case):
    project.write("notebooks/01_small.ipynb", NOTEBOOKS[case])
    told = refuses(["source"], project, capsys)
    assert (
        "notebooks/01_small.ipynb is not a notebook" in told
        and "`git checkout notebooks/01_small.ipynb`" in told
    )


def test_two_cells_of_parameters(project, capsys):
    path = project.root / "notebooks" / "01_small.ipynb"
    nbformat.write(
        new_notebook(cells=[new_code_cell("a = 1", metadata={"tags": ["parameters"]})] * 2), path
    )
    assert "01_small.ipynb has 2 cells tagged 'parameters'; it needs exactly one" in refuses(
        lambda: read_notebook(path), project, capsys
    )


def test_an_error_of_many_lines_is_one_sentence(project, capsys):
    project.notebook("raise ValueError('the first line\\nthe second')")
    write_sources()
    assert (
        "01_small (planted), cell 3: ValueError: the first line; the notebook up to there"
        in refuses(["run", "01_small", "dataset=planted"], project, capsys)
    )


def test_bad_data_in_a_stage_is_the_readers_sentence(project, capsys):
    """From the file through kernel and papermill to the command line."""
    project.replace("raw/mine/interactions.csv", "u1,i1,8\n", "u1,i1,soon\n")
    shutil.copy(project.source / "notebooks" / "01_data_prep.ipynb", project.root / "notebooks")
    write_sources()
    told = refuses(["run", "01_data_prep", "dataset=mine"], project, capsys)
    assert (
        "01_data_prep (mine), cell" in told
        and "DataError: raw/mine/interactions.csv, row 10: time 'soon' is not a whole number; mend it"
        in told
    )


def test_a_kernel_that_dies(project, capsys):
    project.notebook("import os; os._exit(1)")
    write_sources()
    told = refuses(["run", "01_small", "dataset=planted"], project, capsys)
    assert (
        "01_small (planted), the kernel died, most likely out of memory; lower machine.num_workers in params.yaml"
        in told
    )


def test_no_kernel(project, capsys, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def get(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", get)
    write_sources()
    told = refuses(["run", "01_small", "dataset=planted"], project, capsys)
    assert (
        "01_small (planted), no kernel could be started (NoSuchKernel): .venv is damaged; `make clean setup` builds it anew"
        in told
    )


def test_a_kernel_that_cannot_start(project, capsys):
    """As of a broken environment: what the kernel imports first is damaged."""
    project.write("ipykernel_launcher.py", "import no_such_package")
    write_sources()
    told = refuses(["run", "01_small", "dataset=planted"], project, capsys)
    assert (
        "no kernel could be started (RuntimeError): .venv is damaged; `make clean setup` builds it anew"
        in told
    )


def make(project: Project, *words: str, **environment: str) -> str:
    """What `make` says in a copy of the project's Makefile, having failed."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(project.source / name, project.root)
    before = content_of(project.root)
    shown = subprocess.run(
        ["make", *words],
        cwd=project.root,
        capture_output=True,
        text=True,
        env={**os.environ, "MAKEFLAGS": "", **environment},
    )
    assert shown.returncode != 0 and "Traceback" not in shown.stderr, shown.stderr
    assert content_of(project.root) == before
    (told,) = [line for line in shown.stderr.splitlines() if line.startswith("ERROR: ")]
    return told


def test_another_python(project):
    script = f'#!/bin/sh\nshift\nexec {sys.executable} -c "import sys; sys.version_info = (3, 8, 0); sys.version = \'3.8.0\'; exec(sys.argv[1])" "$@"\n'
    old = project.write("python3.8", script)
    old.chmod(0o755)
    assert (
        make(project, f"PYTHON={old}", "setup")
        == "ERROR: bivrec needs Python 3.11 or newer; this is 3.8.0. Install a newer one, as with "
        "`uv python install 3.12`, and name it: make PYTHON=python3.12 setup"
    )


def ready(project: Project, python: str | None = None) -> None:
    """An environment that was set up: with that Python, or with one that is gone since."""
    script = (
        f'#!/bin/sh\nexec {python} "$@"\n' if python else "#!/usr/lib/no-such-python/bin/python3\n"
    )
    project.write(".venv/bin/python", script).chmod(0o755)
    ready = project.write(".venv/ready", "")
    os.utime(ready, (2**32, 2**32))


def test_a_broken_environment(project):
    ready(project)
    assert (
        make(project, "setup")
        == "ERROR: .venv is broken: its Python does not start; `make clean setup` builds it anew"
    )


def test_a_damaged_package(project):
    project.write(
        "polars.py", "raise ImportError('libpolars.so: invalid ELF header', name='polars')"
    )
    shown = subprocess.run(
        [sys.executable, "-m", "bivrec", "check"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{project.root}:{project.source}"},
    )
    assert (
        shown.returncode == 1
        and shown.stderr.startswith("ERROR: the package polars is damaged for ")
        and "make clean setup" in shown.stderr
    )


def test_a_flipped_bit_in_the_store(project, capsys):
    """DVC itself hands a damaged file out without a word; `make` looks at the store first."""
    for content in (b"a,b\n1,2\n", b"c\n"):
        digest = hashlib.md5(content).hexdigest()
        last = project.write(f"dvcstore/files/md5/{digest[:2]}/{digest[2:]}", content)
    assert main(["store"]) == 0
    content = bytearray(last.read_bytes())
    content[0] ^= 1
    last.write_bytes(content)
    told = refuses(["store"], project, capsys)
    assert (
        f"{last.relative_to(project.root)} is damaged: its content is not that of its name; `git checkout dvcstore` brings it back, then"
        in told
    )
    ready(project, sys.executable)
    assert "is damaged: its content is not that of its name" in make(
        project, "restore", PYTHONPATH=str(project.source)
    )
    assert "is damaged: its content is not that of its name" in make(
        project, "data", PYTHONPATH=str(project.source)
    )


def as_anyone() -> None:
    """A child that may do no more than its files' modes allow, also where the tests run as root."""
    prctl = ctypes.CDLL(None).prctl
    for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
        prctl(24, capability, 0, 0, 0)


def bivrec(*words: str, limit: Callable[[], None] = as_anyone) -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "bivrec", *words], capture_output=True, text=True, preexec_fn=limit
    )
    assert (
        shown.returncode == 1
        and shown.stderr.count("\n") == 1
        and shown.stderr.startswith("ERROR: ")
    ), shown.stderr
    return shown.stderr.strip()


def test_no_permission(project):
    write_sources()
    before = content_of(project.root)
    for folder, words, told in (
        (
            "build",
            ("choose", "planted"),
            "cannot be read or written (Permission denied); make it one that you may read and write, and run it again",
        ),
        (
            "results/01_small",
            ("run", "01_small", "dataset=planted"),
            "results/01_small/planted cannot be read or written (Permission denied)",
        ),
    ):
        path = project.root / folder
        mode = path.stat().st_mode
        path.chmod(0o555)
        sentence = bivrec(*words)
        path.chmod(mode)
        assert told in sentence and str(path) in sentence
    (project.root / "params.yaml").chmod(0)
    assert "params.yaml cannot be read (PermissionError)" in bivrec("check")
    (project.root / "params.yaml").chmod(0o644)
    assert {
        name: told
        for name, told in content_of(project.root).items()
        if not name.startswith("build/")
    } == {name: told for name, told in before.items() if not name.startswith("build/")}


def test_a_disk_that_is_read_only(project, capsys, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    told = refuses(["choose", "planted"], project, capsys)
    assert (
        "params.yaml" in told
        and "(Read-only file system); make it one that you may read and write, and run it again"
        in told
    )


def test_a_disk_that_is_full(project):
    """No file may grow beyond 2,000 bytes, which the system says as it says that a disk is full."""
    import resource

    sentence = bivrec(
        "choose", "planted", limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    )
    assert "(File too large); free some space there, and run it again" in sentence
    assert load_settings().studies.datasets == ("movies-classic", "movies-modern")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'a\n"1'])
def test_a_kept_table_that_is_damaged(project, capsys, content):
    project.write("build/03_training/mine/runs.csv", content)
    told = refuses(lambda: read_output("03_training", "mine", "runs.csv"), project, capsys)
    assert (
        told.startswith("build/03_training/mine/runs.csv is damaged")
        and "; remove build/03_training/mine, and `make repro` makes it anew" in told
    )


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"'])
def test_results_that_are_damaged(project, capsys, content):
    project.write("results/runs.csv", content)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "results"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True, cwd=project.root)
    shown = refuses(["verify"], project, capsys)
    assert "results/runs.csv is" in shown and (
        "`git checkout results/runs.csv` brings it back" in shown
        or "nothing to compare with" in shown
    )


def test_checkpoints_that_are_damaged(project, capsys, tmp_path_factory):
    from safetensors.torch import load_file, save_file

    domain, path = (
        Domain("planted", {"training.num_steps": 2, "training.warmup_steps": 1}),
        tmp_path_factory.mktemp("built") / "pure-id-0.safetensors",
    )
    save_checkpoint(domain, train_models(domain, ["pure-id"])[0], path)
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        described = opened.metadata()
    content = path.read_bytes()
    weights = {
        key: value.clone() for key, value in load_file(path).items()
    }  # the file's memory is about to change
    name = next(iter(weights))
    for damaged in (
        b"",
        content[:7],
        content[:100],
        struct.pack("<Q", 1 << 60) + content[8:],
        bytes(500),
    ):
        path.write_bytes(damaged)
        assert (
            "the checkpoint pure-id-0.safetensors is damaged; remove it and run `make repro`"
            in refuses(lambda: load_checkpoint(domain, "pure-id", 0, path), project, capsys)
        )
    for damaged in (
        {**weights, name: weights[name][:1].clone()},
        {key: value for key, value in weights.items() if key != name},
    ):
        save_file(damaged, path, described)
        assert "pure-id-0.safetensors is damaged; remove it" in refuses(
            lambda: load_checkpoint(domain, "pure-id", 0, path), project, capsys
        )


def test_more_interests_than_items(project, capsys):
    domain = Domain("planted", {"model.num_interests": 121})
    told = refuses(lambda: build_model(domain, "bivrec", 0), project, capsys)
    assert (
        told
        == "params.yaml: model.num_interests (K) is 121, more than the 120 items of planted; lower it"
    )


def test_a_user_with_one_item_and_an_item_never_trained_harm_nobody(project):
    """The one has too few items and is left out; the other is met in no training history and is ranked all the same."""
    domain = Domain(
        "mine",
        {
            "features.modality": "none",
            "model.views": ["id"],
            "split.num_folds": 3,
            "training.num_steps": 3,
            "training.warmup_steps": 1,
        },
    )
    with open(project.raw / "interactions.csv", "a") as rows:
        rows.write("lonely,i1,5\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIVREC_BUILD", str(project.root / "build" / "01_data_prep" / "mine"))
        sequences = prepare(domain)
    assert sequences.num_users == 40
    held, item = domain.fold(0).test.users, 8
    rows = [row for row in (project.raw / "interactions.csv").read_text().splitlines()[1:]]
    names = {f"u{number}" for number in range(40)}
    known = {
        name
        for name in names
        if sources.number_ids([name])[0] in set(domain.sequences.users[held].tolist())
    }
    rows = [row for row in rows if f",i{item}," not in row or row.split(",")[0] in known]
    project.write("raw/mine/interactions.csv", "user,item,time\n" + "\n".join(rows) + "\n")
    again = Domain("mine", domain.changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIVREC_BUILD", str(project.root / "build" / "01_data_prep" / "mine"))
        prepare(again)
    place = again.sequences.catalogue["id"].tolist().index(f"i{item}")
    assert place not in np.concatenate(again.fold(0).train)
    ranks = rank_models(again, train_models(again, ["pure-id", "popularity", "itemknn"]))
    asked = ranks[ranks["item"] == place]
    assert len(asked) and asked["rank"].between(1, 9).all()
