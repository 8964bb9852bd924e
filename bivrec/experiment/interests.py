"""The interests of trained models."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from bivrec.data.domain import Domain
from bivrec.data.types import EvalCases
from bivrec.experiment.registry import Trained
from bivrec.model.base import pad

ROWS_AT_ONCE = 256  # histories that a model encodes together


@torch.no_grad()
def read_interests(trained: Trained, cases: EvalCases) -> dict[str, dict[str, Tensor]]:
    """What each view makes of the cases' histories, noise-free.

    interests: each user's final interests [case interest dim]; shares: how much of each patch goes
    to each interest [scale case position interest]; table: the items' vectors; items and mask: the
    padded histories.
    """
    model = trained.model.eval()
    histories = pad(cases.histories, model.max_length, model.multiple)
    items, mask = (x.to(model.device) for x in histories)
    tables, found = model.tables(), {}
    for some, present in zip(items.split(ROWS_AT_ONCE), mask.split(ROWS_AT_ONCE)):
        rows, last = torch.arange(len(some)), present.sum(1) - 1
        for view, (interests, logits) in model.encode(some, present, tables).items():
            found.setdefault(view, []).append((interests[rows, last], logits.softmax(-1)))
    return {
        view: {
            "interests": torch.cat([interests for interests, _ in parts]),
            "shares": torch.cat([shares for _, shares in parts], 1),
            "table": tables[view],
            "items": items,
            "mask": mask,
        }
        for view, parts in found.items()
    }


def interest_recovery(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """Whether interests group the items of test histories by kind, by model, view and seed.

    Adjusted mutual information between the interest that an item is given to and its kind
    (planted: the true one; films: the first genre). 1: the same grouping; 0: chance. Without rows
    where the items have no kinds, or all the same.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    kinds, rows = domain.kinds, []
    for trained in models if len(set(kinds)) > 1 else ():
        clustered = trained.model.settings.model.pooling == "cluster"
        for view, read in read_interests(trained, domain.fold(trained.seed).test).items():
            mask = read["mask"]
            items = read["items"][mask].cpu().numpy()
            interest = read["shares"][0][mask].argmax(-1).cpu().numpy() * clustered
            agreement = adjusted_mutual_info_score(kinds[items], interest)
            rows.append((trained.name, view, trained.seed, agreement))
    return pd.DataFrame(rows, columns=["model", "view", "seed", "agreement"])
