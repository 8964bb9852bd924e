"""Time to quality: process seconds of one thread until SASRec ranks well, ours and RecTools'.

Leave-one-out on a dataset that stage 01 prepared, of which only these figures are stored: each
user's second-to-last item is the validation target, the last the test target. Our clock includes
the evaluations, RecTools' does not; it is stopped at twice the time that ours took to the mark.
Writes quality.csv, the metrics on the last items and the tables of README.md to the dataset's
folder here.

    python benchmarks/quality.py DATASET FOLDER SEED...
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from bench import HERE, RUNNER, run_process
from record import fill
from workloads import Workload, save

from bivrec.data.domain import Domain
from bivrec.studies.report import to_markdown

MARK = 0.165  # NDCG@10
SIZES = {"max_length": 200, "batch_size": 32}
SETTINGS = {
    "model.scales": [1],
    "model.dropout": 0.2,
    "training.learning_rate": 0.002,
    "training.num_steps": 6000,
    "training.warmup_steps": 200,
    "training.evaluate_every": 300,
}
THEIRS = {  # the fastest form per step, with our batches, rate and dropout
    "RecTools flat SASRec": {"learning_rate": 0.002, "dropout": 0.2, "every": 150}
}


def write_workload(dataset: str) -> Path:
    """The users' items as a file that every environment reads; no features."""
    sequences = Domain(dataset).sequences
    rows = [sequences.of(user) for user in range(sequences.num_users)]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    path = HERE / "envs" / f"{dataset}.npz"
    path.parent.mkdir(exist_ok=True)
    save(Workload(dataset, np.concatenate(rows), starts, sequences.num_items, ()), path)
    return path


def time_to(mark: float, curve: list) -> float:
    """The seconds of the first evaluation that reaches the mark; infinite if none does."""
    return next((seconds for seconds, _, ndcg in curve if ndcg >= mark), float("inf"))


def measure_ours(workload: Path, seed: int) -> dict:
    """Our curve, and the metrics on the last items."""
    options = SIZES | RUNNER | {"seed": seed, "changes": SETTINGS}
    return run_process("ours", "quality", workload, options)


def measure_theirs(workload: Path, seed: int, name: str, seconds: float) -> list:
    """A peer's curve up to the mark, or to twice our seconds."""
    limit = {"ndcg": MARK, "seconds": 2 * seconds, "seed": seed, "form": "flat"}
    options = SIZES | RUNNER | limit | THEIRS[name]
    return run_process("rectools", "quality", workload, options)["curve"]


def main(dataset: str, folder: Path, seeds: list[int]) -> None:
    workload, curves, levels = write_workload(dataset), [], []

    def keep(name: str, seed: int, curve: list) -> None:
        table = pd.DataFrame(curve, columns=["seconds", "step", "ndcg@10"])
        curves.append(table.assign(model=name, seed=seed))
        pd.concat(curves).to_csv(folder / "quality.csv", index=False, float_format="%.4f")
        print(name, seed, curve[-1], flush=True)

    ours = {}
    for seed in seeds:
        ours[seed] = measure_ours(workload, seed)
        levels.append({"seed": seed} | ours[seed]["test"])
        pd.DataFrame(levels).to_csv(folder / "levels.csv", index=False, float_format="%.4f")
        keep("SASRec", seed, ours[seed]["curve"])
    for seed in seeds:
        for name in THEIRS:
            seconds = time_to(MARK, ours[seed]["curve"])
            keep(name, seed, measure_theirs(workload, seed, name, seconds))
    write_tables(folder)


def write_tables(folder: Path) -> None:
    """The tables of quality.csv and levels.csv, into README.md."""
    curves, levels = (pd.read_csv(folder / f"{name}.csv") for name in ("quality", "levels"))
    rows = []
    for (name, seed), curve in curves.groupby(["model", "seed"], sort=False):
        points = curve[["seconds", "step", "ndcg@10"]].to_numpy().tolist()
        rows.append({"": name, "seed": seed})
        for mark in (0.15, MARK):
            reached = time_to(mark, points)
            shown = f"{reached:.0f}" if np.isfinite(reached) else f"not in {points[-1][0]:.0f}"
            rows[-1][f"seconds to {mark}"] = shown
        rows[-1]["best NDCG@10"] = f"{curve['ndcg@10'].max():.4f}"
    fill("quality", [to_markdown(pd.DataFrame(rows))], folder / "README.md")
    shown = levels[["seed", "recall@10", "ndcg@10"]].map("{:.4g}".format)
    fill("levels", [to_markdown(shown)], folder / "README.md")


if __name__ == "__main__":
    dataset, folder, *seeds = sys.argv[1:]
    main(dataset, HERE / folder, [int(seed) for seed in seeds])
