"""What the explorer shows, as HTML made from the tables of `explore.api`."""

from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd
import seaborn as sns

from bivrec.plots.style import VIEW_NAMES

STYLE = """<style>
.bv table {border-collapse: collapse; font-size: 13px; line-height: 1.35}
.bv td, .bv th {padding: 1px 10px 1px 0; text-align: left; vertical-align: top}
.bv td:first-child:not(:only-child) {text-align: right; opacity: .8}
.bv .unread {opacity: .6}
.bv .target {font-weight: 700}
.bv .row {display: flex; gap: 2px; margin: 0 0 4px; overflow-x: auto}
.bv .row {font-size: 12px; line-height: 22px}
.bv .row > b {flex: 0 0 7em; white-space: nowrap; font-weight: normal}
.bv .patch {flex: 1 1 0; min-width: 14px; height: 22px; overflow: hidden; text-align: center}
.bv .patch, .bv .key {border-radius: 3px; color: #111}
.bv .key {padding: 0 6px}
.bv .side {display: flex; flex-wrap: wrap; gap: 24px}
.bv h4 {margin: 10px 0 4px; font-size: 14px}
</style>"""


def shade(interest: int) -> str:
    """An interest's colour, light enough for dark text on it."""
    colour = sns.color_palette("colorblind")[interest % 10]
    return "#" + "".join(f"{round(255 * (0.45 * part + 0.55)):02x}" for part in colour)


def name_item(row) -> str:
    """The title (or the id) of a row of `item_table`, with the year where the title has none."""
    title = str(row.title) or str(row.item)
    return f"{title} ({row.year})" if row.year and f"({row.year})" not in title else title


def name_items(table: pd.DataFrame) -> list[str]:
    """The names of all rows of an `item_table`."""
    return [name_item(row) for row in table.itertuples()]


def _table(rows: Iterable[Sequence], classes: Iterable[str], head: Sequence[str] = ()) -> str:
    """An HTML table of escaped cells, with a class for each row."""
    body = "".join(
        f'<tr class="{name}">{"".join(f"<td>{escape(str(cell))}</td>" for cell in row)}</tr>'
        for row, name in zip(rows, classes)
    )
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


def show_patches(patches: pd.DataFrame, titles: Sequence[str]) -> str:
    """The history cut at each scale, oldest on the left: a block per patch, with the colour and
    number of its interest."""
    rows = []
    for scale, part in patches.groupby("scale"):
        blocks = ""
        for patch in part.itertuples():
            items = escape(" + ".join(titles[patch.first : patch.last + 1]), quote=True)
            hint = f"{items}: interest {patch.interest}, share {patch.share:.2f}"
            look = f"flex-grow:{patch.last - patch.first + 1};background:{shade(patch.interest)}"
            blocks += f'<div class="patch" style="{look}" title="{hint}">{patch.interest}</div>'
        rows.append(f'<div class="row"><b>patches of {scale}</b>{blocks}</div>')
    return "".join(rows)


def show_nearest(nearest: pd.DataFrame) -> str:
    """The items nearest to each interest, side by side."""
    parts = []
    for interest, part in nearest.groupby("interest"):
        key = f'<span class="key" style="background:{shade(interest)}">interest {interest}</span>'
        parts.append(key + _table(([name] for name in name_items(part)), [""] * len(part)))
    return _side_by_side(parts)


def show_top(top: pd.DataFrame) -> str:
    """The views' lists side by side; true targets are bold with a star."""
    parts = []
    for view, part in top.groupby("view", sort=False):
        stars = part["target"].map({True: "★ ", False: ""})
        rows = zip(part["rank"], stars + name_items(part))
        table = _table(rows, part["target"].map({True: "target", False: ""}))
        count = f"{part['target'].sum()} of {len(part)} are true targets"
        parts.append(f"<h4>{VIEW_NAMES[view]}</h4><div>{count}</div>{table}")
    return _side_by_side(parts)
