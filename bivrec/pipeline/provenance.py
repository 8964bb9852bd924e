"""What made a result: commit, machine, package versions, seconds."""

import json
import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bivrec.outputs import write_atomically
from bivrec.settings import profile_folder, project_root

PACKAGES = ("torch", "numpy", "scipy", "pandas", "scikit-learn", "sentence-transformers")
GIT = ("git", "-c", "safe.directory=*")  # read-only here, whoever owns the folder
SOURCES = ("bivrec", "own", "notebooks", "params.yaml", "dvc.yaml", "data.dvc")


def run_and_read_lines(*command: str) -> list[str]:
    """The lines a command prints; none if it fails or is not installed."""
    try:
        done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
    except OSError:
        return []
    return [] if done.returncode else done.stdout.splitlines()


def describe_machine() -> dict[str, Any]:
    """Commit, machine and versions, as they are now."""
    info = Path("/proc/cpuinfo")
    processor = re.search(r"model name\s*: (.+)", info.read_text()) if info.is_file() else None
    changed = run_and_read_lines(*GIT, "status", "--porcelain", "--", *SOURCES)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "commit": next(iter(run_and_read_lines(*GIT, "rev-parse", "HEAD")), None),
        "changed since": [line[3:] for line in changed],
        "processor": processor[1] if processor else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory, GiB": round(memory / 2**30, 1),
        **({"processes": int(os.environ["WORLD_SIZE"])} if "WORLD_SIZE" in os.environ else {}),
        "GPU": run_and_read_lines("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
        "system": platform.platform(),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
    }


def provenance_file(profile: str) -> Path:
    """A profile's record: in results/, but in build/log for `default`, whose results have the same
    bytes after each run."""
    place = "build/log" if profile == "default" else "results"
    return profile_folder(place, profile) / "provenance.json"


def _read_makers(profile: str) -> list[dict[str, Any]]:
    """The machines on record, each with the stages whose results are still there."""
    results = profile_folder("results", profile)
    try:
        makers = json.loads(provenance_file(profile).read_text("utf-8"))["made by"]
        for maker in makers:
            stages = maker["stages"].items()
            maker["stages"] = {name: run for name, run in stages if (results / name).is_dir()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return makers


def record_stage(profile: str, stage: str, seconds: float) -> None:
    """Enters a stage, with its date and seconds, under the machine that ran it."""
    makers, here = _read_makers(profile), describe_machine()
    for maker in makers:
        maker["stages"].pop(stage, None)
    same = next((maker for maker in makers if here.items() <= maker.items()), here | {"stages": {}})
    date = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    same["stages"][stage] = {"date": date, "seconds": round(seconds, 1)}
    makers = [maker for maker in makers if maker["stages"] and maker is not same] + [same]
    total = sum(run["seconds"] for maker in makers for run in maker["stages"].values())
    record = {"profile": profile, "seconds": round(total, 1), "made by": makers}
    write_atomically(provenance_file(profile), json.dumps(record, indent=1) + "\n")


def summary(profile: str, since: str) -> str:
    """The stages that ended after a time (UTC, as in provenance.json), and where to look."""
    stages = [item for maker in _read_makers(profile) for item in maker["stages"].items()]
    ran = sorted(
        (run["date"], name, run["seconds"])
        for name, run in stages
        if run["date"].removesuffix(" UTC") > since
    )
    total = sum(seconds for *_, seconds in ran)
    lines = ["Nothing had to run: every result is up to date."]
    if ran:
        lines = [f"{len(ran)} stages ran, {total // 60:.0f} min {total % 60:.0f} s together:"]
    lines += [f"  {name:<34}{s // 60:>4.0f} min {s % 60:>2.0f} s" for _, name, s in ran]
    results = profile_folder("results", profile).relative_to(project_root())
    notebook = f"{results}/08_report/all/08_report.ipynb"
    lines.append(f"Look at {notebook} (`make lab`), or at `git status results` for what changed.")
    return "\n".join(lines)
