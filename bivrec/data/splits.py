"""Which users, or which parts of their histories, are for training, validation and test."""

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from bivrec.data.sequences import hash_pairs
from bivrec.data.types import EvalCases, Fold, Sequences
from bivrec.errors import DataError
from bivrec.settings import Split


def fold_of_users(users: Int64[ndarray, "user"], num_folds: int) -> Int64[ndarray, "user"]:
    """Each user's fold, by a fixed hash of the published id. Every user is a test user in exactly
    one fold, the same in every domain: no model trains on another domain's test users."""
    return (hash_pairs(users, np.zeros_like(users)) % np.uint64(num_folds)).astype("int64")


def split_sequences(sequences: Sequences, split: Split, seed: int) -> Fold:
    """The fold of a seed, by the protocol that `split` names."""
    return PROTOCOLS[split.protocol](sequences, split, seed)


def usable_fold(sequences: Sequences, split: Split, seed: int, name: str) -> Fold:
    """`split_sequences`; raises DataError if the fold has no training, validation or test users."""
    fold = split_sequences(sequences, split, seed)
    parts = {
        "has two items to train on": any(len(row) > 1 for row in fold.train),
        "is a validation user": len(fold.validation),
        "is a test user": len(fold.test),
    }
    for part, someone in parts.items():
        if not someone:
            where = f"in fold {seed % split.num_folds} ({split.protocol})"
            problem = f"{name}: none of its {sequences.num_users} users {part} {where}"
            remedy = "set split.protocol: by_user"
            if split.protocol == "by_user":
                remedy = f"lower split.num_folds, {split.num_folds}"
            raise DataError(f"{problem}; {remedy}, or add users")
    return fold


def split_by_user(sequences: Sequences, split: Split, seed: int) -> Fold:
    """The paper's protocol: users are split. Fold `seed` has the test users, half of the next fold
    is the validation set, and the other users are for training. The paper draws one split; ours
    turns with the seed, so that every user is a test user once in `num_folds` seeds."""
    half_folds, count = fold_of_users(sequences.users, 2 * split.num_folds), 2 * split.num_folds
    test = np.flatnonzero(half_folds // 2 == seed % split.num_folds)
    validation = np.flatnonzero(half_folds == (2 * seed + 2) % count)
    return _hold_out(sequences, split, validation, test, seed)


def split_by_interactions(sequences: Sequences, split: Split, seed: int) -> Fold:
    """The authors' code: users are shuffled, and cut after those with whom 80 % and 90 % of all
    interactions are reached. Seeds that differ by a multiple of `num_folds` share a shuffle, and so
    text features."""
    generator = np.random.Generator(np.random.PCG64(seed % split.num_folds))
    users, total = generator.permutation(sequences.num_users), len(sequences.items)
    reached = np.cumsum(sequences.lengths[users])
    first, second = np.searchsorted(reached, [0.8 * total, 0.9 * total]) + 1
    validation, test = np.sort(users[first:second]), np.sort(users[second:])
    return _hold_out(sequences, split, validation, test, seed)


def split_leave_one_out(sequences: Sequences, split: Split, seed: int) -> Fold:
    """All but the last two items of every user are for training; the second-to-last item is the
    validation target, the last the test target."""
    users, ends = np.arange(sequences.num_users), sequences.lengths
    validation = _cases(sequences, split, users, ends - 2, ends - 1)
    test = _cases(sequences, split, users, ends - 1, ends)
    return Fold(validation.histories, users, validation, test)


def split_by_time(sequences: Sequences, split: Split, seed: int) -> Fold:
    """One date ends the training, when `history_share` of all interactions are done; another,
    half-way through the rest, ends the validation. Nothing is learned from what came later.

    A user's first int(share * n) items are the history; the date of the next item decides whether
    the user is a validation or a test user. Validation targets end at the second date.
    """
    users, times, starts = np.arange(sequences.num_users), sequences.times, sequences.starts[:-1]
    cuts, share = _history_lengths(sequences, split), split.history_share
    first, second = np.quantile(times, [share, (1 + share) / 2], method="lower")
    before_first, before_second = (
        np.add.reduceat((times < date).astype("int64"), starts) for date in (first, second)
    )
    target_times = times[starts + cuts]
    validates = (target_times >= first) & (target_times < second) & (cuts > 0)
    tests = (target_times >= second) & (cuts > 0)
    trains = users[before_first > 0]
    return Fold(
        tuple(sequences.of(user)[: before_first[user]] for user in trains),
        trains,
        _cases(sequences, split, users[validates], cuts, before_second),
        _cases(sequences, split, users[tests], cuts, sequences.lengths),
        end=int(first),
    )


def _history_lengths(sequences: Sequences, split: Split) -> Int64[ndarray, "user"]:
    """How many of each held-out user's items are the history; the later ones are targets."""
    return (split.history_share * sequences.lengths + 1e-9).astype("int64")  # .29 * 100 is 28.99...


def _hold_out(
    sequences: Sequences,
    split: Split,
    validation_users: Int64[ndarray, "validation_user"],
    test_users: Int64[ndarray, "test_user"],
    seed: int,
) -> Fold:
    """A seed's fold: these validation and test users, and all items of the others for training."""
    fold = seed % split.num_folds
    cuts, ends = _history_lengths(sequences, split), sequences.lengths
    held_out = np.concatenate([validation_users, test_users])
    trains = np.setdiff1d(np.arange(sequences.num_users), held_out)
    return Fold(
        tuple(sequences.of(user) for user in trains),
        trains,
        _cases(sequences, split, validation_users, cuts, ends, fold),
        _cases(sequences, split, test_users, cuts, ends, fold),
    )


def _cases(
    sequences: Sequences,
    split: Split,
    users: Int64[ndarray, "case"],
    cuts: Int64[ndarray, "user"],
    ends: Int64[ndarray, "user"],
    fold: int = 0,
) -> EvalCases:
    """These users' items before the cut as histories, those from the cut to the end as targets."""
    histories = tuple(sequences.of(user)[: cuts[user]] for user in users)
    targets = tuple(sequences.of(user)[cuts[user] : ends[user]] for user in users)
    return EvalCases(users, histories, targets, split.mask_history, fold)


PROTOCOLS = {
    "by_user": split_by_user,
    "leave_one_out": split_leave_one_out,
    "by_time": split_by_time,
    "by_interactions": split_by_interactions,
}
