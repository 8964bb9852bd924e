"""Archives unpack inside their folder, whole or not at all."""

import struct
import warnings
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from bivrec.data.download import unpack
from bivrec.errors import DataError


def test_an_archive_never_leads_outside(tmp_path):
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


def archive(
    project, *members: tuple[str, bytes], edit: Callable[[bytearray], None] = lambda content: None
) -> Callable:
    with zipfile.ZipFile(project.root / "raw" / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members:
            packed.writestr(name, content)
    content = bytearray((project.root / "raw" / "a.zip").read_bytes())
    edit(content)
    path = project.write("raw/a.zip", bytes(content))
    return lambda: unpack(path, project.root / "raw" / "into")


def encrypt(content: bytearray) -> None:
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1


def unknown_method(content: bytearray) -> None:
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(mark) + place] = 99


def flip(content: bytearray) -> None:
    content[content.index(b"ml/ratings.dat") + 20] ^= 0xFF


def lie_about_size(content: bytearray) -> None:
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 10)


RATINGS = ("ml/ratings.dat", b"1::1::5::7\n" * 1000)


ARCHIVES = {
    "a path upward": (
        ((RATINGS, ("ml/../../x", b"evil")), None),
        "holds 'ml/../../x', which leads outside its folder; nothing was unpacked",
    ),
    "an absolute path": (
        ((RATINGS, ("/tmp/x", b"evil")), None),
        "holds '/tmp/x', which leads outside its folder",
    ),
    "a name that is none": (
        ((RATINGS, (".", b"evil")), None),
        "holds '.', which leads outside its folder; nothing was unpacked",
    ),
    "a password": (((RATINGS,), encrypt), "is encrypted, password required"),
    "a method of packing that is unknown": (
        ((RATINGS,), unknown_method),
        "a.zip cannot be unpacked (That compression method is not supported)",
    ),
    "a flipped byte": (((RATINGS,), flip), "a.zip cannot be unpacked"),
    "a size that is a lie": (((RATINGS,), lie_about_size), "a.zip cannot be unpacked (Bad CRC-32"),
    "no archive": (
        ((RATINGS,), lambda content: content.clear()),
        "a.zip cannot be unpacked (File is not a zip file); remove it and fetch it again",
    ),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(project, refuses, case):
    (members, edit), message = ARCHIVES[case]
    assert message in refuses(archive(project, *members, edit=edit or (lambda content: None)))
    assert not [path for path in project.root.rglob("*.dat")]


def test_an_archive_that_unpacks_without_end(project, refuses):
    act = archive(project, ("ml/ratings.dat", bytes(10_000_000)))
    path = project.root / "raw" / "a.zip"
    assert path.stat().st_size < 20_000
    message = refuses(lambda: unpack(path, project.root / "raw" / "into", limit=1000))
    assert "a.zip would fill more than 1,000 bytes; nothing was unpacked" in message
    act()  # within the limit of 16 GiB it is unpacked


def test_an_archive_replaces_nothing_and_brings_no_record(project):
    act = archive(project, RATINGS, ("ml/movies.dat", b"theirs"), ("ml/checksums.json", b"{}"))
    project.write("raw/into/movies.dat", "placed by hand")
    act()
    into = project.root / "raw" / "into"
    assert (
        (into / "movies.dat").read_text() == "placed by hand"
        and (into / "ratings.dat").read_bytes() == RATINGS[1]
        and not (into / "checksums.json").exists()
    )


MEMBERS = st.lists(
    st.text(st.sampled_from("./\\:ab\0"), max_size=8) | st.text(max_size=5), min_size=1, max_size=4
)


@budget(max_examples=150, deadline=None)
@given(names=MEMBERS)
def test_an_archive_writes_into_its_folder_alone(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(root / "a.zip", "w") as packed:
        for name in dict.fromkeys(names):
            with warnings.catch_warnings(action="ignore"):  # of a name that is there twice
                packed.writestr(zipfile.ZipInfo(name.encode("utf-8", "replace").decode()), "x")
    try:
        unpack(root / "a.zip", root / "in" / "to", 1000)
    except DataError:
        pass
    assert {path.relative_to(root).parts[:2] for path in root.rglob("*") if path.is_file()} <= {
        ("a.zip",),
        ("in", "to"),
    }
