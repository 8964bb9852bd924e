"""Draws the pipeline's graph from dvc.yaml, and the dark twin of every drawing: `python docs/draw.py`."""

import re
from html import escape
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
DARK = {
    "#fff": "#14171a",
    "#2b2b2b": "#e6e8ea",
    "#666": "#a9b1ba",
    "#0072B2": "#56B4E9",
    "#009E73": "#3fc79a",
    "#CC79A7": "#e3a0c4",
}
WIDTH, HEIGHT, APART, BELOW = 168, 76, 38, 18


def darken(drawing: str) -> str:
    """The drawing for a dark ground."""
    return re.sub("|".join(DARK), lambda found: DARK[found[0]], drawing)


def read_stages() -> dict[str, dict]:
    """The stages by name: their description, how many runs, and the stages whose files they read."""
    path = ROOT / "dvc.yaml"
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
    stages = {
        name: stage | stage.get("do", {})
        for name, stage in YAML(typ="safe").load(path.read_text("utf-8"))["stages"].items()
    }
    makes = {
        str(next(iter(out)) if isinstance(out, dict) else out).split("/${")[0]: name
        for name, stage in stages.items()
        for out in stage["outs"]
    }
    found = {}
    for name, stage in stages.items():
        read = {
            makes[folder]
            for dep in stage["deps"]
            for folder in makes
            if dep == folder or dep.startswith(f"{folder}/")
        }
        runs = (
            len(params["studies"]["datasets"])
            if "matrix" in stage
            else len(params["studies"]["transfers"])
            if "foreach" in stage
            else 1
        )
        found[name] = {"desc": stage["desc"], "runs": runs, "read": sorted(read - {name})}
    return found


def layers_of(stages: dict[str, dict]) -> dict[str, int]:
    """A stage's layer: one further than the furthest that it reads."""
    layers: dict[str, int] = {}
    while len(layers) < len(stages):
        for name, stage in stages.items():
            if name not in layers and all(read in layers for read in stage["read"]):
                layers[name] = 1 + max((layers[read] for read in stage["read"]), default=-1)
    return layers


def words(text: str, width: int = 27) -> list[str]:
    """Text in lines of at most so many letters."""
    lines = [""]
    for word in text.split():
        lines = (
            [*lines[:-1], f"{lines[-1]} {word}".strip()]
            if len(lines[-1]) + len(word) < width
            else [*lines, word]
        )
    return lines


def draw_pipeline() -> str:
    """Stages as boxes, from left to right; an arrow from a stage to the next layer's that read what it made."""
    stages = read_stages()
    layers = layers_of(stages)
    columns = [
        [name for name in stages if layers[name] == layer]
        for layer in range(max(layers.values()) + 1)
    ]
    width, tallest = len(columns) * (WIDTH + APART) - APART + 24, max(map(len, columns))
    height = tallest * (HEIGHT + BELOW) + 30
    place = {
        name: (
            12 + layer * (WIDTH + APART),
            (height - 30 - len(column) * (HEIGHT + BELOW)) / 2 + row * (HEIGHT + BELOW) + 12,
        )
        for layer, column in enumerate(columns)
        for row, name in enumerate(column)
    }
    told = ". ".join(
        f"{name.replace('_', ' ')} reads {', '.join(stage['read']).replace('_', ' ') or 'the sources'}"
        for name, stage in stages.items()
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" font-size="13" role="img" aria-labelledby="t d">',
        f'<title id="t">The pipeline</title><desc id="d">{escape(told)}.</desc>',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#666"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for name, stage in stages.items():
        x, y = place[name]
        for read in stage["read"]:
            if layers[read] == layers[name] - 1:
                start, end = (
                    (place[read][0] + WIDTH + 2, place[read][1] + HEIGHT / 2),
                    (x - 3, y + HEIGHT / 2),
                )
                bend = (start[0] + end[0]) / 2
                path = f"M{start[0]} {start[1]}C{bend} {start[1]} {bend} {end[1]} {end[0]} {end[1]}"
                parts.append(
                    f'<path d="{path}" stroke="#666" stroke-width="1.4" fill="none" marker-end="url(#a)"/>'
                )
        parts.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="7" stroke="#0072B2" stroke-width="1.5" fill="#0072B2" fill-opacity=".07"/>'
        )
        times = f" × {stage['runs']}" if stage["runs"] > 1 else ""
        parts.append(
            f'<text x="{x + WIDTH / 2}" y="{y + 20}" text-anchor="middle" font-weight="600" fill="#2b2b2b">{name.replace("_", " ")}{times}</text>'
        )
        for line, text in enumerate(words(stage["desc"])):
            parts.append(
                f'<text x="{x + WIDTH / 2}" y="{y + 37 + 14 * line}" text-anchor="middle" font-size="11" fill="#666">{escape(text)}</text>'
            )
    below = "Each stage runs a notebook, once a dataset or pair where × stands. Every study also reads the data and features."
    parts.append(f'<text x="12" y="{height - 10}" font-size="11" fill="#666">{below}</text>')
    return "\n".join([*parts, "</svg>", ""])


def draw() -> dict[str, str]:
    """Every drawing that is made here, by its file's name."""
    pipeline, model = draw_pipeline(), (ROOT / "docs" / "model.svg").read_text("utf-8")
    return {
        "pipeline.svg": pipeline,
        "pipeline-dark.svg": darken(pipeline),
        "model-dark.svg": darken(model),
    }


if __name__ == "__main__":
    for name, drawing in draw().items():
        (ROOT / "docs" / name).write_text(drawing, "utf-8")
