"""What made a result, and what ran."""

import json
from functools import partial
from pathlib import Path

from bivrec.pipeline import provenance


def test_provenance_names_what_made_each_stage(small, monkeypatch):
    results, path = small.root / "results", small.root / "results/smoke/provenance.json"

    def record(stage, seconds):
        (results / "smoke" / stage).mkdir(parents=True, exist_ok=True)
        provenance.record_stage("smoke", stage, seconds)
        return json.loads(path.read_text())

    record("03/a", 3.0)
    written = record("03/b", 4.0)
    assert written["profile"] == "smoke" and written["seconds"] == 7.0
    (maker,) = written["made by"]
    assert set(maker["stages"]) == {"03/a", "03/b"}
    assert maker["commit"] is None and "torch" in maker["versions"]
    lines = {"run_and_read_lines": lambda *command: [f"?? {command[0]}"]}  # another machine
    monkeypatch.setattr(provenance, *lines.popitem())
    written = record("03/a", 5.0)
    assert [set(maker["stages"]) for maker in written["made by"]] == [{"03/b"}, {"03/a"}]
    assert written["seconds"] == 9.0
    maker = written["made by"][1]
    assert maker["commit"] == "?? git" and maker["changed since"] == ["git"]
    assert maker["GPU"] == ["?? nvidia-smi"]
    (results / "smoke/03/b").rmdir()
    assert record("03/a", 5.0)["seconds"] == 5.0  # removed results leave the record
    path.write_text("{")
    assert record("03/a", 6.0)["seconds"] == 6.0


def test_the_default_profiles_provenance_stays_out_of_results(small):
    (small.root / "results/03/a").mkdir(parents=True)
    provenance.record_stage("default", "03/a", 1.0)
    written = json.loads((small.root / "build/log/provenance.json").read_text())
    assert written["profile"] == "default" and written["seconds"] == 1.0
    assert not (small.root / "results/provenance.json").exists()


def test_the_summary_lists_what_ran(small):
    (small.root / "results/03/a").mkdir(parents=True)
    provenance.record_stage("default", "03/a", 61.0)
    shown = provenance.summary("default", "2000-01-01 00:00").splitlines()
    assert shown[0] == "1 stages ran, 1 min 1 s together:"
    assert shown[1].split() == ["03/a", "1", "min", "1", "s"]
    assert "results/08_report/all/08_report.ipynb" in shown[2]
    assert provenance.summary("default", "2999-01-01 00:00").startswith("Nothing had to run")


def test_the_summary_leaves_out_what_ran_before_within_the_same_minute(small, monkeypatch):
    """The first run's stage ended in the very second in which the second run starts."""

    def record(stage, second):
        (small.root / "results" / stage).mkdir(parents=True)
        monkeypatch.setattr(provenance.time, "gmtime", lambda: (2026, 1, 2, 3, 4, second, 4, 2, 0))
        provenance.record_stage("default", stage, 1.0)

    record("03/a", 5)
    shown = partial(provenance.summary, "default")
    assert shown("2026-01-02 03:04:05").startswith("Nothing had to run")
    record("03/b", 7)
    assert [line.split()[0] for line in shown("2026-01-02 03:04:05").splitlines()[1:-1]] == ["03/b"]
    assert shown("2026-01-02 03:04:04").startswith("2 stages ran")
    makefile = Path(__file__).parents[2] / "Makefile"
    assert "date -u '+%Y-%m-%d %H:%M:%S'" in makefile.read_text()
