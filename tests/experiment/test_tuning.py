"""One search for every model, and what it chose."""

import pandas as pd

from bivrec.data.domain import Domain
from bivrec.experiment.tuning import tune
from bivrec.settings import load_settings, vary


def test_tuning_tries_the_same_grid_on_every_model():
    trials = tune(Domain("planted", {"tuning.num_steps": 2}), ["sasrec", "bivrec"])
    models = trials.groupby("model")
    rates = models["training.learning_rate"].unique().map(list)
    assert rates.tolist() == [[0.004, 0.008]] * 2
    assert models["view"].nunique().to_dict() == {"bivrec": 3, "sasrec": 1}
    assert (trials["best_step"] <= 4).all()


def test_models_have_what_the_tuning_chose(root):
    """params.yaml has each model's best trial by mean over folds, views and domains, as
    benchmarks/tuning records them; it lacks the models that were added after it.
    """
    settings = load_settings("movies-classic")
    folder = root / "benchmarks" / "tuning"
    trials = pd.concat([pd.read_csv(folder / f"{name}.csv") for name in settings.studies.datasets])
    grid = list(settings.tuning.grid)
    means = trials.groupby(["model", *grid])["value"].mean()
    assert grid == ["training.learning_rate", "model.dropout"]
    tuned = set(means.index.get_level_values("model"))
    assert set(settings.tuning.models) - tuned == {"esasrec", "bsarec", "unisrec", "tedrec"}
    for name in tuned:
        chosen = vary(settings, settings.models[name])
        assert (chosen.training.learning_rate, chosen.model.dropout) == means[name].idxmax(), name
