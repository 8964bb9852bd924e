"""Domains: a dataset under its settings, with its folds and features, from the pipeline's files or, if planted, from memory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from bivrec.features import ItemFeatures, describe_items, encode_images, image_features, load_features, reduce_features, save_features, text_features
from bivrec.planted import PlantedRaw, make_planted
from bivrec.results import kept_folder
from bivrec.sequences import Parts, Raw, Sequences, build_sequences, load_sequences, read_movielens, save_sequences, split_sequences
from bivrec.settings import Settings, Variant, load_settings, pick, project_root

Features = dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Domain:
    """A dataset under its settings: sequences, folds and features, from the pipeline's files or, if planted, from memory."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    profile: str = "default"
    _reduced: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self):
        """A domain travels to a worker as its name, changes and profile; each process reads a domain once."""
        return _open, (self.name, json.dumps(dict(self.changes)), self.profile)

    @cached_property
    def settings(self) -> Settings:
        return load_settings(self.name, self.changes, profile=self.profile)

    @property
    def planted(self) -> bool:
        return self.settings.datasets[self.name].source == "planted"

    @cached_property
    def raw(self) -> Raw:
        """The dataset's tables: generated, or read from data/."""
        dataset = self.settings.datasets[self.name]
        return make_planted(dataset.planted) if self.planted else read_movielens(project_root() / "data", dataset.movielens)

    @cached_property
    def sequences(self) -> Sequences:
        if self.planted:
            return build_sequences(self.raw, self.settings.split, self.name)
        return load_sequences(project_root() / "build" / "01_data_prep" / self.name)

    @property
    def kinds(self) -> np.ndarray:
        """Each item's kind: of planted the true one, else its first genre."""
        if not self.planted:
            return self.sequences.catalogue["genres"].str.split(", ").str[0].to_numpy(dtype=str)
        return self.raw.kinds[np.searchsorted(self.raw.items["item"], self.sequences.catalogue["item"])]

    def parts(self, seed: int) -> Parts:
        return split_sequences(self.sequences, self.settings.split, seed)

    def item_features(self, modality: str, seed: int) -> ItemFeatures:
        """One modality as encoded; text is read anew for each fold, since only training users' tags count. Seeds a multiple
        of `split.num_folds` apart share a fold."""
        if self.planted or (modality == "text" and "split.protocol" in self.changes):
            return self.encode_text([seed])[0] if modality == "text" else self.encode_images()
        folder = project_root() / "build" / "02_feature_encoding" / self.name
        return load_features(folder / f"seed-{seed % self.settings.split.num_folds}" if modality == "text" else folder, modality)

    def encode_text(self, seeds: Sequence[int]) -> list[ItemFeatures]:
        """The frozen text encoder at work, for the folds of these seeds."""
        return text_features([describe_items(self.sequences, self.parts(seed)) for seed in seeds], self.settings.features)

    def encode_images(self) -> ItemFeatures:
        """The frozen image encoder at work, or its stored vectors."""
        settings = self.settings.features
        if not isinstance(self.raw, PlantedRaw):
            return image_features(self.sequences, settings, project_root() / "data")
        chosen = np.searchsorted(self.raw.items["item"], self.sequences.catalogue["item"])
        values = encode_images(map(Image.fromarray, self.raw.images[chosen]), settings.image_encoder)
        return ItemFeatures(values, np.ones(len(values), dtype=bool), f"{settings.image_encoder}, encoded live")

    def features(self, seed: int, basis: "Domain | None" = None) -> Features:
        """Reduced features and masks, by modality; in the space of another domain when `basis` is given."""
        found = {}
        for modality in self.settings.features.modalities:
            key = (modality, seed if modality == "text" else None, basis.name if basis else self.name)
            if key not in self._reduced:
                own, origin = self.item_features(modality, seed), basis and basis.item_features(modality, seed)
                self._reduced[key] = (reduce_features(own, self.settings.features.num_components, origin), torch.from_numpy(own.mask))
            found[modality] = self._reduced[key]
        return found

    def variant(self, name: str) -> Variant:
        """A model of the field or an ablation, by its name in params.yaml."""
        return pick(self.settings.ablations | self.settings.models, name, "model")


@cache
def _open(name: str, changes: str, profile: str) -> Domain:
    return Domain(name, json.loads(changes), profile)


def prepare(domain: Domain) -> Sequences:
    """Raw files to sequences; a stage keeps them for the later ones."""
    sequences = build_sequences(domain.raw, domain.settings.split, domain.name)
    if folder := kept_folder("build"):
        save_sequences(sequences, folder)
    return sequences


def encode(domain: Domain) -> dict[str, list[ItemFeatures]]:
    """Both modalities through their encoders, text once a fold; a stage keeps them for the later ones."""
    seeds = list(dict.fromkeys(seed % domain.settings.split.num_folds for seed in domain.settings.studies.seeds))
    encoded = {"image": [domain.encode_images()], "text": domain.encode_text(seeds)}
    if folder := kept_folder("build"):
        save_features(folder, "image", encoded["image"][0])
        for seed, features in zip(seeds, encoded["text"]):
            save_features(folder / f"seed-{seed}", "text", features)
    return encoded
