"""What no neural model may do, whatever its definition."""

import pytest
import torch
from loops import NEURAL, NUM_ITEMS, build, row, some_features

from bivrec.experiment.registry import FAMILIES
from bivrec.model.base import Batch
from bivrec.settings import load_settings
from bivrec.settings.types import READ_OF_BASELINE

ID_ONLY = ("pure-id", "sasrec", "esasrec", "bsarec", "gru4rec", "comirec-sa")
WITH_FEATURES = [name for name in NEURAL if name not in ID_ONLY]


def batch_for(name: str, items: torch.Tensor) -> Batch:
    """Rows supervised as the model trains: at every position, or at the last."""
    mask = torch.ones_like(items, dtype=torch.bool)
    last = mask.sum(1) - 1
    if name in ("bivrec-one-target", "bivrec-paper"):
        supervised = torch.arange(items.shape[1]) == last[:, None]
        return Batch(items, mask, items + 1, supervised, last)
    return Batch(items, mask, items + 1, mask, last // 2)


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_what_stands_under_a_mask_is_never_read(name):
    features, history = some_features(), row()[0][0].numpy()
    model = build(name, features)
    before = model.score([history])
    masked = {
        key: (torch.where(mask[:, None], values, 1e6), mask)
        for key, (values, mask) in features.items()
    }
    for module in model.modules():
        if hasattr(module, "maps"):
            module.set_features(masked)
    after = model.score([history])
    assert all(torch.equal(before[view], after[view]) for view in before)


@pytest.mark.parametrize("name", WITH_FEATURES)
@pytest.mark.parametrize("modality", ["text", "image"])
def test_one_modality_is_enough(name, modality):
    model = build(name, some_features([modality])).train()
    assert torch.isfinite(model.loss(batch_for(name, row(8)[0])))


@pytest.mark.parametrize("name", NEURAL)
def test_every_part_learns(name):
    model = build(name).train()
    items = torch.stack([torch.arange(24), torch.arange(24).flip(0)])
    model.loss(batch_for(name, items)).backward()
    silent = [
        key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert silent == []


class Watched:
    """A section that remembers what is read of it."""

    def __init__(self, section, **changes):
        self.section, self.changes, self.read = section, changes, set()

    def __getattr__(self, key):
        self.read.add(key)
        return self.changes.get(key, getattr(self.section, key))


@pytest.mark.parametrize("family", READ_OF_BASELINE)
def test_a_family_reads_the_settings_that_are_listed_for_it(family):
    read, items = set(), torch.stack([torch.arange(24), torch.arange(24).flip(0)])
    for block in ("standard", "gated", "filtered"):
        settings = load_settings("planted", {"model.dim": 8})
        watched = Watched(settings.baseline, block=block)
        object.__setattr__(settings, "baseline", watched)
        model = FAMILIES[family](settings, NUM_ITEMS, some_features()).train()
        model.loss(batch_for(family, items))
        read |= watched.read
    assert read == {*READ_OF_BASELINE[family]}
