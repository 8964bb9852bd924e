"""Exact ranks in the full catalogue, metrics from ranks, and intervals and tests of their means."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int64
from numpy import ndarray
from scipy import stats
from torch import Tensor

from bivrec.data.types import EvalCases

CUTOFFS = (10, 20, 50)

LISTED = 20  # items of each user's recommended list

ROWS_AT_ONCE = 256  # rows of scores that are copied where a case has several targets

ROUNDING = 1e-12  # a standard error up to this counts as none


def target_ranks(
    scores: Float[Tensor, "batch catalogue"],
    histories: Sequence[Int64[ndarray, "_"]],
    targets: Sequence[Int64[ndarray, "_"]],
) -> list[Int64[ndarray, "_"]]:
    """Each target's rank, from 1: how many scores outside its history are no lower than its own.

    Ties count against the target, so that constant scores earn nothing. Targets never occur in
    their history. Raises ValueError if a score is not finite.
    """
    return ranks_of(mask_items(scores, histories), targets)


def mask_items(
    scores: Float[Tensor, "batch catalogue"], histories: Sequence[Int64[ndarray, "_"]]
) -> Float[Tensor, "batch catalogue"]:
    """A copy of the scores with minus infinity for each row's own history. Raises ValueError if a
    score is not finite."""
    if not torch.stack(torch.aminmax(scores)).isfinite().all():
        raise ValueError(
            "a model's scores are not finite; lower training.learning_rate in params.yaml"
        )
    seen = torch.from_numpy(repeat_index(histories) * scores.shape[1] + np.concatenate(histories))
    scores = scores.clone()
    scores.view(-1).index_fill_(0, seen.to(scores.device), float("-inf"))
    return scores


def ranks_of(
    scores: Float[Tensor, "batch catalogue"], targets: Sequence[Int64[ndarray, "_"]]
) -> list[Int64[ndarray, "_"]]:
    """Each target's rank among the scores of `mask_items`, which may be overwritten."""
    case = torch.from_numpy(repeat_index(targets))
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


def list_items(
    scores: Float[Tensor, "batch catalogue"],
    users: Int64[ndarray, "batch"],
    interests: Float[Tensor, "batch interest dim"] | None = None,
    table: Float[Tensor, "catalogue dim"] | None = None,
) -> pd.DataFrame:
    """The items that lead the scores of `mask_items`, best first: columns user, rank, item, and
    interest, the one of several interests that scores the item best, else -1."""
    best = scores.topk(min(LISTED, scores.shape[1]), 1)
    lead = torch.full_like(best.indices, -1)
    if interests is not None and interests.shape[1] > 1:
        lead = (table[best.indices] @ interests.mT).argmax(2)
    case, place = (part.cpu().numpy() for part in best.values.isfinite().nonzero(as_tuple=True))
    columns = {"user": users[case], "rank": place + 1}
    for name, values in (("item", best.indices), ("interest", lead)):
        columns[name] = values.cpu().numpy()[case, place]
    return pd.DataFrame(columns).astype("int32")


def score_histories(model, histories: Sequence[Int64[ndarray, "_"]]) -> tuple[dict, dict, dict]:
    """The model's scores by view, and, of a sequential model, the interests and the items' vectors
    that they come from, by view."""
    if not hasattr(model, "encode_histories"):
        return model.score(histories), {}, {}
    interests, tables = model.encode_histories(histories)
    return model.score_catalogue(interests, tables), interests, tables


@torch.inference_mode()
def rank_cases(
    model, cases: EvalCases, batch_size: int = 256, lists: list[pd.DataFrame] | None = None
) -> pd.DataFrame:
    """One row per view, case and target: columns view, fold, user, num_targets, item, rank.

    Appends the users' lists to `lists`, if given: `list_items` with the columns view and fold."""
    by_length = np.argsort([len(history) for history in cases.histories], kind="stable")
    masked = cases.masked
    ranks: dict[str, list] = {}
    for start in range(0, len(cases), batch_size):
        chosen = by_length[start : start + batch_size]  # like lengths, little padding
        histories = [cases.histories[case] for case in chosen]
        targets = [cases.targets[case] for case in chosen]
        views, interests, tables = score_histories(model, histories)
        for view, scores in views.items():
            scores = mask_items(scores, [masked[case] for case in chosen])
            if lists is not None:
                own = interests.get(view), tables.get(view)
                table = list_items(scores, cases.users[chosen], *own)
                lists.append(table.assign(view=view, fold=cases.fold))
            ranks.setdefault(view, []).extend(ranks_of(scores, targets))
    case_order, counts = np.argsort(by_length), [len(items) for items in cases.targets]
    shared = {
        "fold": cases.fold,
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
    """Means of the metrics of `user_metrics`: one row per metric and value of the keys."""
    metrics = [name for name in users.columns if "@" in name]
    means = users.groupby(list(keys))[metrics].mean().reset_index()
    return means.melt(list(keys), var_name="metric", value_name="value")


def mean_metrics(ranks: pd.DataFrame, cutoffs: Sequence[int] = CUTOFFS) -> pd.DataFrame:
    """Means over users (not over targets): one row per view and metric."""
    return mean_over_users(user_metrics(ranks, cutoffs), ["view"])


def bootstrap_means(
    values: Float64[ndarray, "user"], draws: int = 10_000, seed: int = 0
) -> Float64[ndarray, "draw"]:
    """Means of `draws` (in steps of 500) samples of as many users, drawn with replacement."""
    generator, count = np.random.Generator(np.random.PCG64(seed)), len(values)
    samples = (generator.integers(count, size=(500, count)) for _ in range(draws // 500))
    return np.concatenate([values[users].mean(1) for users in samples])


class Estimate(NamedTuple):
    """A mean, its 95 % interval, the two-sided p-value of a mean of 0, and the smallest true mean
    that such data detect with 80 % power. Values without spread have no interval, and p is 1."""

    mean: float
    low: float = np.nan
    high: float = np.nan
    p: float = 1.0
    detectable: float = np.nan


def over_folds(values: Float64[ndarray, "user"], folds: Int64[ndarray, "user"]) -> Estimate:
    """The mean over users, with Student's t over the folds that test them.

    A fold has users and trainings of its own, so the spread of the folds' means contains the
    variation of both."""
    _, fold, sizes = np.unique(folds, return_inverse=True, return_counts=True)
    mean, df = values.mean(), len(sizes) - 1
    deviations = np.bincount(fold, values) / sizes - mean
    error = np.sqrt(sizes @ deviations**2 / (df * len(values)))
    if error <= ROUNDING:
        return Estimate(mean)
    reach = stats.t.ppf(0.975, df) * error
    p = 2 * stats.t.sf(abs(mean) / error, df)
    return Estimate(mean, mean - reach, mean + reach, p, reach + stats.t.ppf(0.8, df) * error)


def over_users(values: Float64[ndarray, "user"]) -> Estimate:
    """The mean over users, with percentiles of resampled users; the p-value is at least 2 in the
    number of draws. This leaves out the variation between trainings."""
    draws = bootstrap_means(values)
    error = draws.std()
    if error <= ROUNDING:
        return Estimate(values.mean())
    low, high = np.quantile(draws, [0.025, 0.975])
    tail = min((draws <= 0).mean(), (draws >= 0).mean())
    p = min(1.0, 2 * max(tail, 1 / len(draws)))
    return Estimate(values.mean(), low, high, p, error * stats.norm.ppf([0.975, 0.8]).sum())


def estimate_mean(table: pd.DataFrame, value: str) -> Estimate:
    """The mean of a column over users, each the mean of the trainings that test the user.

    With several folds (column fold), `over_folds`; with one, `over_users`."""
    table = table if "fold" in table else table.assign(fold=0)
    users = table.groupby(["fold", "user"], sort=False)[value].mean().astype("float64")
    values, folds = users.to_numpy(), users.index.get_level_values("fold").to_numpy()
    several = (folds != folds[0]).any()
    return over_folds(values, folds) if several else over_users(values)


def units_of(table: pd.DataFrame) -> list[str]:
    """The columns that name a user in a training: those of fold, seed and user that it has."""
    return [column for column in ("fold", "seed", "user") if column in table]


def paired_test(ours: pd.DataFrame, theirs: pd.DataFrame, metric: str) -> dict[str, float]:
    """The difference between two models on the same users and trainings, in the metric's unit:
    `estimate_mean` of the users' differences, and the number of users. Raises ValueError if the
    users differ."""
    both = ours.merge(
        theirs, on=units_of(ours), suffixes=("_ours", "_theirs"), validate="one_to_one"
    )
    if not len(both) == len(ours) == len(theirs):
        raise ValueError(
            f"two models were evaluated on different users: {len(ours)} and {len(theirs)}, "
            f"{len(both)} in common"
        )
    both["difference"] = both[f"{metric}_ours"] - both[f"{metric}_theirs"]
    return estimate_mean(both, "difference")._asdict() | {"users": both["user"].nunique()}


def holm(p_values: Float64[ndarray, "test"]) -> Float64[ndarray, "test"]:
    """Holm's adjustment of the p-values of tests that are made together."""
    order, count = np.argsort(p_values, kind="stable"), len(p_values)
    stepwise = np.asarray(p_values)[order] * np.arange(count, 0, -1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(stepwise))
    return adjusted


def estimate_groups(users: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """The mean of a column over users with its 95 % interval (`estimate_mean`), for every value of
    `by`."""
    groups = users.groupby(list(by), sort=False)
    rows = [(*key, *estimate_mean(group, value)[:3]) for key, group in groups]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high"])


def interval_table(ranks: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """`estimate_groups` of a metric, from ranks."""
    return estimate_groups(user_metrics(ranks), metric, by)
