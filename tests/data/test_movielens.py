"""MovieLens' CSV and .dat files."""

import re

import pytest

from bivrec.data.readers.movielens import read_movielens, read_movielens_dat
from bivrec.errors import DataError
from bivrec.settings import Folder, MovieLens

FILMS = MovieLens(folder="movielens-latest-small", first_year=1800, last_year=1999)


def test_movielens_csv(films):
    raw = read_movielens(films, FILMS)
    assert (
        raw.items["title"].iloc[0] == "Film, The 1" and raw.items["year"].max() <= FILMS.last_year
    )
    assert raw.tags["tag"].tolist() == ['dark, "funny"'] and raw.tags["time"].tolist() == [5]
    assert (
        set(raw.interactions["item"]) == set(raw.items["item"])
        and raw.interactions["time"].iloc[0] == 1010
    )
    whole = read_movielens(films, MovieLens(folder=FILMS.folder))
    assert (
        whole.items["year"].tolist()[-1] == 0
        and whole.items["title"].tolist()[-1] == "Without a Year"
        and len(whole.interactions) == 104
    )


def test_years_without_a_film_are_named(films, refuses):
    years = MovieLens(folder=FILMS.folder, first_year=1800, last_year=1900)
    assert refuses(lambda: read_movielens(films, years)) == (
        "movielens-latest-small/movies.csv has no film of the years 1800 to 1900; change "
        "movielens.first_year or movielens.last_year in params.yaml"
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("ratings.csv", "1,2,4.0,1020", "1,2,4.0", "ratings.csv, line 3: 3 fields, not 4"),
        (
            "ratings.csv",
            "1,2,4.0,1020",
            "1,2,4.0,",
            "ratings.csv, line 3: timestamp '' is not a whole number",
        ),
        ("ratings.csv", "1,2,4.0,1020", "1,2,4.0,1020,7", "ratings.csv, line 3: 5 fields, not 4"),
        (
            "ratings.csv",
            "1,2,4.0,1020",
            "1,x,4.0,1020",
            "ratings.csv, line 3: movieId 'x' is not a whole number",
        ),
        (
            "ratings.csv",
            "1,2,4.0,1020",
            "1,2,nan,1020",
            "ratings.csv, line 3: rating 'nan' is not a number",
        ),
        (
            "ratings.csv",
            "1,2,4.0,1020",
            "1,2,inf,1020",
            "ratings.csv, line 3: rating 'inf' is not a number",
        ),
        ("ratings.csv", "1,2,4.0,1020", "1,2,4.0,-5", "ratings.csv, line 3: timestamp '-5'"),
        (
            "ratings.csv",
            "1,2,4.0,1020",
            "1,2,4.0,99999999999999999999",
            "ratings.csv, line 3: timestamp '9999",
        ),
        ("ratings.csv", "1,2,4.0,1020", "1.5,2,4.0,1020", "ratings.csv, line 3: userId '1.5'"),
        ("ratings.csv", "1,2,4.0,1020", "1,999,4.0,1020", "line 3: film 999 is not in movies.csv"),
        (
            "ratings.csv",
            "userId,",
            "user,",
            "has the columns user,movieId,rating,timestamp, not userId",
        ),
        (
            "ratings.csv",
            "userId,",
            '"userId,',
            "ratings.csv has the columns userId,movieId,rating,timestamp 1,1,4.0",
        ),
        ("movies.csv", "2,", "1,", "lists film 1 twice"),
        (
            "ratings.csv",
            "1,2,4.0,1020",
            "1,2,4.0,1500000000000000000",
            "line 3: timestamp '1500000000000000000' is larger than 2^53; if it is in nanoseconds, "
            "divide it by 10^9, else fix the line or restore it",
        ),
        (
            "movies.csv",
            '"Film, The 2 (1992)"',
            '12" x (1990)',
            'movies.csv, line 3: a quote inside a field; write it as "" and quote the field',
        ),
        ("movies.csv", ",Comedy|Drama\n3,", "\n3,", "movies.csv, line 3: 2 fields, not 3"),
        ("tags.csv", '"dark', '"da\nrk', "tags.csv"),
    ],
)
def test_a_malformed_line_is_named(films, file, old, new, told):
    path = films / file
    path.write_text(
        path.read_text().replace(old, new, 1) + ('"' if "\n" in new and file == "tags.csv" else "")
    )
    with pytest.raises(DataError, match=re.escape(told)) as caught:
        read_movielens(films, FILMS)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_binary_files(films):
    path = films / "ratings.csv"
    path.write_bytes(b"userId,movieId\n1,\xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_movielens(films, FILMS)
    path.write_text("")
    with pytest.raises(DataError, match="ratings.csv is empty, not a table"):
        read_movielens(films, FILMS)
    path.unlink()
    with pytest.raises(
        DataError, match=re.escape("data/movielens-latest-small/ratings.csv is missing")
    ):
        read_movielens(films, FILMS)


def test_movielens_dat(dat):
    raw = read_movielens_dat(dat, Folder(folder="ml-1m"))
    assert raw.items[["title", "year", "genres"]].iloc[:2].to_numpy().tolist() == [
        ["Misérables, Les", 1995, "Drama, War"],
        ["Star Wars: Episode IV", 1977, "Drama, War"],
    ]
    assert raw.interactions.iloc[8].tolist() == [2, 1, 978300009] and len(raw.interactions) == 56
    for old, new, told in (
        ("1::2::5::978300015", "1::2::5", "ratings.dat, line 2: 3 fields, not 4"),
        ("2::1::5", "2::1::five", "ratings.dat, line 9: rating 'five'"),
    ):
        whole = (dat / "ratings.dat").read_text()
        (dat / "ratings.dat").write_text(whole.replace(old, new, 1))
        with pytest.raises(DataError, match=re.escape(told)):
            read_movielens_dat(dat, Folder(folder="ml-1m"))
        (dat / "ratings.dat").write_text(whole)


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("ratings.dat", "::", ",", "ratings.dat, line 1: 1 fields, not 4 separated by ::"),
        ("movies.dat", "Film 3", "Film::3", "movies.dat, line 3: 4 fields, not 3 separated by ::"),
    ],
)
def test_dat_lines_with_other_fields_are_named(dat, file, old, new, told):
    text = (dat / file).read_text("latin-1").replace(old, new)
    (dat / file).write_text(text, "latin-1")
    with pytest.raises(DataError, match=re.escape(told)):
        read_movielens_dat(dat, Folder(folder="ml-1m"))


def test_dat_titles_in_utf_8_and_with_a_tab(dat):
    path = dat / "movies.dat"
    path.write_text(path.read_text("latin-1").replace("Film 3", "Film\t3"), "utf-8")
    titles = read_movielens_dat(dat, Folder(folder="ml-1m")).items["title"].tolist()
    assert titles[0] == "Misérables, Les" and titles[2] == "Film\t3"


def test_dat_files_in_utf_16_are_named(dat):
    path = dat / "movies.dat"
    path.write_text(path.read_text("latin-1"), "utf-16")
    with pytest.raises(DataError, match="movies.dat is UTF-16 text, not UTF-8; save it as UTF-8"):
        read_movielens_dat(dat, Folder(folder="ml-1m"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_title_of_two_lines(films, end):
    path = films / "movies.csv"
    text = path.read_text().replace("Film, The 1 (1991)", f"Film{end}The 1 (1991)")
    path.write_text(text, newline="")
    first = read_movielens(films, FILMS).items.iloc[0]
    assert (first["title"], first["year"]) == (f"Film{end}The 1", 1991)


@pytest.mark.parametrize(
    ("years", "title"),
    [
        ("(1999)", "Film, The 1"),
        ("(1999-)", "Film, The 1"),
        ("(1999- )", "Film, The 1"),
        ("(1999-2003)", "Film, The 1"),
        ("(1999–2003)", "Film, The 1"),
        ("(1999 - 2003)", "Film, The 1"),
        ("(2001) (1999-2003) ", "Film, The 1 (2001)"),
    ],
)
def test_the_year_of_a_series_is_its_first(films, years, title):
    path = films / "movies.csv"
    path.write_text(path.read_text().replace("Film, The 1 (1991)", f"Film, The 1 {years}"))
    first = read_movielens(films, FILMS).items.iloc[0]
    assert (first["title"], first["year"]) == (title, 1999)


def test_dat_files_with_a_byte_order_mark(dat):
    expected = read_movielens_dat(dat, Folder(folder="ml-1m"))
    for path in dat.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    read = read_movielens_dat(dat, Folder(folder="ml-1m"))
    assert read.interactions.equals(expected.interactions) and read.items.equals(expected.items)
