"""A model taken along: exported, moved, loaded by other code."""

import builtins
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save

from bivrec.data.domain import Domain
from bivrec.data.download import file_hash
from bivrec.errors import DataError
from bivrec.experiment.checkpoints import checkpoint_folder, save_checkpoint
from bivrec.portable.card import read_figures
from bivrec.portable.folder import ADDED, CARD, DESCRIPTION, GRAPH, ITEMS, WEIGHTS, export, load
from bivrec.portable.lists import recommend

HERE = Path(__file__).parent


def scores_of(recommender, *items) -> dict[str, torch.Tensor]:
    return recommender.trained.model.score([recommender.find(items)])


def assert_equal_scores(one, other) -> None:
    ours, theirs = (scores_of(model, *one.ids[3:9]) for model in (one, other))
    assert ours.keys() == theirs.keys()
    for view in ours:
        assert torch.allclose(ours[view], theirs[view], rtol=0, atol=1e-5), view


MODELS = (
    "bivrec pure-id sasrec sasrec-fused sasrec-sum bsarec comirec-sa fdsa mmsrec tedrec".split()
)


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_model_scores_the_same(untrained, name, tmp_path):
    model = untrained(name)
    export(model, tmp_path / "taken")
    loaded = load(tmp_path / "taken")
    assert_equal_scores(model, loaded)
    assert loaded.items.equals(model.items) and loaded.domain is None
    assert (loaded.dataset, loaded.trained.name, loaded.trained.seed) == ("planted", name, 0)
    export(loaded, tmp_path / "again")
    assert_equal_scores(model, load(tmp_path / "again"))


@pytest.mark.slow
def test_a_folder_needs_no_project(folder, root, tmp_path, monkeypatch):
    """Neither params.yaml nor the packages of the study are needed."""
    monkeypatch.delenv("BIVREC_ROOT")
    blocked = (
        "matplotlib seaborn papermill nbformat jupyterlab ipywidgets dvc sklearn requests IPython "
        "sentence_transformers efficientnet_lite_pytorch huggingface_hub onnx"
    ).split()
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocker())
from bivrec.pipeline.cli import main
sys.exit(main(["recommend", {str(folder)!r}, "1000", "1001", "--k", "3"]))"""
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert len(shown.stdout.splitlines()) == 4


def test_later_code_loads_what_earlier_code_exported():
    """`format-1` is never written again: a new key of `model` or `baseline` needs its value for
    older exports in `ADDED`, and whatever else cannot read this raises `FORMAT`."""
    loaded = load(HERE / "format-1")
    known = json.loads((HERE / "format-1" / "scores.json").read_text())
    for view, row in scores_of(loaded, 1000, 1007, 1003).items():
        assert row[0].tolist() == pytest.approx(known[view], abs=2e-4)


def test_a_name_with_a_description_is_a_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert load("taken").ids == load(folder).ids == load("./taken").ids


def test_a_folder_holds_one_model(folder):
    with pytest.raises(DataError, match="holds one model"):
        load(folder, "sasrec")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": "0"}, "seed is '0'; give a whole number, or None for the first"),
        ({"seed": True}, "seed is True; give a whole number"),
        ({"source": None}, "source is None; give the name of a dataset or a folder"),
        ({"model": ["bivrec"]}, r"model is \['bivrec'\]; give its name"),
        ({"profile": 1}, "profile is 1; give its name"),
    ],
)
def test_arguments_of_a_wrong_type(any_types, given, message):
    with pytest.raises(DataError, match=message):
        load(**given)


def test_export_keeps_what_is_there(bivrec, folder, tmp_path, any_types):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "link").symlink_to("gone")
    for place, message in (
        (tmp_path, "is not empty and is no exported model; name a new folder"),
        (tmp_path / "README.md", "README.md is a file; name a new folder"),
        (tmp_path / "link", "link is a link that leads nowhere; remove it, or name a new folder"),
        (tmp_path / "link" / "new", "link is a link that leads nowhere; remove it, or name a new"),
        (5, "folder is 5; name a new folder"),
    ):
        with pytest.raises(DataError, match=message):
            export(bivrec, place)
    assert (tmp_path / "README.md").read_text() == "mine"
    with pytest.raises(DataError, match="recommender is of the type str; give a trained model"):
        export("planted", tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "taken", "link"}
    (tmp_path / "new").mkdir()
    export(bivrec, tmp_path / "new")
    export(bivrec, folder)
    assert_equal_scores(load(folder), load(tmp_path / "new"))


def test_a_loaded_model_stays_when_its_file_changes(bivrec, folder):
    loaded = load(folder)
    (folder / WEIGHTS).write_bytes(bytes((folder / WEIGHTS).stat().st_size))
    assert_equal_scores(bivrec, loaded)


def test_files_are_replaced_whole_and_the_description_last(bivrec, folder, monkeypatch):
    """The graph of an earlier export goes."""
    placed, replace = [], os.replace

    def record(part, path):
        placed.append(Path(path).name)
        replace(part, path)

    for name in GRAPH:
        (folder / name).write_text("of an earlier model")
    monkeypatch.setattr(os, "replace", record)
    export(bivrec, folder)
    assert {*placed} == {WEIGHTS, ITEMS, CARD, DESCRIPTION} and placed[-1] == DESCRIPTION
    assert {path.name for path in folder.iterdir()} == {*placed}


def test_models_that_only_count_stay(tmp_path):
    with pytest.raises(DataError, match="popularity has no weights to export"):
        export(load("planted", "popularity"), tmp_path / "taken")


def test_a_key_that_came_later_has_a_value_for_older_exports(folder, bivrec, monkeypatch):
    rewrite(folder, lambda description: description["settings"]["baseline"].pop("block"))
    monkeypatch.setitem(ADDED, "baseline", {"block": "standard"})
    assert_equal_scores(bivrec, load(folder))


def rewrite(folder: Path, change) -> None:
    """Changes the description."""
    description = json.loads((folder / DESCRIPTION).read_text())
    change(description)
    (folder / DESCRIPTION).write_text(json.dumps(description))


def sign(folder: Path) -> None:
    """Gives the files as they are now the sha256 that the description names."""
    sums = {name: file_hash(folder / name) for name in (ITEMS, WEIGHTS)}
    rewrite(folder, lambda description: description.update(sha256=sums))


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights.popitem()
    (folder / WEIGHTS).write_bytes(save(weights))
    sign(folder)


def cut_the_items(folder: Path) -> None:
    (folder / ITEMS).write_bytes((folder / ITEMS).read_bytes()[:100])
    sign(folder)


def change_the_titles(titles) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        items = pl.read_parquet(folder / ITEMS)
        items.with_columns(pl.Series("title", [*titles][: len(items)])).write_parquet(
            folder / ITEMS
        )
        sign(folder)

    return change


DAMAGES = {
    "no description": (lambda f: (f / DESCRIPTION).unlink(), "has no file bivrec.json; give a"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "model.safetensors is missing; export"),
    "no items": (lambda f: (f / ITEMS).unlink(), "items.parquet is missing; export"),
    "pointer": (lambda f: (f / WEIGHTS).write_text("version https://git-lfs"), "its sha256"),
    "cut weights": (lambda f: (f / WEIGHTS).write_bytes(bytes(99)), "is damaged .its sha256"),
    "a weight less": (lose_a_weight, "taken is damaged .*; export"),
    "cut items": (cut_the_items, "taken is damaged"),
    "titles that are numbers": (change_the_titles(range(999)), "it has a title of another type"),
    "a title that is null": (change_the_titles(["a"] * 5 + [None] * 999), "a title of another"),
    "not JSON": (lambda f: (f / DESCRIPTION).write_text("{"), "bivrec.json is damaged .JSON"),
    "a list": (lambda f: (f / DESCRIPTION).write_text("[1]"), "bivrec.json is damaged"),
    "format 2": (lambda f: rewrite(f, lambda d: d.update(format=2)), "the format 2, and this code"),
    "no format": (lambda f: rewrite(f, lambda d: d.pop("format")), "bivrec.json is damaged"),
    "family": (lambda f: rewrite(f, lambda d: d.update(family="x")), "unknown family"),
    "seed": (lambda f: rewrite(f, lambda d: d.update(seed="0")), "without a proper 'seed'"),
    "outside": (lambda f: rewrite(f, lambda d: d["sha256"].update({"../x": ""})), "other files"),
    "unknown setting": (
        lambda f: rewrite(f, lambda d: d["settings"]["model"].update(sound=1)),
        "bivrec.json: model.sound differs from the settings of this code; load it with",
    ),
    "setting gone": (
        lambda f: rewrite(f, lambda d: d["settings"]["baseline"].pop("block")),
        "baseline.block differs",
    ),
    "section gone": (lambda f: rewrite(f, lambda d: d["settings"].pop("model")), "model differs"),
    "other sizes": (
        lambda f: rewrite(f, lambda d: d["settings"]["model"].update(dim=8)),
        "taken is damaged .RuntimeError",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_sentence(folder, damage):
    act, message = DAMAGES[damage]
    act(folder)
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def snapshot(folder: Path, place: Path) -> Path:
    """The folder in the layout of the Hub's cache: links to blobs, and further files."""
    blobs, links = place / "blobs", place / "snapshots" / "0f"
    links.mkdir(parents=True)
    shutil.copytree(folder, blobs)
    for path in blobs.iterdir():
        (links / path.name).symlink_to(Path("../../blobs") / path.name)
    (links / ".gitattributes").write_text("*.safetensors filter=lfs")
    return links


def test_a_model_of_the_hub(folder, bivrec, tmp_path, monkeypatch):
    import huggingface_hub

    asked, links = [], snapshot(folder, tmp_path / "models--user--name")

    def download(name, revision=None, allow_patterns=None):
        asked.append((name, revision, allow_patterns))
        return str(links)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert_equal_scores(bivrec, load("hf://user/name"))
    assert load("hf://user/name@v1").ids == load(links).ids == bivrec.ids
    files = [DESCRIPTION, ITEMS, WEIGHTS, CARD]
    assert asked == [("user/name", None, files), ("user/name", "v1", files)]


def test_what_the_hub_lacks(monkeypatch):
    """Tests are offline, as HF_HUB_OFFLINE says."""
    for name in ("hf://user/name", "hf://a/b/c"):
        with pytest.raises(DataError, match=f"^{name} cannot be downloaded .*check its name"):
            load(name)
    whole = builtins.__import__

    def without_hub(name, *rest):
        if name == "huggingface_hub":
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_hub)
    with pytest.raises(DataError, match="needs the package huggingface_hub; `pip install"):
        load("hf://user/name")


def test_the_card_is_that_of_the_hub(bivrec, folder, tmp_path, monkeypatch):
    from huggingface_hub import ModelCard

    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "bivrec" and "multimodal" in card.data.tags
    assert "No figures are recorded" in card.text and f"{len(bivrec.items)} items" in card.text
    text = (folder / "README.md").read_text().split("```")[1].removeprefix("python\n")
    history = json.loads(text.split("recommend(model, ")[1].split(")")[0])
    assert len(recommend(load(folder), history, k=3)) == 3
    head = "profile,dataset,protocol,study,condition,model,view,seed,split,metric,value\n"
    rows = [
        f"default,planted,by_user,training,{condition},bivrec,both,{seed},test,{metric},{value}\n"
        for condition, seed, metric, value in (
            ("", 0, "ndcg@20", 0.25),
            ("", 1, "ndcg@20", 0.75),
            ("interests merged", 0, "ndcg@20", 0.125),
            ("", 0, "users", 9),
        )
    ]
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    saved = checkpoint_folder(bivrec.domain)
    save_checkpoint(bivrec.domain, bivrec.trained, saved / "bivrec-0.safetensors")
    (saved / "runs.csv").write_text(head + "".join(rows))
    export(bivrec, folder)
    card = ModelCard.load(folder / "README.md")
    assert "| both | ndcg@20 | 0.2500 |" in card.text and card.text.count("ndcg@20") == 1
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == (
        "planted",
        "ndcg@20",
        0.25,
    )
    card = (folder / CARD).read_text()
    for place in (tmp_path / "again", folder):
        export(load(folder), place)
        assert (place / CARD).read_text() == card
    (folder / CARD).unlink()
    export(load(folder), folder)
    assert "No figures are recorded" in (folder / CARD).read_text()


def test_the_card_has_no_figures_of_another_model(bivrec, root, tmp_path, monkeypatch):
    """Such as those in results/, or those beside a checkpoint of other settings."""
    head = "profile,dataset,protocol,study,condition,model,view,seed,split,metric,value\n"
    runs = head + "default,planted,by_user,training,,bivrec,both,0,test,ndcg@20,0.25\n"
    shutil.copy(root / "params.yaml", tmp_path)
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    saved = checkpoint_folder(bivrec.domain)
    saved.mkdir(parents=True)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs.csv").write_text(runs)
    assert read_figures(bivrec) == []
    (saved / "runs.csv").write_text(runs)
    assert read_figures(bivrec) == []
    save_checkpoint(bivrec.domain, bivrec.trained, saved / "bivrec-0.safetensors")
    assert read_figures(bivrec) == [("both", "ndcg@20", 0.25)]
    domain = Domain("planted", {"model.dropout": 0.5})
    save_checkpoint(domain, bivrec.trained, saved / "bivrec-0.safetensors")
    assert read_figures(bivrec) == []
