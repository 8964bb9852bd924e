"""The checkout under test is the one imported, by tests and by the kernels they start."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from bivrec.pipeline.environment import ENVIRONMENT  # noqa: E402

os.environ.update(
    ENVIRONMENT | {"BIVREC_ROOT": str(ROOT), "PYTHONPATH": str(ROOT), "BIVREC_TERMINAL": ""}
)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from bivrec.data.domain import Domain  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def planted() -> Domain:
    return Domain("planted")


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(0))
