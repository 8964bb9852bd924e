"""Report: the runs that params.yaml names, gathered; tables and verdicts computed from them, never typed."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from bivrec.domains import Domain
from bivrec.evaluation import holm, interval_table
from bivrec.field import RUN_COLUMNS, compare, cost_runs, rank_models, to_runs, train_models
from bivrec.results import LEFT_OUT, kept
from bivrec.settings import SettingsError, load_settings, profile_folder, project_root, training_profile
from bivrec.studies import diagnose

OWN = ("bivrec", "bivrec-one-target", "pure-id", "pure-mm")
CLAIMS = [  # ours, theirs; "best": the one of its kind that the validation users choose
    ("0 it learns: above popularity", ("bivrec", "id"), ("popularity", "id")),
    ("0 it learns: above popularity", ("sasrec", "id"), ("popularity", "id")),
    ("1 BivRec's ID view is above every ID baseline", ("bivrec", "id"), ("best rival", "id")),
    ("1 BivRec's ID view is above every ID baseline", ("bivrec", "id"), ("sasrec", "id")),
    ("1 BivRec is above every baseline", ("bivrec", "best"), ("best rival", "best")),
    ("1 BivRec is above every baseline", ("bivrec", "best"), ("sasrec-fused", "both")),
    ("1 BivRec is above two views trained apart", ("bivrec", "best"), ("sasrec-sum", "both")),
    ("2 joint training lifts the ID view", ("bivrec", "id"), ("pure-id", "id")),
    ("2 joint training lifts the multimodal view", ("bivrec", "multimodal"), ("pure-mm", "multimodal")),
    ("4 features lift the baselines", ("sasrec-fused", "both"), ("sasrec", "id")),
    ("4 features lift the baselines", ("gru4rec-fused", "both"), ("gru4rec", "id")),
    ("4 features lift the baselines", ("comirec-sa-fused", "both"), ("comirec-sa", "id")),
    ("ours: every position teaches more than one target", ("bivrec", "both"), ("bivrec-one-target", "both")),
]


@cache
def _planted(profile: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    domain = Domain("planted", profile=profile)
    trained = train_models(domain, ["bivrec", "sasrec", "popularity"])
    ranks = rank_models(domain, trained)
    return ranks, pd.concat([to_runs(domain, "training", ranks), cost_runs(domain, trained, "training")], ignore_index=True)


def stage_labels(profile: str) -> list[tuple[str, str]]:
    """Every stage of the profile with each of its labels, a dataset or a pair of them, but those that were left out."""
    studies = load_settings(profile=profile).studies
    pairs = [f"{pair.source}-{pair.target}" for pair in studies.transfers.values()]
    every = [(stage, label) for stage in studies.stages for label in (pairs if stage == "07_cross_dataset" else studies.datasets)]
    return [named for named in every if not (profile_folder("build", profile).joinpath(*named) / LEFT_OUT).is_file()]


def gather_runs(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """Every figure of every stage that params.yaml names, one a row; planted alone is trained here."""
    if not whole_study:
        return _planted(profile)[1]
    studies, runs = load_settings(profile=profile).studies, [kept(stage, label, "runs.csv", profile) for stage, label in stage_labels(profile)]
    if (trained := training_profile(profile, studies)) != profile:
        runs += [kept("03_training", name, "runs.csv", trained) for name in studies.datasets]
    runs = pd.concat(runs, ignore_index=True)
    return runs.sort_values(RUN_COLUMNS[:-1], kind="stable").reset_index(drop=True)


def gather_ranks(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """The test ranks of the whole field (column dataset)."""
    if not whole_study:
        return _planted(profile)[0].assign(dataset="planted")
    studies = load_settings(profile=profile).studies
    trained = training_profile(profile, studies)
    return pd.concat([kept("03_training", name, "ranks.csv", trained).assign(dataset=name) for name in studies.datasets], ignore_index=True)


def gather_claims(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """The tests of the claims that the studies made themselves (04 to 07)."""
    if not whole_study:
        return pd.DataFrame()
    labels = [(stage, label) for stage, label in stage_labels(profile) if stage not in ("03_training", "10_protocols")]
    return pd.concat([kept(stage, label, "claims.csv", profile) for stage, label in labels] or [pd.DataFrame()], ignore_index=True)


def gather_diagnostics(whole_study: bool, profile: str = "default") -> pd.DataFrame:
    """What 06 diagnosed of the trained models (columns dataset, model, diagnostic, view, value)."""
    if not whole_study:
        domain = Domain("planted", profile=profile)
        return diagnose(domain, train_models(domain, ["bivrec"])[0]).assign(dataset="planted", model="bivrec")
    labels = [label for stage, label in stage_labels(profile) if stage == "06_cold_start"]
    return pd.concat([kept("06_cold_start", label, "diagnostics.csv", profile) for label in labels] or [pd.DataFrame()], ignore_index=True)


def main_table(ranks: pd.DataFrame, metrics: Sequence[str] = ("ndcg@20", "recall@20", "hr@20")) -> pd.DataFrame:
    """Each model and view on each dataset: means over users and seeds, NDCG with its interval."""
    keys = ["dataset", "model", "view"]
    first, *others = (interval_table(ranks, metric, keys) for metric in metrics)
    table = first.rename(columns={"mean": metrics[0]})
    for metric, other in zip(metrics[1:], others):
        table = table.merge(other.rename(columns={"mean": metric})[[*keys, metric]], on=keys)
    return table.sort_values(["dataset", metrics[0]], ascending=[True, False]).reset_index(drop=True)


def chosen_by_validation(scores: pd.Series, pair: tuple[str, str]) -> tuple[str, str]:
    """The (model, view) that a pair of `CLAIMS` names, "best" being read from validation means indexed by (model, view)."""
    model, view = pair
    fit = [key for key in scores.index if (key[0] not in OWN if model == "best rival" else key[0] == model) and view in ("best", key[1])]
    return max(fit, key=scores.get) if fit else pair


def check_claims(runs: pd.DataFrame, ranks: pd.DataFrame, further: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What of the paper's claims can be checked, each a paired test over the same users, Holm-adjusted over all of the table:
    *holds* or *fails* where the adjusted p is below 0.05, else *open*. `further` holds the studies' own tests."""
    rows = []
    judged = runs[(runs["study"] == "training") & (runs["split"] == "validation") & (runs["metric"] == metric)]
    for name, part in ranks.groupby("dataset", sort=False):
        scores = judged[judged["dataset"] == name].groupby(["model", "view"])["value"].mean()
        present, means = set(zip(part["model"], part["view"])), interval_table(part, metric, ["model", "view"]).set_index(["model", "view"])["mean"]
        for claim, *pairs in CLAIMS:
            ours, theirs = (chosen_by_validation(scores, pair) for pair in pairs)
            if {ours, theirs} <= present:
                test = compare(part, ours, theirs, metric)
                rows.append({"claim": claim, "dataset": name, **test, "relative": test["mean"] / means[theirs]})
    table = pd.concat([pd.DataFrame(rows), further], ignore_index=True).drop_duplicates(["claim", "dataset", "ours", "theirs"])
    tests = table.drop_duplicates(same := ["dataset", "ours", "theirs", "mean", "p"])[same]  # one pair may stand for two claims
    table = table.merge(tests.assign(**{"adjusted p": holm(tests["p"].to_numpy())}), on=same)
    told = np.where(table["mean"] > 0, "holds", "fails")
    table["verdict"] = np.where(table["adjusted p"] < 0.05, told, "open")
    return table.sort_values(["claim", "dataset"], kind="stable").reset_index(drop=True)


def cost_table(runs: pd.DataFrame, ranks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What each trained model cost and reached: parameters, operations (GFLOP) a step and up to the best step, epochs, and
    where the profile keeps them seconds; its combined or only view on the test users, with the 95 % interval."""
    cost = runs[(runs["study"] == "training") & (runs["split"] == "train")].pivot_table(index=["dataset", "model"], columns="metric", values="value")
    cost["GFLOP a step"] = cost["flops_per_step"] / 1e9
    cost["GFLOP to best"] = cost["GFLOP a step"] * cost["best_step"]
    main = ranks[(ranks["view"] == "both") | ~ranks["model"].isin(ranks.loc[ranks["view"] == "both", "model"])]
    quality = interval_table(main, metric, ["dataset", "model"]).rename(columns={"mean": "quality"})
    return quality.merge(cost.drop(columns=["flops_per_step", "targets"]).reset_index(), on=["dataset", "model"])


def summarise(runs: pd.DataFrame) -> dict[str, Any]:
    """For `dvc metrics`: the test means of the whole field, by dataset, model and view."""
    chosen = runs[(runs["study"] == "training") & (runs["split"] == "test") & runs["metric"].isin(["ndcg@20", "recall@20", "hr@20"])]
    summary: dict[str, Any] = {}
    for (name, model, view, metric), values in chosen.groupby(["dataset", "model", "view", "metric"])["value"]:
        place = summary.setdefault(name, {}).setdefault(model, {}).setdefault(view, {})
        place[metric] = {"mean": round(float(values.mean()), 5), "spread over seeds": round(float(values.std(ddof=0)), 5)}
    return summary


def side_by_side_table(main: pd.DataFrame) -> pd.DataFrame:
    """NDCG@20 with its interval of every model and view, a column a dataset, best on average first."""
    cells = main.assign(cell=[f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in main[["ndcg@20", "low", "high"]].to_numpy()])
    order = main.groupby(["model", "view"])["ndcg@20"].mean().sort_values(ascending=False).index
    return cells.pivot(index=["model", "view"], columns="dataset", values="cell").loc[order].reset_index()


def write_readme() -> None:
    """Puts the tables of results/ into README.md, between their marks."""
    root = project_root()
    text, tables, below = (root / "README.md").read_text("utf-8"), {}, {}
    for profile in ("default", "full", "wide"):
        folder = profile_folder("results", profile) / "08_report" / "all"
        if not (folder / "main.csv").is_file():
            raise SettingsError(f"{folder.relative_to(root)}/main.csv is missing; `make repro{'' if profile == 'default' else f' PROFILE={profile}'}` makes it")
        claims = pd.read_csv(folder / "claims.csv", keep_default_na=False)
        if profile != "full":  # its training is full's, shorter: only what its studies tell is shown
            claims, studies = claims[claims["claim"].between("5", "8") & (claims["verdict"] != "open")], claims[claims["claim"].between("5", "8")]
            below[f"claims {profile}"] = f"\n\nThe other {len(studies) - len(claims)} of the studies' {len(studies)} tests are open."
        claims["effect on NDCG@20"] = [f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" for mean, low, high in claims[["mean", "low", "high"]].to_numpy()]
        if profile != "wide":
            tables[f"main {profile}"] = side_by_side_table(pd.read_csv(folder / "main.csv"))
        tables[f"claims {profile}"] = claims[["claim", "dataset", "ours", "theirs", "effect on NDCG@20", "adjusted p", "verdict"]]
    for name, table in tables.items():
        rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
        body = "\n".join("| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row) + " |" for row in rows)
        text = re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", f"<!-- {name} -->\n{body}{below.get(name, '')}\n<!-- /{name} -->", text, flags=re.DOTALL)
    (root / "README.md").write_text(text, "utf-8")
