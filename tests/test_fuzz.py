"""Every reader gets damaged input: it reads it, or refuses it with one of our errors in one line.
FUZZ_INPUTS sets how many inputs each reader gets; `make trust` gives thousands and records
counts."""

import gzip
import io
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from bivrec.data.domain import Domain
from bivrec.data.download import checksums, unpack
from bivrec.data.encoders import open_image
from bivrec.data.readers.amazon import IMAGE_RECORD, read_amazon
from bivrec.data.readers.mmrec import read_mmrec
from bivrec.data.readers.movielens import read_movielens, read_movielens_dat
from bivrec.data.readers.plain import read_plain
from bivrec.data.readers.vectors import read_vectors
from bivrec.errors import DataError, NotebookError, SettingsError
from bivrec.experiment.checkpoints import load_checkpoint, save_checkpoint
from bivrec.experiment.training import train_models
from bivrec.outputs import read_output
from bivrec.pipeline.commands import typed
from bivrec.pipeline.notebooks import read_notebook, strip
from bivrec.settings import Amazon, Dataset, Folder, MovieLens, load_settings

INPUTS = int(os.environ.get("FUZZ_INPUTS", 25))
OWN = (SettingsError, DataError, NotebookError)
PIECES = [
    b'"', b"'", b"\n", b"\r", b"\t", b",", b"::", b":", b"-", b"[", b"]", b"{", b"}", b"&a ", b"*a",
    b"!!python/object:os.system", b"? ", b"null", b"nan", b"-inf", b"1e999", b"-1", b"9" * 30,
    b"9" * 5000, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"../", b"(" * 200,
    b"{[" * 600, b"0x", b"\\u0000",
]  # fmt: skip
EDIT = st.tuples(
    st.sampled_from(["put", "lose", "flip", "copy", "swap", "end", "number"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.binary(max_size=6) | st.sampled_from(PIECES),
)


def damaged(whole: bytes, edits: list) -> bytes:
    """The bytes after some edits: pieces inserted, lost, flipped, copied, swapped or
    overwritten."""
    content = bytearray(whole)
    for edit, at, to, piece in edits:
        start, end = sorted((int(at * len(content)), int(to * len(content))))
        if edit == "put":
            content[start:start] = piece
        elif edit == "lose":
            del content[start : min(end, start + 64)]
        elif edit == "flip" and content:
            content[min(start, len(content) - 1)] ^= piece[0] if piece and piece[0] else 1
        elif edit == "copy":
            content[end:end] = content[start : start + 200]
        elif edit == "swap":
            content[start : start + 20], content[end : end + 20] = (
                content[end : end + 20],
                content[start : start + 20],
            )
        elif edit == "end":
            del content[end:]
        else:
            content[start : start + len(piece)] = piece
    return bytes(content)


def writing(path: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
    """Writes the content to a file, then reads it."""
    return lambda content: (path.write_bytes(content), read())


def feed(reader: str, wholes: list[bytes], read: Callable[[bytes], object]) -> None:
    """Gives a reader damaged files and random bytes."""
    counted = {"inputs": 0, "read": 0, "refused": 0}

    @budget(
        max_examples=INPUTS,
        deadline=None,
        database=None,
        derandomize=INPUTS < 100,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.builds(damaged, st.sampled_from(wholes), st.lists(EDIT, min_size=1, max_size=6))
        | st.binary(max_size=200)
    )
    def fed(content: bytes) -> None:
        counted["inputs"] += 1
        try:
            read(content)
            counted["read"] += 1
        except OWN as error:
            assert "\n" not in str(error) and len(str(error)) < 700
            counted["refused"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow and nbformat warn of what they then read or refuse
        fed()
    assert counted["refused"]
    if record := os.environ.get("FUZZ_RECORD"):
        with open(record, "a") as file:
            file.write(json.dumps({"reader": reader, **counted}) + "\n")


def table(header: str, rows: list[tuple], separator: str = ",") -> bytes:
    return (header + "".join(separator.join(map(str, row)) + "\n" for row in rows)).encode()


PAIRS = [(user, item) for user in range(1, 6) for item in range(1, 7)]
RATINGS = table("userId,movieId,rating,timestamp\n", [(u, i, 4.0, 100 * u + i) for u, i in PAIRS])
FILMS = table(
    "movieId,title,genres\n",
    [(i, f'"Film, The {i} ({1990 + i})"', "Comedy|Drama") for i in range(1, 7)],
)
TAGS = table("userId,movieId,tag,timestamp\n", [(1, 2, '"dark, ""funny"""', 5), (2, 3, "été", 6)])
INTER = table(
    "userID\titemID\trating\ttimestamp\n", [(u, i, 5.0, 10 * u + i) for u, i in PAIRS], "\t"
)
REVIEWS = "".join(
    json.dumps({"reviewerID": f"A{u}", "asin": f"B{i}", "unixReviewTime": u + i}) + "\n"
    for u, i in PAIRS
).encode()
META = "".join(
    repr({"asin": f"B{i}", "title": "It's", "categories": [["Baby", "Toys"]], "price": 1.5}) + "\n"
    for i in range(1, 7)
).encode()


def readable(raw) -> None:
    assert raw.interactions["item"].isin(raw.items["item"]).all()
    assert (raw.interactions >= 0).all().all() and (
        raw.interactions.empty or raw.interactions.dtypes.eq("int64").all()
    )


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BIVREC_DATA", str(tmp_path))
    (tmp_path / "any").mkdir()
    return tmp_path / "any"


@pytest.mark.parametrize("name", ["ratings.csv", "movies.csv", "tags.csv"])
def test_movielens_csv(folder, name):
    files = {"ratings.csv": RATINGS, "movies.csv": FILMS, "tags.csv": TAGS}
    for other, content in files.items():
        (folder / other).write_bytes(content)
    feed(
        f"MovieLens {name}",
        [files[name]],
        writing(folder / name, lambda: readable(read_movielens(folder, MovieLens(folder="any")))),
    )


@pytest.mark.parametrize("name", ["ratings.dat", "movies.dat"])
def test_movielens_dat(folder, name):
    files = {
        "ratings.dat": table("", [(u, i, 4, u + i) for u, i in PAIRS], "::"),
        "movies.dat": table("", [(i, f"Film {i} (1990)", "War") for i in range(1, 7)], "::"),
    }
    for other, content in files.items():
        (folder / other).write_bytes(content)
    feed(
        f"MovieLens {name}",
        [files[name]],
        writing(folder / name, lambda: readable(read_movielens_dat(folder, Folder(folder="any")))),
    )


@pytest.mark.parametrize(
    ("part", "packed"), [("reviews", True), ("meta", True), ("reviews", False)]
)
def test_amazon(folder, part, packed):
    """Damage to the lines, as JSON and as Python literals, and to the packed file itself."""
    files = {"reviews": "reviews_Baby_5.json.gz", "meta": "meta_Baby.json.gz"}
    for other, content in (("reviews", REVIEWS), ("meta", META)):
        (folder / files[other]).write_bytes(gzip.compress(content))
    name = files[part]

    def read(content: bytes) -> None:
        (folder / name).write_bytes(gzip.compress(content, 1) if packed else content)
        readable(read_amazon(folder, Amazon(folder="any", category="Baby")))

    literals = [repr(json.loads(line)).encode() + b"\n" for line in REVIEWS.splitlines()]
    wholes = [META] if part == "meta" else [REVIEWS, b"".join(literals)]
    if packed:
        feed(f"Amazon {name}", wholes, read)
    else:
        feed(f"Amazon {name}, packed", [gzip.compress(REVIEWS)], read)


def test_amazon_image_vectors(folder):
    rows = np.zeros(3, IMAGE_RECORD)
    rows["asin"] = [b"B1", b"B2", b"B3"]
    dataset = Dataset(source="amazon", amazon=Amazon(folder="any", category="Baby"), settings={})

    def read(content: bytes) -> None:
        (folder / "image_features_Baby.b").write_bytes(content)
        assert np.isfinite(read_vectors(dataset, "image", ["B1", "B2", "B4"])[0]).all()

    feed("Amazon image_features.b", [rows.tobytes()], read)


def test_mmrec_inter(folder):
    typed_header = INTER.replace(
        b"userID\titemID\trating\ttimestamp",
        b"user_id:token\titem_id:token\trating:float\ttimestamp:float",
    )
    feed(
        "MMRec .inter",
        [INTER, typed_header],
        writing(folder / "a.inter", lambda: readable(read_mmrec(folder, Folder(folder="any")))),
    )


def test_mmrec_vectors(folder):
    (folder / "a.inter").write_bytes(INTER)
    saved = io.BytesIO()
    np.save(saved, np.ones((7, 3), "float32"))
    dataset = Dataset(source="mmrec", mmrec=Folder(folder="any"), settings={})

    def read(content: bytes) -> None:
        (folder / "image_feat.npy").write_bytes(content)
        values, mask = read_vectors(dataset, "image", [str(item) for item in range(1, 7)])
        assert values.dtype == "float32" and np.isfinite(values).all() and mask.shape == (6,)

    feed("MMRec .npy", [saved.getvalue()], read)


@pytest.mark.parametrize(
    "name", ["interactions.csv", "items.csv", "interactions.parquet", "items.parquet"]
)
def test_plain(folder, name):
    tables = {
        "interactions": pl.DataFrame(PAIRS, ["user", "item"], orient="row").with_columns(
            time=pl.col("user") * 7
        ),
        "items": pl.DataFrame({"item": range(1, 7), "title": "Été"}),
    }
    wholes = {}
    for part, frame in tables.items():
        for kind, write in (("csv", frame.write_csv), ("parquet", frame.write_parquet)):
            write(content := io.BytesIO())
            wholes[f"{part}.{kind}"] = content.getvalue()
            if kind == name.split(".")[1]:
                (folder / f"{part}.{kind}").write_bytes(content.getvalue())
    feed(
        f"plain {name}",
        [wholes[name]],
        writing(folder / name, lambda: readable(read_plain(folder, Folder(folder="any")))),
    )


def test_ids_of_vectors(folder):
    np.save(folder / "image.npy", np.ones((6, 3), "float32"))
    dataset = Dataset(source="plain", plain=Folder(folder="any"), settings={})
    whole = table("item\n", [(item,) for item in range(1, 7)])
    read = writing(folder / "ids.csv", lambda: read_vectors(dataset, "image", ["1", "2"]))
    feed("plain ids.csv", [whole], read)


def test_checksums(folder):
    (folder / "interactions.csv").write_bytes(b"user,item,time\n")
    dataset = Dataset(source="plain", plain=Folder(folder="any"), settings={})
    checksums("any", dataset)
    whole = (folder / "checksums.json").read_bytes()
    read = writing(folder / "checksums.json", lambda: checksums("any", dataset))
    feed("checksums.json", [whole], read)


def test_settings(root, tmp_path):
    path, whole = tmp_path / "params.yaml", (root / "params.yaml").read_bytes()
    small = b"a: &a {b: [1, 2.5, null]}\nc: *a\n? [d]\n: !!set {e, f}\n"
    feed("params.yaml", [whole, small], writing(path, lambda: load_settings(path=path)))


WORDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_changes_of_settings():
    """Any value for any key: a setting or a sentence."""
    keys = sorted(
        f"{section}.{key}"
        for section in ("model", "training", "split", "features", "cross_view", "baseline", "noise")
        for key in vars(getattr(load_settings(), section))
    )

    @budget(max_examples=INPUTS, deadline=None, database=None, derandomize=INPUTS < 100)
    @given(
        st.dictionaries(st.sampled_from(keys) | st.text(max_size=12), WORDS, min_size=1, max_size=3)
    )
    def fed(changes: dict) -> None:
        try:
            load_settings("planted", changes)
        except SettingsError as error:
            assert "\n" not in str(error) or any("\n" in key for key in changes)

    fed()


def test_checkpoint(tmp_path):
    domain, path = (
        Domain("planted", {"training.num_steps": 2, "training.warmup_steps": 1}),
        tmp_path / "pure-id-0.safetensors",
    )
    save_checkpoint(domain, train_models(domain, ["pure-id"])[0], path)
    whole = path.read_bytes()

    def read(content: bytes) -> None:
        (part := tmp_path / "part").write_bytes(content)
        os.replace(part, path)
        load_checkpoint(domain, "pure-id", 0, path)

    feed("safetensors checkpoint", [whole, whole[: 8 + int.from_bytes(whole[:8], "little")]], read)


def test_notebooks(tmp_path):
    path = tmp_path / "01.ipynb"
    cells = [
        new_code_cell('dataset = "planted"', metadata={"tags": ["parameters"]}),
        new_code_cell("1 + 1", outputs=[nbformat.v4.new_output("stream", text="2")]),
    ]
    whole = nbformat.writes(new_notebook(cells=cells)).encode()
    feed("notebook", [whole], writing(path, lambda: nbformat.writes(strip(read_notebook(path)))))


def test_images(tmp_path):
    path, wholes = tmp_path / "1.png", []
    for kind in ("PNG", "JPEG", "WEBP"):
        for mode in ("RGB", "L"):
            Image.effect_noise((24, 24), 60).convert(mode).save(content := io.BytesIO(), kind)
            wholes.append(content.getvalue())
    Image.effect_noise((24, 24), 60).convert("P").save(content := io.BytesIO(), "PNG", bits=4)
    wholes.append(content.getvalue())
    feed("image", wholes, writing(path, lambda: open_image(path, path.name).resize((8, 8))))


def test_archives(tmp_path):
    path, wholes = tmp_path / "in" / "a.zip", []
    path.parent.mkdir()
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(content := io.BytesIO(), "w", method) as packed:
            packed.writestr("ml/ratings.dat", "1::1::5::7\n" * 9)
            packed.writestr("ml/ö/movies.dat", "1::A::War\n")
        wholes.append(content.getvalue())

    def read(content: bytes) -> None:
        path.write_bytes(content)
        try:
            unpack(path, tmp_path / "in" / "into", 1 << 20)
        finally:
            assert {entry.name for entry in tmp_path.iterdir()} == {"in"} and not list(
                tmp_path.rglob("*.part")
            )

    feed("archive", wholes, read)


def test_saved_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    path = tmp_path / "build" / "03_training" / "any" / "runs.csv"
    path.parent.mkdir(parents=True)
    read = writing(path, lambda: read_output("03_training", "any", "runs.csv"))
    feed("saved table", [RATINGS], read)


@budget(max_examples=INPUTS, deadline=None, database=None)
@given(
    st.text(max_size=40)
    | st.sampled_from(
        ["[" * 100_000, "9" * 5000, "NaN", '{"a": [1, 2.5, null]}', '__import__("os")']
    )
)
def test_parameters(text):
    """A word of the command line is a value of a plain type, never an expression."""
    assert type(typed(text)) in (str, int, float, bool, list, dict, type(None))
