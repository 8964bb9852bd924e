"""Every model by its name."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from bivrec.baselines import (
    DIFSR,
    FDSA,
    MMMLP,
    NOVA,
    ComiRecSA,
    GRU4Rec,
    ItemNeighbours,
    MMSRec,
    Popularity,
    SASRec,
    SummedSASRec,
    TedRec,
    UniSRec,
)
from bivrec.data.domain import Domain, Features
from bivrec.errors import SettingsError
from bivrec.experiment.own import build_own, is_own
from bivrec.kernels import use_fast
from bivrec.model.bivrec import BivRec
from bivrec.settings import vary
from bivrec.training.device import choose_device
from bivrec.training.loop import Fit
from bivrec.training.seeds import derive_seed

FAMILIES = {  # slowest to train first, so that parallel jobs end together
    "bivrec": BivRec,
    "sasrec-sum": SummedSASRec,
    "tedrec": TedRec,
    "unisrec": UniSRec,
    "fdsa": FDSA,
    "mmmlp": MMMLP,
    "dif-sr": DIFSR,
    "nova": NOVA,
    "mmsrec": MMSRec,
    "gru4rec": GRU4Rec,
    "sasrec": SASRec,
    "comirec-sa": ComiRecSA,
    "itemknn": ItemNeighbours,
    "popularity": Popularity,
}


@dataclass(frozen=True)
class Trained:
    """A model ready to rank, and the record of its training (None for models that count)."""

    name: str
    seed: int
    model: Any
    record: Fit | None = None

    def __reduce__(self):
        """Between processes a model travels on the CPU, and returns to its device on arrival."""
        device = getattr(self.model, "device", torch.device("cpu"))
        model = self.model if device.type == "cpu" else copy.deepcopy(self.model).cpu()
        return _unpickle, (self.name, self.seed, model, self.record, device)

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters()) if self.record else 0


def _unpickle(
    name: str, seed: int, model: Any, record: Fit | None, device: torch.device
) -> Trained:
    return Trained(name, seed, model if device.type == "cpu" else model.to(device), record)


def shuffle_items(features: Features, seed: int) -> Features:
    """Each item with the features of an item drawn at random, each item once: the values stay,
    their meaning is lost."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "shuffled"))
    num_items = len(next(iter(features.values()))[0]) if features else 0
    order = torch.randperm(num_items, generator=generator)
    return {name: (values[order], mask[order]) for name, (values, mask) in features.items()}


def build_model(
    domain: Domain,
    name: str,
    seed: int,
    features: Features | None = None,
    num_items: int | None = None,
):
    """An untrained model on the machine's device; its weights follow from seed and name.

    `features` and `num_items` replace the domain's; the model reads those of its own
    `features.modality`. Raises SettingsError if the model has more interests than items.
    """
    variant = domain.variant(name)
    settings = vary(domain.settings, variant, name)
    num_items, num_interests = num_items or domain.sequences.num_items, settings.model.num_interests
    if num_interests > num_items:
        raise SettingsError(
            f"params.yaml: model.num_interests (K) is {num_interests}, more than the {num_items} "
            f"items of {domain.name}; lower it"
        )
    if variant.family == "popularity":
        return Popularity(domain.fold(seed).train, num_items)
    if variant.family == "itemknn":
        return ItemNeighbours(settings.itemknn, domain.fold(seed).train, num_items)
    torch.manual_seed(derive_seed(seed, name, "weights"))
    features, read = features or domain.features(seed), settings.features.modalities
    features = {name: features[name] for name in read if name in features}
    if settings.features.shuffled:
        features = shuffle_items(features, seed)
    if is_own(variant.family):
        model = build_own(variant.family, settings, num_items, features)
    else:
        model = FAMILIES[variant.family](settings, num_items, features)
    if settings.machine.kernels == "fast":
        use_fast(model, settings.training.precision)
    return model.to(choose_device(settings.machine))


def check_own(domain: Domain, names: Iterable[str], seed: int) -> None:
    """Builds each model of one's own among the names, so that its errors come before the first
    training. Raises SettingsError.
    """
    for name in dict.fromkeys(names):
        if is_own(domain.variant(name).family):
            build_model(domain, name, seed)
