"""`make bench-interests`: how BivRec's interests should receive what the patches give.

Trains each form on the folds that 09 tunes on, and compares them on these folds' validation users.
Needs `make repro` to have prepared the data. Writes interests.csv and README.md.

    python benchmarks/interests.py [DATASET ...]     those rows anew; the others stay
    python benchmarks/interests.py tables            interests.csv into README.md
"""

import sys

import numpy as np
import pandas as pd
from record import HERE, fill

from bivrec.data.domain import Domain
from bivrec.evaluation import estimate_mean, paired_test, rank_cases, user_metrics
from bivrec.experiment.structure import CONTROLS, apply_control, interest_structure
from bivrec.experiment.training import train_model
from bivrec.settings import load_settings
from bivrec.studies.report import to_markdown

METRIC = "ndcg@20"
DATASETS = ("movies-classic", "movies-modern")
INTERVAL = ("mean", "low", "high")
FORMS = {
    "K = 2, newest patch in all": {"num_interests": 2, "num_nearest": 1, "newest": "all"},
    "K = 4, F = 2": {"num_interests": 4, "num_nearest": 2, "newest": "owners"},
    "K = 4, F = 1": {"num_interests": 4, "num_nearest": 1, "newest": "owners"},
    "K = 4, F = 1, newest patch of each interest": {
        "num_interests": 4,
        "num_nearest": 1,
        "newest": "per_interest",
    },
}
MEASURES = ("overlap", "effective_interests", "other_interests")


def train_form(dataset: str, form: str, seed: int) -> pd.DataFrame:
    """The validation users' metric as trained and under each control, and their interests' measures
    (columns view, user, condition, value)."""
    changes = {f"model.{name}": value for name, value in FORMS[form].items()}
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
    columns, first, rows = ["seed", "user", "value"], next(iter(FORMS)), []
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
    path, tables = HERE / "interests.csv", []
    for dataset in datasets:
        for seed in load_settings(dataset).tuning.seeds:
            for form in FORMS:
                users = train_form(dataset, form, seed)
                tables.append(users.assign(dataset=dataset, form=form, seed=seed))
    table = summarise(pd.concat(tables))
    if path.is_file():
        known = pd.read_csv(path)
        table = pd.concat([known[~known["dataset"].isin(datasets)], table])
    table.to_csv(path, index=False, float_format="%.4f")
    write_table()


def write_table() -> None:
    """The combined view's metric and the ID view's measures of interests.csv, into README.md."""
    table = pd.read_csv(HERE / "interests.csv")
    names = ["as trained", "change", *CONTROLS, *MEASURES]
    shown = table[table["view"] == np.where(table["figure"].isin(MEASURES), "id", "both")]
    forms = np.where(shown["figure"].isin(["change", *CONTROLS]), "+.3f", ".3f")
    numbers = shown[list(INTERVAL)].to_numpy()
    text = [f"{x:{f}} ({low:{f}} to {high:{f}})" for f, (x, low, high) in zip(forms, numbers)]
    keys = ["dataset", "form", "users"]
    wide = shown.assign(text=text).pivot(index=keys, columns="figure", values="text")
    order = shown[keys].drop_duplicates()
    wide = wide.reindex(columns=names).loc[list(order.itertuples(index=False))].fillna("")
    fill("interests", to_markdown(wide.reset_index()).splitlines())


if __name__ == "__main__":
    write_table() if sys.argv[1:] == ["tables"] else main(sys.argv[1:] or list(DATASETS))
