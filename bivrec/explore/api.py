"""What a trained model reads from one history, and what follows from each interest."""

from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from bivrec.errors import DataError
from bivrec.evaluation import mask_items
from bivrec.experiment.interests import History, best_items, interest_items, score_interests
from bivrec.portable.recommender import Recommender
from bivrec.studies.noise import HISTORY_NOISE, add_feature_noise, add_history_noise, with_features


def score_items(
    recommender: Recommender, history: History
) -> dict[str, Float[ndarray, "catalogue"]]:
    """The scores of all items to follow a history, by view; minus infinity for its own items.

    Raises DataError for an empty history."""
    if not len(history):
        raise DataError("the history has no items; give at least one")
    views = recommender.trained.model.score([history])
    return {view: mask_items(rows, [history])[0].cpu().numpy() for view, rows in views.items()}


def item_table(recommender: Recommender, numbers: History) -> pd.DataFrame:
    """The items' id, title, year and genres."""
    return recommender.items.iloc[numbers].reset_index(drop=True)


def top_items(
    recommender: Recommender, history: History, targets: History, k: int = 20
) -> pd.DataFrame:
    """Each view's k best items to follow a history, best first.

    Columns: view, rank, item, title, year, genres, target (whether it truly followed), interest
    (the one that scores the item best; -1 for both views together and models without several)."""
    tables = []
    interests = score_interests(recommender.trained, history)
    for view, scores in score_items(recommender, history).items():
        best = best_items(scores, k)
        own = interests.get(view, np.empty((0, 0)))
        several = len(own) > 1
        table = item_table(recommender, best).assign(target=np.isin(best, targets))
        table["interest"] = own[:, best].argmax(0) if several else -1
        table.insert(0, "rank", np.arange(1, len(best) + 1))
        table.insert(0, "view", view)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def interest_lists(recommender: Recommender, history: History, k: int = 6) -> pd.DataFrame:
    """What each interest of a history owns and recommends: `interest_items`, with each item's id,
    title, year and genres."""
    table = interest_items(recommender.trained, history, k)
    items = item_table(recommender, table.pop("item").to_numpy(dtype="int64"))
    return pd.concat([table, items], axis=1)


def add_noise(
    recommender: Recommender, history: History, targets: History, kind: str, level: float
) -> tuple[Recommender, History]:
    """The model and the history under one kind of noise of notebook 05, which changes either the
    history (its random items are none of `targets`) or the features that the model reads; without
    features, nothing."""
    seed, domain = recommender.trained.seed, recommender.domain
    if kind in HISTORY_NOISE:
        num_items = domain.sequences.num_items
        return recommender, add_history_noise([history], kind, level, num_items, seed, [targets])[0]
    features = domain.features(seed)
    if not features:
        return recommender, history
    features = add_feature_noise(features, kind, level, seed)
    return replace(recommender, trained=with_features(recommender.trained, features)), history
