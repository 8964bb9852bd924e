"""Domains: a dataset under its settings, with its sequences, folds and features."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from bivrec.data.readers.plain import check_texts
from bivrec.data.readers.registry import read_dataset
from bivrec.data.readers.vectors import are_published, modalities_of
from bivrec.data.sequences import build_sequences, check_counts, load_sequences, save_sequences
from bivrec.data.splits import usable_fold
from bivrec.data.types import Fold, Raw, Sequences
from bivrec.errors import LeftOut, SettingsError
from bivrec.outputs import output_folder, save_output
from bivrec.settings import (
    Dataset,
    Modality,
    Settings,
    Variant,
    can_do_with,
    check_reads,
    load_settings,
    pick,
    profile_folder,
    project_root,
    variants_of,
    vary,
    without_modalities,
    without_repeats,
)

Features = dict[str, tuple[torch.Tensor, torch.Tensor]]  # values and mask, by modality


@dataclass(frozen=True)
class Domain:
    """A dataset under its settings. Sequences and features come from the files that the pipeline
    prepared; those of planted data are made in memory."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    profile: str = "default"
    _reduced: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _hashes: dict[tuple, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self):
        """Pickles the name, changes and profile alone; each process reads a domain once."""
        return _open, (self.name, json.dumps(dict(self.changes)), self.profile)

    @property
    def requested_settings(self) -> Settings:
        """The settings of params.yaml with the profile's, the dataset's and this domain's
        changes."""
        return load_settings(self.name, self.changes, profile=self.profile)

    @cached_property
    def _possible_settings(self) -> Settings:
        """The requested settings without what the dataset has no features for."""
        requested = self.requested_settings
        has = modalities_of(requested.datasets[self.name], requested.features)
        return without_modalities(requested, has)

    @cached_property
    def settings(self) -> Settings:
        """The requested settings without what the dataset has no features for, and without the
        ablations that change nothing here."""
        return without_repeats(self._possible_settings)

    @property
    def left_out(self) -> str:
        """What is left out for want of features or of a difference, in words; empty if nothing
        is."""
        used, left_out = self.settings.features.modalities, []
        lacks = [name for name in self.requested_settings.features.modalities if name not in used]
        if lacks:
            views = [] if used else ["the multimodal view"]
            needed = "and every model and ablation that needs them"
            left_out.append(f"{', '.join(lacks + views)}, {needed}")
        kept = self.settings.studies.ablations
        again = [name for name in self._possible_settings.studies.ablations if name not in kept]
        if again:
            left_out.append(f"{', '.join(again)}, which would train the whole model again")
        return "; ".join(left_out)

    @property
    def dataset(self) -> Dataset:
        return self.settings.datasets[self.name]

    @property
    def planted(self) -> bool:
        return self.dataset.source == "planted"

    def prepared_folder(self, stage: str) -> Path:
        """Where a stage saved what it prepared of this dataset, always under the default
        profile."""
        return profile_folder("build", "default") / stage / self.name

    @cached_property
    def raw(self) -> Raw:
        """The dataset's tables, generated or read from its files."""
        if self.planted:
            return make_planted(self.dataset.planted)
        return read_dataset(self.name, self.dataset)

    @cached_property
    def sequences(self) -> Sequences:
        if self.planted:
            return build_sequences(self.raw, self.settings.split, self.name)
        self._check_prepared("split.min_interactions", "split.ties")
        return load_sequences(self.prepared_folder("01_data_prep"))

    def _check_prepared(self, *keys: str) -> None:
        """Raises SettingsError if the default settings, which prepared the data, have another
        dataset or other values of these keys."""
        prepared = load_settings(self.name)
        theirs, ours = (
            replace(settings.datasets[self.name], expected=None)  # expected changes no data
            for settings in (prepared, self.settings)
        )
        if theirs != ours:
            problem = f"datasets.{self.name} is not the entry with which {self.name} was prepared"
            raise SettingsError(f"{problem}; change it in params.yaml and run `make repro`")
        for key in keys:
            section, name = key.split(".")
            then, now = (getattr(getattr(s, section), name) for s in (prepared, self.settings))
            if then != now:
                self._refuse(key, now, then)

    def _refuse(self, key: str, value: Any, prepared: Any) -> None:
        problem = f"{key} is {value}, but {self.name} was prepared with {prepared}"
        place = f"params.yaml under datasets.{self.name}.settings"
        raise SettingsError(f"{problem}; set it in {place} and run `make repro`")

    @property
    def kinds(self) -> np.ndarray:
        """Each item's kind: for planted data the true one, else the first genre."""
        if not self.planted:
            return self.sequences.catalogue["genres"].str.split(", ").str[0].to_numpy(dtype=str)
        return self.raw.kinds[self._raw_rows()]

    def _raw_rows(self) -> np.ndarray:
        """Each item's row in the planted raw tables."""
        return np.searchsorted(self.raw.items["item"], self.sequences.catalogue["item"])

    def fold(self, seed: int) -> Fold:
        """The fold of a seed; raises DataError if it has no training, validation or test users."""
        return usable_fold(self.sequences, self.settings.split, seed, self.name)

    @property
    def encoded_folds(self) -> list[int]:
        """The folds for which text is encoded: those that studies and tuning train on."""
        seeds = (*self.settings.studies.seeds, *self.settings.tuning.seeds)
        return list(dict.fromkeys(seed % self.settings.split.num_folds for seed in seeds))

    def item_features(self, modality: Modality, seed: int) -> ItemFeatures:
        """One modality as encoded. Text differs between folds, since only training users' tags
        count; seeds that differ by a multiple of `split.num_folds` share a fold."""
        if self.planted or (modality == "text" and "split.protocol" in self.changes):
            return self.encode_text([seed])[0] if modality == "text" else self.encode_images()
        folder = self.prepared_folder("02_feature_encoding")
        self._check_prepared(*self._prepared_keys(modality))
        if self.varies_with_fold(modality):
            fold = seed % self.settings.split.num_folds
            if fold not in self.encoded_folds:
                problem = (
                    f"{self.name}: its text is not encoded for fold {fold}, that of seed {seed}"
                )
                raise SettingsError(f"{problem}; list the seed in studies.seeds")
            folder = folder / f"seed-{fold}"
        features, key = load_features(folder, modality), f"{modality}_encoder"
        encoder = getattr(self.settings.features, key)
        needed = "published" if self.published(modality) else encoder
        if not features.source.startswith((f"{needed}:", f"{needed},")):
            self._refuse(f"features.{key}", encoder, features.source)
        return features

    def _prepared_keys(self, modality: Modality) -> list[str]:
        """The settings that change a modality's prepared features, besides the encoder, which the
        features name themselves."""
        if self.published(modality):
            return []
        if modality == "image":
            return ["features.image_folder"]
        by_time = self.settings.split.protocol == "by_time"
        return ["split.num_folds"] + ["split.history_share"] * by_time

    def hash_features(self, modality: Modality, seed: int) -> str:
        """The SHA-256 of one modality as encoded, computed once."""
        key = modality, seed if self.varies_with_fold(modality) else None
        if key not in self._hashes:
            encoded = self.item_features(modality, seed)
            digest = hashlib.sha256(encoded.mask.tobytes())
            digest.update(np.ascontiguousarray(encoded.values))
            self._hashes[key] = digest.hexdigest()
        return self._hashes[key]

    def varies_with_fold(self, modality: Modality) -> bool:
        """Whether a modality is encoded for each fold: text is, unless its vectors are
        published."""
        return modality == "text" and not self.published("text")

    def published(self, modality: Modality) -> bool:
        """Whether a modality's vectors are read as published."""
        return are_published(self.dataset, self.settings.features, modality)

    def encode_text(self, seeds: Sequence[int]) -> list[ItemFeatures]:
        """The text features of these seeds' folds; published vectors are the same for all."""
        if self.published("text"):
            return [published_features(self.sequences, self.dataset, "text")] * len(seeds)
        texts = [describe_items(self.sequences, self.fold(seed)) for seed in seeds]
        return text_features(texts, self.settings.features, self.name)

    def check_texts(self) -> None:
        """Raises DataError if texts are to be encoded and the list of items has none."""
        needed = "text" in self.settings.features.modalities and not self.published("text")
        if needed and self.dataset.source == "plain":
            check_texts(raw_folder(self.dataset.source_settings.folder))

    def encode_images(self) -> ItemFeatures:
        """The image features: published, encoded, or, for films, embedded with the project."""
        settings, root = self.settings.features, project_root()
        if self.published("image"):
            return published_features(self.sequences, self.dataset, "image")
        if self.planted:
            images = map(Image.fromarray, self.raw.images[self._raw_rows()])
            values = encode_images(images, settings.image_encoder)
            mask, source = np.ones(len(values), bool), f"{settings.image_encoder}, encoded live"
            return ItemFeatures(values, mask, source)
        folder, stored = root / settings.image_folder, root / "data" / "posters"
        if self.dataset.source not in ("movielens", "movielens_dat"):
            folder, stored = raw_folder(self.dataset.source_settings.folder) / "images", None
        return image_features(self.sequences, settings, folder, stored)

    def features(
        self, seed: int, basis: "Domain | None" = None, fold: Fold | None = None
    ) -> Features:
        """Reduced features and masks, by modality; with `basis`, in the space of that domain; with
        `fold`, the tags in the text are those of its training, not of the seed's fold."""
        features = {}
        for modality in self.settings.features.modalities:
            if fold is not None and self.varies_with_fold(modality):
                encoded = self._with_tags_of(fold, self.item_features(modality, seed), seed)
                features[modality] = self._reduce(modality, encoded, seed, basis)
                continue
            key = (modality, seed if modality == "text" else None, (basis or self).name)
            if key not in self._reduced:
                encoded = self.item_features(modality, seed)
                self._reduced[key] = self._reduce(modality, encoded, seed, basis)
            features[modality] = self._reduced[key]
        return features

    def _reduce(
        self, modality: Modality, encoded: ItemFeatures, seed: int, basis: "Domain | None"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        origin, name = basis and basis.item_features(modality, seed), (basis or self).name
        num_components = self.settings.features.num_components
        values = reduce_features(encoded, num_components, origin, f"{name}, {modality}")
        return values, torch.from_numpy(encoded.mask)

    def _with_tags_of(self, fold: Fold, encoded: ItemFeatures, seed: int) -> ItemFeatures:
        """The seed's text features, those of items with other tags in `fold` encoded again."""
        before, after = (describe_items(self.sequences, part) for part in (self.fold(seed), fold))
        changed = [item for item, text in enumerate(after) if text != before[item]]
        values, mask = encoded.values.copy(), encoded.mask.copy()
        values[changed], mask[changed] = 0, False
        if named := [item for item in changed if after[item].strip()]:
            texts = [after[item] for item in named]
            again = text_features([texts], self.settings.features, self.name)[0]
            values[named], mask[named] = again.values, True
        return ItemFeatures(values, mask, encoded.source)

    def variant(self, name: str) -> Variant:
        """A model or ablation by its name in params.yaml; raises LeftOut if it reads features that
        the dataset lacks."""
        variant = pick(self.settings.ablations | self.settings.models, name, "model")
        has = modalities_of(self.dataset, self.settings.features)
        used = has.intersection(self.settings.features.modalities)
        if len(used) < 2 and not can_do_with(self.settings, variant, used):
            problem = f"{name} reads features that {self.name} lacks"
            if len(has) == 2:
                modality = self.settings.features.modality
                problem = f"{name} reads features, and features.modality is {modality}"
            raise LeftOut(f"{problem}; 03_training leaves it out, and so do studies that need it")
        return variant


def check_variants(domain: Domain, num_items: int, names: Sequence[str] = ()) -> None:
    """Raises SettingsError for the first model, ablation or trial that the dataset refuses: of
    those that `studies` and `tuning` select, and of these names."""
    settings, studies = domain.settings, domain.settings.studies
    variants = {name: domain.variant(name) for name in names}
    variants |= variants_of(settings, studies.models, studies.ablations, studies.grids)
    has = modalities_of(domain.dataset, settings.features) & set(settings.features.modalities)
    for key, variant in variants.items():
        where = f"{key} on {domain.name}"
        num_interests = vary(settings, variant, where).model.num_interests
        check_reads(variant.family, variant.settings, where)
        if variant.family == "bivrec" and num_interests > num_items:
            problem = f"model.num_interests (K) is {num_interests}, more than the {num_items} items"
            raise SettingsError(f"params.yaml: {where}: {problem}; lower it")
        if key.startswith("grids.") and not can_do_with(settings, variant, has):
            problem = "the dataset lacks these features"
            raise SettingsError(f"params.yaml: {where}: {problem}; remove the value")


@cache
def _open(name: str, changes: str, profile: str) -> Domain:
    return Domain(name, json.loads(changes), profile)


def prepare(domain: Domain) -> Sequences:
    """A dataset's sequences from its raw files, with its known counts and its folds checked; a
    stage saves them."""
    split = domain.settings.split
    sequences = build_sequences(domain.raw, split, domain.name)
    domain.check_texts()
    for seed in domain.settings.studies.seeds:
        usable_fold(sequences, split, seed, domain.name)
    check_variants(domain, sequences.num_items)
    if expected := domain.dataset.expected:
        print(check_counts(expected, domain.raw.interactions, sequences, domain.name))
    if folder := output_folder("build"):
        save_sequences(sequences, folder)
    return sequences


def data_card(domain: Domain) -> pd.DataFrame:
    """Where a dataset comes from: its source, published size, rules, features, licence, and
    checksums."""
    dataset, table, split = domain.dataset, domain.raw.interactions, domain.settings.split
    domain.check_texts()
    users, items, repeated = table["user"], table["item"], table.duplicated(["user", "item"]).sum()
    least = split.min_interactions
    rows = {
        "source": dataset.source,
        "published": f"{users.nunique():,} users, {items.nunique():,} items, "
        f"{len(table):,} interactions",
        "repeated pairs": f"{repeated:,}, the first counts",
        "k-core": f"users and items with {least} interactions; ties in time by {split.ties}",
        "features": ", ".join(domain.settings.features.modalities) or "none",
        "licence": dataset.licence or "see the README of its files",
    }
    files = {} if domain.planted else checksums(domain.name, dataset)
    rows |= {f"sha256 of {file}": sha256 for file, sha256 in files.items() if "/" not in file}
    return pd.DataFrame([*rows.items()], columns=["what", "value"])


def encode(domain: Domain) -> dict[str, list[ItemFeatures]]:
    """A dataset's features by modality, text once for each fold that is trained on; a stage saves
    them."""
    settings, folder, encoded = domain.settings, output_folder("build"), {}
    folds = domain.encoded_folds
    for modality in settings.features.modalities[::-1]:
        if modality == "text":
            encoded[modality] = domain.encode_text(folds)
        else:
            encoded[modality] = [domain.encode_images()]
        if folder and domain.varies_with_fold(modality):
            for fold, features in zip(folds, encoded[modality]):
                save_features(folder / f"seed-{fold}", modality, features)
        elif folder:
            save_features(folder, modality, encoded[modality][0])
    if not encoded:
        save_output({"left out": domain.left_out}, "none.json", "build")
    return encoded
