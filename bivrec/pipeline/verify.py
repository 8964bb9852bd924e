"""Results here against the committed ones."""

from io import StringIO

import numpy as np
import pandas as pd

from bivrec.errors import SettingsError
from bivrec.pipeline.provenance import told_by
from bivrec.settings import project_root


def spread_tolerances(runs: pd.DataFrame) -> pd.Series:
    """How far a figure may move on another machine: 3 standard errors of a mean over seeds, from the spread over seeds
    of that study's and metric's figures, at least 0.005. Another processor rounds otherwise, which acts like another
    seed."""
    keys = ["dataset", "study", "metric"]
    spread = (
        runs.groupby([*keys, "condition", "model", "view", "split"])["value"]
        .std(ddof=1)
        .groupby(keys)
        .median()
    )
    count = runs.groupby(keys)["seed"].nunique()
    return (3 * spread.fillna(0) * np.sqrt(2 / count)).clip(lower=0.005).rename("tolerance")


def verify() -> str:
    """Compares results/runs.csv with the committed one; means over seeds within the tolerances, or an error."""
    shown, path = (
        told_by("git", "show", "HEAD:results/runs.csv"),
        project_root() / "results" / "runs.csv",
    )
    if not shown or not path.is_file():
        raise SettingsError(
            f"results/runs.csv is {'missing; `make repro` makes it' if shown else 'not committed; nothing to compare with'}"
        )
    keys = ["dataset", "study", "metric", "condition", "model", "view", "split"]
    try:
        committed, ours = (
            pd.read_csv(source, keep_default_na=False)
            for source in (StringIO("\n".join(shown)), path)
        )
        means = [
            table[table["metric"].str.contains("@")].groupby(keys)["value"].mean()
            for table in (committed, ours)
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"results/runs.csv is damaged ({error.__class__.__name__}); `git checkout results/runs.csv` brings it back"
        ) from None
    if not means[0].index.equals(means[1].index):
        raise SettingsError(
            f"the runs differ: {len(means[0])} committed figures, {len(means[1])} here; was params.yaml changed?"
        )
    table = (
        (means[1] - means[0])
        .abs()
        .to_frame("difference")
        .join(spread_tolerances(committed), on=["dataset", "study", "metric"])
    )
    share = table["difference"] / table["tolerance"]
    worst = table.loc[share.idxmax()]
    where = ", ".join(filter(None, share.idxmax()))
    told = f"{len(table)} figures compared; largest difference {worst['difference']:.6f} of {worst['tolerance']:.6f} allowed ({where})"
    if beyond := int((share > 1).sum()):
        raise SettingsError(f"{beyond} of {told}")
    return told
