"""The interests of trained models."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from bivrec.data.domain import Domain
from bivrec.data.types import EvalCases
from bivrec.experiment.registry import Trained
from bivrec.model.base import pad
from bivrec.model.bivrec import BivRec

ROWS_AT_ONCE = 256  # histories that a model encodes together

History = Int64[ndarray, "_"]  # item numbers, oldest first


@torch.no_grad()
def read_interests(trained: Trained, cases: EvalCases) -> dict[str, dict[str, Tensor]]:
    """What each view makes of the cases' histories, noise-free.

    interests [case interest dim]: each user's final ones; allocation [scale case position
    interest]: the softmax of each patch's logits, alpha in notebook 03; table: the items' vectors;
    items and mask: the padded histories.
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
            "allocation": torch.cat([shares for _, shares in parts], 1),
            "table": tables[view],
            "items": items,
            "mask": mask,
        }
        for view, parts in found.items()
    }


def read_history(trained: Trained, history: History) -> dict[str, dict[str, Tensor]]:
    """What BivRec reads from one history, by view, as `read_interests` gives it; empty for other
    models, which have no interests."""
    if not isinstance(trained.model, BivRec):
        return {}
    return read_interests(trained, EvalCases(np.zeros(1, "int64"), (history,), (history[:0],)))


def score_interests(
    trained: Trained, history: History
) -> dict[str, Float[ndarray, "interest catalogue"]]:
    """The scores that each interest of a history gives to all items, by view; minus infinity for
    the history's own items. Empty for models without interests."""
    found = {}
    for view, read in read_history(trained, history).items():
        found[view] = (read["interests"][0] @ read["table"].T).detach().cpu().numpy()
        found[view][:, history] = -np.inf
    return found


def best_items(scores: Float[ndarray, "catalogue"], k: int) -> Int64[ndarray, "_"]:
    """The numbers of the k items with the largest finite scores, best first."""
    best = np.argsort(-scores, kind="stable")[:k]
    return best[np.isfinite(scores[best])]


def allocate_patches(trained: Trained, history: History) -> pd.DataFrame:
    """The patches of a history, by view and scale, oldest first, and the F interests of each.

    Columns: view, scale, first and last (positions in the history), interest, share (without
    noise). A row per patch and interest, those with the largest share of the patch first. Covers
    the items that the model reads."""
    rows = []
    for view, read in read_history(trained, history).items():
        settings = trained.model.settings.model
        length = min(len(history), settings.max_length)
        start = len(history) - length
        for scale, shares in zip(settings.scales, read["allocation"][:, 0, :length].cpu()):
            nearest = shares.topk(settings.num_nearest, -1)
            for last in range((length - 1) % scale, length, scale):
                ends = (start + max(0, last - scale + 1), start + last)
                owners = zip(nearest.indices[last].tolist(), nearest.values[last].tolist())
                rows += [(view, scale, *ends, *owner) for owner in owners]
    return pd.DataFrame(rows, columns=["view", "scale", "first", "last", "interest", "share"])


def interest_items(trained: Trained, history: History, k: int = 6) -> pd.DataFrame:
    """What each interest of a history owns, and what it recommends.

    Rows of kind `owned` are the newest k items whose patch of the smallest scale belongs to the
    interest; those of kind `recommended` the k items that it scores best, without the history's
    own. Columns: view, interest, kind, rank, item (its number)."""
    patches, rows = allocate_patches(trained, history), []
    patches = patches[patches["scale"] == patches["scale"].min()]
    for view, scores in score_interests(trained, history).items():
        of_view = patches[patches["view"] == view]
        for interest, own in enumerate(scores):
            ends = of_view.loc[of_view["interest"] == interest, ["first", "last"]].to_numpy()
            newest = [end for first, last in ends[::-1] for end in range(last, first - 1, -1)]
            for kind, numbers in (
                ("owned", history[newest[:k]]),
                ("recommended", best_items(own, k)),
            ):
                ranked = enumerate(numbers.tolist(), start=1)
                rows += [(view, interest, kind, rank, number) for rank, number in ranked]
    return pd.DataFrame(rows, columns=["view", "interest", "kind", "rank", "item"])


def interest_recovery(domain: Domain, models: Sequence[Trained]) -> pd.DataFrame:
    """Whether interests group the items of test histories by kind, by model, view and seed.

    Adjusted mutual information between the interest that an item is given to (by its patch of the
    smallest scale) and its kind (planted: the true one; films: the first genre). 1: the same
    grouping; 0: chance. Without rows where the items have no kinds, or all the same.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    kinds, rows = domain.kinds, []
    for trained in models if len(set(kinds)) > 1 else ():
        settings = trained.model.settings.model
        clustered, smallest = settings.pooling == "cluster", np.argmin(settings.scales)
        for view, read in read_interests(trained, domain.fold(trained.seed).test).items():
            mask = read["mask"]
            items = read["items"][mask].cpu().numpy()
            interest = read["allocation"][smallest][mask].argmax(-1).cpu().numpy() * clustered
            agreement = adjusted_mutual_info_score(kinds[items], interest)
            rows.append((trained.name, view, trained.seed, agreement))
    return pd.DataFrame(rows, columns=["model", "view", "seed", "agreement"])
