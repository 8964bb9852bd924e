"""Each published format in miniature."""

import gzip
import json

import numpy as np
import pytest

from bivrec.data.readers.amazon import IMAGE_RECORD
from bivrec.settings import Amazon, MovieLens

FILMS = MovieLens(folder="movielens-latest-small", first_year=1800, last_year=1999)


BABY = Amazon(folder="amazon-baby", category="Baby")


def write_gzip(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


@pytest.fixture
def films(tmp_path):
    """A MovieLens release as CSV."""
    folder = tmp_path / "data" / FILMS.folder
    folder.mkdir(parents=True)
    rows = [(n, f'"Film, The {n} ({1990 + n % 20})"', "Comedy|Drama") for n in range(1, 13)] + [
        (13, "Without a Year", "(no genres listed)")
    ]
    (folder / "movies.csv").write_text(
        "movieId,title,genres\n" + "".join(f"{i},{t},{g}\n" for i, t, g in rows)
    )
    rows = [(user, film, 4.0, 1000 + 10 * film) for user in range(1, 9) for film in range(1, 14)]
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n" + "".join(f"{u},{f},{r},{t}\n" for u, f, r, t in rows)
    )
    (folder / "tags.csv").write_text('userId,movieId,tag,timestamp\n1,1,"dark, ""funny""",5\n')
    return folder


@pytest.fixture
def dat(tmp_path):
    """MovieLens-1M's files."""
    folder = tmp_path / "raw" / "ml-1m"
    folder.mkdir(parents=True)
    (folder / "ratings.dat").write_text(
        "".join(f"{u}::{f}::5::{978300000 + 7 * f + u}\n" for u in range(1, 8) for f in range(1, 9))
    )
    titles = [
        "Misérables, Les (1995)",
        "Star Wars: Episode IV (1977)",
        *(f"Film {n} (1990)" for n in range(3, 9)),
    ]
    (folder / "movies.dat").write_bytes(
        "".join(f"{n}::{title}::Drama|War\n" for n, title in enumerate(titles, 1)).encode("latin-1")
    )
    return folder


@pytest.fixture
def baby(tmp_path):
    """McAuley's three files, the metadata as Python literals, with an item that nobody reviewed and
    one without an image."""
    folder = tmp_path / "raw" / BABY.folder
    asins = [f"B{n:09d}" for n in range(8)]
    reviews = [
        {
            "reviewerID": f"A{u:03d}",
            "asin": asin,
            "helpful": [0, 0],
            "reviewText": 'it\'s "ok"',
            "overall": 5.0,
            "unixReviewTime": 1400000000 + 86400 * n,
        }
        for u in range(9)
        for n, asin in enumerate(asins)
    ]
    write_gzip(folder / "reviews_Baby_5.json.gz", map(json.dumps, reviews))
    meta = [
        {
            "asin": a,
            "title": f"Rattle &amp; {a}",
            "categories": [["Baby", "Toys", "Rattles"], ["Baby", "Gifts"]],
            "brand": "It's",
            "price": 1.5,
        }
        for n, a in enumerate(asins[:7])
    ]
    write_gzip(
        folder / "meta_Baby.json.gz",
        [repr(row) for row in (*meta, {"asin": "B999999999", "title": "unseen"})],
    )
    rows = np.zeros(8, IMAGE_RECORD)
    rows["asin"], rows["values"] = (
        [a.encode() for a in ["B999999999", *asins[:0:-1]]],
        np.arange(8)[:, None],
    )
    rows.tofile(folder / "image_features_Baby.b")
    return folder


@pytest.fixture
def mmrec(tmp_path):
    """MMRec's folder."""
    folder = tmp_path / "raw" / "baby-mmrec"
    folder.mkdir(parents=True)
    rows = [(u, (u + n) % 7, 5.0, 1400000000 + n, 0) for u in range(8) for n in range(6)]
    (folder / "baby.inter").write_text(
        "userID\titemID\trating\ttimestamp\tx_label\n"
        + "".join("\t".join(map(str, row)) + "\n" for row in rows)
    )
    np.save(folder / "image_feat.npy", np.arange(28, dtype="float32").reshape(7, 4))
    return folder


@pytest.fixture
def plain(tmp_path):
    """The form for data of one's own."""
    folder = tmp_path / "raw" / "mine"
    folder.mkdir(parents=True)
    (folder / "interactions.csv").write_text(
        "user,item,time\n" + "".join(f"anna-{u},Ü{n},{n}\n" for u in range(7) for n in range(6))
    )
    (folder / "items.csv").write_text(
        "item,title\n" + "".join(f"Ü{n},Thing {n}\n" for n in range(6))
    )
    np.save(folder / "text.npy", np.arange(10, dtype="float64").reshape(5, 2))
    (folder / "ids.csv").write_text("item\nÜ4\nÜ3\nÜ2\nÜ1\nunknown\n")
    return folder
