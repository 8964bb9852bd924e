"""Models that are trained separately and score together."""

import numpy as np
import torch

from bivrec.data.domain import Domain
from bivrec.experiment.ensembles import build_ensembles
from bivrec.experiment.registry import Trained, build_model


def test_an_ensemble_sums_the_log_softmaxes_of_its_members():
    domain = Domain("planted", {"ensembles": {"pure-sum": ["pure-id", "bivrec"], "x": ["sasrec"]}})
    runs = [("pure-id", 0), ("bivrec", 0), ("bivrec", 1)]
    models = [Trained(*run, build_model(domain, *run).eval()) for run in runs]
    (ensemble,) = build_ensembles(domain, models)  # no other has all its members
    assert (ensemble.name, ensemble.seed, ensemble.record) == ("pure-sum", 0, None)
    histories = [np.array([1, 2, 3]), np.array([4, 5])]
    alone, both = models[0].model.score(histories)["id"], models[1].model.score(histories)["both"]
    expected = alone.log_softmax(-1) + both.log_softmax(-1)
    scores = ensemble.model.score(histories)
    assert list(scores) == ["both"]
    torch.testing.assert_close(scores["both"], expected)
