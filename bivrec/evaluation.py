"""Exact ranks in the full catalogue, metrics from ranks, and intervals and tests over users."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int64
from numpy import ndarray
from torch import Tensor

from bivrec.data.types import EvalCases

CUTOFFS = (10, 20, 50)

ROWS_AT_ONCE = 256  # rows of scores that are copied where a case has several targets


def target_ranks(
    scores: Float[Tensor, "batch catalogue"],
    histories: Sequence[Int64[ndarray, "_"]],
    targets: Sequence[Int64[ndarray, "_"]],
) -> list[Int64[ndarray, "_"]]:
    """Each target's rank, from 1: how many scores outside its history are no lower than its own.

    Ties count against the target, so that constant scores earn nothing. Targets never occur in
    their history. Raises ValueError if a score is not finite.
    """
    if not torch.stack(torch.aminmax(scores)).isfinite().all():
        raise ValueError(
            "a model's scores are not finite; lower training.learning_rate in params.yaml"
        )
    history_case, case = (repeat_index(items) for items in (histories, targets))
    seen = torch.from_numpy(history_case * scores.shape[1] + np.concatenate(histories))
    scores = scores.clone()
    scores.view(-1).index_fill_(0, seen.to(scores.device), float("-inf"))
    case = torch.from_numpy(case)
    target_scores = scores[case, torch.from_numpy(np.concatenate(targets))][:, None]
    if max(map(len, targets)) == 1 == min(map(len, targets)):
        ranks = count_no_lower(scores, target_scores)
    else:
        blocks = zip(case.split(ROWS_AT_ONCE), target_scores.split(ROWS_AT_ONCE))
        ranks = torch.cat([count_no_lower(scores[rows], block) for rows, block in blocks])
    ranks = ranks.cpu().numpy().astype("int64")
    return np.split(ranks, np.cumsum([len(items) for items in targets])[:-1])


def repeat_index(items: Sequence[Int64[ndarray, "_"]]) -> Int64[ndarray, "item"]:
    """For every item the index of the array that holds it."""
    return np.repeat(np.arange(len(items)), [len(part) for part in items])


def count_no_lower(
    scores: Float[Tensor, "batch catalogue"], threshold: Float[Tensor, "batch 1"]
) -> Float[Tensor, "batch"]:
    """How many scores of each row reach its threshold; overwrites `scores` with ones and zeros.

    Their float sum is exact, and several times faster than counting booleans.
    """
    return scores.ge_(threshold).sum(1, dtype=torch.float32)


def rank_cases(model, cases: EvalCases, batch_size: int = 256) -> pd.DataFrame:
    """One row a view, case and target: columns view, user, num_targets, item, rank."""
    by_length = np.argsort([len(history) for history in cases.histories], kind="stable")
    ranks: dict[str, list] = {}
    for start in range(0, len(cases), batch_size):
        chosen = by_length[start : start + batch_size]  # like lengths, little padding
        histories = [cases.histories[case] for case in chosen]
        targets = [cases.targets[case] for case in chosen]
        masked = histories if cases.mask_history else [history[:0] for history in histories]
        for view, scores in model.score(histories).items():
            ranks.setdefault(view, []).extend(target_ranks(scores, masked, targets))
    case_order, counts = np.argsort(by_length), [len(items) for items in cases.targets]
    shared = {
        "user": np.repeat(cases.users, counts),
        "num_targets": np.repeat(counts, counts),
        "item": np.concatenate(cases.targets),
    }
    tables = [
        pd.DataFrame(
            {"view": view, **shared, "rank": np.concatenate([part[i] for i in case_order])}
        )
        for view, part in ranks.items()
    ]
    return pd.concat(tables, ignore_index=True)


def user_metrics(ranks: pd.DataFrame, cutoffs: Sequence[int] = CUTOFFS) -> pd.DataFrame:
    """Metrics of each user and view from the ranks of their targets.

    recall@n: hits over targets; hr@n: 1 with any hit; ndcg@n: DCG over the best DCG that min(n,
    targets) could reach; comirec_ndcg@n: the variant of ComiRec's and the authors' code, over the
    best DCG of as many hits, higher by design.
    """
    keys = [key for key in ranks.columns if key not in ("item", "rank")]
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, max(cutoffs) + 2)))])
    columns = {}
    for n in cutoffs:
        hit = ranks["rank"] <= n
        gains = ranks.assign(hits=hit.astype(float), gain=hit / np.log2(ranks["rank"] + 1))
        users = gains.groupby(keys, dropna=False)[["hits", "gain"]].sum().reset_index()
        hits, gain, targets = users["hits"].astype(int), users["gain"], users["num_targets"]
        columns[f"ndcg@{n}"] = gain / ideal[np.minimum(targets, n)]
        columns[f"recall@{n}"] = hits / targets
        columns[f"hr@{n}"] = (hits > 0).astype(float)
        columns[f"comirec_ndcg@{n}"] = gain / np.where(hits > 0, ideal[hits], 1)
    return pd.concat([users[keys], pd.DataFrame(columns)], axis=1)


def mean_over_users(users: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Means of the metrics of `user_metrics`: one row a metric and value of the keys."""
    metrics = [name for name in users.columns if "@" in name]
    means = users.groupby(list(keys))[metrics].mean().reset_index()
    return means.melt(list(keys), var_name="metric", value_name="value")


def mean_metrics(ranks: pd.DataFrame, cutoffs: Sequence[int] = CUTOFFS) -> pd.DataFrame:
    """Means over users (not over targets): one row a view and metric."""
    return mean_over_users(user_metrics(ranks, cutoffs), ["view"])


def bootstrap_means(
    values: Float64[ndarray, "user"], draws: int = 10_000, seed: int = 0
) -> Float64[ndarray, "draw"]:
    """Means of `draws` (in steps of 500) samples of as many users, drawn with replacement."""
    generator, count = np.random.Generator(np.random.PCG64(seed)), len(values)
    samples = (generator.integers(count, size=(500, count)) for _ in range(draws // 500))
    return np.concatenate([values[users].mean(1) for users in samples])


def bootstrap_interval(
    values: Float[ndarray, "user"], draws: int = 2000
) -> tuple[float, float, float]:
    """Mean and 95 % percentile interval over resampled users; no interval (NaN) for one user or for
    equal values, which show no spread."""
    if np.ptp(values) == 0:
        return float(values[0]), np.nan, np.nan
    means = bootstrap_means(np.asarray(values, dtype="float64"), draws)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean(values)), float(low), float(high)


def paired_test(ours: pd.DataFrame, theirs: pd.DataFrame, metric: str) -> dict[str, float]:
    """The difference between two models on the same users (and seeds), in the metric's unit.

    Mean, 95 % interval over resampled users, and the two-sided p-value of no difference, at least 2
    in the number of draws. One user decides nothing: no interval, and p is 1. Raises ValueError if
    the users differ.
    """
    keys = [key for key in ("seed", "user") if key in ours.columns]
    both = ours.merge(theirs, on=keys, suffixes=("_ours", "_theirs"), validate="one_to_one")
    if not len(both) == len(ours) == len(theirs):
        raise ValueError(
            f"two models were evaluated on different users: {len(ours)} and {len(theirs)}, "
            f"{len(both)} in common"
        )
    difference = (both[f"{metric}_ours"] - both[f"{metric}_theirs"]).to_numpy()
    found = {"mean": difference.mean(), "low": np.nan, "high": np.nan, "p": 1.0, "users": len(both)}
    if len(both) < 2:
        return found
    means = bootstrap_means(difference)
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min((means <= 0).mean(), (means >= 0).mean())
    p = min(1.0, 2 * max(tail, 1 / len(means)))
    return found | {"low": low, "high": high, "p": p}


def holm(p_values: Float64[ndarray, "test"]) -> Float64[ndarray, "test"]:
    """Holm's adjustment of the p-values of tests that are made together."""
    order, count = np.argsort(p_values, kind="stable"), len(p_values)
    stepwise = np.asarray(p_values)[order] * np.arange(count, 0, -1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(stepwise))
    return adjusted


def interval_table(ranks: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """Mean over users and seeds with its interval (`bootstrap_interval`), for every value of
    `by`."""
    groups = user_metrics(ranks).groupby(list(by), sort=False)
    rows = [(*key, *bootstrap_interval(group[metric].to_numpy())) for key, group in groups]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high"])
