"""Report: the runs that params.yaml names, gathered; tables and comparisons computed from them, never typed."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import pandas as pd

from bivrec.domains import Domain
from bivrec.evaluation import interval_table
from bivrec.results import kept
from bivrec.settings import SettingsError, load_settings, project_root
from bivrec.studies import RUN_COLUMNS, compare, rank_models, to_runs, train_models

PAIRS = [  # ours, theirs
    (("bivrec", "id"), ("popularity", "id")),
    (("sasrec", "id"), ("popularity", "id")),
    (("bivrec", "id"), ("sasrec", "id")),
    (("bivrec", "id"), ("itemknn-recency", "id")),
    (("bivrec", "id"), ("pure-id", "id")),
    (("bivrec", "multimodal"), ("pure-mm", "multimodal")),
    (("bivrec", "both"), ("bivrec", "id")),
    (("bivrec", "both"), ("sasrec-fused", "both")),
    (("bivrec", "both"), ("sasrec-sum", "both")),
    (("sasrec-fused", "both"), ("sasrec", "id")),
    (("gru4rec-fused", "both"), ("gru4rec", "id")),
    (("comirec-sa-fused", "both"), ("comirec-sa", "id")),
]


@cache
def _planted_ranks(profile: str) -> pd.DataFrame:
    domain = Domain("planted", profile=profile)
    return rank_models(domain, train_models(domain, ["bivrec", "sasrec", "popularity"]))


def gather_runs(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """Every figure of every stage that params.yaml names, one a row; planted alone is trained here."""
    if not whole_study:
        return to_runs(Domain("planted", profile=profile), "training", _planted_ranks(profile))
    studies = load_settings(profile=profile).studies
    pairs = [f"{pair.source}-{pair.target}" for pair in studies.transfers.values()]
    labels = [(stage, label) for stage in studies.stages for label in (pairs if stage == "07_cross_dataset" else studies.datasets)]
    runs = pd.concat([kept(stage, label, "runs.csv", profile) for stage, label in labels], ignore_index=True)
    return runs.sort_values(RUN_COLUMNS[:-1], kind="stable").reset_index(drop=True)


def gather_ranks(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """The test ranks of the whole field (column dataset)."""
    if not whole_study:
        return _planted_ranks(profile).assign(dataset="planted")
    datasets = load_settings(profile=profile).studies.datasets
    return pd.concat([kept("03_training", name, "ranks.csv", profile).assign(dataset=name) for name in datasets], ignore_index=True)


def main_table(ranks: pd.DataFrame, metrics: Sequence[str] = ("ndcg@20", "recall@20", "hr@20")) -> pd.DataFrame:
    """Each model and view on each dataset: means over users and seeds, NDCG with its interval."""
    keys = ["dataset", "model", "view"]
    first, *others = (interval_table(ranks, metric, keys) for metric in metrics)
    table = first.rename(columns={"mean": metrics[0]})
    for metric, other in zip(metrics[1:], others):
        table = table.merge(other.rename(columns={"mean": metric})[[*keys, metric]], on=keys)
    return table.sort_values(["dataset", metrics[0]], ascending=[True, False]).reset_index(drop=True)


def compare_models(ranks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The comparisons the paper makes or implies, each paired over the same users; a verdict only where zero is excluded."""
    rows = []
    for name, part in ranks.groupby("dataset", sort=False):
        present = set(zip(part["model"], part["view"]))
        for ours, theirs in PAIRS:
            if {ours, theirs} <= present:
                row = compare(part, ours, theirs, metric)
                verdict = "above" if row["low"] > 0 else "below" if row["high"] < 0 else "not told apart"
                rows.append({"dataset": name, **row, "verdict": verdict})
    return pd.DataFrame(rows)


def summarise(runs: pd.DataFrame) -> dict[str, Any]:
    """For `dvc metrics`: the test means of the whole field, by dataset, model and view."""
    chosen = runs[(runs["study"] == "training") & (runs["split"] == "test") & runs["metric"].isin(["ndcg@20", "recall@20", "hr@20"])]
    summary: dict[str, Any] = {}
    for (name, model, view, metric), values in chosen.groupby(["dataset", "model", "view", "metric"])["value"]:
        place = summary.setdefault(name, {}).setdefault(model, {}).setdefault(view, {})
        place[metric] = {"mean": round(float(values.mean()), 5), "spread over seeds": round(float(values.std(ddof=0)), 5)}
    return summary


def write_readme() -> None:
    """Puts the main table and the comparisons into README.md, between their marks."""
    root = project_root()
    folder, path = root / "results" / "08_report" / "all", root / "README.md"
    if not (folder / "main.csv").is_file():
        raise SettingsError("results/08_report/all/main.csv is missing; `make repro` makes it")
    main, compared = pd.read_csv(folder / "main.csv"), pd.read_csv(folder / "comparisons.csv")
    main["NDCG@20"] = [f"{m:.3f} ({low:.3f} to {high:.3f})" for m, low, high in zip(main["ndcg@20"], main["low"], main["high"])]
    compared["difference in NDCG@20"] = [f"{m:+.3f} ({low:+.3f} to {high:+.3f})" for m, low, high in zip(compared["mean"], compared["low"], compared["high"])]
    text = path.read_text("utf-8")
    for name, table in (
        ("main", main[["dataset", "model", "view", "NDCG@20", "recall@20", "hr@20"]].rename(columns={"recall@20": "Recall@20", "hr@20": "HR@20"})),
        (
            "comparisons",
            compared[["dataset", "ours", "theirs", "difference in NDCG@20", "verdict"]].rename(columns={"ours": "model", "theirs": "compared with"}),
        ),
    ):
        lines = [" | ".join(table.columns), " | ".join("---" for _ in table.columns)]
        lines += [" | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row) for row in table.itertuples(index=False)]
        body = "\n".join(f"| {line} |" for line in lines)
        text = re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", f"<!-- {name} -->\n{body}\n<!-- /{name} -->", text, flags=re.DOTALL)
    path.write_text(text, "utf-8")
