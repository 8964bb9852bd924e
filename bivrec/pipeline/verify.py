"""Results here against the committed ones."""

import subprocess
from io import StringIO

import numpy as np
import pandas as pd

from bivrec.errors import SettingsError
from bivrec.outputs import read_csv
from bivrec.pipeline.provenance import GIT
from bivrec.settings import project_root

TESTED = ["protocol", "dataset", "study", "condition", "model", "view", "split"]
CELL = [*TESTED, "metric"]
RUN = ["profile", *CELL, "seed"]

# Standard deviation over users of a metric's difference between two trainings of the same model
# that differ in rounding alone: benchmarks/reruns.csv.
RERUN_DEVIATION = {"ndcg": 0.034, "recall": 0.05, "hr": 0.17, "comirec_ndcg": 0.07}
MARGIN = 5  # standard errors: thousands of figures are compared


def rerun_tolerances(runs: pd.DataFrame) -> pd.Series:
    """How far a mean over users and seeds may move where only the order of summing differs, by
    CELL: MARGIN standard errors over the users who are tested, of all seeds, and one user's whole
    metric, since of few users a mean moves in jumps."""
    figures = _mean_figures(runs).index.to_frame(index=False)
    counts = runs[runs["metric"] == "users"].groupby(TESTED)["value"].sum().rename("users")
    users = figures.join(counts, on=TESTED)["users"]
    if users.isna().any():
        raise SettingsError("results/runs.csv counts no users; `make repro` makes it anew")
    deviation = figures["metric"].str.split("@").str[0].map(RERUN_DEVIATION)
    allowed = MARGIN * deviation / np.sqrt(users) + 1 / users
    return allowed.rename("tolerance").set_axis(pd.MultiIndex.from_frame(figures))


def _read_runs() -> tuple[pd.DataFrame, pd.DataFrame]:
    """results/runs.csv as committed and as it is here."""
    path = project_root() / "results" / "runs.csv"
    shown = subprocess.run(
        [*GIT, "show", "HEAD:./results/runs.csv"],
        cwd=project_root(),
        capture_output=True,
        text=True,
    )
    if shown.returncode:
        reason = " ".join(shown.stderr.split())[:160]
        raise SettingsError(
            f"git shows no committed results/runs.csv to compare with ({reason}); "
            "clone the project with git, and commit results/"
        )
    if not path.is_file():
        raise SettingsError("results/runs.csv is missing; `make repro` makes it")
    sources = (StringIO(shown.stdout), path)
    return tuple(read_csv(source) for source in sources)


def _mean_figures(runs: pd.DataFrame) -> pd.Series:
    """The mean over seeds of every metric that has a cutoff; infinite where a value is empty."""
    figures = runs[runs["metric"].str.contains("@")].fillna({"value": np.inf})
    return figures.groupby(CELL)["value"].mean()


def _check_same_runs(committed: pd.DataFrame, runs: pd.DataFrame) -> None:
    expected, found = (table.set_index(RUN).index.sort_values() for table in (committed, runs))
    if not expected.equals(found):
        missing, added = len(expected.difference(found)), len(found.difference(expected))
        counts = f"{missing} committed values are missing here, {added} here are not committed"
        raise SettingsError(f"the runs differ: {counts}; was params.yaml changed?")


def verify() -> str:
    """Compares the means over seeds of results/runs.csv with the committed ones.

    Returns how many were compared and the largest difference. Raises SettingsError if one lies
    beyond its tolerance, or if the two do not have the same runs."""
    try:
        committed, runs = _read_runs()
        _check_same_runs(committed, runs)
        expected, means = _mean_figures(committed), _mean_figures(runs)
        tolerances = rerun_tolerances(committed)
    except SettingsError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"results/runs.csv is damaged ({error.__class__.__name__}); "
            f"`git checkout results/runs.csv` restores it"
        ) from None
    table = (means - expected).abs().to_frame("difference")
    table = table.join(tolerances)
    share = (table["difference"] / table["tolerance"]).fillna(np.inf)
    largest = table.loc[share.idxmax()]
    message = (
        f"{len(table)} figures compared; largest difference {largest['difference']:.6f} of "
        f"{largest['tolerance']:.6f} allowed ({', '.join(filter(None, share.idxmax()))})"
    )
    if beyond := int((share > 1).sum()):
        raise SettingsError(f"{beyond} of {message}")
    return message
