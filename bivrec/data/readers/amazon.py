"""McAuley's Amazon files of 2014 and 2018."""

import ast
import gzip
import html
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bivrec.data.download import wrong_content
from bivrec.data.readers.common import (
    MAX_LINE,
    MISSING,
    NO_TAGS,
    check_file,
    number_ids,
    review_files,
    short_path,
    to_pandas,
)
from bivrec.data.types import Raw
from bivrec.errors import RESTORE, DataError
from bivrec.settings import Amazon

MAX_UNPACKED = 1 << 34  # bytes

# What a page shows no letter of: comments, scripts, styles, and the tags that HTML has. `a < b`,
# `<3` and `List<String>` are no tags. Every repetition ends at the next `<`: the time is linear.
HIDDEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b[^<>]*>.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE
)
INLINE = """a abbr acronym b bdi bdo big cite code del dfn em font i ins kbd label mark q s samp
    small span strike strong sub sup tt u var wbr"""
BLOCKS = """!doctype address area article aside audio base basefont blockquote body br button canvas
    caption center col colgroup dd details dialog dir div dl dt embed fieldset figcaption figure
    footer form frame frameset h1 h2 h3 h4 h5 h6 head header hr html iframe img input legend li link
    main map marquee menu meta nav nobr noframes noscript object ol optgroup option p param picture
    pre script section select source style summary svg table tbody td textarea tfoot th thead title
    tr track ul video"""
INLINE_TAG, BLOCK_TAG = (
    re.compile(
        rf"</?(?:{'|'.join(names.split())})(?![\w-])"
        r"""(?:(?:[^<>"']|"[^"<]*"|'[^'<]*')*+>|[^<>]*>)""",
        re.IGNORECASE,
    )
    for names in (INLINE, BLOCKS)
)

# Where a line may hold an asin, overlaps included: a description can hold one too.
ASIN = re.compile(rb"""(?=['"]asin['"]\s*:\s*['"]([^'"]+)['"])""")

IMAGE_RECORD = np.dtype([("asin", "S10"), ("values", "<f4", (4096,))])

UNKNOWN = ("", "", "")  # the title, genres and description of a product without metadata


def read_amazon(folder: Path, settings: Amazon, remedy: str = RESTORE) -> Raw:
    """The 5-core reviews, each an interaction at its day, and the products' titles, categories
    (without the first, which is the dataset's), brands, descriptions and features."""
    files = [folder / name for name in review_files(settings.category)]
    reviews = _read_reviews(next((path for path in files if path.is_file()), files[-1]), remedy)
    users, items, times = zip(*reviews) if reviews else ((), (), ())
    products = dict.fromkeys(items, UNKNOWN)
    _read_products(folder / f"meta_{settings.category}.json.gz", products, remedy)
    ids = list(products)
    catalogue = to_pandas(
        item=number_ids(ids),
        title=[title for title, _, _ in products.values()],
        year=0,
        genres=[genres for _, genres, _ in products.values()],
        description=[description for _, _, description in products.values()],
        id=ids,
    )
    times = np.array(times, dtype="int64")
    interactions = to_pandas(user=number_ids(users), item=number_ids(items), time=times)
    return Raw(interactions, catalogue, NO_TAGS)


def _read_reviews(path: Path, remedy: str) -> list[tuple[str, str, int]]:
    """User, item and time of each review."""
    reviews = []
    for where, line in gzip_lines(path, remedy):
        record = _parse_record(line, where, remedy)
        user, item, time = (record.get(key) for key in ("reviewerID", "asin", "unixReviewTime"))
        named = isinstance(user, str) and isinstance(item, str)
        named = named and user not in MISSING and item not in MISSING
        if not (named and type(time) is int and 0 <= time < 2**53):
            raise DataError(f"{where} lacks a reviewerID, an asin or a unixReviewTime; {remedy}")
        reviews.append((_replace_surrogates(user), _replace_surrogates(item), time))
    return reviews


def _read_products(path: Path, products: dict[str, tuple[str, str, str]], remedy: str) -> None:
    """Fills in title, genres and description of the products that have reviews."""
    for where, line in gzip_lines(path, remedy):
        asins = [asin.decode("utf-8", "replace") for asin in ASIN.findall(line)]
        if asins and not any(asin in products or "\\" in asin for asin in asins):
            continue  # most records, and parsing is slow
        record = _parse_record(line, where, remedy)
        if not isinstance(item := record.get("asin"), str):
            raise DataError(f"{where} has no asin; {remedy}")
        if (item := _replace_surrogates(item)) not in products:
            continue
        product = _describe(record)
        if products[item] not in (product, UNKNOWN):
            raise DataError(f"{where} lists {item} again with different data; {remedy}")
        products[item] = product


def _describe(record: dict[str, Any]) -> tuple[str, str, str]:
    """A product's title, genres and description. The release of 2014 has `categories`, a list of
    paths, and a description; that of 2018 has `category`, one path, and lists of paragraphs."""
    paths = record.get("categories") or [record.get("category")]
    if not isinstance(paths, list) or paths and isinstance(paths[0], str):
        paths = [paths]
    genres = [_plain_text(word) for path in paths if isinstance(path, list) for word in path[1:]]
    about = [_plain_text(record.get(key)) for key in ("brand", "description", "feature")]
    genres, about = dict.fromkeys(filter(None, genres)), filter(None, about)
    return _plain_text(record.get("title")), ", ".join(genres), ". ".join(about)


def gzip_lines(
    path: Path, remedy: str, max_bytes: int = MAX_UNPACKED
) -> Iterator[tuple[str, bytes]]:
    """Each line of a gzip file with its file and number, but for blank ones. Raises DataError if
    the file is truncated, has a line longer than MAX_LINE, or unpacks to more than `max_bytes`."""
    name, number, size = short_path(path), 0, 0
    check_file(path, remedy)
    if wrong := wrong_content(path, path.name):
        raise DataError(f"{name} is {wrong}; {remedy}")
    try:
        with gzip.open(path) as file:
            while line := file.readline(MAX_LINE + 1):
                number, size = number + 1, size + len(line)
                where = f"{name}, line {number}"
                if len(line) > MAX_LINE:
                    raise DataError(f"{where} is longer than {MAX_LINE:,} bytes; {remedy}")
                if size > max_bytes:
                    raise DataError(f"{name} unpacks to more than {max_bytes:,} bytes; {remedy}")
                if line.strip():
                    yield where, line
    except (OSError, EOFError, zlib.error) as error:
        problem = f"damaged or truncated after line {number} ({type(error).__name__})"
        raise DataError(f"{name} is {problem}; {remedy}") from None


def _parse_record(line: bytes, where: str, remedy: str) -> dict[str, Any]:
    """A line as JSON or, in some of the published files, as a Python literal."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        try:
            record = ast.literal_eval(line.decode("utf-8-sig"))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            problem = f"is neither JSON nor a Python literal: {line[:40]!r}"
            raise DataError(f"{where} {problem}; {remedy}") from None
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a record: {line[:40]!r}; {remedy}")
    return record


def _plain_text(value: Any) -> str:
    """The first 2,000 characters of a text, or of a list's texts, without HTML tags and entities
    and without repeated spaces; else nothing."""
    texts = value if isinstance(value, list) else [value]
    text = _replace_surrogates("\n".join(text for text in texts if isinstance(text, str)))
    if "<" in text:
        text = BLOCK_TAG.sub(" ", INLINE_TAG.sub("", HIDDEN.sub(" ", text)))
    return " ".join(html.unescape(text).split())[:2000]


def _replace_surrogates(text: str) -> str:
    """The text with pairs of surrogates joined and lone ones, which no file can hold, replaced by
    U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
