"""A trained model asked by item ids, and what it makes of one history."""

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


@pytest.fixture(scope="module")
def recommender():
    return load("planted")


@pytest.fixture(scope="module")
def case(recommender):
    """A test user's history and what followed."""
    cases = recommender.domain.fold(0).test
    longest = int(np.argmax([len(history) for history in cases.histories]))
    return cases.histories[longest], cases.targets[longest]


def test_ids_in_and_out(recommender, case):
    history, _ = case
    ids = [recommender.ids[place] for place in history]
    found = recommend(recommender, ids, k=20)
    assert len(found) == len(set(found)) == 20 and not set(found) & set(ids)
    assert set(found) <= set(recommender.domain.sequences.catalogue["item"])
    best = [
        recommender.ids[place]
        for place in np.argsort(-score_items(recommender, history)["both"], kind="stable")[:20]
    ]
    assert found == best and recommend(recommender, ids, k=5) == best[:5]
    assert recommend(recommender, ids, view="id") != recommend(recommender, ids, view="multimodal")
    everything = recommend(recommender, ids, k=10_000)
    assert len(everything) == recommender.domain.sequences.num_items - len(set(ids))


def test_it_recommends_what_users_like(recommender):
    """On planted a model that learned puts the kinds of the history first: more than twice as often as chance would."""
    cases, kinds = recommender.domain.fold(0).test, recommender.domain.kinds
    of_history = [
        np.isin(
            kinds[
                recommender.find(recommend(recommender, [recommender.ids[i] for i in history], k=5))
            ],
            kinds[history[-5:]],
        ).mean()
        for history in cases.histories
    ]
    by_chance = np.mean(
        [len(np.unique(kinds[history[-5:]])) / len(np.unique(kinds)) for history in cases.histories]
    )
    assert np.mean(of_history) > 0.8 and by_chance < 0.4


def test_lazy_names():
    assert bivrec.load is load and bivrec.recommend is recommend
    code = "import sys, bivrec; assert 'torch' not in sys.modules; from bivrec import load, recommend; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'recomend'"):
        _ = bivrec.recomend


def test_a_checkpoint_loads_in_one_line(recommender, case, tmp_path):
    """A file kept elsewhere gives the same recommendations; one of other settings is refused, a damaged one too."""
    save_checkpoint(recommender.domain, recommender.trained, tmp_path / "bivrec-0.safetensors")
    again = load("planted", path=tmp_path / "bivrec-0.safetensors")
    ids = [recommender.ids[place] for place in case[0]]
    assert recommend(again, ids) == recommend(recommender, ids)
    with pytest.raises(
        DataError, match="was made with other code, data or settings; `make repro` makes it"
    ):
        load("planted", "sasrec", path=tmp_path / "bivrec-0.safetensors")
    (tmp_path / "bivrec-0.safetensors").write_bytes(b"\x08" + bytes(20))
    with pytest.raises(DataError, match=r"bivrec-0\.safetensors is damaged"):
        load("planted", path=tmp_path / "bivrec-0.safetensors")


def test_a_missing_checkpoint_is_named(root, tmp_path, monkeypatch):
    shutil.copy(root / "params.yaml", tmp_path)
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    with pytest.raises(
        DataError,
        match=r"^build/03_training/movies-classic/bivrec-0\.safetensors is missing; `make repro` makes it$",
    ):
        load("movies-classic")
    with pytest.raises(
        DataError,
        match=r"^build/full/03_training/movies-classic/fdsa-2\.safetensors is missing; `make repro PROFILE=full` makes it$",
    ):
        load("movies-classic", "fdsa", 2, "full")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"history": ["moon"]}, "planted has no item 'moon'; its ids are as 1000"),
        ({"history": []}, "give at least one item"),
        ({"history": [1000], "k": 0}, "k is 0"),
        (
            {"history": [1000], "view": "sound"},
            "bivrec has no view 'sound'; it has id, multimodal, both",
        ),
    ],
)
def test_errors_say_what_and_how(recommender, asked, told):
    with pytest.raises(DataError, match=told):
        recommend(recommender, **asked)


def test_models_that_only_count(case):
    popular = load("planted", "popularity")
    counts = np.bincount(
        np.concatenate(popular.domain.fold(0).train), minlength=popular.domain.sequences.num_items
    )
    first = popular.find(recommend(popular, [popular.ids[place] for place in case[0]], k=1))
    assert counts[first] == np.delete(counts, case[0]).max()
    assert allocate_patches(popular, case[0]).empty and nearest_items(popular, case[0]).empty


def test_tables(recommender, case):
    history, targets = case
    table = item_table(recommender, history)
    assert table["item"].tolist() == [recommender.ids[place] for place in history]
    assert (
        table["title"].tolist()
        == recommender.domain.sequences.catalogue["title"].iloc[history].tolist()
    )
    top = top_items(recommender, history, targets, 20)
    assert top.groupby("view").size().to_dict() == {"id": 20, "multimodal": 20, "both": 20}
    assert (
        top["target"].tolist()
        == top["item"].isin([recommender.ids[place] for place in targets]).tolist()
    )
    assert top["target"].any() and not top["item"].isin(table["item"]).any()


def test_patches_cover_what_the_model_reads_once_at_every_scale(recommender, case):
    history, model = case[0], recommender.trained.model
    for given in (history, history[:3], history[:1], np.concatenate([history, np.arange(10)])):
        patches = allocate_patches(recommender, given)
        for (_, scale), part in patches.groupby(["view", "scale"]):
            covered = np.concatenate(
                [np.arange(first, last + 1) for first, last in part[["first", "last"]].to_numpy()]
            )
            assert covered.tolist() == list(
                range(max(0, len(given) - model.max_length), len(given))
            )
            assert ((part["last"] - part["first"] + 1).iloc[1:] == scale).all()
    assert patches["interest"].between(0, model.settings.model.num_interests - 1).all()
    assert patches["share"].between(1 / model.settings.model.num_interests, 1).all()


def test_nearest_items_belong_to_their_interest(recommender, case):
    """Each view's first item of all is the first nearest of one of its interests, for the score is the largest product."""
    near = nearest_items(recommender, case[0], k=6)
    assert near.groupby(["view", "interest"]).size().eq(6).all() and set(near["view"]) == {
        "id",
        "multimodal",
    }
    scores = {
        view: rows[0].numpy() for view, rows in recommender.trained.model.score([case[0]]).items()
    }
    for view, part in near.groupby("view"):
        assert (
            recommender.ids[int(scores[view].argmax())]
            in part.loc[part["rank"] == 1, "item"].tolist()
        )


def test_noise(recommender, case):
    history, targets = case
    same, noisy = add_noise(recommender, history, targets, "replace", 0.5)
    assert same is recommender and len(noisy) == len(history) and (noisy != history).any()
    assert not np.isin(noisy[noisy != history], targets).any()
    blurred, kept = add_noise(recommender, history, targets, "blur", 2.0)
    before, after = (score_items(one, history) for one in (recommender, blurred))
    assert (
        kept is history
        and np.array_equal(before["id"], after["id"])
        and not np.array_equal(before["multimodal"], after["multimodal"])
    )
    clean = add_noise(recommender, history, targets, "swap", 0.0)[0]
    assert np.array_equal(score_items(clean, history)["both"], before["both"])


def test_text_ids_are_the_datasets_own(recommender):
    """A catalogue whose ids are text (Amazon's, one's own) is asked by them."""
    domain = type(recommender.domain)("planted")
    named = domain.sequences.catalogue.assign(
        id=[f"B{place:03d}" for place in range(domain.sequences.num_items)]
    )
    domain.__dict__["sequences"] = type(domain.sequences)(
        **{**vars(domain.sequences), "catalogue": named}
    )
    asked = Recommender(domain, recommender.trained)
    assert all(item.startswith("B") for item in recommend(asked, ["B003", "B007"], k=3))
    with pytest.raises(DataError, match="has no item 3"):
        recommend(asked, [3])


def test_the_same_as_training_again(recommender, case):
    again = train_model(recommender.domain, "bivrec", 0)
    ids = [recommender.ids[place] for place in case[0]]
    assert recommend(Recommender(recommender.domain, again), ids) == recommend(recommender, ids)


@pytest.fixture(scope="module")
def explorer():
    from bivrec.explore.widgets import Explorer

    return Explorer()


def test_the_explorer_shows_what_is_chosen(explorer):
    assert (
        "ID view" in explorer.lists.value
        and "both views" in explorer.lists.value
        and "patches of 4" in explorer.patches.value
    )
    before = explorer.lists.value
    explorer.user.value = 3
    assert explorer.lists.value != before and len(explorer.history) == len(
        explorer.cases.histories[3]
    )
    assert explorer.past.value.count("<tr") == len(explorer.history) + 1
    explorer.view.value = "multimodal"
    assert "interest" in explorer.nearest.value


def test_the_explorer_adds_and_removes(explorer):
    explorer.user.value = 3
    explorer.reset.click()
    own, before = explorer.history, explorer.lists.value
    explorer.addition.value = next(
        label for label, place in explorer.place.items() if place not in own
    )
    explorer.add.click()
    assert len(explorer.history) == len(own) + 1 and explorer.lists.value != before
    explorer.removal.value = len(own)
    explorer.remove.click()
    assert np.array_equal(explorer.history, own) and explorer.lists.value == before
    explorer.history = own[:1]
    explorer.show()
    explorer.remove.click()
    assert "cannot be continued" in explorer.status.value and len(explorer.history) == 1
    explorer.reset.click()
    assert explorer.lists.value == before


def test_the_explorer_under_noise(explorer):
    explorer.user.value = 3
    before = explorer.lists.value
    for noise in ("items replaced", "items deleted", "features blurred", "text missing"):
        explorer.noise.value, explorer.level.value = noise, 0.8
        assert explorer.lists.value != before, noise
    explorer.noise.value = "none"
    assert explorer.lists.value == before and explorer.level.disabled


def test_the_explorer_answers_within_a_second(explorer):
    seconds = []
    for user in range(5):
        explorer.user.value = user + 4
        seconds.append(explorer.seconds)
    assert sorted(seconds)[2] < 1


def test_the_explorer_with_models_without_interests(explorer):
    explorer.model.value = "popularity"
    assert "no interests" in explorer.patches.value and "ID view" in explorer.lists.value
    explorer.model.value = "bivrec"
    assert "patches of 1" in explorer.patches.value


def test_the_explorer_escapes_what_data_say(explorer):
    from bivrec.explore.widgets import named, show_history

    class Row:
        title, year, item, genres = "<b>x</b>", 1999, 1, "a<i>"

    assert named(Row) == "<b>x</b> (1999)"
    import pandas as pd

    assert "<i>" not in show_history(
        pd.DataFrame([vars(Row)])[["item", "title", "year", "genres"]], 5
    )
