"""The same models under other evaluation protocols."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from bivrec.data.domain import Domain
from bivrec.evaluation import interval_table
from bivrec.experiment.runs import rank_models, require_both_views
from bivrec.experiment.training import train_models


def protocol_domain(domain: Domain, protocol: str) -> Domain:
    """The domain under another `split.protocol`."""
    if protocol == domain.settings.split.protocol:
        return domain
    return replace(domain, changes={**domain.changes, "split.protocol": protocol})


def rank_protocols(domain: Domain, names: Sequence[str]) -> pd.DataFrame:
    """Test ranks of the models, trained and tested under each of `studies.protocols` (column
    protocol)."""
    studies, tables = domain.settings.studies, []
    require_both_views(domain)
    domains = {protocol: protocol_domain(domain, protocol) for protocol in studies.protocols}
    for other in domains.values():  # before anything is trained
        for seed in studies.retrained_seeds:
            other.fold(seed)
    for protocol, other in domains.items():
        models = train_models(other, names, studies.retrained_seeds)
        tables.append(rank_models(other, models, protocol=protocol))
    return pd.concat(tables, ignore_index=True)


def protocol_table(ranks: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Each model and view under each protocol: the metric's mean with its 95 % interval, and the
    number of users."""
    keys = ["protocol", "model", "view"]
    users = ranks.groupby(keys)["user"].nunique().rename("users")
    return interval_table(ranks, metric, keys).join(users, on=keys)
