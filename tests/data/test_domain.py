"""Datasets under their settings: what they lack is left out."""

import json
import pickle

import numpy as np
import pytest

from bivrec.data.domain import Domain, data_card, encode, prepare
from bivrec.data.features import ItemFeatures
from bivrec.errors import SettingsError
from bivrec.experiment.registry import build_model
from bivrec.experiment.runs import rank_models
from bivrec.experiment.training import train_models

SMALL = {
    "studies.seeds": [0],
    "studies.retrained_seeds": [0],
    "training.num_steps": 8,
    "training.warmup_steps": 2,
    "training.evaluate_every": 4,
    "model.dim": 8,
    "model.inner_dim": 8,
    "model.max_length": 8,
    "model.scales": [1, 2],
    "training.batch_size": 8,
    "split.num_folds": 4,
    "machine.num_workers": 1,
}


@pytest.fixture
def add_dataset(root, tmp_path, monkeypatch):
    """A project whose params.yaml has further datasets, and whose raw/ is the fixtures'."""
    (tmp_path / "raw").mkdir(exist_ok=True)

    def add(name: str, source: str, folder: str, **changes) -> Domain:
        entry = {"source": source, source: {"folder": folder}, "settings": SMALL | changes}
        text, first = (root / "params.yaml").read_text(), "datasets:\n"
        added = f"{first}  {name}: {json.dumps(entry)}\n"
        (tmp_path / "params.yaml").write_text(text.replace(first, added, 1))
        monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
        monkeypatch.delenv("BIVREC_DATA", raising=False)
        return Domain(name)

    return add


def run_stages(domain: Domain, folder, monkeypatch) -> None:
    for stage, work in (("01_data_prep", prepare), ("02_feature_encoding", encode)):
        monkeypatch.setenv("BIVREC_BUILD", str(folder / "build" / stage / domain.name))
        work(domain)
    monkeypatch.delenv("BIVREC_BUILD")


@pytest.mark.slow
def test_ids_and_times_alone_run_the_id_view_and_what_is_left_out_is_reported(
    mmrec, add_dataset, tmp_path, monkeypatch
):
    (mmrec / "image_feat.npy").unlink()
    domain = add_dataset("mine", "mmrec", mmrec.name, **{"split.min_interactions": 3})
    run_stages(domain, tmp_path, monkeypatch)
    assert (
        domain.left_out
        == "text, image, the multimodal view, and every model and ablation that needs them"
    )
    assert domain.settings.model.views == ("id",) and encode(domain) == {}
    names = domain.settings.studies.models
    assert set(names) == {
        "popularity",
        "itemknn-recency",
        "sasrec",
        "bivrec",
        "bivrec-paper",
        "pure-id",
    }
    with pytest.raises(
        SettingsError,
        match="sasrec-fused reads features that mine lacks; 03_training leaves it out",
    ):
        domain.variant("sasrec-fused")
    ranks = rank_models(domain, train_models(domain, names))
    assert (
        set(ranks["model"]) == set(names)
        and set(ranks["view"]) == {"id"}
        and ranks["rank"].between(1, 7).all()
    )
    card = data_card(domain).set_index("what")["value"]
    assert (
        card["features"] == "none"
        and len(card["sha256 of baby.inter"]) == 64
        and card["published"] == "8 users, 7 items, 48 interactions"
    )


def test_one_modality_alone(mmrec, add_dataset, tmp_path, monkeypatch):
    domain = add_dataset(
        "mine", "mmrec", mmrec.name, **{"split.min_interactions": 3, "features.num_components": 4}
    )
    run_stages(domain, tmp_path, monkeypatch)
    assert (
        domain.left_out == "text, and every model and ablation that needs them"
        and domain.settings.features.modality == "image"
    )
    assert (
        "bivrec" in domain.settings.studies.models
        and "text-only" not in domain.settings.studies.ablations
    )
    assert list(domain.features(0)) == ["image"] and build_model(domain, "bivrec", 0).items[
        "multimodal"
    ].image_values.shape == (7, 4)


def test_amazon_through_the_chain(baby, add_dataset, tmp_path, monkeypatch):
    """Text is encoded, images are published and found by id, an item without one is masked, and
    leading zeros of an id survive."""
    domain = add_dataset(
        "mine",
        "amazon",
        baby.name,
        **{
            "split.min_interactions": 3,
            "features.text_encoder": "hashing",
            "features.image_encoder": "published",
            "split.num_folds": 3,
        },
    )
    params = tmp_path / "params.yaml"
    params.write_text(
        params.read_text().replace(
            f'"folder": "{baby.name}"', f'"folder": "{baby.name}", "category": "Baby"'
        )
    )
    run_stages(domain, tmp_path, monkeypatch)
    image, ids = domain.item_features("image", 0), domain.sequences.catalogue["id"].tolist()
    assert [float(image.values[ids.index(f"B{n:09d}"), 0]) for n in range(8)] == [
        0,
        *range(7, 0, -1),
    ]
    assert (
        image.mask[ids.index("B000000000")] == 0
        and image.mask.sum() == 7
        and image.source == "published: 7 items, 1 missing"
    )
    text = domain.item_features("text", 0)
    assert not text.mask[ids.index("B000000007")] and text.mask.sum() == 7  # no metadata, no text
    assert set(rank_models(domain, train_models(domain, ["bivrec"]))["view"]) == {
        "id",
        "multimodal",
        "both",
    }


def test_a_folder_is_a_name_not_a_path(add_dataset):
    for folder in ("../elsewhere", "/etc", "a/b", ".hidden", ""):
        with pytest.raises(SettingsError, match="mmrec.folder"):
            add_dataset("mine", "mmrec", folder).settings  # noqa: B018


def test_a_domain_keeps_its_profile_and_seeds_of_a_fold_share_features(monkeypatch):
    domain = pickle.loads(pickle.dumps(Domain("movies-classic", {"model.dim": 32}, "full")))
    assert (domain.profile, domain.settings.model.dim, domain.settings.training.num_steps) == (
        "full",
        32,
        domain.settings.profiles["full"]["training.num_steps"],
    )

    def load(folder, modality) -> ItemFeatures:
        source = f"{encoders[modality]}: {folder.name}"
        return ItemFeatures(np.zeros((1, 1), "float32"), np.ones(1, bool), source)

    encoders = {"text": "minilm", "image": "efficientnet-lite0"}

    monkeypatch.setattr("bivrec.data.domain.load_features", load)
    assert [
        domain.item_features(*case).source for case in (("text", 3), ("text", 13), ("image", 13))
    ] == ["minilm: seed-3", "minilm: seed-3", "efficientnet-lite0: movies-classic"]


@pytest.fixture
def prepared(project, tmp_path, monkeypatch) -> None:
    """The dataset `mine`, prepared with its text, by the default settings."""
    counts = {"of": "kept", "users": 40, "items": 9, "interactions": 321, "strict": True}
    folder = '"plain": {"folder": "mine"}'
    project.replace("params.yaml", folder, f'{folder}, "expected": {json.dumps(counts)}')
    own, text = '"studies.retrained_seeds": [0]', '"features.modality": "text"'
    project.replace("params.yaml", own, f'{own}, {text}, "features.text_encoder": "hashing"')
    rows = [f"i{item},{'kite ' * item}moon\n" for item in range(9)]
    project.write("raw/mine/items.csv", "item,title\n" + "".join(rows))
    run_stages(Domain("mine"), tmp_path, monkeypatch)


@pytest.mark.parametrize("key, value, was", [
    ("split.min_interactions", 6, "5"),
    ("split.ties", "file", "hash"),
    ("split.num_folds", 3, "5"),
    ("features.text_encoder", "minilm", "hashing, encoded live"),
])  # fmt: skip
def test_prepared_data_refuse_what_only_their_preparation_reads(prepared, refuses, key, value, was):
    domain = Domain("mine", {key: value})
    message = refuses(lambda: (domain.fold(0), domain.features(0)))
    assert f"{key} is {value}, but mine was prepared with {was}; set it in params.yaml" in message
    assert message.endswith("under datasets.mine.settings and run `make repro`")


def test_prepared_data_refuse_another_dataset(prepared, refuses):
    domain = Domain("mine", {"datasets.mine.plain.folder": "other"})
    message = refuses(lambda: domain.sequences)
    assert message.startswith("datasets.mine is not the entry with which mine was prepared; change")


@pytest.mark.parametrize("changes", [
    {"split.protocol": "leave_one_out"},
    {"split.mask_history": False},
    {"split.history_share": 0.5},
    {"features.num_components": 2},
    {"features.shuffled": True},
    {"datasets.mine.expected.strict": False},
])  # fmt: skip
def test_what_is_applied_later_may_change(prepared, changes):
    domain = Domain("mine", changes)
    assert domain.fold(0).test and domain.features(0)["text"][1].all()


def test_the_preparation_itself_accepts_every_change(prepared):
    fewer = Domain("mine", {"split.min_interactions": 8, "datasets.mine.expected.strict": False})
    assert prepare(fewer).num_users < Domain("mine").sequences.num_users
    other = encode(Domain("mine", {"features.text_encoder": "hashing", "split.num_folds": 3}))
    assert len(other["text"]) == 2  # of the seeds 0, 1 and 3
