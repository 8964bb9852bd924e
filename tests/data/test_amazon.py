"""McAuley's Amazon files."""

import gzip
import json
import re

import numpy as np
import pytest

from bivrec.data.readers.amazon import gzip_lines, read_amazon
from bivrec.data.readers.vectors import read_vectors
from bivrec.errors import DataError
from bivrec.settings import Amazon, Dataset

BABY = Amazon(folder="amazon-baby", category="Baby")


def write_gzip(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


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
        problem = (
            "none of its 8 ids ('B999999999', 'B000000007', 'B000000006', ...) is one of the 1"
        )
        with pytest.raises(DataError, match=re.escape(problem)):
            read_vectors(dataset, "image", ["0"])
        content = (baby / "image_features_Baby.b").read_bytes()
        for damaged, told in (
            (content[:-1], "not a multiple of 16,394"),
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
        (
            "reviews",
            '{"reviewerID": "", "asin": "B000000001", "unixReviewTime": 1}',
            "line 73 lacks a reviewerID",
        ),
        ("reviews", '{"reviewerID": "A1", ', "line 73 is neither JSON nor a Python literal"),
        ("reviews", "[1, 2]", "line 73 is not a record"),
        (
            "reviews",
            "__import__('os').system('true')",
            "line 73 is neither JSON nor a Python literal",
        ),
        ("reviews", "(" * 5000, "line 73 is neither JSON nor a Python literal"),
        ("reviews", "[" * 100_000, "line 73 is neither JSON nor a Python literal"),
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
            "line 9 lists B000000001 again with different data",
        ),
    ],
)
def test_amazon_lines_that_cannot_be_used(baby, file, line, told):
    path = next(baby.glob(f"{file}_*"))
    write_gzip(path, [*gzip.decompress(path.read_bytes()).decode().splitlines(), line])
    with pytest.raises(DataError, match=re.escape(told)) as caught:
        read_amazon(baby, BABY)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_gzip_is_named(baby):
    path = baby / "reviews_Baby_5.json.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        DataError, match="reviews_Baby_5.json.gz is damaged or truncated after line"
    ):
        read_amazon(baby, BABY)
    path.write_bytes(b"\x1f\x8bno gzip")
    with pytest.raises(DataError, match="is damaged or truncated after line 0"):
        read_amazon(baby, BABY)
    path.unlink()
    with pytest.raises(DataError, match="raw/amazon-baby/reviews_Baby_5.json.gz is missing"):
        read_amazon(baby, BABY)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "empty; restore it"),
        (b'{"reviewerID": "A1"}', "no .gz file: it begins with b'{\"reviewerID'; restore it"),
        (b"PK\x03\x04", "no .gz file: it begins with b'PK\\x03\\x04'; restore it"),
        (b"<!DOCTYPE html>", "a web page, perhaps one to sign in, and not the file; restore it"),
        (None, "a folder, not a file; restore it"),
    ],
)
@pytest.mark.parametrize("file", ["reviews_Baby_5.json.gz", "meta_Baby.json.gz"])
def test_what_is_no_gzip_is_named(baby, file, content, wrong):
    path = baby / file
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"raw/amazon-baby/{file} is {wrong}")):
        read_amazon(baby, BABY, "restore it")


def test_a_gzip_that_unpacks_without_end(tmp_path):
    path = tmp_path / "reviews_Baby_5.json.gz"
    path.write_bytes(gzip.compress((json.dumps({"reviewText": " " * 5000}) + "\n").encode() * 1000))
    assert path.stat().st_size < 50_000
    message = "reviews_Baby_5.json.gz unpacks to more than 1,048,576 bytes; restore it"
    with pytest.raises(DataError, match=message):
        list(gzip_lines(path, "restore it", max_bytes=1 << 20))


def test_a_record_keeps_its_asin_whatever_its_description_holds(baby):
    """As JSON and as Python literals; the description names another item, or swallows the key."""
    path = baby / "meta_Baby.json.gz"
    about = ["see 'asin': 'B000000003'", "see 'asin': ", 'or "asin": "B000000004" or', "plain"]
    for write in (json.dumps, repr):
        records = [
            {"description": text, "asin": f"B{n:09d}", "title": f"Rattle {n}"}
            for n, text in enumerate(about)
        ]
        write_gzip(path, [write(record) for record in records])
        items = read_amazon(baby, BABY).items.set_index("id")
        titles = items["title"].tolist()
        assert titles == [f"Rattle {n}" for n in range(4)] + [""] * 4
        assert items["description"].tolist()[:4] == [text.strip() for text in about]


def test_a_description_alone_gives_no_asin(baby):
    write_gzip(baby / "meta_Baby.json.gz", [repr({"description": "'asin': 'B000000003'"})])
    with pytest.raises(DataError, match="meta_Baby.json.gz, line 1 has no asin; restore it"):
        read_amazon(baby, BABY, "restore it")


def test_lone_surrogates_are_replaced(baby):
    """JSON's escapes and Python's can hold half a character; two halves are one character."""
    reviews = baby / "reviews_Baby_5.json.gz"
    lines = gzip.decompress(reviews.read_bytes()).decode().splitlines()
    write_gzip(reviews, [line.replace("B000000000", "B\\ud83d0") for line in lines])
    for write in (json.dumps, ascii):
        record = {"asin": "B\ud83d0", "title": "A\ud83d \udc76 \ud83d\udc76", "brand": "\udc00"}
        write_gzip(baby / "meta_Baby.json.gz", [write(record)])
        item = read_amazon(baby, BABY).items.set_index("id").loc["B\ufffd0"]
        assert (item["title"], item["description"]) == ("A\ufffd \ufffd 👶", "\ufffd")


def test_the_release_of_2018_is_read_like_that_of_2014(baby):
    """One path of categories, paragraphs of description, features, and another file's name."""
    record = {
        "asin": "B000000000",
        "title": "Rattle",
        "category": ["Baby Products", "Toys &amp; Play", "Rattles", "</span></span>"],
        "brand": "by\n    Acme",
        "description": ["First <b>line</b>.", "", "Second line."],
        "feature": ["Blue", "6 &quot; long"],
        "also_buy": ["B000000001"],
    }
    write_gzip(baby / "meta_Baby.json.gz", [json.dumps(record)])
    (baby / "reviews_Baby_5.json.gz").rename(baby / "Baby_5.json.gz")
    item = read_amazon(baby, BABY).items.set_index("id").loc["B000000000"]
    assert item["genres"] == "Toys & Play, Rattles"
    assert item["description"] == 'by Acme. First line. Second line.. Blue 6 " long'


@pytest.mark.parametrize(
    ("fields", "genres"),
    [
        ({"categories": [["Baby", "Toys"], ["Baby", "Gifts"]]}, "Toys, Gifts"),
        ({"categories": [["Baby", "Toys"]], "category": ["Baby", "Other"]}, "Toys"),
        ({"categories": ["Baby", "Toys"]}, "Toys"),
        ({"category": ["Baby", "Toys", "Toys", 5, None]}, "Toys"),
        ({"categories": [], "category": ["Baby", "Toys"]}, "Toys"),
        ({"category": "Baby"}, ""),
        ({"category": []}, ""),
        ({"categories": [[]]}, ""),
        ({"categories": None, "category": None}, ""),
        ({"categories": 5}, ""),
        ({"categories": {"Baby": ["Toys"]}}, ""),
    ],
)
def test_categories_of_every_form(baby, fields, genres):
    write_gzip(baby / "meta_Baby.json.gz", [json.dumps({"asin": "B000000000"} | fields)])
    assert read_amazon(baby, BABY).items.set_index("id").loc["B000000000", "genres"] == genres


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("<b>Soft</b> &amp; <i>warm</i>", "Soft & warm"),
        ("un<b>believ</b>able", "unbelievable"),
        ("<p>One</p><p class='x'>Two<br/>three</p>", "One Two three"),
        ('<a href="http://x.y/?a=1&amp;b=2" title="a > b">link</a>', "link"),
        ("<P>loud</P><BR><Li>list", "loud list"),
        ("<a href='no end of the quote>link</a>", "link"),
        ("before<script>if (a < b) document.write('<b>')</script>after", "before after"),
        ("<style type='text/css'>p > b { }</style >x", "x"),
        ("kept<script>to the end", "kept"),
        ("one<!-- <b>hidden</b> -->two", "one two"),
        ("a < b and b > c", "a < b and b > c"),
        ("I <3 you", "I <3 you"),
        ("x<y and y>z", "x<y and y>z"),
        ("List<String> and <anonymous>", "List<String> and <anonymous>"),
        ("3 &lt; 5, &lt;3, caf&eacute; &#233;&#xe9;&nbsp;&copy;", "3 < 5, <3, café éé ©"),
        ("&lt;b&gt; is a tag", "<b> is a tag"),
        ("5 <", "5 <"),
        ("<b", "<b"),
        ("AT&T R&D &c", "AT&T R&D &c"),
    ],
)
def test_tags_and_entities_are_removed_and_all_else_stays(baby, written, read):
    record = {"asin": "B000000000", "title": written, "description": [written]}
    write_gzip(baby / "meta_Baby.json.gz", [json.dumps(record)])
    item = read_amazon(baby, BABY).items.set_index("id").loc["B000000000"]
    assert item["title"] == item["description"] == read


@pytest.mark.parametrize(
    "part", ["<", "<b", "<script>", "<!--", '<b "', "<a '", "</script ", "&lt;"]
)
def test_markup_without_end_is_read_in_linear_time(baby, part):
    record = {"asin": "B000000000", "title": part * (500_000 // len(part))}
    write_gzip(baby / "meta_Baby.json.gz", [json.dumps(record)])
    assert len(read_amazon(baby, BABY).items)  # in quadratic time this takes hours


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n"])
def test_byte_order_marks_line_ends_and_blank_lines(baby, mark, end):
    expected = read_amazon(baby, BABY)
    for path in baby.glob("*.gz"):
        lines = gzip.decompress(path.read_bytes()).splitlines()
        path.write_bytes(gzip.compress(mark + end.join([*lines, b""])))
    read = read_amazon(baby, BABY)
    assert read.interactions.equals(expected.interactions) and read.items.equals(expected.items)
