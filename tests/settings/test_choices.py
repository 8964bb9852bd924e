"""Choices that no study could run with are refused where they are made."""

import pytest

from bivrec.data.domain import Domain, prepare
from bivrec.errors import LeftOut, SettingsError
from bivrec.experiment.runs import require_both_views
from bivrec.experiment.training import train_models
from bivrec.experiment.tuning import tune
from bivrec.settings import load_settings
from bivrec.studies.grids import train_grid

REFUSED = {
    "no noise": ({"noise.levels": {}}, "noise.levels"),
    "no groups": ({"cold_start.history_lengths": []}, "cold_start.history_lengths"),
    "groups that fall": ({"cold_start.item_counts": [20, 5]}, "item_counts: [20, 5] is refused"),
    "a cut listed twice": ({"cold_start.history_cuts": [1, 1]}, "the numbers must increase"),
    "no protocol": ({"studies.protocols": []}, "studies.protocols"),
    "an empty grid": ({"grids": {"none": {}}}, "grids.none"),
    "one negative": ({"training.num_negatives": 1}, "num_negatives is 1"),
    "a precision of the other kernels": (
        {"training.precision": "bfloat16", "machine.kernels": "reference"},
        "training.precision is bfloat16, which needs machine.kernels: fast and "
        "training.num_negatives: 0, not reference and 0; change them, or set training.precision",
    ),
    "a precision beside negatives": (
        {"training.precision": "bfloat16", "training.num_negatives": 16},
        "training.num_negatives: 0, not fast and 16; change them, or set training.precision: auto",
    ),
    "no history": ({"split.history_share": 0.1}, "history_share of min_interactions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_choice_without_a_study_is_refused(case):
    changes, told = REFUSED[case]
    with pytest.raises(SettingsError) as caught:
        load_settings(changes=changes)
    assert told in str(caught.value) and "\n" not in str(caught.value)


TRIALS = {
    "an ablation": (
        {"ablations": {"many": {"family": "bivrec", "settings": {"model.num_interests": 130}}},
         "studies.ablations": ["many"]},
        "ablations.many on planted: model.num_interests (K) is 130, more than the 120 items",
    ),
    "a grid": (
        {"grids": {"many": {"model.num_interests": [2, 130]}}, "studies.grids": ["many"]},
        'grids.many {"model.num_interests": 130} on planted: model.num_interests (K) is 130, more',
    ),
    "scales of a grid": (
        {"grids": {"long": {"model.scales": [[1], [1, 7]]}}, "studies.grids": ["long"]},
        'grids.long {"model.scales": [1, 7]} on planted: model: scale 7 must divide the largest',
    ),
    "a precision beside a grid": (
        {"training.precision": "bfloat16", "studies.grids": ["negatives"]},
        '{"training.num_negatives": 256} on planted: training.precision is bfloat16, which needs',
    ),
    "features of a grid": (
        {"grids": {"some": {"features.modality": ["text", "none"]}}, "studies.grids": ["some"]},
        'grids.some {"features.modality": "none"} on planted: the dataset lacks these features',
    ),
    "a trial of the tuning": (
        {"tuning.models": ["bivrec"],
         "tuning.space.every": {"model.dropout": {"low": 0, "high": 2}}},
        'tuning.space {"model.dropout": 2.0} of bivrec on planted: model.dropout: 2.0 is refused',
    ),
}  # fmt: skip


@pytest.mark.parametrize("act", [
    prepare,
    lambda domain: train_models(domain, ["popularity", "bivrec"]),
    lambda domain: train_grid(domain, "interests", "ndcg@20"),
    lambda domain: tune(domain, ["sasrec"]),
], ids=["prepare", "train_models", "train_grid", "tune"])  # fmt: skip
@pytest.mark.parametrize("case", TRIALS)
def test_what_the_dataset_refuses_is_named_before_the_first_training(case, act, monkeypatch):
    monkeypatch.setattr("bivrec.experiment.training.fit", lambda *_, **__: pytest.fail("trained"))
    changes, sentence = TRIALS[case]
    with pytest.raises(SettingsError) as caught:
        act(Domain("planted", changes))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("params.yaml")


def test_an_ablation_that_changes_nothing_is_left_out_in_words():
    whole = {"same": {"family": "bivrec", "settings": {}}}  # compares the model with itself
    changes = {
        "features.modality": "text",
        "ablations.soft-assignment.settings": {},
        "studies.ablations": ["text-only", "soft-assignment", "hard-readout"],
    }
    domain = Domain("planted", changes)  # fmt: skip
    assert domain.settings.studies.ablations == ("soft-assignment", "hard-readout")
    assert domain.left_out == "text-only, which would train the whole model again"
    domain = Domain("planted", {"studies.ablations": ["text-only", "image-only"]})
    assert domain.settings.studies.ablations == ("text-only", "image-only")
    assert domain.left_out == ""
    domain = Domain("planted", {"ablations": whole, "studies.ablations": ["same"]})
    assert domain.settings.studies.ablations == ("same",)


def test_without_features_bivrec_keeps_its_id_view_by_choice_too():
    domain = Domain("planted", {"features.modality": "none"})
    assert domain.settings.model.views == ("id",)
    assert "sasrec-fused" not in domain.settings.studies.models
    with pytest.raises(LeftOut, match="pure-mm reads features, and features.modality is none"):
        domain.variant("pure-mm")
    with pytest.raises(LeftOut, match="no features are read"):
        require_both_views(domain)


def test_an_ablation_of_a_modality_that_is_not_read_is_left_out():
    changes = {"features.modality": "text", "studies.ablations": ["image-only", "hard-readout"]}
    domain = Domain("planted", changes)
    assert domain.settings.studies.ablations == ("hard-readout",)
    with pytest.raises(LeftOut, match="image-only reads features, and features.modality is text"):
        domain.variant("image-only")


def test_models_that_all_need_features_are_refused_without_them():
    changes = {"features.modality": "none", "studies.models": ["pure-mm"]}
    with pytest.raises(SettingsError, match=r"each of studies.models, \['pure-mm'\], reads"):
        _ = Domain("planted", changes).settings
