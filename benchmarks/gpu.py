"""`make bench-gpu`: what one GPU does; into benchmarks/h200.json and README.md.

An epoch at ML-25M's size, ML-1M's size to its best validation, the same figures as on a CPU, the
same bits twice on request, and the losses over a large catalogue. Each part replaces its entry in
the file, with what made it; the others stay. Sets of published size are generated: in ML-25M's
there is nothing to learn, ML-1M's is the planted dataset, which has interests to find. The films'
parts need `make repro` to have prepared them.

    python benchmarks/gpu.py [--out FILE] [--seeds 0 1 2] [--quick] [PART ...]
"""

import argparse
import itertools
import platform
import subprocess
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import gpu_table
import numpy as np
import pandas as pd
import torch
from record import HERE, provenance, read_json, write_json
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bivrec.data.domain import Domain
from bivrec.evaluation import mean_metrics, rank_cases
from bivrec.experiment.cost import UNKNOWN_TO_COUNTER
from bivrec.experiment.training import train_model, train_models
from bivrec.kernels import use_fast
from bivrec.kernels.catalogue_attention import catalogue_softmax
from bivrec.kernels.cuda_graphs import recorded
from bivrec.kernels.interest_softmax import InterestSoftmax
from bivrec.model.bivrec import BivRec
from bivrec.settings import load_settings
from bivrec.training.batches import draw_batches
from bivrec.training.loop import fit

LARGE = {"users": 162_541, "items": 59_047, "interactions": 25_000_095}
PLANTED = {"num_kinds": 8, "items_per_kind": 427, "num_users": 6_040, "mean_length": 165, "seed": 1}
PEAKS: dict[str, float] = {}  # measured: TFLOP/s, TB/s


def clock(call, rounds: int = 10) -> float:
    """Median seconds of a call on the device."""
    call()
    seconds = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
    return float(np.median(seconds))


class Watched:
    """Utilisation and power as nvidia-smi reports them, while the block runs."""

    def __enter__(self):
        self.rows, fields = [], "utilization.gpu,utilization.memory,power.draw"
        self.process = subprocess.Popen(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-lms", "250"],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.thread = threading.Thread(
            target=lambda: self.rows.extend(line.split(",") for line in self.process.stdout),
            daemon=True,
        )
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.thread.join(5)
        rows = np.array([[float(value) for value in row] for row in self.rows if len(row) == 3])
        names = "busy, %", "memory busy, %", "watts"
        self.means = dict(zip(names, np.round(rows.mean(0), 1).tolist())) if len(rows) else {}


def ceilings(chosen: argparse.Namespace) -> dict:
    """The fastest matrix product and copy."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    PEAKS["bfloat16 products, TFLOP/s"] = round(2 * 8192**3 / clock(lambda: a @ b) / 1e12, 1)
    a, b = a[:4096, :4096].float(), b[:4096, :4096].float()
    PEAKS["float32 products, TFLOP/s"] = round(2 * 4096**3 / clock(lambda: a @ b) / 1e12, 1)
    held = torch.empty(1 << 30, device="cuda")
    other = torch.empty_like(held)
    PEAKS["copies, TB/s"] = round(2 * held.nbytes / clock(lambda: other.copy_(held)) / 1e12, 2)
    return PEAKS


def build(settings, num_items: int, features: dict) -> BivRec:
    """BivRec with the kernels of a GPU, in training, its weights drawn from seed 0."""
    torch.manual_seed(0)
    model = BivRec(settings, num_items, features)
    use_fast(model, settings.training.precision)
    return model.to("cuda").train()


def stepper(model, training):
    """A training step as the study takes it, without the host waiting for the device."""
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(parameters, training.learning_rate, (0.9, 0.98), fused=True)
    averages = [parameter.data.clone() for parameter in parameters]

    def step(batch) -> torch.Tensor:
        loss = model.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        optimiser.step()
        torch._foreach_lerp_(averages, [parameter.data for parameter in parameters], 0.02)
        return loss.detach()

    return step


def profiled(step, batches) -> dict:
    """Two steps: shares of the device's time by kernel, their number, and how busy it is."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        started = time.perf_counter()
        for batch in itertools.islice(batches, 2):
            step(batch)
        torch.cuda.synchronize()
        whole = time.perf_counter() - started
    on_device = torch.autograd.DeviceType.CUDA
    kernels = [event for event in seen.key_averages() if event.device_type == on_device]
    busy = sum(event.self_device_time_total for event in kernels)
    kernels.sort(key=lambda event: -event.self_device_time_total)
    shares = {event.key[:90]: 100 * event.self_device_time_total / busy for event in kernels[:12]}
    return {
        "kernels a step": sum(event.count for event in kernels) // 2,
        "device busy under the profiler, %": round(100 * busy / 1e6 / whole, 1),
        "shares of the device's time, %": {name: round(x, 1) for name, x in shares.items()},
    }


def large_rows() -> list[np.ndarray]:
    """Histories of ML-25M's size."""
    generator = np.random.Generator(np.random.PCG64(0))
    lengths = generator.lognormal(0, 1.0, LARGE["users"])
    lengths = np.round(lengths * LARGE["interactions"] / lengths.sum())
    lengths = np.maximum(20, lengths).astype("int64")
    chances = 1 / (np.arange(LARGE["items"]) + 10) ** 0.8
    chances = np.cumsum(chances / chances.sum())
    items = np.searchsorted(chances, generator.random(lengths.sum()))
    return np.split(items.clip(max=LARGE["items"] - 1), np.cumsum(lengths)[:-1])


def large(chosen: argparse.Namespace) -> dict:
    """An epoch of every position at ML-25M's size, batches cut on the device."""
    rows, mask = large_rows(), torch.ones(LARGE["items"], dtype=torch.bool)
    widths = {"text": 384, "image": 1280}
    features = {name: (torch.randn(LARGE["items"], width), mask) for name, width in widths.items()}
    ways = {"full softmax": {}, "1,024 negatives": {"training.num_negatives": 1024}}
    return {way: epoch(rows, features, changes, chosen.quick) for way, changes in ways.items()}


def epoch(rows: list[np.ndarray], features: dict, changes: dict, quick: bool) -> dict:
    sizes = {"features.modality": "both", "training.batch_size": 2048}
    settings = load_settings("ml-25m", sizes | changes)
    model = build(settings, LARGE["items"], features)
    step = stepper(model, settings.training)

    def batches_of(seed: int):
        return draw_batches(
            rows, settings.training, model.max_length, model.multiple, seed, model.device
        )

    batches = batches_of(0)
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_COUNTER) as counter:
        probe = next(batches)
        step(probe)
    per_target = counter.get_total_flops() / int(probe.supervised.sum())
    for batch in itertools.islice(batches, 3):
        step(batch)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    batches = batches_of(1)
    num_targets = sum(map(len, rows)) - len(rows)
    with Watched() as watched:
        started, targets, losses = time.perf_counter(), 0, []
        while targets < num_targets // (40 if quick else 1):
            batch = next(batches)
            losses.append(step(batch))
            targets += int(batch.supervised.sum())
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    rate = per_target * targets / seconds / 1e12
    return {
        "seconds": round(seconds, 1),
        "targets": targets,
        "steps": len(losses),
        "rows a step": settings.training.batch_size,
        "targets a second": round(targets / seconds),
        "loss, first and last": [round(float(losses[0]), 3), round(float(losses[-1]), 3)],
        "peak GiB": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "products, TFLOP/s": round(rate, 1),
        "share of the bfloat16 peak": round(rate / PEAKS["bfloat16 products, TFLOP/s"], 3),
        **watched.means,
        **profiled(step, batches),
    }


def planted_domain() -> tuple:
    """The planted dataset at ML-1M's size and with its settings: first fold and features."""
    given = load_settings().datasets["ml-1m"].settings
    changes = {
        "datasets.planted.planted": PLANTED,
        "model.dim": 64,
        "model.dropout": 0.2,
        "training.precision": "auto",
        "training.learning_rate": 0.004,
    }
    changes |= {key: x for key, x in given.items() if key.startswith(("model.", "training."))}
    domain = Domain("planted", changes)
    return domain.settings, domain.sequences.num_items, domain.fold(0), domain.features(0)


def medium(chosen: argparse.Namespace) -> dict:
    """ML-1M's size to the best validation, evaluations included."""
    settings, num_items, fold, features = GENERATED.result()
    steps = {}
    for way, context in {
        "encoders started kernel by kernel": lambda _: nullcontext(),
        "encoders recorded": recorded,
    }.items():
        model = build(settings, num_items, features)
        step = stepper(model, settings.training)
        batches = draw_batches(fold.train, settings.training, model.max_length, 40, 0, model.device)
        with context(model):
            steps[way] = clock_steps(step, list(itertools.islice(batches, 60)))
    model, num_steps = build(settings, num_items, features), 100 if chosen.quick else None
    with Watched() as watched:
        record = fit(model, fold, settings.training, 0, "ndcg@20", num_steps=num_steps)
    curve = record.curve[record.curve["metric"] == "ndcg@20"]
    at_best = curve.loc[curve["step"] == record.best_step, "seconds"].iloc[0]
    test = mean_metrics(rank_cases(model, fold.test)).query("metric == 'ndcg@20'")
    looks = curve.groupby("step").agg({"seconds": "first", "value": "mean"})
    return {
        "seconds to the best validation": round(float(at_best), 1),
        "best step": record.best_step,
        "seconds in all": round(record.seconds, 1),
        "steps": int(curve["step"].max()),
        "targets": record.num_targets,
        "items": num_items,
        "test ndcg@20": {row.view: round(row.value, 4) for row in test.itertuples()},
        "curve (step, seconds, mean validation ndcg@20)": [
            [int(row.Index), round(row.seconds, 1), round(row.value, 4)]
            for row in looks.itertuples()
        ],
        **watched.means,
        **steps,
    }


def clock_steps(step, batches: list) -> dict:
    """Milliseconds of a step when each shape of batch has been seen before."""
    for batch in batches:
        step(batch)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for batch in batches:
        step(batch)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    milliseconds = round(1000 * seconds / len(batches), 2)
    return {"a step, ms": milliseconds, **profiled(step, iter(batches))}


def agreement(chosen: argparse.Namespace) -> dict:
    """The study's trainings on the films, on the GPU and (committed) on the CPU."""
    runs = pd.read_csv(HERE.parent / "results" / "runs.csv")
    runs = runs.query("study == 'training' and split == 'test' and metric == 'ndcg@20'")
    keys, rows, seconds = ["dataset", "model", "view", "seed"], [], {}
    for dataset in ("movies-classic", "movies-modern"):
        domain, started = Domain(dataset), time.perf_counter()
        models = train_models(domain, ["bivrec", "sasrec"], chosen.seeds, fresh=True)
        seconds[f"{dataset}, {len(models)} trainings"] = round(time.perf_counter() - started, 1)
        for trained in models:
            test = mean_metrics(rank_cases(trained.model, domain.fold(trained.seed).test))
            for row in test.query("metric == 'ndcg@20'").itertuples():
                rows.append((dataset, trained.name, row.view, trained.seed, row.value))
    table = pd.DataFrame(rows, columns=[*keys, "gpu"])
    table = table.merge(runs[[*keys, "value"]].rename(columns={"value": "cpu"}), "left", keys)
    table["difference"] = table["gpu"] - table["cpu"]
    compared = {}
    for (dataset, name, view), part in table.groupby(keys[:3]):
        error = part["difference"].std() / len(part) ** 0.5
        compared[f"{dataset} {name} {view}"] = {
            "gpu, by seed": part["gpu"].round(4).tolist(),
            "cpu, by seed": part["cpu"].round(4).tolist(),
            "mean difference": round(part["difference"].mean(), 4),
            "its standard error over seeds": round(error, 4) if len(part) > 1 else None,
        }
    return {"ndcg@20 of the test users": compared, "seconds": seconds}


def repeats(chosen: argparse.Namespace) -> dict:
    """Two trainings of the same seed: the same bits on request, and what that costs."""
    ways, quick = {}, {"training.num_steps": 25} if chosen.quick else {}
    for way, deterministic in {"as usual": False, "deterministic": True}.items():
        domain = Domain("movies-classic", quick | {"machine.deterministic": deterministic})
        two = [train_model(domain, "bivrec", 0) for _ in range(2)]
        weights = zip(*(trained.model.state_dict().values() for trained in two))
        same, seconds = all(torch.equal(a, b) for a, b in weights), two[1].record.seconds
        ways[way] = {"same bits": same, "seconds": round(seconds, 1)}
    torch.use_deterministic_algorithms(False)
    return ways


def softmax(chosen: argparse.Namespace) -> dict:
    """The recommendation loss and its gradient over 59,047 items, 65,536 rows of two interests.

    Fused attention and blocks of scores, and how near each is to float32.
    """
    interests = (torch.randn(65_536, 2, 64, device="cuda") * 0.4).requires_grad_()
    table = (torch.randn(LARGE["items"], 64, device="cuda") * 0.4).requires_grad_()
    inputs = interests, table, torch.randint(LARGE["items"], (65_536,), device="cuda")
    ways = {
        "fused attention, bfloat16": lambda: catalogue_softmax(*inputs, torch.bfloat16),
        "blocks, bfloat16": lambda: InterestSoftmax.apply(*inputs, torch.bfloat16, None),
        "blocks, float32": lambda: InterestSoftmax.apply(*inputs, torch.float32, None),
    }
    gradients = {
        name: (way(), *torch.autograd.grad(way(), inputs[:2])) for name, way in ways.items()
    }
    useful = 6 * interests.numel() * len(table)  # products of the loss and of both gradients
    figures = {}
    for name, way in ways.items():
        torch.cuda.reset_peak_memory_stats()
        before, seconds = torch.cuda.memory_allocated(), clock(lambda way=way: way().backward(), 5)
        memory = torch.cuda.max_memory_allocated() - before
        errors = zip(gradients[name], gradients["blocks, float32"])
        figures[name] = {
            "ms": round(1000 * seconds, 1),
            "products that the loss needs, TFLOP/s": round(useful / seconds / 1e12, 1),
            "peak MiB above its inputs": round(memory / 2**20),
            "off float32: loss, interests, table": [
                float(f"{float((a - b).norm() / b.norm()):.1e}") for a, b in errors
            ],
        }
    return figures


PARTS = {
    "ceilings": ceilings,
    "softmax": softmax,
    "large": large,
    "agreement": agreement,
    "repeats": repeats,
    "medium": medium,
}


def about_device() -> dict:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    versions = {name: version(name) for name in ("torch", "numpy", "pandas")}
    memory = torch.cuda.get_device_properties(0).total_memory
    return provenance() | {
        "device": torch.cuda.get_device_name(),
        "memory, GiB": round(memory / 2**30, 1),
        "driver": subprocess.run(query, capture_output=True, text=True).stdout.strip(),
        "cuda": torch.version.cuda,
        "versions": {"python": platform.python_version()} | versions,
    }


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART")
    parser.add_argument("--out", type=Path, default=HERE / "h200.json")
    seeds = "of the trainings that are compared with the CPU's"
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help=seeds)
    quick = "a small part of each, to see that all runs"
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser.parse_args()


def main() -> None:
    global GENERATED
    chosen = read_arguments()
    if not torch.cuda.is_available():
        raise SystemExit("ERROR: PyTorch finds no GPU here")
    names = list(dict.fromkeys(["ceilings", *(chosen.parts or PARTS)]))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        GENERATED = pool.submit(planted_domain) if "medium" in names else None
        parts, about = read_json(chosen.out), about_device()
        for name in names:
            started, seeds = time.perf_counter(), " ".join(map(str, chosen.seeds))
            label = f"{name}, seeds {seeds}" if name == "agreement" else name
            try:
                parts[label] = {"made by": about, **PARTS[name](chosen)}
            except Exception:
                traceback.print_exc()
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
            torch.cuda.empty_cache()
            write_json(chosen.out, parts)
    if chosen.out == HERE / "h200.json":
        gpu_table.write_table()


if __name__ == "__main__":
    main()
