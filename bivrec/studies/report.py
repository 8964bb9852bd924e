"""The report: tables of every run, and the pages (README.md, docs/studies.md) that show them."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bivrec.errors import SettingsError
from bivrec.evaluation import interval_table
from bivrec.experiment.runs import combined_views
from bivrec.outputs import read_output, write_atomically
from bivrec.settings import project_root

PAGES = ("README.md", "docs/studies.md")
UNDECIDED = ("negligible", "open")
MARKED = re.compile(r"<!-- ([a-z ]+) -->.*?<!-- /\1 -->", re.DOTALL)


def main_table(
    ranks: pd.DataFrame, metrics: Sequence[str] = ("ndcg@20", "recall@20", "hr@20")
) -> pd.DataFrame:
    """Each model and view on each dataset: means over users and seeds, best first.

    `low` and `high` bound the first metric's 95 % interval."""
    keys = ["dataset", "model", "view"]
    metrics = list(dict.fromkeys(metrics))
    first, *others = (
        interval_table(ranks, metric, keys).rename(columns={"mean": metric}) for metric in metrics
    )
    for metric, other in zip(metrics[1:], others):
        first = first.merge(other[[*keys, metric]], on=keys)
    return first.sort_values(["dataset", metrics[0]], ascending=[True, False], ignore_index=True)


def cost_table(runs: pd.DataFrame, ranks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What each trained model costs and reaches, a row per dataset and model, dataset by dataset.

    `quality`, `low`, `high`: the metric of its combined or only view on the test users, with the
    95 % interval. Costs: parameters, GFLOP per step and up to the best step, epochs, and the
    seconds where the profile records them."""
    training = runs[(runs["study"] == "training") & (runs["split"] == "train")]
    cost = training.pivot_table(index=["dataset", "model"], columns="metric", values="value")
    cost = cost.reindex(columns=cost.columns.union(["flops_per_step", "best_step", "targets"]))
    cost["GFLOP a step"] = cost["flops_per_step"] / 1e9
    cost["GFLOP to best"] = cost["GFLOP a step"] * cost["best_step"]
    cost = cost.drop(columns=["flops_per_step", "targets"]).reset_index()
    quality = interval_table(combined_views(ranks), metric, ["dataset", "model"])
    table = quality.rename(columns={"mean": "quality"}).merge(cost, on=["dataset", "model"])
    return table.sort_values("dataset", kind="stable", ignore_index=True)


def summarise(runs: pd.DataFrame) -> dict[str, Any]:
    """Test means and their spread over seeds for `dvc metrics`: dataset > model > view > metric."""
    trained = (runs["study"] == "training") & (runs["condition"].fillna("") == "")
    tested = trained & (runs["split"] == "test")
    chosen = runs[tested & runs["metric"].isin(["ndcg@20", "recall@20", "hr@20"])]
    keys = ["dataset", "model", "view", "metric"]
    summary: dict[str, Any] = {}
    for (name, model, view, metric), values in chosen.groupby(keys)["value"]:
        views = summary.setdefault(name, {}).setdefault(model, {})
        views.setdefault(view, {})[metric] = {
            "mean": round(float(values.mean()), 5),
            "spread over seeds": round(float(values.std(ddof=0)), 5),
        }
    return summary


def _intervals(table: pd.DataFrame, mean: str, form: str) -> list[str]:
    """Each row's mean and, where it has one, its interval."""
    return [
        f"{x:{form}}" + ("" if np.isnan(low) else f" ({low:{form}} to {high:{form}})")
        for x, low, high in table[[mean, "low", "high"]].to_numpy()
    ]


def side_by_side_table(main: pd.DataFrame) -> pd.DataFrame:
    """The first metric and its interval, if any: a row per model and view, best mean first; a
    column per dataset."""
    metric = next(name for name in main if "@" in name)
    cells = main.assign(cell=_intervals(main, metric, ".3f"))
    keys = ["model", "view"]
    order = main.groupby(keys)[metric].mean().sort_values(ascending=False).index
    return cells.pivot(index=keys, columns="dataset", values="cell").loc[order].reset_index()


def best_models_table(main: pd.DataFrame, num_models: int = 10) -> pd.DataFrame:
    """`side_by_side_table` of the best models, each with its combined or only view."""
    return side_by_side_table(combined_views(main)).head(num_models)


def claims_table(claims: pd.DataFrame) -> pd.DataFrame:
    """The table of `check_claims` as the pages show it, without the family."""
    effect = f"effect on {next(iter(claims['metric']), 'the metric').upper()}"
    shown = ["claim", "dataset", "ours", "theirs", effect, "detectable", "adjusted p", "verdict"]
    return claims.assign(**{effect: _intervals(claims, "mean", "+.3f")})[shown]


def to_markdown(table: pd.DataFrame) -> str:
    """A Markdown table; floats have three decimals."""
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    texts = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in r] for r in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in texts)


def _read_table(name: str) -> pd.DataFrame:
    return read_output("08_report", "all", name, place="results")


def _claims() -> str:
    """The confirmatory claims and the significant exploratory tests as Markdown, and the verdicts
    of the other exploratory tests."""
    claims = _read_table("claims.csv")
    confirmatory = claims["family"] == "confirmatory"
    tests = claims[~confirmatory]
    decided = tests["verdict"].isin(["holds", "fails"])
    words = " and ".join(f"{sum(tests['verdict'] == word)} {word}" for word in UNDECIDED)
    found = f"Exploratory: {decided.sum()} of {len(tests)} tests (the others: {words})."
    tables = [to_markdown(claims_table(part)) for part in (claims[confirmatory], tests[decided])]
    return "\n\n".join(["Confirmatory:", tables[0], found, tables[1]])


def structure_table(structure: pd.DataFrame) -> pd.DataFrame:
    """What `summarise_structure` says of BivRec (and the column dataset): a row per dataset and
    view, a column per measure, each a mean with its interval and, if it has a bound, a verdict."""
    own = structure[structure["model"] == "bivrec"].fillna({"verdict": ""})
    texts = zip(_intervals(own, "mean", ".2f"), own["verdict"])
    cells = own.assign(cell=[" ".join(filter(None, pair)) for pair in texts])
    keys, order = ["dataset", "view"], list(dict.fromkeys(own["measure"]))
    return cells.pivot(index=keys, columns="measure", values="cell")[order].reset_index()


def _interests() -> str:
    """The structure of BivRec's interests, and the tests of its controls, as Markdown."""
    datasets = _read_table("main.csv")["dataset"].unique()
    tables = [
        read_output("03_training", name, "structure.csv", place="results").assign(dataset=name)
        for name in datasets
    ]
    claims = _read_table("claims.csv")
    controls = claims_table(claims[claims["claim"].str.startswith("9")])
    return f"{to_markdown(structure_table(pd.concat(tables)))}\n\n{to_markdown(controls)}"


def beyond_table(differences: pd.DataFrame) -> pd.DataFrame:
    """What `compare_variants` found: a row per dataset and variant, a column per measure."""
    cells = differences.assign(cell=_intervals(differences, "mean", "+.4f"))
    order = list(dict.fromkeys(cells["measure"]))
    table = cells.pivot(index=["dataset", "theirs"], columns="measure", values="cell")[order]
    return table.fillna("").reset_index()


def _fill(mark: re.Match[str], tables: dict[str, str]) -> str:
    name = mark[1]
    return f"<!-- {name} -->\n{tables[name]}\n<!-- /{name} -->" if name in tables else mark[0]


def write_pages() -> None:
    """Writes the tables of results/ into README.md and docs/studies.md, between their marks.

    A table stands between `<!-- name -->` and `<!-- /name -->`. `results` shows the best models,
    `main` all models, `claims` the confirmatory claims and the significant exploratory tests,
    `interests` what BivRec's interests carry, `beyond` how its lists differ from those of variants
    without distinct interests. Raises SettingsError when results, or the marks of a
    table, are missing."""
    main = _read_table("main.csv")
    tables = {
        "results": to_markdown(best_models_table(main)),
        "main": to_markdown(side_by_side_table(main)),
        "claims": _claims(),
        "interests": _interests(),
        "beyond": to_markdown(beyond_table(_read_table("beyond_differences.csv"))),
    }
    paths = [project_root() / page for page in PAGES]
    texts = [path.read_text("utf-8") for path in paths]
    if missing := sorted(tables.keys() - set(MARKED.findall("".join(texts)))):
        name = missing[0]
        raise SettingsError(
            f"neither {' nor '.join(PAGES)} has the marks <!-- {name} --> and <!-- /{name} -->; "
            f"put them back where the table belongs"
        )
    for path, text in zip(paths, texts):
        write_atomically(path, MARKED.sub(lambda mark: _fill(mark, tables), text))
