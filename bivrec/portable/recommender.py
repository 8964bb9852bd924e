"""A trained model and its catalogue, from a dataset or from an exported folder.

Inside, an item is its number in the catalogue; outside, its id in the dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bivrec.data.domain import Domain
from bivrec.errors import DataError
from bivrec.experiment.checkpoints import checkpoint_folder, load_checkpoint
from bivrec.experiment.interests import History
from bivrec.experiment.registry import Trained
from bivrec.experiment.training import train_model
from bivrec.settings import project_root, repro_command

UNTRAINED = ("popularity", "itemknn")  # families that count interactions and need no checkpoint
ITEM_COLUMNS = ["item", "title", "year", "genres"]


@dataclass(frozen=True)
class Recommender:
    """A trained model and the items that it knows: row i of `items` has the id, title, year and
    genres of item i. `domain` is the dataset with its users; None for an exported model, which has
    its `card` instead."""

    dataset: str
    trained: Trained
    items: pd.DataFrame
    domain: Domain | None = None
    card: str = ""

    @cached_property
    def ids(self) -> list[int | str]:
        """The dataset's item ids, by number."""
        return self.items["item"].tolist()

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The items' numbers, by their ids as text, as files and the command line have them."""
        return {str(item): number for number, item in enumerate(self.ids)}

    @property
    def max_length(self) -> int:
        """How many of a history's newest items the model reads."""
        return getattr(self.trained.model, "max_length", len(self.items))

    def find(self, items: Sequence[int | str]) -> History:
        """The numbers of items. Raises DataError for an unknown id."""
        codes, different = pd.factorize(pd.Series(items, dtype=object), use_na_sentinel=False)
        numbers = [self.numbers.get(as_text(item), -1) for item in different]
        if -1 in numbers:
            raise DataError(
                f"{self.dataset} has no item {different[numbers.index(-1)]!r}; its ids look like "
                f"{self.ids[0]!r}, and `load(...).ids` lists them all"
            )
        return np.array(numbers, dtype="int64")[codes]


def as_text(item: Any) -> str:
    """An id as files have it; 1000.0, as a column with gaps has it, is 1000."""
    return str(int(item) if isinstance(item, float) and item.is_integer() else item)


def check_recommender(given: Any) -> None:
    """Raises DataError for anything but a trained model."""
    if not isinstance(given, Recommender):
        problem = f"recommender is of the type {type(given).__name__}"
        raise DataError(f"{problem}; give a trained model, as load('planted') returns")


def of_domain(domain: Domain, trained: Trained) -> Recommender:
    """A model that was trained on a domain, with its items by their published ids."""
    catalogue = domain.sequences.catalogue
    ids = catalogue["id" if "id" in catalogue else "item"]
    return Recommender(domain.name, trained, catalogue.assign(item=ids)[ITEM_COLUMNS], domain)


def load_trained(
    dataset: str, model: str, seed: int | None, profile: str, path: str | Path | None
) -> Recommender:
    """A trained model with its dataset; see `load`."""
    domain = Domain(dataset, profile=profile)
    seed = domain.settings.studies.seeds[0] if seed is None else seed
    if path is None and (domain.planted or domain.variant(model).family in UNTRAINED):
        return of_domain(domain, train_model(domain, model, seed))
    weights = load_checkpoint(domain, model, seed, path and Path(path))
    if weights is None:
        file = Path(path) if path else checkpoint_folder(domain) / f"{model}-{seed}.safetensors"
        why = "was made with other code, data or settings" if file.is_file() else "is missing"
        name = file.relative_to(project_root()) if file.is_relative_to(project_root()) else file
        raise DataError(f"{name} {why}; `{repro_command(profile)}` makes it")
    return of_domain(domain, Trained(model, seed, weights))
