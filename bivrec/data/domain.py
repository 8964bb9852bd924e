"""Domains: a dataset under its settings, with its folds and features, from the pipeline's files or, if planted, from memory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from bivrec.data.download import checksums
from bivrec.data.encoders import encode_images
from bivrec.data.features import (
    ItemFeatures,
    describe_items,
    image_features,
    load_features,
    published_features,
    reduce_features,
    save_features,
    text_features,
)
from bivrec.data.planted import make_planted
from bivrec.data.readers.common import raw_folder
from bivrec.data.readers.registry import read_dataset
from bivrec.data.readers.vectors import modalities_of
from bivrec.data.sequences import build_sequences, check_counts, load_sequences, save_sequences
from bivrec.data.splits import split_sequences
from bivrec.data.types import Fold, Raw, Sequences
from bivrec.errors import DataError, LeftOut
from bivrec.outputs import output_folder, save_output
from bivrec.settings import (
    Dataset,
    Settings,
    Variant,
    can_do_with,
    load_settings,
    pick,
    profile_folder,
    project_root,
    without_modalities,
)

Features = dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Domain:
    """A dataset under its settings: sequences, folds and features, from the pipeline's files or, if planted, from memory."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    profile: str = "default"
    _reduced: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __reduce__(self):
        """A domain travels to a worker as its name, changes and profile; each process reads a domain once."""
        return _open, (self.name, json.dumps(dict(self.changes)), self.profile)

    @cached_property
    def settings(self) -> Settings:
        """The settings, less what the dataset has no features for."""
        asked = self.asked
        return without_modalities(asked, modalities_of(asked.datasets[self.name], asked.features))

    @property
    def asked(self) -> Settings:
        """The settings as params.yaml and the changes have them."""
        return load_settings(self.name, self.changes, profile=self.profile)

    @property
    def left_out(self) -> str:
        """What the dataset's lack of features leaves out, in words; empty where nothing is left out."""
        lacks = [
            name
            for name in self.asked.features.modalities
            if name not in self.settings.features.modalities
        ]
        view = [] if self.settings.features.modalities else ["the multimodal view"]
        return (
            f"{', '.join([*lacks, *view])}, and every model and ablation that cannot do without"
            if lacks
            else ""
        )

    @property
    def dataset(self) -> Dataset:
        return self.settings.datasets[self.name]

    @property
    def planted(self) -> bool:
        return self.dataset.source == "planted"

    def prepared(self, stage: str) -> Path:
        """Where a stage keeps what it prepared of this dataset: the default profile's, unless the profile prepares its own."""
        return profile_folder("build", "default") / stage / self.name

    @cached_property
    def raw(self) -> Raw:
        """The dataset's tables: generated, or read from its files."""
        return (
            make_planted(self.dataset.planted)
            if self.planted
            else read_dataset(self.name, self.dataset)
        )

    @cached_property
    def sequences(self) -> Sequences:
        if self.planted:
            return build_sequences(self.raw, self.settings.split, self.name)
        return load_sequences(self.prepared("01_data_prep"))

    @property
    def kinds(self) -> np.ndarray:
        """Each item's kind: of planted the true one, else its first genre."""
        if not self.planted:
            return self.sequences.catalogue["genres"].str.split(", ").str[0].to_numpy(dtype=str)
        return self.raw.kinds[
            np.searchsorted(self.raw.items["item"], self.sequences.catalogue["item"])
        ]

    def fold(self, seed: int) -> Fold:
        parts, split = (
            split_sequences(self.sequences, self.settings.split, seed),
            self.settings.split,
        )
        for part, users in (
            ("trains", parts.train),
            ("validates", parts.validation),
            ("tests", parts.test),
        ):
            if not len(users):
                told = f"{self.name}: of its {self.sequences.num_users} users nobody {part} in fold {seed % split.num_folds}"
                raise DataError(
                    f"{told} ({split.protocol}); lower split.num_folds, {split.num_folds}, or add users"
                )
        return parts

    def item_features(self, modality: str, seed: int) -> ItemFeatures:
        """One modality as encoded; text is read anew for each fold, since only training users' tags count. Seeds a multiple
        of `split.num_folds` apart share a fold."""
        if self.planted or (modality == "text" and "split.protocol" in self.changes):
            return self.encode_text([seed])[0] if modality == "text" else self.encode_images()
        folder = self.prepared("02_feature_encoding")
        return load_features(
            folder / f"seed-{seed % self.settings.split.num_folds}"
            if modality == "text" and not self.published("text")
            else folder,
            modality,
        )

    def published(self, modality: str) -> bool:
        """Whether a modality's vectors are taken as published."""
        return (
            self.dataset.source == "mmrec"
            or getattr(self.settings.features, f"{modality}_encoder") == "published"
        )

    def encode_text(self, seeds: Sequence[int]) -> list[ItemFeatures]:
        """The frozen text encoder at work, for the folds of these seeds; or the published vectors, the same for all."""
        if self.published("text"):
            return [published_features(self.sequences, self.dataset, "text")] * len(seeds)
        return text_features(
            [describe_items(self.sequences, self.fold(seed)) for seed in seeds],
            self.settings.features,
        )

    def encode_images(self) -> ItemFeatures:
        """The frozen image encoder at work, or its stored vectors, or the published ones."""
        settings, root = self.settings.features, project_root()
        if self.published("image"):
            return published_features(self.sequences, self.dataset, "image")
        if not self.planted:
            films = self.dataset.source in ("movielens", "movielens_dat")
            return image_features(
                self.sequences,
                settings,
                *(
                    (root / settings.image_folder, root / "data" / "posters")
                    if films
                    else (raw_folder(self.dataset.own.folder) / "images", None)
                ),
            )
        chosen = np.searchsorted(self.raw.items["item"], self.sequences.catalogue["item"])
        values = encode_images(
            map(Image.fromarray, self.raw.images[chosen]), settings.image_encoder
        )
        return ItemFeatures(
            values, np.ones(len(values), dtype=bool), f"{settings.image_encoder}, encoded live"
        )

    def features(self, seed: int, basis: "Domain | None" = None) -> Features:
        """Reduced features and masks, by modality; in the space of another domain when `basis` is given."""
        found = {}
        for modality in self.settings.features.modalities:
            key = (
                modality,
                seed if modality == "text" else None,
                basis.name if basis else self.name,
            )
            if key not in self._reduced:
                own, origin = (
                    self.item_features(modality, seed),
                    basis and basis.item_features(modality, seed),
                )
                self._reduced[key] = (
                    reduce_features(own, self.settings.features.num_components, origin),
                    torch.from_numpy(own.mask),
                )
            found[modality] = self._reduced[key]
        return found

    def variant(self, name: str) -> Variant:
        """A model of the field or an ablation, by its name in params.yaml; one that reads features that are not there is refused."""
        variant, has = (
            pick(self.settings.ablations | self.settings.models, name, "model"),
            modalities_of(self.dataset, self.settings.features),
        )
        if len(has) < 2 and not can_do_with(self.settings, variant, has):
            raise LeftOut(
                f"{name} reads features that {self.name} lacks; 03_training leaves it out, and the studies that need it cannot be made"
            )
        return variant


@cache
def _open(name: str, changes: str, profile: str) -> Domain:
    return Domain(name, json.loads(changes), profile)


def prepare(domain: Domain) -> Sequences:
    """Raw files to sequences, held against the counts by which the dataset is known; a stage keeps them for the later ones."""
    sequences = build_sequences(domain.raw, domain.settings.split, domain.name)
    if domain.dataset.expected:
        print(
            check_counts(domain.dataset.expected, domain.raw.interactions, sequences, domain.name)
        )
    if folder := output_folder("build"):
        save_sequences(sequences, folder)
    return sequences


def data_card(domain: Domain) -> pd.DataFrame:
    """Where a dataset comes from: its form, what was published and what the k-core kept, licence, features, each file's sha256."""
    dataset, raw, split = domain.dataset, domain.raw.interactions, domain.settings.split
    rows = {
        "source": dataset.source,
        "published": f"{raw['user'].nunique():,} users, {raw['item'].nunique():,} items, {len(raw):,} interactions",
        "pairs seen again": f"{int(raw.duplicated(['user', 'item']).sum()):,}, the first counts",
        "kept": f"users and items with {split.min_interactions} interactions; ties in time by {split.ties}",
        "features": ", ".join(domain.settings.features.modalities) or "none",
        "licence": dataset.licence or "see the README of its files",
    }
    files = {} if domain.planted else checksums(domain.name, dataset)
    return pd.DataFrame(
        [
            *rows.items(),
            *((f"sha256 of {file}", told) for file, told in files.items() if "/" not in file),
        ],
        columns=["what", "told"],
    )


def encode(domain: Domain) -> dict[str, list[ItemFeatures]]:
    """The modalities through their encoders, text once a fold; a stage keeps them for the later ones. A dataset without any
    features has none."""
    seeds = list(
        dict.fromkeys(
            seed % domain.settings.split.num_folds for seed in domain.settings.studies.seeds
        )
    )
    encoded, folder = {}, output_folder("build")
    for modality in domain.settings.features.modalities[::-1]:
        encoded[modality] = (
            domain.encode_text(seeds) if modality == "text" else [domain.encode_images()]
        )
        for seed, features in zip(seeds, encoded[modality]) if folder else ():
            apart = modality == "text" and not domain.published("text")
            save_features(folder / f"seed-{seed}" if apart else folder, modality, features)
            if not apart:
                break
    if not encoded:
        save_output({"left out": domain.left_out}, "none.json", "build")
    return encoded
