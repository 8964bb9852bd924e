"""Explore: a trained model asked by item ids, and what it makes of one history, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64
from numpy import ndarray

from bivrec.data.domain import Domain
from bivrec.data.types import EvalCases
from bivrec.errors import DataError
from bivrec.experiment.checkpoints import checkpoint_folder, load_checkpoint
from bivrec.experiment.interests import read_interests
from bivrec.experiment.registry import Trained
from bivrec.experiment.training import train_model
from bivrec.model.bivrec import BivRec
from bivrec.settings import project_root
from bivrec.studies.noise import HISTORY_NOISE, add_feature_noise, add_history_noise, with_features

History = Int64[ndarray, "_"]

UNTRAINED = ("popularity", "itemknn")  # families that only count


@dataclass(frozen=True)
class Recommender:
    """A trained model and the domain whose items it knows. Inside, an item is its place in the catalogue; outside, its id."""

    domain: Domain
    trained: Trained

    @cached_property
    def ids(self) -> list[int | str]:
        """The dataset's own ids, by place."""
        catalogue = self.domain.sequences.catalogue
        return (catalogue["id"] if "id" in catalogue else catalogue["item"]).tolist()

    @cached_property
    def places(self) -> dict[int | str, int]:
        return {item: place for place, item in enumerate(self.ids)}

    @property
    def max_length(self) -> int:
        """How many of a history's newest items the model reads."""
        return getattr(self.trained.model, "max_length", self.domain.sequences.num_items)

    def find(self, items: Sequence[int | str]) -> History:
        """The places of items named by id."""
        for item in items:
            if item not in self.places:
                raise DataError(
                    f"{self.domain.name} has no item {item!r}; its ids are as {self.ids[0]!r}, all of them in the list `ids` of what `load` gives"
                )
        return np.array([self.places[item] for item in items], dtype="int64")


def load(
    dataset: str = "planted",
    model: str = "bivrec",
    seed: int | None = None,
    profile: str = "default",
    path: str | Path | None = None,
) -> Recommender:
    """A trained model with its dataset: the checkpoint that `make repro` made, or the one at `path`, of the same settings.
    Planted has no checkpoints, and popularity and ItemKNN none anywhere: those are made anew, in seconds."""
    domain = Domain(dataset, profile=profile)
    seed = domain.settings.studies.seeds[0] if seed is None else seed
    if path is None and (domain.planted or domain.variant(model).family in UNTRAINED):
        return Recommender(domain, train_model(domain, model, seed))
    if (found := load_checkpoint(domain, model, seed, path and Path(path))) is None:
        made = Path(path) if path else checkpoint_folder(domain) / f"{model}-{seed}.safetensors"
        name = made.relative_to(project_root()) if made.is_relative_to(project_root()) else made
        why = "was made with other code, data or settings" if made.is_file() else "is missing"
        raise DataError(
            f"{name} {why}; `make repro{'' if profile == 'default' else f' PROFILE={profile}'}` makes it"
        )
    return Recommender(domain, Trained(model, seed, found))


def score_items(
    recommender: Recommender, history: History
) -> dict[str, Float[ndarray, "catalogue"]]:
    """Scores of all items after a history, by view; those of the history are minus infinity."""
    if not len(history):
        raise DataError("a history without items cannot be continued; give at least one item")
    scores = {
        view: rows[0].float().cpu().numpy().copy()
        for view, rows in recommender.trained.model.score([history]).items()
    }
    for values in scores.values():
        values[history] = -np.inf
    return scores


def recommend(
    recommender: Recommender, history: Sequence[int | str], k: int = 20, view: str | None = None
) -> list[int | str]:
    """The k items to follow a history, oldest first, best first; ids in and out. Of both views together where there are
    two, unless a view is named."""
    if k < 1:
        raise DataError(f"k is {k!r}; ask for at least one item")
    scores = score_items(recommender, recommender.find(history))
    view = view or list(scores)[-1]
    if view not in scores:
        raise DataError(
            f"{recommender.trained.name} has no view {view!r}; it has {', '.join(scores)}"
        )
    best = np.argsort(-scores[view], kind="stable")[: min(k, int(np.isfinite(scores[view]).sum()))]
    return [recommender.ids[place] for place in best]


def item_table(recommender: Recommender, places: History) -> pd.DataFrame:
    """Id, title, year and genres of items."""
    rows = recommender.domain.sequences.catalogue.iloc[places].reset_index(drop=True)
    return rows[["title", "year", "genres"]].assign(
        item=[recommender.ids[place] for place in places]
    )[["item", "title", "year", "genres"]]


def top_items(
    recommender: Recommender, history: History, targets: History, k: int = 20
) -> pd.DataFrame:
    """Each view's k best after a history: columns view, rank, item, title, year, genres, target (whether it truly followed)."""
    tables = []
    for view, scores in score_items(recommender, history).items():
        best = np.argsort(-scores, kind="stable")[:k]
        best = best[np.isfinite(scores[best])]
        rank = np.arange(1, len(best) + 1)
        tables.append(
            item_table(recommender, best).assign(
                view=view, rank=rank, target=np.isin(best, targets)
            )
        )
    return pd.concat(tables, ignore_index=True)[
        ["view", "rank", "item", "title", "year", "genres", "target"]
    ]


def ask(recommender: Recommender, history: History) -> dict:
    """The interests that BivRec reads from one history, by view; no other model has any."""
    if not isinstance(recommender.trained.model, BivRec):
        return {}
    cases = EvalCases(np.zeros(1, dtype="int64"), (history,), (history[:0],))
    return read_interests(recommender.trained, cases)


def allocate_patches(recommender: Recommender, history: History) -> pd.DataFrame:
    """The patches a history is cut into, by view and scale, oldest first: the places in the history of its first and last
    item, the interest it is given to, and its noise-free share of it. Only the newest items that the model reads."""
    rows, length, start = (
        [],
        min(len(history), recommender.max_length),
        max(0, len(history) - recommender.max_length),
    )
    for view, read in ask(recommender, history).items():
        for scale, shares in zip(
            recommender.trained.model.settings.model.scales,
            read["shares"][:, 0, :length].cpu().numpy(),
        ):
            for last in range((length - 1) % scale, length, scale):
                interest = int(shares[last].argmax())
                rows.append(
                    (
                        view,
                        scale,
                        start + max(0, last - scale + 1),
                        start + last,
                        interest,
                        float(shares[last, interest]),
                    )
                )
    return pd.DataFrame(rows, columns=["view", "scale", "first", "last", "interest", "share"])


def nearest_items(recommender: Recommender, history: History, k: int = 6) -> pd.DataFrame:
    """The items with the largest product with each of the history's interests, by view: columns view, interest, rank, item,
    title, year, genres."""
    tables = []
    for view, read in ask(recommender, history).items():
        for interest, places in enumerate(
            (read["interests"][0] @ read["table"].T)
            .topk(min(k, len(read["table"])))
            .indices.cpu()
            .numpy()
        ):
            tables.append(
                item_table(recommender, places).assign(
                    view=view, interest=interest, rank=np.arange(1, len(places) + 1)
                )
            )
    columns = ["view", "interest", "rank", "item", "title", "year", "genres"]
    return (
        pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    )


def add_noise(
    recommender: Recommender, history: History, targets: History, kind: str, level: float
) -> tuple[Recommender, History]:
    """The model and the history under one kind of noise of the study in 05: the history's items disturbed, or the features
    of the whole catalogue."""
    seed, domain = recommender.trained.seed, recommender.domain
    if kind in HISTORY_NOISE:
        return recommender, add_history_noise(
            [history], kind, level, domain.sequences.num_items, seed, [targets]
        )[0]
    features = add_feature_noise(domain.features(seed), kind, level, seed)
    return replace(recommender, trained=with_features(recommender.trained, features)), history
