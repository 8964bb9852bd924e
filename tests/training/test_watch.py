"""A reader's function follows trainings, and changes nothing."""

import os

import pandas as pd
import pytest

from bivrec.data.domain import Domain
from bivrec.experiment.training import train_model, train_models
from bivrec.training.watch import on_evaluate

SHORT = {"training.num_steps": 4, "training.evaluate_every": 2, "training.step_factor": 1.0}
CALLS = []


def watch(*call):
    CALLS.append(call)


def test_the_function_gets_each_validation_of_the_curve(monkeypatch):
    plain = train_model(Domain("planted", SHORT), "pure-id", 0).record.curve
    monkeypatch.setenv("BIVREC_ON_EVALUATE", f"{__name__}:watch")
    CALLS.clear()
    curve = train_model(Domain("planted", SHORT), "pure-id", 0).record.curve
    pd.testing.assert_frame_equal(plain.drop(columns="seconds"), curve.drop(columns="seconds"))
    assert [call[:4] for call in CALLS] == [("planted", "pure-id", 0, step) for step in (2, 4)]
    last = curve[curve["step"] == 4]
    expected = dict(zip(last["view"] + "/" + last["metric"], last["value"]))
    assert CALLS[1][4] == {"loss": last["loss"].iloc[0], **expected} and "id/ndcg@20" in expected


@pytest.mark.slow
def test_the_function_is_called_in_worker_processes(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "def log(dataset, model, seed, step, metrics):\n"
        f"    with open({str(tmp_path / 'log')!r}, 'a') as file:\n"
        "        print(dataset, model, seed, step, os.getppid(), file=file)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("BIVREC_ON_EVALUATE", "mine:log")
    domain = Domain("planted", SHORT | {"machine.num_workers": 2})
    train_models(domain, ["pure-id", "pure-mm"], fresh=True)
    rows = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(row[1:4] for row in rows) == [
        ["pure-id", "0", "2"], ["pure-id", "0", "4"], ["pure-mm", "0", "2"], ["pure-mm", "0", "4"],
    ]  # fmt: skip
    assert {int(row[4]) for row in rows} == {os.getpid()}


def test_a_function_that_is_not_there_is_named(monkeypatch, refuses):
    for named in ("nowhere:f", "json:nothing", "json", ":f", "os:sep"):
        monkeypatch.setenv("BIVREC_ON_EVALUATE", named)
        sentence = refuses(on_evaluate)
        assert f"BIVREC_ON_EVALUATE is {named!r}" in sentence and "name a function" in sentence


@pytest.mark.parametrize("line", ["def f(:", "1 / 0", "raise KeyError", "raise OSError('a\\nb')"])
def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch, refuses, line):
    (tmp_path / "broken.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BIVREC_ON_EVALUATE", "broken:f")
    sentence = refuses(on_evaluate)
    assert "BIVREC_ON_EVALUATE is 'broken:f'" in sentence and "name a function" in sentence
