"""Results here against the committed ones."""

import subprocess
from io import StringIO

import numpy as np
import pandas as pd

from bivrec.errors import SettingsError
from bivrec.outputs import read_csv
from bivrec.pipeline.provenance import GIT
from bivrec.settings import project_root

CELL = ["dataset", "study", "metric", "condition", "model", "view", "split"]


def spread_tolerances(runs: pd.DataFrame) -> pd.Series:
    """How far a mean over seeds may move on another machine, by dataset, study and metric.

    Another processor rounds differently, which acts like another seed: allowed are 3 standard
    errors of the difference of two means, from the median spread over seeds, at least 0.005."""
    keys = CELL[:3]
    spread = runs.groupby(CELL)["value"].std(ddof=1).groupby(keys).median()
    count = runs.groupby(keys)["seed"].nunique()
    return (3 * spread.fillna(0) * np.sqrt(2 / count)).clip(lower=0.005).rename("tolerance")


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
    """The mean over seeds of every metric that has a cutoff."""
    return runs[runs["metric"].str.contains("@")].groupby(CELL)["value"].mean()


def verify() -> str:
    """Compares the means over seeds of results/runs.csv with the committed ones.

    Returns how many were compared and the largest difference. Raises SettingsError if one lies
    beyond its tolerance, or if the two do not have the same runs."""
    try:
        committed, runs = _read_runs()
        expected, means = _mean_figures(committed), _mean_figures(runs)
    except SettingsError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"results/runs.csv is damaged ({error.__class__.__name__}); "
            f"`git checkout results/runs.csv` restores it"
        ) from None
    if not expected.index.equals(means.index):
        counts = f"{len(expected)} committed figures, {len(means)} here"
        raise SettingsError(f"the runs differ: {counts}; was params.yaml changed?")
    table = (means - expected).abs().to_frame("difference")
    table = table.join(spread_tolerances(committed), on=CELL[:3])
    share = table["difference"] / table["tolerance"]
    largest = table.loc[share.idxmax()]
    message = (
        f"{len(table)} figures compared; largest difference {largest['difference']:.6f} of "
        f"{largest['tolerance']:.6f} allowed ({', '.join(filter(None, share.idxmax()))})"
    )
    if beyond := int((share > 1).sum()):
        raise SettingsError(f"{beyond} of {message}")
    return message
