"""MMRec's and RecBole's .inter files."""

import re

import numpy as np
import pytest

from bivrec.data.readers.mmrec import read_mmrec
from bivrec.data.readers.vectors import read_vectors
from bivrec.errors import DataError
from bivrec.settings import Dataset, Folder


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
        (np.ones((6, 4), "float32"), "has 6 rows, but the .inter file's items are numbered 0 to 6"),
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


def write_inter(folder, text, encoding="utf-8"):
    (folder / "baby.inter").write_bytes(text.encode(encoding))
    return read_mmrec(folder, Folder(folder=folder.name))


RECBOLE = "user_id:token\titem_id:token\ttimestamp:float\n"


def test_a_byte_order_mark_is_no_part_of_a_name(mmrec):
    text = RECBOLE + "7\t0\t1700000000\n7\t1\t1700003600\n"
    raw = write_inter(mmrec, text, "utf-8-sig")
    assert raw.interactions.values.tolist() == [[7, 0, 1700000000], [7, 1, 1700003600]]
    with pytest.raises(DataError, match="baby.inter is UTF-16 text, not UTF-8; save it as UTF-8"):
        write_inter(mmrec, text, "utf-16")


@pytest.mark.parametrize("separator, name", [(",", "comma"), (";", "semicolon"), (" ", "space")])
def test_other_separators_than_tabs_are_named(mmrec, separator, name):
    problem = f"timestamp:float, separated by {name}s, not tabs; replace each {name} by a tab"
    for encoding in ("utf-8", "utf-8-sig"):
        with pytest.raises(DataError, match=re.escape(problem)):
            write_inter(mmrec, RECBOLE.replace("\t", separator), encoding)


@pytest.mark.parametrize(
    "times, read",
    [
        (["1700000000.25", "1700003600.75", "1.8e9"], [1700000000, 1700003600, 1800000000]),
        (["0.5", "0.25", "0.75"], [2, 1, 3]),  # their order depends on the fractions
        (["1.5", "1.5", "3"], [1, 1, 3]),
        (["9007199254740991", "88.0", "0"], [9007199254740991, 88, 0]),
    ],
)
@pytest.mark.parametrize("kind", ["float", "token"])
def test_times_with_fractions(mmrec, times, read, kind):
    rows = "".join(f"u\ti{n}\t{time}\n" for n, time in enumerate(times))
    raw = write_inter(mmrec, RECBOLE.replace("float", kind) + rows)
    assert raw.interactions["time"].tolist() == read


@pytest.mark.parametrize(
    ("time", "wrong"),
    [
        *((time, "not a timestamp; fix the line") for time in ("", "soon", "nan", "inf")),
        ("-1.5", "negative; fix the line"),
        ("1500000000000000000", "larger than 2^53; if it is in nanoseconds, divide it by 10^9"),
    ],
)
def test_what_is_no_time_is_named(mmrec, time, wrong):
    problem = f"baby.inter, line 3: timestamp:float {time!r} is {wrong}"
    with pytest.raises(DataError, match=re.escape(problem)):
        write_inter(mmrec, RECBOLE + f"u\ti\t1.5\nu\tj\t{time}\nu\tk\t2\n")


def image_vectors(mmrec, items, num_rows, monkeypatch):
    """The image vectors, rows of 1, 2, ..., of a file whose items are these."""
    write_inter(mmrec, RECBOLE + "".join(f"u\t{item}\t{n}\n" for n, item in enumerate(items)))
    np.save(mmrec / "image_feat.npy", np.arange(1, num_rows + 1, dtype="float32")[:, None])
    monkeypatch.setenv("BIVREC_DATA", str(mmrec.parent))
    dataset = Dataset(source="mmrec", mmrec=Folder(folder=mmrec.name), settings={})
    values, mask = read_vectors(dataset, "image", items)
    assert mask.all()
    return values[:, 0].tolist()


def test_an_item_s_row_is_its_number_with_or_without_zeros(mmrec, monkeypatch):
    for items in (["002", "000", "001"], ["2", "000", "01"], ["2", "0", "1"]):
        assert image_vectors(mmrec, items, 3, monkeypatch) == [3, 1, 2]


@pytest.mark.parametrize(
    "items, num_rows, problem",
    [
        (["001", "1", "0"], 2, "items '001' and '1' have the same row; write each item's number"),
        (["000", "i1"], 2, "has the item 'i1', which is not a row's number; use numbers, or"),
        (["3", "1", "2"], 3, "numbered 1 to 3; rows count from 0, so subtract 1 from the items'"),
        (["3", "1", "2"], 5, "has 5 rows, but the .inter file's items are numbered 1 to 3; they"),
    ],
)
def test_items_that_name_no_row(mmrec, monkeypatch, items, num_rows, problem):
    with pytest.raises(DataError, match=re.escape(problem)):
        image_vectors(mmrec, items, num_rows, monkeypatch)


def test_a_row_of_zeros_is_a_missing_vector(mmrec, monkeypatch):
    monkeypatch.setenv("BIVREC_DATA", str(mmrec.parent))
    dataset = Dataset(source="mmrec", mmrec=Folder(folder=mmrec.name), settings={})
    array = np.arange(28, dtype="float32").reshape(7, 4)
    array[3] = 0
    np.save(mmrec / "image_feat.npy", array)
    values, mask = read_vectors(dataset, "image", ["3", "2"])
    assert mask.tolist() == [False, True] and values.tolist() == [[0] * 4, [8, 9, 10, 11]]
    np.save(mmrec / "image_feat.npy", np.zeros_like(array))
    with pytest.raises(DataError, match="every vector of the 2 items is zero, which marks"):
        read_vectors(dataset, "image", ["3", "2"])


def test_lines_that_end_in_a_carriage_return_alone_are_named(mmrec):
    path = mmrec / "baby.inter"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    told = "baby-mmrec/baby.inter has lines that end in a carriage return alone; save it with"
    with pytest.raises(DataError, match=told):
        read_mmrec(mmrec, Folder(folder="baby-mmrec"))


def test_a_file_that_holds_nothing_is_named(mmrec):
    with pytest.raises(DataError, match="baby-mmrec/baby.inter is empty, not a table; fix it"):
        (mmrec / "baby.inter").write_bytes(b"")
        read_mmrec(mmrec, Folder(folder="baby-mmrec"), "fix it")


def test_a_folder_and_a_link_to_nothing_are_named(mmrec):
    path = mmrec / "baby.inter"
    path.unlink()
    path.symlink_to("gone.inter")
    told = "baby-mmrec/baby.inter is a link to gone.inter, which does not exist; restore or remove"
    with pytest.raises(DataError, match=told):
        read_mmrec(mmrec, Folder(folder="baby-mmrec"))
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="baby-mmrec/baby.inter is a folder, not a file; fix it"):
        read_mmrec(mmrec, Folder(folder="baby-mmrec"), "fix it")


def test_the_hidden_files_of_macos_are_not_read(mmrec):
    (mmrec / "._baby.inter").write_bytes(bytes(82))
    assert len(read_mmrec(mmrec, Folder(folder="baby-mmrec")).interactions) == 48
