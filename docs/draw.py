"""Draws the pipeline's graph from dvc.yaml, and the dark version of each drawing.

python docs/draw.py
"""

import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
DARK = {  # colours of the light drawings and their dark counterparts
    "#fff": "#14171a",
    "#2b2b2b": "#e6e8ea",
    "#666": "#a9b1ba",
    "#0072B2": "#56B4E9",
    "#009E73": "#3fc79a",
    "#CC79A7": "#e3a0c4",
}
BOX_WIDTH, BOX_HEIGHT, COLUMN_GAP, ROW_GAP, MARGIN, CAPTION = 176, 92, 34, 18, 12, 34
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
font-family="Helvetica, Arial, sans-serif" font-size="15" role="img" aria-labelledby="t d">
<title id="t">The pipeline</title><desc id="d">{description}.</desc>
<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" \
orient="auto"><path d="M0 0L8 4L0 8z" fill="#666"/></marker></defs>
<rect width="{width}" height="{height}" fill="#fff"/>
{body}
<text x="{margin}" y="{caption_y}" font-size="14" fill="#666">{caption}</text>
</svg>
"""
NOTE = (
    "Each stage runs a notebook, once per dataset or pair of datasets where × is shown. "
    "Every study also reads the data and features."
)


@dataclass(frozen=True)
class Graph:
    """The stages of the default profile."""

    runs: dict[str, int]  # how often each stage runs, by stage in the order of dvc.yaml
    reads: dict[str, set[str]]  # the stages whose output it reads
    descriptions: dict[str, str]

    @cached_property
    def layers(self) -> dict[str, int]:
        """A stage's column: one right of the furthest stage that it reads."""
        layers: dict[str, int] = {}
        for name in self.runs:
            layers[name] = 1 + max((layers[read] for read in self.reads[name]), default=-1)
        return layers

    @cached_property
    def columns(self) -> list[list[str]]:
        count = max(self.layers.values()) + 1
        return [[name for name in self.runs if self.layers[name] == i] for i in range(count)]


def read_graph() -> Graph:
    """The stages that `make repro` runs, as DVC resolves them from dvc.yaml."""
    dvc = [sys.executable, "-m", "dvc", "dag", "--dot", "report@default"]
    dot = subprocess.run(dvc, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    edges = re.findall(r'^"([^"]*)" -> "([^"]*)";$', dot, re.MULTILINE)
    instances = re.findall(r'^"([^"]*)";$', dot, re.MULTILINE)
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
    names = [name for name in stages if any(_stage(one) == name for one in instances)]
    return Graph(
        {name: sum(_stage(one) == name for one in instances) for name in names},
        {name: {_stage(a) for a, b in edges if _stage(b) == name} & {*names} for name in names},
        {name: stages[name].get("do", stages[name])["desc"] for name in names},
    )


def _stage(instance: str) -> str:
    return instance.partition("@")[0]


def place_boxes(graph: Graph) -> dict[str, tuple[float, float]]:
    """The upper left corner of each stage's box; columns are centred vertically."""
    tallest = max(map(len, graph.columns))
    return {
        name: (
            MARGIN + column * (BOX_WIDTH + COLUMN_GAP),
            MARGIN + (row + (tallest - len(names)) / 2) * (BOX_HEIGHT + ROW_GAP),
        )
        for column, names in enumerate(graph.columns)
        for row, name in enumerate(names)
    }


def draw_arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """A curve from the right edge of one box to the left edge of another."""
    x, y = start[0] + BOX_WIDTH + 2, start[1] + BOX_HEIGHT / 2
    to_x, to_y = end[0] - 3, end[1] + BOX_HEIGHT / 2
    bend = (x + to_x) / 2
    path = f"M{x} {y}C{bend} {y} {bend} {to_y} {to_x} {to_y}"
    return f'<path d="{path}" stroke="#666" stroke-width="1.4" fill="none" marker-end="url(#a)"/>'


def draw_box(corner: tuple[float, float], title: str, description: str) -> str:
    x, y = corner
    middle = f'x="{x + BOX_WIDTH / 2}" text-anchor="middle"'
    lines = [
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7" '
        'stroke="#0072B2" stroke-width="1.5" fill="#0072B2" fill-opacity=".07"/>',
        f'<text {middle} y="{y + 22}" font-weight="600" fill="#2b2b2b">{escape(title)}</text>',
    ]
    for number, line in enumerate(textwrap.wrap(description, 25)):
        text = f'y="{y + 42 + 17 * number}" font-size="14" fill="#666">{escape(line)}</text>'
        lines.append(f"<text {middle} {text}")
    return "\n".join(lines)


def draw_pipeline() -> str:
    """Stages as boxes from left to right, with arrows between neighbouring columns."""
    graph = read_graph()
    corners = place_boxes(graph)
    arrows = [
        draw_arrow(corners[read], corners[name])
        for name, reads in graph.reads.items()
        for read in sorted(reads)
        if graph.layers[read] == graph.layers[name] - 1
    ]
    boxes = []
    for name, runs in graph.runs.items():
        title = name.replace("_", " ") + (f" × {runs}" if runs > 1 else "")
        boxes.append(draw_box(corners[name], title, graph.descriptions[name]))
    height = max(map(len, graph.columns)) * (BOX_HEIGHT + ROW_GAP) + CAPTION
    return SVG.format(
        width=len(graph.columns) * (BOX_WIDTH + COLUMN_GAP) - COLUMN_GAP + 2 * MARGIN,
        height=height,
        description=escape(describe(graph)),
        body="\n".join(arrows + boxes),
        margin=MARGIN,
        caption_y=height - 10,
        caption=NOTE,
    )


def describe(graph: Graph) -> str:
    """The graph in words, for readers who cannot see it."""
    sentences = (
        f"{name} reads {', '.join(sorted(reads)) or 'the raw data and notebooks'}"
        for name, reads in graph.reads.items()
    )
    return ". ".join(sentences).replace("_", " ")


def darken(drawing: str) -> str:
    return re.sub("|".join(DARK), lambda colour: DARK[colour[0]], drawing)


def draw_all() -> dict[str, str]:
    """Every generated drawing by file name; model.svg itself is drawn by hand."""
    pipeline, model = draw_pipeline(), (ROOT / "docs" / "model.svg").read_text("utf-8")
    return {
        "pipeline.svg": pipeline,
        "pipeline-dark.svg": darken(pipeline),
        "model-dark.svg": darken(model),
    }


if __name__ == "__main__":
    for name, drawing in draw_all().items():
        (ROOT / "docs" / name).write_text(drawing, "utf-8")
