"""The same models under other splits."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from bivrec.data.domain import Domain
from bivrec.evaluation import bootstrap_interval, user_metrics
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_models


def protocol_domain(domain: Domain, protocol: str) -> Domain:
    """The domain split another way."""
    return (
        domain
        if protocol == domain.settings.split.protocol
        else replace(domain, changes={**domain.changes, "split.protocol": protocol})
    )


def rank_protocols(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """Test ranks of the same models under each of `studies.protocols` (column protocol)."""
    tables, seeds = [], domain.settings.studies.retrained_seeds
    for protocol in domain.settings.studies.protocols:
        judged = protocol_domain(domain, protocol)
        tables.append(rank_models(judged, train_models(judged, names, seeds), protocol=protocol))
    return pd.concat(tables, ignore_index=True)


def protocol_table(ranks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Each model and view under each protocol: the metric with its 95 % interval over users, a user's seeds averaged first."""
    users = (
        user_metrics(ranks)
        .groupby(["protocol", "model", "view", "user"], sort=False)[metric]
        .mean()
    )
    groups = users.groupby(["protocol", "model", "view"], sort=False)
    rows = [(*key, *bootstrap_interval(part.to_numpy()), len(part)) for key, part in groups]
    return pd.DataFrame(rows, columns=["protocol", "model", "view", "mean", "low", "high", "users"])
