"""Damaged, empty and hostile data files: each gets one clear sentence."""

import gc
import io
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from bivrec.data.domain import Domain, prepare
from bivrec.data.encoders import open_image
from bivrec.data.readers.common import number_ids
from bivrec.data.readers.vectors import read_vectors
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_models


def table(name: str, old: str, new: str):
    return lambda project: project.replace(f"raw/mine/{name}", old, new) or project.read


def file(name: str, content: str | bytes):
    return lambda project: project.write(f"raw/mine/{name}", content) and project.read


def parquet(frame: pl.DataFrame, name: str = "interactions", *, both: bool = False):
    """A table as Parquet, in the place of that as CSV or beside it."""

    def arrange(project):
        if not both:
            (project.raw / f"{name}.csv").unlink()
        frame.write_parquet(project.raw / f"{name}.parquet")
        return project.read

    return arrange


def renamed(old: str, new: str):
    return lambda project: (project.raw / old).rename(project.raw / new) and project.read


def items_in_another_form(listed: str, read: str):
    """The item i3 as items.csv and as interactions.csv write it."""

    def arrange(project):
        project.replace("raw/mine/items.csv", "i3,", f"{listed},")
        text = (project.raw / "interactions.csv").read_text()
        project.write("raw/mine/interactions.csv", text.replace(",i3,", f",{read},"))
        return project.read

    return arrange


def saved(save: Callable, *values) -> bytes:
    """What numpy or torch saves."""
    content = io.BytesIO()
    save(*((content, *values) if save is np.savez else (*values, content)))
    return content.getvalue()


def array(content, ids: str = "item\n" + "".join(f"i{n}\n" for n in range(9))):
    """Published vectors of the items."""

    def arrange(project):
        project.write("raw/mine/ids.csv", ids)
        if isinstance(content, bytes):
            project.write("raw/mine/image.npy", content)
        else:
            np.save(project.raw / "image.npy", content)
        return lambda: read_vectors(project.dataset, "image", [f"i{n}" for n in range(9)])

    return arrange


def npy_header(shape: tuple[int, ...], tail: bytes = b"") -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return content.getvalue() + tail


ONE_EACH = "user,item,time\n" + "".join(f"u{u},i{u % 9},{u}\n" for u in range(40))


NUMBERED = "user,item,time\n" + "".join(f"u{u},{i}.0,{i}\n" for u in range(9) for i in range(9))


FEW = "user,item,time\n" + "".join(f"u{u},i{i},{i}\n" for u in range(5) for i in range(9))


ROWS = pl.DataFrame({"user": ["a", None], "item": ["i1", "i2"], "time": [1, 2]})


PLAIN = "raw/mine/interactions.csv"


DATA = {
    "not UTF-8": (
        file("interactions.csv", b"user,item,time\nr\xe9n\xe9,i1,1\n"),
        f"{PLAIN} is not UTF-8 text",
    ),
    "UTF-16": (
        file("interactions.csv", "user,item,time\na,i1,1\n".encode("utf-16")),
        f"{PLAIN} is UTF-16 text, not UTF-8; save it as UTF-8",
    ),
    "no byte": (
        file("interactions.csv", b""),
        f"{PLAIN} is empty, not a table; fix the line or fix the file",
    ),
    "zero bytes": (file("interactions.csv", bytes(4096)), PLAIN),
    "a header and no more": (
        file("interactions.csv", "user,item,time\n"),
        "mine is empty: no user and item have 5 interactions",
    ),
    "an empty domain: every user has one item": (
        file("interactions.csv", ONE_EACH),
        "mine is empty: no user and item have 5 interactions (params.yaml: split.min",
    ),
    "a time that is NaN": (
        table("interactions.csv", "u1,i1,8\n", "u1,i1,nan\n"),
        "row 10: time 'nan' is not a whole number; fix it; dates are written as seconds since 1970",
    ),
    "a time that is inf": (
        table("interactions.csv", "u1,i1,8\n", "u1,i1,inf\n"),
        "row 10: time 'inf' is not a whole number; fix it",
    ),
    "a time before all times": (
        table("interactions.csv", "u1,i1,8\n", "u1,i1,-8\n"),
        "row 10: time '-8' is negative; fix it",
    ),
    "a time of the far future": (
        table("interactions.csv", "u1,i1,8\n", f"u1,i1,{2**63}\n"),
        "row 10: time '9223372036854775808' is larger than 2^53; if it is in nanoseconds, divide",
    ),
    "a time in nanoseconds": (
        table("interactions.csv", "u1,i1,8\n", "u1,i1,1500000000000000000\n"),
        "'1500000000000000000' is larger than 2^53; if it is in nanoseconds, divide it by 10^9",
    ),
    "a row cut short": (
        table("interactions.csv", "u1,i1,8\n", "u1,i1\n"),
        f"{PLAIN}, line 11: 2 fields, not 3; fix the line",
    ),
    "a quote that never ends": (
        table("interactions.csv", "u1,i1,8\n", 'u1,"i1,8\n'),
        f"{PLAIN}, line 11: a quote without its end; fix the line or fix the file",
    ),
    "a quote inside a title": (
        table("items.csv", "i3,Thing 3", 'i3,12" vinyl 3'),
        'raw/mine/items.csv, line 5: a quote inside a field; write it as "" and quote the field',
    ),
    "a quoted word in a title": (
        table("items.csv", "i3,Thing 3", 'i3,"Best" of 3'),
        'raw/mine/items.csv, line 5: a quote inside a field; write it as "" and quote the field',
    ),
    "a quote inside each of two titles": (
        file("items.csv", 'item,title\ni0,"A ""b"", c"\ni1,12" x\ni2,y\ni3,7" z\ni4,w\n'),
        "raw/mine/items.csv, line 3: a quote inside a field",
    ),
    "a user that is NaN": (
        table("interactions.csv", "u1,i1,8\n", "NaN,i1,8\n"),
        f"{PLAIN}, row 10 has no user ('NaN' marks a missing one); fix the file",
    ),
    "a user that is null": (
        table("interactions.csv", "u1,i1,8\n", "null,i1,8\n"),
        "row 10 has no user ('null' marks a missing one)",
    ),
    **{
        f"a user that is {text}": (
            table("interactions.csv", "u1,i1,8\n", f"{text},i1,8\n"),
            f"row 10 has no user ({text!r} marks a missing one)",
        )
        for text in ("NA", "N/A", "<NA>", "NaT")
    },
    "an item that is NA": (
        table("interactions.csv", "u1,i1,8\n", "u1,NA,8\n"),
        "row 10 has no item ('NA' marks a missing one)",
    ),
    "no item": (table("interactions.csv", "u1,i1,8\n", "u1,,8\n"), "row 10 has no item"),
    "an item that is not listed": (
        table("items.csv", "i3,", "i33,"),
        "has the item 'i3', which items.csv lacks; add it there",
    ),
    "a time that is a date": (
        table("interactions.csv", "u1,i1,8\n", "u1,i1,2021-01-05\n"),
        "row 10: time '2021-01-05' is not a whole number; fix it; dates are written as seconds",
    ),
    "numbers as pandas writes them beside NaN": (
        lambda p: (
            p.write("raw/mine/items.csv", "item,title\n" + "".join(f"{n},T\n" for n in range(9)))
            and p.write("raw/mine/interactions.csv", NUMBERED)
            and p.read
        ),
        "interactions.csv has the item '0.0', which items.csv lacks; write '0', as there",
    ),
    "a space before an item": (
        table("interactions.csv", "u1,i1,8\n", "u1, i1,8\n"),
        "has the item ' i1', which items.csv lacks; write 'i1', as there",
    ),
    "a column of another case": (
        table("items.csv", "item,title", "item,Title"),
        "raw/mine/items.csv has the column 'Title', but no 'title'; rename it or remove it",
    ),
    "a column in the singular": (
        parquet(pl.DataFrame({"item": ["i1"], "genre": ["Drama"]}), "items"),
        "raw/mine/items.parquet has the column 'genre', but no 'genres'; rename it or remove it",
    ),
    "a name for a title": (
        table("items.csv", "item,title", "item,name"),
        "raw/mine/items.csv has the column 'name', but no 'title'; rename it or remove it",
    ),
    "another name for a title": (
        table("items.csv", "item,title", "item,product_title"),
        "raw/mine/items.csv has the column 'product_title', but no 'title'; rename it",
    ),
    "items without a text": (
        table("items.csv", "item,title", "item,label"),
        "raw/mine/items.csv has no column title, year, genres or description; its columns are "
        "item,label; add one, or set features.modality: image",
    ),
    "an item that is listed as 0.0": (
        lambda p: (
            p.write("raw/mine/items.csv", "item,title\n" + "".join(f"{n}.0,T\n" for n in range(9)))
            and p.write("raw/mine/interactions.csv", NUMBERED.replace(".0,", ","))
            and p.read
        ),
        "has the item '0', which items.csv lacks; write '0' there, not '0.0'",
    ),
    "an item with its accent apart": (
        items_in_another_form("i\u00e9", "ie\u0301"),
        "it has 'i\\xe9', which differs only in Unicode form; write 'i\u00e9' in both",
    ),
    "an item with a byte order mark": (
        items_in_another_form("i3", "\ufeffi3"),
        "lacks; it has 'i3', which differs only in Unicode form; write 'i3' in both",
    ),
    "an item listed with a byte order mark": (
        items_in_another_form("\ufeffi3", "i3"),
        "it has '\\ufeffi3', which differs only in Unicode form; write 'i3' in both",
    ),
    "interactions in two files": (
        parquet(ROWS, both=True),
        "raw/mine has both interactions.parquet and interactions.csv; remove one",
    ),
    "items in two files": (
        parquet(pl.DataFrame({"item": ["i1"]}), "items", both=True),
        "raw/mine has both items.parquet and items.csv; remove one",
    ),
    "a file of another case": (
        renamed("interactions.csv", "Interactions.csv"),
        "raw/mine/interactions.parquet or interactions.csv is missing; put it there; the folder "
        "has Interactions.csv",
    ),
    "a file of another kind": (
        renamed("interactions.csv", "interactions.txt"),
        "interactions.csv is missing; put it there; the folder has interactions.txt",
    ),
    "a file that is packed": (
        renamed("interactions.csv", "interactions.csv.gz"),
        "interactions.csv is missing; put it there; the folder has interactions.csv.gz",
    ),
    "items without their column": (
        table("items.csv", "item,", "thing,"),
        "raw/mine/items.csv has the columns thing,title, not item",
    ),
    "a folder in a file's place": (
        lambda p: (
            ((p.raw / "interactions.csv").unlink(), (p.raw / "interactions.csv").mkdir()) and p.read
        ),
        f"{PLAIN} is a folder, not a file; fix the file",
    ),
    "no folder": (
        lambda p: shutil.rmtree(p.raw) or p.read,
        "interactions.parquet or interactions.csv is missing; put it there; `make data` brings",
    ),
    "Parquet without a user": (parquet(ROWS), "raw/mine/interactions.parquet, row 2 has no user"),
    "Parquet with a user that is NaN": (
        parquet(ROWS.with_columns(user=pl.Series([7.0, float("nan")]))),
        "raw/mine/interactions.parquet, row 2 has no user ('NaN' marks a missing one)",
    ),
    "Parquet without a column": (
        parquet(ROWS.drop("time")),
        "raw/mine/interactions.parquet has the columns user,item, not user,item,time",
    ),
    "Parquet with lists": (
        parquet(ROWS.with_columns(user=pl.Series([[1], [2]]))),
        "raw/mine/interactions.parquet",
    ),
    "Parquet of no row": (parquet(ROWS[:0]), "mine is empty: no user and item have 5 interactions"),
    "vectors that are infinite": (
        array(np.full((9, 2), np.inf, "float32")),
        "image.npy: the vector of item i0 has numbers that are not finite; fix or remove",
    ),
    "vectors beyond single precision": (
        array(np.full((9, 2), 1e300)),
        "image.npy: the vector of item i0 has numbers that are not finite; fix or remove",
    ),
    "vectors of whole numbers": (
        array(np.ones((9, 2), int)),
        "raw/mine/image.npy is an array (9, 2) of int64, not rows of decimal numbers; fix",
    ),
    "vectors that would be unpickled": (
        array(
            b"\x93NUMPY\x01\x00v\x00"
            + b"{'descr': '|O', 'fortran_order': False, 'shape': (9, 2), }".ljust(117)
            + b"\ncos\nsystem\n."
        ),
        "image.npy cannot be read as an array of numbers",
    ),
    "vectors in an archive of NumPy": (
        array(saved(np.savez, np.ones((9, 2)))),
        "raw/mine/image.npy is an archive, not one array; save it with numpy.save",
    ),
    "vectors that torch saved": (
        array(saved(torch.save, torch.ones(9, 2))),
        "raw/mine/image.npy is an archive, not one array; save it with numpy.save",
    ),
    "vectors without a byte": (
        array(b""),
        "raw/mine/image.npy cannot be read as an array of numbers",
    ),
    "vectors cut short": (
        array(npy_header((9, 4), bytes(100))),
        "raw/mine/image.npy cannot be read as an array of numbers",
    ),
    "vectors that would fill the memory": (
        array(npy_header((9, 1 << 40))),
        "raw/mine/image.npy cannot be read as an array of numbers",
    ),
    "no vector, but wide": (array(npy_header((0, 1 << 40)), "item\n"), "raw/mine/image.npy"),
    "vectors of nobody": (
        array(np.ones((9, 2), "float32"), "item\n"),
        "has 9 rows for 0 ids in ids.csv",
    ),
    "vectors of one twice": (
        array(np.ones((9, 2), "float32"), "item\n" + "i1\n" * 9),
        "9 ids in ids.csv, 1 of them different; each needs one",
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_data_files(project, refuses, case):
    arrange, told = DATA[case]
    assert told in refuses(arrange(project))
    if "an archive" in told:  # a refused archive stays open until its error is collected
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()


def test_fewer_users_than_folds(project, refuses):
    project.write("raw/mine/interactions.csv", FEW)
    told = refuses(project.read)
    assert (
        "mine: none of its 5 users is a " in told
        and "in fold 0 (by_user); lower split.num_folds, 5, or add users" in told
    )


def png(width: int, height: int, chunks: bytes = b"") -> bytes:
    """A PNG that says it has this size, and almost no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunks
        + pixels
        + chunk(b"IEND", b"")
    )


def picture(kind: str, mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert(mode).save(content, kind)
    return content.getvalue()


IMAGES = {
    "no byte": b"",
    "text": b"no image at all",
    "a drawing": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "a JPEG cut short": picture("JPEG")[:300],
    "a PNG cut short": picture("PNG")[:-200],
    "a WebP cut short": picture("WEBP")[:200],
    "a bomb of 400 million pixels": png(20_000, 20_000),
    "a bomb of 54 million pixels": png(9_000, 6_000),
    "a size of zero": png(0, 5),
    "a text that unpacks without end": png(8, 8, b"\0\0\0\0zTXt"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images(project, refuses, case):
    path = project.write("images/1.png", IMAGES[case])
    told = refuses(lambda: open_image(path, path.name))
    assert "image 1.png" in told and told.endswith(
        ("; replace or remove it", "make it smaller or remove it")
    )


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("PNG", "1"),
        ("PNG", "L"),
        ("PNG", "P"),
        ("PNG", "LA"),
        ("PNG", "RGBA"),
        ("PNG", "I;16"),
        ("JPEG", "CMYK"),
        ("WEBP", "RGBA"),
    ],
)
def test_an_image_of_another_mode_is_read_as_rgb(project, kind, mode):
    path = project.write("images/1.png", picture(kind, mode))
    image = open_image(path, path.name)
    assert (image.mode, image.size) == ("RGB", (64, 64)) and len(
        set(np.asarray(image).ravel().tolist())
    ) > 1


@pytest.mark.slow
def test_a_user_with_one_item_and_an_item_never_trained_harm_nobody(project):
    """The user has too few items and is left out; the item is in no training history and is still
    ranked."""
    domain = Domain(
        "mine",
        {
            "features.modality": "none",
            "model.views": ["id"],
            "split.num_folds": 3,
            "training.num_steps": 3,
            "training.warmup_steps": 1,
        },
    )
    with open(project.raw / "interactions.csv", "a") as rows:
        rows.write("lonely,i1,5\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIVREC_BUILD", str(project.root / "build" / "01_data_prep" / "mine"))
        sequences = prepare(domain)
    assert sequences.num_users == 40
    held, item = domain.fold(0).test.users, 8
    rows = [row for row in (project.raw / "interactions.csv").read_text().splitlines()[1:]]
    names = {f"u{number}" for number in range(40)}
    known = {
        name
        for name in names
        if number_ids([name])[0] in set(domain.sequences.users[held].tolist())
    }
    rows = [row for row in rows if f",i{item}," not in row or row.split(",")[0] in known]
    project.write("raw/mine/interactions.csv", "user,item,time\n" + "\n".join(rows) + "\n")
    again = Domain("mine", domain.changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIVREC_BUILD", str(project.root / "build" / "01_data_prep" / "mine"))
        prepare(again)
    position = again.sequences.catalogue["id"].tolist().index(f"i{item}")
    assert position not in np.concatenate(again.fold(0).train)
    ranks = rank_models(again, train_models(again, ["pure-id", "popularity", "itemknn"]))
    ranked = ranks[ranks["item"] == position]
    assert len(ranked) and ranked["rank"].between(1, 9).all()
