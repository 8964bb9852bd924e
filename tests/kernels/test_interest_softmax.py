"""The fast recommendation loss against its reference form, in value and gradient."""

import pytest
import torch

from bivrec.kernels.interest_softmax import chunk_rows, interest_softmax
from bivrec.model import losses


def value_and_gradients(loss, interests, table):
    """Of three times the loss, so that the upstream gradient is not 1."""
    return [loss.detach(), *torch.autograd.grad(3 * loss, (interests, table))]


def inputs(num_rows, num_interests, num_items, size=1.0):
    interests = (size * torch.randn(num_rows, num_interests, 8)).requires_grad_()
    table, targets = (
        torch.randn(num_items, 8, requires_grad=True),
        torch.randint(0, num_items, (num_rows,)),
    )
    return interests, table, targets


@pytest.mark.parametrize("cells", [None, 1, 5000])  # all rows at once, one, and some at a time
@pytest.mark.parametrize("sizes", [(1, 1, 5), (700, 1, 90), (70, 3, 900), (33, 6, 120)])
def test_value_and_gradient_are_the_references(sizes, cells):
    interests, table, targets = inputs(*sizes)
    fast = interest_softmax(interests, table, targets, cells=cells)
    reference = losses.interest_softmax(interests, table, targets)
    found, expected = (value_and_gradients(x, interests, table) for x in (fast, reference))
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
    for ours, theirs in zip(found[1:], expected[1:]):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("cells", [None, 1])
@pytest.mark.parametrize("size", [30.0, 300.0])
def test_scores_that_would_overflow(size, cells):
    interests, table, targets = inputs(4, 2, 50, size)
    fast = interest_softmax(interests, table, targets, cells=cells)
    exact_inputs = [x.detach().double().requires_grad_() for x in (interests, table)]
    exact = losses.interest_softmax(*exact_inputs, targets)
    found = value_and_gradients(fast, interests, table)
    expected = value_and_gradients(exact, *exact_inputs)
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-4)
    for ours, theirs in zip(found[1:], expected[1:]):
        assert torch.isfinite(ours).all()
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


@pytest.mark.parametrize("cells", [None, 1, 5000])
@pytest.mark.parametrize("size, tolerance", [(1.0, 0.02), (5.0, 0.1)])  # the latter: shifted rows
def test_bfloat16_products_are_near(size, tolerance, cells):
    interests, table, targets = inputs(300, 3, 500, size)
    half = interest_softmax(interests, table, targets, dtype=torch.bfloat16, cells=cells)
    exact = losses.interest_softmax(interests, table, targets)
    found, expected = (value_and_gradients(x, interests, table) for x in (half, exact))
    assert half.dtype == torch.float32 and abs(half - exact).item() < tolerance / 2
    for ours, theirs in zip(found[1:], expected[1:]):
        assert ours.dtype == torch.float32 and (ours - theirs).norm() < tolerance * theirs.norm()


def test_sampled_losses_are_the_references():
    interests, table, targets = inputs(20, 3, 40)
    negatives = torch.randperm(40)[:10]
    fast = interest_softmax(interests, table, targets, negatives, dtype=torch.bfloat16)
    assert torch.equal(fast, losses.interest_softmax(interests, table, targets, negatives))


def test_a_batch_without_targets_has_a_finite_gradient():
    interests, table, targets = inputs(0, 3, 40)
    interest_softmax(interests, table, targets).backward()
    assert interests.grad.shape == (0, 3, 8) and not table.grad.any()


def test_chunks_hold_as_many_rows_as_fit():
    table = torch.zeros(1000, 8)
    assert chunk_rows(table, 4, cells=12_000) == 3 and chunk_rows(table, 4, cells=1) == 1
