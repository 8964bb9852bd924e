"""Choices that no study could run with are refused where they are made."""

import pytest

from bivrec.data.domain import Domain
from bivrec.errors import LeftOut, SettingsError
from bivrec.experiment.runs import require_both_views
from bivrec.settings import load_settings

REFUSED = {
    "no noise": ({"noise.levels": {}}, "noise.levels"),
    "no groups": ({"cold_start.history_lengths": []}, "cold_start.history_lengths"),
    "groups that fall": ({"cold_start.item_counts": [20, 5]}, "item_counts: [20, 5] is refused"),
    "a cut listed twice": ({"cold_start.history_cuts": [1, 1]}, "the numbers must rise"),
    "no protocol": ({"studies.protocols": []}, "studies.protocols"),
    "an empty grid": ({"grids": {"none": {}}}, "grids.none"),
    "one negative": ({"training.num_negatives": 1}, "num_negatives is 1"),
    "no history": ({"split.history_share": 0.1}, "history_share of min_interactions"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_choice_without_a_study_is_refused(case):
    changes, told = REFUSED[case]
    with pytest.raises(SettingsError) as caught:
        load_settings(changes=changes)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_without_features_bivrec_keeps_its_id_view_by_choice_too():
    domain = Domain("planted", {"features.modality": "none"})
    assert domain.settings.model.views == ("id",)
    assert "sasrec-fused" not in domain.settings.studies.models
    with pytest.raises(LeftOut, match="pure-mm reads features, and features.modality is none"):
        domain.variant("pure-mm")
    with pytest.raises(LeftOut, match="no features are read"):
        require_both_views(domain)


def test_models_that_all_need_features_are_refused_without_them():
    changes = {"features.modality": "none", "studies.models": ["pure-mm"]}
    with pytest.raises(SettingsError, match=r"each of studies.models, \['pure-mm'\], reads"):
        _ = Domain("planted", changes).settings
