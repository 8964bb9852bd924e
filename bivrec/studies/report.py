"""Tables of the report, computed and never typed."""

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from bivrec.errors import SettingsError
from bivrec.evaluation import interval_table
from bivrec.settings import profile_folder, project_root


def main_table(
    ranks: pd.DataFrame, metrics: Sequence[str] = ("ndcg@20", "recall@20", "hr@20")
) -> pd.DataFrame:
    """Each model and view on each dataset: means over users and seeds, NDCG with its interval."""
    keys = ["dataset", "model", "view"]
    first, *others = (interval_table(ranks, metric, keys) for metric in metrics)
    table = first.rename(columns={"mean": metrics[0]})
    for metric, other in zip(metrics[1:], others):
        table = table.merge(other.rename(columns={"mean": metric})[[*keys, metric]], on=keys)
    return table.sort_values(["dataset", metrics[0]], ascending=[True, False]).reset_index(
        drop=True
    )


def cost_table(runs: pd.DataFrame, ranks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What each trained model cost and reached: parameters, operations (GFLOP) a step and up to the best step, epochs, and
    where the profile keeps them seconds; its combined or only view on the test users, with the 95 % interval."""
    cost = runs[(runs["study"] == "training") & (runs["split"] == "train")].pivot_table(
        index=["dataset", "model"], columns="metric", values="value"
    )
    cost["GFLOP a step"] = cost["flops_per_step"] / 1e9
    cost["GFLOP to best"] = cost["GFLOP a step"] * cost["best_step"]
    main = ranks[
        (ranks["view"] == "both")
        | ~ranks["model"].isin(ranks.loc[ranks["view"] == "both", "model"])
    ]
    quality = interval_table(main, metric, ["dataset", "model"]).rename(columns={"mean": "quality"})
    return quality.merge(
        cost.drop(columns=["flops_per_step", "targets"]).reset_index(), on=["dataset", "model"]
    )


def summarise(runs: pd.DataFrame) -> dict[str, Any]:
    """For `dvc metrics`: the test means of the whole field, by dataset, model and view."""
    chosen = runs[
        (runs["study"] == "training")
        & (runs["split"] == "test")
        & runs["metric"].isin(["ndcg@20", "recall@20", "hr@20"])
    ]
    summary: dict[str, Any] = {}
    for (name, model, view, metric), values in chosen.groupby(
        ["dataset", "model", "view", "metric"]
    )["value"]:
        place = summary.setdefault(name, {}).setdefault(model, {}).setdefault(view, {})
        place[metric] = {
            "mean": round(float(values.mean()), 5),
            "spread over seeds": round(float(values.std(ddof=0)), 5),
        }
    return summary


def side_by_side_table(main: pd.DataFrame) -> pd.DataFrame:
    """NDCG@20 with its interval of every model and view, a column a dataset, best on average first."""
    cells = main.assign(
        cell=[
            f"{mean:.3f} ({low:.3f} to {high:.3f})"
            for mean, low, high in main[["ndcg@20", "low", "high"]].to_numpy()
        ]
    )
    order = main.groupby(["model", "view"])["ndcg@20"].mean().sort_values(ascending=False).index
    return (
        cells.pivot(index=["model", "view"], columns="dataset", values="cell")
        .loc[order]
        .reset_index()
    )


def write_readme() -> None:
    """Puts the tables of results/ into README.md, between their marks."""
    root = project_root()
    text, tables, below = (root / "README.md").read_text("utf-8"), {}, {}
    for profile in ("default", "full", "wide"):
        folder = profile_folder("results", profile) / "08_report" / "all"
        if not (folder / "main.csv").is_file():
            raise SettingsError(
                f"{folder.relative_to(root)}/main.csv is missing; `make repro{'' if profile == 'default' else f' PROFILE={profile}'}` makes it"
            )
        claims = pd.read_csv(folder / "claims.csv", keep_default_na=False)
        if (
            profile != "full"
        ):  # its training is full's, shorter: only what its studies tell is shown
            claims, studies = (
                claims[claims["claim"].between("5", "8") & (claims["verdict"] != "open")],
                claims[claims["claim"].between("5", "8")],
            )
            below[f"claims {profile}"] = (
                f"\n\nThe other {len(studies) - len(claims)} of the studies' {len(studies)} tests are open."
            )
        claims["effect on NDCG@20"] = [
            f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
            for mean, low, high in claims[["mean", "low", "high"]].to_numpy()
        ]
        if profile != "wide":
            tables[f"main {profile}"] = side_by_side_table(pd.read_csv(folder / "main.csv"))
        tables[f"claims {profile}"] = claims[
            ["claim", "dataset", "ours", "theirs", "effect on NDCG@20", "adjusted p", "verdict"]
        ]
    for name, table in tables.items():
        rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
        body = "\n".join(
            "| "
            + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
            + " |"
            for row in rows
        )
        text = re.sub(
            rf"<!-- {name} -->.*<!-- /{name} -->",
            f"<!-- {name} -->\n{body}{below.get(name, '')}\n<!-- /{name} -->",
            text,
            flags=re.DOTALL,
        )
    (root / "README.md").write_text(text, "utf-8")
