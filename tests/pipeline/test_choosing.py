"""Choosing the datasets of a study."""

import json

import pytest

from bivrec.errors import DataError, SettingsError
from bivrec.pipeline.checks import choose
from bivrec.pipeline.cli import main
from bivrec.pipeline.commands import typed
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


def test_choosing_keeps_a_link_and_passes_comments(root, tmp_path, monkeypatch):
    before = (root / "params.yaml").read_text()
    head, second = before.split("    modern-to-classic: ")
    text = f"{head}    # the other way\n\n  # round\n    modern-to-classic: {second}"
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.yaml").write_text(text)
    (tmp_path / "params.yaml").symlink_to("kept/mine.yaml")
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    assert "[baby, clothing], with 2 transfers" in choose(["baby", "clothing"])
    assert (tmp_path / "params.yaml").is_symlink()
    assert "datasets: [baby, clothing]" in (tmp_path / "kept" / "mine.yaml").read_text()
    assert [*check_params().studies.transfers] == ["baby-to-clothing", "clothing-to-baby"]
    assert second.split("\n", 1)[1] in (tmp_path / "params.yaml").read_text()
    assert not (tmp_path / "build" / "params.yaml").exists()


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


def name_it(project, name):
    """The dataset `mine` under another name, in quotes, chosen with another of its source."""
    project.replace("params.yaml", "  mine: {", f'  "{name}": {{')


@pytest.mark.parametrize("name", ["no", "x_2-" + "x" * 60])
def test_a_dataset_of_any_allowed_name_is_chosen(project, name):
    name_it(project, name)
    assert f"[{name}, plain-example], with 2 transfers" in choose([name, "plain-example"])
    studies = check_params().studies
    assert studies.datasets == (name, "plain-example")
    assert {pair.source for pair in studies.transfers.values()} == set(studies.datasets)
    assert typed(name) == name, "a stage's parameter stays text"


@pytest.mark.parametrize(
    "name", ["my.data", "a.", "2018", "007", "1e5", "1a", "true", "null", "_a", "Baby", "x" * 65]
)
def test_a_name_that_dvc_or_yaml_reads_otherwise_is_refused(project, refuses, name):
    """DVC looks up `datasets.my.data`, and finds nothing; `dataset=2018` is a number to a stage."""
    name_it(project, name)
    told = refuses(["choose", name])
    assert f'params.yaml: datasets.{name}: "{name}" is refused: a dataset\'s name starts' in told
    assert told.endswith(
        "only lower-case letters, digits, _ and - (64 at most), and is not true, false or null"
    )


@pytest.mark.parametrize("name", ["2018", "2018.5", "[my.data]", '"true"'])
def test_such_a_name_among_the_studied_is_refused(project, refuses, name):
    project.replace("params.yaml", "datasets: [movies-classic,", f"datasets: [{name},")
    told = refuses(["check"])
    assert "params.yaml: studies.datasets.0: " in told and "is refused: a dataset's name" in told


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("2018", "int"),
        ("007", "int"),
        ("1.5", "float"),
        ("1e5", "float"),
        ("true", "bool"),
        ("null", "null"),
        ("~", "null"),
        ("2018-01-01", "timestamp"),
    ],
)
@pytest.mark.parametrize("section", ["datasets", "models"])
def test_keys_that_are_no_text_are_refused(project, refuses, section, key, kind):
    lines = (project.root / "params.yaml").read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if text.startswith(f"{section}:"))
    project.write("params.yaml", "\n".join([*lines[:line], f"  {key}: {{}}", *lines[line:]]))
    told = refuses(["check"])
    problem = f"params.yaml, line {line + 1}: YAML reads the key `{key}` as {kind}, not as text"
    assert told == f"ERROR: {problem}; rename it to a word such as `mine`"
