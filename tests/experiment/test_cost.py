"""What a training step costs."""

from bivrec.data.domain import Domain
from bivrec.experiment.cost import count_costs
from bivrec.experiment.registry import build_model


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
