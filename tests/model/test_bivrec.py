"""The whole model: its two ways to encode, its loss, and what each part learns from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bivrec.model.base import pad
from bivrec.model.clusters import mutual_information
from bivrec.model.losses import interest_softmax

KERNELS = ["rbf_normalised", "distance", "softmax"]


def total_of(interests: dict[str, torch.Tensor]) -> torch.Tensor:
    """A scalar to which every number of the interests contributes differently."""
    views = interests.values()
    return sum((x * torch.linspace(-1, 1, x.shape[-1])).sin().sum() for x in views)


@pytest.mark.parametrize("kernel", ["rbf", *KERNELS])
@pytest.mark.parametrize("supervision", ["one_target", "every_position"])
def test_a_row_alone_is_the_last_of_its_prefixes(build, batch, kernel, supervision):
    """In value and gradient: what `one_target` learns from and both regimes score by."""
    model = build("bivrec", model__kernel=kernel, training__supervision=supervision)
    last, row = batch.mask.sum(1) - 1, torch.arange(len(batch.items))
    alone = model.encode_last(batch.items, batch.mask, model.tables())
    every = model.interests(batch.items, batch.mask)
    every = {view: interests[row, last] for view, interests in every.items()}
    gradients = []
    for interests in (alone, every):
        model.zero_grad()
        total_of(interests).backward()
        learning = (item for item in model.named_parameters() if item[1].grad is not None)
        gradients.append({name: p.grad.clone() for name, p in learning})
    assert all(torch.allclose(alone[view], every[view], atol=1e-5) for view in alone)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        tolerance = 1e-4 * (1 + gradient.abs().max())
        assert torch.allclose(gradient, gradients[1][name], atol=tolerance), name


@pytest.mark.parametrize("supervision", ["one_target", "every_position"])
def test_the_mask_of_patches_fits_their_logits(build, batch, supervision):
    model = build("bivrec", training__supervision=supervision)
    mask, lengths = torch.cat(model.patch_masks(batch.mask), 1), batch.mask.sum(1)
    for parts in model.encode_batch(batch, model.tables()).values():
        assert parts["logits"].shape[:2] == mask.shape
    scales = model.settings.model.scales
    if supervision == "every_position":
        assert torch.equal(mask.sum(1), len(scales) * lengths)
    else:
        assert torch.equal(mask.sum(1), sum(-(-lengths // scale) for scale in scales))


def test_logits_by_scale_are_those_of_the_patch_that_ends_at_each_position(build):
    model, items = build("bivrec"), pad([np.arange(3, 15)], 24, 4)
    tables, scales = model.tables(), model.settings.model.scales
    parts = model.encode_every(*items, tables)
    for view, (interests, logits) in model.encode(*items, tables).items():
        assert torch.equal(interests, parts[view]["interests"])
        by_scale = parts[view]["logits"].chunk(len(scales), 1)
        for number, scale in enumerate(scales):
            for t in range(12):
                patch = t % scale * (12 // scale) + t // scale
                assert torch.equal(logits[number, 0, t], by_scale[number][0, patch])


@pytest.mark.parametrize("readout", ["log_sum_exp", "hard"])
def test_the_row_loss_is_each_views_recommendation_loss(build, batch, readout):
    weights = {"cross_view__id_weight": 0.3, "cross_view__multimodal_weight": 0.7}
    model, expected = build("bivrec", model__readout=readout, **weights), 0
    tables, targets = model.tables(), batch.targets[batch.mask]
    for view, weight in (("id", 0.3), ("multimodal", 0.7)):
        interests, table = model.interests(batch.items, batch.mask)[view][batch.mask], tables[view]
        if readout == "hard":
            nearest = (interests * table[targets][:, None]).sum(-1).argmax(1)
            interests = interests[torch.arange(len(interests)), nearest][:, None]
        expected += weight * interest_softmax(interests, table, targets)
    encoded = model.encode_batch(batch, tables)
    assert torch.allclose(model.row_loss(encoded, batch, tables), expected, rtol=1e-5)


def test_one_view_has_information_and_no_loss_between_views(build, batch):
    model = build("pure-id", model__information_weight=0.5)
    tables = model.tables()
    encoded = model.encode_batch(batch, tables)
    mask = torch.cat(model.patch_masks(batch.mask), 1)
    information = mutual_information(encoded["id"]["logits"], mask)
    assert torch.allclose(model.batch_loss(encoded, batch, tables), -0.5 * information)
    model = build("pure-id", model__information_weight=0.0)
    assert model.batch_loss(encoded, batch, tables) == 0 and list(tables) == ["id"]


@pytest.mark.parametrize("supervision", ["every_position", "one_target"])
def test_information_within_each_scale_reads_one_scale_at_a_time(build, batch, supervision):
    model = build(
        "pure-id", model__information_within="scale", training__supervision=supervision
    ).eval()
    encoded, scales = model.encode_batch(batch, model.tables()), (1, 2, 4)
    logits, longest = encoded["id"]["logits"], batch.items.shape[1]
    sizes = [longest if model.causal else longest // scale for scale in scales]
    masks = model.patch_masks(batch.mask)
    parts = zip(logits.split(sizes, 1), masks)
    expected = -0.1 * np.mean([mutual_information(*part).item() for part in parts])
    assert model.batch_loss(encoded, batch, model.tables()).item() == pytest.approx(expected)


def test_every_part_learns(build, batch):
    """Each parameter of the whole model receives a gradient, each loss its share."""
    model = build("bivrec").train()
    model.loss(batch).backward()
    silent = [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert all(".missing." in name for name in silent)  # planted lacks no features
    model = build("bivrec", cross_view__coarse_weight=0.0).train()
    model.loss(batch).backward()
    assert all(p.grad is None for p in model.cross_view.parameters())


@pytest.mark.parametrize("learner", ["both", "id", "multimodal"])
def test_only_the_learner_learns_from_the_other_view(build, batch, learner):
    """Without recommendation losses, only the losses between the views reach the parameters."""
    off = ("cross_view__id_weight", "cross_view__multimodal_weight", "model__information_weight")
    names = ("coarse", "fine", "item", "mutual")
    on = {f"cross_view__{name}_weight": 1.0 for name in names}
    changes = dict.fromkeys(off, 0.0) | on | {"cross_view__learner": learner}
    model = build("bivrec", **changes).train()
    model.loss(batch).backward()
    for view in ("id", "multimodal"):
        parameters = [*model.items[view].parameters(), *model.views[view].parameters()]
        moved = any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
        assert moved == (learner in ("both", view))


def test_the_temperature_anneals_in_every_view(build):
    model = build("bivrec", model__final_temperature=0.2)
    start = model.settings.model.temperature
    for progress in (0.5, 1.0):
        model.anneal(progress)
        expected = start + progress * (0.2 - start)
        temperatures = [view.clusters.temperature for view in model.views.values()]
        assert temperatures == [pytest.approx(expected)] * 2


def test_sampled_losses_depend_on_the_batch_seed_alone(build, batch):
    changes = {"training__num_negatives": 30, "cross_view__mutual_weight": 1.0}
    model = build("bivrec", cross_view__mutual_rows=5, cross_view__item_rows=4, **changes)
    first = model.loss(batch)
    torch.rand(3)
    assert torch.equal(model.loss(batch), first)
    assert not torch.equal(model.loss(replace(batch, seed=1)), first)
