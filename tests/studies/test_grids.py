"""Grids of settings."""

import pytest

from bivrec.data.domain import Domain
from bivrec.studies.grids import train_grid


@pytest.mark.slow
def test_a_grid_tries_every_combination():
    grid = {"model.scales": [[1], [1, 2]], "model.dropout": [0.0, 0.5]}
    domain = Domain("planted", {"training.num_steps": 2, "grids": {"small": grid}})
    table = train_grid(domain, "small", "ndcg@20")
    assert len(table) == 4 * 3 and set(table["trial"]) == {0, 1, 2, 3}
    assert set(table["model.scales"]) == {"[1]", "[1, 2]"}
    assert (table["low"] <= table["value"]).all() and table["value"].nunique() > 4
