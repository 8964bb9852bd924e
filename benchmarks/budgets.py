"""Would longer trainings change a comparison? Models of a dataset with several times its steps.

Trains each model once, on seed 1, with FACTOR times the `training.num_steps` of the dataset and
settings that are otherwise the same; only the validation users are ranked. Writes the learning
curves to budgets.csv, and the table of README.md, to the dataset's folder here; the columns of the
study's own steps come from tuning.csv.

    python benchmarks/budgets.py DATASET FACTOR MODEL...
"""

import sys

import pandas as pd
from record import HERE, fill

from bivrec.data.domain import Domain
from bivrec.experiment.training import train_model
from bivrec.studies.report import to_markdown

SEED = 1
KEYS = ["model", "view"]


def train(domain: Domain, name: str, metric: str) -> pd.DataFrame:
    """The learning curve of one training."""
    curve = train_model(domain, name, SEED).record.curve
    curve = curve.loc[curve["metric"] == metric, ["step", "view", "value"]]
    return curve.assign(model=name, num_steps=curve["step"].max())


def choose(tuning: pd.DataFrame) -> pd.DataFrame:
    """The trials of each model's setting with the best mean over views."""
    setting = [name for name in tuning if name.startswith(("training.", "model."))]
    means = tuning.groupby(["model", *setting])["value"].mean()
    best = means[means.groupby("model").idxmax()].reset_index()[["model", *setting]]
    return tuning.merge(best)


def compare(tuning: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Each model and view at its best step, with the study's steps and setting, and with more."""
    short = choose(tuning).set_index(KEYS)["value"]
    means = curves.groupby(["model", "num_steps", "step"], as_index=False)["value"].mean()
    best = means.loc[means.groupby("model")["value"].idxmax(), ["model", "step"]]
    long = curves.merge(best).set_index(KEYS)["value"]
    table = pd.DataFrame({"the study's steps": short, "more steps": long}).dropna()
    table["change"] = table["more steps"] - table["the study's steps"]
    return table.sort_values("more steps", ascending=False).reset_index()


def main(dataset: str, factor: str, *models: str) -> None:
    domain = Domain(dataset)
    training, metric = domain.settings.training, domain.settings.studies.primary_metric
    names = ("num_steps", "evaluate_every")
    longer = {f"training.{name}": int(factor) * getattr(training, name) for name in names}
    domain = Domain(dataset, domain.changes | longer)
    curves = pd.concat(train(domain, name, metric) for name in models)
    folder = HERE / dataset
    curves.to_csv(folder / "budgets.csv", index=False, float_format="%.6f")
    write_page(dataset)


def write_page(dataset: str) -> None:
    tables = (pd.read_csv(HERE / dataset / f"{name}.csv") for name in ("tuning", "budgets"))
    table = compare(*tables).map(lambda x: f"{x:.4f}" if isinstance(x, float) else x)
    fill("budgets", [to_markdown(table)], HERE / dataset / "README.md")


if __name__ == "__main__":
    main(*sys.argv[1:])
