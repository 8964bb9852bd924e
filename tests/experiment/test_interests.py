"""The interests of trained models."""

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
