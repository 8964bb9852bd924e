"""Models that are trained separately and score together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from bivrec.data.domain import Domain
from bivrec.experiment.registry import Trained
from bivrec.model.base import SequentialModel
from bivrec.model.losses import combine


@dataclass(frozen=True)
class Ensemble:
    """Several trained models as one: the sum of the log-softmaxes of their combined or only
    scores."""

    members: dict[str, SequentialModel]

    def score(
        self, histories: Sequence[Int64[np.ndarray, "_"]]
    ) -> dict[str, Float[Tensor, "history catalogue"]]:
        """The view `both`: every item's score, a row per history."""
        views = {name: model.score(histories) for name, model in self.members.items()}
        return {
            "both": combine({name: list(scores.values())[-1] for name, scores in views.items()})
        }


def build_ensembles(domain: Domain, models: Sequence[Trained]) -> list[Trained]:
    """Every ensemble of `ensembles` whose members are among the models, for each of their seeds."""
    by_run = {(trained.name, trained.seed): trained.model for trained in models}
    return [
        Trained(name, seed, Ensemble({member: by_run[member, seed] for member in members}))
        for name, members in domain.settings.ensembles.items()
        for seed in dict.fromkeys(trained.seed for trained in models)
        if all((member, seed) in by_run for member in members)
    ]
