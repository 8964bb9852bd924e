"""The losses between the views: what they add up to, and whom they teach."""

from dataclasses import replace

import pytest
import torch

from bivrec.model.cross_view import CrossViewLearning, ViewPair
from bivrec.model.losses import allocation_divergence, info_nce, mutual_learning
from bivrec.settings import load_settings

WEIGHTS = ("coarse_weight", "fine_weight", "item_weight", "mutual_weight")


def learning_with(**changes) -> CrossViewLearning:
    settings = load_settings("planted").cross_view
    return CrossViewLearning(replace(settings, **(dict.fromkeys(WEIGHTS, 0.0) | changes)), 8)


def views(*shape: int) -> list[torch.Tensor]:
    return [torch.randn(shape, requires_grad=True) for _ in range(2)]


@pytest.fixture
def pair() -> ViewPair:
    mask = torch.arange(6) < torch.tensor([[6], [3], [1], [4]])
    return ViewPair(views(4, 3, 8), views(4, 6, 3), mask, views(5, 8), views(7, 3, 8), views(20, 8))


def losses_of(learning: CrossViewLearning, pair: ViewPair) -> dict[str, torch.Tensor]:
    """Each loss by its weight's name."""
    settings, (first, second) = learning.settings, learning.heads
    whole = first(pair.probed[0].mean(1)), second(pair.probed[1].mean(1))
    return {
        "coarse_weight": info_nce(*whole, settings.coarse_temperature),
        "fine_weight": allocation_divergence(*pair.allocations, pair.mask),
        "item_weight": info_nce(*pair.items, settings.item_temperature),
        "mutual_weight": mutual_learning(pair.recommending, pair.tables),
    }


@pytest.mark.parametrize("weight", WEIGHTS)
def test_each_weight_adds_its_loss(pair, weight):
    learning = learning_with(learner="both", **{weight: 0.3})
    expected = 0.3 * losses_of(learning, pair)[weight]
    assert torch.allclose(learning(pair), expected, rtol=1e-5)


def test_the_losses_are_added(pair):
    learning = learning_with(learner="both", **dict.fromkeys(WEIGHTS, 0.5))
    expected = 0.5 * sum(losses_of(learning, pair).values())
    assert torch.allclose(learning(pair), expected, rtol=1e-5)
    assert learning_with()(pair) == 0


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("learner", ["both", "id", "multimodal"])
def test_a_view_that_does_not_learn_is_held_fixed(pair, weight, learner):
    learning_with(learner=learner, **{weight: 1.0})(pair).backward()
    for number, view in enumerate(("id", "multimodal")):
        parts = (x[number] for x in vars(pair).values() if isinstance(x, list))
        learns = any(part.grad is not None and part.grad.abs().sum() > 0 for part in parts)
        assert learns == (learner in ("both", view))
