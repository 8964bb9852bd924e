"""Kernels that need a GPU; `benchmarks/gpu.py` measures their speed."""

import copy
import itertools
from contextlib import nullcontext

import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.experiment.registry import build_model
from bivrec.kernels.catalogue_attention import catalogue_softmax
from bivrec.kernels.cuda_graphs import Recorder, record_encoders
from bivrec.model.losses import interest_softmax
from bivrec.training.batches import draw_batches

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHORT = {"training.num_steps": 30, "training.evaluate_every": 10}


def with_gradients(loss: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize(
    "rows, num_interests, num_items", [(1, 1, 5), (777, 2, 3416), (5000, 4, 59_047)]
)
def test_fused_attention_is_the_loss(rows, num_interests, num_items):
    """In bfloat16, within its rounding of the reference in float64."""
    interests = (torch.randn(rows, num_interests, 64, device="cuda") * 0.4).requires_grad_()
    table = (torch.randn(num_items, 64, device="cuda") * 0.4).requires_grad_()
    targets = torch.randint(num_items, (rows,), device="cuda")
    loss = catalogue_softmax(interests, table, targets, torch.bfloat16)
    exact = interest_softmax(interests.double(), table.double(), targets)
    fused, exact = (with_gradients(x, interests, table) for x in (loss, exact))
    assert all((a - b).norm() <= 0.01 * b.norm() for a, b in zip(fused, exact))


def train_steps(model, batches, record: bool) -> tuple[torch.Tensor, int]:
    """The losses of a few steps, and how many graphs were record_encoders for them."""
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.05), []
    torch.cuda.manual_seed(0)
    with record_encoders(model) if record else nullcontext():
        for batch in batches:
            optimizer.zero_grad()
            loss = model.loss(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        recorders = [x.forward for x in model.modules() if isinstance(x.forward, Recorder)]
        graphs = [graph for recorder in recorders for graph in recorder.graphs.values() if graph]
    return torch.stack(losses), len(graphs)


@pytest.mark.parametrize("name", ["bivrec", "pure-id", "sasrec", "sasrec-sum", "mmsrec", "fdsa"])
def test_a_recorded_encoder_gives_what_the_encoder_gives(name):
    """Losses over some steps, batches of two lengths in turn, dropout and Gumbel noise included."""
    domain = Domain("planted", SHORT | {"machine.deterministic": True})
    model = build_model(domain, name, 0).train()
    settings, train = model.settings.training, domain.fold(0).train
    batches = draw_batches(train, settings, model.max_length, 12, 0, model.device)
    batches = [
        batch for batch in itertools.islice(batches, 40) if len(batch.items) == settings.batch_size
    ]
    plain, _ = train_steps(copy.deepcopy(model), batches, False)
    graphed, num_graphs = train_steps(copy.deepcopy(model), batches, True)
    torch.use_deterministic_algorithms(False)
    assert num_graphs >= 2
    torch.testing.assert_close(plain, graphed, rtol=1e-4, atol=1e-4)
