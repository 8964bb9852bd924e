"""Measures of ours: training steps of BivRec and SASRec, the authors' way of doing the same, evaluation, the machine's peak.

python ours.py TASK WORKLOAD JSON     prints one JSON object
"""

import itertools
import json
import random
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from workloads import even, load

from bivrec.baselines import SASRec
from bivrec.data.types import EvalCases
from bivrec.evaluation import mean_metrics, rank_cases
from bivrec.model.base import Batch, pad
from bivrec.model.bivrec import BivRec
from bivrec.model.losses import catalogue_type, choose_interest
from bivrec.settings import load_settings
from bivrec.training.batches import draw_batches
from bivrec.training.distributed import average_gradients, init_processes, rank, shared_loss

KINDS = {  # of operations, by PyTorch's names for them
    "matrix products": {"mm", "bmm", "addmm", "baddbmm"},
    "sums, products and the like, an element each": {"add", "sub", "mul", "div", "sum", "neg", "addcmul", "pow", "rsub", "square", "reciprocal", "where", "amax", "aminmax", "clamp_min"},
    "copies, fills and lookups": {"copy", "fill", "zero", "index_select", "index", "index_add", "gather", "scatter", "cat", "masked_fill", "embedding_dense_backward", "nonzero"},
    "exponentials, logarithms and softmaxes": {"exp", "exp2", "log", "softmax", "log_softmax", "logsumexp", "softmax_backward_data", "log_softmax_backward_data", "log1p"},
    "layer normalisation": {"native_layer_norm", "native_layer_norm_backward"},
}  # fmt: skip


def measure(step, batches, options) -> dict:
    """Seconds of every step after the first few, targets a step, peak memory."""
    seconds, targets = [], []
    for number, batch in enumerate(itertools.islice(batches, options["warm"] + options["steps"])):
        started = time.perf_counter()
        count = step(batch)
        if number >= options["warm"]:
            seconds.append(time.perf_counter() - started)
            targets.append(count)
    rate = sorted(count / second for count, second in zip(targets, seconds))
    return {
        "step_ms_best": 1000 * min(seconds),
        "step_ms_median": 1000 * float(np.median(seconds)),
        "targets_per_second_best": rate[-1],
        "targets_per_second_median": float(np.median(rate)),
        "targets_per_second": sum(targets) / sum(seconds),
        "targets_per_step": float(np.mean(targets)),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def settings_of(options):
    changes = {
        "model.dim": 64,
        "model.max_length": options["max_length"],
        "training.batch_size": options["batch_size"],
    } | options.get("changes", {})
    return load_settings("movies-classic", changes)


def features_of(workload):
    names = ("text", "image")
    mask = torch.ones(workload.num_items, dtype=torch.bool)
    return {
        name: (torch.from_numpy(values), mask)
        for name, values in zip(names, workload.item_features())
    }


def optimiser_of(model, settings):
    return torch.optim.AdamW(
        model.parameters(), settings.training.learning_rate, (0.9, 0.98), fused=True
    )


def train(workload, options) -> dict:
    """Our model as the study trains it."""
    settings = settings_of(options)
    torch.manual_seed(0)
    model = {"bivrec": BivRec, "sasrec": SASRec}[options["model"]](
        settings, workload.num_items, features_of(workload)
    ).train()
    optimiser, parameters = optimiser_of(model, settings), list(model.parameters())

    def step(batch) -> int:
        optimiser.zero_grad()
        loss = shared_loss(model, batch)
        loss.backward()
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, settings.training.clip_norm)
        optimiser.step()
        return int(batch.supervised.sum())

    batches = draw_batches(workload.rows(), settings.training, model.max_length, model.multiple, 0)
    if options.get("count_flops"):
        from bivrec.experiment.cost import (
            UNKNOWN_TO_COUNTER,  # with it come plots and tables, which are no part of a training's memory
        )

        with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_COUNTER) as counter:
            targets = sum(step(batch) for batch in itertools.islice(batches, 10))
        return {"flops_per_target": counter.get_total_flops() / targets}
    if options.get("profile"):
        return profile(step, batches)
    return measure(step, batches, options)


def profile(step, batches) -> dict:
    """Where the seconds of a few steps go, by kind of operation, and the targets that they took."""
    for batch in itertools.islice(batches, 2):
        step(batch)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        targets = sum(step(batch) for batch in itertools.islice(batches, 8))
    seconds = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for one in profiler.key_averages():
        name = one.key.removeprefix("aten::").strip("_")
        kind = next((kind for kind, names in KINDS.items() if name in names), "the rest")
        seconds[kind] += one.self_cpu_time_total / 1e6
    return {
        "targets": targets,
        "seconds": {kind: round(value, 3) for kind, value in seconds.items()},
    }


class AuthorsTable(nn.Module):
    """Features gathered and projected for every position of every history, and for the whole catalogue at each step."""

    def __init__(self, features, dim):
        super().__init__()
        self.register_buffer(
            "values", torch.cat([values for values, _ in features.values()], 1), persistent=False
        )
        self.project = nn.Linear(self.values.shape[1], dim, bias=False)

    def forward(self, _=None):
        return self.project(self.values)


class AuthorsWay(BivRec):
    """BivRec computed as the public code computes: one target a row, features projected a position, a full softmax of the
    interest nearest to the target with all scores kept."""

    def __init__(self, settings, num_items, features):
        super().__init__(settings, num_items, features)
        self.items["multimodal"] = AuthorsTable(features, settings.model.dim)

    def loss(self, batch):
        tables, multimodal = self.tables(), self.items["multimodal"]
        vectors = {
            "id": tables["id"][batch.items],
            "multimodal": multimodal.project(multimodal.values[batch.items]),
        }
        at, targets = torch.arange(len(batch.probe)), batch.targets[batch.supervised]
        read = {
            view: encoder(vectors[view], batch.mask, self.causal)
            for view, encoder in self.views.items()
        }
        rows = {view: interests[at, batch.probe] for view, (interests, _) in read.items()}
        total = 0
        for view, interests in rows.items():
            nearest = choose_interest(interests, tables[view], targets)[:, 0]
            total = total + nn.functional.cross_entropy(nearest @ tables[view].T, targets)
        return total + self._between(
            tables,
            rows,
            {view: allocation for view, (_, allocation) in read.items()},
            batch.mask,
            rows,
            targets,
        )


def drawn_in_python(rows, settings, max_length, multiple):
    """A user, a cut and a list a row, one after the other, then stacked."""
    while True:
        histories, targets = [], []
        for _ in range(settings.training.batch_size):
            row = random.choice(rows)
            cut = random.choice(range(1, len(row)))
            histories.append(np.array([item for item in row[max(0, cut - max_length) : cut]]))
            targets.append(row[cut])
        items, mask = pad(histories, max_length, multiple)
        last = mask.sum(1) - 1
        supervised = torch.zeros_like(mask)
        supervised[torch.arange(len(last)), last] = True
        wanted = torch.zeros_like(items)
        wanted[torch.arange(len(last)), last] = torch.tensor(np.array(targets))
        yield Batch(items, mask, wanted, supervised, last)


def authors_way(workload, options) -> dict:
    options = {
        **options,
        "changes": {"training.supervision": "one_target"} | options.get("changes", {}),
    }
    settings, rows = settings_of(options), workload.rows()
    model = AuthorsWay(settings, workload.num_items, features_of(workload)).train()
    optimiser = torch.optim.Adam(model.parameters(), settings.training.learning_rate)

    def step(_) -> int:
        batch = next(batches)
        loss = model.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return len(batch.items)

    batches = drawn_in_python(rows, settings, model.max_length, model.multiple)
    return measure(step, itertools.count(), options)


def evaluate(workload, options) -> dict:
    """Every user's last item ranked in the full catalogue, the history masked, and the metrics' means."""
    settings, rows = settings_of(options), workload.rows()
    model = SASRec(settings, workload.num_items, features_of(workload)).eval()
    cases = EvalCases(
        np.arange(len(rows)), tuple(row[:-1] for row in rows), tuple(row[-1:] for row in rows)
    )
    seconds = []
    for _ in range(options["rounds"]):
        started = time.perf_counter()
        mean_metrics(rank_cases(model, cases), (10, 20))
        seconds.append(time.perf_counter() - started)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds_best": min(seconds),
        "seconds_median": float(np.median(seconds)),
        "users": len(rows),
        "rss_mb": memory,
    }


def peak(workload, options) -> dict:
    """The fastest matrix products of this machine, GFLOP/s; in bfloat16 where the processor knows it."""
    found = {}
    for name, kind in {
        "float32": torch.float32,
        str(catalogue_type("auto")).removeprefix("torch."): catalogue_type("auto"),
    }.items():
        a, b = torch.randn(2048, 2048).to(kind), torch.randn(2048, 2048).to(kind)
        best = float("inf")
        for _ in range(8):
            started = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - started)
        found[name] = 2 * 2048**3 / best / 1e9
    return found


if __name__ == "__main__":
    task, path, told = sys.argv[1:]
    options = json.loads(told)
    torch.set_num_threads(options.get("threads", 1))
    init_processes("gloo")
    workload = even(**options["even"]) if "even" in options else load(Path(path))
    found = {"train": train, "authors_way": authors_way, "evaluate": evaluate, "peak": peak}[task](
        workload, options
    )
    if rank() == 0:
        print(json.dumps(found | {"torch": torch.__version__}))
