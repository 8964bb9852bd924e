"""`make bench-stages`: where the minutes of the last `make repro` are, by stage.

Reads the seconds that each stage recorded; writes stages.csv, stages.png and README.md.
"""

import pandas as pd
from record import HERE, fill, read_json

from bivrec.pipeline.provenance import provenance_file
from bivrec.plots.style import INTEREST_COLOURS, set_theme


def read_stages(makers: list[dict]) -> pd.DataFrame:
    """Seconds of each stage's last run: notebooks as rows, datasets as columns."""
    seconds = pd.Series(
        {
            tuple(stage.split("/")): run["seconds"]
            for maker in makers
            for stage, run in maker["stages"].items()
        }
    )
    return seconds.unstack().sort_index()


def write_table(table: pd.DataFrame, machine: str) -> None:
    """Minutes and share of the whole by notebook, into README.md."""
    minutes = table.sum(axis=1) / 60
    lines = [
        f"{machine}: {minutes.sum():.0f} minutes.",
        "",
        "| notebook | minutes | of all |",
        "|---|---|---|",
    ]
    for notebook, value in minutes.items():
        lines.append(f"| {notebook} | {value:.1f} | {100 * value / minutes.sum():.0f} % |")
    fill("stages", lines)


def draw(table: pd.DataFrame) -> None:
    """A bar per notebook, a part per dataset."""
    set_theme()
    parts = (table / 60).rename(columns={"all": "the whole study"})
    colours = INTEREST_COLOURS[: parts.shape[1]]
    axis = parts.plot.barh(stacked=True, figsize=(8.5, 3.4), width=0.7, color=colours)
    axis.invert_yaxis()
    axis.set(xlabel="minutes", ylabel="")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axis.figure.savefig(HERE / "stages.png", metadata={"Software": None})


def main() -> None:
    path = provenance_file("default")
    makers = read_json(path).get("made by")
    if not makers:
        raise SystemExit(f"ERROR: {path} is missing; `make repro` writes it")
    table, last = read_stages(makers), makers[-1]
    table.to_csv(HERE / "stages.csv", float_format="%.1f", index_label="notebook")
    date = max(run["date"] for run in last["stages"].values())
    write_table(table, f"{last['processor']}, {last['cores']} cores, {date}")
    draw(table)


if __name__ == "__main__":
    main()
