"""Planted data that need several interests: the truth, the best single vector, and BivRec."""

from math import comb

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from bivrec.data.domain import Domain
from bivrec.evaluation import rank_cases, user_metrics
from bivrec.experiment.interests import read_interests
from bivrec.experiment.structure import apply_control
from bivrec.experiment.training import train_model
from bivrec.model.losses import log_recommendations

NAME, SEED = "planted-alternating", 0


class Given:
    """A model that returns given scores for each history."""

    def __init__(self, histories, scores):
        self.known = {history.tobytes(): row for history, row in zip(histories, scores)}

    def score(self, histories):
        return {"both": torch.stack([self.known[history.tobytes()] for history in histories])}


def ndcg(model, cases) -> float:
    users = user_metrics(rank_cases(model, cases))
    return users.loc[users["view"] == "both", "ndcg@20"].mean()


def expected_counts(settings, history, num_steps):
    """How often each item is expected in the user's next steps: the truth."""
    share, per_kind = 1 / settings.num_kinds, settings.items_per_kind
    ahead, place, more = np.zeros(per_kind), np.eye(per_kind)[0], 1.0
    for visit in range(num_steps):
        more -= comb(num_steps, visit) * share**visit * (1 - share) ** (num_steps - visit)
        place = sum(np.roll(place, step) for step in (1, 2, 3)) / 3
        ahead += more * place  # the kind is drawn more than `visit` times
    newest = {item // per_kind: item % per_kind for item in history.tolist()}
    anywhere = np.full(per_kind, ahead.mean())
    kinds = range(settings.num_kinds)
    return np.concatenate([np.roll(ahead, newest[k]) if k in newest else anywhere for k in kinds])


def fit_vectors(truth, num_interests, dim, num_steps=400):
    """The scores of items' and users' vectors fitted to the truth itself, by gradient descent."""
    generator = torch.Generator().manual_seed(0)
    shapes = (truth.shape[1], dim), (len(truth), num_interests, dim)
    table, users = (torch.randn(x, generator=generator).mul_(0.3).requires_grad_() for x in shapes)
    optimizer = torch.optim.Adam([table, users], 0.05)
    for _ in range(num_steps):
        loss = -(truth * log_recommendations(users, table)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return log_recommendations(users, table).detach()


def test_expected_counts_by_simulation():
    settings = Domain(NAME).dataset.planted
    generator, history = np.random.Generator(np.random.PCG64(0)), np.array([3, 41, 85, 121, 8])
    num_kinds, per_kind, draws = settings.num_kinds, settings.items_per_kind, 20_000
    newest = generator.integers(per_kind, size=(draws, num_kinds))
    newest[:, history // per_kind] = history % per_kind
    counts, rows = np.zeros(num_kinds * per_kind), np.arange(draws)
    for _ in range(7):
        kind = generator.integers(num_kinds, size=draws)
        newest[rows, kind] = (newest[rows, kind] + generator.integers(1, 4, size=draws)) % per_kind
        np.add.at(counts, kind * per_kind + newest[rows, kind], 1 / draws)
    assert expected_counts(settings, history, 7).sum() == pytest.approx(7)
    assert np.allclose(expected_counts(settings, history, 7), counts, atol=0.02)


@pytest.fixture(scope="module")
def domain():
    return Domain(NAME)


@pytest.fixture(scope="module")
def trained(domain):
    return train_model(domain, "bivrec", SEED)


@pytest.fixture(scope="module")
def margin(domain):
    """What the truth gains over the best single vector on the test users."""
    settings, sequences, cases = domain.dataset.planted, domain.sequences, domain.fold(SEED).test
    row = np.searchsorted(domain.raw.items["item"], sequences.catalogue["item"])
    cuts = (domain.settings.split.history_share * sequences.lengths).astype(int)
    users = range(sequences.num_users)
    histories = [sequences.of(user)[: cuts[user]] for user in users]
    left = sequences.lengths - cuts
    counts = [expected_counts(settings, row[histories[user]], int(left[user])) for user in users]
    truth = torch.tensor(np.array(counts)[:, row], dtype=torch.float32)
    truth = truth / truth.sum(1, keepdim=True)
    single = fit_vectors(truth, 1, domain.settings.model.dim)
    truth = truth * (1 + 1e-4 * torch.rand(truth.shape))  # ranks count ties against the target
    return ndcg(Given(histories, truth), cases) - ndcg(Given(histories, single), cases)


def test_several_interests_gain_half_of_what_the_truth_gains(domain, trained, margin):
    one = train_model(Domain(NAME, {"model.num_interests": 1}), "bivrec", SEED)
    cases = domain.fold(SEED).test
    assert margin > 0.08
    assert ndcg(trained.model, cases) - ndcg(one.model, cases) >= margin / 2


def test_random_allocation_costs_a_fifth(domain, trained):
    cases = domain.fold(SEED).test
    randomised = apply_control(trained.model, "allocation randomised")
    assert ndcg(randomised, cases) <= 0.8 * ndcg(trained.model, cases)


@pytest.fixture(scope="module")
def agreement(domain, trained):
    """By view, the best matching of interests and kinds over the items of the test users'
    histories."""
    shares = []
    for read in read_interests(trained, domain.fold(SEED).test).values():
        kinds = domain.kinds[read["items"][read["mask"]].numpy()]
        nearest = read["allocation"][0][read["mask"]].argmax(-1).numpy()
        counts = np.zeros((domain.settings.model.num_interests, kinds.max() + 1))
        np.add.at(counts, (nearest, kinds), 1)
        shares.append(counts[linear_sum_assignment(-counts)].sum() / counts.sum())
    return shares


def test_each_interest_is_one_kind(agreement):
    assert min(agreement) >= 0.9  # by chance about a fifth
