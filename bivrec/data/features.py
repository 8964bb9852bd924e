"""Features: each item's text and image through frozen encoders; a missing one is masked, never
silently zero."""

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from numpy import ndarray
from torch import Tensor

from bivrec.data.download import file_hash
from bivrec.data.encoders import encode_images, encode_in_blocks, encode_texts, open_image
from bivrec.data.readers.vectors import read_vectors
from bivrec.data.types import Fold, Sequences
from bivrec.errors import RESTORE, DataError
from bivrec.outputs import progress, reading
from bivrec.settings import Dataset, Features, Modality, project_root

STORED_ENCODER = "efficientnet-lite0"  # of the vectors in data/posters


@dataclass(frozen=True)
class ItemFeatures:
    """One modality of the catalogue; rows whose mask is False are zero and never read as
    features."""

    values: Float32[ndarray, "catalogue feature"]
    mask: Bool[ndarray, "catalogue"]
    source: str


def load_image_vectors(
    folder: Path,
) -> tuple[Int64[ndarray, "image"], Float32[ndarray, "image feature"]]:
    """Item ids and vectors of an embedded dataset; raises DataError unless they match the
    manifest."""
    name, path = f"data/{folder.name}", folder / "vectors.npy"
    try:
        manifest, sha256 = (
            json.loads((folder / "manifest.json").read_text("utf-8")),
            file_hash(path),
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read ({type(error).__name__}); {RESTORE}") from None
    if not isinstance(manifest, dict) or sha256 != manifest.get("vectors_sha256"):
        problem = "is not the file that its manifest describes"
        raise DataError(f"{name}/vectors.npy {problem}; {RESTORE}")
    try:
        ids = np.array(manifest["item_ids"], dtype="int64")
        vectors = np.load(path, allow_pickle=False).astype("float32")
    except (ValueError, TypeError, KeyError, OverflowError, EOFError) as error:
        problem = f"has no vectors with item_ids ({type(error).__name__})"
        raise DataError(f"{name} {problem}; {RESTORE}") from None
    if len(ids) != len(vectors) or not np.isfinite(vectors).all():
        problem = f"has {len(vectors)} vectors for {len(ids)} items, or some are not finite"
        raise DataError(f"{name} {problem}; {RESTORE}")
    return ids, vectors


def describe_items(sequences: Sequences, fold: Fold) -> list[str]:
    """Each item's text: title, year, genres, description, and up to 20 tags.

    A tag counts only if its user's interaction with the item is a training one, so that nothing of
    a held-out user or item is read; and if it is older than the end of the training, where the
    protocol has one.
    """
    num_items, tags, words = sequences.num_items, sequences.tags, defaultdict(set)
    users = np.repeat(fold.train_users, [len(row) for row in fold.train])
    trained = users * num_items + np.concatenate([np.empty(0, "int64"), *fold.train])
    pairs = tags["user"].to_numpy(dtype="int64") * num_items + tags["item"].to_numpy(dtype="int64")
    counts = np.isin(pairs, trained)
    if fold.end is not None:
        counts &= tags["time"].to_numpy() < fold.end
    for item, tag in tags.loc[counts, ["item", "tag"]].itertuples(index=False):
        words[item].add(str(tag).strip().lower())
    texts = []
    for item, row in enumerate(sequences.catalogue.itertuples()):
        title = f"{row.title} ({row.year})" if row.year else row.title
        tagged = ", ".join(sorted(words[item])[:20])
        texts.append(". ".join(filter(None, (title, row.genres, row.description, tagged))))
    return texts


def _gather(
    known: Mapping[Any, ndarray], keys: Sequence
) -> tuple[Float32[ndarray, "catalogue feature"], Bool[ndarray, "catalogue"]]:
    """The vectors of these keys and the mask of those known; the others' rows are zero."""
    zero = np.zeros_like(next(iter(known.values())))
    return np.stack([known.get(key, zero) for key in keys]), np.array([k in known for k in keys])


def text_features(
    texts: Sequence[Sequence[str]], settings: Features, dataset: str
) -> list[ItemFeatures]:
    """The texts of several folds, each different text encoded once; empty ones are masked. Raises
    DataError, naming the dataset, if all are empty."""
    encoder, different = settings.text_encoder, {text for fold in texts for text in fold}
    unique = sorted(filter(str.strip, different), key=lambda text: (len(text), text))
    if not unique:
        problem = "no item has a title, year, genres or description"
        raise DataError(f"{dataset}: {problem}; add them, or set features.modality: image")
    if encoder == "hashing":
        vectors = encode_texts(unique, encoder)
    else:
        contents = [text.encode() for text in unique]
        vectors = encode_in_blocks(
            "text", encoder, contents, lambda rows: encode_texts(unique[rows], encoder)
        )
    known = dict(zip(unique, vectors))
    return [ItemFeatures(*_gather(known, fold), f"{encoder}, encoded live") for fold in texts]


def published_ids(sequences: Sequences) -> list[str]:
    """The items' ids as their files name them."""
    return sequences.catalogue.get("id", sequences.catalogue["item"]).astype(str).tolist()


def image_features(
    sequences: Sequences, settings: Features, folder: Path, stored: Path | None
) -> ItemFeatures:
    """Images that the folder holds as `<id>.jpg` or the like, encoded, else the vectors in
    `stored`; raises DataError if another encoder than theirs is set for them."""
    ids, encoder = sequences.catalogue["item"].tolist(), settings.image_encoder
    suffixes = (".jpg", ".jpeg", ".png", ".webp")
    files = {p.stem: p for p in sorted(folder.glob("*")) if p.suffix.lower() in suffixes}
    live = {item: files[id] for item, id in zip(ids, published_ids(sequences)) if id in files}
    known = dict(zip(*load_image_vectors(stored))) if stored else {}
    if known and encoder != STORED_ENCODER:
        if count := len(known.keys() & set(ids) - live.keys()):
            problem = f"{count:,} items have no image in {_shown(folder)}/ for {encoder}"
            remedy = f"put <id>.jpg there, or set features.image_encoder: {STORED_ENCODER}"
            raise DataError(f"{problem}, only a vector of {STORED_ENCODER}; {remedy}")
        known = {}
    if live:
        paths = list(live.values())
        contents = map(_read_image, paths)
        encode = partial(_encode_files, paths, encoder)
        vectors = encode_in_blocks("image", encoder, contents, encode)
        known.update(zip(live, vectors))
    if not known:
        problem = f"no image of the catalogue is in {_shown(folder)}/"
        raise DataError(f"{problem}; put <id>.jpg there, or set features.modality: text")
    values, mask = _gather(known, ids)
    counts = f"{len(live)} encoded live, {mask.sum() - len(live)} from data/posters"
    return ItemFeatures(values, mask, f"{encoder}: {counts}, {(~mask).sum()} missing")


def _shown(folder: Path) -> Path:
    inside = folder.is_relative_to(project_root())
    return folder.relative_to(project_root()) if inside else folder


def _read_image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({type(error).__name__})"
        if path.is_symlink() and not path.exists():
            problem = f"is a link to {os.readlink(path)}, which does not exist"
        where = f"image {path.parent.name}/{path.name}"
        raise DataError(f"{where} {problem}; restore or remove it") from None


def _encode_files(
    paths: list[Path], encoder: str, rows: slice
) -> Float32[ndarray, "image feature"]:
    opened = (open_image(path, path.name) for path in progress(paths[rows], "encoding", "images"))
    return encode_images(opened, encoder)


def published_features(sequences: Sequences, dataset: Dataset, modality: Modality) -> ItemFeatures:
    """A modality's published vectors; items without one are masked."""
    values, mask = read_vectors(dataset, modality, published_ids(sequences))
    return ItemFeatures(values, mask, f"published: {mask.sum()} items, {(~mask).sum()} missing")


def reduce_features(
    features: ItemFeatures,
    num_components: int,
    basis: ItemFeatures | None = None,
    name: str = "features",
) -> Float[Tensor, "catalogue component"]:
    """Principal components of one modality, unwhitened, of mean length 1; masked rows are zero.

    The components are those of `basis` (another domain's features, so that two domains share one
    space) or its own. Raises DataError, naming the features, if all items have the same ones.
    """
    from sklearn.decomposition import PCA

    origin = basis or features
    present = origin.values[origin.mask].astype("float64")
    if not present.std(0).any():
        problem = f"{name}: all items have the same features ({origin.source})"
        raise DataError(f"{problem}; set features.modality to leave them out")
    solver = "full" if present.shape[1] > 4 * len(present) else "covariance_eigh"  # the cheaper one
    pca = PCA(min(num_components, *present.shape), svd_solver=solver).fit(present)
    length = np.linalg.norm(pca.transform(present), axis=1).mean()
    reduced = pca.transform(features.values.astype("float64")) / length * features.mask[:, None]
    return torch.from_numpy(reduced.astype("float32"))


def _coarse_columns(values: Float32[ndarray, "item feature"]) -> Int64[ndarray, "_"]:
    """The columns, unless constant, whose mean half precision rounds by more than a tenth of their
    standard deviation."""
    if not len(values):
        return np.empty(0, "int64")
    varies = np.ptp(values, axis=0) > 0
    rounding = np.abs(values.mean(0, dtype="float64")) * 2.0**-11
    return np.flatnonzero(varies & (rounding > values.std(0, dtype="float64") / 10))


def save_features(folder: Path, modality: Modality, features: ItemFeatures) -> None:
    """Saves values in half precision, mask and source; raises DataError for values beyond
    its range, or all far below it, and for columns that vary too little around a large mean."""
    largest = np.abs(features.values).max(initial=0)
    if not largest <= np.finfo("float16").max:
        problem = f"reach {largest:g}, beyond half precision (65,504), or are not finite"
        raise DataError(f"the {modality} features {problem}; scale or fix them")
    if 0 < largest < 2.0**-10:  # their digits would be lost
        problem = f"reach {largest:g} at most, too little for half precision"
        raise DataError(f"the {modality} features {problem}; scale them")
    if len(columns := _coarse_columns(features.values[features.mask])):
        problem = f"column {columns[0] + 1} varies too little around its mean for half precision"
        raise DataError(f"the {modality} features: {problem}; subtract each column's mean")
    folder.mkdir(parents=True, exist_ok=True)
    values = features.values.astype("float16")
    np.savez(folder / f"{modality}.npz", values=values, mask=features.mask, source=features.source)


def load_features(folder: Path, modality: Modality) -> ItemFeatures:
    """What `save_features` wrote; raises DataError if it is missing or damaged."""
    path = folder / f"{modality}.npz"
    if not path.is_file():
        stage = folder.parents[folder.name.startswith("seed-")]
        where = f"build/{stage.name}"
        raise DataError(f"the {modality} features in {where} are missing; `make repro` makes them")
    with reading(path), open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
        return ItemFeatures(saved["values"].astype("float32"), saved["mask"], str(saved["source"]))
