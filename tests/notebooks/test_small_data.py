"""The notebooks run on data and settings smaller than those they were written for."""

import json

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

SMALL = {
    "datasets.planted.planted.num_users": 60,
    "datasets.planted.planted.mean_length": 8,
    "split.min_interactions": 3,
    "split.num_folds": 10,
    "studies.models": ["popularity", "bivrec"],
    "model.dim": 8,
    "model.max_length": 8,
    "training.num_steps": 2,
    "training.warmup_steps": 1,
    "training.evaluate_every": 2,
    "noise.levels": {"replace": [0.0, 0.5], "no_text": [0.0, 0.5]},
    "noise.trained": {"replace": [0.5]},
}


@pytest.fixture
def run_cells(root, monkeypatch):
    """Runs a notebook's code cells with changes to the settings; gives the figures by name."""
    monkeypatch.setattr(plt, "show", lambda: None)

    def run(name: str, **changes) -> dict[str, Figure]:
        figures, space = {}, {"__name__": name, "display": print}
        for cell in json.loads((root / f"notebooks/{name}.ipynb").read_text())["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] != "code" or source.startswith("print(getsource"):
                continue
            exec(compile(source, name, "exec"), space)
            if "parameters" in cell["metadata"].get("tags", []):
                space["changes"] = SMALL | changes
            if "set_theme()" in source:
                save = lambda content, name, *_: figures.setdefault(name, content)  # noqa: E731
                space["save_output"] = save
                space["save_checkpoints"] = lambda *_: None
        return figures

    yield run
    plt.close("all")


@pytest.mark.slow
def test_training_with_few_users_and_short_histories(run_cells):
    saved = run_cells("03_training")
    assert {"curves.png", "allocation.png", "interests.png"} <= set(saved)
    names = list(saved)
    assert names.index("runs.csv") < names.index("allocation.png")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bivrec", "sasrec", "popularity"])
def test_training_of_one_model(run_cells, model):
    saved = run_cells("03_training", **{"studies.models": [model]})
    assert set(saved["ranks.csv"]["model"]) == {model}
    assert ("interests.png" in saved) == (model == "bivrec")
    assert ("curves.png" in saved) == (model != "popularity")


@pytest.mark.parametrize("modality", ["text", "image"])
def test_features_of_one_modality(run_cells, modality):
    assert "features.png" in run_cells("02_feature_encoding", **{"features.modality": modality})


@pytest.mark.slow
def test_noise_with_short_histories(run_cells):
    saved = run_cells("05_noise")
    assert {"noise.png", "runs.csv", "claims.csv"} <= set(saved)


@pytest.mark.slow
def test_cold_start_without_neighbours(run_cells):
    """A catalogue too large for ItemKNN leaves it out of studies.models."""
    users = {"num_users": 160, "mean_length": 16}
    larger = {f"datasets.planted.planted.{key}": value for key, value in users.items()}
    saved = run_cells("06_cold_start", **larger)
    assert "itemknn-recency" not in set(saved["runs.csv"]["model"])
    assert {"cold-start.png", "new-items.png", "claims.csv"} <= set(saved)
