"""Recommendations for one user or many, and the interests that they come from."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from bivrec.errors import DataError
from bivrec.evaluation import mask_items
from bivrec.experiment.interests import History
from bivrec.experiment.registry import Trained
from bivrec.experiment.structure import has_structure
from bivrec.kernels.whole_rows import encode_rows
from bivrec.model.base import ItemRows, LastInterests, Mask, Scores, SequentialModel, Tables, pad
from bivrec.model.embedding import align_newest
from bivrec.portable.files import check_histories
from bivrec.portable.recommender import Recommender, check_recommender

ROWS_AT_ONCE = 64  # histories that are scored together
REASONS = 3  # items of a history that explain a recommendation

Best = Int64[Tensor, "batch rank"]  # the numbers of the best items


def recommend(
    recommender: Recommender, history: Iterable[int | str], k: int = 20, view: str | None = None
) -> list[int | str]:
    """The ids of the k items to follow a history of ids (oldest first), best first.

    `view=None` combines both views where the model has two. Raises DataError for an unknown id or
    view, an empty history, or k below 1."""
    items = read_ids(history, "history")
    histories = pd.DataFrame({"user": 0, "item": pd.Series(items, dtype=object)})
    return recommend_many(recommender, histories, k, view)["item"].tolist()


@torch.inference_mode()
def recommend_many(
    recommender: Recommender,
    histories: pd.DataFrame,
    k: int = 20,
    view: str | None = None,
    allowed: Iterable[int | str] | None = None,
    reasons: bool = False,
) -> pd.DataFrame:
    """The k items to follow each user's history, best first, without the history's own.

    `histories` has the columns user and item (ids, oldest first). With `allowed`, only these ids
    are recommended. Columns: user, rank, item, title, score, view, interest (the view and number of
    the interest that scores the item best; empty for models without several). `reasons` adds
    because: the newest items of the history that this interest owns. Raises DataError as
    `recommend` does."""
    check_recommender(recommender)
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
        raise DataError(f"k is {k!r}; it must be a whole number, at least 1")
    check_histories(histories, "histories")
    if histories.empty:
        raise DataError("the history has no items; give at least one")
    user, users = pd.factorize(histories["user"])
    by_user = np.argsort(user, kind="stable")
    numbers = recommender.find(histories["item"].iloc[by_user].tolist())
    rows = np.split(numbers, np.cumsum(np.bincount(user))[:-1])
    hidden = np.zeros(len(recommender.items), bool)
    if allowed is not None:
        hidden[:] = True
        hidden[recommender.find(read_ids(allowed, "allowed"))] = False
    lists = pd.concat(rank_rows(recommender, rows, int(k), view, torch.from_numpy(hidden), reasons))
    lists = lists.sort_values(["row", "rank"], ignore_index=True)
    catalogue = recommender.items.iloc[lists.pop("number")]
    lists.insert(0, "user", users[lists.pop("row")])
    lists.insert(2, "item", catalogue["item"].to_numpy())
    lists.insert(3, "title", catalogue["title"].to_numpy())
    return lists


def read_ids(items: Iterable[int | str], name: str) -> list[int | str]:
    """A list of ids; raises DataError for anything else."""
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise DataError(f"{name} is {items!r}; give a list of item ids")
    ids = [*items]
    for item in ids:
        if not isinstance(item, Hashable):
            problem = f"{name} holds {item!r:.60} in place of an id"
            raise DataError(f"{problem}; give the ids of one list, as in [1000, 1001]")
    return ids


@dataclass(frozen=True)
class Scored:
    """What a model computes for a batch of histories."""

    model: Any
    tables: Tables
    items: ItemRows
    mask: Mask
    interests: LastInterests  # empty unless the model is neural
    logits: dict[str, Float[Tensor, "batch patch interest"]]  # if it allocates patches
    scores: Scores

    def views_of(self, view: str) -> list[str]:
        """The views with interests that a list of this view comes from."""
        return [view] if view in self.interests else [*self.interests]


def rank_rows(
    recommender: Recommender,
    rows: Sequence[History],
    k: int,
    view: str | None,
    hidden: Bool[Tensor, "catalogue"],
    reasons: bool,
) -> Iterator[pd.DataFrame]:
    """Parts of `recommend_many`, with row and number in place of ids."""
    names = item_names(recommender.items)
    for batch, scored in score_rows(recommender.trained, rows):
        view = [*scored.scores][-1] if view is None else view
        if view not in [*scored.scores]:
            name, views = recommender.trained.name, ", ".join(scored.scores)
            raise DataError(f"{name} has no view {view!r}; it has {views}")
        histories = [rows[row] for row in batch]
        scores = mask_items(scored.scores[view], histories)
        scores.masked_fill_(hidden.to(scores.device), -torch.inf)
        top, best = scores.topk(min(k, scores.shape[1]))
        owners, labels = find_owners(scored, best, view)
        found = {
            "row": np.repeat(batch, best.shape[1]),
            "rank": np.tile(np.arange(1, best.shape[1] + 1), len(batch)),
            "number": best.flatten().cpu().numpy(),
            "score": top.flatten().cpu().numpy(),
            "view": view,
            "interest": labels[owners.flatten().cpu().numpy()],
        }
        if reasons:
            found["because"] = explain(scored, owners, view, names)
        yield pd.DataFrame(found)[np.isfinite(found["score"])]


def item_names(items: pd.DataFrame) -> ndarray:
    """Each item's title, or its id where it has none; last, for no item, an empty text."""
    names = items["title"].where(items["title"].str.strip() != "", items["item"].astype(str))
    return np.append(names.to_numpy(dtype=object), "")


def score_rows(
    trained: Trained, rows: Sequence[History]
) -> Iterator[tuple[Int64[ndarray, "batch"], Scored]]:
    """The rows' scores in batches of similar lengths, each with the indices of its rows."""
    model = trained.model
    neural = isinstance(model, SequentialModel)
    tables = model.eval().tables() if neural else {}
    by_length = np.argsort([len(history) for history in rows], kind="stable")
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = by_length[start : start + ROWS_AT_ONCE]
        histories = [rows[row] for row in batch]
        length, multiple = (model.max_length, model.multiple) if neural else (1, 1)
        items, mask = pad(histories, length, multiple)
        logits, interests = {}, {}
        if not neural:
            scores = model.score(histories)
        else:
            items, mask = items.to(model.device), mask.to(model.device)
            if has_structure(trained):
                encoded = encode_rows(model, items, mask, tables)
                interests = {view: parts["interests"][:, 0] for view, parts in encoded.items()}
                logits = {view: parts["logits"] for view, parts in encoded.items()}
            else:
                interests = model.encode_last(items, mask, tables)
            scores = model.score_catalogue(interests, tables)
        yield batch, Scored(model, tables, items, mask, interests, logits, scores)


def find_owners(scored: Scored, best: Best, view: str) -> tuple[Best, ndarray]:
    """The interest that scores each of the best items best, as an index into the labels."""
    views = scored.views_of(view)
    num_interests = max((scored.interests[name].shape[1] for name in views), default=1)
    if num_interests == 1:
        return torch.zeros_like(best), np.array([""], dtype=object)
    owners, shares = [], []
    for name in views:
        vectors = scored.tables[name][best]
        owners.append(torch.einsum("bkd,brd->brk", scored.interests[name], vectors).argmax(-1))
        shares.append(scored.scores[name].log_softmax(-1).gather(1, best))
    which = torch.stack(shares).argmax(0)  # the view that ranks the item higher
    owner = torch.stack(owners).gather(0, which[None])[0]
    labels = [f"{name} {number}" for name in views for number in range(num_interests)]
    return which * num_interests + owner, np.array(labels, dtype=object)


def explain(scored: Scored, owners: Best, view: str, names: ndarray) -> list[str] | str:
    """The names of the newest items that each recommendation's interest owns."""
    if not scored.logits:
        return ""
    owned = [newest_items(scored, scored.logits[name]) for name in scored.views_of(view)]
    items = torch.cat(owned, 1).take_along_dim(owners[..., None], 1).flatten(0, 1)
    return ["; ".join(filter(None, row)) for row in names[items.cpu().numpy()]]


def newest_items(
    scored: Scored, logits: Float[Tensor, "batch patch interest"]
) -> Int64[Tensor, "batch interest reason"]:
    """The newest items of each row whose patch of the smallest scale each interest owns; -1 for
    none."""
    settings = scored.model.settings.model
    items, mask = align_newest(scored.items, scored.mask)
    length, scale = items.shape[1], min(settings.scales)
    before = settings.scales[: settings.scales.index(scale)]
    first = sum(length // other for other in before)
    nearest = logits[:, first : first + length // scale].topk(settings.num_nearest, -1).indices
    owned = torch.zeros_like(logits, dtype=torch.bool)[:, : length // scale].scatter(
        -1, nearest, True
    )
    owned = owned.repeat_interleave(scale, 1) & mask[..., None]
    position = owned * torch.arange(1, length + 1, device=items.device)[:, None]
    newest = position.topk(min(REASONS, length), 1).values.transpose(1, 2)
    found = items[:, None].take_along_dim((newest - 1).clamp_min(0), 2)
    return found.masked_fill(newest == 0, -1)
