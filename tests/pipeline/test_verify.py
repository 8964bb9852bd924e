"""Results and data against what is recorded."""

import subprocess
import sys

import pandas as pd
import pytest

from bivrec.pipeline.cli import main
from bivrec.pipeline.verify import spread_tolerances


def test_verify_compares_and_says_what_moved(small, capsys):
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    results = small.root / "results"
    results.mkdir()
    same = dict(profile="default", dataset="d", protocol="by_user", study="training", condition="")
    same |= dict(model="m", view="id", split="test", metric="ndcg@20")
    table = pd.DataFrame([same | dict(seed=s, value=0.2 + 0.01 * s) for s in range(3)])
    table.to_csv(results / "runs.csv", index=False)
    for command in (["init", "-q"], ["add", "results"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True, cwd=small.root)
    assert main(["verify"]) == 0 and "largest difference 0.000000" in capsys.readouterr().out
    allowed = float(spread_tolerances(table).iloc[0])
    assert allowed == pytest.approx(3 * 0.01 * (2 / 3) ** 0.5)
    table.assign(value=table["value"] + 0.9 * allowed).to_csv(results / "runs.csv", index=False)
    assert main(["verify"]) == 0
    table.assign(value=table["value"] + 1.1 * allowed).to_csv(results / "runs.csv", index=False)
    assert main(["verify"]) == 1 and "1 of 1 figures compared" in capsys.readouterr().err
    table[:0].to_csv(results / "runs.csv", index=False)
    assert main(["verify"]) == 1 and "was params.yaml changed?" in capsys.readouterr().err
    (results / "runs.csv").unlink()
    assert main(["verify"]) == 1 and "is missing; `make repro` makes it" in capsys.readouterr().err


@pytest.mark.slow
def test_changed_data_is_refused_before_dvc_records_it(small, capsys):
    """DVC would record a damaged data/ as a new version; the check names the file first."""
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["git", "init", "-q"], [*dvc, "init", "-q"]):
        subprocess.run(command, check=True, cwd=small.root)
    ratings = small.root / "data" / "ratings.csv"
    ratings.parent.mkdir()
    for name in ("ratings.csv", "tags.csv"):
        ratings.with_name(name).write_text("a,b\n1,2\n")
    subprocess.run([*dvc, "add", "-q", "data"], check=True, cwd=small.root)
    recorded = (small.root / "data.dvc").read_text()
    assert main(["check", "smoke"]) == 0
    ratings.write_text("a,b\n1\n")
    assert main(["check", "smoke"]) == 1
    differs = "data/ differs from what data.dvc records; `make restore`"
    assert f"ERROR: data/ratings.csv is modified: {differs}" in capsys.readouterr().err
    ratings.unlink()
    assert main(["check", "smoke"]) == 1
    assert "data/ratings.csv" in capsys.readouterr().err
    assert (small.root / "data.dvc").read_text() == recorded
