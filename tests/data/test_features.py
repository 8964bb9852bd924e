"""Features and their masks, and what may be read."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bivrec.data.encoders import encode_images
from bivrec.data.features import (
    ItemFeatures,
    describe_items,
    image_features,
    load_features,
    load_image_vectors,
    reduce_features,
    save_features,
    text_features,
)
from bivrec.data.splits import split_by_time
from bivrec.errors import DataError
from bivrec.settings import load_settings


def write_vectors(folder: Path, item_ids: Iterable[int], vectors: np.ndarray) -> None:
    """Vectors in half precision and the manifest that describes them."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "vectors.npy", vectors.astype("float16"))
    sha256 = hashlib.sha256((folder / "vectors.npy").read_bytes()).hexdigest()
    manifest = {"vectors_sha256": sha256, "item_ids": [int(item) for item in item_ids]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_held_out_users_tags_are_not_read(planted):
    """Every test and validation user shouts about every item; no text may contain it."""
    sequences, fold = planted.sequences, planted.fold(0)
    held = [*fold.test.users, *fold.validation.users]
    trained = int(fold.train_users[0])
    known, unknown = (
        int(sequences.of(trained)[0]),
        int(np.setdiff1d(np.arange(sequences.num_items), sequences.of(trained))[0]),
    )
    rows = [(user, item, "leak") for user in held for item in sequences.of(user)]
    rows += [(trained, known, "Fair"), (trained, unknown, "leak")]
    texts = describe_items(
        replace(sequences, tags=pd.DataFrame(rows, columns=["user", "item", "tag"])), fold
    )
    assert not any("leak" in text for text in texts)
    assert "fair" in texts[known] and sum("fair" in text for text in texts) == 1


def test_by_time_reads_no_tag_from_after_the_training(planted):
    """Under the other protocols, which have no date, every tag of a training pair counts."""
    sequences = planted.sequences
    fold = split_by_time(sequences, planted.settings.split, 0)
    user, item = int(fold.train_users[0]), int(fold.train[0][0])
    rows = [(user, item, "fair", fold.end - 1), (user, item, "leak", fold.end)]
    tags = pd.DataFrame(rows, columns=["user", "item", "tag", "time"])
    tagged = replace(sequences, tags=tags)
    assert describe_items(tagged, fold)[item].endswith(". fair")
    assert describe_items(tagged, replace(fold, end=None))[item].endswith(". fair, leak")


def test_a_missing_text_is_a_mask(planted):
    features, other = text_features(
        [["a moon", "", "a kite", "   "], ["", "a kite", "a kite", "a moon"]],
        planted.settings.features,
        "planted",
    )
    with pytest.raises(DataError, match="planted: no item has a title, year, genres or descript"):
        text_features([["", " "]], planted.settings.features, "planted")
    assert features.mask.tolist() == [True, False, True, False]
    assert not features.values[~features.mask].any() and features.values[0].any()
    assert (other.values[3] == features.values[0]).all() and (
        other.values[1] == features.values[2]
    ).all()


def test_missing_and_live_images(planted, tmp_path, monkeypatch):
    sequences, data = planted.sequences, tmp_path / "data"
    ids = sequences.catalogue["item"].to_numpy()
    write_vectors(data / "posters", ids[:50], np.ones((50, 192)))
    (tmp_path / "images").mkdir()
    Image.fromarray(planted.raw.images[0]).save(tmp_path / "images" / f"{ids[60]}.png")
    settings, folder = load_settings("movies-classic").features, tmp_path / "images"
    monkeypatch.setattr(
        "bivrec.data.features.encode_images", lambda images, _: encode_images(images, "pixels")
    )
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    features = image_features(sequences, settings, folder, data / "posters")
    assert (
        features.mask.sum() == 51
        and features.mask[60]
        and not features.mask[70]
        and not features.values[70].any()
    )
    assert "1 encoded live, 50 from data/posters" in features.source
    link = tmp_path / "images" / f"{ids[61]}.jpg"
    link.symlink_to(tmp_path / "gone.jpg")
    problem = f"image images/{link.name} is a link to {tmp_path / 'gone.jpg'}, which does not exist"
    with pytest.raises(DataError, match=re.escape(problem)):
        image_features(sequences, settings, folder, data / "posters")
    link.unlink()
    (tmp_path / "raw/mine/images").mkdir(parents=True)
    with pytest.raises(DataError, match="no image of the catalogue is in raw/mine/images/; put"):
        image_features(sequences, settings, tmp_path / "raw/mine/images", None)
    link.write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        image_features(sequences, settings, folder, data / "posters")


def test_stored_vectors_are_of_their_encoder_alone(planted, tmp_path, monkeypatch):
    """Another encoder needs an image for each item that has a stored vector."""
    sequences, stored, folder = planted.sequences, tmp_path / "data/posters", tmp_path / "images"
    ids, settings = sequences.catalogue["item"].to_numpy(), planted.settings.features
    write_vectors(stored, ids[:2], np.ones((2, 1280)))
    folder.mkdir()
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    problem = "{} items have no image in images/ for pixels, only a vector of efficientnet-lite0; "
    for missing in (2, 1):
        with pytest.raises(DataError, match=problem.format(missing) + "put <id>.jpg there, or set"):
            image_features(sequences, settings, folder, stored)
        image = Image.fromarray(planted.raw.images[missing])
        image.save(folder / f"{ids[missing - 1]}.png")
    features = image_features(sequences, settings, folder, stored)
    assert features.mask.sum() == 2 and features.values.shape[1] != 1280
    assert features.source == f"pixels: 2 encoded live, 0 from data/posters, {len(ids) - 2} missing"


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
    write_vectors(folder, range(3), np.ones((3, 4)))
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
    present = torch.from_numpy(values[features.mask])
    ours, theirs = (
        torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        for x in (reduced[features.mask], present)
    )
    assert torch.allclose(ours / ours.mean(), theirs / theirs.mean(), atol=1e-5)
    other = ItemFeatures(values[:5], np.ones(5, bool), "test")
    assert torch.allclose(reduce_features(other, 6, basis=features), reduced[:5], atol=1e-5)


def test_features_are_loaded_as_saved(tmp_path):
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


def test_features_that_cannot_be_saved_are_refused(tmp_path):
    for value, told in (
        (70_000.0, "reach 70000, beyond half precision"),
        (float("nan"), "are not finite"),
        (1e-6, "reach 1e-06 at most, too little for half precision; scale them"),
    ):
        with pytest.raises(DataError, match=told):
            save_features(
                tmp_path / "stage",
                "image",
                ItemFeatures(np.full((2, 2), value, "float32"), np.ones(2, bool), "x"),
            )
    assert not list((tmp_path / "stage").glob("*"))
    same = ItemFeatures(np.ones((3, 2), "float32"), np.ones(3, bool), "x")
    with pytest.raises(DataError, match="mine, text: all items have the same features"):
        reduce_features(same, 2, name="mine, text")


def test_columns_that_half_precision_would_flatten_are_refused(tmp_path, generator):
    values = generator.normal(size=(100, 3)).astype("float32")
    mask = np.arange(100) < 90
    values[~mask] = 0
    offset = values + np.array([[0, 2000, 0]], "float32") * mask[:, None]
    problem = "the text features: column 2 varies too little around its mean for half precision"
    with pytest.raises(DataError, match=f"{problem}; subtract each column's mean"):
        save_features(tmp_path, "text", ItemFeatures(offset, mask, "x"))
    assert not list(tmp_path.glob("*"))
    values[:, 1] = 0.1 * mask  # constant
    values[:, 2] = np.arange(100) == 7  # of a single item
    save_features(tmp_path, "text", ItemFeatures(values, mask, "x"))
    save_features(tmp_path, "image", ItemFeatures(values * 0, mask & False, "none"))


@pytest.mark.parametrize(
    "change",
    [
        {"item_ids": None},
        {"item_ids": ["a", "b"]},
        {"item_ids": [1]},
        {"item_ids": [1, 1 << 70]},
        None,
        [1],
    ],
)
def test_a_manifest_that_does_not_name_its_vectors(project, refuses, change):
    folder = project.root / "data" / "posters"
    write_vectors(folder, [1, 2], np.ones((2, 3)))
    assert load_image_vectors(folder)[0].tolist() == [1, 2]
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest = manifest | change if isinstance(change, dict) else change
    if isinstance(change, dict) and change["item_ids"] is None:
        del manifest["item_ids"]
    project.write("data/posters/manifest.json", json.dumps(manifest))
    message = refuses(lambda: load_image_vectors(folder))
    assert "data/posters" in message and message.endswith("restore it with `make restore`")
