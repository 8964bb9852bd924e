"""Published feature vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from bivrec.data.readers.amazon import IMAGE_RECORD
from bivrec.data.readers.common import (
    _name,
    raw_folder,
    read_table,
    whole_numbers,
)
from bivrec.data.readers.mmrec import read_mmrec
from bivrec.errors import DataError
from bivrec.settings import Dataset, Features, Modality


def array_file(dataset: Dataset, modality: Modality) -> Path | None:
    """The file of a modality's published vectors, where the dataset's form has one and it is there."""
    if dataset.source not in ("amazon", "mmrec", "plain"):
        return None
    names = {
        "mmrec": f"{modality}_feat.npy",
        "plain": f"{modality}.npy",
        "amazon": f"image_features_{getattr(dataset.own, 'category', '')}.b",
    }
    path = raw_folder(dataset.own.folder) / names[dataset.source]
    return path if path.is_file() and (dataset.source, modality) != ("amazon", "text") else None


def modalities_of(dataset: Dataset, features: Features) -> set[Modality]:
    """The modalities of which a dataset has anything, for the encoders that are set."""
    if dataset.source in ("planted", "movielens", "movielens_dat"):
        return {"text", "image"}
    folder, has = raw_folder(dataset.own.folder), set()
    for modality, encoder in (("text", features.text_encoder), ("image", features.image_encoder)):
        others = {
            "text": ("items.csv", "items.parquet")
            if dataset.source == "plain"
            else ("meta_*.json.gz",),
            "image": ("images/*",),
        }[modality]
        published = encoder == "published" or dataset.source == "mmrec"
        if (
            array_file(dataset, modality)
            if published
            else any(any(folder.glob(name)) for name in others)
        ):
            has.add(modality)
    return has


def read_vectors(
    dataset: Dataset, modality: Modality, ids: Sequence[str]
) -> tuple[Float[ndarray, "catalogue feature"], Bool[ndarray, "catalogue"]]:
    """The published vectors of these items, found by id, and which of them there are; numbers that are not finite are refused."""
    path, place = array_file(dataset, modality), {name: row for row, name in enumerate(ids)}
    if path is None:
        raise DataError(
            f"{dataset.own.folder} has no published {modality} vectors; set features.{modality}_encoder to one that encodes, or add the file"
        )
    name, mask = _name(path), np.zeros(len(ids), dtype=bool)
    if dataset.source == "amazon":
        if path.stat().st_size % IMAGE_RECORD.itemsize:
            raise DataError(
                f"{name} has {path.stat().st_size:,} bytes, no multiple of {IMAGE_RECORD.itemsize:,}: it is cut short; fetch it again"
            )
        values = np.zeros((len(ids), 4096), dtype="float32")
        with open(path, "rb") as file:
            while block := file.read(1024 * IMAGE_RECORD.itemsize):
                rows = np.frombuffer(block, IMAGE_RECORD)
                for row, asin in enumerate(rows["asin"].tolist()):
                    if (item := place.get(asin.decode("latin-1"))) is not None:
                        if mask[item]:
                            raise DataError(
                                f"{name} has {ids[item]} twice; remove it and fetch it again"
                            )
                        values[item], mask[item] = rows["values"][row], True
    else:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (
            Exception
        ) as error:  # numpy reads the header as Python, whose tokeniser has errors of many kinds
            raise DataError(
                f"{name} cannot be read as an array of numbers ({' '.join(str(error).split())[:60]}); mend or remove it"
            ) from None
        if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
            raise DataError(
                f"{name} is an array {array.shape} of {array.dtype}, not rows of decimal numbers; mend or remove it"
            )
        rows = _rows_of(path, dataset, len(array), ids)
        mask = rows >= 0
        values = np.zeros((len(ids), array.shape[1]), dtype="float32")
        values[mask] = array[rows[mask]]
    for item in np.flatnonzero(~np.isfinite(values).all(1))[:1]:
        raise DataError(
            f"{name}: the vector of item {ids[item]} has numbers that are not finite; mend or remove it"
        )
    return values, mask


def _rows_of(
    path: Path, dataset: Dataset, num_rows: int, ids: Sequence[str]
) -> Int64[ndarray, "catalogue"]:
    """Each item's row in an array of vectors, -1 where it has none: MMRec's row is the item's number, which goes up to the
    largest in the .inter file; in the plain form ids.csv names the rows."""
    name = _name(path)
    if dataset.source == "mmrec":
        numbers, good = whole_numbers(pl.Series(ids, dtype=pl.String))
        if not good.all():
            raise DataError(
                f"{name}: items are text in the .inter file, so that no row can be told to be theirs; use numbers, or the plain form"
            )
        items = read_mmrec(path.parent, dataset.own, "mend it").items["item"]
        if num_rows != items.max() + 1:
            raise DataError(
                f"{name} has {num_rows:,} rows, but the items of the .inter file are numbered 0 to {items.max():,}; they do not belong together"
            )
        return numbers.to_numpy()
    listed = read_table(path.parent / "ids.csv", {"item": "text"}, "list each row's item there")[
        "item"
    ].to_list()
    if len(listed) != num_rows or len(set(listed)) < len(listed):
        told = f"{len(listed):,} ids in ids.csv, {len(set(listed)):,} of them different"
        raise DataError(f"{name} has {num_rows:,} rows for {told}; there must be one each")
    rows = {item: row for row, item in enumerate(listed)}
    return np.array([rows.get(item, -1) for item in ids], dtype="int64")
