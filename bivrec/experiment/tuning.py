"""One search for every model: Optuna's TPE, within the ranges of params.yaml."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from math import log

import optuna
import pandas as pd

from bivrec.data.domain import Domain, check_variants
from bivrec.errors import Diverged, SettingsError
from bivrec.experiment.registry import check_own
from bivrec.experiment.training import train_model
from bivrec.experiment.workers import run_jobs
from bivrec.settings import Range, space_of
from bivrec.training.seeds import derive_seed

NEAR = 0.1  # of a range: how near to an edge an optimum shows that the range is too narrow


def tune(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """`tuning.num_trials` trials of every model, compared on the validation users of the folds of
    `tuning.seeds`: one row per model, trial, seed and view.

    Searches are seeded: an interrupted one draws the same trials again, and the pipeline has saved
    their trainings, so that it resumes where it stopped.
    """
    for name in names:
        if domain.variant(name).family in ("popularity", "itemknn"):
            raise SettingsError(f"params.yaml: tuning.models: {name} is not trained; remove it")
    check_variants(domain, domain.sequences.num_items)
    check_own(domain, names, domain.settings.tuning.seeds[0])
    tables = run_jobs(_tuning_work, [(domain, name) for name in names], domain)
    return pd.concat(tables, ignore_index=True)


def trial_means(trials: pd.DataFrame) -> pd.Series:
    """The value of each model's trials: the mean over seeds of each seed's mean over views, so that
    a seed that diverged counts like any other, although it has one row."""
    of_seeds = trials.groupby(["model", "trial", "seed"], sort=False)["value"].mean()
    return of_seeds.groupby(["model", "trial"], sort=False).mean()


def best_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Each model's best trial by `trial_means`, and its value."""
    means = trial_means(trials)
    best = means[means.groupby("model", sort=False).idxmax()].reset_index()
    settings = trials.drop(columns=["seed", "best_step", "view", "value"]).drop_duplicates()
    return settings.merge(best, on=["model", "trial"])


def near_edges(domain: Domain, best: pd.DataFrame) -> pd.DataFrame:
    """Where each optimum lies in its range: `place` is 0 at `low` and 1 at `high` (on a log scale
    if the range has one), `near_edge` within a tenth of either."""
    rows = []
    for trial in best.to_dict("records"):
        for key, bounds in space_of(domain.settings, domain.variant(trial["model"]).family).items():
            place = _place(bounds, trial[key])
            row = {"model": trial["model"], "setting": key, "optimum": trial[key]}
            near = min(place, 1 - place) < NEAR
            rows.append(row | {"low": bounds.low, "high": bounds.high, "place": place})
            rows[-1]["near_edge"] = near
    return pd.DataFrame(rows)


def _place(bounds: Range, value: float) -> float:
    low, high = bounds.low, bounds.high
    if bounds.log:
        low, high, value = log(low), log(high), log(value)
    return (value - low) / (high - low)


def _tuning_work(job: tuple[Domain, str]) -> pd.DataFrame:
    """One model's search: the metric at the best step, one row per trial, seed and view."""
    domain, name = job
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tuning, tables = domain.settings.tuning, []
    space = space_of(domain.settings, domain.variant(name).family)
    sampler = optuna.samplers.TPESampler(seed=derive_seed(tuning.seeds[0], name, "tuning"))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for number in range(tuning.num_trials):
        trial = study.ask()
        chosen = {
            key: trial.suggest_float(key, bounds.low, bounds.high, log=bounds.log)
            for key, bounds in space.items()
        }
        tables.append(_try(domain, name, number, chosen))
        study.tell(trial, trial_means(tables[-1]).item())
    return pd.concat(tables)


def _try(domain: Domain, name: str, number: int, chosen: dict[str, float]) -> pd.DataFrame:
    """One training per seed under the chosen settings and, otherwise, the model's own; one that
    diverges has a row with the value 0, without a step or a view."""
    tuning, metric, rows = domain.settings.tuning, domain.settings.studies.primary_metric, []
    variant = domain.variant(name)
    settings = variant.settings | chosen | {"training.patience": tuning.patience}
    changes = {key: x for key, x in domain.changes.items() if key.partition(".")[0] != "models"}
    models = domain.settings.models | {name: replace(variant, settings=settings)}
    changes["models"] = {key: asdict(model) for key, model in models.items()}
    changed = replace(domain, changes=changes)
    for seed in tuning.seeds:
        row = {"dataset": domain.name, "model": name, "trial": number, **chosen, "seed": seed}
        try:
            record = train_model(changed, name, seed).record
        except Diverged:
            rows.append(row | {"best_step": 0, "metric": metric, "view": "", "value": 0.0})
            continue
        curve = record.curve
        best = curve[(curve["step"] == record.best_step) & (curve["metric"] == metric)]
        row |= {"best_step": record.best_step, "metric": metric}
        rows += [row | {"view": view, "value": value} for view, value in zip(best.view, best.value)]
    return pd.DataFrame(rows)
