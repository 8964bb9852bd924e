"""The GPU's recommendation loss by PyTorch's attention kernel for CPUs, against the reference."""

import pytest
import torch

from bivrec.kernels.catalogue_attention import GROUP, catalogue_softmax, is_supported
from bivrec.model.losses import interest_softmax


@pytest.mark.parametrize(
    "num_rows, num_interests, num_items", [(1, 1, 5), (700, 3, 900), (2500, 2, 77)]
)
def test_value_and_gradient_are_the_references(num_rows, num_interests, num_items):
    """Below a group of interests and above one."""
    interests = (torch.randn(num_rows, num_interests, 64) * 0.4).requires_grad_()
    table = (torch.randn(num_items, 64) * 0.4).requires_grad_()
    targets = torch.randint(num_items, (num_rows,))
    fast = catalogue_softmax(interests, table, targets, torch.float32)
    reference = interest_softmax(interests, table, targets)
    assert torch.allclose(fast, reference, rtol=1e-5)
    assert 1 * 1 < 700 * 3 < GROUP < 2500 * 2
    found, expected = (torch.autograd.grad(3 * x, (interests, table)) for x in (fast, reference))
    for ours, theirs in zip(found, expected):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_a_cpu_does_not_use_it():
    assert not is_supported(torch.zeros(2, 1, 64), torch.bfloat16)
