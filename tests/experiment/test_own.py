"""Models of one's own: files in own/ that train, rank and travel like the package's models."""

import pandas as pd
import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.errors import DataError, LeftOut, SettingsError
from bivrec.experiment.checkpoints import load_checkpoint, save_checkpoint
from bivrec.experiment.own import load_class
from bivrec.experiment.registry import Trained, build_model
from bivrec.experiment.runs import compare, rank_models, to_runs
from bivrec.experiment.training import train_model, train_models
from bivrec.experiment.tuning import tune
from bivrec.experiment.workers import run_jobs
from bivrec.portable.folder import export
from bivrec.portable.recommender import of_domain
from bivrec.settings import load_settings
from bivrec.studies.claims import check_claims

SHORT = {"training.num_steps": 6, "training.warmup_steps": 2, "training.evaluate_every": 3}

MINE = """
import torch
from bivrec.baselines.neural import NeuralBaseline
from torch.nn.functional import embedding

class Mine(NeuralBaseline):
    def build(self):
        self.out = torch.nn.Linear(self.dim, self.dim)

    def read(self, items, mask, table):
        return self.out(embedding(items, table))[:, :, None]
"""


@pytest.fixture
def own(project):
    """Writes own/mine.py; gives planted with the model `mine` from it."""

    def write(text: str = MINE, family: str = "own/mine.py:Mine", **changes) -> Domain:
        project.write("own/mine.py", text)
        variant = {"family": family, "settings": {}}
        models = {"popularity": {"family": "popularity", "settings": {}}, "mine": variant}
        settings = SHORT | {"models": models, "ensembles": {}, "tuning.models": ["mine"]}
        settings |= {"studies.models": ["popularity", "mine"]}
        return Domain("planted", settings | {k.replace("__", "."): v for k, v in changes.items()})

    return write


@pytest.mark.slow
def test_the_example_takes_at_most_thirty_lines_and_beats_popularity(root, planted):
    assert (root / "own" / "recency_mean.py").read_text("utf-8").count("\n") <= 30
    models = train_models(planted, ["popularity", "recency-mean"])
    ranks = rank_models(planted, models)
    assert compare(ranks, ("recency-mean", "id"), ("popularity", "id"), "ndcg@20")["low"] > 0
    runs = to_runs(planted, "training", ranks)
    assert set(runs["model"]) == {"popularity", "recency-mean"}


def test_the_example_weighs_items_as_its_formula(planted):
    model = build_model(planted, "recency-mean", 0).eval()
    items = torch.tensor([[3, 7, 5]])
    table, share = model.tables()["id"], model.decay.sigmoid()
    weights = torch.stack([share**2, share, torch.ones(())])
    mean = (weights[:, None] * table[items[0]]).sum(0) / weights.sum()
    read = model.read(items, torch.ones(1, 3, dtype=torch.bool), table)
    torch.testing.assert_close(read[0, 2, 0], model.out(mean))


@pytest.mark.slow
def test_it_is_tuned_and_tested_like_the_rest(own):
    domain = own(tuning__num_trials=2)
    assert set(tune(domain, ["mine"])["model"]) == {"mine"}
    models = train_models(domain, domain.settings.studies.models)
    ranks = pd.concat([rank_models(domain, models, split) for split in ("validation", "test")])
    ranks = ranks.replace({"model": {"popularity": "bivrec"}})  # of which most claims are
    test = ranks[ranks["split"] == "test"].assign(dataset="planted")
    claims = check_claims(to_runs(domain, "training", ranks), test, pd.DataFrame(), "ndcg@20")
    assert "mine id" in set(claims["theirs"])  # as the best baseline


@pytest.mark.slow
def test_it_passes_through_processes_both_ways(own):
    here = train_model(own(), "mine", 0)
    domain = own(machine__num_workers=2)
    for sent, trained in run_jobs(_train_beside, [(domain, here)] * 2, domain):
        for received in (sent, trained):
            assert torch.equal(received.model.out.weight, here.model.out.weight)


def _train_beside(job):
    domain, trained = job
    return trained, train_model(domain, trained.name, trained.seed)


def test_a_changed_file_is_read_again_and_refuses_its_old_checkpoint(own, tmp_path):
    domain, path = own(), tmp_path / "mine-0.safetensors"
    save_checkpoint(domain, train_model(domain, "mine", 0), path)
    loaded = load_checkpoint(domain, "mine", 0, path)
    own(MINE + "\n# changed\n")
    assert load_checkpoint(domain, "mine", 0, path) is None
    own(MINE.replace("self.out(", "2 * self.out("))
    changed = build_model(domain, "mine", 0)
    changed.load_state_dict(loaded.state_dict())
    scores = [model.score([domain.sequences.of(0)])["id"] for model in (loaded, changed)]
    torch.testing.assert_close(2 * scores[0], scores[1])
    own()
    assert load_checkpoint(domain, "mine", 0, path) is not None
    (tmp_path / "own" / "helper.py").write_text("x = 1\n")
    assert load_checkpoint(domain, "mine", 0, path) is None


def test_it_is_not_exported_without_its_code(own, tmp_path):
    domain = own()
    trained = of_domain(domain, Trained("mine", 0, build_model(domain, "mine", 0)))
    with pytest.raises(DataError, match="mine is a class in own/, which the folder would lack"):
        export(trained, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_it_needs_features_where_its_inputs_do(own):
    domain = own(features__modality="none", ensembles={})
    assert domain.settings.studies.models == ("popularity", "mine")
    reads = {"family": "own/mine.py:Mine", "settings": {"baseline.inputs": "fused"}}
    models = {"popularity": {"family": "popularity", "settings": {}}, "mine": reads}
    domain = own(features__modality="none", models=models)
    assert domain.settings.studies.models == ("popularity",)
    with pytest.raises(LeftOut, match="mine reads features"):
        domain.variant("mine")


BROKEN = {
    "no file": ("", "own/other.py:Mine", "own/other.py cannot be read (FileNotFoundError); create"),
    "no class": (MINE, "own/mine.py:Yours", "own/mine.py has no class Yours; it has Mine: correct"),
    "no model": ("class Mine: pass", "", "own/mine.py: Mine is not a model; derive it from Neural"),
    "no method": (
        MINE.replace("def read", "def reads"),
        "",
        "own/mine.py: Mine has no method read; define it, as docs/own_model.md shows",
    ),
    "no syntax": (MINE + "\n)", "", "own/mine.py, line 13: SyntaxError: unmatched ')'; correct"),
    "an import": (
        MINE.replace("import torch\n", "import torchh\n", 1),
        "",
        "own/mine.py, line 2: ModuleNotFoundError: No module named 'torchh'; correct the file",
    ),
    "an exit": (MINE + "\nraise SystemExit", "", "own/mine.py, line 13: SystemExit; correct"),
    "in build": (
        MINE.replace("self.dim, self.dim", "self.width, 8"),
        "",
        "own/mine.py, line 8: AttributeError: 'Mine' object has no attribute 'width'; correct",
    ),
    "in read": (
        MINE.replace("self.dim, self.dim", "7, 7"),
        "",
        "own/mine.py, line 11: RuntimeError: mat1 and mat2 shapes cannot be multiplied",
    ),
    "one vector for each history": (
        MINE.replace("[:, :, None]", "[:, -1]"),
        "",
        "Mine: `read` returns the shape (3, 32), not (3, 24, interests, 32) (docs/own_model.md)",
    ),
    "another width": (
        MINE.replace("self.dim, self.dim", "self.dim, 8"),
        "",
        "own/mine.py: Mine: `read` returns the shape (3, 24, 1, 8), not (3, 24, 1, 32)",
    ),
    "no tensor": (
        MINE.replace("[:, :, None]", ".tolist()"),
        "",
        "own/mine.py: Mine: `read` returns a list, not a tensor of shape (3, 24, interests, 32)",
    ),
    "no numbers": (
        MINE.replace("[:, :, None]", "[:, :, None] / 0"),
        "",
        "`read` returns numbers that are not finite floating-point numbers",
    ),
    "ahead": (
        MINE.replace("[:, :, None]", ".flip(1)[:, :, None]"),
        "",
        "what `read` returns after an item changes with later items; a position may depend only",
    ),
    "a batch that is read together": (
        MINE.replace("[:, :, None]", "[:, :, None] + mask.sum()"),
        "",
        "what `read` returns for a history changes with the other histories of the batch; each",
    ),
    "noise": (
        MINE.replace("[:, :, None]", "[:, :, None] + torch.randn(())"),
        "",
        "`read` returns other numbers when it is called again; in evaluation mode it must be",
    ),
    "histories that are longer than its table": (
        MINE.replace(
            "[:, :, None]", "[:, :, None] + torch.zeros(8)[torch.arange(items.shape[1])].sum()"
        ),
        "",
        "own/mine.py, line 11: IndexError: index 8 is out of bounds",
    ),
    "a layer in a list": (
        MINE.replace("self.out = ", "self.outs = [")
        .replace("self.dim)\n", "self.dim)]\n")
        .replace("self.out(", "self.outs[0]("),
        "",
        "Mine: a tensor of shape (32, 32) that needs a gradient is not a parameter of the model",
    ),
    "a layer that is not trained": (
        MINE.replace("[:, :, None]", ".detach()[:, :, None]"),
        "",
        "Mine: `loss` does not depend on the parameter out.weight, so it is not trained; use it,",
    ),
    "scores": (
        MINE
        + "\n    def score_catalogue(self, interests, tables):\n"
        + "        return {'id': torch.zeros(2, 5)}\n",
        "",
        "the score of view id returns the shape (2, 5), not (3, 120)",
    ),
    "a method that ranking does not call": (
        MINE + "\n    def score(self, histories):\n        return {'id': torch.zeros(2, 120)}\n",
        "",
        "own/mine.py: Mine overrides score, which the ranking does not call; override score_cat",
    ),
    "a loss that trains nothing": (
        MINE + "\n    def row_loss(self, *_):\n        return torch.ones(())\n",
        "",
        "own/mine.py: Mine: `loss` depends on no parameter, so nothing is trained",
    ),
    "an anneal without progress": (
        MINE + "\n    def anneal(self):\n        pass\n",
        "",
        "TypeError: Mine.anneal() takes 1 positional argument but 2 were given; correct the file",
    ),
    "a loss": (
        MINE + "\n    def loss(self, batch):\n        return torch.zeros(2)\n",
        "",
        "own/mine.py: Mine: `loss` returns the shape (2), not ()",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_fault_is_named_in_one_sentence_before_the_first_training(
    case, own, refuses, monkeypatch
):
    monkeypatch.setattr("bivrec.experiment.training.fit", lambda *_, **__: pytest.fail("trained"))
    text, family, sentence = BROKEN[case]
    domain = own(text, family or "own/mine.py:Mine")
    assert sentence in refuses(lambda: train_models(domain, ["popularity", "mine"]))
    assert sentence in refuses(lambda: tune(domain, ["mine"]))


def test_a_loss_that_stops_being_finite_names_its_model(own):
    late = "\n    def anneal(self, progress):\n        self.late = progress > 0.4\n"
    late += "\n    def row_loss(self, *parts):\n"
    late += "        return super().row_loss(*parts) / (0.0 if self.late else 1.0)\n"
    with pytest.raises(ValueError, match="^mine, seed 0: training diverged before step 3; lower"):
        train_model(own(MINE + late), "mine", 0)


@pytest.mark.parametrize("late", ["1 / 0", "exit(3)"])
def test_an_error_in_training_names_the_line(own, refuses, late):
    text = f"\n    def anneal(self, progress):\n        progress > 0.4 and {late}\n"
    kind = {"1 / 0": "ZeroDivisionError: division by zero", "exit(3)": "SystemExit: 3"}[late]
    domain = own(MINE + text)
    told = refuses(lambda: train_model(domain, "mine", 0))
    assert f"own/mine.py, line 14: {kind}; correct the file" in told


@pytest.mark.parametrize(
    "family", ["sasrecs", "own/mine.py", "mine.py:Mine", "own/../x.py:X", "/own/x.py:X", "os:path"]
)
def test_a_family_is_one_of_the_package_or_a_class_in_own(family):
    with pytest.raises(
        SettingsError, match="models.mine.family: .* is refused: a family is one of"
    ):
        load_settings(changes={"models": {"mine": {"family": family, "settings": {}}}})


def test_a_file_that_cannot_be_imported_is_tried_again(own):
    own("raise ValueError")
    with pytest.raises(SettingsError, match="own/mine.py, line 1: ValueError; correct"):
        load_class("own/mine.py:Mine")
    own()
    assert load_class("own/mine.py:Mine").__name__ == "Mine"
