"""A trained model queried by item ids, and what it reads from one history."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

import bivrec
from bivrec.errors import DataError
from bivrec.experiment.checkpoints import save_checkpoint
from bivrec.experiment.training import train_model
from bivrec.explore.api import (
    Recommender,
    add_noise,
    allocate_patches,
    item_table,
    load,
    nearest_items,
    recommend,
    score_items,
    top_items,
)


def ids_of(recommender, numbers) -> list:
    return [recommender.ids[number] for number in numbers]


def test_ids_in_and_out(recommender, case):
    ids = ids_of(recommender, case[0])
    best = recommend(recommender, ids, k=20)
    assert len(best) == len(set(best)) == 20 and not set(best) & set(ids)
    assert set(best) <= set(recommender.domain.sequences.catalogue["item"])
    scores = score_items(recommender, case[0])["both"]
    assert best == ids_of(recommender, np.argsort(-scores, kind="stable")[:20])
    assert recommend(recommender, ids, k=5) == best[:5]
    assert recommend(recommender, ids, view="id") != recommend(recommender, ids, view="multimodal")
    everything = recommend(recommender, ids, k=10_000)
    assert len(everything) == recommender.domain.sequences.num_items - len(set(ids))


def test_it_recommends_what_users_like(recommender):
    """On planted a model that learns puts the kinds of the history first: more than twice as often
    as chance does."""
    cases, kinds = recommender.domain.fold(0).test, recommender.domain.kinds
    shares, by_chance = [], []
    for history in cases.histories:
        best = recommender.find(recommend(recommender, ids_of(recommender, history), k=5))
        shares.append(np.isin(kinds[best], kinds[history[-5:]]).mean())
        by_chance.append(len(np.unique(kinds[history[-5:]])) / len(np.unique(kinds)))
    assert np.mean(shares) > 0.8 and np.mean(by_chance) < 0.4


def test_lazy_names():
    assert bivrec.load is load and bivrec.recommend is recommend
    code = (
        "import sys, bivrec; assert 'torch' not in sys.modules;"
        "from bivrec import load, recommend; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'recomend'"):
        _ = bivrec.recomend


def test_a_checkpoint_loads_in_one_line(recommender, case, tmp_path):
    """A checkpoint from anywhere recommends the same; one of other settings is refused, a damaged
    one too."""
    path = tmp_path / "bivrec-0.safetensors"
    save_checkpoint(recommender.domain, recommender.trained, path)
    ids = ids_of(recommender, case[0])
    assert recommend(load("planted", path=path), ids) == recommend(recommender, ids)
    message = "was made with other code, data or settings; `make repro` makes it"
    with pytest.raises(DataError, match=message):
        load("planted", "sasrec", path=path)
    path.write_bytes(b"\x08" + bytes(20))
    with pytest.raises(DataError, match=r"bivrec-0\.safetensors is damaged"):
        load("planted", path=path)


@pytest.mark.parametrize(
    ("arguments", "path", "command"),
    [
        ((), r"build/03_training/movies-classic/bivrec-0", "make repro"),
        (
            ("fdsa", 2, "full"),
            r"build/full/03_training/movies-classic/fdsa-2",
            "make repro PROFILE=full",
        ),
    ],
)
def test_a_missing_checkpoint_is_named(root, tmp_path, monkeypatch, arguments, path, command):
    shutil.copy(root / "params.yaml", tmp_path)
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    message = rf"^{path}\.safetensors is missing; `{command}` makes it$"
    with pytest.raises(DataError, match=message):
        load("movies-classic", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"history": ["moon"]}, "planted has no item 'moon'; its ids look like 1000"),
        ({"history": []}, "give at least one"),
        ({"history": [1000], "k": 0}, "k is 0"),
        (
            {"history": [1000], "view": "sound"},
            "bivrec has no view 'sound'; it has id, multimodal, both",
        ),
    ],
)
def test_errors_say_what_and_how(recommender, arguments, message):
    with pytest.raises(DataError, match=message):
        recommend(recommender, **arguments)


def test_models_that_only_count(case):
    popular = load("planted", "popularity")
    train = np.concatenate(popular.domain.fold(0).train)
    counts = np.bincount(train, minlength=popular.domain.sequences.num_items)
    first = popular.find(recommend(popular, ids_of(popular, case[0]), k=1))
    assert counts[first] == np.delete(counts, case[0]).max()
    assert allocate_patches(popular, case[0]).empty and nearest_items(popular, case[0]).empty


def test_tables(recommender, case):
    history, targets = case
    titles = recommender.domain.sequences.catalogue["title"]
    table = item_table(recommender, history)
    assert table["item"].tolist() == ids_of(recommender, history)
    assert table["title"].tolist() == titles.iloc[history].tolist()
    top = top_items(recommender, history, targets, 20)
    assert top.groupby("view").size().to_dict() == {"id": 20, "multimodal": 20, "both": 20}
    followed = top["item"].isin(ids_of(recommender, targets))
    assert top["target"].tolist() == followed.tolist()
    assert top["target"].any() and not top["item"].isin(table["item"]).any()


def test_patches_cover_what_the_model_reads_once_at_every_scale(recommender, case):
    history, model = case[0], recommender.trained.model
    for given in (history, history[:3], history[:1], np.concatenate([history, np.arange(10)])):
        patches = allocate_patches(recommender, given)
        unread = max(0, len(given) - model.max_length)
        for (_, scale), part in patches.groupby(["view", "scale"]):
            ends = part[["first", "last"]].to_numpy()
            covered = np.concatenate([np.arange(first, last + 1) for first, last in ends])
            assert covered.tolist() == list(range(unread, len(given)))
            assert ((part["last"] - part["first"] + 1).iloc[1:] == scale).all()
    num_interests = model.settings.model.num_interests
    assert patches["interest"].between(0, num_interests - 1).all()
    assert patches["share"].between(1 / num_interests, 1).all()


def test_nearest_items_belong_to_their_interest(recommender, case):
    """A view's best item of all is the nearest to one of its interests, for an item's score is its
    largest product with any."""
    near = nearest_items(recommender, case[0], k=6)
    assert near.groupby(["view", "interest"]).size().eq(6).all()
    assert set(near["view"]) == {"id", "multimodal"}
    scores = recommender.trained.model.score([case[0]])
    for view, part in near.groupby("view"):
        best = recommender.ids[int(scores[view][0].argmax())]
        assert best in part.loc[part["rank"] == 1, "item"].tolist()


def test_noise(recommender, case):
    history, targets = case
    same, noisy = add_noise(recommender, history, targets, "replace", 0.5)
    assert same is recommender and len(noisy) == len(history) and (noisy != history).any()
    assert not np.isin(noisy[noisy != history], targets).any()
    blurred, unchanged = add_noise(recommender, history, targets, "blur", 2.0)
    before, after = (score_items(model, history) for model in (recommender, blurred))
    assert unchanged is history and np.array_equal(before["id"], after["id"])
    assert not np.array_equal(before["multimodal"], after["multimodal"])
    clean = add_noise(recommender, history, targets, "swap", 0.0)[0]
    assert np.array_equal(score_items(clean, history)["both"], before["both"])


def test_text_ids_are_the_datasets_own(recommender):
    """A catalogue whose ids are text (Amazon's, one's own) is queried by them."""
    domain = type(recommender.domain)("planted")
    sequences = domain.sequences
    ids = [f"B{number:03d}" for number in range(sequences.num_items)]
    catalogue = sequences.catalogue.assign(id=ids)
    domain.__dict__["sequences"] = type(sequences)(**{**vars(sequences), "catalogue": catalogue})
    model = Recommender(domain, recommender.trained)
    assert all(item.startswith("B") for item in recommend(model, ["B003", "B007"], k=3))
    with pytest.raises(DataError, match="has no item 3"):
        recommend(model, [3])


def test_the_same_as_training_again(recommender, case):
    again = Recommender(recommender.domain, train_model(recommender.domain, "bivrec", 0))
    ids = ids_of(recommender, case[0])
    assert recommend(again, ids) == recommend(recommender, ids)
