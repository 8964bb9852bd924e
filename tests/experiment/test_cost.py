"""What a training step costs."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from bivrec.data.domain import Domain
from bivrec.experiment.cost import UNKNOWN_TO_COUNTER, count_costs
from bivrec.experiment.registry import build_model

pytestmark = pytest.mark.slow


def costs(name: str, **changes) -> dict[str, float]:
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    return count_costs(Domain("planted", settings), name)


def test_operations_are_those_of_the_matrix_products():
    """A step of one view costs less than of two, and twice the batch about twice as much."""
    one, two = (
        costs("pure-id", training__batch_size=size, features__num_components=1)["flops_per_step"]
        for size in (16, 32)
    )
    assert 1.5 < two / one < 2.5
    both, single = costs("bivrec"), costs("pure-id")
    assert all(both[key] > single[key] > 0 for key in ("flops_per_step", "memory_mb"))


def test_memory_counts_what_a_step_holds():
    """Twice the batch stores about twice as much for its backward pass; weights and features are
    the same."""
    small, large = (costs("bivrec", training__batch_size=size)["memory_mb"] for size in (8, 16))
    model = build_model(Domain("planted"), "bivrec", 0)
    parameters = sum(p.nbytes for p in model.parameters())
    constant = (5 * parameters + sum(b.nbytes for b in model.buffers())) / 1e6
    assert 1.6 < (large - constant) / (small - constant) < 2.4


def test_memory_does_not_depend_on_what_lay_in_memory_before(planted):
    """Storages are held while they are counted: an address given out twice within a step would hide
    one.
    """
    counted, garbage = set(), []
    for number in range(6):
        garbage += [torch.empty(1000 * number + 37 * k) for k in range(40)]
        del garbage[::2]
        counted.add(count_costs(planted, "bivrec", 3)["memory_mb"])
    assert len(counted) == 1


def test_products_in_place_and_attention_on_a_cpu_are_counted():
    """PyTorch's own counter passes over both, which would make the softmax a third cheaper than it
    is.
    """
    a, b = torch.randn(6, 4), torch.randn(4, 5)
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_COUNTER) as counter:
        torch.zeros(6, 5).addmm_(a, b)
    assert counter.get_total_flops() == 2 * 6 * 4 * 5
    x = torch.randn(2, 2, 50, 32, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_COUNTER) as counter:
        scaled_dot_product_attention(x, x, x, is_causal=True).sum().backward()
    product = 2 * 2 * 2 * 50 * 50 * 32
    assert counter.get_total_flops() == 7 * product  # two forward, five backward
