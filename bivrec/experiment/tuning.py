"""One search for every model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bivrec.data.domain import Domain
from bivrec.experiment.training import train_model
from bivrec.experiment.workers import run_jobs
from bivrec.settings import grid_of


def _tuning_work(job: tuple[Domain, str, int, int, dict[str, Any]]) -> list[dict[str, Any]]:
    domain, name, number, seed, trial = job
    settings = {
        **domain.variant(name).settings,
        **trial,
        "training.num_steps": domain.settings.tuning.num_steps,
    }
    record = train_model(
        replace(domain, changes={**domain.changes, f"models.{name}.settings": settings}), name, seed
    ).record
    metric, curve = domain.settings.studies.primary_metric, record.curve
    best = curve[(curve["step"] == record.best_step) & (curve["metric"] == metric)]
    shared = {
        "dataset": domain.name,
        "model": name,
        "trial": number,
        **trial,
        "seed": seed,
        "best_step": record.best_step,
    }
    return [
        shared | {"view": row.view, "metric": metric, "value": row.value}
        for row in best.itertuples()
    ]


def tune(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """The same grid for every model (params.yaml: tuning), judged by the validation users of folds that test nothing: one
    row a model, trial, seed and view."""
    settings = domain.settings.tuning
    jobs = [
        (domain, name, number, seed, trial)
        for name in names
        for number, trial in enumerate(grid_of(settings.grid))
        for seed in settings.seeds
    ]
    return pd.DataFrame([row for rows in run_jobs(_tuning_work, jobs, domain) for row in rows])
