"""`make bench-interests`: forms of BivRec, compared on development users.

`interests`: how the interests receive what the patches give. `losses`: which losses connect the
views, and which view learns from them. Each form is trained on the folds that 09 tunes on and
judged by these folds' validation users. Needs `make repro` to have prepared the data.
Writes interests.csv, interests.png, losses.csv and README.md.

    python benchmarks/interests.py [DATASET ...]     measures these datasets; other rows stay
    python benchmarks/interests.py tables            writes the tables into README.md
"""

import sys
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from record import HERE, fill

from bivrec.data.domain import Domain
from bivrec.evaluation import estimate_mean, paired_test, rank_cases, user_metrics
from bivrec.experiment.structure import CONTROLS, apply_control, interest_structure
from bivrec.experiment.training import train_model
from bivrec.plots.style import GREY, INTEREST_COLOURS, set_theme, start_panels
from bivrec.settings import load_settings
from bivrec.studies.report import to_markdown

METRIC = "ndcg@20"
DATASETS = ("movies-classic", "movies-modern")
MANY = 1000  # users, with whom a change of a few thousandths is visible
INTERVAL = ("mean", "low", "high")


def interests(count: int, nearest: int, newest: str) -> dict[str, Any]:
    """A form of the interests: K, F and who receives the newest patches."""
    return {"model.num_interests": count, "model.num_nearest": nearest, "model.newest": newest}


def losses(coarse: float, fine: float, item: float, mutual: float) -> dict[str, Any]:
    """The weights of the losses between the views."""
    weights = {"coarse": coarse, "fine": fine, "item": item, "mutual": mutual}
    return {f"cross_view.{name}_weight": weight for name, weight in weights.items()}


FORMS = {  # of each family the first is the one with which the others are compared
    "interests": {
        "K = 2, newest patch in all": interests(2, 1, "all"),
        "K = 4, F = 2": interests(4, 2, "owners"),
        "K = 4, F = 3": interests(4, 3, "owners"),
        "K = 4, F = 1": interests(4, 1, "owners"),
        "K = 3, F = 2": interests(3, 2, "owners"),
        "K = 2, F = 1": interests(2, 1, "owners"),
        "K = 4, F = 1, newest patch of each interest": interests(4, 1, "per_interest"),
    },
    "losses": {
        "none": losses(0.0, 0.0, 0.0, 0.0),
        "all": {},
        "coarse and fine": losses(0.05, 0.05, 0.0, 0.0),
        "coarse and fine, ten times their weights": losses(0.5, 0.5, 0.0, 0.0),
        "item alignment": losses(0.0, 0.0, 0.2, 0.0),
        "mutual learning": losses(0.0, 0.0, 0.0, 0.1),
        "all, only the ID view learns": {"cross_view.learner": "id"},
        "all, only the multimodal view learns": {"cross_view.learner": "multimodal"},
        "none; K = 2, newest patch in all": losses(0.0, 0.0, 0.0, 0.0) | interests(2, 1, "all"),
        "all; K = 2, newest patch in all": interests(2, 1, "all"),
    },
}
MEASURES = ("overlap", "effective_interests", "other_interests")


def train_form(dataset: str, changes: dict[str, Any], seed: int) -> pd.DataFrame:
    """The validation users' metric as trained and under each control, and their interests' measures
    (columns view, user, condition, value)."""
    domain = Domain(dataset, changes)
    trained, cases = train_model(domain, "bivrec", seed), domain.fold(seed).validation
    models = {"as trained": trained.model}
    models |= {control: apply_control(trained.model, control) for control in CONTROLS}
    users = [
        user_metrics(rank_cases(model, cases)).assign(condition=condition)
        for condition, model in models.items()
    ]
    users = pd.concat(users)[["view", "user", "condition", METRIC]]
    structure = interest_structure(trained, cases)[["view", "user", *MEASURES]]
    structure = structure.melt(["view", "user"], var_name="condition").dropna()
    return pd.concat([users.rename(columns={METRIC: "value"}), structure], ignore_index=True)


def summarise(users: pd.DataFrame) -> pd.DataFrame:
    """Means with 95 % intervals over users and seeds, by dataset, form and view.

    `as trained` and the measures are means, `change` is the difference from the first form, and
    each control is the metric as trained minus the metric under the control."""
    columns, rows = ["seed", "user", "value"], []
    first = next(form for family in FORMS.values() for form in family if form in set(users["form"]))
    keys = ["dataset", "view", "form", "condition"]
    groups = {key: group[columns] for key, group in users.groupby(keys, sort=False)}
    for (*key, condition), group in groups.items():
        own = groups[*key, "as trained"] if (*key, "as trained") in groups else None
        figures = {condition: estimate_mean(group, "value")._asdict()}
        if condition in CONTROLS:
            figures = {condition: paired_test(own, group, "value")}
        elif condition == "as trained" and key[-1] != first:
            figures["change"] = paired_test(own, groups[*key[:-1], first, condition], "value")
        for figure, values in figures.items():
            row = dict(zip(keys, key)) | {"figure": figure, "users": len(group)}
            rows.append(row | {name: values[name] for name in INTERVAL})
    return pd.DataFrame(rows)


def main(datasets: list[str]) -> None:
    for family, forms in FORMS.items():
        path, tables = HERE / f"{family}.csv", []
        for dataset in datasets:
            for seed in load_settings(dataset).tuning.seeds:
                for form, changes in forms.items():
                    users = train_form(dataset, changes, seed)
                    tables.append(users.assign(dataset=dataset, form=form, seed=seed))
        table = summarise(pd.concat(tables))
        if path.is_file():
            known = pd.read_csv(path)
            table = pd.concat([known[~known["dataset"].isin(datasets)], table])
        table.to_csv(path, index=False, float_format="%.4f")
    write_tables()


def pivot(shown: pd.DataFrame, columns: str, names: list[str]) -> pd.DataFrame:
    """Means and intervals as text: a row per dataset and form, a column per name."""
    forms = np.where(shown["figure"].isin(["change", *CONTROLS]), "+.3f", ".3f")
    numbers = shown[list(INTERVAL)].to_numpy()
    text = [f"{x:{f}} ({low:{f}} to {high:{f}})" for f, (x, low, high) in zip(forms, numbers)]
    keys = ["dataset", "form", "users"]
    wide = shown.assign(text=text).pivot(index=keys, columns=columns, values="text")
    order = shown[keys].drop_duplicates()
    return wide.reindex(columns=names).loc[list(order.itertuples(index=False))].fillna("")


def write_tables() -> None:
    """`interests`: the combined view's metric and the ID view's measures. `losses`: each view's
    metric and its change. Both into README.md."""
    table = pd.read_csv(HERE / "interests.csv")
    set_theme()
    draw_tradeoff(table).savefig(HERE / "interests.png")
    table = table[table["view"] == np.where(table["figure"].isin(MEASURES), "id", "both")]
    wide = pivot(table, "figure", ["as trained", "change", *CONTROLS, *MEASURES])
    fill("interests", to_markdown(wide.reset_index()).splitlines())
    table = pd.read_csv(HERE / "losses.csv")
    table = table[table["figure"].isin(["as trained", "change"])]
    table = table.assign(
        name=table["view"] + table["figure"].map({"change": ", change"}).fillna("")
    )
    names = [name + end for name in ("id", "multimodal", "both") for end in ("", ", change")]
    fill("losses", to_markdown(pivot(table, "name", names).reset_index()).splitlines())


def draw_tradeoff(table: pd.DataFrame) -> Figure:
    """What it costs that interests differ: the combined view's change against the overlap of the
    ID view's lists. A panel per dataset with `MANY` users; the first form is the square at 0."""
    keys, first = ["dataset", "form"], next(iter(FORMS["interests"]))
    overlap = table[(table["figure"] == "overlap") & (table["view"] == "id")]
    overlap = overlap.set_index(keys)["mean"].rename("overlap")
    change = table[(table["figure"] == "change") & (table["view"] == "both")]
    change = change[change["users"] >= MANY].merge(overlap, on=keys)
    colours = [colour for colour in INTEREST_COLOURS if colour != "#949494"]  # the grey squares
    colours = dict(zip(dict.fromkeys(change["form"]), colours))
    figure, panels = start_panels(change["dataset"], 3.2, 3.4, sharey=True)
    marks = {}
    for dataset, axis in panels.items():
        axis.axhline(0, color=GREY, lw=1)
        marks["bound of the overlap"] = axis.axvline(0.5, color=GREY, lw=1.5, ls=":")
        marks[first] = axis.plot(overlap[dataset, first], 0, "s", color=GREY)[0]
        for row in change[change["dataset"] == dataset].itertuples():
            bars = [[row.mean - row.low], [row.high - row.mean]]
            style = {"fmt": "o", "color": colours[row.form]}
            marks[row.form] = axis.errorbar(row.overlap, row.mean, bars, **style)
        axis.set(title=dataset, xlim=(0, 1), xlabel="overlap of the top 20, ID view")
    next(iter(panels.values())).set_ylabel(f"change of {METRIC.upper()}")
    figure.legend([*marks.values()], [*marks], loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    write_tables() if sys.argv[1:] == ["tables"] else main(sys.argv[1:] or list(DATASETS))
