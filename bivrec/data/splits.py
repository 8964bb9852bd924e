"""Who trains, validates and tests."""

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from bivrec.data.sequences import _tie_order
from bivrec.data.types import EvalCases, Fold, Sequences
from bivrec.settings import Split


def fold_of_users(users: Int64[ndarray, "user"], num_folds: int) -> Int64[ndarray, "user"]:
    """Each user's fold, from a fixed hash of the published id: every user tests in just one fold, and in the same fold
    of every domain, so that a model of one domain never trained on another's test users."""
    return (_tie_order(users, np.zeros_like(users)) % np.uint64(num_folds)).astype("int64")


def split_sequences(sequences: Sequences, split: Split, seed: int) -> Fold:
    """The fold of a seed.

    by_user (the paper's): users of fold s test, of fold s + 1 validate, the others train; of a held-out history of n
    items the first int(share * n) are given and all later ones are targets. The paper draws one split; ours turns with
    the seed, so that more users judge.
    leave_one_out: everybody trains on all but the last two items; the second-to-last validates, the last tests.
    by_time: one date ends the training, at history_share of all interactions, and another, half way through the rest, the
    validation; a user is a case of the period in which the first int(share * n) items are done, and the items after them
    (validation: before the second date) are targets, so that nothing is learned from what came later.
    by_interactions (the authors' code): users shuffled by the seed, cut at the first user with whom 80 % and 90 % of all
    interactions are reached; cases as by_user. Seeds a multiple of num_folds apart share a shuffle, as they share a fold.
    """
    everyone, lengths = np.arange(sequences.num_users), sequences.lengths

    def cases(
        users: Int64[ndarray, "case"], cuts: Int64[ndarray, "user"], ends: Int64[ndarray, "user"]
    ) -> EvalCases:
        histories = tuple(sequences.of(user)[: cuts[user]] for user in users)
        return EvalCases(
            users,
            histories,
            tuple(sequences.of(user)[cuts[user] : ends[user]] for user in users),
            split.mask_history,
        )

    if split.protocol == "leave_one_out":
        validation, test = (cases(everyone, lengths - back, lengths - back + 1) for back in (2, 1))
        return Fold(validation.histories, everyone, validation, test)
    if split.protocol == "by_time":
        cuts, share = (split.history_share * lengths).astype("int64"), split.history_share
        first, second = np.quantile(sequences.times, [share, (1 + share) / 2], method="lower")
        asked = sequences.times[sequences.starts[:-1] + cuts]
        before = {
            date: np.add.reduceat((sequences.times < date).astype("int64"), sequences.starts[:-1])
            for date in (first, second)
        }
        validation = cases(
            everyone[(asked >= first) & (asked < second) & (cuts > 0)], cuts, before[second]
        )
        test = cases(everyone[(asked >= second) & (cuts > 0)], cuts, lengths)
        known = everyone[before[first] > 0]
        return Fold(
            tuple(sequences.of(user)[: before[first][user]] for user in known),
            known,
            validation,
            test,
        )
    cuts = (split.history_share * lengths).astype("int64")
    if split.protocol == "by_interactions":
        shuffled = np.random.Generator(np.random.PCG64(seed % split.num_folds)).permutation(
            sequences.num_users
        )
        first, second = (
            np.searchsorted(
                np.cumsum(lengths[shuffled]),
                [0.8 * len(sequences.items), 0.9 * len(sequences.items)],
            )
            + 1
        )
        held = shuffled[first:second], shuffled[second:]
    else:
        folds = fold_of_users(sequences.users, split.num_folds)
        held = tuple(everyone[folds == fold % split.num_folds] for fold in (seed + 1, seed))
    validation, test = (cases(np.sort(users), cuts, lengths) for users in held)
    train_users = np.setdiff1d(everyone, np.concatenate([validation.users, test.users]))
    return Fold(tuple(sequences.of(user) for user in train_users), train_users, validation, test)
