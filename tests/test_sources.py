"""Files as published: each format in miniature, and what is wrong with one said in a sentence."""

import gzip
import json
import re
import zipfile

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from bivrec.data.domain import Domain, data_card, encode, prepare
from bivrec.data.readers.amazon import IMAGE_RECORD, read_amazon
from bivrec.data.readers.mmrec import read_mmrec
from bivrec.data.readers.movielens import read_movielens, read_movielens_dat
from bivrec.data.readers.plain import read_plain
from bivrec.data.readers.vectors import read_vectors
from bivrec.data.sequences import build_sequences, check_counts, describe, keep_core
from bivrec.errors import DataError, SettingsError
from bivrec.experiment.registry import build_model
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_models
from bivrec.settings import Amazon, Dataset, Expected, Folder, MovieLens, load_settings

SPLIT = load_settings().split
FILMS = MovieLens(folder="movielens-latest-small", first_year=1800, last_year=1999)
BABY = Amazon(folder="amazon-baby", category="Baby")
SMALL = {"studies.seeds": [0], "studies.retrained_seeds": [0], "training.num_steps": 8, "training.warmup_steps": 2, "training.evaluate_every": 4, "model.dim": 8, "model.inner_dim": 8,
         "model.max_length": 8, "model.scales": [1, 2], "training.batch_size": 8, "split.num_folds": 3, "machine.num_workers": 1}  # fmt: skip


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
    """McAuley's three files, the metadata as Python literals, with an item that nobody reviewed and one without an image."""
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


def test_movielens_csv(films):
    raw = read_movielens(films, FILMS)
    assert (
        raw.items["title"].iloc[0] == "Film, The 1" and raw.items["year"].max() <= FILMS.last_year
    )
    assert raw.tags["tag"].tolist() == ['dark, "funny"']
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


def test_amazon_as_published(baby):
    raw = read_amazon(baby, BABY)
    assert len(raw.interactions) == 72 and raw.items["id"].tolist() == [
        f"B{n:09d}" for n in range(8)
    ]
    assert raw.items[["title", "genres", "description"]].iloc[1].tolist() == [
        "Rattle & B000000001",
        "Toys, Rattles, Gifts",
        "It's",
    ]
    assert raw.items["title"].iloc[7] == "" and (raw.items["item"] >= 0).all()
    dataset = Dataset(source="amazon", amazon=BABY, settings={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIVREC_DATA", str(baby.parent))
        values, mask = read_vectors(dataset, "image", ["B000000003", "B000000000", "B000000007"])
        assert (
            mask.tolist() == [True, False, True]
            and values[:, 0].tolist() == [5, 0, 1]
            and values.shape == (3, 4096)
        )
        content = (baby / "image_features_Baby.b").read_bytes()
        for damaged, told in (
            (content[:-1], "no multiple of 16,394: it is cut short"),
            (content + content[-16394:], "has B000000001 twice"),
            (
                content[:-4] + np.float32("nan").tobytes(),
                "the vector of item B000000001 has numbers that are not finite",
            ),
        ):
            (baby / "image_features_Baby.b").write_bytes(damaged)
            with pytest.raises(DataError, match=told):
                read_vectors(dataset, "image", ["B000000001"])


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        (
            "reviews",
            '{"reviewerID": "A1", "asin": "B000000001"}',
            "line 73 lacks a reviewerID, an asin or a unixReviewTime",
        ),
        (
            "reviews",
            '{"reviewerID": "A1", "asin": "B000000001", "unixReviewTime": "soon"}',
            "line 73 lacks",
        ),
        (
            "reviews",
            '{"reviewerID": "A1", "asin": "B000000001", "unixReviewTime": 1' + "0" * 30 + "}",
            "line 73 lacks",
        ),
        ("reviews", '{"reviewerID": "A1", ', "line 73 is neither JSON nor a Python literal"),
        ("reviews", "[1, 2]", "line 73 is no record"),
        (
            "reviews",
            "__import__('os').system('true')",
            "line 73 is neither JSON nor a Python literal",
        ),
        ("reviews", "(" * 5000, "line 73 is neither JSON nor a Python literal"),
        (
            "reviews",
            '{"reviewerID": "' + "A" * (1 << 20) + '"}',
            "line 73 is longer than 1,048,576 bytes",
        ),
        ("meta", "{'title': 'none'}", "line 9 has no asin"),
        ("meta", "{'asin': 'B000000001', 'title': ", "line 9 is neither JSON nor a Python literal"),
        (
            "meta",
            "{'asin': 'B000000001', 'title': 'Other'}",
            "line 9 lists B000000001 again, otherwise than before",
        ),
    ],
)
def test_amazon_lines_that_cannot_be_used(baby, file, line, told):
    path = next(baby.glob(f"{file}_*"))
    write_gzip(path, [*gzip.decompress(path.read_bytes()).decode().splitlines(), line])
    with pytest.raises(DataError, match=re.escape(told)) as caught:
        read_amazon(baby, BABY)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_gzip_is_said(baby):
    path = baby / "reviews_Baby_5.json.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        DataError, match="reviews_Baby_5.json.gz is damaged or cut short after line"
    ):
        read_amazon(baby, BABY)
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError, match="is damaged or cut short after line 0"):
        read_amazon(baby, BABY)
    path.unlink()
    with pytest.raises(DataError, match="raw/amazon-baby/reviews_Baby_5.json.gz is missing"):
        read_amazon(baby, BABY)


def test_mmrec_and_recbole(mmrec, monkeypatch):
    raw = read_mmrec(mmrec, Folder(folder=mmrec.name))
    assert raw.interactions.iloc[1].tolist() == [0, 1, 1400000001] and sorted(
        raw.items["item"]
    ) == list(range(7))
    dataset = Dataset(source="mmrec", mmrec=Folder(folder=mmrec.name), settings={})
    monkeypatch.setenv("BIVREC_DATA", str(mmrec.parent))
    values, mask = read_vectors(dataset, "image", ["3", "0"])
    assert values.tolist() == [[12, 13, 14, 15], [0, 1, 2, 3]] and mask.all()
    for array, told in (
        (
            np.ones((6, 4), "float32"),
            "has 6 rows, but the items of the .inter file are numbered 0 to 6",
        ),
        (
            np.full((7, 4), np.nan, "float32"),
            "the vector of item 3 has numbers that are not finite",
        ),
        (np.ones(7, "float32"), "not rows of decimal numbers"),
        (np.array([{}] * 7), "cannot be read as an array of numbers"),
    ):
        np.save(mmrec / "image_feat.npy", array, allow_pickle=True)
        with pytest.raises(DataError, match=told):
            read_vectors(dataset, "image", ["3", "0"])
    text = (mmrec / "baby.inter").read_text()
    for old, new, told in (
        ("0\t1\t5.0", "0\tone\t5.0", "baby.inter, line 3: itemID 'one' is not a whole number"),
        ("itemID", "thing", "none of which is the item"),
        ("0\t1\t5.0\t1400000001\t0", "0\t1\t5.0", "baby.inter, line 3: 3 fields, not 5"),
        (
            "0\t1\t5.0\t1400000001\t0",
            "0\t1\t5.0\t1400000001\t0\t7",
            "baby.inter, line 3: 6 fields, not 5",
        ),
    ):
        (mmrec / "baby.inter").write_text(text.replace(old, new, 1))
        with pytest.raises(DataError, match=re.escape(told)):
            read_mmrec(mmrec, Folder(folder=mmrec.name))
    (mmrec / "baby.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\nu1\ti1\t88.0\nu1\ti2\t89\n\n"
    )
    raw = read_mmrec(mmrec, Folder(folder=mmrec.name))
    assert raw.items["id"].tolist() == ["i1", "i2"] and raw.interactions["time"].tolist() == [
        88,
        89,
    ]
    (mmrec / "other.inter").write_text(text)
    with pytest.raises(DataError, match=re.escape("raw/baby-mmrec has 2 files *.inter")):
        read_mmrec(mmrec, Folder(folder=mmrec.name))


def test_plain(plain, monkeypatch):
    raw = read_plain(plain, Folder(folder="mine"))
    assert (
        raw.items["title"].tolist() == [f"Thing {n}" for n in range(6)]
        and len(raw.interactions) == 42
    )
    pl.read_csv(plain / "interactions.csv").write_parquet(plain / "interactions.parquet")
    assert read_plain(plain, Folder(folder="mine")).interactions.equals(raw.interactions)
    (plain / "interactions.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(
        DataError, match=re.escape("interactions.parquet cannot be read as Parquet")
    ):
        read_plain(plain, Folder(folder="mine"))
    (plain / "interactions.parquet").unlink()
    dataset = Dataset(source="plain", plain=Folder(folder="mine"), settings={})
    monkeypatch.setenv("BIVREC_DATA", str(plain.parent))
    values, mask = read_vectors(dataset, "text", ["Ü0", "Ü1", "Ü4"])
    assert mask.tolist() == [False, True, True] and values.tolist() == [
        [0, 0],
        [6, 7],
        [0, 1],
    ]  # by id, not by place
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


def test_counts_are_held_against_those_known(dat):
    raw = read_movielens_dat(dat, Folder(folder="ml-1m"))
    sequences = build_sequences(raw, SPLIT, "ml-1m")
    expected = {"of": "kept", "users": 7, "items": 8, "interactions": 56, "strict": True}
    make = lambda **changes: Expected(**expected | changes)  # noqa: E731
    assert "are those expected" in check_counts(make(), raw.interactions, sequences, "ml-1m")
    with pytest.raises(
        DataError,
        match=re.escape(
            "ml-1m has 8 items, not 9 (kept): another release, or a file cut short; if you meant it"
        ),
    ):
        check_counts(make(items=9), raw.interactions, sequences, "ml-1m")
    assert "8 items, not 9" in check_counts(
        make(items=9, strict=False), raw.interactions, sequences, "ml-1m"
    )
    assert check_counts(
        make(of="published", items=9, strict=False), raw.interactions[:8], sequences, "ml-1m"
    ).startswith("ml-1m has 1 users, not 7, 8 items, not 9, 8 inter")


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    """A project whose params.yaml has further datasets, and whose raw/ is the fixtures'."""
    (tmp_path / "raw").mkdir(exist_ok=True)

    def add(name: str, source: str, folder: str, **changes) -> Domain:
        entry = {"source": source, source: {"folder": folder}, "settings": SMALL | changes}
        text = (root / "params.yaml").read_text()
        (tmp_path / "params.yaml").write_text(
            text.replace(
                "datasets:\n  planted:", f"datasets:\n  {name}: {json.dumps(entry)}\n  planted:", 1
            )
        )
        monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
        monkeypatch.delenv("BIVREC_DATA", raising=False)
        return Domain(name)

    return add


def keep_stages(domain: Domain, folder, monkeypatch) -> None:
    for stage, work in (("01_data_prep", prepare), ("02_feature_encoding", encode)):
        monkeypatch.setenv("BIVREC_BUILD", str(folder / "build" / stage / domain.name))
        work(domain)
    monkeypatch.delenv("BIVREC_BUILD")


def test_ids_and_times_alone_run_the_id_view_and_what_is_left_out_is_said(
    mmrec, project, tmp_path, monkeypatch
):
    (mmrec / "image_feat.npy").unlink()
    domain = project("mine", "mmrec", mmrec.name, **{"split.min_interactions": 3})
    keep_stages(domain, tmp_path, monkeypatch)
    assert (
        domain.left_out
        == "text, image, the multimodal view, and every model and ablation that cannot do without"
    )
    assert domain.settings.model.views == ("id",) and encode(domain) == {}
    names = domain.settings.studies.models
    assert set(names) == {"popularity", "itemknn", "itemknn-recency", "sasrec", "bivrec", "pure-id"}
    with pytest.raises(
        SettingsError,
        match="sasrec-fused reads features that mine lacks; 03_training leaves it out",
    ):
        domain.variant("sasrec-fused")
    ranks = rank_models(domain, train_models(domain, names))
    assert (
        set(ranks["model"]) == set(names)
        and set(ranks["view"]) == {"id"}
        and ranks["rank"].between(1, 7).all()
    )
    card = data_card(domain).set_index("what")["told"]
    assert (
        card["features"] == "none"
        and len(card["sha256 of baby.inter"]) == 64
        and card["published"] == "8 users, 7 items, 48 interactions"
    )


def test_one_modality_alone(mmrec, project, tmp_path, monkeypatch):
    domain = project(
        "mine", "mmrec", mmrec.name, **{"split.min_interactions": 3, "features.num_components": 4}
    )
    keep_stages(domain, tmp_path, monkeypatch)
    assert (
        domain.left_out == "text, and every model and ablation that cannot do without"
        and domain.settings.features.modality == "image"
    )
    assert (
        "bivrec" in domain.settings.studies.models
        and "text-only" not in domain.settings.studies.ablations
    )
    assert list(domain.features(0)) == ["image"] and build_model(domain, "bivrec", 0).items[
        "multimodal"
    ].image_values.shape == (7, 4)


def test_amazon_through_the_chain(baby, project, tmp_path, monkeypatch):
    """Text encoded, images published and matched by id, the item without one masked; leading zeros of an id survive."""
    domain = project(
        "mine",
        "amazon",
        baby.name,
        **{
            "split.min_interactions": 3,
            "features.text_encoder": "hashing",
            "features.image_encoder": "published",
        },
    )
    params = tmp_path / "params.yaml"
    params.write_text(
        params.read_text().replace(
            f'"folder": "{baby.name}"', f'"folder": "{baby.name}", "category": "Baby"'
        )
    )
    keep_stages(domain, tmp_path, monkeypatch)
    image, ids = domain.item_features("image", 0), domain.sequences.catalogue["id"].tolist()
    assert [float(image.values[ids.index(f"B{n:09d}"), 0]) for n in range(8)] == [
        0,
        7,
        6,
        5,
        4,
        3,
        2,
        1,
    ]
    assert (
        image.mask[ids.index("B000000000")] == 0
        and image.mask.sum() == 7
        and image.source == "published: 7 items, 1 missing"
    )
    text = domain.item_features("text", 0)
    assert not text.mask[ids.index("B000000007")] and text.mask.sum() == 7  # no metadata, no text
    assert set(rank_models(domain, train_models(domain, ["bivrec"]))["view"]) == {
        "id",
        "multimodal",
        "both",
    }


def test_a_folder_is_a_name_not_a_path(project):
    for folder in ("../elsewhere", "/etc", "a/b", ".hidden", ""):
        with pytest.raises(SettingsError, match="mmrec.folder"):
            project("mine", "mmrec", folder).settings  # noqa: B018


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
PAIRS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 2**52)), min_size=1, max_size=60
)


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


@budget(max_examples=100, deadline=None)
@given(rows=PAIRS, least=st.integers(1, 4))
def test_the_core_is_the_largest_that_obeys(rows, least):
    """Everyone left has enough, and what was dropped cannot be put back: the same as by hand, one at a time."""
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
    from dataclasses import replace

    import pandas as pd

    from bivrec.data.readers.common import NO_TAGS
    from bivrec.data.types import Raw

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


def test_an_archive_never_leads_outside(tmp_path):
    from bivrec.data.download import unpack

    for name in (
        "../evil.csv",
        "/etc/evil.csv",
        "ml/../../evil.csv",
        "..\\evil.csv",
        "C:\\evil.csv",
    ):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr("ml/good.csv", "x")
            file.writestr(name, "evil")
        with pytest.raises(DataError, match="leads outside its folder; nothing was unpacked"):
            unpack(tmp_path / "a.zip", tmp_path / "into")
    link = zipfile.ZipInfo("ml/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="leads outside"):
        unpack(tmp_path / "a.zip", tmp_path / "into")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("ml/big.csv", b"0" * 100_000)
    with pytest.raises(DataError, match="would fill more than 1,000 bytes"):
        unpack(tmp_path / "a.zip", tmp_path / "into", limit=1000)
    assert not (tmp_path / "into").exists()
    unpack(tmp_path / "a.zip", tmp_path / "into")
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["big.csv"]
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:50])
    with pytest.raises(DataError, match="a.zip cannot be unpacked"):
        unpack(tmp_path / "a.zip", tmp_path / "into")


TITLES = st.lists(
    st.text(st.characters(codec="latin-1", exclude_categories=("Cc",)), min_size=1, max_size=20),
    min_size=1,
    max_size=6,
    unique=True,
)


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
    plain = [title.replace(":", ".") for title in titles]
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


@pytest.mark.parametrize("form", ["films", "dat", "baby", "mmrec", "plain"])
def test_a_damaged_file_gives_data_or_one_sentence(form, request):
    """Bytes exchanged, lost or added anywhere: a reader reads, or says in one line which file is wrong; it never breaks."""
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
