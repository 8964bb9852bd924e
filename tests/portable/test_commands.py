"""`bivrec recommend` and `bivrec export`."""

import re

import polars as pl
import pytest

from bivrec.pipeline.cli import main
from bivrec.portable.files import read_histories
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
        (["planted", "--users", "half.csv"], "it must be CSV or Parquet with the columns user and"),
        (["planted", "1000", "--out", "lists.txt"], "lists.txt is neither .parquet nor .csv"),
        (["planted", "1000", "--allowed", "none"], "none cannot be read .FileNotFoundError"),
        (["nothing", "1000"], "there is no dataset 'nothing'"),
        (["./nothing", "1000"], "nothing has no file bivrec.json"),
        (["planted", "moon", "--model", "popularity"], "planted has no item 'moon'"),
    ],
)
def test_what_is_refused(project, refuses, arguments, message):
    project.write("half.csv", "user\nu1\n")
    assert re.search(message, refuses(["recommend", *arguments]))


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
