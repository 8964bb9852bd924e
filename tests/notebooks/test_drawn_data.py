"""The notebooks on small data sets and settings drawn at random: each runs to its end, or says in
one sentence, before it trains anything, why it cannot."""

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from bivrec.errors import DataError, LeftOut, SettingsError
from bivrec.outputs import LEFT_OUT, write_atomically
from bivrec.settings import check_params, load_settings
from bivrec.settings.reading import merge, read_params
from bivrec.training.loop import Run

NUMBERS = [int(n) for n in os.environ.get("NOTEBOOK_DRAWS", "11 12").split()]
GENRES = ["Drama", "Comedy", "Action", "Film-Noir", "other", "$8", "War", "Sci-Fi", "Crime"]
TRANSFER = {"there": {"source": "mine", "target": "other"}}

CHOICES = {  # dotted settings, and what is drawn for them
    "split.protocol": ["by_user", "by_user", "by_time", "leave_one_out", "by_interactions"],
    "split.num_folds": [3, 5, 10],
    "split.history_share": [0.5, 0.8, 0.9],
    "split.ties": ["hash", "file"],
    "split.mask_history": [True, False],
    "split.min_interactions": [3, 5],
    "features.modality": [*["both"] * 6, "text", "image", "none"],
    "features.num_components": [1, 4, 32],
    "studies.seeds": [[0], [2, 5], [3, 2]],
    "studies.models": [
        ["popularity"],
        ["bivrec"],
        ["itemknn", "gru4rec-fused", "mmsrec"],
        ["pure-mm", "pure-id", "fdsa"],
        ["popularity", "sasrec", "sasrec-fused", "bivrec"],
    ],
    "studies.ablations": [
        [],
        ["plain-interests", "text-only"],
        ["image-only", "soft-assignment"],
        ["without-id-task", "kernel-distance"],
    ],
    "studies.grids": [[], [], ["small"], ["one"]],
    "studies.protocols": [["by_user"], ["by_time", "leave_one_out"]],
    "studies.primary_metric": ["ndcg@20", "recall@20", "hr@10", "ndcg@50"],
    "model.views": [*[["id", "multimodal"]] * 6, ["id"], ["multimodal"]],
    "model.max_length": [4, 8, 24],
    "model.scales": [[1], [1, 2], [4, 1]],
    "model.num_layers": [0, 1],
    "model.kernel": ["rbf", "rbf_normalised", "distance", "softmax"],
    "model.pooling": ["cluster", "attention", "mean"],
    "model.num_interests": [2, 3],
    "model.num_nearest": [1, 2],
    "model.similarity": ["cosine", "dot"],
    "model.assignment": ["hard", "soft"],
    "model.information_weight": [0.0, 0.1],
    "model.newest": ["owners", "per_interest", "all", "none"],
    "model.readout": ["log_sum_exp", "hard"],
    "cross_view.learner": ["both", "id", "multimodal"],
    "baseline.inputs": ["id", "multimodal", "fused"],
    "itemknn.num_neighbours": [0, 3],
    "training.supervision": ["every_position", "one_target"],
    "training.precision": ["float32", "bfloat16", "auto"],
    "training.num_negatives": [0, 16],
    "machine.kernels": ["fast", "reference"],
    "noise.levels": [
        {"blur": [0.0, 1.0]},
        {"no_image": [0.0, 0.5, 1.0]},
        {"replace": [0.0, 1.0], "swap": [0.0, 0.5], "insert": [0.0, 0.5]},
        {"delete": [0.0, 1.0], "shuffle": [0.0, 0.5], "replace_and_swap": [0.0, 0.5]},
    ],
    "noise.trained": [{}, {"no_text": [0.5]}, {"replace": []}, {"insert": [0.5]}],
    "cold_start.history_lengths": [[10, 20, 50], [3]],
    "cold_start.history_cuts": [[1, 2, 3, 5, 10], [60]],
    "cold_start.item_counts": [[5, 10, 20, 50], [1]],
    "cold_start.new_items_share": [0.02, 0.1, 0.5],
    "transfer.shares": [[], [0.004], [0.1, 1.0]],
    "tuning.models": [["sasrec"], ["bivrec", "mmsrec"]],
    "tuning.space": [
        {"every": {"model.dropout": {"low": 0.0, "high": 0.5}}},
        {
            "every": {"training.weight_decay": {"low": 0.01, "high": 1.0, "log": True}},
            "mmsrec": {"baseline.temperature": {"low": 0.01, "high": 1.0, "log": True}},
        },
    ],
}
FIXED = {
    "machine.num_workers": 1,
    "features.text_encoder": "hashing",
    "model.dim": 8,
    "model.num_heads": 2,
    "model.inner_dim": 8,
    "baseline.inner_dim": 8,
    "training.num_steps": 2,
    "training.warmup_steps": 1,
    "training.evaluate_every": 2,
    "transfer.num_steps": 1,
    "tuning.num_trials": 2,
    "tuning.seeds": [0],
    "studies.datasets": ["mine"],
    "studies.transfers": TRANSFER,
    "profiles": {"default": {}},
    "ablations.plain-interests.settings": {"model.num_interests": 1, "model.num_nearest": 1},
    "grids": {
        "small": {"model.temperature": [0.5, 1.0], "model.final_temperature": [None]},
        "one": {"model.scales": [[1], [1, 2]]},
    },
}


class Drawn:
    """A project whose settings and two small datasets follow from a number."""

    def __init__(self, number: int, root: Path, folder: Path):
        self.random = np.random.Generator(np.random.PCG64(number))
        self.root, self.folder, self.case = root, folder, {"number": number}
        self.num_trainings, self.stopped = 0, set()

    def draw(self, name: str, *values):
        self.case[name] = value = values[self.random.integers(len(values))]
        return value

    def write(self, name: str, content: str | bytes | np.ndarray) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            np.save(path, content)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def settings(self) -> dict:
        """Draws every choice, and repairs those that the settings refuse together."""
        changes = {key: self.draw(key, *values) for key, values in CHOICES.items()}
        changes["studies.retrained_seeds"] = changes["studies.seeds"][:1]
        if changes["machine.kernels"] == "reference" or changes["training.num_negatives"]:
            changes["training.precision"] = "float32"  # bfloat16 would have no effect
        return FIXED | changes

    def interactions(self, name: str) -> list[tuple[int, int, int]]:
        """Users, items and times; histories of 5 to 60 items."""
        users, longest = (
            self.draw(f"{name}.users", 12, 30, 80, 200),
            self.draw(f"{name}.longest", 6, 20, 60),
        )
        items = max(longest, self.draw(f"{name}.items", 8, 40))
        ties, rows = self.draw(f"{name}.ties", 1, 10, 10, 10, 10_000), []
        for user in range(users):
            length = self.random.integers(5, longest + 1)
            chosen = self.random.permutation(items)[:length].tolist()
            rows += [
                (user, item, 1_500_000_000 + (user + 3 * step) // ties)
                for step, item in enumerate(chosen)
            ]
        return rows

    def genres(self, name: str, items: range, separator: str) -> list[str]:
        kind = self.draw(f"{name}.genres", "none", "one", "some", "many")
        known = {"none": [""], "one": GENRES[:1], "some": ["", *GENRES[:3]], "many": GENRES}[kind]
        return [separator.join(self.random.permutation(known)[:2].tolist()) for _ in items]

    def vectors(self, name: str, items: range) -> np.ndarray:
        vectors = self.random.normal(size=(len(items), self.draw(f"{name}.numbers", 1, 2, 12)))
        return vectors.astype("float32")

    def plain(self, name: str) -> dict:
        rows = self.interactions(name)
        items = range(1 + max(item for _, item, _ in rows))
        lines = [f"{user},i{item},{time}\n" for user, item, time in rows]
        self.write(f"raw/{name}/interactions.csv", "user,item,time\n" + "".join(lines))
        if self.draw(f"{name}.text", True, True, True, False):
            genres = self.genres(name, items, "; ")
            lines = [f"i{item},Thing {item},{genre}\n" for item, genre in zip(items, genres)]
            self.write(f"raw/{name}/items.csv", "item,title,genres\n" + "".join(lines))
        if self.draw(f"{name}.image", True, True, True, False):
            self.write(f"raw/{name}/image.npy", self.vectors(name, items[1:]))
            self.write(
                f"raw/{name}/ids.csv", "item\n" + "".join(f"i{item}\n" for item in items[1:])
            )
        settings = {"features.image_encoder": "published"}
        return {"source": "plain", "plain": {"folder": name}, "settings": settings}

    def movielens(self, name: str) -> dict:
        rows = self.interactions(name)
        items = range(1 + max(item for _, item, _ in rows))
        start = "userId,movieId,rating,timestamp\n"
        lines = [f"{user},{item},4.0,{time}\n" for user, item, time in rows]
        self.write(f"raw/{name}/ratings.csv", start + "".join(lines))
        films = zip(items, self.genres(name, items, "|"))
        lines = [f"{item},Film {item} (199{item % 9}),{genre}\n" for item, genre in films]
        self.write(f"raw/{name}/movies.csv", "movieId,title,genres\n" + "".join(lines))
        lines = [
            f"{user},{item},funny,{time}\n"
            for user, item, time in rows[:: self.draw(f"{name}.tags", 5, 10**6)]
        ]
        self.write(f"raw/{name}/tags.csv", "userId,movieId,tag,timestamp\n" + "".join(lines))
        path = self.write("data/posters/vectors.npy", self.vectors(name, items))
        manifest = {"vectors_sha256": sha256(path.read_bytes()).hexdigest(), "item_ids": [*items]}
        self.write("data/posters/manifest.json", json.dumps(manifest))
        return {"source": "movielens", "movielens": {"folder": name}, "settings": {}}

    def planted(self, name: str) -> dict:
        sizes = {
            "num_kinds": self.draw(f"{name}.num_kinds", 2, 5, 8),
            "items_per_kind": self.draw(f"{name}.items_per_kind", 3, 10),
            "num_users": self.draw(f"{name}.num_users", 20, 60, 120),
            "mean_length": self.draw(f"{name}.mean_length", 12, 40),
            "seed": len(name),
        }
        settings = {"features.image_encoder": "pixels"}
        return {"source": "planted", "planted": sizes, "settings": settings}

    def write_params(self) -> None:
        tree = read_params(self.root / "params.yaml")
        makers = {"plain": self.plain, "movielens": self.movielens, "planted": self.planted}
        settings = self.settings()
        planted = {k: v for k, v in tree["datasets"].items() if k.startswith("planted")}
        mine = makers[self.draw("source", *makers)]("mine")
        kinds = ["plain", "planted"] if self.case["source"] == "movielens" else [*makers]
        datasets = {**planted, "mine": mine, "other": makers[self.draw("target", *kinds)]("other")}
        tree = merge(tree, settings | {"datasets": datasets}, "drawn")
        self.write("params.yaml", json.dumps(tree))

    def run(self, name: str, label: str, monkeypatch, **parameters: str) -> str:
        """Runs a notebook's cells as a stage does; gives "" or the sentence of a refusal."""
        for place in ("results", "build"):
            monkeypatch.setenv(f"BIVREC_{place.upper()}", str(self.folder / place / name / label))
        for place in ("top", "log"):
            monkeypatch.setenv(
                f"BIVREC_{place.upper()}", str(self.folder / "build" / "log" / place)
            )
        space, before = {"__name__": name, "display": str}, self.num_trainings
        try:
            for cell in json.loads((self.root / f"notebooks/{name}.ipynb").read_text())["cells"]:
                source = "".join(cell["source"])
                if cell["cell_type"] == "code" and not source.startswith("print(getsource"):
                    exec(compile(source, name, "exec"), space)
                if "parameters" in cell["metadata"].get("tags", []):
                    space |= parameters
        except (SettingsError, DataError) as error:
            assert self.num_trainings == before, f"only after a training: {error}"
            assert "\n" not in str(error)
            if isinstance(error, LeftOut):
                write_atomically(self.folder / "build" / name / label / LEFT_OUT, "{}")
            else:
                self.stopped.add(name)
            return f"{name}: {error}"
        finally:
            plt.close("all")
        return ""


BEFORE_STUDIES = ("01_data_prep", "02_feature_encoding")
STUDIES = ("03_training", "04_ablations", "05_noise", "06_cold_start", "09_tuning", "10_protocols")


@pytest.fixture
def drawn(root, tmp_path, monkeypatch) -> Callable[[int], Drawn]:
    """A project drawn from a number, which counts the trainings that end in it."""
    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    monkeypatch.setenv("BIVREC_PARTIAL", str(tmp_path / "build" / "partial"))
    monkeypatch.delenv("BIVREC_DATA", raising=False)

    def draw(number: int) -> Drawn:
        drawn, finish = Drawn(number, root, tmp_path), Run.finish

        def count(run: Run):
            drawn.num_trainings += 1
            return finish(run)

        monkeypatch.setattr(Run, "finish", count)
        drawn.write_params()
        check_params()
        return drawn

    return draw


@pytest.mark.filterwarnings("ignore:The figure layout has changed")  # by seaborn
@pytest.mark.parametrize("number", NUMBERS)
def test_every_notebook_runs_on_drawn_data_and_settings(number, drawn, monkeypatch):
    study, refused = drawn(number), []
    print(study.case)  # pytest shows it where the test fails
    runs = [
        (name, data, {"dataset": data}) for data in ("mine", "other") for name in BEFORE_STUDIES
    ]
    runs += [(name, "mine", {"dataset": "mine"}) for name in STUDIES]
    runs += [("07_cross_dataset", "mine-other", {"source": "mine", "target": "other"})]
    runs += [("08_report", "all", {"whole_study": True})]
    for name, label, parameters in runs:
        refused.append(study.run(name, label, monkeypatch, **parameters))
    print(*filter(None, refused), sep="\n")
    assert refused[0] == "", "the draw is of no use: its data is refused"
    lacks = study.stopped & set(load_settings().studies.stages)
    assert bool(refused[-1]) == bool(lacks), "the report says what it lacks, and only then"
