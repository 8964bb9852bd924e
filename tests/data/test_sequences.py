"""From raw tables to sequences."""

import re
import shutil
from dataclasses import replace
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from bivrec.data.planted import make_planted
from bivrec.data.readers.common import NO_TAGS
from bivrec.data.readers.movielens import read_movielens_dat
from bivrec.data.readers.plain import read_plain
from bivrec.data.readers.registry import read_dataset
from bivrec.data.sequences import (
    build_sequences,
    check_counts,
    describe,
    keep_core,
    load_sequences,
    save_sequences,
)
from bivrec.data.types import Raw, Sequences
from bivrec.errors import DataError
from bivrec.settings import Expected, Folder, load_settings

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
    told = r"few is empty: no user and item have 5 interactions .*\); lower it, or give the dataset"
    with pytest.raises(DataError, match=told):
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


WORDS = ["", "7", "00007", "1e5", "1_000", "True", "False", "NA", "nan", "null", "None", "-inf"]
WORDS += ["a\rb", "a\r\nb", "\n", " ", '"', "a,b", "\0", "a\0", "2001-01-01", "\ufeff", "名前"]


def draw_word(random):
    """A word that a table could take for something else, or a few characters of all Unicode."""
    if random.random() < 0.7:
        return random.choice(WORDS)
    codes = (random.randrange(random.choice((0x80, 0xD800, 0x110000))) for _ in range(3))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


@pytest.mark.slow
def test_text_stays_text(tmp_path):
    """Whatever its words look like, a saved catalogue comes back equal, and so do the tags."""
    random, empty = Random(0), np.zeros(0, "int64")
    for _ in range(1000):
        item, tagged = np.arange(random.randint(1, 4)), np.arange(random.randint(0, 3))
        draw = lambda rows: pd.Series([draw_word(random) for _ in rows], dtype=str)  # noqa: E731
        texts = {name: draw(item) for name in ("title", "genres", "description", "id")}
        catalogue = pd.DataFrame({"item": item, "year": item + 1990, **texts})
        tags = pd.DataFrame({"user": tagged, "item": tagged, "tag": draw(tagged), "time": tagged})
        save_sequences(Sequences(empty, empty, empty, empty, catalogue, tags), tmp_path)
        loaded = load_sequences(tmp_path)
        for table, expected in ((loaded.catalogue, catalogue), (loaded.tags, tags)):
            assert table.to_dict("list") == expected.to_dict("list")
            assert table.dtypes.tolist() == expected.dtypes.tolist()


def test_titles_and_genres_that_are_numbers(plain, tmp_path):
    """From the raw file to what the later stages read."""
    words = ["0", "00007", "True", "NA", "One\rtwo", "1.50"]
    lines = (f'Ü{n},"{word}","{word}"\n' for n, word in enumerate(words))
    text = "item,title,genres\n" + "".join(lines)
    (plain / "items.csv").write_text(text, "utf-8", newline="")
    raw = read_plain(plain, Folder(folder="mine"))
    save_sequences(build_sequences(raw, SETTINGS.split, "mine"), tmp_path / "saved")
    catalogue = load_sequences(tmp_path / "saved").catalogue.sort_values("id")
    assert catalogue["title"].tolist() == catalogue["genres"].tolist() == words
    assert catalogue["id"].tolist() == [f"Ü{n}" for n in range(6)]


def test_ties_in_the_order_of_the_file():
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
    """The published files, read again, give the statistics that results/ shows; the two domains
    share no film."""
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


SPLIT = load_settings().split


PAIRS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 2**52)), min_size=1, max_size=60
)


@budget(max_examples=100, deadline=None)
@given(rows=PAIRS, least=st.integers(1, 4))
def test_the_core_is_the_largest_that_obeys(rows, least):
    """Everyone left has enough, and what was dropped cannot be put back: the same as by hand, one
    at a time."""
    import pandas as pd

    table = pd.DataFrame(
        [(u, i, 0) for u, i in dict.fromkeys((u, i) for u, i, _ in rows)],
        columns=["user", "item", "time"],
    )
    left = [(row.user, row.item) for row in table.itertuples()]
    while True:
        bad = next(
            (
                p
                for p in left
                if sum(q[0] == p[0] for q in left) < least
                or sum(q[1] == p[1] for q in left) < least
            ),
            None,
        )
        if bad is None:
            break
        left.remove(bad)
    assert (
        list(keep_core(table, least)[["user", "item"]].itertuples(index=False, name=None)) == left
    )


@budget(max_examples=80, deadline=None)
@given(rows=PAIRS, ties=st.sampled_from(["hash", "file"]))
def test_sequences_are_in_time_and_hold_a_pair_once(rows, ties):
    items = pd.DataFrame(
        {"item": range(9), "title": "t", "year": 0, "genres": "", "description": ""}
    )
    split = replace(SPLIT, min_interactions=3, ties=ties)
    raw = Raw(pd.DataFrame(rows, columns=["user", "item", "time"]), items, NO_TAGS)
    try:
        sequences = build_sequences(raw, split, "drawn")
    except DataError:
        return
    earliest = raw.interactions.groupby(["user", "item"])["time"].min()
    for user in range(sequences.num_users):
        own, times = (
            sequences.of(user),
            sequences.times[sequences.starts[user] : sequences.starts[user + 1]],
        )
        assert len(set(own)) == len(own) >= 3 and (np.diff(times) >= 0).all()
        assert [
            earliest[sequences.users[user], item]
            for item in sequences.catalogue["item"].to_numpy()[own]
        ] == times.tolist()
        if ties == "file":
            place = {(u, i, t): n for n, (u, i, t) in reversed(list(enumerate(rows)))}
            spots = [
                (t, place[sequences.users[user], i, t])
                for i, t in zip(sequences.catalogue["item"].to_numpy()[own], times)
            ]
            assert spots == sorted(spots)
    assert "time span" in describe(sequences)["figure"].tolist()


def test_tied_neighbours_are_of_one_user():
    """Two users with two items each, all at the same time: both pairs are tied."""
    zeros, catalogue = np.zeros(4, "int64"), pd.DataFrame({"item": [0, 1]})
    sequences = Sequences(
        np.array([0, 1, 0, 1]), np.array([0, 2, 4]), zeros, np.array([7, 8]), catalogue, NO_TAGS
    )
    figures = describe(sequences).set_index("figure")["value"]
    assert figures["neighbours tied in time, %"] == "100.0"


def test_counts_are_held_against_those_known(dat):
    raw = read_movielens_dat(dat, Folder(folder="ml-1m"))
    sequences = build_sequences(raw, SPLIT, "ml-1m")
    expected = {"of": "kept", "users": 7, "items": 8, "interactions": 56, "strict": True}
    make = lambda **changes: Expected(**expected | changes)  # noqa: E731
    assert "are those expected" in check_counts(make(), raw.interactions, sequences, "ml-1m")
    with pytest.raises(
        DataError,
        match=re.escape(
            "ml-1m has 8 items, not 9 (kept): another release, or a truncated file; if this is "
        ),
    ):
        check_counts(make(items=9), raw.interactions, sequences, "ml-1m")
    assert "8 items, not 9" in check_counts(
        make(items=9, strict=False), raw.interactions, sequences, "ml-1m"
    )
    assert check_counts(
        make(of="published", items=9, strict=False), raw.interactions[:8], sequences, "ml-1m"
    ).startswith("ml-1m has 1 users, not 7, 8 items, not 9, 8 inter")


def test_an_item_without_a_title_goes_by_its_published_id():
    catalogue = pd.DataFrame({"item": [0, 1, 2], "title": ["Heat", "", " "]})
    empty = np.zeros(0, dtype="int64")
    sequences = Sequences(empty, np.zeros(1, dtype="int64"), empty, empty, catalogue, NO_TAGS)
    assert sequences.titles.tolist() == ["Heat", "item 1", "item 2"]
    named = replace(sequences, catalogue=catalogue.assign(id=["B01", "B02", "B03"]))
    assert named.titles.tolist() == ["Heat", "item B02", "item B03"]
