"""Our measures: training steps of BivRec, SASRec and the authors' way; evaluation; the peak.

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
from torch.nn.functional import embedding
from torch.utils.flop_counter import FlopCounterMode
from workloads import even, load

from bivrec.baselines import SASRec
from bivrec.data.types import EvalCases, Fold
from bivrec.evaluation import mean_metrics, rank_cases
from bivrec.kernels import choose_dtype, use_fast
from bivrec.model.base import Batch, pad
from bivrec.model.bivrec import BivRec
from bivrec.model.embedding import align_newest
from bivrec.settings import load_settings
from bivrec.training.batches import draw_batches
from bivrec.training.loop import fit

OPERATIONS = {  # by PyTorch's names for them
    "matrix products": "mm bmm addmm baddbmm",
    "sums, products and the like, an element each": (
        "add sub mul div sum neg addcmul pow rsub square reciprocal where amax aminmax clamp_min"
    ),
    "copies, fills and lookups": (
        "copy fill zero index_select index index_add gather scatter cat masked_fill "
        "embedding_dense_backward nonzero"
    ),
    "exponentials, logarithms and softmaxes": (
        "exp exp2 log log1p softmax log_softmax logsumexp softmax_backward_data "
        "log_softmax_backward_data"
    ),
    "layer normalisation": "native_layer_norm native_layer_norm_backward",
    "attention": (
        "scaled_dot_product_flash_attention_for_cpu "
        "scaled_dot_product_flash_attention_for_cpu_backward"
    ),
}
REST = "the rest"


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(step, batches, options) -> dict:
    """Seconds of every step after the first few, targets a step, peak memory."""
    seconds, targets = [], []
    for number, batch in enumerate(itertools.islice(batches, options["warm"] + options["steps"])):
        started = time.process_time()
        count = step(batch)
        if number >= options["warm"]:
            seconds.append(time.process_time() - started)
            targets.append(count)
    rate = sorted(count / second for count, second in zip(targets, seconds))
    return {
        "step_ms_best": 1000 * min(seconds),
        "step_ms_median": 1000 * float(np.median(seconds)),
        "targets_per_second_best": rate[-1],
        "targets_per_second_median": float(np.median(rate)),
        "targets_per_second": sum(targets) / sum(seconds),
        "targets_per_step": float(np.mean(targets)),
        "rss_mb": peak_mb(),
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
    training = settings.training
    torch.manual_seed(0)
    family = {"bivrec": BivRec, "sasrec": SASRec}[options["model"]]
    model = family(settings, workload.num_items, features_of(workload)).train()
    if settings.machine.kernels == "fast":
        use_fast(model, training.precision)
    optimiser, parameters = optimiser_of(model, settings), list(model.parameters())

    def step(batch) -> int:
        optimiser.zero_grad()
        model.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        optimiser.step()
        return int(batch.supervised.sum())

    batches = draw_batches(workload.rows(), training, model.max_length, model.multiple, 0)
    if options.get("count_flops"):
        return count_flops(step, batches)
    if options.get("profile"):
        return profile(step, batches)
    return measure(step, batches, options)


def count_flops(step, batches) -> dict:
    # Imported here, since its plots and tables are no part of a training's memory.
    from bivrec.experiment.cost import UNKNOWN_TO_COUNTER

    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_COUNTER) as counter:
        targets = sum(step(batch) for batch in itertools.islice(batches, 3))
    return {"flops_per_target": counter.get_total_flops() / targets}


def profile(step, batches) -> dict:
    """Where the seconds of a few steps go, by group of operations, and the targets they took."""
    for batch in itertools.islice(batches, 2):
        step(batch)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        targets = sum(step(batch) for batch in itertools.islice(batches, 4))
    return {"targets": targets, "seconds": seconds_by_group(profiler)}


def seconds_by_group(profiler) -> dict[str, float]:
    group_of = {name: group for group, names in OPERATIONS.items() for name in names.split()}
    seconds = dict.fromkeys([*OPERATIONS, REST], 0.0)
    for one in profiler.key_averages():
        group = group_of.get(one.key.removeprefix("aten::").strip("_"), REST)
        seconds[group] += one.self_cpu_time_total / 1e6
    return {group: round(value, 3) for group, value in seconds.items()}


class AuthorsTable(nn.Module):
    """Features projected for the whole catalogue at each step, one map for text and image."""

    def __init__(self, features, dim):
        super().__init__()
        values = torch.cat([values for values, _ in features.values()], 1)
        self.register_buffer("values", values, persistent=False)
        self.project = nn.Linear(values.shape[1], dim, bias=False)

    def forward(self):
        return self.project(self.values)


class AuthorsWay(BivRec):
    """BivRec computed as the public code computes it.

    One target a row; features gathered and projected for every position of every history; a full
    softmax of the interest nearest to the target (`model.readout: hard`) that stores all scores.
    """

    def __init__(self, settings, num_items, features):
        super().__init__(settings, num_items, features)
        self.items["multimodal"] = AuthorsTable(features, settings.model.dim)

    def encode_batch(self, batch, tables):
        items, mask = align_newest(batch.items, batch.mask)
        multimodal = self.items["multimodal"]
        vectors = {
            "id": embedding(items, tables["id"]),
            "multimodal": multimodal.project(multimodal.values[items]),
        }
        encoded = {}
        for view, encoder in self.views.items():
            interests, logits = encoder(vectors[view], mask, every_prefix=False)
            encoded[view] = {"interests": interests, "logits": logits}
        return encoded


def batches_in_python(rows, settings, max_length, multiple):
    """A user, a cut and a list per row, one after the other, then stacked."""
    while True:
        histories, targets = [], []
        for _ in range(settings.training.batch_size):
            row = random.choice(rows)
            cut = random.choice(range(1, len(row)))
            histories.append(np.array([item for item in row[max(0, cut - max_length) : cut]]))
            targets.append(row[cut])
        items, mask = pad(histories, max_length, multiple)
        row, last = torch.arange(len(items)), mask.sum(1) - 1
        supervised, wanted = torch.zeros_like(mask), torch.zeros_like(items)
        supervised[row, last], wanted[row, last] = True, torch.tensor(np.array(targets))
        yield Batch(items, mask, wanted, supervised, last, random.getrandbits(62))


def authors_way(workload, options) -> dict:
    one_target = {"training.supervision": "one_target"}
    options = options | {"changes": one_target | options.get("changes", {})}
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

    batches = batches_in_python(rows, settings, model.max_length, model.multiple)
    return measure(step, itertools.count(), options)


def evaluate(workload, options) -> dict:
    """Ranks every user's last item in the full catalogue, the history masked."""
    settings, rows = settings_of(options), workload.rows()
    model = SASRec(settings, workload.num_items, features_of(workload)).eval()
    histories, targets = tuple(row[:-1] for row in rows), tuple(row[-1:] for row in rows)
    cases = EvalCases(np.arange(len(rows)), histories, targets)
    if options.get("profile"):
        rank_cases(model, cases)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            mean_metrics(rank_cases(model, cases), (10, 20))
        return {"seconds": seconds_by_group(profiler)}
    seconds = []
    for _ in range(options["rounds"]):
        started = time.process_time()
        mean_metrics(rank_cases(model, cases), (10, 20))
        seconds.append(time.process_time() - started)
    return {
        "seconds_best": min(seconds),
        "seconds_median": float(np.median(seconds)),
        "users": len(rows),
        "rss_mb": peak_mb(),
    }


def quality(workload, options) -> dict:
    """Trains SASRec, with the users' second-to-last items to validate.

    The curve holds process seconds, evaluations included, steps, and NDCG@10; `test` the metrics
    of the last items."""
    settings, rows = settings_of(options), workload.rows()
    users, train = np.arange(len(rows)), tuple(row[:-2] for row in rows)
    validation = EvalCases(users, train, tuple(row[-2:-1] for row in rows))
    test = EvalCases(users, tuple(row[:-1] for row in rows), tuple(row[-1:] for row in rows))
    torch.manual_seed(options["seed"])
    model = SASRec(settings, workload.num_items, {})
    if settings.machine.kernels == "fast":
        use_fast(model, settings.training.precision)
    curve, started = [], time.process_time()

    def follow(step: int, figures: dict[str, float]) -> None:
        curve.append((time.process_time() - started, step, figures["id/ndcg@10"]))

    fold = Fold(train, users, validation, test)
    fit(model, fold, settings.training, options["seed"], "ndcg@10", on_evaluate=follow)
    metrics = mean_metrics(rank_cases(model, test), (10,))
    return {"curve": curve, "test": dict(zip(metrics["metric"], metrics["value"]))}


def peak(workload, options) -> dict:
    """The fastest matrix products of this machine, GFLOP/s; in bfloat16 where it is native."""
    fastest = {}
    for dtype in {torch.float32, choose_dtype("auto")}:
        a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
        best = float("inf")
        for _ in range(8):
            started = time.process_time()
            a @ b
            best = min(best, time.process_time() - started)
        fastest[str(dtype).removeprefix("torch.")] = 2 * 2048**3 / best / 1e9
    return fastest


TASKS = {
    "train": train,
    "authors_way": authors_way,
    "evaluate": evaluate,
    "quality": quality,
    "peak": peak,
}

if __name__ == "__main__":
    task, path, given = sys.argv[1:]
    options = json.loads(given)
    torch.set_num_threads(options.get("threads", 1))
    workload = even(**options["even"]) if "even" in options else load(Path(path))
    print(json.dumps(TASKS[task](workload, options) | {"torch": torch.__version__}))
