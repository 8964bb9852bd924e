from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from bivrec.experiment.own import load_class
from bivrec.experiment.registry import FAMILIES
from bivrec.model.base import Batch, SequentialModel, pad
from bivrec.settings import vary


@pytest.fixture
def batch() -> Batch:
    """Three rows of 11, 4 and 8 items; every position is supervised."""
    items, mask = pad([np.arange(5, 16), np.arange(30, 34), np.arange(60, 68)], 24, 4)
    targets = torch.where(mask, items + 1, 0)
    return Batch(items, mask, targets, mask, torch.tensor([3, 0, 7]))


@pytest.fixture
def last_targets(batch) -> Batch:
    """The same rows, supervised at their last position only: supervision `one_target`."""
    last = batch.mask.sum(1) - 1
    supervised = torch.arange(batch.items.shape[1]) == last[:, None]
    return replace(batch, supervised=supervised, probe=last)


@pytest.fixture
def build(planted) -> Callable[..., SequentialModel]:
    """Makes an untrained model of planted by its name in params.yaml, with changed settings."""

    def build(name: str, **changes) -> SequentialModel:
        variant = planted.settings.models[name]
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        settings = vary(planted.settings, variant, name)
        settings = vary(settings, replace(variant, settings=changes))
        num_items, features = planted.sequences.num_items, planted.features(0)
        model_class = FAMILIES.get(variant.family) or load_class(variant.family)
        return model_class(settings, num_items, features).eval()

    return build
