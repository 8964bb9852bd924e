"""Protocols and folds."""

from dataclasses import replace

import numpy as np

from bivrec.data.splits import split_sequences


def test_every_user_tests_once_and_nobody_twice(planted):
    split, sequences = planted.settings.split, planted.sequences
    seen = []
    for seed in range(split.num_folds):
        parts = split_sequences(sequences, split, seed)
        groups = [set(parts.train_users), set(parts.validation.users), set(parts.test.users)]
        assert sum(map(len, groups)) == len(set.union(*groups)) == sequences.num_users
        seen += list(parts.test.users)
        assert (
            parts.test.fold
            == split_sequences(sequences, split, seed + split.num_folds).test.fold
            == seed
        )
        for user, given, wanted in zip(parts.test.users, parts.test.histories, parts.test.targets):
            assert (np.concatenate([given, wanted]) == sequences.of(user)).all()
            assert (
                len(given) == int(split.history_share * len(sequences.of(user))) and len(wanted) > 0
            )
    assert sorted(seen) == list(range(sequences.num_users))


def test_a_share_of_a_history_is_rounded_down_as_in_decimals(planted):
    """Not as in binary, where .29 * 100 is below 29."""
    sequences = planted.sequences
    items = np.concatenate([np.arange(100) % sequences.num_items] * 20)
    even = {"items": items, "times": items, "starts": np.arange(21) * 100, "users": np.arange(20)}
    split = replace(planted.settings.split, history_share=0.29)
    cases = split_sequences(replace(sequences, **even), split, 0).test
    assert [len(row) for row in cases.histories] == [29] * len(cases)


def test_a_user_is_in_the_same_fold_of_every_domain():
    from bivrec.data.splits import fold_of_users

    users = np.arange(100, 700)
    assert (fold_of_users(users, 10)[::3] == fold_of_users(users[::3], 10)).all()
    assert np.bincount(fold_of_users(users, 10), minlength=10).min() > 30


def test_leave_one_out(planted):
    parts = split_sequences(
        planted.sequences, replace(planted.settings.split, protocol="leave_one_out"), 0
    )
    assert parts.test.fold == 0
    for user in (0, 1, 7):
        whole = planted.sequences.of(user)
        assert (parts.train[user] == whole[:-2]).all()
        assert parts.validation.targets[user] == whole[-2] and parts.test.targets[user] == whole[-1]
        assert (parts.test.histories[user] == whole[:-1]).all()


def test_by_time_learns_nothing_from_the_future(planted):
    sequences = planted.sequences
    parts = split_sequences(sequences, replace(planted.settings.split, protocol="by_time"), 0)
    whole = [
        (sequences.of(user), sequences.times[sequences.starts[user] : sequences.starts[user + 1]])
        for user in range(sequences.num_users)
    ]
    first = min(
        whole[user][1][len(history)]
        for user, history in zip(parts.validation.users, parts.validation.histories)
    )
    second = min(
        whole[user][1][len(history)]
        for user, history in zip(parts.test.users, parts.test.histories)
    )
    assert len(parts.validation) and len(parts.test) and parts.end == first < second
    for user, row in zip(parts.train_users, parts.train):
        items, times = whole[user]
        assert (
            (row == items[: len(row)]).all()
            and times[len(row) - 1] < first
            and (len(row) == len(items) or times[len(row)] >= first)
        )
    for user, history, targets in zip(
        parts.validation.users, parts.validation.histories, parts.validation.targets
    ):
        items, times = whole[user]
        assert (
            len(history) == int(0.8 * len(items))
            and (targets == items[len(history) : len(history) + len(targets)]).all()
        )
        assert times[len(history) + len(targets) - 1] < second
    for user, history, targets in zip(parts.test.users, parts.test.histories, parts.test.targets):
        assert (np.concatenate([history, targets]) == whole[user][0]).all() and whole[user][1][
            len(history)
        ] >= second
    assert not set(parts.validation.users) & set(parts.test.users)


def test_by_interactions_cuts_as_the_authors_code(planted):
    """Users shuffled, each part ended by the first user with whom 80 % and 90 % of all interactions
    are reached."""

    sequences, split = (
        planted.sequences,
        replace(planted.settings.split, protocol="by_interactions", mask_history=False),
    )
    seen = []
    for seed in range(3):
        parts = split_sequences(sequences, split, seed)
        users = [parts.train_users, parts.validation.users, parts.test.users]
        assert sorted(np.concatenate(users)) == list(range(sequences.num_users))
        sizes, total = [int(sequences.lengths[part].sum()) for part in users], len(sequences.items)
        longest = sequences.lengths.max()
        assert (
            0.8 * total <= sizes[0] < 0.8 * total + longest
            and 0.9 * total <= sizes[0] + sizes[1] < 0.9 * total + longest
        )
        for user, given, wanted in zip(parts.test.users, parts.test.histories, parts.test.targets):
            assert (
                len(given) == int(0.8 * sequences.lengths[user])
                and (np.concatenate([given, wanted]) == sequences.of(user)).all()
            )
        assert not parts.test.mask_history
        seen.append(tuple(parts.test.users))
    assert len(set(seen)) == 3
    again = split_sequences(sequences, split, split.num_folds)
    assert (
        tuple(again.test.users) == seen[0]
    )  # as folds do, so that the text features of a fold fit
