"""What every neural model keeps: causality, prefixes, padding, and that it can learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bivrec.model.base import pad
from bivrec.settings import load_settings

NEURAL = [
    name
    for name, variant in load_settings().models.items()
    if variant.family not in ("popularity", "itemknn")
]
ONE_TARGET = ("bivrec-one-target", "bivrec-paper")  # they read each prefix whole
CAUSAL = [name for name in NEURAL if name not in ONE_TARGET]
KERNELS = ["rbf_normalised", "distance", "softmax"]


def test_histories_are_padded_at_the_end():
    items, mask = pad([np.arange(1, 8), np.arange(20, 22), np.arange(0)], 5, 4)
    assert items.tolist() == [[3, 4, 5, 6, 7, 0, 0, 0], [20, 21] + [0] * 6, [0] * 8]
    assert mask.sum(1).tolist() == [5, 2, 0] and mask[0].tolist() == [True] * 5 + [False] * 3


def test_samples_are_distinct_and_depend_on_seed_and_stream(batch):
    sample = batch.sample(40, 15, 0)
    assert len(sample.unique()) == 15 and 0 <= sample.min() and sample.max() < 40
    torch.rand(3)
    assert torch.equal(batch.sample(40, 15, 0), sample)
    assert not torch.equal(batch.sample(40, 15, 1), sample)
    assert not torch.equal(replace(batch, seed=9).sample(40, 15, 0), sample)
    assert sorted(batch.sample(8, 20, 0).tolist()) == list(range(8))


@pytest.mark.parametrize(("num_negatives", "count"), [(0, None), (40, None), (100, None), (15, 15)])
def test_negatives_are_distinct_and_the_same_for_equal_seeds(build, batch, num_negatives, count):
    model = build("sasrec", training__num_negatives=num_negatives)
    negatives = model.sample_negatives(batch, 40)
    assert (negatives is None) if count is None else len(negatives.unique()) == count
    if count:
        assert torch.equal(model.sample_negatives(replace(batch), 40), negatives)
        assert not torch.equal(model.sample_negatives(replace(batch, seed=1), 40), negatives)


def test_supervised_rows_come_in_the_order_of_their_targets(last_targets):
    found = last_targets.at_supervised(last_targets.targets[..., None].float())
    assert torch.equal(found[:, 0].long(), last_targets.targets[last_targets.supervised])


@pytest.mark.parametrize("name", CAUSAL)
def test_no_position_sees_its_target_or_later_items(build, batch, name):
    """Another future changes no bit of any earlier interest."""
    model = build(name)
    before = model.interests(batch.items, batch.mask)
    changed = batch.items.clone()
    changed[0, 6:] = 99
    after = model.interests(changed, batch.mask)
    for view in before:
        assert torch.equal(before[view][0, :6], after[view][0, :6])
        assert all((before[view][0, t] != after[view][0, t]).any() for t in range(6, 11))


@pytest.mark.parametrize(
    ("name", "kernel"),
    [*((name, "rbf") for name in CAUSAL), *(("bivrec", kernel) for kernel in KERNELS)],
)
def test_a_prefix_alone_gives_what_it_gives_inside_the_row(build, name, kernel):
    """One row supervises every position exactly: the causal form is the model on each prefix."""
    model, history = build(name, model__kernel=kernel), np.arange(3, 22)
    whole = model.interests(*pad([history], model.max_length, model.multiple))
    for end in (1, 2, 3, 5, 8, 13, 19):
        alone = model.interests(*pad([history[:end]], model.max_length, model.multiple))
        for view in whole:
            found, expected = alone[view][0, end - 1], whole[view][0, end - 1]
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "supervision"),
    [*((name, "every_position") for name in NEURAL), ("bivrec", "one_target")],
)
def test_padding_is_inert(build, name, supervision):
    model = build(name, training__supervision=supervision)
    histories = [np.arange(5, 12), np.arange(40, 43), np.arange(70, 94)]
    together = model.score(histories)
    for row, history in enumerate(histories[:2]):
        for view, scores in model.score([history]).items():
            assert torch.allclose(scores[0], together[view][row], atol=1e-4)
    items, mask = pad(histories, model.max_length, model.multiple)
    before = model.interests(items, mask)
    after = model.interests(items.masked_fill(~mask, 99), mask)
    assert all(torch.equal(before[view][mask], after[view][mask]) for view in before)


@pytest.mark.parametrize("name", NEURAL)
def test_scores_are_those_of_the_last_position(build, name):
    """However little of a history's other positions a model computes for them."""
    model = build(name)
    items, last = torch.randint(120, (5, 24)), torch.tensor([23, 0, 13, 4, 6])
    mask = torch.arange(24) <= last[:, None]
    newest, whole = model.encode_last(items, mask, model.tables()), model.interests(items, mask)
    assert newest.keys() == whole.keys()
    for view, interests in whole.items():
        assert torch.allclose(newest[view], interests[torch.arange(5), last], atol=1e-5)


@pytest.mark.parametrize("name", NEURAL)
def test_scoring_twice_is_the_same_and_training_is_not(build, name):
    model = build(name).train()
    for part in model.modules():
        part.p = 0.4  # the rate of a dropout, which settings may set to 0
    first, second = model.score([np.arange(9)]), model.score([np.arange(9)])
    assert model.training and all(torch.equal(first[view], second[view]) for view in first)
    items, mask = pad([np.arange(9)], model.max_length, model.multiple)
    one, two = model.interests(items, mask), model.interests(items, mask)
    assert not any(torch.equal(one[view], two[view]) for view in one)


@pytest.mark.parametrize("name", ["bivrec", "sasrec-sum"])
def test_both_adds_the_views_and_an_empty_history_is_refused(build, name):
    model = build(name)
    scores = model.score([np.arange(9)])
    expected = scores["id"].log_softmax(-1) + scores["multimodal"].log_softmax(-1)
    assert torch.allclose(scores["both"], expected)
    with pytest.raises(ValueError, match="a history without items"):
        model.score([np.arange(9), np.arange(0)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "readout"),
    [*((name, "log_sum_exp") for name in NEURAL), ("bivrec", "hard"), ("pure-mm", "hard")],
)
def test_one_batch_overfits(build, batch, last_targets, name, readout):
    model = build(name, model__dropout=0.0, model__readout=readout).train()
    optimiser = torch.optim.AdamW(model.parameters(), 0.01)
    batch = last_targets if name in ONE_TARGET else batch
    first = model.loss(batch).item()
    for _ in range(150):
        optimiser.zero_grad()
        loss = model.loss(batch)
        if loss.item() < 0.25 * first:
            return
        loss.backward()
        optimiser.step()
    pytest.fail(f"after 150 steps the loss is {loss.item()}, from {first}")
