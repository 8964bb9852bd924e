"""Histories and features disturbed."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from numpy import ndarray

from bivrec.data.domain import Domain, Features
from bivrec.data.types import EvalCases, Fold
from bivrec.evaluation import bootstrap_means, paired_test, rank_cases, user_metrics
from bivrec.experiment.registry import Trained
from bivrec.experiment.training import train_model
from bivrec.experiment.workers import run_jobs
from bivrec.model.embedding import ItemTable
from bivrec.training.seeds import derive_seed

History = Int64[ndarray, "_"]

REACH = 5  # places that a shuffled item may move


def _replace(
    history: History, share: float, strangers: History, generator: np.random.Generator
) -> History:
    noisy, places = history.copy(), np.flatnonzero(generator.random(len(history)) < share)
    noisy[places] = generator.choice(strangers, size=len(places), replace=False)
    return noisy


def _insert(
    history: History, share: float, strangers: History, generator: np.random.Generator
) -> History:
    places = np.flatnonzero(generator.random(len(history)) < share)
    return np.insert(history, places, generator.choice(strangers, size=len(places), replace=False))


def _delete(
    history: History, share: float, strangers: History, generator: np.random.Generator
) -> History:
    left = history[generator.random(len(history)) >= share]
    return left if len(left) else history[-1:]


def _shuffle(
    history: History, share: float, strangers: History, generator: np.random.Generator
) -> History:
    moved = generator.random(len(history)) < share
    return history[
        np.argsort(
            np.arange(len(history)) + moved * generator.uniform(-REACH, REACH, len(history)),
            kind="stable",
        )
    ]


HISTORY_NOISE = {"replace": _replace, "insert": _insert, "delete": _delete, "shuffle": _shuffle}


def disturb_histories(
    histories: Sequence[History],
    kind: str,
    share: float,
    num_items: int,
    seed: int,
    targets: Sequence[History] = (),
) -> tuple[History, ...]:
    """Each history with a share of its items replaced by random ones, random ones inserted before them, deleted (one
    stays), or moved by up to REACH places. A random item is neither in the history nor among its targets."""
    generator, noisy = np.random.Generator(np.random.PCG64(derive_seed(seed, kind, str(share)))), []
    for history, wanted in itertools.zip_longest(
        histories, targets, fillvalue=np.empty(0, dtype="int64")
    ):
        strangers = np.setdiff1d(np.arange(num_items), np.concatenate([history, wanted]))
        noisy.append(HISTORY_NOISE[kind](history, share, strangers, generator))
    return tuple(noisy)


def disturb_features(features: Features, kind: str, level: float, seed: int) -> Features:
    """Features with Gaussian noise of `level` standard deviations of each over the catalogue (`blur`); or a share of
    the items wearing another item's (`swap`), or without their text or image."""
    generator, changed = (
        torch.Generator().manual_seed(derive_seed(seed, kind, str(level))),
        dict(features),
    )
    chosen = torch.rand(len(next(iter(features.values()))[1]), generator=generator) < level
    places = torch.arange(len(chosen))
    places[chosen] = (
        places[chosen].roll(1)[torch.randperm(int(chosen.sum()), generator=generator)]
        if kind == "swap"
        else places[chosen]
    )
    for name, (values, mask) in features.items():
        if kind == "blur":
            noise = (
                torch.randn(values.shape, generator=generator)
                * values[mask].std(0, keepdim=True)
                * level
            )
            changed[name] = (values + noise * mask[:, None], mask)
        elif kind == "swap":
            changed[name] = (values[places], mask[places])
        elif kind == f"no_{name}":
            changed[name] = (values * ~chosen[:, None], mask & ~chosen)
    return changed


def disturb(
    domain: Domain, seed: int, kind: str, level: float, training: bool = False
) -> tuple[Fold, Features]:
    """A fold and the features under one kind of noise: of the test histories, or also of all training sequences."""
    parts, features = domain.fold(seed), domain.features(seed)
    for part in kind.split("_and_"):
        if part in HISTORY_NOISE:
            noisy = disturb_histories(
                parts.test.histories,
                part,
                level,
                domain.sequences.num_items,
                seed,
                parts.test.targets,
            )
            parts = replace(parts, test=replace(parts.test, histories=noisy))
            if training:
                parts = replace(
                    parts,
                    train=disturb_histories(
                        parts.train, part, level, domain.sequences.num_items, seed
                    ),
                )
        else:
            features = disturb_features(features, part, level, seed)
    return parts, features


def with_features(trained: Trained, features: Features) -> Trained:
    """A copy of a trained model that reads other features for the same catalogue."""
    model = copy.deepcopy(trained.model)
    for module in model.modules() if isinstance(model, torch.nn.Module) else ():
        if isinstance(module, ItemTable) and hasattr(module, "maps"):
            module.set_features(
                {
                    name: tuple(part.to(trained.model.device) for part in pair)
                    for name, pair in features.items()
                }
            )
    return replace(trained, model=model)


def disturbed(
    domain: Domain, trained: Trained, kind: str, level: float
) -> tuple[Trained, EvalCases]:
    """A trained model before one kind of noise, and the test cases that it then meets."""
    parts, features = disturb(domain, trained.seed, kind, level)
    return with_features(trained, features), parts.test


def _rank_noisy_work(job: tuple[Domain, Trained]) -> pd.DataFrame:
    domain, trained = job
    clean, tables = rank_cases(trained.model, domain.fold(trained.seed).test), []
    for kind, levels in domain.settings.noise.levels.items():
        for level in levels:
            noisy, cases = disturbed(domain, trained, kind, level)
            tables.append(
                (rank_cases(noisy.model, cases) if level else clean).assign(noise=kind, level=level)
            )
    return pd.concat(tables).assign(model=trained.name, seed=trained.seed, split="test")


def rank_noisy(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """Test ranks under each level of each kind of noise in `params.yaml` (columns noise, level)."""
    return pd.concat(
        run_jobs(_rank_noisy_work, [(domain, trained) for trained in models], domain),
        ignore_index=True,
    )


def _noisy_work(job: tuple[Domain, str, int, str, float]) -> pd.DataFrame:
    domain, name, seed, kind, level = job
    noisy, features = disturb(domain, seed, kind, level, training=True)
    trained = train_model(domain, name, seed, noisy, features)
    clean = with_features(trained, domain.features(seed)), domain.fold(seed)
    tables = [
        rank_cases(on.model, parts.test).assign(tested=how)
        for how, (on, parts) in {"noisy": (trained, noisy), "clean": clean}.items()
    ]
    return pd.concat(tables).assign(model=name, seed=seed, noise=kind, level=level, split="test")


def train_noisy(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """Ranks of models trained under noise (`noise.trained`), on test users as noisy and on clean ones (column tested)."""
    settings = domain.settings
    levels = [(kind, level) for kind, levels in settings.noise.trained.items() for level in levels]
    jobs = [
        (domain, name, seed, *noise)
        for noise in levels
        for name in names
        for seed in settings.studies.retrained_seeds
    ]
    return pd.concat(run_jobs(_noisy_work, jobs, domain), ignore_index=True)


def noise_curves(ranks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What is kept of the clean metric, by model and view, at each level of each noise: mean over users and seeds, and the
    95 % interval of the ratio over resampled users."""
    rows = []
    for (noise, model, view), users in user_metrics(ranks).groupby(
        ["noise", "model", "view"], sort=False
    ):
        table = users.pivot(index=["seed", "user"], columns="level", values=metric)
        drawn = np.stack([bootstrap_means(table[level].to_numpy(), 2000) for level in table], 1)
        low, high = np.quantile(drawn / drawn[:, :1], [0.025, 0.975], axis=0)
        means = table.mean()
        rows += zip(
            itertools.repeat(noise),
            itertools.repeat(model),
            itertools.repeat(view),
            means.index,
            means,
            means / means.iloc[0],
            low,
            high,
        )
    order, names = (
        list(dict.fromkeys(ranks["noise"])),
        ["noise", "model", "view", "level", "value", "kept", "low", "high"],
    )
    return pd.DataFrame(rows, columns=names).sort_values(
        "noise", key=lambda noise: noise.map(order.index), kind="stable", ignore_index=True
    )


def breaking_points(curves: pd.DataFrame, least: float = 0.9) -> pd.DataFrame:
    """By model, view and noise: the area under the curve of what is kept, over the levels' span (1: nothing lost), and the
    level, between those tried by a straight line, at which less than `least` is kept (nothing where it never is)."""
    rows = []
    for key, curve in curves.groupby(["noise", "model", "view"], sort=False):
        level, kept = curve.sort_values("level")[["level", "kept"]].to_numpy().T
        after = np.argmax(kept < least) if (kept < least).any() else None
        breaks = (
            np.nan
            if after is None
            else np.interp(least, [kept[after], kept[after - 1]], [level[after], level[after - 1]])
        )
        rows.append((*key, np.trapezoid(kept, level) / level[-1], breaks))
    return pd.DataFrame(rows, columns=["noise", "model", "view", "area", "breaks at"])


def compare_losses(
    ranks: pd.DataFrame,
    ours: tuple[str, str],
    theirs: tuple[str, str],
    metric: str,
    noise: str,
    level: float,
) -> dict[str, Any]:
    """The paired test of what two (model, view) pairs lose from clean to one level of noise; above 0: ours loses less."""
    users, tables = (
        user_metrics(ranks[(ranks["noise"] == noise) & ranks["level"].isin([0, level])]),
        [],
    )
    for model, view in (ours, theirs):
        part = users[(users["model"] == model) & (users["view"] == view)].pivot(
            index=["seed", "user"], columns="level", values=metric
        )
        tables.append((part[level] - part[0]).rename(metric).reset_index())
    return {
        "ours": " ".join(ours),
        "theirs": " ".join(theirs),
        "metric": metric,
        **paired_test(*tables, metric),
    }
