"""The interests of trained models."""

import numpy as np

from bivrec.data.domain import Domain
from bivrec.experiment.interests import interest_recovery
from bivrec.experiment.training import train_model


def test_the_true_interests_are_recovered(planted):
    """On planted an item's true kind is known: the interest it is given to predicts it, and
    predicts nothing without Cluster attention.
    """
    whole = interest_recovery(planted, [train_model(planted, "bivrec", seed) for seed in range(5)])
    assert (whole.groupby("view")["agreement"].mean() >= 0.8).all()
    without = interest_recovery(planted, [train_model(planted, "without-cluster-attention", 0)])
    assert (without["agreement"] < 0.1).all()


def test_items_without_kinds_have_no_recovery(planted, monkeypatch):
    """Each of one genre, or of none: with one interest, chance would count as full agreement."""
    trained = train_model(planted, "plain-interests", 0)
    assert len(interest_recovery(planted, [trained])) == 2
    monkeypatch.setattr(Domain, "kinds", np.full(planted.sequences.num_items, ""))
    none = interest_recovery(planted, [trained])
    assert len(none) == 0 and list(none) == ["model", "view", "seed", "agreement"]
