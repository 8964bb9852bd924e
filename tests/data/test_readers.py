"""What holds for every reader."""

import gzip
import json
import re

import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from bivrec.data.readers.amazon import read_amazon
from bivrec.data.readers.common import read_table
from bivrec.data.readers.mmrec import read_mmrec
from bivrec.data.readers.movielens import read_movielens, read_movielens_dat
from bivrec.data.readers.plain import read_plain
from bivrec.data.readers.registry import read_dataset
from bivrec.errors import DataError
from bivrec.settings import Amazon, Dataset, Folder, MovieLens

FILMS = MovieLens(folder="movielens-latest-small", first_year=1800, last_year=1999)


BABY = Amazon(folder="amazon-baby", category="Baby")


def write_gzip(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


ANY = Folder(folder="any")


@pytest.mark.parametrize(
    ("source", "settings", "present", "told"),
    [
        ("movielens", MovieLens(folder="any"), ["ratings.csv", "movies.csv"], "any/tags.csv is"),
        ("movielens_dat", ANY, ["ratings.dat", "Movies.dat"], "; the folder has Movies.dat"),
        ("mmrec", ANY, ["any.txt", "._any.inter"], "raw/any/*.inter is"),
        ("mmrec", ANY, ["any.inter.gz"], "; the folder has any.inter.gz"),
        (
            "amazon",
            Amazon(folder="any", category="Baby"),
            ["meta_Baby.json.gz", "reviews_baby_5.json.gz"],
            "; the folder has reviews_baby_5.json.gz",
        ),
        (
            "amazon",
            Amazon(folder="any", category="Baby"),
            ["Baby_5.json.gz", "meta_Baby.json"],
            "; the folder has meta_Baby.json",
        ),
    ],
)
def test_a_missing_file_is_named_with_what_is_there(
    tmp_path, monkeypatch, source, settings, present, told
):
    monkeypatch.setenv("BIVREC_DATA", str(tmp_path / "raw"))
    (tmp_path / "raw" / "any").mkdir(parents=True)
    for file in present:
        (tmp_path / "raw" / "any" / file).touch()
    dataset = Dataset(source=source, **{source: settings}, settings={})
    remedy = "is missing; put it there"
    told = f"{told.removesuffix(' is')} {remedy}" if told.endswith("is") else f"{remedy}{told}"
    with pytest.raises(DataError, match=re.escape(told) + "$"):
        read_dataset("any", dataset)


TITLES = st.lists(
    st.text(st.characters(codec="latin-1", exclude_categories=("Cc",)), min_size=1, max_size=20),
    min_size=1,
    max_size=6,
    unique=True,
)


@pytest.mark.slow
@budget(max_examples=60, deadline=None)
@given(titles=TITLES, literal=st.booleans())
def test_whatever_a_title_holds_it_survives_every_format(tmp_path_factory, titles, literal):
    import csv

    folder = tmp_path_factory.mktemp("raw") / "any"
    folder.mkdir()
    with open(folder / "movies.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [
                ("movieId", "title", "genres"),
                *((n, f"{title} (1990)", "Drama") for n, title in enumerate(titles)),
            ]
        )
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n"
        + "".join(f"1,{n},3.5,{n}\n" for n in range(len(titles)))
    )
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n")
    assert read_movielens(folder, MovieLens(folder="any")).items["title"].tolist() == [
        title.strip() for title in titles
    ]
    plain = [title.replace(":", ".") for title in titles] + ["é"]  # no UTF-8 before a space
    (folder / "movies.dat").write_bytes(
        "".join(f"{n}::{title} (1990)::Drama\n" for n, title in enumerate(plain)).encode("latin-1")
    )
    (folder / "ratings.dat").write_text("".join(f"1::{n}::3::{n}\n" for n in range(len(titles))))
    assert read_movielens_dat(folder, Folder(folder="any")).items["title"].tolist() == [
        title.strip() for title in plain
    ]
    write_gzip(
        folder / "reviews_Baby_5.json.gz",
        [
            json.dumps({"reviewerID": "A", "asin": f"B{n:09d}", "unixReviewTime": n})
            for n in range(len(titles))
        ],
    )
    write_gzip(
        folder / "meta_Baby.json.gz",
        [
            (repr if literal else json.dumps)({"title": title, "asin": f"B{n:09d}"})
            for n, title in enumerate(titles)
        ],
    )
    import html

    assert read_amazon(folder, BABY).items["title"].tolist() == [
        " ".join(html.unescape(title).split()) for title in titles
    ]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["films", "dat", "baby", "mmrec", "plain"])
def test_a_damaged_file_gives_data_or_one_sentence(form, request):
    """Bytes exchanged, lost or added anywhere: a reader reads, or says in one line which file is
    wrong; it never breaks."""
    folder = request.getfixturevalue(form)
    file, read = {
        "films": ("ratings.csv", lambda: read_movielens(folder, FILMS)),
        "dat": ("ratings.dat", lambda: read_movielens_dat(folder, Folder(folder="x"))),
        "baby": ("reviews_Baby_5.json.gz", lambda: read_amazon(folder, BABY)),
        "mmrec": ("baby.inter", lambda: read_mmrec(folder, Folder(folder="x"))),
        "plain": ("interactions.csv", lambda: read_plain(folder, Folder(folder="x"))),
    }[form]
    path = folder / file
    whole = gzip.decompress(path.read_bytes()) if form == "baby" else path.read_bytes()

    @budget(max_examples=80, deadline=None)
    @given(
        place=st.floats(0, 1),
        lost=st.integers(0, 5),
        added=st.binary(max_size=4)
        | st.sampled_from(
            [b'"', b"\n", b"\r", b"\t", b",", b"::", b"-1", b"\x00", b"nan", b"9" * 30]
        ),
    )
    def damage(place, lost, added):
        start = int(place * len(whole))
        damaged = whole[:start] + added + whole[start + lost :]
        path.write_bytes(gzip.compress(damaged, 1) if form == "baby" else damaged)
        try:
            raw = read()
        except DataError as error:
            assert "\n" not in str(error) and folder.name in str(error)
        else:
            assert len(raw.interactions) and raw.interactions["item"].isin(raw.items["item"]).all()
            assert (raw.interactions >= 0).all().all() and raw.interactions.dtypes.eq("int64").all()

    damage()


def test_a_bad_value_after_blank_lines_is_named_by_its_line(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n\n\n3,x\n")
    with pytest.raises(DataError, match="line 5: b 'x' is not a number"):
        read_table(path, {"a": "number", "b": "number"})
