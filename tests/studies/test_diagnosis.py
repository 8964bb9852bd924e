"""Signatures of failure."""

import torch

from bivrec.experiment.registry import Trained
from bivrec.experiment.training import train_models
from bivrec.studies.diagnosis import diagnose, view_balance


class Fixed:
    """Two views that agree on half of their top two; together they follow the first."""

    def score(self, histories):
        one, other = torch.tensor([[4.0, 3.0, 2.0, 1.0]]), torch.tensor([[4.0, 1.0, 3.0, 2.0]])
        return {"id": one, "multimodal": other, "both": one}


def test_whose_recommendations_are_heard(planted):
    assert view_balance(Trained("bivrec", 0, Fixed()), planted.fold(0).test, 2) == {
        "id in both": 1.0,
        "multimodal in both": 0.5,
        "id in multimodal": 0.5,
    }


def test_diagnoses_of_a_trained_model(planted, trained):
    table = diagnose(planted, trained).set_index(["diagnostic", "view"])["value"]
    short = table["remaining with the newest 3 items"]
    assert short.index.tolist() == ["both", "id", "multimodal"] and (table > 0).all()
    assert table["remaining with 30 % of the features swapped", "id"] == 1  # that view reads none
    part = table["part of the combined top 20"]
    assert set(part.index) == {"id", "multimodal"} and part.max() <= 1


def test_diagnoses_of_a_model_with_one_view(planted):
    table = diagnose(planted, train_models(planted, ["sasrec"], [0])[0])
    assert set(table["view"]) == {"id"}
    assert "part of the combined top 20" not in set(table["diagnostic"])
