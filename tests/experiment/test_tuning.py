"""One search for every model, and what it chose."""

import optuna
import pandas as pd
import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.data.types import Fold
from bivrec.errors import SettingsError
from bivrec.experiment.tuning import best_trials, near_edges, trial_means, tune
from bivrec.settings import load_settings, vary
from bivrec.settings.reading import read_params
from bivrec.training.loop import Run

SHORT = {"training.num_steps": 4, "training.evaluate_every": 2, "tuning.num_trials": 3}


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    return tune(Domain("planted", SHORT), ["sasrec", "mmsrec"])


def test_every_model_has_as_many_trials_and_its_own_budget(trials):
    assert trials.groupby("model")["trial"].unique().map(list).tolist() == [[0, 1, 2]] * 2
    assert trials["best_step"].max() <= 8  # of SASRec, whose step_factor is 2
    space = Domain("planted").settings.tuning.space
    for key, bounds in space["every"].items():
        assert trials.groupby("model")[key].nunique().tolist() == [3, 3]
        assert trials[key].between(bounds.low, bounds.high).all()
    lacks = trials.groupby("model")["baseline.temperature"].agg(lambda column: column.isna().all())
    assert lacks.to_dict() == {"sasrec": True, "mmsrec": False}  # a family's own setting


def test_a_search_that_was_interrupted_continues(trials, tmp_path, monkeypatch):
    """It draws the same trials, and trains only what is not trained yet."""
    monkeypatch.setenv("BIVREC_PARTIAL", str(tmp_path))
    tune(Domain("planted", SHORT | {"tuning.num_trials": 2}), ["mmsrec"])
    steps, train_step = [], Run.train_step
    monkeypatch.setattr(Run, "train_step", lambda *a: (steps.append(1), train_step(*a)))
    again = tune(Domain("planted", SHORT), ["mmsrec"])
    assert len(steps) == 4
    expected = trials[trials["model"] == "mmsrec"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, expected[again.columns], check_exact=True)


def test_a_trial_that_diverges_ends_no_search(trials, monkeypatch):
    """Its value is 0, so that the search goes on elsewhere."""
    train_step, steps = Run.train_step, []

    def diverge(run, *step):
        steps.append(step)
        train_step(run, *step)
        if len(steps) == 1:
            run.losses.append(torch.tensor(torch.nan))

    monkeypatch.setattr(Run, "train_step", diverge)
    found = tune(Domain("planted", SHORT), ["sasrec"])
    first, others = found[found["trial"] == 0], found[found["trial"] > 0]
    assert first["value"].eq(0).all() and first["best_step"].eq(0).all() and len(first) == 1
    expected = trials[trials["model"].eq("sasrec") & trials["trial"].eq(1)]
    key = "training.learning_rate"  # the second draw is random whatever the first one gave
    assert others["value"].gt(0).all() and others[key].iloc[0] == expected[key].iloc[0]


def test_a_model_whose_name_has_a_dot_is_tuned():
    models = read_params()["models"]
    models["mms.rec"] = models["mmsrec"]
    domain = Domain("planted", SHORT | {"models": models, "models.mmsrec.settings": {}})
    found = tune(domain, ["mms.rec"])
    assert found["model"].eq("mms.rec").all() and found["trial"].tolist() == [0, 1, 2]


def test_no_trial_reads_a_test_user(monkeypatch):
    class Closed:
        """Can be counted, as a split is checked for test users, but not read."""

        def __len__(self) -> int:
            return 1

        def __getattr__(self, name: str):
            pytest.fail("test users are read")

    test = property(lambda fold: Closed(), lambda fold, cases: None)
    monkeypatch.setattr(Fold, "test", test, raising=False)
    tune(Domain("planted", SHORT | {"tuning.num_trials": 1}), ["sasrec"])


def test_the_best_trial_is_that_of_the_best_mean(trials):
    best = best_trials(trials).set_index("model")
    means = trials.groupby(["model", "trial"])["value"].mean()
    assert best["value"].to_dict() == means.groupby("model").max().to_dict()
    chosen = trials[(trials["model"] == "sasrec") & (trials["trial"] == best["trial"]["sasrec"])]
    assert chosen["model.dropout"].iloc[0] == best["model.dropout"]["sasrec"]


def test_a_seed_that_diverged_counts_like_any_other():
    """It has one row of value 0, the other seed a row per view."""
    rows = [(0, 1, 0.0), (0, 3, 0.3), (0, 3, 0.3), (0, 3, 0.3), (1, 1, 0.2), (1, 3, 0.2)]
    trials = pd.DataFrame(rows, columns=["trial", "seed", "value"])
    trials = trials.assign(model="bivrec", best_step=1, view="id")
    assert trial_means(trials).tolist() == pytest.approx([0.15, 0.2])
    assert best_trials(trials)[["trial", "value"]].values.tolist() == [[1, 0.2]]


def test_the_search_is_told_the_mean_over_seeds(monkeypatch):
    told, rows = [], {"model": "bivrec", "trial": 0, "seed": [1, 3, 3], "value": [0.0, 0.4, 0.4]}
    monkeypatch.setattr("bivrec.experiment.tuning._try", lambda *_: pd.DataFrame(rows))
    tell = optuna.Study.tell
    monkeypatch.setattr(
        optuna.Study, "tell", lambda study, *told_: (told.append(told_[1]), tell(study, *told_))
    )
    tune(Domain("planted", {"tuning.num_trials": 1}), ["bivrec"])
    assert told == pytest.approx([0.2])


def test_an_optimum_near_an_edge_is_named():
    domain = Domain("planted")
    bounds = domain.settings.tuning.space["every"]["training.learning_rate"]
    middle = (bounds.low * bounds.high) ** 0.5
    trial = {"model": "sasrec", "training.weight_decay": 2.9, "model.dropout": 0.01}
    places = near_edges(domain, pd.DataFrame([trial | {"training.learning_rate": middle}]))
    places = places.set_index("setting")
    assert places["place"]["training.learning_rate"] == pytest.approx(0.5)
    near = {"training.learning_rate": False, "training.weight_decay": True, "model.dropout": True}
    assert places["near_edge"].to_dict() == near


@pytest.mark.parametrize("space, problem", [
    ({"every": {"model.dropout": {"low": 0.5, "high": 0.1}}}, "low must be below high"),
    ({"every": {"model.dropout": {"low": 0.0, "high": 0.1, "log": True}}}, "low must be above 0"),
    ({"sasrec": {"model.dropout": {"low": 0.0, "high": 0.1}}}, "space lacks `every`"),
])  # fmt: skip
def test_a_space_without_ranges_is_refused(space, problem):
    with pytest.raises(SettingsError, match=problem):
        load_settings(changes={"tuning.space": space})


def test_models_have_what_the_earlier_searches_chose(root):
    """params.yaml has each model's best trial by mean over folds, views and domains, as
    benchmarks/tuning records them; it lacks the models that were added after it, and BivRec
    learns faster now.
    """
    settings = load_settings("movies-classic")
    folder, grid = root / "benchmarks" / "tuning", ["training.learning_rate", "model.dropout"]
    trials = pd.concat([pd.read_csv(folder / f"{name}.csv") for name in settings.studies.datasets])
    means = trials.groupby(["model", *grid])["value"].mean()
    tuned = set(means.index.get_level_values("model"))
    assert set(settings.tuning.models) - tuned == {"esasrec", "bsarec", "unisrec", "tedrec"}
    varied = {name: vary(settings, settings.models[name]) for name in tuned}
    chosen = {name: (s.training.learning_rate, s.model.dropout) for name, s in varied.items()}
    assert {name for name in tuned if chosen[name] != means[name].idxmax()} == {"bivrec"}
