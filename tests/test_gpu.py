"""What only a GPU can show. Skipped without one; `benchmarks/gpu.py` measures its speed."""

import copy
import itertools

import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.evaluation import rank_cases
from bivrec.experiment.registry import build_model
from bivrec.experiment.training import train_model
from bivrec.model.base import SequentialModel
from bivrec.model.losses import _CatalogueAttention, _InterestSoftmax
from bivrec.training.batches import draw_batches

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHORT = {"training.num_steps": 30, "training.evaluate_every": 10}


def gradients(loss: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize(
    "rows, num_interests, num_items", [(1, 1, 5), (777, 2, 3416), (5000, 4, 59_047)]
)
def test_fused_attention_is_the_loss(rows, num_interests, num_items):
    """In bfloat16 within its rounding of blocks of scores in float64."""
    interests = (torch.randn(rows, num_interests, 64, device="cuda") * 0.4).requires_grad_()
    table, targets = (
        (torch.randn(num_items, 64, device="cuda") * 0.4).requires_grad_(),
        torch.randint(num_items, (rows,), device="cuda"),
    )
    found = gradients(
        _CatalogueAttention.apply(interests, table, targets, torch.bfloat16), interests, table
    )
    exact = gradients(
        _InterestSoftmax.apply(
            interests.double(), table.double(), targets, False, torch.float64, None, len(table)
        ),
        interests,
        table,
    )
    assert all((a - b).norm() <= 0.01 * b.norm() for a, b in zip(found, exact))


@pytest.mark.parametrize("name", ["bivrec", "pure-id", "sasrec", "sasrec-sum", "mmsrec", "fdsa"])
def test_a_recorded_encoder_gives_what_the_encoder_gives(name):
    """Losses and weights over some steps, batches of two lengths in turn, dropout and Gumbel noise included."""
    domain = Domain("planted", SHORT | {"machine.deterministic": True})
    model = build_model(domain, name, 0).train()
    told, found = (
        draw_batches(
            domain.fold(0).train, model.settings.training, model.max_length, 12, 0, model.device
        ),
        [],
    )
    batches = [
        batch
        for batch in itertools.islice(told, 40)
        if len(batch.items) == model.settings.training.batch_size
    ]
    for recorded in (False, True):
        one, losses = copy.deepcopy(model), []
        one.record_encoders(recorded)
        optimiser = torch.optim.SGD(one.parameters(), 0.05)
        torch.cuda.manual_seed(0)
        for batch in batches:
            optimiser.zero_grad()
            loss = one.loss(batch)
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        found.append(torch.stack(losses))
        kept = [
            graph
            for part in one.modules()
            if isinstance(part, SequentialModel)
            for graph in (part.graphs or {}).values()
        ]
        assert (
            sum(callable(graph) and not isinstance(graph, torch.nn.Module) for graph in kept)
            >= 2 * recorded
        )
    torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_training_repeats_bit_for_bit_on_request():
    domain = Domain(
        "planted", SHORT | {"machine.deterministic": True, "training.precision": "bfloat16"}
    )
    first, second = (train_model(domain, "bivrec", 0) for _ in range(2))
    torch.use_deterministic_algorithms(False)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values())
    )


def test_gpu_and_cpu_rank_alike():
    domain = Domain("planted", SHORT)
    model, test = train_model(domain, "bivrec", 0).model, domain.fold(0).test
    there, here = rank_cases(model, test), rank_cases(model.cpu(), test)
    assert (there["rank"] == here["rank"]).mean() > 0.99
