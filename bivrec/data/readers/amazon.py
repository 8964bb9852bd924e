"""McAuley's Amazon files of 2014."""

import re
from pathlib import Path

import numpy as np

from bivrec.data.readers.common import NO_TAGS, _frame, _lines, _plain_text, _record, number_ids
from bivrec.data.sequences import RESTORE
from bivrec.data.types import Raw
from bivrec.errors import DataError
from bivrec.settings import Amazon

IMAGE_RECORD = np.dtype([("asin", "S10"), ("values", "<f4", (4096,))])


def read_amazon(folder: Path, settings: Amazon, mend: str = RESTORE) -> Raw:
    """McAuley's 5-core reviews of 2014, each an interaction at its day, and the products' titles, categories (without the
    first, the category itself), brands and descriptions. Ids are text, numbered by their hash, and kept in `id`."""
    users, items, times = [], [], []
    for where, line in _lines(folder / f"reviews_{settings.category}_5.json.gz", mend):
        record = _record(line, where, mend)
        user, item, time = (record.get(key) for key in ("reviewerID", "asin", "unixReviewTime"))
        if not (
            isinstance(user, str)
            and isinstance(item, str)
            and type(time) is int
            and 0 <= time < 2**53
        ):
            raise DataError(f"{where} lacks a reviewerID, an asin or a unixReviewTime; {mend}")
        users.append(user), items.append(item), times.append(time)
    told = dict.fromkeys(items, ("", "", ""))
    for where, line in _lines(folder / f"meta_{settings.category}.json.gz", mend):
        asin = re.search(rb"""['"]asin['"]\s*:\s*['"]([^'"]+)['"]""", line)
        if asin is None:
            raise DataError(f"{where} has no asin; {mend}")
        if (item := asin[1].decode("latin-1")) in told:
            record = _record(line, where, mend)
            lists = record.get("categories") or []
            kinds = [
                word
                for path in lists
                if isinstance(path, list)
                for word in path[1:]
                if isinstance(word, str)
            ]
            about = ". ".join(
                filter(None, (_plain_text(record.get(key)) for key in ("brand", "description")))
            )
            found = (
                _plain_text(record.get("title")),
                ", ".join(dict.fromkeys(map(_plain_text, kinds))),
                about,
            )
            if told[item] not in (found, ("", "", "")):
                raise DataError(f"{where} lists {item} again, otherwise than before; {mend}")
            told[item] = found
    titles, genres, about = zip(*told.values()) if told else ((), (), ())
    catalogue = _frame(
        item=number_ids(list(told)),
        title=list(titles),
        year=0,
        genres=list(genres),
        description=list(about),
        id=list(told),
    )
    return Raw(
        _frame(user=number_ids(users), item=number_ids(items), time=np.array(times, dtype="int64")),
        catalogue,
        NO_TAGS,
    )
