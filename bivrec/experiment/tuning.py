"""One search for every model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bivrec.data.domain import Domain, check_variants
from bivrec.errors import SettingsError
from bivrec.experiment.registry import check_own
from bivrec.experiment.training import train_model
from bivrec.experiment.workers import run_jobs
from bivrec.settings import grid_of


def tune(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """The grid of params.yaml (tuning) for every model, judged by the validation users of the
    folds of `tuning.seeds`: one row a model, trial, seed and view.
    """
    settings = domain.settings.tuning
    for name in names:
        if domain.variant(name).family in ("popularity", "itemknn"):
            raise SettingsError(f"params.yaml: tuning.models: {name} is not trained; remove it")
    check_variants(domain, domain.sequences.num_items)
    check_own(domain, names, settings.seeds[0])
    jobs = [
        (domain, name, number, seed, trial)
        for name in names
        for number, trial in enumerate(grid_of(settings.grid))
        for seed in settings.seeds
    ]
    return pd.DataFrame([row for rows in run_jobs(_tuning_work, jobs, domain) for row in rows])


def _tuning_work(job: tuple[Domain, str, int, int, dict[str, Any]]) -> list[dict[str, Any]]:
    """One training of a trial's settings: its metric at the best step, one row a view."""
    domain, name, number, seed, trial = job
    steps = {"training.num_steps": domain.settings.tuning.num_steps}
    settings = {**domain.variant(name).settings, **trial, **steps}
    changed = replace(domain, changes={**domain.changes, f"models.{name}.settings": settings})
    record, metric = train_model(changed, name, seed).record, domain.settings.studies.primary_metric
    curve = record.curve
    best = curve[(curve["step"] == record.best_step) & (curve["metric"] == metric)]
    shown = {
        key: value if isinstance(value, int | float) else str(value) for key, value in trial.items()
    }
    row = {"dataset": domain.name, "model": name, "trial": number, **shown, "seed": seed}
    row["best_step"] = record.best_step
    return [
        row | {"view": view, "metric": metric, "value": value}
        for view, value in zip(best["view"], best["value"])
    ]
