"""The checkout under test is the one imported, by tests and by the kernels they start."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from bivrec.pipeline.environment import ENVIRONMENT, forget_git  # noqa: E402

forget_git()  # nor the user's git configuration: tests commit in folders of their own
os.environ.update(GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM="1")
os.environ.update(
    ENVIRONMENT | {"BIVREC_ROOT": str(ROOT), "PYTHONPATH": str(ROOT), "BIVREC_TERMINAL": ""}
)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from bivrec.data.domain import Domain  # noqa: E402

torch.set_num_threads(1)

# Files of trainings, processes, kernels of notebooks and many inputs; single tests are marked where
# they stand.
SLOW = (
    "test_bad_checkpoints test_bad_machines test_bad_runs test_cold_start test_course "
    "test_determinism test_distributed test_fuzz test_resume test_transfer test_widgets test_api "
    "test_choosing test_small_data test_drawn_data test_training test_interests test_tuning "
    "test_several_interests"
).split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test-fast` leaves out what is marked `slow`."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def planted() -> Domain:
    return Domain("planted")


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(0))
