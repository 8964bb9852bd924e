"""A trained model queried by item ids, and what it reads from one history."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

import bivrec
from bivrec.data.domain import Domain
from bivrec.errors import DataError
from bivrec.experiment.checkpoints import save_checkpoint
from bivrec.experiment.interests import allocate_patches, read_history, score_interests
from bivrec.experiment.registry import Trained, build_model
from bivrec.experiment.training import train_model
from bivrec.explore.api import add_noise, interest_lists, item_table, score_items, top_items
from bivrec.portable.folder import load
from bivrec.portable.lists import recommend
from bivrec.portable.recommender import of_domain


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
    assert (
        allocate_patches(popular.trained, case[0]).empty and interest_lists(popular, case[0]).empty
    )
    assert (top_items(popular, *case)["interest"] == -1).all()


def test_tables(recommender, case):
    history, targets = case
    best = recommender.find(recommend(recommender, ids_of(recommender, history), k=1))
    targets = np.append(targets, best)
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
    num_interests, num_nearest = (
        getattr(model.settings.model, name) for name in ("num_interests", "num_nearest")
    )
    for given in (history, history[:3], history[:1], np.concatenate([history, np.arange(10)])):
        patches = allocate_patches(recommender.trained, given)
        unread = max(0, len(given) - model.max_length)
        for _, part in patches.groupby(["view", "scale"]):
            assert part.groupby(["first", "last"])["interest"].nunique().eq(num_nearest).all()
            ends = part[["first", "last"]].drop_duplicates().to_numpy()
            covered = np.concatenate([np.arange(first, last + 1) for first, last in ends])
            assert covered.tolist() == list(range(unread, len(given)))
            assert (np.diff(ends[1:]) + 1 == part["scale"].iloc[0]).all()
    assert patches["interest"].between(0, num_interests - 1).all()
    assert patches["share"].between(0, 1).all()


@pytest.fixture(scope="module")
def shared():
    """A model whose patches have two interests each, untrained."""
    domain = Domain("planted", {"model.num_interests": 4, "model.num_nearest": 2})
    return of_domain(domain, Trained("bivrec", 0, build_model(domain, "bivrec", 0)))


def test_a_patch_names_its_nearest_interests(shared, case):
    history = case[0][-shared.trained.model.max_length :]  # what the model reads
    patches = allocate_patches(shared.trained, history)
    shares = read_history(shared.trained, history)["id"]["allocation"][
        0, 0
    ]  # of patches of one item
    for position in (0, len(history) - 1):
        of = (patches["view"] == "id") & (patches["scale"] == 1) & (patches["last"] == position)
        wanted = shares[position].topk(2)
        assert patches.loc[of, "interest"].tolist() == wanted.indices.tolist()
        assert patches.loc[of, "share"].tolist() == pytest.approx(wanted.values.tolist())


def test_an_interest_owns_items_of_its_patches(shared, case):
    history, patches = case[0], allocate_patches(shared.trained, case[0])
    lists = interest_lists(shared, history, k=100)
    owned = lists[lists["kind"] == "owned"].groupby(["view", "interest"])["item"].agg(list)
    assert len(owned.index.unique("view")) == 2
    for (view, interest), items in owned.items():
        of = (patches["view"] == view) & (patches["scale"] == 1)
        ends = patches.loc[of & (patches["interest"] == interest), "last"]
        assert items == ids_of(shared, history[ends.to_numpy()[::-1]])


def test_recommendations_come_from_interests(recommender, case):
    """A view scores an item by all its interests together; a list names the best of them. Items of
    the history are in no list."""
    lists = interest_lists(recommender, case[0], k=20)
    lists = lists[lists["kind"] == "recommended"]
    assert lists.groupby(["view", "interest"]).size().eq(20).all()
    assert not lists["item"].isin(ids_of(recommender, case[0])).any()
    top = top_items(recommender, *case)
    assert (top.loc[top["view"] == "both", "interest"] == -1).all()
    for view, scores in score_interests(recommender.trained, case[0]).items():
        together = np.logaddexp.reduce(scores, axis=0)
        assert np.allclose(together, score_items(recommender, case[0])[view], atol=1e-4)
        own = top[top["view"] == view]
        wanted = scores[:, recommender.find(own["item"].tolist())].argmax(0)
        assert own["interest"].tolist() == wanted.tolist()


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


@pytest.mark.parametrize("kind", ["blur", "swap", "no_text", "no_image"])
def test_feature_noise_without_features_changes_nothing(case, kind):
    domain = Domain("planted", {"features.modality": "none"})
    bare = of_domain(domain, Trained("bivrec", 0, build_model(domain, "bivrec", 0)))
    same, history = add_noise(bare, *case, kind, 0.5)
    assert same is bare and history is case[0]


def test_text_ids_are_the_datasets_own(recommender):
    """A catalogue whose ids are text (Amazon's, one's own) is queried by them."""
    domain = type(recommender.domain)("planted")
    sequences = domain.sequences
    ids = [f"B{number:03d}" for number in range(sequences.num_items)]
    catalogue = sequences.catalogue.assign(id=ids)
    domain.__dict__["sequences"] = type(sequences)(**{**vars(sequences), "catalogue": catalogue})
    model = of_domain(domain, recommender.trained)
    assert all(item.startswith("B") for item in recommend(model, ["B003", "B007"], k=3))
    with pytest.raises(DataError, match="has no item 3"):
        recommend(model, [3])


def test_the_same_as_training_again(recommender, case):
    again = of_domain(recommender.domain, train_model(recommender.domain, "bivrec", 0))
    ids = ids_of(recommender, case[0])
    assert recommend(again, ids) == recommend(recommender, ids)
