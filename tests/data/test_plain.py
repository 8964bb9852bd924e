"""Your own data, in the plain form."""

import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from bivrec.data.readers.common import MISSING
from bivrec.data.readers.plain import read_parquet, read_plain
from bivrec.data.readers.vectors import read_vectors
from bivrec.errors import DataError
from bivrec.settings import Dataset, Folder


def test_plain(plain, monkeypatch):
    raw = read_plain(plain, Folder(folder="mine"))
    assert (
        raw.items["title"].tolist() == [f"Thing {n}" for n in range(6)]
        and len(raw.interactions) == 42
    )
    table = (plain / "interactions.csv").read_bytes()
    pl.read_csv(table).write_parquet(plain / "interactions.parquet")
    with pytest.raises(
        DataError,
        match=re.escape("mine has both interactions.parquet and interactions.csv; remove one"),
    ):
        read_plain(plain, Folder(folder="mine"))
    (plain / "interactions.csv").unlink()
    assert read_plain(plain, Folder(folder="mine")).interactions.equals(raw.interactions)
    (plain / "interactions.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(
        DataError, match=re.escape("interactions.parquet cannot be read as Parquet")
    ):
        read_plain(plain, Folder(folder="mine"))
    (plain / "interactions.parquet").unlink()
    (plain / "interactions.csv").write_bytes(table)
    dataset = Dataset(source="plain", plain=Folder(folder="mine"), settings={})
    monkeypatch.setenv("BIVREC_DATA", str(plain.parent))
    values, mask = read_vectors(dataset, "text", ["Ü0", "Ü1", "Ü4"])
    assert mask.tolist() == [False, True, True] and values.tolist() == [
        [0, 0],
        [6, 7],
        [0, 1],
    ]  # by id, not by row
    for file, old, new, told in (
        (
            "ids.csv",
            "unknown\n",
            "",
            "text.npy has 5 rows for 4 ids in ids.csv, 4 of them different",
        ),
        ("ids.csv", "Ü3", "Ü4", "5 ids in ids.csv, 4 of them different"),
        ("items.csv", "Ü1,", "Ü0,", "items.csv lists item 'Ü0' twice"),
        ("items.csv", "Ü1,", "Ü9,", "has the item 'Ü1', which items.csv lacks"),
        (
            "interactions.csv",
            "anna-0,Ü1,1",
            "anna-0,Ü1,late",
            "interactions.csv, row 2: time 'late' is not a whole number",
        ),
        ("interactions.csv", "anna-0,Ü1,1", ",Ü1,1", "interactions.csv, row 2 has no user"),
        (
            "interactions.csv",
            "user,",
            "reader,",
            "has the columns reader,item,time, not user,item,time",
        ),
    ):
        text = (plain / file).read_text()
        (plain / file).write_text(text.replace(old, new, 1))
        with pytest.raises(DataError, match=re.escape(told)):
            read_plain(plain, Folder(folder="mine"))
            read_vectors(dataset, "text", ["Ü0"])
        (plain / file).write_text(text)


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
WORDS = WORDS.filter(lambda text: text not in MISSING)


@budget(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(WORDS, WORDS, st.integers(0, 2**52)), min_size=1, max_size=20),
    crlf=st.booleans(),
)
def test_whatever_text_ids_are_they_come_back(tmp_path_factory, rows, crlf):
    import csv

    folder = tmp_path_factory.mktemp("raw") / "mine"
    folder.mkdir()
    with open(folder / "interactions.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\r\n" if crlf else "\n").writerows(
            [("user", "item", "time"), *rows]
        )
    raw = read_plain(folder, Folder(folder="mine"))
    names = dict(zip(raw.items["item"], raw.items["id"]))
    assert [names[item] for item in raw.interactions["item"]] == [item for _, item, _ in rows]
    assert raw.interactions["time"].tolist() == [time for *_, time in rows]
    assert raw.interactions["user"].nunique() == len({user for user, *_ in rows})


def test_parquet_with_more_rows_than_memory(tmp_path):
    """A column of one value takes no room on the disk, whatever its length."""
    path, columns = tmp_path / "interactions.parquet", ["user", "item", "time"]
    pl.DataFrame({"user": ["a"] * 100_000, "item": "i1", "time": 1}).write_parquet(path)
    assert path.stat().st_size < 5000
    with pytest.raises(DataError, match="interactions.parquet has 100,000 rows, more than 99,999"):
        read_parquet(path, columns, "fix the file", max_rows=99_999)
    assert len(read_parquet(path, columns, "fix the file", max_rows=100_000)) == 100_000


def test_vectors_of_which_no_id_is_an_item_s(plain, monkeypatch):
    dataset = Dataset(source="plain", plain=Folder(folder="mine"), settings={})
    monkeypatch.setenv("BIVREC_DATA", str(plain.parent))
    problem = (
        "text.npy, by ids.csv: none of its 5 ids ('Ü4', 'Ü3', 'Ü2', ...) is one of the 4 items "
        "('4', '3', '2', ...); write the ids that interactions has"
    )
    with pytest.raises(DataError, match=re.escape(problem)):
        read_vectors(dataset, "text", ["4", "3", "2", "1"])


def test_every_form_of_a_year(plain):
    forms = ["1999", "1999.0", "1999-05-01", "c. 1999", "93", ""]
    (plain / "items.csv").write_text(
        "item,year\n" + "".join(f"Ü{n},{year}\n" for n, year in enumerate(forms))
    )
    years = read_plain(plain, Folder(folder="mine")).items["year"].tolist()
    assert years == [1999, 1999, 1999, 1999, 93, 0]
    for forms in (["soon", "-5", "nan", "12345", "99999999999999999999", "0"],):
        (plain / "items.csv").write_text(
            "item,year\n" + "".join(f"Ü{n},{year}\n" for n, year in enumerate(forms))
        )
        assert not read_plain(plain, Folder(folder="mine")).items["year"].any()


def test_lines_that_end_in_a_carriage_return_alone_are_named(plain):
    path = plain / "interactions.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    told = "mine/interactions.csv has lines that end in a carriage return alone; save it with"
    with pytest.raises(DataError, match=told):
        read_plain(plain, Folder(folder="mine"))
