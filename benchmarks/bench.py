"""`make bench`: our training and evaluation beside those of RecBole, RecTools and the authors' way.

Every measure is a process of its own, on one thread, and counts process time; the measures of a
ratio are taken in turn, several rounds, and the best round of each counts. Our models have the
study's default settings. Peers live in environments of their own under benchmarks/envs. The
allocator's settings under which our runner starts every training are ours, as they are part of what
is measured; what a peer gains from them is measured as well. Writes results.json and README.md.

    python benchmarks/bench.py [NAME ...]     only the ratios whose names begin so, nothing written
    python benchmarks/bench.py tables         results.json into README.md
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from record import HERE, fill, last_line, processor, provenance, read_json, write_json
from workloads import SIZES, generated, save

from bivrec.pipeline.environment import ENVIRONMENT

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "BIVREC_ROOT": str(HERE.parent),
    "PYTHONPATH": str(HERE.parent),
}
ALLOCATOR = {name: value for name, value in ENVIRONMENT.items() if name.startswith("MALLOC_")}
ROUNDS = int(os.environ.get("BENCH_ROUNDS", 3))

BABY, ML_1M = "baby-size", "ml-1m-size"
HARD, ONE_SCALE = {"model.readout": "hard"}, {"model.scales": [1]}
ONE_TARGET = {"training.supervision": "one_target"}
CHEAPER = HARD | {"training.num_negatives": 2048}
RUNNER = {"runner": True}  # under our runner's allocator
OUR_NET = {"inner_size": 64, "hidden_act": "relu"}  # ours and RecTools'; RecBole's: 256, gelu
OUR_BATCH = {"eval_batch_size": 256}  # users that we rank at a time; RecBole as installed: 4,096


def training(where: str, workload: str, steps: int, changes: dict | None = None, **more) -> tuple:
    """A measure of training steps: environment, task, workload, options."""
    baby = workload == BABY
    sizes = {"max_length": 20 if baby else 50, "batch_size": 2048 if baby else 256}
    return where, "train", workload, sizes | {"steps": steps, "changes": changes or {}} | more


def our_bivrec(workload: str, steps: int, changes: dict | None = None, **more) -> tuple:
    length = {} if workload == BABY else {"max_length": 52}  # a multiple of the largest scale
    more = RUNNER | length | more
    return training("ours", workload, steps, changes, model="bivrec", **more)


def our_sasrec(workload: str, steps: int) -> tuple:
    return training("ours", workload, steps, ONE_SCALE, model="sasrec", **RUNNER)


def recbole(model: str, workload: str, steps: int, changes: dict | None = None) -> tuple:
    return training("recbole", workload, steps, changes, model=model)


def rectools(form: str, steps: int, **more) -> tuple:
    return training("rectools", ML_1M, steps, form=form, **more)


def authors(workload: str, steps: int, **more) -> tuple:
    where, _, *rest = our_bivrec(workload, steps, HARD, **{"runner": False} | more)
    return where, "authors_way", *rest


def evaluation(where: str, workload: str, changes: dict | None = None, **more) -> tuple:
    where, _, _, options = training(where, workload, 0, changes, model="SASRec", **more)
    return where, "evaluate", workload, options | {"batch_size": 256, "rounds": 2}


MEASURES = {
    "BivRec": our_bivrec(ML_1M, 4),
    "BivRec, nearest interest, 2,048 items": our_bivrec(ML_1M, 4, CHEAPER),
    "SASRec": our_sasrec(ML_1M, 8),
    "authors' way": authors(ML_1M, 3),
    "RecBole SASRec": recbole("SASRec", ML_1M, 4),
    "RecBole SASRec, our net": recbole("SASRec", ML_1M, 4, OUR_NET),
    "RecTools SASRec": rectools("sasrec", 4),
    "RecTools flat SASRec": rectools("flat", 4),
    "RecTools flat SASRec, our allocator": rectools("flat", 4, **RUNNER),
    "RecTools eSASRec": rectools("esasrec", 4),
    "BivRec, one target": our_bivrec(BABY, 4, ONE_TARGET),
    "authors' way, baby-size": authors(BABY, 4),
    "our evaluation": evaluation("ours", ML_1M, ONE_SCALE, **RUNNER),
    "RecBole evaluation": evaluation("recbole", ML_1M),
    "RecBole evaluation, our settings": evaluation("recbole", ML_1M, OUR_BATCH | OUR_NET, **RUNNER),
    "peak": ("ours", "peak", BABY, {}),
}
RATIOS = {  # name: ours, theirs; the name says which figure
    "targets_vs_authors_way": ("BivRec", "authors' way"),
    "targets_vs_recbole_sasrec": ("BivRec", "RecBole SASRec"),
    "targets_vs_recbole_sasrec_our_net": ("BivRec", "RecBole SASRec, our net"),
    "targets_vs_rectools_sasrec": ("BivRec", "RecTools SASRec"),
    "targets_vs_rectools_flat_sasrec": ("BivRec", "RecTools flat SASRec"),
    "targets_vs_rectools_flat_sasrec_our_allocator": (
        "BivRec",
        "RecTools flat SASRec, our allocator",
    ),
    "targets_vs_rectools_flat_sasrec_cheaper": (
        "BivRec, nearest interest, 2,048 items",
        "RecTools flat SASRec",
    ),
    "targets_vs_rectools_esasrec": ("BivRec", "RecTools eSASRec"),
    "sasrec_vs_recbole": ("SASRec", "RecBole SASRec"),
    "sasrec_vs_recbole_our_net": ("SASRec", "RecBole SASRec, our net"),
    "sasrec_vs_rectools_sasrec": ("SASRec", "RecTools SASRec"),
    "sasrec_vs_rectools_flat_sasrec": ("SASRec", "RecTools flat SASRec"),
    "train_vs_authors_way": ("BivRec, one target", "authors' way, baby-size"),
    "memory_vs_authors_way": ("BivRec, one target", "authors' way, baby-size"),
    "evaluation_vs_recbole": ("our evaluation", "RecBole evaluation"),
    "evaluation_vs_recbole_our_settings": ("our evaluation", "RecBole evaluation, our settings"),
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


def run_process(where: str, task: str, workload: Path, options: dict) -> dict:
    """What a task gives in a process of its own, under our runner's allocator if it is `runner`."""
    script = HERE / ("ours.py" if where == "ours" else f"{where}_peer.py")
    command = [str(x) for x in (environment(where), script, task, workload, json.dumps(options))]
    around = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    around |= ONE_THREAD | (ALLOCATOR if options.get("runner") else {})
    (folder := HERE / "envs").mkdir(exist_ok=True)
    process = subprocess.run(command, capture_output=True, text=True, env=around, cwd=folder)
    if process.returncode:
        raise SystemExit(f"ERROR: {where} {task} {options}: {last_line(process)}")
    return json.loads(last_line(process))


def run(measure: str, more: dict | None = None) -> dict:
    """One measure."""
    where, task, workload, options = MEASURES[measure]
    path = HERE / "envs" / f"{workload}.npz"
    return run_process(where, task, path, {"warm": 2} | options | (more or {}))


def prepare() -> None:
    """The workloads as files that every environment reads."""
    (HERE / "envs").mkdir(exist_ok=True)
    for name in SIZES:
        if not (HERE / "envs" / f"{name}.npz").is_file():
            save(generated(name), HERE / "envs" / f"{name}.npz")


def figure_of(ratio: str) -> tuple[str, bool]:
    """The figure of both sides that a ratio compares, and whether less of it is better."""
    if ratio.startswith("memory"):
        return "rss_mb", True
    return (
        ("seconds_best", True) if ratio.startswith("evaluation") else ("targets_per_second", False)
    )


def compare(ratio: str, ours: dict, theirs: dict) -> float:
    """How much better ours is."""
    figure, less = figure_of(ratio)
    return theirs[figure] / ours[figure] if less else ours[figure] / theirs[figure]


def best(rounds: list[dict]) -> dict:
    """The best of several rounds, figure by figure; versions as they are."""
    figures = {}
    for key, value in rounds[0].items():
        values = [one[key] for one in rounds]
        more = key.startswith(("targets_per_second", "float32", "bfloat16"))
        figures[key] = value if isinstance(value, str) else max(values) if more else min(values)
    return figures


def measure_rounds(names: list[str]) -> dict[str, list[dict]]:
    """Every measure in turn, and again."""
    measured: dict[str, list[dict]] = {name: [] for name in names}
    for number in range(ROUNDS):
        for name in names:
            measured[name].append(run(name))
            figures = {
                key: round(value, 1)
                for key, value in measured[name][-1].items()
                if not isinstance(value, str)
            }
            print(f"round {number + 1}: {name}: {json.dumps(figures)}", flush=True)
    return measured


def profile_step(name: str, measured: dict[str, list[dict]]) -> tuple[dict, list[dict]]:
    """Shares of the machine's peak that a step reaches, and where its time goes."""
    flops = run(name, {"count_flops": True})["flops_per_target"]
    limit = best(measured["peak"])
    reached = flops * best(measured[name])["targets_per_second"] / 1e9
    share = {
        "share_of_peak" if dtype == "float32" else f"share_of_peak_{dtype}": round(
            reached / limit[dtype], 2
        )
        for dtype in ("float32", "bfloat16")
        if dtype in limit
    }
    profile = run(name, {"profile": True})
    groups = shares_of(profile["seconds"])
    products = flops * profile["targets"] / profile["seconds"]["matrix products"] / 1e9
    groups[0]["share of peak"] = round(products / limit["float32"], 2)
    return share, groups


def shares_of(seconds: dict[str, float]) -> list[dict]:
    """Each group of operations with its share of the time."""
    whole = sum(seconds.values())
    return [{"kind": name, "share of time": round(x / whole, 3)} for name, x in seconds.items()]


def limit_of_evaluation(groups: list[dict], best_of: dict[str, dict]) -> str:
    """How far RecBole's evaluation with our net can be outrun, in a sentence."""
    shares = {one["kind"]: one["share of time"] for one in groups}
    share = shares["matrix products"] + shares["attention"]
    seconds = share * best_of["our evaluation"]["seconds_best"]
    ratio = best_of["RecBole evaluation, our settings"]["seconds_best"] / seconds
    return (
        f"Products and attention alone take {seconds:.2f} s of our evaluation. With our settings, "
        f"RecBole computes the same ones and more, so the ratio would stay below {ratio:.1f} if all "
        "else were free."
    )


def write_tables() -> None:
    """The tables of results.json, into README.md."""
    content = read_json(HERE / "results.json")
    about, by_round = content["made by"], content["ratios by round"]
    lines = [
        f"{about['processor']}, {about['instructions']}, {about['cores']} cores, {about['date']}; "
        f"{about['rounds']} rounds; load average {about['load']:.1f}, of which the run itself is 1.",
        "",
        "| how many times better ours is | best rounds | round by round |",
        "|---|---|---|",
    ]
    for name, value in content["ratios"].items():
        rounds = ", ".join(f"{one:.2f}" for one in by_round.get(name, []))
        lines.append(f"| {name} | {value:.2f} | {rounds} |")
    best_of = {name: measured["best"] for name, measured in content["measures"].items()}
    lines += [
        "",
        "| measure | set | median step, ms (fastest) | targets a second (best round) | peak memory, MB |",
        "|---|---|---|---|---|",
    ]
    for name, one in best_of.items():
        if "targets_per_second" in one:
            step = f"{one['step_ms_median']:.0f} ({one['step_ms_best']:.0f})"
            figures = f"{step} | {one['targets_per_second']:,.0f} | {one['rss_mb']:,.0f}"
            lines.append(f"| {name} | {MEASURES[name][2]} | {figures} |")
    lines += ["", "| evaluation | set | seconds (median) | peak memory, MB |", "|---|---|---|---|"]
    for name, one in best_of.items():
        if "seconds_best" in one:
            figures = f"{one['seconds_best']:.2f} ({one['seconds_median']:.2f})"
            lines.append(f"| {name} | {MEASURES[name][2]} | {figures} | {one['rss_mb']:,.0f} |")
    lines += ["", "| a step of *BivRec* | its time | of the peak |", "|---|---|---|"]
    for one in content["step by kind of operation"]:
        of_peak = f"{100 * one['share of peak']:.0f} %" if "share of peak" in one else ""
        lines.append(f"| {one['kind']} | {100 * one['share of time']:.0f} % | {of_peak} |")
    lines += ["", "| *our evaluation* | its time |", "|---|---|"]
    for one in content["evaluation by kind of operation"]:
        lines.append(f"| {one['kind']} | {100 * one['share of time']:.0f} % |")
    lines += ["", limit_of_evaluation(content["evaluation by kind of operation"], best_of)]
    fill("results", lines)


def summarise(measured: dict[str, list[dict]]) -> dict:
    """What results.json holds: the measures, and the ratios of those whose sides are among them."""
    ratios, by_round, groups, evaluated = {}, {}, [], []
    for name, pair in RATIOS.items():
        if measured.keys() >= set(pair):
            ours, theirs = (measured[side] for side in pair)
            ratios[name] = round(compare(name, best(ours), best(theirs)), 2)
            by_round[name] = [round(compare(name, *one), 2) for one in zip(ours, theirs)]
    if "BivRec" in measured:
        share, groups = profile_step("BivRec", measured)
        ratios |= share
    if "our evaluation" in measured:
        evaluated = shares_of(run("our evaluation", {"profile": True})["seconds"])
    about = provenance() | {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads a measure": 1,
        "rounds": ROUNDS,
        "load": round(os.getloadavg()[2], 1),  # of the last 15 minutes
    }
    measures = {name: {"best": best(rounds), "rounds": rounds} for name, rounds in measured.items()}
    return {
        "ratios": ratios,
        "ratios by round": by_round,
        "step by kind of operation": groups,
        "evaluation by kind of operation": evaluated,
        "made by": about,
        "measures": measures,
    }


def main(names: list[str]) -> None:
    prepare()
    pairs = [pair for name, pair in RATIOS.items() if name.startswith(tuple(names or [""]))]
    content = summarise(measure_rounds([*dict.fromkeys(itertools.chain(*pairs)), "peak"]))
    print(json.dumps(content["ratios"], indent=1))
    if not names:
        write_json(HERE / "results.json", content)
        write_tables()


if __name__ == "__main__":
    write_tables() if sys.argv[1:] == ["tables"] else main(sys.argv[1:])
