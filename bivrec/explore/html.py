"""What the explorer shows, as HTML made from the tables of `explore.api`."""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import repeat

import pandas as pd

from bivrec.plots.style import VIEW_NAMES, shade_of

STYLE = """<style>
.bv table {border-collapse: collapse; font-size: 13px; line-height: 1.35}
.bv td, .bv th {padding: 1px 10px 1px 0; text-align: left; vertical-align: top}
.bv td:first-child:not(:only-child) {text-align: right; opacity: .8}
.bv .unread {opacity: .6}
.bv .target {font-weight: 700}
.bv .row {display: flex; gap: 2px; margin: 0 0 4px; overflow-x: auto}
.bv .row {font-size: 12px; line-height: 22px}
.bv .row > b {flex: 0 0 7em; white-space: nowrap; font-weight: normal}
.bv .patch {flex: 1 1 0; min-width: 14px; overflow: hidden; text-align: center; border-radius: 3px}
.bv .patch > i {display: block; height: 20px; line-height: 20px; font-style: normal; color: #111}
.bv .key {border-radius: 3px; color: #111; padding: 0 6px}
.bv .side, .bv .interests {display: grid; gap: 24px}
.bv .side {grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr))}
.bv .interests {grid-template-columns: repeat(auto-fit, minmax(210px, 1fr))}
.bv h4 {margin: 10px 0 4px; font-size: 14px}
.bv h5 {margin: 8px 0 2px; font-size: 13px; font-weight: normal; opacity: .8}
</style>"""


def name_item(row) -> str:
    """The title (or the id) of a row of `item_table`, with the year where the title has none."""
    title = str(row.title) or str(row.item)
    return f"{title} ({row.year})" if row.year and f"({row.year})" not in title else title


def name_items(table: pd.DataFrame) -> list[str]:
    """The names of all rows of an `item_table`."""
    return [name_item(row) for row in table.itertuples()]


def _table(
    rows: Iterable[Sequence],
    classes: Iterable[str],
    head: Sequence[str] = (),
    keys: Iterable[str] | None = None,
) -> str:
    """An HTML table of escaped cells, with a class for each row and a key, as HTML, at its end."""
    body = ""
    for row, name, key in zip(rows, classes, repeat("") if keys is None else keys):
        cells = "".join(f"<td>{escape(str(cell))}</td>" for cell in row)
        body += f'<tr class="{name}">{cells}{f"<td>{key}</td>" if key else ""}</tr>'
    names = "".join(f"<th>{name}</th>" for name in head)
    return f"<table>{f'<tr>{names}</tr>' if head else ''}{body}</table>"


def _side_by_side(parts: Iterable[str]) -> str:
    return f'<div class="side">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def show_history(table: pd.DataFrame, max_length: int) -> str:
    """The history, oldest first; items beyond what the model reads are pale."""
    num_unread = max(0, len(table) - max_length)
    classes = ["unread"] * num_unread + [""] * (len(table) - num_unread)
    rows = zip(range(1, len(table) + 1), name_items(table), table["genres"])
    note = f"<p>The model reads the newest {max_length}.</p>" if num_unread else ""
    return note + _table(rows, classes, ("#", "title", "genres"))


def show_key(interest: int, text: str = "") -> str:
    """An interest's number, or a text of its own, on its colour; nothing for -1."""
    if interest < 0:
        return ""
    return f'<span class="key" style="background:{shade_of(interest)}">{text or interest}</span>'


def show_patches(patches: pd.DataFrame, titles: Sequence[str]) -> str:
    """The history cut at each scale, oldest on the left: a block per patch, with the colours and
    numbers of its interests, the nearest on top."""
    rows = []
    for scale, part in patches.groupby("scale"):
        blocks = ""
        for (first, last), owners in part.groupby(["first", "last"]):
            pairs = list(zip(owners["interest"], owners["share"]))
            shares = ", ".join(
                f"interest {interest}, share {share:.2f}" for interest, share in pairs
            )
            hint = escape(f"{' + '.join(titles[first : last + 1])}: {shares}", quote=True)
            cells = "".join(
                f'<i style="background:{shade_of(interest)}">{interest}</i>'
                for interest, _ in pairs
            )
            grow = f'style="flex-grow:{last - first + 1}"'
            blocks += f'<div class="patch" {grow} title="{hint}">{cells}</div>'
        rows.append(f'<div class="row"><b>patches of {scale}</b>{blocks}</div>')
    return "".join(rows)


KINDS = {"owned": "newest items of the history", "recommended": "recommends"}


def show_interests(lists: pd.DataFrame) -> str:
    """The history's items that each interest owns, above the list it recommends; side by side."""
    parts = []
    for interest, own in lists.groupby("interest"):
        shown = show_key(interest, f"interest {interest}")
        for kind, heading in KINDS.items():
            names = name_items(own[own["kind"] == kind])
            shown += f"<h5>{heading}</h5>" + _table(
                ([name] for name in names or ["none"]), [""] * 99
            )
        parts.append(f"<div>{shown}</div>")
    return f'<div class="interests">{"".join(parts)}</div>'


def show_top(top: pd.DataFrame) -> str:
    """The views' lists side by side; true targets are bold with a star. Where a view has several
    interests, each item shows the one that scores it best."""
    parts = []
    for view, part in top.groupby("view", sort=False):
        stars = part["target"].map({True: "★ ", False: ""})
        rows = zip(part["rank"], stars + name_items(part))
        keys = map(show_key, part["interest"])
        table = _table(rows, part["target"].map({True: "target", False: ""}), keys=keys)
        count = f"{part['target'].sum()} of {len(part)} are true targets"
        parts.append(f"<h4>{VIEW_NAMES[view]}</h4><div>{count}</div>{table}")
    return _side_by_side(parts)
