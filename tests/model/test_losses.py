"""The losses against loops that follow their definitions."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from bivrec.model.losses import (
    allocation_divergence,
    choose_interest,
    combine,
    info_nce,
    interest_softmax,
    log_recommendations,
    mutual_learning,
    read_out,
)


@pytest.mark.parametrize("num_interests", [1, 3])
def test_the_recommendation_loss_by_loop(num_interests):
    interests, table = torch.randn(7, num_interests, 8), torch.randn(9, 8)
    targets, total = torch.randint(9, (7,)), 0.0
    for row, target in zip(interests, targets):
        wanted = sum(math.exp(u @ table[target]) for u in row)
        every = sum(math.exp(u @ e) for u in row for e in table)
        total -= math.log(wanted / every) / 7
    assert interest_softmax(interests, table, targets).item() == pytest.approx(total, rel=1e-5)
    if num_interests == 1:
        assert total == pytest.approx(cross_entropy(interests[:, 0] @ table.T, targets).item())


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_the_sampled_loss_by_loop(size):
    """A target counts once, as itself; each negative stands for as many of the 39 others."""
    interests = (size * torch.randn(60, 3, 8)).requires_grad_()
    table, rows = torch.randn(40, 8, requires_grad=True), []
    targets, negatives = torch.randint(40, (60,)), torch.randperm(40)[:10]
    for row, target in zip(interests, targets.tolist()):
        scores = row @ table.T
        others = [item for item in negatives.tolist() if item != target]
        rest = scores[:, others] + math.log(39 / len(others))
        every = torch.cat([scores[:, target], rest.flatten()])
        rows.append(every.logsumexp(0) - scores[:, target].logsumexp(0))
    expected, loss = (
        torch.stack(rows).mean(),
        interest_softmax(interests, table, targets, negatives),
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    by_loop, found = (torch.autograd.grad(x, (interests, table)) for x in (expected, loss))
    assert torch.allclose(found[0], by_loop[0], atol=1e-5)
    assert torch.allclose(found[1], by_loop[1], atol=1e-4 * size)


def test_the_sampled_loss_with_all_items_is_the_full_one():
    interests, table, targets = torch.randn(50, 2, 8), torch.randn(40, 8), torch.randint(40, (50,))
    sampled = interest_softmax(interests, table, targets, torch.randperm(40))
    assert torch.allclose(sampled, interest_softmax(interests, table, targets), atol=1e-5)


def test_sampled_totals_are_right_in_the_mean():
    interests, table, target = torch.randn(1, 2, 8), torch.randn(40, 8), torch.randint(40, (1,))
    scores = interests[0] @ table.T
    wanted = scores[:, target].logsumexp(0)
    totals = [
        (interest_softmax(interests, table, target, torch.randperm(40)[:20]) + wanted).exp()
        for _ in range(3000)
    ]
    assert torch.stack(totals).mean().item() == pytest.approx(scores.exp().sum().item(), rel=0.02)


def test_hard_readout_and_scores_by_loop():
    interests, table, targets = torch.randn(4, 3, 5), torch.randn(7, 5), torch.tensor([0, 3, 6, 3])
    nearest = choose_interest(interests, table, targets)
    scores = {name: read_out(interests @ table.T, name) for name in ("hard", "log_sum_exp")}
    for row in range(4):
        products = [float(interests[row, k] @ table[targets[row]]) for k in range(3)]
        assert (nearest[row, 0] == interests[row, int(np.argmax(products))]).all()
        for item in range(7):
            products = [float(interests[row, k] @ table[item]) for k in range(3)]
            assert abs(scores["hard"][row, item] - max(products)) < 1e-5
            assert abs(scores["log_sum_exp"][row, item] - np.logaddexp.reduce(products)) < 1e-5


def test_what_ranks_is_what_the_softmax_trains():
    interests, table, targets = torch.randn(4, 3, 5), torch.randn(7, 5), torch.tensor([0, 3, 6, 3])
    log_chances = read_out(interests @ table.T, "log_sum_exp").log_softmax(1)
    expected = -log_chances[torch.arange(4), targets].mean()
    assert torch.allclose(interest_softmax(interests, table, targets), expected, atol=1e-6)


def test_views_combined_by_hand():
    a, b = torch.randn(2, 5), 3 * torch.randn(2, 5)
    assert torch.allclose(combine({"id": a, "multimodal": b}), a.log_softmax(1) + b.log_softmax(1))


@pytest.mark.parametrize("temperature", [0.07, 0.01])
def test_info_nce_by_loop(temperature):
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    a_, b_ = ((x / x.norm(dim=1, keepdim=True)).double() for x in (a, b))
    total = 0.0
    for i in range(5):
        forward = sum(math.exp(float(a_[i] @ b_[j]) / temperature) for j in range(5))
        backward = sum(math.exp(float(a_[j] @ b_[i]) / temperature) for j in range(5))
        positive = math.exp(float(a_[i] @ b_[i]) / temperature)
        total -= math.log(positive / forward) + math.log(positive / backward)
    assert info_nce(a, b, temperature).item() == pytest.approx(total / 10, rel=1e-4)
    assert info_nce(a, a, temperature) < info_nce(a, b, temperature)


def test_allocation_divergence_by_loop():
    a, b = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    mask, total = torch.arange(4) < torch.tensor([[4], [2], [3]]), []
    for row, patch in mask.nonzero().tolist():
        p, q = a[row, patch].softmax(0), b[row, patch].softmax(0)
        total += [sum((p[k] * (p[k] / q[k]).log() + q[k] * (q[k] / p[k]).log()) for k in range(5))]
    expected = float(sum(total)) / len(total) / 2
    assert allocation_divergence(a, b, mask).item() == pytest.approx(expected, rel=1e-4)
    assert abs(allocation_divergence(a, a, mask)) < 1e-6
    assert allocation_divergence(a, a.roll(1, -1), mask) > 1e-6  # interests are compared by number
    beyond = torch.where(mask[..., None], b, 100.0)
    assert allocation_divergence(a, b, mask) == allocation_divergence(a, beyond, mask)


def test_recommendations_are_the_probabilities_that_are_trained():
    interests, table, targets = torch.randn(6, 3, 8), torch.randn(20, 8), torch.randint(20, (6,))
    log_p = log_recommendations(interests, table)
    assert torch.allclose(log_p.exp().sum(1), torch.ones(6), atol=1e-5)
    loss = -log_p[torch.arange(6), targets].mean()
    assert torch.allclose(loss, interest_softmax(interests, table, targets), atol=1e-5)


@pytest.mark.parametrize("learners", [(0, 1), (0,), (1,)])
def test_mutual_learning_is_the_divergence_from_a_teacher_that_is_held_fixed(learners):
    interests = [torch.randn(6, 3, 8, requires_grad=True) for _ in range(2)]
    tables = [torch.randn(40, 8, requires_grad=True) for _ in range(2)]
    leaves = [interests[0], tables[0], interests[1], tables[1]]
    log_p, expected = [log_recommendations(*view) for view in zip(interests, tables)], 0
    for learner in learners:
        teacher = log_p[1 - learner].detach()
        for row in range(6):
            shares = [teacher[row, i].exp() for i in range(40)]
            gaps = [teacher[row, i] - log_p[learner][row, i] for i in range(40)]
            expected += sum(share * gap for share, gap in zip(shares, gaps)) / 6
    loss = mutual_learning(interests, tables, learners)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    by_loop, found = (torch.autograd.grad(x, leaves, allow_unused=True) for x in (expected, loss))
    for view, (ours, theirs) in enumerate(zip(found, by_loop)):
        assert (ours is None) == (theirs is None) == (view // 2 not in learners)
        assert ours is None or torch.allclose(ours, theirs, atol=1e-5)
    assert mutual_learning([interests[0]] * 2, [tables[0]] * 2).abs().item() < 1e-6


def test_mutual_learning_survives_probabilities_that_underflow():
    interests, table = torch.tensor([[[200.0, 0.0]]], requires_grad=True), torch.eye(2)
    loss = mutual_learning([interests, torch.tensor([[[0.0, 200.0]]])], [table, table], [0])
    loss.backward()
    assert loss.item() == pytest.approx(200)
    assert torch.allclose(interests.grad, torch.tensor([[[1.0, -1.0]]]))
