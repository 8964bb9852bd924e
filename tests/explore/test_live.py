"""Live curves: what DVCLive writes, and what a notebook shows."""

import json
import sys

import pandas as pd
import pytest

from bivrec.explore import live


def test_dvclive_has_a_folder_per_training(tmp_path, monkeypatch):
    """A killed training that resumes continues its curve; one that starts again clears it."""
    pytest.importorskip("dvclive")
    monkeypatch.setattr(live, "project_root", lambda: tmp_path)
    folder = tmp_path / "dvclive" / "planted" / "bivrec" / "0"

    def steps() -> list[int]:
        table = pd.read_csv(folder / "plots" / "metrics" / "id" / "ndcg@20.tsv", sep="\t")
        return table["step"].tolist()

    for step, value in ((25, 0.1), (50, 0.2)):
        live.to_dvclive("planted", "bivrec", 0, step, {"loss": 5.0, "id/ndcg@20": value})
    assert json.loads((folder / "metrics.json").read_text())["id"]["ndcg@20"] == 0.2
    assert (folder / "dvc.yaml").is_file() and steps() == [25, 50]
    live._logs.clear()  # as in another process
    live.to_dvclive("planted", "bivrec", 0, 75, {"loss": 4.0, "id/ndcg@20": 0.3})
    assert steps() == [25, 50, 75]
    live._logs.clear()
    live.to_dvclive("planted", "bivrec", 0, 25, {"loss": 5.0, "id/ndcg@20": 0.1})
    live.to_dvclive("planted", "sasrec", 1, 25, {"loss": 5.0, "id/ndcg@20": 0.1})
    assert steps() == [25]
    assert (tmp_path / "dvclive" / "planted" / "sasrec" / "1").is_dir()


def test_without_dvclive_a_sentence_says_how_to_install_it(tmp_path, monkeypatch, refuses):
    monkeypatch.setattr(live, "project_root", lambda: tmp_path)
    monkeypatch.setitem(sys.modules, "dvclive", None)
    sentence = refuses(lambda: live.to_dvclive("planted", "none", 0, 1, {"loss": 1.0}))
    assert "dvclive, which is not installed" in sentence


def test_a_notebook_shows_the_curves_so_far(monkeypatch):
    """Those of the training that runs now, if it starts again."""
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    for step in (25, 50, 75, 25, 50):
        live.show("planted", "bivrec", 0, step, {"loss": 5.0, "id/ndcg@20": 0.1, "id/hr@10": 0.2})
    for figure, steps in ((shown[2], [25, 50, 75]), (shown[-1], [25, 50])):
        loss, metric = figure.axes
        assert [line.get_xdata().tolist() for line in loss.lines + metric.lines] == [steps] * 2
