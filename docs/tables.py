"""Pages made from the tables of results/."""

import html
import json
import re
from pathlib import Path

import pandas as pd
from common import PROFILES, ROOT, results_folder
from render import FIGURES, markdown

from bivrec.outputs import read_csv
from bivrec.studies.report import claims_table

VERDICTS = ("holds", "fails", "negligible", "open")
INTRODUCTION = """\
Each row is a paired test over the same test users and trainings. The family *confirmatory* was fixed
before it was run; everything else is *exploratory*. Holm's method adjusts the p-values within each
family of a profile. *holds*: the effect is above zero and its adjusted p below 0.05. *fails*: the
effect is below zero and its adjusted p below 0.05. *negligible*: neither, and the whole interval lies
within 0.003 of zero. *open*: these data cannot decide; `detectable` is the smallest true effect that an
unadjusted test finds in 80 % of such studies.
[Studies and results](studies.html) explains the profiles and the known limits.
"""


def render_table(table: pd.DataFrame) -> str:
    text = table.to_html(index=False, border=0, escape=True)
    return text.replace('class="dataframe"', 'class="plain"')


def render_claims() -> str:
    """Every test of every profile, with its verdict."""
    parts = ["<h1>Claims and verdicts</h1>", markdown(INTRODUCTION)]
    for profile, name in PROFILES.items():
        path = results_folder(profile) / "08_report" / "all" / "claims.csv"
        if path.is_file():
            claims = read_csv(path)
            parts += [f'<h2 id="{profile}">{name}</h2>', render_verdicts(claims)]
    words = r"<td>(holds|fails|negligible|open)</td>"
    return re.sub(words, r'<td class="\1">\1</td>', "\n".join(parts))


def render_verdicts(claims: pd.DataFrame) -> str:
    """The number of verdicts and the table of one profile."""
    counts = [f"{sum(claims['verdict'] == verdict)} {verdict}" for verdict in VERDICTS]
    table = claims_table(claims)
    table.insert(0, "family", claims["family"])
    for column in ("detectable", "adjusted p"):
        table[column] = [f"{x:.3f}" if x == x else "" for x in table[column]]
    return f"<p>{len(claims)} tests: {', '.join(counts)}.</p>" + render_table(table)


def render_data() -> str:
    """The data card of each dataset that notebook 01 saved, and the README of the embedded data."""
    cards = sorted((ROOT / "results" / "01_data_prep").glob("*/card.csv"))
    readme = ROOT / "data" / "README.md"
    about = readme.read_text("utf-8").replace("# ", "## ", 1) if readme.is_file() else ""
    return "\n".join(["<h1>Data cards</h1>", *map(render_card, cards), markdown(about)])


def render_card(path: Path) -> str:
    name = path.parent.name
    counts = json.loads((path.parent / "statistics.json").read_text("utf-8"))
    figures = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    table = render_table(read_csv(path))
    alt = html.escape(f"{FIGURES['histories']} ({name})")
    image = f'<img src="results/01_data_prep/{name}/histories.png" alt="{alt}">'
    return f'<h2 id="{name}">{name}</h2><p>{figures}.</p>{table}<p>{image}</p>'
