"""A trained model, queried by item ids: recommendations, and what it reads from one history.

Inside, an item is its number in the catalogue; outside, its id in the dataset."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from bivrec.data.domain import Domain
from bivrec.data.types import EvalCases
from bivrec.errors import DataError
from bivrec.experiment.checkpoints import checkpoint_folder, load_checkpoint
from bivrec.experiment.interests import read_interests
from bivrec.experiment.registry import Trained
from bivrec.experiment.training import train_model
from bivrec.model.bivrec import BivRec
from bivrec.settings import project_root, repro_command
from bivrec.studies.noise import HISTORY_NOISE, add_feature_noise, add_history_noise, with_features

History = Int64[ndarray, "_"]  # item numbers, oldest first

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


def _best(scores: Float[ndarray, "catalogue"], k: int) -> Int64[ndarray, "_"]:
    """The numbers of the best k items outside the history, best first."""
    best = np.argsort(-scores, kind="stable")[:k]
    return best[np.isfinite(scores[best])]


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
    return [recommender.ids[number] for number in _best(scores[view], k)]


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
    interests = score_interests(recommender, history)
    for view, scores in score_items(recommender, history).items():
        best = _best(scores, k)
        own = interests.get(view, np.empty((0, 0)))
        several = len(own) > 1
        table = item_table(recommender, best).assign(target=np.isin(best, targets))
        table["interest"] = own[:, best].argmax(0) if several else -1
        table.insert(0, "rank", np.arange(1, len(best) + 1))
        table.insert(0, "view", view)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def read_history(recommender: Recommender, history: History) -> dict[str, dict[str, Tensor]]:
    """What BivRec reads from one history, by view, as `read_interests` gives it; empty for other
    models, which have no interests."""
    if not isinstance(recommender.trained.model, BivRec):
        return {}
    cases = EvalCases(np.zeros(1, dtype="int64"), (history,), (history[:0],))
    return read_interests(recommender.trained, cases)


def score_interests(
    recommender: Recommender, history: History
) -> dict[str, Float[ndarray, "interest catalogue"]]:
    """The scores that each interest of a history gives to all items, by view; minus infinity for
    the history's own items. Empty for models without interests."""
    found = {}
    for view, read in read_history(recommender, history).items():
        found[view] = (read["interests"][0] @ read["table"].T).detach().cpu().numpy()
        found[view][:, history] = -np.inf
    return found


def allocate_patches(recommender: Recommender, history: History) -> pd.DataFrame:
    """The patches of a history, by view and scale, oldest first, and the F interests of each.

    Columns: view, scale, first and last (positions in the history), interest, share (without
    noise). A row per patch and interest, those with the largest share of the patch first. Covers
    the items that the model reads."""
    rows, length = [], min(len(history), recommender.max_length)
    start = len(history) - length
    for view, read in read_history(recommender, history).items():
        settings = recommender.trained.model.settings.model
        for scale, shares in zip(settings.scales, read["shares"][:, 0, :length].cpu()):
            nearest = shares.topk(settings.num_nearest, -1)
            for last in range((length - 1) % scale, length, scale):
                ends = (start + max(0, last - scale + 1), start + last)
                owners = zip(nearest.indices[last].tolist(), nearest.values[last].tolist())
                rows += [(view, scale, *ends, *owner) for owner in owners]
    return pd.DataFrame(rows, columns=["view", "scale", "first", "last", "interest", "share"])


def interest_lists(recommender: Recommender, history: History, k: int = 6) -> pd.DataFrame:
    """What each interest of a history owns, and what it recommends.

    Rows of kind `owned` are the newest k items whose patch of the smallest scale belongs to the
    interest; those of kind `recommended` the k items that it scores best, without the history's
    own. Columns: view, interest, kind, rank, item, title, year, genres."""
    patches, rows = allocate_patches(recommender, history), []
    patches = patches[patches["scale"] == patches["scale"].min()]
    for view, scores in score_interests(recommender, history).items():
        of_view = patches[patches["view"] == view]
        for interest, own in enumerate(scores):
            ends = of_view.loc[of_view["interest"] == interest, ["first", "last"]].to_numpy()
            newest = [end for first, last in ends[::-1] for end in range(last, first - 1, -1)]
            for kind, numbers in ("owned", history[newest[:k]]), ("recommended", _best(own, k)):
                ranked = enumerate(numbers.tolist(), start=1)
                rows += [(view, interest, kind, rank, number) for rank, number in ranked]
    table = pd.DataFrame(rows, columns=["view", "interest", "kind", "rank", "item"])
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
