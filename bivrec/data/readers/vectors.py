"""Published feature vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from bivrec.data.readers.amazon import IMAGE_RECORD
from bivrec.data.readers.common import raw_folder, read_table, short_path, whole_numbers
from bivrec.data.readers.mmrec import read_mmrec
from bivrec.errors import DataError
from bivrec.settings import Dataset, Features, Modality

Vectors = tuple[Float[ndarray, "catalogue feature"], Bool[ndarray, "catalogue"]]


def are_published(dataset: Dataset, features: Features, modality: Modality) -> bool:
    """Whether a modality's vectors are read as published, not encoded."""
    return dataset.source == "mmrec" or getattr(features, f"{modality}_encoder") == "published"


def vectors_file(dataset: Dataset, modality: Modality) -> Path | None:
    """The file of a modality's published vectors, if the dataset has one."""
    name = {
        "mmrec": f"{modality}_feat.npy",
        "plain": f"{modality}.npy",
        "amazon": f"image_features_{getattr(dataset.source_settings, 'category', '')}.b",
    }.get(dataset.source)
    if name is None or (dataset.source, modality) == ("amazon", "text"):
        return None
    path = raw_folder(dataset.source_settings.folder) / name
    return path if path.is_file() else None


def modalities_of(dataset: Dataset, features: Features) -> set[Modality]:
    """The modalities that a dataset has files for, given the encoders."""
    if dataset.source in ("planted", "movielens", "movielens_dat"):
        return {"text", "image"}
    folder = raw_folder(dataset.source_settings.folder)
    text = ("items.csv", "items.parquet") if dataset.source == "plain" else ("meta_*.json.gz",)
    encodable: dict[Modality, tuple[str, ...]] = {"text": text, "image": ("images/*",)}
    return {
        modality
        for modality, patterns in encodable.items()
        if (
            vectors_file(dataset, modality)
            if are_published(dataset, features, modality)
            else any(any(folder.glob(pattern)) for pattern in patterns)
        )
    }


def read_vectors(dataset: Dataset, modality: Modality, ids: Sequence[str]) -> Vectors:
    """The published vectors of these items, and which items have one; raises DataError for vectors
    that are damaged, not finite or not the dataset's."""
    path = vectors_file(dataset, modality)
    if path is None:
        problem = f"{dataset.source_settings.folder} has no published {modality} vectors"
        raise DataError(f"{problem}; set another features.{modality}_encoder, or add the file")
    if dataset.source == "amazon":
        values, mask = _read_records(path, ids)
    else:
        array = _load_array(path)
        find_rows = _rows_by_number if dataset.source == "mmrec" else _rows_by_list
        rows = find_rows(path, dataset, len(array), ids)
        mask = rows >= 0
        values = np.zeros((len(ids), array.shape[1]), dtype="float32")
        with np.errstate(over="ignore"):  # what exceeds single precision becomes infinite
            values[mask] = array[rows[mask]]
    mask &= values.any(1)  # zeros mark a missing image or text
    if not mask.any():
        problem = f"every vector of the {len(ids):,} items is zero, which marks a missing one"
        raise DataError(f"{short_path(path)}: {problem}; write the encoder's vectors there")
    finite = np.isfinite(values).all(1)
    if not finite.all():
        item = ids[finite.argmin()]
        problem = f"the vector of item {item} has numbers that are not finite"
        raise DataError(f"{short_path(path)}: {problem}; fix or remove it")
    return values, mask


def _read_records(path: Path, ids: Sequence[str]) -> Vectors:
    """Amazon's image vectors: records of an asin and 4,096 numbers, read in blocks."""
    name, size = short_path(path), path.stat().st_size
    if size % IMAGE_RECORD.itemsize:
        problem = f"{size:,} bytes, which is not a multiple of {IMAGE_RECORD.itemsize:,}"
        raise DataError(f"{name} is truncated: it has {problem}; fetch it again")
    position = {item: row for row, item in enumerate(ids)}
    values, mask = np.zeros((len(ids), 4096), dtype="float32"), np.zeros(len(ids), dtype=bool)
    with open(path, "rb") as file:
        while block := file.read(1024 * IMAGE_RECORD.itemsize):
            records = np.frombuffer(block, IMAGE_RECORD)
            for asin, vector in zip(records["asin"].tolist(), records["values"]):
                row = position.get(asin.decode("latin-1"))
                if row is None:
                    continue
                if mask[row]:
                    raise DataError(f"{name} has {ids[row]} twice; remove it and fetch it again")
                values[row], mask[row] = vector, True
    if not mask.any():
        asins = np.fromfile(path, IMAGE_RECORD, count=4)["asin"].tolist()
        examples = [asin.decode("latin-1") for asin in asins]
        remedy = "fetch the vectors of the same category"
        raise _no_match(name, examples, size // IMAGE_RECORD.itemsize, ids, remedy)
    return values, mask


def _no_match(
    name: str, examples: Sequence[str], count: int, ids: Sequence[str], remedy: str
) -> DataError:
    """The error for vectors of which none is an item's."""
    theirs, ours = (
        ", ".join(repr(text[:40]) for text in texts[:3]) + ", ..." * (len(texts) > 3)
        for texts in (examples, ids)
    )
    problem = f"none of its {count:,} ids ({theirs}) is one of the {len(ids):,} items ({ours})"
    return DataError(f"{name}: {problem}; {remedy}")


def _load_array(path: Path) -> ndarray:
    """A two-dimensional array of decimal numbers, mapped, not read."""
    name = short_path(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python, whose errors are of many types
        reason = " ".join(str(error).split())[:60]
        problem = f"cannot be read as an array of numbers ({reason})"
        raise DataError(f"{name} {problem}; fix or remove it") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{name} is an archive, not one array; save it with numpy.save")
    if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
        problem = f"is an array {array.shape} of {array.dtype}, not rows of decimal numbers"
        raise DataError(f"{name} {problem}; fix or remove it")
    return array


def _rows_by_number(
    path: Path, dataset: Dataset, num_rows: int, ids: Sequence[str]
) -> Int64[ndarray, "catalogue"]:
    """MMRec: an item's row is its number, with or without leading zeros; rows go up to the largest
    number in the .inter file."""
    name = short_path(path)
    catalogue = read_mmrec(path.parent, dataset.source_settings, "fix it").items["id"].astype(str)
    everything, valid = whole_numbers(pl.Series(catalogue.tolist(), dtype=pl.String))
    if not valid.all():
        text = catalogue.iloc[int(valid.argmin())]
        problem = f"the .inter file has the item {text[:40]!r}, which is not a row's number"
        raise DataError(f"{name}: {problem}; use numbers, or the plain form")
    if twice := everything.filter(everything.is_duplicated())[:1].to_list():
        names = catalogue[(everything == twice[0]).to_numpy()].tolist()
        problem = f"the .inter file's items {names[0]!r} and {names[1]!r} have the same row"
        raise DataError(f"{name}: {problem}; write each item's number in one way")
    smallest, largest = everything.min(), everything.max()
    if num_rows != largest + 1:
        remedy = "they do not match"
        if num_rows == largest + 1 - smallest:
            remedy = f"rows count from 0, so subtract {smallest:,} from the items' numbers"
        problem = f"the .inter file's items are numbered {smallest:,} to {largest:,}"
        raise DataError(f"{name} has {num_rows:,} rows, but {problem}; {remedy}")
    rows, _ = whole_numbers(pl.Series(ids, dtype=pl.String))
    return rows.to_numpy()


def _rows_by_list(
    path: Path, dataset: Dataset, num_rows: int, ids: Sequence[str]
) -> Int64[ndarray, "catalogue"]:
    """The plain form: ids.csv names each row's item; -1 for an item that it lacks."""
    table = read_table(path.parent / "ids.csv", {"item": "text"}, "list each row's item there")
    listed = table["item"].to_list()
    if len(listed) != num_rows or len(set(listed)) < len(listed):
        problem = f"{len(listed):,} ids in ids.csv, {len(set(listed)):,} of them different"
        raise DataError(f"{short_path(path)} has {num_rows:,} rows for {problem}; each needs one")
    rows = {item: row for row, item in enumerate(listed)}
    if not any(item in rows for item in ids):
        name, remedy = f"{short_path(path)}, by ids.csv", "write the ids that interactions has"
        raise _no_match(name, listed, len(listed), ids, remedy)
    return np.array([rows.get(item, -1) for item in ids], dtype="int64")
