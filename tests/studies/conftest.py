import pytest

from bivrec.data.domain import Domain
from bivrec.experiment.training import train_models


@pytest.fixture(scope="session")
def trained():
    """BivRec after a few steps on planted."""
    return train_models(Domain("planted", {"training.num_steps": 10}), ["bivrec"])[0]
