"""From raw files to sequences and folds."""

import shutil

import numpy as np
import pandas as pd
import pytest

from bivrec.data.planted import make_planted
from bivrec.data.readers.registry import read_dataset
from bivrec.data.sequences import build_sequences, keep_core, load_sequences, save_sequences
from bivrec.data.splits import split_sequences
from bivrec.data.types import Raw
from bivrec.errors import DataError
from bivrec.settings import load_settings

SETTINGS = load_settings("movies-classic")


def test_core_by_hand():
    table = pd.DataFrame(
        {"user": [1, 1, 1, 2, 2, 2, 3, 3, 3, 4], "item": [1, 2, 3, 1, 2, 3, 1, 2, 3, 1], "time": 0}
    )
    assert set(keep_core(table, 3)["user"]) == {1, 2, 3}
    assert keep_core(table, 4).empty  # user 4 goes, then item 1, then all


def test_order_duplicates_and_ties():
    rows = [
        (1, item, time) for item, time in [(10, 5), (11, 3), (12, 3), (13, 3), (14, 9), (10, 1)]
    ]
    rows += [(user, item, item) for user in (2, 3, 4, 5) for item in range(10, 15)]
    raw = Raw(
        pd.DataFrame(rows, columns=["user", "item", "time"]),
        pd.DataFrame(
            {"item": range(10, 15), "title": "t", "year": 2000, "genres": "", "description": ""}
        ),
        pd.DataFrame({"user": [1], "item": [10], "tag": ["x"]}),
    )
    sequences = build_sequences(raw, SETTINGS.split, "test")
    first = sequences.catalogue["item"].to_numpy()[sequences.of(0)]
    assert (
        first[0] == 10 and first[-1] == 14 and set(first[1:4]) == {11, 12, 13}
    )  # the pair seen twice keeps its first time
    shuffled = Raw(raw.interactions.sample(frac=1, random_state=1), raw.items, raw.tags)
    assert (
        build_sequences(shuffled, SETTINGS.split, "test").items == sequences.items
    ).all()  # ties do not follow the file


def test_an_empty_domain_is_refused():
    raw = make_planted(load_settings("planted").datasets["planted"].planted)
    with pytest.raises(DataError, match="is empty: no user and item have 5 interactions"):
        build_sequences(Raw(raw.interactions[:30], raw.items, raw.tags), SETTINGS.split, "few")


def test_saved_and_loaded_alike(planted, tmp_path):
    save_sequences(planted.sequences, tmp_path / "stage" / "name")
    loaded = load_sequences(tmp_path / "stage" / "name")
    assert (loaded.items == planted.sequences.items).all() and (
        loaded.starts == planted.sequences.starts
    ).all()
    assert loaded.catalogue["title"].tolist() == planted.sequences.catalogue["title"].tolist()
    shutil.rmtree(tmp_path / "stage")
    with pytest.raises(DataError, match="make repro"):
        load_sequences(tmp_path / "stage" / "name")


def test_every_user_tests_once_and_nobody_twice(planted):
    split, sequences = planted.settings.split, planted.sequences
    seen = []
    for seed in range(split.num_folds):
        parts = split_sequences(sequences, split, seed)
        groups = [set(parts.train_users), set(parts.validation.users), set(parts.test.users)]
        assert sum(map(len, groups)) == len(set.union(*groups)) == sequences.num_users
        seen += list(parts.test.users)
        for user, given, wanted in zip(parts.test.users, parts.test.histories, parts.test.targets):
            assert (np.concatenate([given, wanted]) == sequences.of(user)).all()
            assert (
                len(given) == int(split.history_share * len(sequences.of(user))) and len(wanted) > 0
            )
    assert sorted(seen) == list(range(sequences.num_users))


def test_a_user_is_in_the_same_fold_of_every_domain():
    from bivrec.data.splits import fold_of_users

    users = np.arange(100, 700)
    assert (fold_of_users(users, 10)[::3] == fold_of_users(users[::3], 10)).all()
    assert np.bincount(fold_of_users(users, 10), minlength=10).min() > 30


def test_leave_one_out(planted):
    from dataclasses import replace

    parts = split_sequences(
        planted.sequences, replace(planted.settings.split, protocol="leave_one_out"), 0
    )
    for user in (0, 1, 7):
        whole = planted.sequences.of(user)
        assert (parts.train[user] == whole[:-2]).all()
        assert parts.validation.targets[user] == whole[-2] and parts.test.targets[user] == whole[-1]
        assert (parts.test.histories[user] == whole[:-1]).all()


def test_by_time_learns_nothing_from_the_future(planted):
    from dataclasses import replace

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
    assert len(parts.validation) and len(parts.test) and first < second
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
    """Users shuffled, each part ended by the first user with whom 80 % and 90 % of all interactions are reached."""
    from dataclasses import replace

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


def test_ties_in_the_order_of_the_file():
    from dataclasses import replace

    rows = [
        (user, item, 7)
        for user in range(5)
        for item in np.random.Generator(np.random.PCG64(user)).permutation(6)
    ]
    items = pd.DataFrame(
        {"item": range(6), "title": "t", "year": 2000, "genres": "", "description": ""}
    )
    raw = Raw(
        pd.DataFrame(rows, columns=["user", "item", "time"]),
        items,
        pd.DataFrame({"user": [0], "item": [0], "tag": ["x"]}),
    )
    sequences = build_sequences(raw, replace(SETTINGS.split, ties="file"), "test")
    assert [(user, item) for user in range(5) for item in sequences.of(user)] == [
        (user, item) for user, item, _ in rows
    ]
    assert (build_sequences(raw, SETTINGS.split, "test").items != sequences.items).any()


@pytest.mark.parametrize("name", ["movies-classic", "movies-modern"])
def test_the_embedded_films(root, name):
    """The published files, read anew, give the statistics that results/ shows; the two domains share no film."""
    import json

    settings = load_settings(name)
    sequences = build_sequences(read_dataset(name, settings.datasets[name]), settings.split, name)
    shown = json.loads((root / "results" / "01_data_prep" / name / "statistics.json").read_text())
    assert shown == {
        "users": sequences.num_users,
        "items": sequences.num_items,
        "interactions": len(sequences.items),
    }
    assert (
        sequences.catalogue["year"]
        .between(*{"movies-classic": (1874, 1999), "movies-modern": (2000, 2018)}[name])
        .all()
    )
    assert sequences.lengths.min() >= 5 and np.bincount(sequences.items).min() >= 5
