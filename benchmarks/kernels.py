"""`make bench-kernels`: what each kernel is worth in whole training steps, or in whole lists.

A workload and a model are one process, on one thread, in the pipeline's environment. The model with
the kernel and without it (the reference form) takes the same full-length batches, or serves the
same users, in turn. Process time counts, so that other programs disturb little.
Writes kernels.csv and README.md.

    python benchmarks/kernels.py             every kernel, workload and model
    python benchmarks/kernels.py KERNEL      one kernel, with every workload and model
    python benchmarks/kernels.py tables      kernels.csv and h200.json into README.md
"""

import itertools
import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import torch
from record import HERE, fill, last_line, processor, read_json
from workloads import generated

from bivrec.experiment.registry import FAMILIES, Trained
from bivrec.kernels import use_fast
from bivrec.kernels.whole_rows import encode_rows
from bivrec.model.bivrec import BivRec
from bivrec.pipeline.environment import ENVIRONMENT
from bivrec.portable import lists
from bivrec.portable.recommender import Recommender
from bivrec.settings import Settings, load_settings, vary
from bivrec.training.batches import draw_batches

WORKLOADS = {  # items, rows a step, positions a row, users, mean history, rounds
    "film domain": (2_040, 16, 48, 500, 95, 20),
    "ML-1M size": (3_416, 256, 52, 3_000, 165, 3),
    "Instruments size": (6_250, 128, 20, 8_000, 8, 5),
}
MODELS = ("bivrec", "sasrec")
LISTS, LISTS_AT_ONCE = 10_000, 1_000  # the two sides serve the users in turn, some at once
JOBS = [  # kernel, workload and model
    *(("interest_softmax", *job) for job in itertools.product(WORKLOADS, MODELS)),
    ("whole_rows", "ML-1M size", "bivrec"),
]
WIDTHS = {"text": 384, "image": 1280}
WARM_UP = 1
RULE = (
    "A kernel stays only if it alone makes a whole training step, or the lists of many users, at "
    "least 1.15 times as fast, or a large catalogue fit into memory."
)


def build(settings: Settings, family: str, num_items: int) -> torch.nn.Module:
    """An untrained model of generated features."""
    torch.manual_seed(0)
    everywhere = torch.ones(num_items, dtype=torch.bool)
    features = {
        name: (torch.randn(num_items, width) / width**0.5, everywhere)
        for name, width in WIDTHS.items()
    }
    return FAMILIES[family](settings, num_items, features)


def build_step(settings: Settings, family: str, num_items: int, fast: bool):
    """A model with or without the kernel, and the training step that it takes on a batch."""
    model = build(settings, family, num_items).train()
    if fast:
        use_fast(model, settings.training.precision)
    parameters, training = list(model.parameters()), settings.training
    optimiser = torch.optim.AdamW(parameters, training.learning_rate, (0.9, 0.98), fused=True)

    def step(batch) -> float:
        started = time.process_time()
        optimiser.zero_grad()
        model.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        optimiser.step()
        return 1000 * (time.process_time() - started)

    return model, step


def measure(kernel: str, workload: str, name: str) -> dict:
    """A row of kernels.csv: milliseconds without the kernel and with it, best and median."""
    measured = measure_lists() if kernel == "whole_rows" else measure_steps(workload, name)
    best, median = measured.min(0), np.median(measured, 0)
    return {
        "kernel": kernel,
        "workload": workload,
        "model": name,
        "ms without": best[0],
        "ms with": best[1],
        "ratio": best[0] / best[1],
        "median ms without": median[0],
        "median ms with": median[1],
        "processor": f"{processor()}, {torch.backends.cpu.get_cpu_capability()}",
    }


def measure_steps(workload: str, name: str) -> np.ndarray:
    """Milliseconds of a training step [round side], without `interest_softmax` and with it."""
    num_items, num_rows, length, num_users, mean, rounds = WORKLOADS[workload]
    changes = {"model.max_length": length, "training.batch_size": num_rows}
    settings = load_settings("movies-classic", changes)
    variant = settings.models[name]
    settings = vary(settings, variant, name)
    generator = np.random.default_rng(0)
    sizes = np.maximum(3, generator.exponential(mean, num_users).astype(int))
    train = [generator.integers(num_items, size=size) for size in sizes]
    model, without = build_step(settings, variant.family, num_items, False)
    _, with_kernel = build_step(settings, variant.family, num_items, True)
    batches = draw_batches(train, settings.training, length, model.multiple, 0)
    full = (batch for batch in batches if batch.mask.shape == (num_rows, length))
    taken = [(without(x), with_kernel(x)) for x in itertools.islice(full, WARM_UP + rounds)]
    return np.array(taken[WARM_UP:])


def measure_lists() -> np.ndarray:
    """Milliseconds of 10,000 lists [1 side], with `BivRec.encode_rows` and with its fast form."""
    users, settings = generated("ml-1m-size"), load_settings("ml-1m")
    model = build(settings, "bivrec", users.num_items).eval()
    items = pd.DataFrame({"item": range(users.num_items), "title": "", "year": "", "genres": ""})
    recommender = Recommender("ml-1m", Trained("bivrec", 0, model), items)
    rows = list(itertools.islice(itertools.cycle(users.rows()), LISTS))
    table = pd.DataFrame({"user": np.repeat(range(LISTS), [*map(len, rows)])})
    table["item"] = np.concatenate(rows)
    taken = np.zeros((1, 2))
    for _, some in table.groupby(table["user"] // LISTS_AT_ONCE):
        for side, form in enumerate((BivRec.encode_rows, encode_rows)):
            lists.encode_rows = form
            started = time.process_time()
            lists.recommend_many(recommender, some)
            taken[0, side] += 1000 * (time.process_time() - started)
    return taken


def main(kernels: set[str]) -> None:
    """Measures these kernels, and keeps the rows of the others."""
    around = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    around |= ENVIRONMENT | {"PYTHONPATH": str(HERE.parent), "BIVREC_ROOT": str(HERE.parent)}
    known = pd.read_csv(HERE / "kernels.csv")
    rows = known[~known["kernel"].isin(kernels)].to_dict("records")
    for job in (job for job in JOBS if job[0] in kernels):
        command = [sys.executable, __file__, *job]
        process = subprocess.run(command, env=around, capture_output=True, text=True)
        if process.returncode:
            raise SystemExit(f"ERROR: {', '.join(job)}: {last_line(process)}")
        rows.append(json.loads(last_line(process)))
        print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(HERE / "kernels.csv", index=False, float_format="%.3f")
    write_table()


def write_table() -> None:
    """kernels.csv, and what h200.json holds of the GPU's kernels, into README.md."""
    table, gpu = pd.read_csv(HERE / "kernels.csv"), read_json(HERE / "h200.json")
    lines = [
        f"{RULE} {table['processor'][0]}, one thread, process time; the best of several rounds, "
        f"and the median; GPU: {gpu['softmax']['made by']['device']}.",
        "",
        "| kernel | measured | without, ms | with, ms | times as fast |",
        "|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        once = row["kernel"] == "whole_rows"
        without, fast = (
            f"{row[f'ms {side}']:.1f}" + ("" if once else f" ({row[f'median ms {side}']:.1f})")
            for side in ("without", "with")
        )
        what = f"{f'{LISTS:,} lists' if once else 'a step'} of {row['model']}, {row['workload']}"
        lines.append(f"| {row['kernel']} | {what} | {without} | {fast} | {row['ratio']:.3f} |")
    loss, steps = gpu["softmax"], gpu["medium"]
    for kernel, what, without, fast in (
        (
            "catalogue_attention",
            "GPU: the loss of 65,536 rows over 59,047 items, against blocks of scores in bfloat16",
            loss["blocks, bfloat16"]["ms"],
            loss["fused attention, bfloat16"]["ms"],
        ),
        (
            "cuda_graphs",
            "GPU: a step of bivrec, ML-1M size, against encoders started kernel by kernel",
            steps["encoders started kernel by kernel"]["a step, ms"],
            steps["encoders recorded"]["a step, ms"],
        ),
    ):
        ratio = f"{without / fast:.3f}"
        lines.append(f"| {kernel} | {what} | {without:.1f} | {fast:.1f} | {ratio} |")
    fill("kernels", lines)


if __name__ == "__main__":
    if sys.argv[1:] == ["tables"]:
        write_table()
    elif len(sys.argv) > 2:
        torch.set_num_threads(1)
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        main({*sys.argv[1:]} or {job[0] for job in JOBS})
