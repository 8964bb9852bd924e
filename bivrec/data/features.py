"""Features: text and image of every item through frozen encoders; what is missing is a mask, never a silent zero."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from numpy import ndarray
from torch import Tensor

from bivrec.data.download import sha256
from bivrec.data.encoders import (
    IMAGE_SIDE,
    WEIGHTS,
    encode_images,
    encode_texts,
    kept_by_content,
    open_image,
)
from bivrec.data.readers.vectors import read_vectors
from bivrec.data.sequences import RESTORE
from bivrec.data.types import Fold, Sequences
from bivrec.errors import DataError
from bivrec.outputs import progress
from bivrec.settings import Dataset, Features, Modality


@dataclass(frozen=True)
class ItemFeatures:
    """One modality of the catalogue; rows whose mask is False hold zeros and are never read as features."""

    values: Float32[ndarray, "catalogue feature"]
    mask: Bool[ndarray, "catalogue"]
    source: str


def save_image_vectors(
    folder: Path,
    item_ids: Int64[ndarray, "image"],
    vectors: Float32[ndarray, "image feature"],
    licence: str,
) -> None:
    """Vectors in half precision beside a manifest that says what made them."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "vectors.npy", vectors.astype("float16"))
    manifest = {
        "encoder": "efficientnet-lite0",
        "weights_sha256": WEIGHTS["efficientnet-lite0"][2],
        "preprocessing": f"RGB, bicubic to {IMAGE_SIDE} x {IMAGE_SIDE}, (pixel - 127) / 128; last features, mean over space",
        "vectors_sha256": sha256(folder / "vectors.npy"),
        "licence": licence,
        "item_ids": [int(item) for item in item_ids],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")


def load_image_vectors(
    folder: Path,
) -> tuple[Int64[ndarray, "image"], Float32[ndarray, "image feature"]]:
    """Item ids and vectors, checked against the manifest."""
    name = f"data/{folder.name}"
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        found = sha256(folder / "vectors.npy")
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read ({error.__class__.__name__}); {RESTORE}") from None
    if not isinstance(manifest, dict) or found != manifest.get("vectors_sha256"):
        raise DataError(
            f"{name}/vectors.npy is not the file that its manifest describes; {RESTORE}"
        )
    try:
        ids, vectors = (
            np.array(manifest["item_ids"], dtype="int64"),
            np.load(folder / "vectors.npy", allow_pickle=False).astype("float32"),
        )
    except (ValueError, TypeError, KeyError, OverflowError, EOFError) as error:
        raise DataError(
            f"{name} holds no vectors with their item_ids ({error.__class__.__name__}); {RESTORE}"
        ) from None
    if len(ids) != len(vectors) or not np.isfinite(vectors).all():
        raise DataError(
            f"{name} has {len(vectors)} vectors for {len(ids)} items, or some are not finite; {RESTORE}"
        )
    return ids, vectors


def describe_items(sequences: Sequences, parts: Fold) -> list[str]:
    """Each item's text: title, year, genres, description, and the tags of training interactions only.

    A tag counts when its user's interaction with the item is in the training part: nothing of a held-out user, and
    nothing of a held-out item, is read.
    """
    tags, told = defaultdict(set), sequences.tags
    trained = np.concatenate(
        [
            np.repeat(parts.train_users, [len(row) for row in parts.train]) * sequences.num_items
            + np.concatenate(parts.train)
        ]
    )
    known = (
        np.isin(told["user"].to_numpy() * sequences.num_items + told["item"].to_numpy(), trained)
        if len(told)
        else []
    )
    for item, tag in told.loc[known, ["item", "tag"]].itertuples(index=False):
        tags[item].add(str(tag).strip().lower())
    words = [", ".join(sorted(tags[item])[:20]) for item in range(sequences.num_items)]
    rows = zip(sequences.catalogue.itertuples(), words)
    titles = (
        (f"{row.title} ({row.year})" if row.year else row.title, row.genres, row.description, said)
        for row, said in rows
    )
    return [". ".join(filter(None, parts)) for parts in titles]


def _gather(
    known: Mapping[Any, ndarray], keys: Sequence
) -> tuple[Float32[ndarray, "catalogue feature"], Bool[ndarray, "catalogue"]]:
    """The vectors of these keys, and the mask of those that are known; the others' rows are zero."""
    missing = np.zeros_like(next(iter(known.values())))
    return np.stack([known.get(key, missing) for key in keys]), np.array(
        [key in known for key in keys]
    )


def text_features(texts: Sequence[Sequence[str]], settings: Features) -> list[ItemFeatures]:
    """Several folds' texts encoded, each different text once; an item without a text is masked."""
    unique, encoder = (
        sorted(
            {text for fold in texts for text in fold if text.strip()},
            key=lambda text: (len(text), text),
        ),
        settings.text_encoder,
    )
    if not unique:
        raise DataError("no item of the catalogue has a text; set features.modality: image")
    if encoder == "hashing":
        vectors = dict(zip(unique, encode_texts(unique, encoder)))
    else:
        vectors = dict(
            zip(
                unique,
                kept_by_content(
                    "text",
                    encoder,
                    [text.encode() for text in unique],
                    lambda rows: encode_texts(unique[rows], encoder),
                ),
            )
        )
    return [ItemFeatures(*_gather(vectors, fold), f"{encoder}, encoded live") for fold in texts]


def image_features(
    sequences: Sequences, settings: Features, folder: Path, stored: Path | None
) -> ItemFeatures:
    """Images encoded live where the folder holds `<id>.jpg` or the like, else the vectors of `stored`; the rest is masked."""
    ids, encoder = sequences.catalogue["item"].tolist(), settings.image_encoder
    names = sequences.catalogue.get("id", sequences.catalogue["item"]).astype(str)
    files = {
        path.stem: path
        for path in sorted(folder.glob("*"))
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    }
    known = dict(zip(*load_image_vectors(stored))) if stored else {}
    live = {item: files[name] for item, name in zip(ids, names) if name in files}
    if live:
        paths = list(live.values())
        contents = (path.read_bytes() for path in paths)
        encoded = kept_by_content(
            "image",
            encoder,
            contents,
            lambda rows: encode_images(
                (
                    open_image(path, path.name)
                    for path in progress(paths[rows], "encoding", "images")
                ),
                encoder,
            ),
        )
        if known and len(next(iter(known.values()))) != encoded.shape[1]:
            raise DataError(
                f"{encoder} gives {encoded.shape[1]} numbers an image, the vectors of data/{stored.name} have others; set efficientnet-lite0"
            )
        known.update(zip(live, encoded))
    if not known:
        raise DataError(
            f"no image of the catalogue is in {folder.name}/; put <id>.jpg there, or set features.modality: text"
        )
    values, mask = _gather(known, ids)
    source = f"{encoder}: {len(live)} encoded live, {mask.sum() - len(live)} from data/posters, {(~mask).sum()} missing"
    return ItemFeatures(values, mask, source)


def published_features(sequences: Sequences, dataset: Dataset, modality: Modality) -> ItemFeatures:
    """A modality's vectors as published, each item's found by its id; the rest is masked."""
    values, mask = read_vectors(
        dataset,
        modality,
        sequences.catalogue.get("id", sequences.catalogue["item"]).astype(str).tolist(),
    )
    return ItemFeatures(values, mask, f"published: {mask.sum()} items, {(~mask).sum()} missing")


def reduce_features(
    features: ItemFeatures, num_components: int, basis: ItemFeatures | None = None
) -> Float[Tensor, "catalogue component"]:
    """Principal components of one modality, unwhitened, of mean length 1; masked rows are zero.

    The components are those of `basis` (another domain's features, so that two domains share one space) or its own.
    """
    from sklearn.decomposition import PCA

    origin = basis or features
    present = origin.values[origin.mask].astype("float64")
    if not present.std(0).any():
        raise DataError(
            f"all features are alike ({origin.source}); set features.modality to leave them out"
        )
    solver = "full" if present.shape[1] > 4 * len(present) else "covariance_eigh"  # the cheaper one
    components = PCA(min(num_components, *present.shape), svd_solver=solver).fit(present)
    length = np.linalg.norm(components.transform(present), axis=1).mean()
    reduced = (
        components.transform(features.values.astype("float64")) / length * features.mask[:, None]
    )
    return torch.from_numpy(reduced.astype("float32"))


def save_features(folder: Path, modality: Modality, features: ItemFeatures) -> None:
    """Values in half precision, mask, and where they came from."""
    if (largest := np.abs(features.values).max(initial=0)) > np.finfo(
        "float16"
    ).max or not np.isfinite(largest):
        raise DataError(
            f"the {modality} features reach {largest:g}, beyond half precision (65,504), or are not finite; scale or mend them"
        )
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / f"{modality}.npz",
        values=features.values.astype("float16"),
        mask=features.mask,
        source=features.source,
    )


def load_features(folder: Path, modality: Modality) -> ItemFeatures:
    """What `save_features` wrote."""
    if not (folder / f"{modality}.npz").is_file():
        raise DataError(
            f"the {modality} features in build/{folder.parent.name} are missing; `make repro` makes them"
        )
    try:
        with (
            open(folder / f"{modality}.npz", "rb") as file,
            np.load(file, allow_pickle=False) as kept,
        ):
            return ItemFeatures(kept["values"].astype("float32"), kept["mask"], str(kept["source"]))
    except PermissionError as error:
        raise DataError(f"{error.filename} may not be read; make it readable") from None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        BadZipFile,
    ) as error:
        raise DataError(
            f"{folder / modality}.npz is damaged ({error.__class__.__name__}); remove it, and `make repro` makes it anew"
        ) from None
