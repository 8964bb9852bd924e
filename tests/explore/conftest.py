import numpy as np
import pytest

from bivrec import load


@pytest.fixture(scope="session")
def recommender():
    return load("planted")


@pytest.fixture(scope="session")
def case(recommender):
    """The longest history of a test user, and what followed."""
    cases = recommender.domain.fold(0).test
    longest = int(np.argmax([len(history) for history in cases.histories]))
    return cases.histories[longest], cases.targets[longest]
