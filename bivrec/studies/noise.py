"""Robustness: histories and features with noise, at test time or in training too."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from bivrec.data.domain import Domain, Features
from bivrec.data.types import EvalCases, Fold
from bivrec.evaluation import estimate_mean, paired_test, rank_cases, units_of, user_metrics
from bivrec.experiment.interests import History
from bivrec.experiment.registry import Trained
from bivrec.experiment.runs import to_runs
from bivrec.experiment.training import train_model
from bivrec.experiment.workers import run_jobs
from bivrec.model.embedding import ItemTable
from bivrec.training.seeds import derive_seed

Generator = np.random.Generator

MAX_SHIFT = 5  # positions that a shuffled item moves at most, before its neighbours move too


def _replace(history: History, share: float, others: History, generator: Generator) -> History:
    noisy, positions = history.copy(), np.flatnonzero(generator.random(len(history)) < share)
    positions = positions[: len(others)]
    noisy[positions] = generator.choice(others, size=len(positions), replace=False)
    return noisy


def _insert(history: History, share: float, others: History, generator: Generator) -> History:
    positions = np.flatnonzero(generator.random(len(history)) < share)[: len(others)]
    return np.insert(history, positions, generator.choice(others, len(positions), replace=False))


def _delete(history: History, share: float, others: History, generator: Generator) -> History:
    rest = history[generator.random(len(history)) >= share]
    return rest if len(rest) else history[-1:]


def _shuffle(history: History, share: float, others: History, generator: Generator) -> History:
    moved = generator.random(len(history)) < share
    shift = moved * generator.uniform(-MAX_SHIFT, MAX_SHIFT, len(history))
    return history[np.argsort(np.arange(len(history)) + shift, kind="stable")]


HISTORY_NOISE = {"replace": _replace, "insert": _insert, "delete": _delete, "shuffle": _shuffle}


def add_history_noise(
    histories: Sequence[History],
    kind: str,
    share: float,
    num_items: int,
    seed: int,
    targets: Sequence[History] = (),
) -> tuple[History, ...]:
    """Histories with noise of one kind of `HISTORY_NOISE` on a share of their items.

    `replace` exchanges them for random items, `insert` puts random items before them, `delete`
    removes them (one item always stays), `shuffle` moves them by up to `MAX_SHIFT` positions. A
    random item is neither in the history nor, where `targets` are given, among its targets; where a
    small catalogue runs out of such items, the later positions stay as they are."""
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, kind, str(share))))
    nothing, noisy = np.empty(0, dtype="int64"), []
    for history, wanted in itertools.zip_longest(histories, targets, fillvalue=nothing):
        other = np.ones(num_items, dtype=bool)
        other[history] = other[wanted] = False
        others = np.flatnonzero(other)
        noisy.append(HISTORY_NOISE[kind](history, share, others, generator))
    return tuple(noisy)


def add_feature_noise(features: Features, kind: str, level: float, seed: int) -> Features:
    """The catalogue's features with noise of one kind.

    `blur` adds Gaussian noise of `level` standard deviations of each feature over the catalogue.
    For the others `level` is a share of the items: `swap` exchanges their features, all modalities
    together, `no_text` and `no_image` remove those of one modality."""
    generator = torch.Generator().manual_seed(derive_seed(seed, kind, str(level)))
    num_items = len(next(iter(features.values()))[1])
    chosen = torch.rand(num_items, generator=generator) < level
    source = torch.arange(num_items)
    if kind == "swap":
        order = torch.randperm(int(chosen.sum()), generator=generator)
        source[chosen] = source[chosen].roll(1)[order]
    noisy = dict(features)
    for name, (values, mask) in features.items():
        if kind == "blur":
            spread = values[mask].std(0, keepdim=True)
            noise = torch.randn(values.shape, generator=generator) * spread * level
            noisy[name] = values + noise * mask[:, None], mask
        elif kind == "swap":
            noisy[name] = values[source], mask[source]
        elif kind == f"no_{name}":
            noisy[name] = values * ~chosen[:, None], mask & ~chosen
    return noisy


def add_noise_to_fold(
    domain: Domain, seed: int, kind: str, level: float, training: bool = False
) -> tuple[Fold, Features]:
    """A seed's fold and features with one kind of noise (or two, as `replace_and_swap`).

    History noise is on the test histories and, if `training`, on the training sequences, whose
    items are both inputs and targets; validation and test targets stay clean."""
    fold, features = domain.fold(seed), domain.features(seed)
    num_items = domain.sequences.num_items
    for part in kind.split("_and_"):
        if part not in HISTORY_NOISE:
            features = add_feature_noise(features, part, level, seed)
            continue
        test = fold.test
        noisy = add_history_noise(test.histories, part, level, num_items, seed, test.targets)
        fold = replace(fold, test=test.reading(noisy))
        if training:
            train = add_history_noise(fold.train, part, level, num_items, seed)
            fold = replace(fold, train=train)
    return fold, features


def with_features(trained: Trained, features: Features) -> Trained:
    """A copy of a trained model that reads other features of the same catalogue."""
    model = copy.deepcopy(trained.model)
    for module in model.modules() if isinstance(model, torch.nn.Module) else ():
        if isinstance(module, ItemTable) and hasattr(module, "maps"):
            device = trained.model.device
            module.set_features({k: (v.to(device), m.to(device)) for k, (v, m) in features.items()})
    return replace(trained, model=model)


def expose_to_noise(
    domain: Domain, trained: Trained, kind: str, level: float
) -> tuple[Trained, EvalCases]:
    """A trained model that reads noisy features, and the test cases with noisy histories."""
    fold, features = add_noise_to_fold(domain, trained.seed, kind, level)
    return with_features(trained, features), fold.test


def _rank_noisy(job: tuple[Domain, Trained]) -> pd.DataFrame:
    domain, trained = job
    clean, tables = rank_cases(trained.model, domain.fold(trained.seed).test), []
    for kind, levels in domain.settings.noise.levels.items():
        for level in levels:
            noisy, cases = expose_to_noise(domain, trained, kind, level)
            ranks = rank_cases(noisy.model, cases) if level else clean
            tables.append(ranks.assign(noise=kind, level=level))
    return pd.concat(tables).assign(model=trained.name, seed=trained.seed, split="test")


def rank_noisy(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """Test ranks under each kind and level of `noise.levels` (columns noise, level)."""
    jobs = [(domain, trained) for trained in models]
    return pd.concat(run_jobs(_rank_noisy, jobs, domain), ignore_index=True)


def _train_noisy(job: tuple[Domain, str, int, str, float]) -> pd.DataFrame:
    domain, name, seed, kind, level = job
    noisy, features = add_noise_to_fold(domain, seed, kind, level, training=True)
    trained = train_model(domain, name, seed, noisy, features)
    clean = with_features(trained, domain.features(seed))
    tables = [
        rank_cases(trained.model, noisy.test).assign(tested="noisy"),
        rank_cases(clean.model, domain.fold(seed).test).assign(tested="clean"),
    ]
    return pd.concat(tables).assign(model=name, seed=seed, noise=kind, level=level, split="test")


def train_noisy(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """Test ranks of models trained under each noise of `noise.trained`, for each retrained seed.

    Column `tested` says whether the test users are `noisy` in the same way, or `clean`. Without any
    such noise the table is empty."""
    settings = domain.settings
    jobs = [
        (domain, name, seed, kind, level)
        for kind, levels in settings.noise.trained.items()
        for level in levels
        for name in names
        for seed in settings.studies.retrained_seeds
    ]
    tables = run_jobs(_train_noisy, jobs, domain)
    if not tables:
        return pd.DataFrame()
    ranks = pd.concat(tables, ignore_index=True)
    level = ranks["noise"] + "=" + ranks["level"].astype(str)
    return ranks.assign(condition=level + ", tested " + ranks["tested"])


def noise_runs(domain: Domain, ranks: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """The ranks of `rank_noisy` and those of `train_noisy` in the columns of runs.csv."""
    condition = ranks["noise"] + "=" + ranks["level"].astype(str)
    tables = [ranks.assign(condition=condition)]
    if len(trained):
        tables.append(
            trained.assign(condition="trained " + trained["condition"]).drop(columns="tested")
        )
    tables = [table.drop(columns=["noise", "level"]) for table in tables]
    return pd.concat([to_runs(domain, "noise", table) for table in tables])


def noise_curves(ranks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What remains of a metric at each level of noise, by model and view.

    `value`: the mean over users, each the mean of the trainings that test the user. `retained`:
    its share of the value at the first level; `low` and `high` bound that ratio's 95 % interval."""
    names = ["noise", "model", "view"]
    columns = [*names, "level", "value", "retained", "low", "high"]
    if not len(ranks):
        return pd.DataFrame(columns=columns)
    tables = []
    for key, users in user_metrics(ranks).groupby(names, sort=False):
        units = [name for name in units_of(users) if name != "seed"]  # a mean over trainings
        levels = users.pivot_table(index=units, columns="level", values=metric)
        tables.append(_curve(levels).assign(**dict(zip(names, key))))
    table = pd.concat(tables)[columns]
    order = list(dict.fromkeys(ranks["noise"]))
    return table.sort_values(
        "noise", key=lambda noise: noise.map(order.index), kind="stable", ignore_index=True
    )


def _curve(levels: pd.DataFrame) -> pd.DataFrame:
    """The rows of `noise_curves` for one model and view, from users by level.

    The interval of a ratio r of the means of x and of clean c is that of the mean of
    (x - r c) / mean(c), to first order."""
    clean, rows = levels.iloc[:, 0], []
    for level, values in levels.items():
        with np.errstate(divide="ignore", invalid="ignore"):  # where the clean metric is 0
            retained = values.mean() / clean.mean()
            share = (values - retained * clean) / clean.mean()
        error = estimate_mean(share.rename("share").reset_index(), "share")
        ends = [retained + (0.0 if np.isnan(end) else end) for end in error[1:3]]
        rows.append((level, values.mean(), retained, *ends))
    return pd.DataFrame(rows, columns=["level", "value", "retained", "low", "high"])


def breaking_points(curves: pd.DataFrame, least: float = 0.9) -> pd.DataFrame:
    """Each curve of `noise_curves` as two numbers.

    `area`: the area under the retained share over the span of levels; 1 where nothing is lost.
    `breaks at`: the level at which less than `least` is retained, on straight lines between the
    levels; NaN where that never happens."""
    rows = []
    for key, curve in curves.groupby(["noise", "model", "view"], sort=False):
        level, share = curve.sort_values("level")[["level", "retained"]].to_numpy().T
        breaks = np.nan
        if (share < least).any():
            after = np.argmax(share < least)
            ends = [after, after - 1]
            breaks = np.interp(least, share[ends], level[ends])
        rows.append((*key, np.trapezoid(share, level) / level[-1], breaks))
    return pd.DataFrame(rows, columns=["noise", "model", "view", "area", "breaks at"])


def compare_losses(
    ranks: pd.DataFrame,
    ours: tuple[str, str],
    theirs: tuple[str, str],
    metric: str,
    noise: str,
    level: float,
) -> dict[str, Any]:
    """Paired test of what two (model, view) pairs lose from clean input to one level of a noise.

    A mean above 0 says that `ours` loses less."""
    users = user_metrics(ranks[(ranks["noise"] == noise) & ranks["level"].isin([0, level])])
    changes = []
    for model, view in (ours, theirs):
        one = users[(users["model"] == model) & (users["view"] == view)]
        levels = one.pivot(index=units_of(one), columns="level", values=metric)
        changes.append((levels[level] - levels[0]).rename(metric).reset_index())
    names = {"ours": " ".join(ours), "theirs": " ".join(theirs), "metric": metric}
    return names | paired_test(*changes, metric)
