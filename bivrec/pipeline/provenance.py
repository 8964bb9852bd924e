"""What made a result."""

import json
import os
import platform
import re
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from bivrec.outputs import write_atomically
from bivrec.pipeline.environment import PACKAGES
from bivrec.settings import profile_folder, project_root


def told_by(*command: str) -> list[str]:
    """The lines that a command says; none where it fails or is not installed."""
    try:
        shown = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
    except OSError:
        return []
    return [] if shown.returncode else shown.stdout.splitlines()


def record_stage(profile: str, stage: str, seconds: float) -> None:
    """Enters a stage under what made it (commit, machine, versions) into its profile's provenance.json, which lies in
    results/; that of the default profile, whose results are the same bytes on each run, in build/log."""
    results, cpu = profile_folder("results", profile), Path("/proc/cpuinfo")
    path = (
        profile_folder("build/log", profile) if profile == "default" else results
    ) / "provenance.json"
    processor = re.search(r"model name\s*: (.+)", cpu.read_text()) if cpu.is_file() else None
    maker = {
        "commit": next(iter(told_by("git", "rev-parse", "HEAD")), None),
        "changed since": [
            line[3:]
            for line in told_by(
                "git",
                "status",
                "--porcelain",
                "--",
                "bivrec",
                "notebooks",
                "params.yaml",
                "*dvc.yaml",
                "data.dvc",
            )
        ],
        "processor": processor.group(1) if processor else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory, GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        **({"processes": int(os.environ["WORLD_SIZE"])} if "WORLD_SIZE" in os.environ else {}),
        "GPU": told_by("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
        "system": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
    }
    try:
        makers = json.loads(path.read_text("utf-8"))["made by"]
        for other in makers:
            other["stages"] = {
                name: known
                for name, known in other["stages"].items()
                if name != stage and (results / name).is_dir()
            }
    except (OSError, ValueError, KeyError, TypeError):
        makers = []
    same = next(
        (other for other in makers if maker.items() <= other.items()), maker | {"stages": {}}
    )
    same["stages"][stage] = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "seconds": round(seconds, 1),
    }
    makers = [other for other in makers if other["stages"] and other is not same] + [same]
    total = sum(known["seconds"] for other in makers for known in other["stages"].values())
    write_atomically(
        path,
        json.dumps({"profile": profile, "seconds": round(total, 1), "made by": makers}, indent=1)
        + "\n",
    )


def summary(profile: str, since: str) -> str:
    """What ran since a minute (UTC, as provenance.json writes it), how long each stage took, and where to look."""
    folder = profile_folder("build/log" if profile == "default" else "results", profile)
    try:
        makers = json.loads((folder / "provenance.json").read_text("utf-8"))["made by"]
        ran = [
            (told["date"], name, told["seconds"])
            for maker in makers
            for name, told in maker["stages"].items()
            if told["date"] >= since
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        ran = []
    lines = [
        f"  {name:<34}{seconds // 60:>4.0f} min {seconds % 60:>2.0f} s"
        for _, name, seconds in sorted(ran)
    ]
    total = sum(seconds for *_, seconds in ran)
    told = (
        [f"{len(ran)} stages ran, {total // 60:.0f} min {total % 60:.0f} s together:", *lines]
        if ran
        else ["Nothing had to run: every result is up to date."]
    )
    results = profile_folder("results", profile).relative_to(project_root())
    return "\n".join(
        [
            *told,
            f"Look at {results}/08_report/all/08_report.ipynb (`make lab`), or at `git status results` for what changed.",
        ]
    )
