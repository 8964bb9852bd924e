"""`make bench-gpu`: what one GPU does, into benchmarks/h200.json: an epoch at ML-25M's size, ML-1M's size to its best validation,
the same figures as on a CPU, the same bits twice on request, and the losses over a large catalogue.

    python benchmarks/gpu.py [--out FILE] [--seeds 0 1 2] [--quick] [PART ...]

Each part takes its place in the file with what made it; the others stay.

Sets of published size are generated: for ML-25M's nothing can be learned, ML-1M's is the planted dataset, which has interests
to find. The films' parts need `make repro` to have prepared them.
"""

import argparse
import itertools
import json
import os
import platform
import subprocess
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bivrec.data.domain import Domain
from bivrec.evaluation import mean_metrics, rank_cases
from bivrec.experiment.cost import UNKNOWN_TO_COUNTER
from bivrec.experiment.training import train_model, train_models
from bivrec.model.bivrec import BivRec
from bivrec.model.losses import _CatalogueAttention, _InterestSoftmax
from bivrec.settings import load_settings
from bivrec.training.batches import draw_batches
from bivrec.training.loop import fit

HERE = Path(__file__).resolve().parent
LARGE = {"users": 162_541, "items": 59_047, "interactions": 25_000_095}
PLANTED = {"num_kinds": 8, "items_per_kind": 427, "num_users": 6_040, "mean_length": 165, "seed": 1}
PEAKS: dict[str, float] = {}  # measured: TFLOP/s, TB/s


def clock(call, rounds: int = 10) -> float:
    """Median seconds of a call on the device."""
    call()
    found = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end) / 1000)
    return float(np.median(found))


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
        whole = np.array([[float(value) for value in row] for row in self.rows if len(row) == 3])
        self.found = (
            dict(zip(("busy, %", "memory busy, %", "watts"), np.round(whole.mean(0), 1).tolist()))
            if len(whole)
            else {}
        )


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
    """Where the device's time goes in two steps: kernels by name, in shares; how many they are; the share the device waits."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        started = time.perf_counter()
        for batch in itertools.islice(batches, 2):
            step(batch)
        torch.cuda.synchronize()
        whole = time.perf_counter() - started
    kernels = [
        event
        for event in seen.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    busy = sum(event.self_device_time_total for event in kernels)
    kernels.sort(key=lambda event: -event.self_device_time_total)
    return {
        "kernels a step": sum(event.count for event in kernels) // 2,
        "device busy under the profiler, %": round(100 * busy / 1e6 / whole, 1),
        "shares of the device's time, %": {
            event.key[:90]: round(100 * event.self_device_time_total / busy, 1)
            for event in kernels[:12]
        },
    }


def large(chosen: argparse.Namespace) -> dict:
    """An epoch of every position at ML-25M's size: the training step, batches cut on the device, full softmax."""
    generator = np.random.Generator(np.random.PCG64(0))
    lengths = generator.lognormal(0, 1.0, LARGE["users"])
    lengths = np.maximum(20, np.round(lengths * LARGE["interactions"] / lengths.sum())).astype(
        "int64"
    )
    chances = 1 / (np.arange(LARGE["items"]) + 10) ** 0.8
    items = np.searchsorted(
        np.cumsum(chances / chances.sum()), generator.random(lengths.sum())
    ).clip(max=LARGE["items"] - 1)
    rows, found = np.split(items, np.cumsum(lengths)[:-1]), {}
    mask = torch.ones(LARGE["items"], dtype=torch.bool)
    features = {
        name: (torch.randn(LARGE["items"], width), mask)
        for name, width in (("text", 384), ("image", 1280))
    }
    for label, changes in {
        "full softmax": {},
        "1,024 items drawn": {"training.num_negatives": 1024},
    }.items():
        settings = load_settings(
            "ml-25m", {"features.modality": "both", "training.batch_size": 2048, **changes}
        )
        torch.manual_seed(0)
        model = BivRec(settings, LARGE["items"], features).to("cuda").train()
        step, batches = (
            stepper(model, settings.training),
            draw_batches(
                rows, settings.training, model.max_length, model.multiple, 0, model.device
            ),
        )
        with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_COUNTER) as counter:
            probe = next(batches)
            step(probe)
        per_target = counter.get_total_flops() / int(probe.supervised.sum())
        for batch in itertools.islice(batches, 3):
            step(batch)
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        batches = draw_batches(
            rows, settings.training, model.max_length, model.multiple, 1, model.device
        )
        asked = (lengths.sum() - len(lengths)) // (40 if chosen.quick else 1)
        with Watched() as watched:
            started, targets, losses = time.perf_counter(), 0, []
            while targets < asked:
                batch = next(batches)
                losses.append(step(batch))
                targets += int(batch.supervised.sum())
            torch.cuda.synchronize()
            seconds = time.perf_counter() - started
        rate = per_target * targets / seconds / 1e12
        found[label] = {
            "seconds": round(seconds, 1),
            "targets": targets,
            "steps": len(losses),
            "rows a step": settings.training.batch_size,
            "targets a second": round(targets / seconds),
            "loss, first and last": [round(float(losses[0]), 3), round(float(losses[-1]), 3)],
            "peak GiB": round(torch.cuda.max_memory_allocated() / 2**30, 1),
            "products, TFLOP/s": round(rate, 1),
            "share of the bfloat16 peak": round(rate / PEAKS["bfloat16 products, TFLOP/s"], 3),
            **watched.found,
            **profiled(step, batches),
        }
        del model, step
        torch.cuda.empty_cache()
    return found


def planted_domain() -> tuple:
    """The planted dataset at ML-1M's size, its first fold and features; trained with ML-1M's settings."""
    given = load_settings().datasets["ml-1m"].settings
    kept = {key: value for key, value in given.items() if key.startswith(("model.", "training."))}
    domain = Domain(
        "planted",
        {
            "datasets.planted.planted": PLANTED,
            "model.dim": 64,
            "model.dropout": 0.2,
            "training.precision": "auto",
            "training.learning_rate": 0.004,
            **kept,
        },
    )
    return domain.settings, domain.sequences.num_items, domain.fold(0), domain.features(0)


def medium(chosen: argparse.Namespace) -> dict:
    """ML-1M's size to the best validation: the whole training, looks at the validation users included."""
    settings, num_items, parts, features = GENERATED.result()
    seen = {}
    for label, recorded in {
        "encoders started kernel by kernel": False,
        "encoders recorded": True,
    }.items():
        torch.manual_seed(0)
        model = BivRec(settings, num_items, features).to("cuda").train()
        model.record_encoders(recorded)
        batches, step = (
            draw_batches(parts.train, settings.training, model.max_length, 40, 0, model.device),
            stepper(model, settings.training),
        )
        ready = list(itertools.islice(batches, 60))
        for batch in ready:
            step(batch)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for batch in ready:
            step(batch)
        torch.cuda.synchronize()
        seen[label] = {
            "a step, ms": round(1000 * (time.perf_counter() - started) / len(ready), 2),
            **profiled(step, iter(ready)),
        }
    torch.manual_seed(0)
    model = BivRec(settings, num_items, features).to("cuda")
    with Watched() as watched:
        record = fit(
            model, parts, settings.training, 0, "ndcg@20", num_steps=100 if chosen.quick else None
        )
    curve = record.curve[record.curve["metric"] == "ndcg@20"]
    test = mean_metrics(rank_cases(model, parts.test))
    return {
        "seconds to the best validation": round(
            float(curve.loc[curve["step"] == record.best_step, "seconds"].iloc[0]), 1
        ),
        "best step": record.best_step,
        "seconds in all": round(record.seconds, 1),
        "steps": int(curve["step"].max()),
        "targets": record.num_targets,
        "items": num_items,
        "test ndcg@20": {
            row.view: round(row.value, 4) for row in test[test["metric"] == "ndcg@20"].itertuples()
        },
        "curve (step, seconds, mean validation ndcg@20)": [
            [
                int(step),
                round(float(part["seconds"].iloc[0]), 1),
                round(float(part["value"].mean()), 4),
            ]
            for step, part in curve.groupby("step")
        ],
        **watched.found,
        **seen,
    }


def agreement(chosen: argparse.Namespace) -> dict:
    """The study's own trainings on the films, on the GPU, beside the committed figures of the CPU: means over seeds."""
    rows, seconds = [], {}
    for dataset in ("movies-classic", "movies-modern"):
        domain, started = Domain(dataset), time.perf_counter()
        known = pd.read_csv(HERE.parent / "results" / "runs.csv")
        known = known[(known["study"] == "training") & (known["dataset"] == dataset)]
        models = train_models(domain, ["bivrec", "sasrec"], chosen.seeds, fresh=True)
        seconds[f"{dataset}, {len(models)} trainings"] = round(time.perf_counter() - started, 1)
        for trained in models:
            name, seed = trained.name, trained.seed
            for row in mean_metrics(rank_cases(trained.model, domain.fold(seed).test)).itertuples():
                if row.metric == "ndcg@20":
                    alike = (
                        (known["model"] == name)
                        & (known["view"] == row.view)
                        & (known["seed"] == seed)
                        & (known["split"] == "test")
                        & (known["metric"] == row.metric)
                    )
                    rows.append(
                        (dataset, name, row.view, seed, row.value, known.loc[alike, "value"].item())
                    )
    table = pd.DataFrame(rows, columns=["dataset", "model", "view", "seed", "gpu", "cpu"])
    table["difference"] = table["gpu"] - table["cpu"]
    found = {}
    for (dataset, name, view), part in table.groupby(["dataset", "model", "view"]):
        found[f"{dataset} {name} {view}"] = {
            "gpu, by seed": part["gpu"].round(4).tolist(),
            "cpu, by seed": part["cpu"].round(4).tolist(),
            "mean difference": round(part["difference"].mean(), 4),
            "its standard error over seeds": round(part["difference"].std() / len(part) ** 0.5, 4)
            if len(part) > 1
            else None,
        }
    return {"ndcg@20 of the test users": found, "seconds": seconds}


def repeats(chosen: argparse.Namespace) -> dict:
    """Two trainings of the same seed: the same bits on request, and what that costs."""
    found = {}
    for asked in (False, True):
        domain = Domain(
            "movies-classic",
            {
                "machine.deterministic": asked,
                **({"training.num_steps": 25} if chosen.quick else {}),
            },
        )
        two = [train_model(domain, "bivrec", 0) for _ in range(2)]
        same = all(
            torch.equal(a, b)
            for a, b in zip(two[0].model.state_dict().values(), two[1].model.state_dict().values())
        )
        found["deterministic" if asked else "as usual"] = {
            "same bits": same,
            "seconds": round(two[1].record.seconds, 1),
        }
    torch.use_deterministic_algorithms(False)
    return found


def softmax(chosen: argparse.Namespace) -> dict:
    """The recommendation loss and its gradient over 59,047 items, 65,536 rows of two interests: fused attention beside blocks
    of scores, and how near each is to float32."""
    interests, table = (
        torch.randn(*shape, device="cuda") * 0.4
        for shape in ((65_536, 2, 64), (LARGE["items"], 64))
    )
    targets = torch.randint(LARGE["items"], (65_536,), device="cuda")
    interests.requires_grad_(), table.requires_grad_()
    ways = {
        "fused attention, bfloat16": lambda: _CatalogueAttention.apply(
            interests, table, targets, torch.bfloat16
        ),
        "blocks, bfloat16": lambda: _InterestSoftmax.apply(
            interests, table, targets, False, torch.bfloat16, None, len(table)
        ),
        "blocks, float32": lambda: _InterestSoftmax.apply(
            interests, table, targets, False, torch.float32, None, len(table)
        ),
    }
    results, found = (
        {
            name: (way(), *torch.autograd.grad(way(), (interests, table)))
            for name, way in ways.items()
        },
        {},
    )
    for name, way in ways.items():
        torch.cuda.reset_peak_memory_stats()
        before, seconds = torch.cuda.memory_allocated(), clock(lambda way=way: way().backward(), 5)
        useful = (
            6 * interests.numel() * len(table)
        )  # the products of the loss, of the interests' gradient and of the table's
        found[name] = {
            "ms": round(1000 * seconds, 1),
            "products that the loss needs, TFLOP/s": round(useful / seconds / 1e12, 1),
            "peak MiB above its inputs": round(
                (torch.cuda.max_memory_allocated() - before) / 2**20
            ),
            "off float32: loss, interests, table": [
                float(f"{float((a - b).norm() / b.norm()):.1e}")
                for a, b in zip(results[name], results["blocks, float32"])
            ],
        }
    return found


PARTS = {
    "ceilings": ceilings,
    "softmax": softmax,
    "large": large,
    "agreement": agreement,
    "repeats": repeats,
    "medium": medium,
}


def provenance() -> dict:
    git = [
        subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True).stdout.strip()
        for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "../bivrec"])
    ]
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": git[0] or os.environ.get("BIVREC_COMMIT", ""),
        "changed since": git[1].splitlines(),
        "device": torch.cuda.get_device_name(),
        "memory, GiB": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
        "driver": driver,
        "cuda": torch.version.cuda,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "pandas")},
        },
    }


def main() -> None:
    global GENERATED
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART")
    parser.add_argument("--out", type=Path, default=HERE / "h200.json")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        help="of the trainings that are held against the CPU's",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small part of each, to see that all runs"
    )
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("ERROR: PyTorch finds no GPU here")
    names = list(dict.fromkeys(["ceilings", *(chosen.parts or PARTS)]))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        GENERATED = pool.submit(planted_domain) if "medium" in names else None
        kept = json.loads(chosen.out.read_text("utf-8")) if chosen.out.is_file() else {}
        made = provenance()
        for name in names:
            started = time.perf_counter()
            try:
                label = (
                    f"agreement, seeds {' '.join(map(str, chosen.seeds))}"
                    if name == "agreement"
                    else name
                )
                kept[label] = {"made by": made, **PARTS[name](chosen)}
            except Exception:
                traceback.print_exc()
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
            torch.cuda.empty_cache()
            (part := chosen.out.with_suffix(".part")).write_text(
                json.dumps(kept, indent=1) + "\n", "utf-8"
            )
            os.replace(part, chosen.out)


if __name__ == "__main__":
    main()
