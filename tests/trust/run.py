"""`make trust [PARTS=...]`: the long part. Each part enters its figures into report.json, from
which the table of tests/README.md is written. default: the whole study killed at random moments,
until it ends with the committed bytes; chain: the profile smoke, which is starved of disk too;
memory: a long training; kernels: one notebook many times; fuzz and determinism: the quick tests
with far more inputs and ways. TRUST_KEEP=1 leaves the clone of `default` where it is."""

import hashlib
import json
import os
import platform
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
REPORT, README = ROOT / "tests" / "trust" / "report.json", ROOT / "tests" / "README.md"
KILLS, MEMORY_MINUTES, NOTEBOOK_RUNS, FUZZ_INPUTS = (
    int(os.environ.get(name, usual))
    for name, usual in (
        ("TRUST_KILLS", 30),
        ("TRUST_MINUTES", 120),
        ("TRUST_NOTEBOOKS", 50),
        ("FUZZ_INPUTS", 3000),
    )
)
ROOM = 700 << 20  # bytes of the disk that the chain works on
SHORTER = {
    "      training.num_steps: 120": "      training.num_steps: 12",
    "      transfer.num_steps: 40": "      transfer.num_steps: 8",
}  # stages of seconds, so that every kill meets another one
SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}


def fresh_signals() -> None:
    """A child that can be interrupted, also where its parent was started in the background, which
    ignores SIGINT."""
    os.setsid()
    for number in SIGNALS.values():
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)


class Clone:
    """A clone of the last commit on a small disk of its own, or, where none may be mounted, in an
    ordinary folder."""

    def __init__(self, profile: str = "smoke"):
        self.disk, self.profile, self.mounted = (
            Path(tempfile.mkdtemp(prefix="bivrec-trust-")),
            profile,
            False,
        )
        if profile == "smoke":
            self.mounted = (
                subprocess.run(
                    ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "none", self.disk],
                    capture_output=True,
                ).returncode
                == 0
            )
        self.root = self.disk / "clone"
        subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(self.root)], check=True)
        (self.root / ".venv").symlink_to((ROOT / ".venv").resolve())
        for name in (
            "requirements.lock",
            "pyproject.toml",
        ):  # older than .venv/ready, so that nothing is installed
            os.utime(self.root / name, (0, 0))
        params = (self.root / "params.yaml").read_text("utf-8")
        for old, new in SHORTER.items() if profile == "smoke" else ():
            assert params.count(f"{old}\n") == 1, old
            params = params.replace(old, new)
        (self.root / "params.yaml").write_text(params, "utf-8")

    def start(self, log: Path) -> subprocess.Popen:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BIVREC_", "PYTHON", "MAKE"))
        }
        with open(log, "a") as file:
            return subprocess.Popen(
                ["make", "repro", f"PROFILE={self.profile}"],
                cwd=self.root,
                stdout=file,
                stderr=file,
                env=kept,
                preexec_fn=fresh_signals,
            )

    def alive(self) -> list[psutil.Process]:
        """Every process that works in the clone."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and str(self.disk) in process.cwd():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    @property
    def saved(self) -> list[Path]:
        """The profile's files in results/: the default's lie in numbered folders and beside
        them."""
        if self.profile != "default":
            return [
                path for path in (self.root / "results" / self.profile).rglob("*") if path.is_file()
            ]
        places = [
            place
            for place in (self.root / "results").glob("*")
            if place.is_file() or place.name[:2].isdigit()
        ]
        return [
            path
            for place in places
            for path in ([place] if place.is_file() else place.rglob("*"))
            if path.is_file()
        ]

    def results(self) -> dict[str, str]:
        return {
            path.relative_to(self.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.saved
        }

    def half_written(self) -> list[str]:
        """What of results/ is there and cannot be read: JSON, tables, notebooks, pictures cut
        short."""
        broken = []
        for path in self.saved:
            content = path.read_bytes()
            whole = {
                ".png": content.endswith(b"IEND\xaeB`\x82"),
                ".ipynb": content.endswith(b"}\n"),
                ".json": content.endswith(b"}\n"),
            }
            if not whole.get(path.suffix, content.endswith(b"\n")):
                broken.append(path.name)
        return broken

    def wipe(self) -> None:
        for path in ("results/smoke", "build/smoke", "build/log", "dvc.lock"):
            target = self.root / path
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)

    def room(self, free: int | None) -> None:
        """Fills the disk up to so many free bytes; None: takes the filling away."""
        ballast = self.disk / "ballast"
        ballast.unlink(missing_ok=True)
        if free is not None:
            with open(ballast, "wb") as file:
                os.posix_fallocate(
                    file.fileno(), 0, max(1, shutil.disk_usage(self.disk).free - free)
                )

    def remove(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", self.disk], check=True)
        shutil.rmtree(self.disk, ignore_errors=True)


def undisturbed(clone: Clone, log: Path) -> tuple[dict[str, str], float]:
    started = time.monotonic()
    if clone.start(log).wait() != 0:
        raise SystemExit(f"the undisturbed run failed; see {log}")
    return clone.results(), time.monotonic() - started


def disturb(
    clone: Clone, kind: str, after: float, log: Path, generator: random.Random
) -> tuple[str, int]:
    """One run, killed after so many seconds, or with a disk that fills: how it ended, and how many
    processes outlived it."""
    if kind == "full disk":
        clone.room(generator.randrange(20_000, 2_000_000))
    process = clone.start(log)
    try:
        process.wait(after if kind != "full disk" else None)
    except subprocess.TimeoutExpired:
        stages = [
            one for one in clone.alive() if "run" in one.cmdline() and "bivrec" in one.cmdline()
        ]
        if kind == "SIGKILL" and stages and generator.random() < 0.5:  # the stage alone; then all
            stages[0].kill()
            process.wait()
        else:
            os.killpg(process.pid, SIGNALS[kind])
            process.wait()
    deadline = time.monotonic() + 30
    while (left := clone.alive()) and time.monotonic() < deadline:
        time.sleep(0.2)
    for orphan in left:
        orphan.kill()
    if kind == "full disk":
        clone.room(None)
    return ("ended" if process.returncode == 0 else "killed"), len(left)


def chain() -> dict:
    """`make repro PROFILE=smoke`, killed and started again until it ends; its results beside those
    of two undisturbed runs. What differs between these two, because it holds seconds, is left
    out."""
    generator, clone = random.Random(0), Clone()
    log = Path(tempfile.mkdtemp(prefix="bivrec-trust-log-")) / "make.log"
    try:
        first, seconds = undisturbed(clone, log)
        sizes = {name: (clone.root / name).stat().st_size for name in first}
        clone.wipe()
        second, _ = undisturbed(clone, log)
        steady = {name: told for name, told in first.items() if second.get(name) == told}
        clone.wipe()
        kinds = [kind for kind in SIGNALS for _ in range(KILLS // 3)]
        generator.shuffle(kinds)
        for place in (KILLS // 4, KILLS // 2) if clone.mounted else ():
            kinds.insert(place, "full disk")
        tried, orphans, broken, ended, differ, told = Counter(), 0, [], 0, [], []

        def compare() -> None:
            after = clone.results()
            differ.extend(
                name
                for name in first.keys() | after.keys()
                if (name in steady and after.get(name) != steady[name])
                or (name in first) != (name in after)
            )
            clone.wipe()

        for kind in kinds:
            offset = log.stat().st_size
            how, left = disturb(clone, kind, generator.uniform(1, seconds / 6), log, generator)
            said = log.read_text(errors="replace")[offset:]
            told += (
                [line for line in said.splitlines() if "ERROR: " in line]
                if kind == "full disk"
                else []
            )
            if how == "killed":
                tried[kind] += 1
            else:
                ended += 1
                compare()
            orphans, broken = orphans + left, broken + clone.half_written()
            print(f"{kind}: {how}, {left} left behind, {len(differ)} files differ", flush=True)
        undisturbed(clone, log)
        compare()
        stages = len([name for name in steady if name.endswith(".ipynb")])
        return {
            "seconds undisturbed": round(seconds, 1), "disk": "tmpfs" if clone.mounted else "none of its own: not filled", "disturbed runs": sum(tried.values()), "by": dict(tried),
            "ended and compared": ended + 1, "files compared": len(steady), "bytes compared": sum(sizes[name] for name in steady),
            "notebooks compared": stages, "files that differ": sorted(set(differ)), "left out, as they hold seconds": sorted(first.keys() - steady.keys()),
            "processes left behind": orphans, "half-written files": broken, "said on a full disk": sorted(set(told))[:5],
        }  # fmt: skip
    finally:
        shutil.copy(log, tempfile.gettempdir())
        clone.remove()


def default() -> dict:
    """`make repro`, from a clone whose results are gone, killed and started again: at last its
    results beside the committed ones."""
    generator, clone = random.Random(0), Clone("default")
    log = Path(tempfile.mkdtemp(prefix="bivrec-trust-log-")) / "make.log"
    try:
        committed, started = clone.results(), time.monotonic()
        sizes = {name: (clone.root / name).stat().st_size for name in committed}
        for path in clone.saved:
            path.unlink()
        kinds = [kind for kind in SIGNALS for _ in range(KILLS // 3)]
        generator.shuffle(kinds)
        tried, orphans, broken = Counter(), 0, []
        for kind in kinds:
            how, left = disturb(clone, kind, generator.uniform(10, 240), log, generator)
            tried[kind] += how == "killed"
            orphans, broken = orphans + left, broken + clone.half_written()
            print(f"{kind}: {how}, {left} left behind", flush=True)
            if how == "ended":
                break
        after, _ = undisturbed(clone, log)
        differ = sorted(
            name
            for name in committed.keys() | after.keys()
            if committed.get(name) != after.get(name)
        )
        return {
            "minutes": round((time.monotonic() - started) / 60), "disturbed runs": sum(tried.values()), "by": dict(tried), "files compared": len(committed),
            "bytes compared": sum(sizes.values()), "files that differ": differ, "processes left behind": orphans, "half-written files": broken,
        }  # fmt: skip
    finally:
        shutil.copy(log, tempfile.gettempdir())
        if "TRUST_KEEP" in os.environ:
            print(f"kept: {clone.root}", flush=True)
        else:
            clone.remove()


LONG_TRAINING = """
from bivrec.data.domain import Domain
from bivrec.experiment.training import train_model
import torch
torch.set_num_threads(1)
train_model(Domain("planted", {"training.num_steps": 10_000_000, "training.evaluate_every": 500}), "bivrec", 0)
"""


def environment() -> dict[str, str]:
    sys.path.insert(0, str(ROOT))
    from bivrec.pipeline.environment import ENVIRONMENT

    return os.environ | ENVIRONMENT | {"BIVREC_ROOT": str(ROOT), "PYTHONPATH": str(ROOT)}


def memory() -> dict:
    """A training as the pipeline trains: what it holds of memory, files and threads, from the
    second minute on."""
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_TRAINING], env=environment(), preexec_fn=fresh_signals
    )
    watched, samples, end = psutil.Process(process.pid), [], time.monotonic() + 60 * MEMORY_MINUTES
    while time.monotonic() < end and process.poll() is None:
        time.sleep(5)
        with watched.oneshot():
            samples.append(
                (watched.memory_info().rss / 2**20, watched.num_fds(), watched.num_threads())
            )
    ended_by_itself, seconds = (
        process.poll() is not None,
        sum(watched.cpu_times()[:2]) if process.poll() is None else 0,
    )
    process.kill(), process.wait()
    resident = [sample[0] for sample in samples[24:]]
    tenth = max(1, len(resident) // 10)
    first, last = statistics.mean(resident[:tenth]), statistics.mean(resident[-tenth:])
    return {
        "minutes": MEMORY_MINUTES, "CPU seconds": round(seconds), "samples": len(resident), "MiB at first": round(first, 1), "MiB at last": round(last, 1), "MiB at most": round(max(resident), 1),
        "growth": round(last / first - 1, 4),
        "MiB by minute": [round(sample[0], 1) for sample in samples[::12]], "files": sorted({sample[1] for sample in samples[24:]}), "threads": sorted({sample[2] for sample in samples[24:]}), "ended early": ended_by_itself,
    }  # fmt: skip


MANY_NOTEBOOKS = """
import json, os, sys, psutil
from bivrec.pipeline.cli import main
from bivrec.pipeline.notebooks import write_sources
write_sources()
me, rows = psutil.Process(), []
for _ in range(int(sys.argv[1])):
    assert main(["run", "01_small", "dataset=planted"]) == 0
    rows.append((me.num_fds(), me.num_threads(), len(me.children(recursive=True)), me.memory_info().rss / 2**20))
print(json.dumps(rows))
"""


def kernels() -> dict:
    """One notebook run again and again by one process: its handles, threads, children and memory
    after each run."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "notebooks").mkdir()
        shutil.copy(ROOT / "params.yaml", root)
        cells = [
            new_code_cell(
                'dataset = "planted"\nprofile = "default"', metadata={"tags": ["parameters"]}
            ),
            new_code_cell("import numpy\nnumpy.ones(5).sum()"),
        ]
        nbformat.write(new_notebook(cells=cells), root / "notebooks" / "01_small.ipynb")
        told = environment() | {"BIVREC_ROOT": folder}
        shown = subprocess.run(
            [sys.executable, "-c", MANY_NOTEBOOKS, str(NOTEBOOK_RUNS)],
            env=told,
            cwd=root,
            capture_output=True,
            text=True,
        )
        if shown.returncode:
            raise SystemExit(shown.stderr[-1000:])
        rows = json.loads(shown.stdout.splitlines()[-1])
        time.sleep(5)
        left = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(folder in word for word in process.info["cmdline"] or ())
        ]
    third = rows[2]  # the first runs load what all later ones use
    names = ("files", "threads", "children", "MiB")
    return {"runs": len(rows), **{f"{name} after run 3": round(value, 1) for name, value in zip(names, third)}, **{f"{name} at last": round(value, 1) for name, value in zip(names, rows[-1])}, "kernels left": len(left)}  # fmt: skip


def pytest_with(file: str, variable: str, **more: str) -> list[dict]:
    """The lines that a test file records when it runs at length."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.jsonl"
        shown = subprocess.run(
            [sys.executable, "-m", "pytest", file],
            cwd=ROOT,
            env=os.environ | {variable: str(record), "PYTHONPATH": str(ROOT)} | more,
        )
        if shown.returncode:
            raise SystemExit(f"{file} failed at length")
        return [json.loads(line) for line in record.read_text().splitlines()]


def fuzz() -> dict:
    rows = pytest_with("tests/test_fuzz.py", "FUZZ_RECORD", FUZZ_INPUTS=str(FUZZ_INPUTS))
    return {"readers": len(rows), "inputs": sum(row["inputs"] for row in rows), "read": sum(row["read"] for row in rows), "refused": sum(row["refused"] for row in rows), "by reader": rows}  # fmt: skip


def determinism() -> dict:
    return {"ways": pytest_with("tests/training/test_determinism.py", "TRUST_RECORD")}


PARTS = {
    "fuzz": fuzz,
    "determinism": determinism,
    "kernels": kernels,
    "memory": memory,
    "chain": chain,
    "default": default,
}


def differ(files: list) -> str:
    """How many files differ; where some do, README's limits say which."""
    if not files:
        return "0 differ"
    return f"{len(files)} {'differs' if len(files) == 1 else 'differ'} (see [Limits](#limits))"


def table(report: dict) -> str:
    """The figures of the report as the table of tests/README.md."""
    rows = []
    if d := report.get("default"):
        figure = f"{d['disturbed runs']} kills in {d['minutes']} minutes: of {d['files compared']} files ({d['bytes compared']:,} bytes) {differ(d['files that differ'])}"
        told = ", ".join(f"{count} by {kind}" for kind, count in sorted(d["by"].items()))
        rows += [
            (
                "killed at any moment, the whole study ends with the committed bytes",
                f"`default` from nothing, killed ({told}) and started again until it ended",
                figure,
            ),
            (
                "no half-written file, no kernel and no worker behind",
                "looked for after each of these kills",
                f"{len(d['half-written files'])} and {d['processes left behind']} found",
            ),
        ]
    if c := report.get("chain"):
        killed, full = (
            [
                f"{count} by {kind}"
                for kind, count in sorted(c["by"].items())
                if kind != "full disk"
            ],
            c["by"].get("full disk", 0),
        )
        compared = f"of {c['files compared']} files ({c['bytes compared']:,} bytes) {differ(c['files that differ'])}; {len(c['left out, as they hold seconds'])} that hold seconds left out"
        rows += [
            (
                "killed at any moment, `make repro` ends with the same bytes",
                f"`smoke` with trainings of a tenth, killed ({', '.join(killed)}) and started again until it ended",
                f"{c['disturbed runs'] - full} kills, ended {c['ended and compared']} times: {compared}",
            ),
            (
                "so does one that met a full disk",
                f"the same, on a disk filled up to 20 kB to 2 MB ({c['disk']})",
                f"{full} failed and went on",
            ),
            (
                "no half-written file in `results/`",
                "looked for after each kill",
                f"{len(c['half-written files'])} found",
            ),
            (
                "no kernel and no worker outlives its run",
                "looked for after each kill",
                f"{c['processes left behind']} found",
            ),
        ]
    if k := report.get("kernels"):
        held = f"open files {k['files after run 3']} after the third, {k['files at last']} at last; threads {k['threads after run 3']} and {k['threads at last']}; {k['MiB after run 3']} and {k['MiB at last']} MiB"
        rows.append(
            (
                "nothing leaks over many notebooks",
                f"{k['runs']} runs by one process",
                f"{held}; {k['kernels left']} kernels left",
            )
        )
    if m := report.get("memory"):
        how = f"{m['minutes']} minutes of `bivrec` on planted, a figure of the validation users every 500 steps ({m['CPU seconds']:,} CPU seconds), a look every 5 seconds, the first 2 minutes left out"
        rows.append(
            (
                "memory is flat over a long training",
                how,
                f"{m['MiB at first']} MiB at first, {m['MiB at last']} at last ({100 * m['growth']:+.1f} %)",
            )
        )
    if f := report.get("fuzz"):
        figure = (
            f"{f['inputs']:,} inputs: {f['read']:,} read, {f['refused']:,} refused, 0 otherwise"
        )
        rows.append(
            (
                "a reader reads, or refuses in one sentence",
                f"`test_fuzz.py`, {f['readers']} readers",
                figure,
            )
        )
    if d := report.get("determinism"):
        most = {name: max(way[name] for way in d["ways"]) for name in ("loss", "scores", "ndcg@20")}
        figure = f"loss within {most['loss']:.0e}, scores within {most['scores']:.0e} of the largest, NDCG@20 within {most['ndcg@20']:.4f}"
        rows.append(
            (
                "other threads and instructions stay within tolerances",
                f"`test_determinism.py`, {len(d['ways'])} ways, {d['ways'][0]['steps']} steps",
                figure,
            )
        )
    made = "; ".join(f"{name}: {report[name]['made']}" for name in PARTS if name in report)
    return "\n".join(
        [
            "| promised | tested by `make trust` | figure |",
            "| --- | --- | --- |",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"Made ({made}).",
        ]
    )


def write_table(report: dict) -> str:
    text = README.read_text("utf-8")
    return re.sub(
        r"<!-- trust -->.*<!-- /trust -->",
        lambda _: f"<!-- trust -->\n{table(report)}\n<!-- /trust -->",
        text,
        flags=re.DOTALL,
    )


def main(parts: list[str]) -> None:
    for name in parts or PARTS:
        started = time.monotonic()
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
        found = PARTS[name]()
        report = json.loads(REPORT.read_text()) if REPORT.is_file() else {}
        report[name] = {"made": f"{date.today()}, {commit}, {(time.monotonic() - started) / 60:.0f} minutes", "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}", **found}  # fmt: skip
        REPORT.write_text(json.dumps(report, indent=1) + "\n")
        print(
            f"{name}: {json.dumps({key: value for key, value in found.items() if key != 'by reader'})}",
            flush=True,
        )
        README.write_text(write_table(report), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
