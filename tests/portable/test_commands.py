"""`bivrec recommend` and `bivrec export`."""

import os
import re
import sys
from datetime import datetime

import pandas as pd
import polars as pl
import pytest

from bivrec.errors import DataError
from bivrec.pipeline.cli import main
from bivrec.portable.files import read_histories, read_items, write_lists
from bivrec.portable.folder import load
from bivrec.portable.lists import recommend


def test_a_list_for_one_history(folder, capsys):
    assert main(["recommend", str(folder), "1000", "1001", "--k", "3", "--view", "id"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == "rank item title score view interest".split()
    best = recommend(load(folder), [1000, 1001], k=3, view="id")
    assert [int(row.split()[1]) for row in rows] == best


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("users", [".csv", ".parquet"])
def test_lists_for_a_file_of_users(folder, tmp_path, capsys, users, suffix):
    """Ids like 007 stay text, a column of times orders the items, and only allowed items come."""
    rows = [("007", 1001, 2.5), ("007", 1000, 1.0), ("8", 1040, 1.0)]
    table = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    file, out, allowed = tmp_path / f"users{users}", tmp_path / f"lists{suffix}", tmp_path / "ids"
    table.write_csv(file) if users == ".csv" else table.write_parquet(file)
    allowed.write_text("\n".join(map(str, range(1000, 1050))))
    command = ["recommend", str(folder), "--users", str(file), "--out", str(out), "--k", "4"]
    assert main([*command, "--allowed", str(allowed), "--reasons"]) == 0
    assert capsys.readouterr().out == f"{out}: 2 lists of planted\n"
    read = pl.read_parquet if suffix == ".parquet" else pl.read_csv
    lists = read(out) if suffix == ".parquet" else read(out, schema_overrides={"user": pl.String})
    assert lists.columns == "user rank item title score view interest because".split()
    assert lists["user"].to_list() == ["007"] * 4 + ["8"] * 4
    assert lists["item"].is_between(1000, 1049).all()
    assert read_histories(file)["item"].astype(int).tolist() == [1000, 1040, 1001]
    wanted = recommend(load(folder), [1000, 1001], k=100)
    wanted = [item for item in wanted if item < 1050][:4]
    assert lists["item"].to_list()[:4] == wanted


def test_users_without_a_list_are_counted(folder, project, capsys):
    users = project.write("users.csv", "user,item\na,1000\na,1001\nb,1000\n")
    allowed = project.write("ids", "1000\n1001\n")
    command = ["recommend", str(folder), "--users", str(users), "--out", "lists.csv"]
    assert main([*command, "--allowed", str(allowed)]) == 0
    told = "lists.csv: 1 lists of planted; users with nothing left to recommend: 1\n"
    assert capsys.readouterr().out == told


@pytest.mark.parametrize(
    "times",
    [
        ("2020-01-02", "2020-01-01"),
        ("2020-01-01 10:00:01", "2020-01-01 10:00:00"),
        ("2020-01-01T10:00:00Z", "2020-01-01T11:00:00+02:00"),
    ],
)
def test_dates_order_a_history(tmp_path, times):
    file = tmp_path / "users.csv"
    rows = zip(("u1", "u1"), (1001, 1000), times)
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(file)
    assert read_histories(file)["item"].tolist() == ["1000", "1001"]


@pytest.mark.slow
def test_export_and_recommend(project, capsys, tmp_path):
    assert main(["export", "planted", "taken", "--model", "popularity"]) == 1
    assert "popularity has no weights to export" in capsys.readouterr().err
    assert main(["export", "planted", "taken", "--model", "pure-id"]) == 0
    assert capsys.readouterr().out == "taken: pure-id of planted\n"
    assert main(["recommend", "taken", "1000", "--k", "2"]) == 0
    assert main(["recommend", "planted", "1000", "--model", "popularity", "--k", "2"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["planted", "--users", "none.csv"], "none.csv cannot be read .FileNotFoundError"),
        (["planted", "--users", "half.csv"], "half.csv has the columns user; it needs user and"),
        (["planted", "--users", "gap.csv"], "gap.csv, row 2 has no item; write it there"),
        (["planted", "--users", "who.csv"], "who.csv, row 1 has no user; write it there"),
        (["planted", "--users", "date.csv"], "row 2: its time '2020-01-01' cannot be ordered with"),
        (["planted", "--users", "nan.csv"], "row 2: its time 'NaN' cannot be ordered with the"),
        (["planted", "--users", "word.csv"], "row 2: its time 'soon' cannot be ordered with the"),
        (["planted", "--users", "us.csv"], "row 1: its time '01/12/2026' cannot be ordered with"),
        (["planted", "--users", "late.csv"], "late.csv, row 1 has no time; write it there"),
        (["planted", "--users", "none.parquet"], "none.parquet cannot be read"),
        (["planted", "--users", "head.csv"], "head.csv has no rows; give at least one user"),
        (["planted", "--users", "cells.parquet"], r"row 1: the item is \[.*use explode\('item'\)"),
        (["planted", "1000", "--out", "nodir/l.csv"], "the folder nodir does not exist; make it"),
        (["planted", "1000", "--out", "dir.csv"], "dir.csv is a folder; name a file"),
        (
            ["planted", "--users", "gap.csv", "--out", "./gap.csv"],
            "gap.csv is read and would be overwritten; give --out another name",
        ),
        (
            ["planted", "1000", "--allowed", "gap.csv", "--out", "gap.csv"],
            "gap.csv is read and would be overwritten",
        ),
        (["planted", "1000", "--allowed", "empty"], "empty is empty; give a text file with"),
        (
            ["planted", "1000", "--model", "popularity", "--allowed", "only"],
            "nothing is left to recommend: the history has every item of only",
        ),
        (["planted", "1000", "--out", "lists.txt"], "lists.txt is neither .parquet nor .csv"),
        (["planted", "1000", "--allowed", "none"], "none cannot be read .FileNotFoundError"),
        (["nothing", "1000"], "there is no dataset 'nothing'"),
        (["./nothing", "1000"], "nothing does not exist; give a folder that"),
        (["planted", "moon", "--model", "popularity"], "planted has no item 'moon'"),
    ],
)
def test_what_is_refused(project, refuses, arguments, message):
    project.write("half.csv", "user\nu1\n")
    project.write("gap.csv", "user,item\nu1,1000\n\nu1,\n")
    project.write("who.csv", "user,item\n,1000\n")
    project.write("date.csv", "user,item,time\nu1,1001,2\nu1,1000,2020-01-01\n")
    project.write("nan.csv", "user,item,time\nu1,1001,2\nu1,1000,NaN\n")
    project.write("word.csv", "user,item,time\nu1,1001,2020-01-01\nu1,1000,soon\n")
    project.write("us.csv", "user,item,time\nu1,1001,01/12/2026\nu1,1000,02/11/2026\n")
    project.write("late.csv", "user,item,time\nu1,1000,\nu1,1001,1\n")
    project.write("head.csv", "user,item\n")
    project.write("empty", "\ufeff \n")
    project.write("only", "1000\n")
    project.write("dir.csv/file", "")
    pl.DataFrame({"user": [1], "item": [[1000, 1001]]}).write_parquet("cells.parquet")
    assert re.search(message, refuses(["recommend", *arguments]))


def test_ids_in_a_file(project):
    """One per line, with spaces inside an id, and a byte order mark as of Excel."""
    path = project.write("ids", "\ufeff1000\r\n\n my id \n")
    assert read_items(path) == ["1000", "my id"]


def test_empty_lines_and_times_of_any_form(project):
    path = project.write("users.csv", "\ufeffuser,item,time\na,1,10\n\nb,2,9.5\n\n")
    assert read_histories(path).to_numpy().tolist() == [["b", "2"], ["a", "1"]]
    times = [datetime(2021, 1, 1), datetime(2020, 1, 1)]
    table = pl.DataFrame({"user": [1, 1], "item": [1000.0, 1001.0], "time": times})
    table.write_parquet("users.parquet")
    assert read_histories("users.parquet")["item"].tolist() == [1001, 1000]


def test_lists_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, lists = tmp_path / "lists.csv", pd.DataFrame({"user": [1]})
    path.write_text("as before")
    monkeypatch.setattr(pl.DataFrame, "write_csv", lambda table, path: path.write_text("us"))

    def replace(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(DataError, match="lists.csv cannot be written .*No space left"):
        write_lists(lists, path)
    assert path.read_text() == "as before" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["."], "^ERROR: . is not empty and is no exported model; name a new folder"),
        ([""], "^ERROR: . is not empty and is no exported model; name a new folder"),
        (["params.yaml"], "^ERROR: params.yaml is a file; name a new folder"),
        (["params.yaml/taken"], "^ERROR: params.yaml is a file; name a new folder"),
        (["taken", "--onnx"], "^ERROR: ONNX needs the packages onnx and onnxscript; `make"),
    ],
)
def test_where_export_writes_nothing(refuses, monkeypatch, arguments, message):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert re.search(message, refuses(["export", "planted", *arguments]))


def test_outside_a_project_a_folder_is_missed(refuses, monkeypatch):
    monkeypatch.delenv("BIVREC_ROOT")
    monkeypatch.chdir("/")
    told = refuses(["recommend", "takne", "1000"])
    assert told.startswith("ERROR: there is no folder takne, and as a dataset it needs a project: ")
    assert told.endswith(
        "params.yaml is not in / nor in a folder above it; start inside the project"
    )
    told = refuses(["recommend", "tmp", "1000"])
    assert "the folder tmp has no file bivrec.json, and as a dataset it needs" in told


@pytest.mark.parametrize("arguments", [["planted"], ["planted", "1000", "--users", "u.csv"], []])
def test_wrong_use_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["recommend", *arguments])
    assert caught.value.code == 2 and "usage: bivrec recommend" in capsys.readouterr().err


def test_help_puts_readers_first(capsys):
    for words in (["--help"], ["help"], []):
        assert main(words) == 0
        shown = capsys.readouterr().out
        assert shown.index("recommend MODEL") < shown.index("fetch") < shown.index("source")
    with pytest.raises(SystemExit) as caught:
        main(["recommend", "--help"])
    assert caught.value.code == 0 and "--users FILE" in capsys.readouterr().out
