"""BivRec under every combination of some settings."""

from dataclasses import replace

import pandas as pd

from bivrec.data.domain import Domain
from bivrec.evaluation import bootstrap_interval, user_metrics
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_model
from bivrec.experiment.workers import run_jobs
from bivrec.settings import grid_of


def _grid_work(job: tuple[Domain, str, int]) -> pd.DataFrame:
    domain, name, seed = job
    ranks = rank_models(domain, [train_model(domain, name, seed)])
    return user_metrics(ranks)


def train_grid(domain: Domain, name: str, metric: str) -> pd.DataFrame:
    """BivRec under every combination of a grid's settings: one row a trial and view (columns trial, the settings, view,
    value: the metric's mean over test users and seeds, low, high)."""
    trials, seeds = grid_of(domain.settings.grids[name]), domain.settings.studies.retrained_seeds
    label = f"grid-{name}"
    domains = [
        replace(
            domain,
            changes={
                **domain.changes,
                "ablations": {f"{label}-{n}": {"family": "bivrec", "settings": t}},
            },
        )
        for n, t in enumerate(trials)
    ]
    jobs = [
        (changed, f"{label}-{number}", seed)
        for number, changed in enumerate(domains)
        for seed in seeds
    ]
    users = pd.concat(run_jobs(_grid_work, jobs, domain), ignore_index=True)
    rows = []
    for (model, view), part in users.groupby(["model", "view"], sort=False):
        number = int(model.rpartition("-")[2])
        value, low, high = bootstrap_interval(part[metric].to_numpy())
        rows.append(
            {
                "trial": number,
                **{key: str(value) for key, value in trials[number].items()},
                "view": view,
                "value": value,
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows).sort_values("trial", kind="stable", ignore_index=True)
