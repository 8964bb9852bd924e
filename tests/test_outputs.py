"""What stages save and read back."""

import json
import os
import re
from contextlib import nullcontext
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from bivrec.data.domain import Domain
from bivrec.data.features import ItemFeatures, load_features, save_features
from bivrec.data.sequences import load_sequences, save_sequences
from bivrec.errors import DataError, SettingsError
from bivrec.outputs import progress, read_output, save_output
from bivrec.plots.data import draw_histories
from bivrec.plots.style import set_theme


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


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"PK\x05\x06" + bytes(18),
        bytes.upper,
    ],
)
def test_what_a_stage_kept_is_damaged(project, refuses, damage):
    """Sequences and features in build/: cut short, emptied, or with their names changed."""
    features = ItemFeatures(np.ones((9, 2), "float32"), np.ones(9, bool), "mine")
    sequences = Domain("planted").sequences
    for name, save, load in (
        (
            "text.npz",
            lambda folder: save_features(folder, "text", features),
            lambda folder: load_features(folder, "text"),
        ),
        *(
            (name, lambda folder: save_sequences(sequences, folder), load_sequences)
            for name in ("arrays.npz", "catalogue.parquet", "tags.parquet")
        ),
    ):
        folder = project.root / "build" / name
        save(folder)
        load(folder)
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
        told = refuses(partial(load, folder))
        assert (
            str(folder) in told
            and "is damaged" in told
            and told.endswith("remove it; `make repro` remakes it")
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
        (lambda: load_sequences(folder), "catalogue.parquet"),
    ):
        with pytest.raises(
            DataError, match=f"{re.escape(str(folder / name))} may not be read; make it readable"
        ):
            load()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'a\n"1'])
def test_a_kept_table_that_is_damaged(project, refuses, content):
    project.write("build/03_training/mine/runs.csv", content)
    told = refuses(lambda: read_output("03_training", "mine", "runs.csv"))
    assert (
        told.startswith("build/03_training/mine/runs.csv is damaged")
        and "; remove build/03_training/mine; `make repro` remakes it" in told
    )


def test_figures_and_records_have_the_same_bytes_twice(tmp_path, monkeypatch):
    set_theme()
    monkeypatch.setenv("BIVREC_RESULTS", str(tmp_path))
    for name in ("a", "b"):
        lengths = np.array([5, 9, 30])
        save_output(draw_histories(lengths, lengths), f"{name}.png")
        save_output({"z": 1, "y": [0.5]}, f"{name}.json")
    plt.close("all")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"y": [0.5], "z": 1}
    monkeypatch.delenv("BIVREC_RESULTS")
    save_output({"z": 1}, "c.json")
    assert not (tmp_path / "c.json").exists() and not os.path.exists("c.json")


@pytest.mark.parametrize(
    "name", ["2018", "007", "1.0", "1e5", "true", "NA", "nan", "null", "inf", "-", ""]
)
def test_saved_text_comes_back_as_text(project, name):
    """Names of datasets, models and claims that look like another type; figures are numbers."""
    table = pd.DataFrame({"dataset": [name] * 2, "model": name, "claim": name, "seed": [0, 1]})
    table["value"] = [0.5, 1.0]
    folder = project.root / "build/03_training/mine"
    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIVREC_BUILD", str(folder))
        save_output(table, "runs.csv", "build")
    pd.testing.assert_frame_equal(read_output("03_training", "mine", "runs.csv"), table)


def test_a_parquet_table_is_read_as_it_was_saved(project, monkeypatch):
    folder = project.root / "build" / "03_training" / "mine"
    monkeypatch.setenv("BIVREC_BUILD", str(folder))
    table = pd.DataFrame({"model": ["bivrec", "007"], "item": np.array([3, 4], "int32")})
    save_output(table, "lists.parquet", "build")
    found = read_output("03_training", "mine", "lists.parquet")
    pd.testing.assert_frame_equal(found, table)
    (folder / "lists.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(SettingsError, match=r"03_training/mine/lists\.parquet is damaged"):
        read_output("03_training", "mine", "lists.parquet")


def test_the_time_to_quality_starts_on_a_fresh_clone(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    import quality

    monkeypatch.setattr(quality, "HERE", tmp_path)
    assert quality.write_workload("planted") == tmp_path / "envs" / "planted.npz"
    assert (tmp_path / "envs" / "planted.npz").is_file()


def test_the_curves_of_cost_start_on_a_fresh_clone_and_survive_a_stop(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    import bench
    import curves
    from ours import settings_of

    def measure(command, cwd, **_):
        assert cwd.is_dir()
        options, figures = json.loads(command[-1]), {"step_ms_median": 1, "rss_mb": 2, "torch": ""}
        settings_of(options)
        if options["even"]["length"] > 200:
            raise KeyboardInterrupt
        return bench.subprocess.CompletedProcess(command, 0, json.dumps(figures))

    for module in (bench, curves):
        monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(bench.subprocess, "run", measure)
    monkeypatch.setattr(curves, "draw", lambda _: None)
    for sizes in (["training.batch_size", "model.num_interests"], ["num_items", "length"]):
        for _ in range(2):  # the second time replaces the rows of the first
            with pytest.raises(KeyboardInterrupt) if "length" in sizes else nullcontext():
                curves.main(sizes)
    table = pd.read_csv(tmp_path / "curves.csv")
    rows = table.groupby(["size", "softmax"], sort=False)["value"].agg(list)
    assert rows.index.tolist() == [
        ("num_items", "full softmax"),
        ("num_items", "4,096 negatives"),
        ("model.num_interests", "full softmax"),
        ("training.batch_size", "full softmax"),
    ]
    assert rows["model.num_interests"].tolist() == [[1, 2, 4, 8]]
