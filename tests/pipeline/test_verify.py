"""Results and data against what is recorded."""

import subprocess
import sys

import pandas as pd
import pytest

from bivrec.outputs import read_csv
from bivrec.pipeline.cli import main
from bivrec.pipeline.verify import MARGIN, RERUN_DEVIATION, rerun_tolerances


def committed(root, runs: pd.DataFrame):
    """Commits a table as results/runs.csv of a project; writes others beside it."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    path = root / "results" / "runs.csv"
    path.parent.mkdir(exist_ok=True)
    runs.to_csv(path, index=False)
    for command in (["init", "-q"], ["add", "results"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True, cwd=root)
    return lambda other: other.to_csv(path, index=False)


def test_verify_compares_and_says_what_moved(small, capsys):
    same = dict(profile="default", dataset="d", protocol="by_user", study="training", condition="")
    same |= dict(model="m", view="id", split="test")
    figures = [same | dict(metric="ndcg@20", seed=s, value=0.2 + 0.01 * s) for s in range(4)]
    table = pd.DataFrame(
        figures + [same | dict(metric="users", seed=s, value=25) for s in range(4)]
    )
    write, figure = committed(small.root, table), table["metric"] == "ndcg@20"
    assert main(["verify"]) == 0 and "largest difference 0.000000" in capsys.readouterr().out
    allowed = MARGIN * RERUN_DEVIATION["ndcg"] / 100**0.5 + 1 / 100
    assert rerun_tolerances(table).tolist() == pytest.approx([allowed])
    write(table.assign(value=table["value"] + 0.9 * allowed * figure))
    assert main(["verify"]) == 0
    write(table.assign(value=table["value"] - 1.1 * allowed * figure))
    assert main(["verify"]) == 1 and "1 of 1 figures compared" in capsys.readouterr().err
    write(table.assign(value=table["value"].where(~figure | (table["seed"] < 3))))
    assert main(["verify"]) == 1 and "1 of 1 figures compared" in capsys.readouterr().err
    for other in (table[:0], table[table["seed"] < 3], table.assign(protocol="leave_one_out")):
        write(other)
        assert main(["verify"]) == 1 and "was params.yaml changed?" in capsys.readouterr().err
    (small.root / "results" / "runs.csv").unlink()
    assert main(["verify"]) == 1 and "is missing; `make repro` makes it" in capsys.readouterr().err


def test_protocols_are_compared_each_on_its_own(small, capsys):
    """Opposite changes do not cancel."""
    same = dict(profile="default", dataset="d", study="protocols", condition="", model="m")
    same |= dict(view="id", split="test", seed=0)
    rows = [
        same | dict(protocol=protocol, metric=metric, value=value)
        for protocol in ("by_time", "leave_one_out")
        for metric, value in (("ndcg@20", 0.2), ("users", 10_000))
    ]
    table = pd.DataFrame(rows)
    write = committed(small.root, table)
    moved = table["protocol"].map({"by_time": 0.1, "leave_one_out": -0.1})
    write(table.assign(value=table["value"] + moved * (table["metric"] == "ndcg@20")))
    assert main(["verify"]) == 1 and "2 of 2 figures compared" in capsys.readouterr().err


def test_figures_without_their_number_of_users_have_no_tolerance(small, refuses):
    same = dict(profile="default", dataset="d", protocol="by_user", study="training", condition="")
    same |= dict(model="m", view="id", seed=0, split="test", metric="ndcg@20", value=0.2)
    committed(small.root, pd.DataFrame([same]))
    assert "results/runs.csv counts no users; `make repro` makes it anew" in refuses(["verify"])


def test_tolerances_hold_the_measured_reruns(root):
    """Of the same users and seed, under other instruction sets."""
    reruns = pd.read_csv(root / "benchmarks" / "reruns.csv")
    deviation = reruns["metric"].str.split("@").str[0].map(RERUN_DEVIATION)
    error = deviation / reruns["users"] ** 0.5
    assert (reruns["mean"].abs() <= MARGIN * error).all()
    assert 0.5 < ((reruns["mean"] / error) ** 2).mean() ** 0.5 < 1.5  # neither strict nor lax


@pytest.mark.parametrize("dataset", ["movies-classic", "movies-modern"])
def test_a_model_that_is_a_tenth_worse_is_seen(root, small, dataset, capsys):
    runs = read_csv(root / "results" / "runs.csv")
    if not (runs["metric"] == "users").any():
        pytest.skip("results/runs.csv is of code that counted no users")
    write = committed(small.root, runs)
    changed = (runs["dataset"] == dataset) & (runs["study"] == "training")
    changed &= (runs["metric"] == "ndcg@20") & (runs["split"] == "test")
    changed &= (runs["condition"] == "") & (runs["model"] == "bivrec") & (runs["view"] == "both")
    write(runs.assign(value=runs["value"].where(~changed, 0.9 * runs["value"])))
    assert main(["verify"]) == 1
    assert f"(by_user, {dataset}, training, bivrec, both, test, ndcg@20)" in capsys.readouterr().err


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
