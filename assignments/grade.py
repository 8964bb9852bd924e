"""Grades a folder of notebooks offline: `make grade SUBMISSION=folder`.

Each submission runs in a sealed process (sealed.py) with bounded time, memory, files and processes.
Whatever one submission does, the others are graded, and grades.csv reports what happened.
"""

import sys

if __name__ == "__main__" and sys.platform != "linux":  # where fcntl and resource may be missing
    sys.exit(f"ERROR: the grader needs Linux, not {sys.platform}; run it in a Linux container")

import argparse
import csv
import ctypes
import fcntl
import hashlib
import json
import os
import re
import resource
import secrets
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from sealed import landlock_version, read_cases  # noqa: E402

ROOT = HERE.parent
COURSE = ROOT / "build" / "course"
MiB = 1 << 20
TABLES = {
    "grades.csv": [
        "submission",
        "assignment",
        "outcome",
        "points",
        "of",
        "by hand",
        "by hand, of",
        "processor seconds",
        "what happened",
    ],
    "tasks.csv": ["submission", "assignment", "task", "points", "of", "hint"],
}


@dataclass(frozen=True)
class Limits:
    """Limits; the first two end a cell or a test, the others the whole submission."""

    cell_seconds: float = 60  # CPU time; the limit of wall time is four times as long
    test_seconds: float = 20
    processor_seconds: int = 300  # CPU time of one process
    seconds: float = 900  # wall time of the submission
    memory: int = 3072  # MiB: address space of one process, and resident memory of all
    file_size: int = 64  # MiB, largest file
    folder_size: int = 256  # MiB, all files together
    processes: int = 32
    notebook_size: int = 20  # MiB, as submitted


@dataclass
class Graded:
    """The result of one submission: points by task, and one line for each problem."""

    submission: str
    assignment: str = ""
    outcome: str = "graded"
    notes: list[str] = field(default_factory=list)
    points: dict[str, float] = field(default_factory=dict)
    possible: dict[str, float] = field(default_factory=dict)
    hints: dict[str, list[str]] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    seconds: float = 0.0  # CPU time


class Ended(Exception):
    """A submission exceeded a limit or ended; its arguments are the outcome and a note."""


def plain(text: str) -> str:
    """Text from a submission as one line that a spreadsheet reads as text, not as a formula."""
    line = re.sub(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\uffff]+", " ", str(text))[:300].strip()
    return f"'{line}" if line[:1] in "=+-@" else line


def find_notebooks(folder: Path) -> list[Path]:
    """Every notebook in the folder, at any depth, sorted; links are not followed.

    Leaves out what systems and editors add: names that begin with a dot (`.ipynb_checkpoints`,
    macOS's `._x.ipynb`) and macOS's folder `__MACOSX`."""
    results = []
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and name != "__MACOSX"]
        notebooks = (name for name in names if name[0] != "." and name.endswith(".ipynb"))
        results += [Path(top) / name for name in notebooks]
    return sorted(results)


def read_notebook(path: Path, limits: Limits) -> dict:
    """The parts of a submitted notebook that are graded: type, source and tags of each cell."""
    if path.is_symlink() or not path.is_file():
        raise Ended("unreadable", "it is a link or not a file; ask for the notebook itself")
    if path.stat().st_size > limits.notebook_size * MiB:
        raise Ended(
            "unreadable",
            f"{path.stat().st_size / MiB:.0f} MiB, more than {limits.notebook_size}; "
            "ask for it with its outputs cleared",
        )
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        cells = []
        for cell in read["cells"]:
            tags = [str(tag) for tag in cell.get("metadata", {}).get("tags", [])]
            cells.append(
                {
                    "cell_type": str(cell["cell_type"]),
                    "source": "".join(cell["source"]),
                    "tags": tags,
                }
            )
        return {
            "assignment": str(read["metadata"].get("otter", {}).get("assignment_name", "")),
            "cells": cells,
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Ended(
            "unreadable",
            f"not a notebook ({type(error).__name__}); ask for the .ipynb as saved by Jupyter",
        ) from None


def read_tests(course: Path, assignment: str) -> tuple[dict[str, str], dict[str, str]]:
    """The test files of an assignment by task: the students' copy, and the full tests."""
    if not re.fullmatch(r"\w+", assignment) or not (course / assignment).is_dir():
        raise Ended(
            "not of the course",
            f"its metadata names the assignment {plain(assignment)!r}; "
            "ask for the student's copy, filled in",
        )
    return tuple(
        {
            path.stem: path.read_text()
            for path in sorted((course / assignment / kind / "tests").glob("*.py"))
        }
        for kind in ("student", "autograder")
    )


def descendants() -> list[psutil.Process]:
    """All processes started from this one, at any depth, including orphans (`adopt_orphans`)."""
    return psutil.Process().children(recursive=True)


def adopt_orphans() -> None:
    """Makes this process the parent of orphans, so that none escapes by leaving its group."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def end_all() -> None:
    """Kills all descendants, repeatedly, until none is left."""
    for _ in range(200):
        results = descendants()
        if not results:
            return
        for process in results:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(results, timeout=0.1)


def processor_seconds() -> float:
    """CPU time of the descendants that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def size_of(folder: Path) -> int:
    """The total size of the files in a folder, in bytes."""
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # the submission has removed it
                total += os.lstat(os.path.join(top, name)).st_size
    return total


def watch(folder: Path, limits: Limits, started: float) -> None:
    """Raises Ended if a submission exceeds a limit; counts all of its processes together."""
    if time.monotonic() - started > limits.seconds:
        raise Ended("time limit", f"stopped after {limits.seconds:g} s")
    held, running = 0, descendants()
    for process in running:
        try:
            held += process.memory_info().rss
        except psutil.NoSuchProcess:
            pass
    if len(running) > limits.processes:
        raise Ended(
            "process limit", f"stopped with {len(running)} processes, more than {limits.processes}"
        )
    if held > limits.memory * MiB:
        raise Ended("memory limit", f"stopped with {held // MiB} MiB, more than {limits.memory}")
    if size_of(folder) > limits.folder_size * MiB:
        raise Ended("disk limit", f"stopped with more than {limits.folder_size} MiB of files")


def listen(
    child: subprocess.Popen, pipe: int, token: str, folder: Path, limits: Limits, started: float
) -> Iterator[dict]:
    """Yields the child's messages within its limits; raises Ended on a line without the token."""
    buffer, heard, selector, looked = b"", 0, selectors.DefaultSelector(), 0.0
    selector.register(pipe, selectors.EVENT_READ)
    while True:
        if time.monotonic() - looked > 0.3:
            watch(folder, limits, started)
            looked = time.monotonic()
        if not selector.select(0.3):
            continue
        part = os.read(pipe, 1 << 16)
        buffer, heard = buffer + part, heard + len(part)
        if heard > 4 * MiB:
            raise Ended("broken report", "it wrote into the grader's pipe")
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
                assert message["token"] == token
            except (ValueError, AssertionError, RecursionError, TypeError, KeyError):
                raise Ended("broken report", "it wrote into the grader's pipe") from None
            yield message
        if not part:
            try:
                code = child.wait(5)
            except subprocess.TimeoutExpired:
                raise Ended("broken report", "it closed the grader's pipe") from None
            if code == -signal.SIGXCPU:
                raise Ended(
                    "time limit", f"stopped after {limits.processor_seconds} s of the processor"
                )
            reason = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
            raise Ended("ended early", f"its process ended {reason}")


def converse(
    child: subprocess.Popen,
    messages: Iterator[dict],
    send: int,
    visible: dict,
    whole: dict,
    graded: Graded,
) -> list[tuple]:
    """Runs cells, visible tests, then hidden tests; returns the results of all cases.

    No text is accepted from the child once it has received the hidden tests."""
    results, at, waiting_for = [], 0, "cells"
    try:
        for message in messages:
            if "at" in message and waiting_for == "cells":
                at = int(message["at"])
            elif "cell" in message and waiting_for == "cells" and len(graded.notes) < 10:
                graded.notes.append(f"cell {int(message['cell'])}: {plain(message['error'])}")
            elif "ran" in message and waiting_for == "cells":
                at, waiting_for = 0, "visible"
                if message["altered"]:
                    names = ", ".join(map(plain, message["altered"]))
                    raise Ended(
                        "altered the tests' tools",
                        f"{names} is no longer what it was; look at the notebook",
                    )
                os.write(send, json.dumps(visible).encode() + b"\n")
            elif "cases" in message and waiting_for in ("visible", "hidden"):
                for case in message["cases"]:
                    shown = plain(case["message"]) if waiting_for == "visible" else ""
                    results.append(
                        (
                            str(case["task"]),
                            waiting_for == "hidden",
                            int(case["case"]),
                            case["passed"] is True,
                            shown,
                        )
                    )
                if waiting_for == "hidden":
                    return results
                waiting_for = "hidden"
                os.write(send, json.dumps(whole).encode() + b"\n")
    except (KeyError, TypeError, ValueError, OSError):
        raise Ended("broken report", "it wrote into the grader's pipe") from None
    except Ended as ended:
        outcome, note = ended.args
        raise Ended(outcome, f"{note}, in cell {at}" if at else note) from None
    return results


def places(folder: Path) -> dict[str, list[str]]:
    """What a sealed process may list, read and write.

    It reads Python, its packages, the system's libraries and the package bivrec, and writes its own
    folder; it sees neither the course nor other submissions."""
    packages = [
        entry
        for entry in sys.path
        if entry and Path(entry).is_dir() and Path(entry).resolve() not in (HERE, ROOT)
    ]
    system = [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/etc",
        "/proc",
        "/sys",
        "/dev/zero",
        "/dev/random",
        "/dev/urandom",
    ]
    readable = [
        *system,
        sys.prefix,
        sys.base_prefix,
        *packages,
        str(ROOT / "bivrec"),
        str(ROOT / "params.yaml"),
    ]
    return {"listed": [str(ROOT)], "readable": readable, "writable": [str(folder), "/dev/null"]}


def start(
    folder: Path, limits: Limits, sealed: bool, preload: list[str]
) -> tuple[subprocess.Popen, int, int, str]:
    """Starts the child in its own process group, folder and home directory.

    Returns the child, the pipe to it, the pipe from it, and the token that its messages carry."""
    (hear, send), (receive, speak) = os.pipe(), os.pipe()
    settings = {
        "hear": hear,
        "speak": speak,
        "sealed": sealed,
        "notebook": str(folder / "submission.json"),
        "preload": preload,
    } | places(folder)
    settings |= {
        "processor_seconds": limits.processor_seconds,
        "memory": limits.memory * MiB,
        "file_size": limits.file_size * MiB,
        "cell_seconds": limits.cell_seconds,
        "test_seconds": limits.test_seconds,
    }
    environment = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "MPLCONFIGDIR": str(folder),
        "MPLBACKEND": "agg",
    }
    environment |= {
        "PYTHONPATH": str(ROOT),
        "BIVREC_ROOT": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    child = subprocess.Popen(
        [sys.executable, "-P", str(HERE / "sealed.py"), json.dumps(settings)],
        cwd=folder, env=environment, pass_fds=(hear, speak), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(hear)
    os.close(speak)
    fcntl.fcntl(
        send, fcntl.F_SETPIPE_SZ, MiB
    )  # all tests fit, so a child that does not read them blocks nothing
    os.set_blocking(send, False)
    token = secrets.token_hex(16)
    os.write(send, f"{token}\n".encode())
    return child, send, receive, token


def add_points(graded: Graded, whole: dict[str, str], results: list[tuple]) -> None:
    """Adds points by task for the cases that passed, and hints for those that failed.

    The hint of a visible test is its message; a hidden test has a configured hint."""
    passed = {(task, hidden, case): (ok, message) for task, hidden, case, ok, message in results}
    for task, source in whole.items():
        shown = 0
        for number, (_, about) in enumerate(read_cases(source)):
            key = (task, about["hidden"], number if about["hidden"] else shown)
            shown += not about["hidden"]
            ok, message = passed.get(key, (False, ""))
            graded.possible[task] = graded.possible.get(task, 0) + about["points"]
            graded.points[task] = graded.points.get(task, 0) + about["points"] * ok
            if results and not ok:
                graded.hints.setdefault(task, []).append(
                    about.get("failure_message") or "" if about["hidden"] else message
                )


def grade(
    path: Path, name: str, course: Path, limits: Limits, sealed: bool, preload: list[str]
) -> Graded:
    """Grades one submission; no error of the submission is raised here."""
    graded, started, folder = (
        Graded(plain(name)),
        time.monotonic(),
        Path(tempfile.mkdtemp(prefix="submission-")),
    )
    whole, results, open_pipes, used = {}, [], [], processor_seconds()
    adopt_orphans()
    try:
        notebook = read_notebook(path, limits)
        visible, whole = read_tests(course, notebook["assignment"])
        graded.assignment = notebook["assignment"]
        graded.answers = [
            cell["source"]
            for cell in notebook["cells"]
            if cell["cell_type"] == "markdown" and "otter_answer_cell" in cell["tags"]
        ]
        (folder / "submission.json").write_text(json.dumps(notebook))
        for extra in (course / graded.assignment / "student").glob("*.py"):
            shutil.copy(extra, folder)
        child, send, receive, token = start(folder, limits, sealed, preload)
        open_pipes = [send, receive]
        results = converse(
            child,
            listen(child, receive, token, folder, limits, started),
            send,
            visible,
            whole,
            graded,
        )
    except Ended as ended:
        graded.outcome, note = ended.args
        graded.notes.append(note)
    except Exception as error:
        graded.outcome = "the grader failed"
        graded.notes.append(plain(f"{type(error).__name__}: {error}"))
    finally:
        end_all()
        for pipe in open_pipes:
            os.close(pipe)
        shutil.rmtree(folder, ignore_errors=True)
    add_points(graded, whole, results)
    graded.seconds = round(processor_seconds() - used, 1)
    return graded


def _grade_one(job: tuple) -> Graded:
    return grade(*job)


def read_earlier(out: Path, name: str) -> list[dict[str, str]]:
    """The rows of a table that an earlier run wrote and the lecturer may have edited."""
    path = out / name
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows = [row for row in reader if row.get("submission")]
    except UnicodeDecodeError:
        sys.exit(f"ERROR: {path} is not in UTF-8; save it as CSV UTF-8")
    if not set(TABLES[name]) <= set(reader.fieldnames or []):
        sys.exit(f"ERROR: {path} has lost its columns; save it with commas, or remove it")
    return rows


def key_of(row: dict[str, str]) -> tuple[str, str]:
    return row["submission"], row["assignment"]


def not_graded_now(rows: list[dict[str, str]], graded: list[Graded]) -> list[dict[str, str]]:
    """The earlier rows that stay: those of submissions that this run did not grade.

    A row without an assignment, as of an unreadable file, goes once the file is graded."""
    now = {(one.submission, one.assignment) for one in graded}
    now |= {(one.submission, "") for one in graded}
    return [row for row in rows if key_of(row) not in now]


def page_of(submission: str, assignment: str) -> Path:
    """The page of a submission in feedback/ and marking/, which depends on no other submission."""
    name = re.sub(r"[^\w.-]+", "_", submission)[-100:]
    if name != submission:
        name += "-" + hashlib.sha256(submission.encode(errors="replace")).hexdigest()[:8]
    return Path(assignment, f"{name}.md")


def hints_of(one: Graded, task: str) -> list[str]:
    return [hint for hint in dict.fromkeys(one.hints.get(task, [])) if hint]


def feedback_of(one: Graded) -> list[str]:
    """The page for the student, which reveals no hidden test."""
    points, possible = sum(one.points.values()), sum(one.possible.values())
    lines = [
        f"# {one.submission}",
        "",
        f"{one.outcome}: {points:g} of {possible:g} points by tests; "
        "written answers are marked by hand.",
        "",
        *(f"- {note}" for note in one.notes),
    ]
    for task in one.possible:
        lines += ["", f"**{task}**: {one.points[task]:g} of {one.possible[task]:g}"]
        lines += [f"- {hint}" for hint in hints_of(one, task)]
    return lines


def marking_of(one: Graded, rubrics: list[dict]) -> list[str]:
    """The page for the lecturer: each written answer above its rubric."""
    lines = [f"# {one.submission}"]
    for number, rubric in enumerate(rubrics):
        answer = (
            one.answers[number]
            if len(one.answers) == len(rubrics)
            else "\n\n".join(one.answers) or "(no answer found)"
        )
        lines += ["", f"## {rubric['task']}: ____ of {rubric['points']:g}", ""]
        lines += [*(f"> {line}" for line in answer[:20_000].splitlines()), "", rubric["text"]]
    return lines


def write_all(graded: list[Graded], course: Path, out: Path) -> int:
    """Writes grades.csv (a row per submission), tasks.csv (a row per task), feedback/ and marking/.

    Keeps points entered by hand, and the earlier rows and pages of submissions that this run did
    not grade; returns the number of these rows."""
    earlier = read_earlier(out, "grades.csv")
    by_hand, kept = (
        {key_of(row): row["by hand"] for row in earlier},
        not_graded_now(earlier, graded),
    )
    keys = {key_of(row) for row in kept}
    tasks = [row for row in read_earlier(out, "tasks.csv") if key_of(row) in keys]
    rows = {name: [[row[column] for column in TABLES[name]] for row in table]
            for name, table in (("grades.csv", kept), ("tasks.csv", tasks))}  # fmt: skip
    for one in graded:
        path, key = course / one.assignment / "rubrics.json", (one.submission, one.assignment)
        rubrics = json.loads(path.read_text()) if one.assignment and path.is_file() else []
        points, possible = sum(one.points.values()), sum(one.possible.values())
        written = sum(rubric["points"] for rubric in rubrics)
        numbers = [f"{points:g}", f"{possible:g}", by_hand.get(key, ""), f"{written:g}"]
        rows["grades.csv"].append([*key, one.outcome, *numbers, one.seconds, "; ".join(one.notes)])
        for task, most in one.possible.items():
            hints = " | ".join(hints_of(one, task))
            rows["tasks.csv"].append([*key, task, f"{one.points[task]:g}", f"{most:g}", hints])
        for kind, lines in (("feedback", feedback_of(one)), ("marking", marking_of(one, rubrics))):
            page = out / kind / page_of(*key)
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")
    for name, table in rows.items():
        with open(out / f"{name}.part", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([TABLES[name], *table])
        os.replace(out / f"{name}.part", out / name)
    return len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="notebooks, at any depth")
    parser.add_argument("--course", type=Path, default=COURSE, help="the output of `make course`")
    parser.add_argument("--out", type=Path, help="the output folder (default: <course>/grades)")
    parser.add_argument(
        "--jobs",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="number of submissions graded in parallel",
    )
    parser.add_argument(
        "--unsealed", action="store_true", help="grade even if the kernel cannot seal a process"
    )
    parser.add_argument(
        "--preload",
        nargs="*",
        default=["numpy", "torch", "pandas", "bivrec.studies.noise", "bivrec.studies.transfer"],
        help=argparse.SUPPRESS,
    )
    for name, value in vars(Limits()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    sealed = landlock_version() >= 1
    if not sealed and not options.unsealed:
        sys.exit(
            "ERROR: this kernel has no Landlock, so a submission could read and write outside its "
            "folder; grade in a separate container or virtual machine with OPTIONS=--unsealed"
        )
    if options.folder == Path():
        sys.exit("ERROR: no folder is named; run make grade SUBMISSION=folder")
    if not options.folder.is_dir():
        sys.exit(
            f"ERROR: SUBMISSION={options.folder} is not a folder; name one that contains notebooks"
        )
    notebooks = find_notebooks(options.folder)
    if not notebooks:
        sys.exit(f"ERROR: SUBMISSION={options.folder} contains no .ipynb; name a folder that does")
    if not any(options.course.glob("*/autograder/tests/*.py")):
        sys.exit(f"ERROR: {options.course} contains no course; run `make course` first")
    limits = Limits(**{name: getattr(options, name) for name in vars(Limits())})
    jobs = [
        (
            path,
            str(path.relative_to(options.folder)),
            options.course,
            limits,
            sealed,
            options.preload,
        )
        for path in notebooks
    ]
    out = options.out or options.course / "grades"
    for name in TABLES:
        read_earlier(out, name)  # refuses a damaged table before the work, not after it
    graded = []
    with ProcessPoolExecutor(max(1, options.jobs)) as pool:
        for one in pool.map(_grade_one, jobs):
            graded.append(one)
            print(
                f"{one.submission}: {one.outcome}, {sum(one.points.values()):g} of "
                f"{sum(one.possible.values()):g}, {one.seconds:g} s",
                flush=True,
            )
    if kept := write_all(graded, options.course, out):
        print(f"Earlier rows kept, of submissions that are not in {options.folder}: {kept}")
    print(
        f"Wrote {out / 'grades.csv'}, tasks.csv, feedback/ (for students), "
        "marking/ (written answers and rubrics)"
    )


if __name__ == "__main__":
    main()
