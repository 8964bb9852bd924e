"""Signatures of failure."""

import numpy as np
import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.data.types import EvalCases
from bivrec.experiment.registry import Trained, build_model
from bivrec.experiment.structure import interest_structure
from bivrec.experiment.training import train_models
from bivrec.studies.diagnosis import STRUCTURE, diagnose, view_balance


class Fixed:
    """Two views that agree on half of their top two besides the history, item 4, which both score
    best; together they follow the first."""

    def score(self, histories):
        one, other = [4.0, 3.0, 2.0, 1.0, 9.0], [4.0, 1.0, 3.0, 2.0, 9.0]
        both = torch.tensor([one] * len(histories)), torch.tensor([other] * len(histories))
        return {"id": both[0], "multimodal": both[1], "both": both[0].clone()}


def test_whose_recommendations_are_heard():
    history = np.array([4])
    cases = EvalCases(np.arange(2), (history, history), (history[:0], history[:0]))
    assert view_balance(Trained("bivrec", 0, Fixed()), cases, 2) == {
        "id in both": 1.0,
        "multimodal in both": 0.5,
        "id in multimodal": 0.5,
    }


def test_noise_in_the_input_does_not_bring_items_of_the_history_back():
    history = np.array([4])
    cases = EvalCases(np.arange(2), (history, history), (history[:0], history[:0]))
    clean, noisy = cases, cases.reading((np.array([3]), np.array([3])))
    trained = Trained("bivrec", 0, Fixed())
    assert view_balance(trained, noisy, 2) == view_balance(trained, clean, 2)


def test_diagnoses_of_a_trained_model(planted, trained, capsys):
    table = diagnose(planted, trained).set_index(["diagnostic", "view"])["value"]
    short = table["remaining with the newest 3 items"]
    assert short.index.tolist() == ["both", "id", "multimodal"] and (table > 0).all()
    assert table["remaining with 30 % of the features swapped", "id"] == 1  # that view reads none
    part = table["part of the combined top 20"]
    assert set(part.index) == {"id", "multimodal"} and part.max() <= 1
    users = interest_structure(trained, planted.fold(0).test)
    means = users.drop(columns="user").groupby("view").mean()
    for name, measure in STRUCTURE.items():
        assert table[name].to_dict() == pytest.approx(means[measure].to_dict())
    assert means["overlap"].max() < 0.9 and "WARNING" not in capsys.readouterr().out


def test_diagnoses_of_a_model_with_one_view():
    domain = Domain("planted", {"training.num_steps": 5})
    table = diagnose(domain, train_models(domain, ["sasrec"], [0])[0])
    assert set(table["view"]) == {"id"}
    assert "part of the combined top 20" not in set(table["diagnostic"])
    assert not set(STRUCTURE) & set(table["diagnostic"])


INFORMATION = "a larger model.information_weight (now 0.1)"


@pytest.mark.parametrize(
    ("newest", "num_nearest", "advice"),
    [
        ("all", 1, f"model.newest: owners (now all) or {INFORMATION}"),
        (
            "all",
            6,
            f"model.newest: owners (now all), a smaller model.num_nearest (now 6) or {INFORMATION}",
        ),
        ("owners", 6, f"a smaller model.num_nearest (now 6) or {INFORMATION}"),
        ("owners", 1, INFORMATION),
    ],
)
def test_collapsed_interests_are_named(newest, num_nearest, advice, capsys):
    """Equal vectors, K times; the advice names no setting that is as advised."""
    domain = Domain("planted", {"model.newest": newest, "model.num_nearest": num_nearest})
    trained = Trained("bivrec", 0, build_model(domain, "bivrec", 0))
    with torch.no_grad():
        for view in trained.model.views.values():
            view.clusters.norms[2].weight.zero_()
            view.clusters.norms[2].bias.fill_(1)
    table = diagnose(domain, trained).set_index(["diagnostic", "view"])["value"]
    assert table["overlap of the interests' top 20", "id"] > 0.9
    assert np.isnan(
        table["share of the final top 20 from interests other than the leading one", "id"]
    )
    lines = capsys.readouterr().out.splitlines()
    for view, line in zip(("id", "multimodal"), lines, strict=True):
        assert line.startswith(
            f"WARNING: the interests of bivrec have collapsed in the {view} view"
        )
        assert line.endswith(f"of their items; in params.yaml, {advice} may separate them.")


def test_one_interest_is_not_diagnosed(capsys):
    domain = Domain("planted", {"model.num_interests": 1, "model.num_nearest": 1})
    table = diagnose(domain, Trained("bivrec", 0, build_model(domain, "bivrec", 0)))
    assert not set(STRUCTURE) & set(table["diagnostic"])
    assert "WARNING" not in capsys.readouterr().out
