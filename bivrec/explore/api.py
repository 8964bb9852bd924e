"""A trained model, queried by item ids: recommendations, and what it reads from one history.

Inside, an item is its number in the catalogue; outside, its id in the dataset."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from bivrec.data.domain import Domain
from bivrec.errors import DataError
from bivrec.experiment.checkpoints import checkpoint_folder, load_checkpoint
from bivrec.experiment.interests import History, best_items, interest_items, score_interests
from bivrec.experiment.registry import Trained
from bivrec.experiment.training import train_model
from bivrec.settings import project_root, repro_command
from bivrec.studies.noise import HISTORY_NOISE, add_feature_noise, add_history_noise, with_features

UNTRAINED = ("popularity", "itemknn")  # families that count interactions and need no checkpoint


@dataclass(frozen=True)
class Recommender:
    """A trained model and the domain whose items it knows."""

    domain: Domain
    trained: Trained

    @cached_property
    def ids(self) -> list[int | str]:
        """The dataset's item ids, by number."""
        catalogue = self.domain.sequences.catalogue
        return catalogue["id" if "id" in catalogue else "item"].tolist()

    @cached_property
    def numbers(self) -> dict[int | str, int]:
        """The items' numbers, by id."""
        return {item: number for number, item in enumerate(self.ids)}

    @property
    def max_length(self) -> int:
        """How many of a history's newest items the model reads."""
        return getattr(self.trained.model, "max_length", self.domain.sequences.num_items)

    def find(self, items: Sequence[int | str]) -> History:
        """The numbers of items. Raises DataError for an unknown id."""
        for item in items:
            if item not in self.numbers:
                raise DataError(
                    f"{self.domain.name} has no item {item!r}; its ids look like {self.ids[0]!r}, "
                    "and `load(...).ids` lists them all"
                )
        return np.array([self.numbers[item] for item in items], dtype="int64")


def load(
    dataset: str = "planted",
    model: str = "bivrec",
    seed: int | None = None,
    profile: str = "default",
    path: str | Path | None = None,
) -> Recommender:
    """A trained model with its dataset, from the checkpoint of `make repro` or the one at `path`.

    `seed=None` is the first seed of the studies. Models of planted, popularity and ItemKNN have no
    checkpoints: they are trained here, in seconds. Raises DataError where a checkpoint is missing,
    damaged, or of other code, data or settings."""
    domain = Domain(dataset, profile=profile)
    seed = domain.settings.studies.seeds[0] if seed is None else seed
    if path is None and (domain.planted or domain.variant(model).family in UNTRAINED):
        return Recommender(domain, train_model(domain, model, seed))
    weights = load_checkpoint(domain, model, seed, path and Path(path))
    if weights is None:
        file = Path(path) if path else checkpoint_folder(domain) / f"{model}-{seed}.safetensors"
        why = "was made with other code, data or settings" if file.is_file() else "is missing"
        name = file.relative_to(project_root()) if file.is_relative_to(project_root()) else file
        raise DataError(f"{name} {why}; `{repro_command(profile)}` makes it")
    return Recommender(domain, Trained(model, seed, weights))


def score_items(
    recommender: Recommender, history: History
) -> dict[str, Float[ndarray, "catalogue"]]:
    """The scores of all items to follow a history, by view; minus infinity for its own items.

    Raises DataError for an empty history."""
    if not len(history):
        raise DataError("the history has no items; give at least one")
    scores = {}
    for view, rows in recommender.trained.model.score([history]).items():
        scores[view] = rows[0].float().cpu().numpy().copy()
        scores[view][history] = -np.inf
    return scores


def recommend(
    recommender: Recommender, history: Sequence[int | str], k: int = 20, view: str | None = None
) -> list[int | str]:
    """The ids of the k items to follow a history of ids (oldest first), best first.

    `view=None` combines both views where the model has two. Raises DataError for an unknown id or
    view, an empty history, or k below 1."""
    if k < 1:
        raise DataError(f"k is {k!r}; it must be at least 1")
    scores = score_items(recommender, recommender.find(history))
    view = view or list(scores)[-1]
    if view not in scores:
        name = recommender.trained.name
        raise DataError(f"{name} has no view {view!r}; it has {', '.join(scores)}")
    return [recommender.ids[number] for number in best_items(scores[view], k)]


def item_table(recommender: Recommender, numbers: History) -> pd.DataFrame:
    """The items' id, title, year and genres."""
    table = recommender.domain.sequences.catalogue.iloc[numbers].reset_index(drop=True)
    table = table.assign(item=[recommender.ids[number] for number in numbers])
    return table[["item", "title", "year", "genres"]]


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
    """The model and the history under one kind of noise of notebook 05, of which one changes: the
    history (its random items are none of `targets`), or the features that the model reads."""
    seed, domain = recommender.trained.seed, recommender.domain
    if kind in HISTORY_NOISE:
        num_items = domain.sequences.num_items
        return recommender, add_history_noise([history], kind, level, num_items, seed, [targets])[0]
    features = add_feature_noise(domain.features(seed), kind, level, seed)
    return replace(recommender, trained=with_features(recommender.trained, features)), history
