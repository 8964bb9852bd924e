"""Evaluation: exact ranks in the full catalogue with the history masked, metrics from ranks, intervals over users."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int64
from numpy import ndarray
from torch import Tensor

from bivrec.data.types import EvalCases

CUTOFFS = (10, 20, 50)


def target_ranks(
    scores: Float[Tensor, "batch catalogue"],
    histories: Sequence[Int64[ndarray, "_"]],
    targets: Sequence[Int64[ndarray, "_"]],
) -> list[Int64[ndarray, "_"]]:
    """Each target's rank, from 1, among all items outside the history, by counting; an item with the same score counts
    as ahead, so that a model which scores all alike earns nothing. Targets never occur in their history."""
    if not torch.stack(torch.aminmax(scores)).isfinite().all():
        raise ValueError(
            "a model gave scores that are not finite; lower training.learning_rate in params.yaml"
        )
    met, counts = (
        np.repeat(np.arange(len(part)), [len(items) for items in part])
        for part in (histories, targets)
    )
    row, masked = (
        torch.from_numpy(counts),
        torch.from_numpy(met * scores.shape[1] + np.concatenate(histories)),
    )
    scores = scores.clone()
    scores.view(-1).index_fill_(0, masked.to(scores.device), float("-inf"))
    own = scores[row, torch.from_numpy(np.concatenate(targets))][:, None]
    if np.array_equal(counts, np.arange(len(scores))):  # one target a row
        ahead = scores.ge_(own).sum(
            1, dtype=torch.float32
        )  # ones, and exact: several times faster than counting booleans
    else:
        ahead = torch.cat(
            [
                scores[rows].ge_(wanted).sum(1, dtype=torch.float32)
                for rows, wanted in zip(row.split(256), own.split(256))
            ]
        )
    ranks, ends = (
        ahead.cpu().numpy().astype("int64"),
        np.cumsum([len(wanted) for wanted in targets]),
    )
    return [ranks[end - len(wanted) : end] for end, wanted in zip(ends, targets)]


def rank_cases(model, cases: EvalCases, batch_size: int = 256) -> pd.DataFrame:
    """The rank of every target of every case, by view: one row a target (columns view, user, num_targets, item, rank)."""
    ranks, order = (
        {},
        np.argsort([len(history) for history in cases.histories], kind="stable"),
    )  # little is padded among like lengths
    for start in range(0, len(cases), batch_size):
        histories, targets = (
            [part[case] for case in order[start : start + batch_size]]
            for part in (cases.histories, cases.targets)
        )
        for view, scores in model.score(histories).items():
            masked = histories if cases.mask_history else [history[:0] for history in histories]
            ranks.setdefault(view, []).extend(target_ranks(scores, masked, targets))
    back, counts = np.argsort(order), [len(wanted) for wanted in cases.targets]
    asked = {
        "user": np.repeat(cases.users, counts),
        "num_targets": np.repeat(counts, counts),
        "item": np.concatenate(cases.targets),
    }
    parts = [
        pd.DataFrame(
            {"view": view, **asked, "rank": np.concatenate([found[place] for place in back])}
        )
        for view, found in ranks.items()
    ]
    return pd.concat(parts, ignore_index=True)


def user_metrics(ranks: pd.DataFrame, cutoffs: Sequence[int] = CUTOFFS) -> pd.DataFrame:
    """Metrics of each user and view from the ranks of their targets.

    recall@n: hits over targets; hr@n: 1 with any hit; ndcg@n: DCG over the best DCG that min(n, targets) could reach;
    comirec_ndcg@n: the variant of ComiRec's and the authors' code, over the DCG of as many hits, higher by design.
    """
    keys = [key for key in ranks.columns if key not in ("item", "rank")]
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, max(cutoffs) + 2)))])
    columns = {}
    for n in cutoffs:
        hit = ranks["rank"] <= n
        sums = (
            ranks.assign(hits=hit.astype(float), gain=hit / np.log2(ranks["rank"] + 1))
            .groupby(keys, dropna=False)[["hits", "gain"]]
            .sum()
            .reset_index()
        )
        hits, gain, targets = sums["hits"].astype(int), sums["gain"], sums["num_targets"]
        columns |= {
            f"ndcg@{n}": gain / ideal[np.minimum(targets, n)],
            f"recall@{n}": hits / targets,
            f"hr@{n}": (hits > 0).astype(float),
        }
        columns[f"comirec_ndcg@{n}"] = gain / np.where(hits > 0, ideal[hits], 1)
    return pd.concat([sums[keys], pd.DataFrame(columns)], axis=1)


def mean_metrics(ranks: pd.DataFrame, cutoffs: Sequence[int] = CUTOFFS) -> pd.DataFrame:
    """Means over users: one row a view and metric."""
    table = user_metrics(ranks, cutoffs)
    names = [name for name in table.columns if "@" in name]
    return (
        table.groupby("view")[names]
        .mean()
        .reset_index()
        .melt("view", var_name="metric", value_name="value")
    )


def bootstrap_means(
    values: Float64[ndarray, "user"], draws: int = 10_000, seed: int = 0
) -> Float64[ndarray, "draw"]:
    """Means over users drawn with replacement."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return np.concatenate(
        [
            values[generator.integers(len(values), size=(500, len(values)))].mean(1)
            for _ in range(draws // 500)
        ]
    )


def bootstrap_interval(
    values: Float64[ndarray, "user"], draws: int = 2000
) -> tuple[float, float, float]:
    """Mean and 95 % percentile interval over resampled users."""
    low, high = np.quantile(
        bootstrap_means(np.asarray(values, dtype="float64"), draws), [0.025, 0.975]
    )
    return float(np.mean(values)), float(low), float(high)


def paired_test(ours: pd.DataFrame, theirs: pd.DataFrame, metric: str) -> dict[str, float]:
    """The difference between two models on the same users (and seeds), in the metric's unit: mean, 95 % interval over
    resampled users, and the two-sided p-value of no difference (at least 2 in the number of draws)."""
    keys = [key for key in ("seed", "user") if key in ours.columns]
    both = ours.merge(theirs, on=keys, suffixes=("_ours", "_theirs"), validate="one_to_one")
    if len(both) != len(ours) or len(both) != len(theirs):
        raise ValueError(
            f"two models were judged on different users: {len(ours)} and {len(theirs)}, {len(both)} in common"
        )
    difference = (both[f"{metric}_ours"] - both[f"{metric}_theirs"]).to_numpy()
    means = bootstrap_means(difference)
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min((means <= 0).mean(), (means >= 0).mean())
    return {
        "mean": difference.mean(),
        "low": low,
        "high": high,
        "p": min(1.0, 2 * max(tail, 1 / len(means))),
        "users": len(both),
    }


def holm(p_values: Float64[ndarray, "test"]) -> Float64[ndarray, "test"]:
    """Holm's adjustment: what each p-value becomes when all of these are tested together."""
    order, count = np.argsort(p_values, kind="stable"), len(p_values)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(
        1, np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(count, 0, -1))
    )
    return adjusted


def interval_table(ranks: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """Mean over users and seeds with its 95 % interval over users, for every value of `by`."""
    users = user_metrics(ranks)
    rows = [
        (*key, *bootstrap_interval(group[metric].to_numpy()))
        for key, group in users.groupby(list(by), sort=False)
    ]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high"])
