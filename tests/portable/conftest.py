import jaxtyping
import pandas as pd
import pytest

from bivrec.experiment.registry import Trained, build_model
from bivrec.portable.folder import export
from bivrec.portable.recommender import Recommender, of_domain


@pytest.fixture(scope="session")
def untrained(planted):
    """Makes an untrained model of planted data by its name."""

    def build(name: str) -> Recommender:
        return of_domain(planted, Trained(name, 0, build_model(planted, name, 0).eval()))

    return build


@pytest.fixture
def any_types():
    """Without the tests' own checks of types, which users do not have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def bivrec(untrained) -> Recommender:
    return untrained("bivrec")


@pytest.fixture
def folder(bivrec, tmp_path):
    """An exported BivRec."""
    export(bivrec, tmp_path / "taken")
    return tmp_path / "taken"


@pytest.fixture(scope="session")
def histories(planted, bivrec) -> pd.DataFrame:
    """The histories of the test users: user and item, by their ids."""
    cases = planted.fold(0).test
    rows = [
        (f"u{user}", bivrec.ids[item])
        for user, history in zip(cases.users, cases.histories)
        for item in history
    ]
    return pd.DataFrame(rows, columns=["user", "item"])
