"""`make bench`: our training and evaluation beside those of RecBole, RecTools and the authors' way, in one run.

Every measure is a process of its own, on one thread; the measures of a ratio are taken in turn, several rounds, and the best
round of each counts. Peers live in environments of their own under benchmarks/envs and run as installed. The settings of the
allocator under which our runner starts every training are ours, as they are part of what is measured; what a peer gains from
them is measured beside it. Writes results.json and README.md.

    python benchmarks/bench.py [NAME ...]     only the ratios whose names begin so, nothing written
    python benchmarks/bench.py tables         results.json into README.md
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from workloads import SIZES, generated, movielens_100k, save

from bivrec.pipeline import environment

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "BIVREC_ROOT": str(HERE.parent),
    "PYTHONPATH": str(HERE.parent),
}
ALLOCATOR = {
    name: value for name, value in environment.ENVIRONMENT.items() if name.startswith("MALLOC_")
}
ROUNDS = int(os.environ.get("BENCH_ROUNDS", 3))

MEASURES = {  # name: environment, task, workload, options; `runner`: under our runner's allocator
    "ours, authors' supervision, full softmax": ("ours", "train", "baby-size", {"model": "bivrec", "max_length": 20, "batch_size": 2048, "steps": 22, "changes": {"training.supervision": "one_target", "model.readout": "hard"}, "runner": True}),
    "authors' way": ("ours", "authors_way", "baby-size", {"max_length": 20, "batch_size": 2048, "steps": 4, "changes": {"model.readout": "hard"}}),
    "ours, authors' supervision": ("ours", "train", "baby-size", {"model": "bivrec", "max_length": 20, "batch_size": 2048, "steps": 22, "changes": {"training.supervision": "one_target", "model.readout": "hard", "training.num_negatives": 1024}, "runner": True}),
    "authors' way, ml-1m-size": ("ours", "authors_way", "ml-1m-size", {"max_length": 52, "batch_size": 256, "steps": 3, "changes": {"model.readout": "hard"}}),
    "RecBole SASRec": ("recbole", "train", "ml-1m-size", {"model": "SASRec", "max_length": 50, "batch_size": 256, "steps": 6}),
    "ours": ("ours", "train", "ml-1m-size", {"model": "bivrec", "max_length": 52, "batch_size": 256, "steps": 16, "changes": {"training.num_negatives": 2048, "model.readout": "hard"}, "runner": True}),
    "RecTools SASRec": ("rectools", "train", "ml-1m-size", {"max_length": 50, "batch_size": 256, "steps": 6}),
    "our SASRec": ("ours", "train", "ml-1m-size", {"model": "sasrec", "max_length": 50, "batch_size": 256, "steps": 24, "changes": {"model.scales": [1]}, "runner": True}),
    "ours, full softmax": ("ours", "train", "ml-1m-size", {"model": "bivrec", "max_length": 52, "batch_size": 256, "steps": 16, "runner": True}),
    "ours, full softmax, two processes": ("ours", "train", "ml-1m-size", {"model": "bivrec", "max_length": 52, "batch_size": 256, "steps": 16, "processes": 2, "runner": True}),
    "our evaluation": ("ours", "evaluate", "ml-1m-size", {"max_length": 50, "batch_size": 256, "rounds": 6, "changes": {"model.scales": [1]}, "runner": True}),
    "RecBole evaluation": ("recbole", "evaluate", "ml-1m-size", {"model": "SASRec", "max_length": 50, "batch_size": 256, "rounds": 6}),
    "our evaluation, baby-size": ("ours", "evaluate", "baby-size", {"max_length": 20, "batch_size": 256, "rounds": 6, "changes": {"model.scales": [1]}, "runner": True}),
    "RecBole evaluation, baby-size": ("recbole", "evaluate", "baby-size", {"model": "SASRec", "max_length": 20, "batch_size": 256, "rounds": 6}),
    "our SASRec, ml-100k": ("ours", "train", "ml-100k", {"model": "sasrec", "max_length": 50, "batch_size": 256, "steps": 12, "changes": {"model.scales": [1]}, "runner": True}),
    "RecBole SASRec, ml-100k": ("recbole", "train", "ml-100k", {"model": "SASRec", "max_length": 50, "batch_size": 256, "steps": 6}),
    "RecBole GRU4Rec, ml-100k": ("recbole", "train", "ml-100k", {"model": "GRU4Rec", "max_length": 50, "batch_size": 256, "steps": 6}),
    "RecBole FDSA, ml-100k": ("recbole", "train", "ml-100k", {"model": "FDSA", "max_length": 50, "batch_size": 256, "steps": 4}),
    "peak": ("ours", "peak", "ml-100k", {}),
}  # fmt: skip
for one in ("authors' way", "RecTools SASRec", "RecBole evaluation"):
    MEASURES[f"{one}, our allocator"] = (*MEASURES[one][:3], MEASURES[one][3] | {"runner": True})
OUR_NET = {
    "inner_size": 64,
    "hidden_act": "relu",
}  # the feed-forward net of our SASRec and of RecTools'; RecBole's: 256, gelu
OUR_BATCH = {
    "eval_batch_size": 256
}  # users that our evaluation ranks at a time; RecBole's as installed: 4,096
MEASURES["RecBole SASRec, our net"] = (
    *MEASURES["RecBole SASRec"][:3],
    MEASURES["RecBole SASRec"][3] | {"changes": OUR_NET},
)
for one in ("RecBole evaluation", "RecBole evaluation, baby-size"):
    for label, changes in {
        "our batch": OUR_BATCH,
        "our batch and net": OUR_BATCH | OUR_NET,
    }.items():
        MEASURES[f"{one}, {label}"] = (*MEASURES[one][:3], MEASURES[one][3] | {"changes": changes})
RATIOS = {  # name: ours, theirs, the figure, whether less of it is better
    "train_vs_authors_way": (
        "ours, authors' supervision",
        "authors' way",
        "targets_per_second",
        False,
    ),
    "memory_vs_authors_way": (
        "ours, authors' supervision, full softmax",
        "authors' way",
        "rss_mb",
        True,
    ),
    "targets_vs_authors_way": ("ours", "authors' way, ml-1m-size", "targets_per_second", False),
    "targets_vs_recbole_sasrec": ("ours", "RecBole SASRec", "targets_per_second", False),
    "targets_vs_rectools_sasrec": ("ours", "RecTools SASRec", "targets_per_second", False),
    "sasrec_vs_recbole": ("our SASRec", "RecBole SASRec", "targets_per_second", False),
    "sasrec_vs_rectools": ("our SASRec", "RecTools SASRec", "targets_per_second", False),
    "evaluation_vs_recbole": ("our evaluation", "RecBole evaluation", "seconds_best", True),
    "train_vs_authors_way_full_softmax": (
        "ours, authors' supervision, full softmax",
        "authors' way",
        "targets_per_second",
        False,
    ),
    "train_vs_authors_way_our_allocator": (
        "ours, authors' supervision",
        "authors' way, our allocator",
        "targets_per_second",
        False,
    ),
    "targets_vs_rectools_sasrec_our_allocator": (
        "ours",
        "RecTools SASRec, our allocator",
        "targets_per_second",
        False,
    ),
    "sasrec_vs_rectools_our_allocator": (
        "our SASRec",
        "RecTools SASRec, our allocator",
        "targets_per_second",
        False,
    ),
    "evaluation_vs_recbole_our_allocator": (
        "our evaluation",
        "RecBole evaluation, our allocator",
        "seconds_best",
        True,
    ),
    "evaluation_vs_recbole_baby_size": (
        "our evaluation, baby-size",
        "RecBole evaluation, baby-size",
        "seconds_best",
        True,
    ),
    "targets_vs_recbole_sasrec_our_net": (
        "ours",
        "RecBole SASRec, our net",
        "targets_per_second",
        False,
    ),
    "sasrec_vs_recbole_our_net": (
        "our SASRec",
        "RecBole SASRec, our net",
        "targets_per_second",
        False,
    ),
    "evaluation_vs_recbole_our_batch": (
        "our evaluation",
        "RecBole evaluation, our batch",
        "seconds_best",
        True,
    ),
    "evaluation_vs_recbole_our_batch_and_net": (
        "our evaluation",
        "RecBole evaluation, our batch and net",
        "seconds_best",
        True,
    ),
    "evaluation_vs_recbole_baby_size_our_batch": (
        "our evaluation, baby-size",
        "RecBole evaluation, baby-size, our batch",
        "seconds_best",
        True,
    ),
    "evaluation_vs_recbole_baby_size_our_batch_and_net": (
        "our evaluation, baby-size",
        "RecBole evaluation, baby-size, our batch and net",
        "seconds_best",
        True,
    ),
    "targets_vs_authors_way_full_softmax": (
        "ours, full softmax",
        "authors' way, ml-1m-size",
        "targets_per_second",
        False,
    ),
    "targets_vs_recbole_sasrec_full_softmax": (
        "ours, full softmax",
        "RecBole SASRec",
        "targets_per_second",
        False,
    ),
    "targets_vs_rectools_sasrec_full_softmax": (
        "ours, full softmax",
        "RecTools SASRec",
        "targets_per_second",
        False,
    ),
    "two_processes_vs_one": (
        "ours, full softmax, two processes",
        "ours, full softmax",
        "targets_per_second",
        False,
    ),
    "sasrec_vs_recbole_gru4rec_ml100k": (
        "our SASRec, ml-100k",
        "RecBole GRU4Rec, ml-100k",
        "targets_per_second",
        False,
    ),
    "sasrec_vs_recbole_fdsa_ml100k": (
        "our SASRec, ml-100k",
        "RecBole FDSA, ml-100k",
        "targets_per_second",
        False,
    ),
    "sasrec_vs_recbole_ml100k": (
        "our SASRec, ml-100k",
        "RecBole SASRec, ml-100k",
        "targets_per_second",
        False,
    ),
}


def environment(name: str) -> Path:
    """The Python of a peer's own environment, made from its list of packages the first time."""
    if name == "ours":
        return Path(sys.executable)
    folder, wanted = HERE / "envs" / name, HERE / f"requirements-{name}.txt"
    if not (folder / "ready").is_file():
        print(f"setting up {name} (some minutes)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        for more in (["torch==2.13.0"], ["--requirement", wanted]):
            subprocess.run(
                [folder / "bin" / "python", "-m", "pip", "install", "--quiet", *more], check=True
            )
        (folder / "ready").touch()
    return folder / "bin" / "python"


def run(measure: str, more: dict | None = None) -> dict:
    """One measure in a process of its own."""
    where, task, workload, options = MEASURES[measure]
    script = HERE / ("ours.py" if where == "ours" else f"{where}_peer.py")
    several = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", options["processes"]]
        if "processes" in options
        else []
    )
    command = [
        environment(where),
        *several,
        script,
        task,
        HERE / "envs" / f"{workload}.npz",
        json.dumps({"warm": 4} | options | (more or {})),
    ]
    around = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    around |= ENVIRONMENT | (ALLOCATOR if options.get("runner") else {})
    shown = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=around,
        cwd=HERE / "envs",
    )
    if shown.returncode:
        raise SystemExit(
            f"ERROR: {measure}: {shown.stderr.strip().splitlines()[-1] if shown.stderr.strip() else 'no message'}"
        )
    return json.loads(shown.stdout.strip().splitlines()[-1])


def prepare() -> None:
    """The workloads as files that every environment reads."""
    (HERE / "envs").mkdir(exist_ok=True)
    for name in SIZES:
        if not (HERE / "envs" / f"{name}.npz").is_file():
            save(generated(name), HERE / "envs" / f"{name}.npz")
    if not (HERE / "envs" / "ml-100k.npz").is_file():
        found = next((environment("recbole").parent.parent / "lib").rglob("ml-100k.inter"))
        save(movielens_100k(found.parent), HERE / "envs" / "ml-100k.npz")


def best(rounds: list[dict]) -> dict:
    """The best of several rounds, figure by figure; versions as they are."""
    found = {}
    for key, value in rounds[0].items():
        values = [one[key] for one in rounds]
        less = not key.startswith(("targets_per_second", "float32", "bfloat16"))
        found[key] = value if isinstance(value, str) else min(values) if less else max(values)
    return found


def write(
    found: dict[str, list[dict]],
    ratios: dict[str, float],
    share: dict,
    spread: dict[str, list[float]],
    kinds: list[dict],
) -> None:
    """results.json, and its tables in README.md."""
    cpu = Path("/proc/cpuinfo")
    processor = re.search(r"model name\s*: (.+)", cpu.read_text()) if cpu.is_file() else None
    about = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True
        ).stdout.strip(),
        "processor": processor.group(1) if processor else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "threads a measure": 1,
        "rounds": ROUNDS,
    }
    raw = {name: {"best": best(rounds), "rounds": rounds} for name, rounds in found.items()}
    content = {
        "ratios": {name: round(value, 2) for name, value in ratios.items()} | share,
        "ratios by round": spread,
        "step by kind of operation": kinds,
        "made by": about,
        "measures": raw,
    }
    part = HERE / "results.json.part"
    part.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(part, HERE / "results.json")
    write_tables()


def gpu_lines() -> list[str]:
    """The figures of h200.json, a part a line or a few."""
    found = json.loads((HERE / "h200.json").read_text())
    large, medium, twice, losses = (
        found[name] for name in ("large", "medium", "repeats", "softmax")
    )
    about, lines = large["made by"], ["| what | figure |", "|---|---|"]
    for how, one in large.items():
        if how != "made by":
            told = f"{one['seconds']} s, {one['targets a second']:,} targets a second, device busy {one['busy, %']:.0f} % of the time, at most {one['peak GiB']} GiB"
            lines.append(
                f"| an epoch of every position at ML-25M's size ({one['targets']:,} targets, rows of up to 200, {one['rows a step']:,} a step), {how} | {told} |"
            )
    one = large["full softmax"]
    lines.append(
        f"| its matrix products | {one['products, TFLOP/s']:.0f} TFLOP/s, {100 * one['share of the bfloat16 peak']:.0f} % of what this device reaches on large ones in bfloat16 |"
    )
    flash = sum(
        share for name, share in one["shares of the device's time, %"].items() if "flash" in name
    )
    lines.append(
        f"| the part of the device's time that the catalogue's fused attention takes | {flash:.0f} % |"
    )
    steps = [
        (how, medium[how]["a step, ms"])
        for how in medium
        if isinstance(medium[how], dict) and "a step, ms" in medium[how]
    ]
    lines.append(
        f"| ML-1M's size (planted, {medium['items']:,} items, {medium['targets']:,} targets in {medium['steps']:,} steps) | best validation after {medium['seconds to the best validation']} s; all of it, with six looks at the validation users, {medium['seconds in all']} s |"
    )
    lines.append(f"| its step | {'; '.join(f'{how} {ms:.0f} ms' for how, ms in steps)} |")
    for how, one in losses.items():
        if how != "made by":
            lines.append(
                f"| the loss of 65,536 rows over 59,047 items, forward and backward, {how} | {one['ms']} ms, {one['peak MiB above its inputs']} MiB |"
            )
    lines.append(
        f"| the same training twice: {'; '.join(f'{how}' for how in twice if how != 'made by')} | {'; '.join(('the same bits' if one['same bits'] else 'other bits') + ', ' + str(one['seconds']) + ' s' for how, one in twice.items() if how != 'made by')} |"
    )
    pairs = {}
    for name, part in found.items():
        for key, one in (
            part["ndcg@20 of the test users"].items() if name.startswith("agreement") else ()
        ):
            pairs.setdefault(key, []).extend(
                b - a for a, b in zip(one["cpu, by seed"], one["gpu, by seed"])
            )
    lines += [
        "",
        "| NDCG@20 of the test users, GPU less CPU | mean over seeds | its standard error | seeds |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {key} | {np.mean(values):+.4f} | {np.std(values, ddof=1) / len(values) ** 0.5:.4f} | {len(values)} |"
        for key, values in pairs.items()
    ]
    return [
        f"{about['device']}, torch {about['versions']['torch']}, CUDA {about['cuda']}, {about['date']}.",
        "",
        *lines,
    ]


def write_tables() -> None:
    """The tables of results.json and h200.json, into README.md."""
    content = json.loads((HERE / "results.json").read_text())
    about = content["made by"]
    lines = [
        f"{about['processor']}, {about['instructions']}, {about['cores']} cores, {about['date']}.",
        "",
        "| ratio, ours over theirs | best rounds | round by round |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {value:.2f} | {', '.join(f'{one:.2f}' for one in content['ratios by round'].get(name, []))} |"
        for name, value in content["ratios"].items()
    ]
    lines += [
        "",
        "| measure | set | step, ms (median) | targets a second (best round) | peak memory, MB |",
        "|---|---|---|---|---|",
    ]
    for name, measured in content["measures"].items():
        one = measured["best"]
        if "targets_per_second" in one:
            step = f"{one['step_ms_best']:.0f} ({one['step_ms_median']:.0f})"
            lines.append(
                f"| {name} | {MEASURES[name][2]} | {step} | {one['targets_per_second']:,.0f} | {one['rss_mb']:,.0f} |"
            )
    lines += ["", "| evaluation | set | seconds (median) | peak memory, MB |", "|---|---|---|---|"]
    for name, measured in content["measures"].items():
        if "seconds_best" in (one := measured["best"]):
            lines.append(
                f"| {name} | {MEASURES[name][2]} | {one['seconds_best']:.2f} ({one['seconds_median']:.2f}) | {one['rss_mb']:,.0f} |"
            )
    lines += ["", "| a step of *ours, full softmax* | its time | of the peak |", "|---|---|---|"]
    for one in content["step by kind of operation"]:
        of_peak = f"{100 * one['share of peak']:.0f} %" if "share of peak" in one else ""
        lines.append(f"| {one['kind']} | {100 * one['share of time']:.0f} % | {of_peak} |")
    readme = HERE / "README.md"
    text = re.sub(
        r"<!-- results -->.*<!-- /results -->",
        "<!-- results -->\n" + "\n".join(lines) + "\n<!-- /results -->",
        readme.read_text(),
        flags=re.DOTALL,
    )
    text = re.sub(
        r"<!-- gpu -->.*<!-- /gpu -->",
        "<!-- gpu -->\n" + "\n".join(gpu_lines()) + "\n<!-- /gpu -->",
        text,
        flags=re.DOTALL,
    )
    readme.write_text(text)


def main(names: list[str]) -> None:
    prepare()
    wanted = {
        name: ratio for name, ratio in RATIOS.items() if not names or name.startswith(tuple(names))
    }
    measures = list(
        dict.fromkeys(side for ours, theirs, *_ in wanted.values() for side in (ours, theirs))
    ) + ["peak"]
    found: dict[str, list[dict]] = {name: [] for name in measures}
    for number in range(ROUNDS):
        for name in measures:
            found[name].append(run(name))
            print(
                f"round {number + 1}: {name}: {json.dumps({key: round(value, 1) for key, value in found[name][-1].items() if not isinstance(value, str)})}",
                flush=True,
            )
    ratios, spread = {}, {}
    for name, (ours, theirs, figure, less) in wanted.items():
        a, b = best(found[ours])[figure], best(found[theirs])[figure]
        ratios[name] = b / a if less else a / b
        rounds = [(one[figure], other[figure]) for one, other in zip(found[ours], found[theirs])]
        spread[name] = [round(other / one if less else one / other, 2) for one, other in rounds]
    share, kinds = {}, []
    if (name := "ours, full softmax") in found:
        flops = run(name, {"count_flops": True})["flops_per_target"]
        reached, limit = flops * best(found[name])["targets_per_second"] / 1e9, best(found["peak"])
        share = {
            "share_of_peak" if kind == "float32" else f"share_of_peak_{kind}": round(
                reached / limit[kind], 2
            )
            for kind in ("float32", "bfloat16")
            if kind in limit
        }
        profile = run(name, {"profile": True})
        whole = sum(profile["seconds"].values())
        kinds = [
            {"kind": kind, "share of time": round(seconds / whole, 3)}
            for kind, seconds in profile["seconds"].items()
        ]
        kinds[0]["share of peak"] = round(
            flops
            * profile["targets"]
            / profile["seconds"]["matrix products"]
            / 1e9
            / limit["float32"],
            2,
        )
    if not names:
        write(found, ratios, share, spread, kinds)
    print(json.dumps(ratios | share, indent=1))


if __name__ == "__main__":
    write_tables() if sys.argv[1:] == ["tables"] else main(sys.argv[1:])
