"""Choosing the datasets of a study."""

import json

import pytest

from bivrec.errors import DataError, SettingsError
from bivrec.pipeline.checks import choose
from bivrec.pipeline.cli import main
from bivrec.settings import check_params


def test_choosing_datasets_writes_params_and_nothing_else(root, tmp_path, monkeypatch, capsys):
    before = (root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(before)
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    assert "[baby, clothing], with 2 transfers" in choose(["baby", "clothing"])
    studies = check_params().studies
    assert studies.datasets == ("baby", "clothing") and {
        (t.source, t.target) for t in studies.transfers.values()
    } == {("baby", "clothing"), ("clothing", "baby")}
    assert (
        "with 0 transfers" in choose(["plain-example"]) and check_params().studies.transfers == {}
    )
    assert "with 2 transfers" in choose(["movies-classic", "movies-modern"])
    changed = [
        line
        for line in (tmp_path / "params.yaml").read_text().splitlines()
        if line not in before.splitlines()
    ]
    assert [line.split(":")[0].strip() for line in changed] == [
        "transfers",
        "movies-classic-to-movies-modern",
        "movies-modern-to-movies-classic",
    ]
    kept = (tmp_path / "params.yaml").read_text()
    with pytest.raises(SettingsError, match="there is no dataset 'bayb'"):
        choose(["bayb"])
    assert (
        main(["choose", "nowhere"]) == 1
        and "there is no dataset 'nowhere'; known are planted" in capsys.readouterr().err
    )
    assert main(["fetch", "planted"]) == 0 and (tmp_path / "params.yaml").read_text() == kept


def test_the_files_of_a_study_are_told_to_dvc(root, tmp_path, monkeypatch):
    from bivrec.pipeline.checks import record_raw_files

    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    (tmp_path / "raw").symlink_to(root / "raw")
    choose(["plain-example"])
    record_raw_files("default")
    told = json.loads((tmp_path / "build" / "raw" / "plain-example.json").read_text())
    assert set(told) == {"ids.csv", "image.npy", "interactions.csv", "items.csv", "README.md"}
    choose(["baby"])
    message = (
        "reviews_Baby_5.json.gz is missing, which baby needs; `make fetch DATASET=baby` fetches"
    )
    with pytest.raises(DataError, match=message):
        record_raw_files("default")
