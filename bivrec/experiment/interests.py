"""The interests of trained models."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from bivrec.data.domain import Domain
from bivrec.data.types import EvalCases
from bivrec.experiment.registry import Trained
from bivrec.model.base import pad


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
    rows, last, tables = torch.arange(len(items)), mask.sum(1) - 1, model.tables()
    return {
        view: {
            "interests": interests[rows, last],
            "shares": logits.softmax(-1),
            "table": tables[view],
            "items": items,
            "mask": mask,
        }
        for view, (interests, logits) in model.encode(items, mask, tables).items()
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
