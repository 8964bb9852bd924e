"""BivRec under every combination of some settings."""

from dataclasses import replace

import pandas as pd

from bivrec.data.domain import Domain, check_variants
from bivrec.evaluation import estimate_groups, user_metrics
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_model
from bivrec.experiment.workers import run_jobs
from bivrec.settings import grid_of


def _trial_metrics(job: tuple[Domain, str, int]) -> pd.DataFrame:
    domain, name, seed = job
    return user_metrics(rank_models(domain, [train_model(domain, name, seed)]))


def train_grid(domain: Domain, name: str, metric: str) -> pd.DataFrame:
    """BivRec under every combination of the settings of `grids.<name>`, a row per trial and view.

    Columns: trial, the settings as text, view, value (the metric's mean over test users and seeds),
    low and high (its 95 % interval)."""
    check_variants(domain, domain.sequences.num_items)
    trials, jobs = grid_of(domain.settings.grids[name]), []
    for number, settings in enumerate(trials):
        label = f"grid-{name}-{number}"
        variant = {label: {"family": "bivrec", "settings": settings}}
        changed = replace(domain, changes={**domain.changes, "ablations": variant})
        jobs += [(changed, label, seed) for seed in domain.settings.studies.retrained_seeds]
    users, rows = pd.concat(run_jobs(_trial_metrics, jobs, domain), ignore_index=True), []
    table = estimate_groups(users, metric, ["model", "view"])
    for label, view, mean, low, high in table.itertuples(index=False):
        number = int(label.rpartition("-")[2])
        settings = {key: str(value) for key, value in trials[number].items()}
        row = {"trial": number, **settings, "view": view, "value": mean, "low": low, "high": high}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("trial", kind="stable", ignore_index=True)
