"""The interests of trained models."""

from collections.abc import Sequence

import pandas as pd
import torch

from bivrec.data.domain import Domain
from bivrec.data.types import EvalCases
from bivrec.experiment.registry import Trained
from bivrec.model.base import pad
from bivrec.settings import vary


@torch.no_grad()
def read_interests(trained: Trained, cases: EvalCases) -> dict[str, dict[str, torch.Tensor]]:
    """By view: each user's final interests [case interest dim], the shares of patches [scale case
    position interest], and the items' vectors; beside them the rows of items and their mask.
    Noise-free."""
    model = trained.model.eval()
    items, mask = (
        part.to(model.device) for part in pad(cases.histories, model.max_length, model.multiple)
    )
    tables, last = model.tables(), mask.sum(1) - 1
    read = model.encode(items, mask, tables)
    rows = torch.arange(len(items))
    return {
        view: {
            "interests": interests[rows, last],
            "shares": allocation.softmax(-1),
            "table": tables[view],
            "items": items,
            "mask": mask,
        }
        for view, (interests, allocation) in read.items()
    }


def interest_recovery(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """Adjusted mutual information between the interest an item of a test history is given to and
    its kind (planted: the true one; films: the first genre), by model, view and seed. 1: the same
    grouping, 0: no better than chance."""
    from sklearn.metrics import adjusted_mutual_info_score

    kinds, rows = domain.kinds, []
    for trained in models:
        pooled = vary(domain.settings, domain.variant(trained.name), trained.name).model.pooling
        for view, read in read_interests(trained, domain.fold(trained.seed).test).items():
            given = read["shares"][0][read["mask"]].argmax(-1).cpu().numpy() * (pooled == "cluster")
            agreement = adjusted_mutual_info_score(
                kinds[read["items"][read["mask"]].cpu().numpy()], given
            )
            rows.append((trained.name, view, trained.seed, agreement))
    return pd.DataFrame(rows, columns=["model", "view", "seed", "agreement"])
