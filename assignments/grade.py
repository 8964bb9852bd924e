"""Grades a folder of notebooks offline: `make grade SUBMISSION=folder`. Each submission runs in a sealed process (sealed.py)
with bounded time, memory, files and processes; whatever it does, the others are graded, and grades.csv says what happened."""

import argparse
import csv
import ctypes
import fcntl
import json
import os
import re
import resource
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from sealed import landlock_version, read_cases  # noqa: E402

ROOT = HERE.parent
COURSE = ROOT / "build" / "course"
MiB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a submission may use. The first two end a cell or a test and the rest goes on; the others end the submission."""

    cell_seconds: float = 60  # of the processor; four times as many on the clock
    test_seconds: float = 20
    processor_seconds: int = 300  # in all, of a process
    seconds: float = 900  # on the clock, in all
    memory: int = 3072  # MiB, of a process's address space and of what all processes together hold
    file_size: int = 64  # MiB, of one file
    folder_size: int = 256  # MiB, of all files
    processes: int = 32
    notebook_size: int = 20  # MiB, as handed in


@dataclass
class Graded:
    """What became of one submission: points by task, and in a line each what went wrong."""

    submission: str
    assignment: str = ""
    outcome: str = "graded"
    notes: list[str] = field(default_factory=list)
    points: dict[str, float] = field(default_factory=dict)
    possible: dict[str, float] = field(default_factory=dict)
    hints: dict[str, list[str]] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of the processor


class Ended(Exception):
    """A submission went past a limit, or stopped by itself; the first argument is the outcome, the second the note."""


def plain(text: str) -> str:
    """Text from a submission as one line that a spreadsheet takes for text, not for a formula."""
    line = re.sub(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\uffff]+", " ", str(text))[:300].strip()
    return f"'{line}" if line[:1] in "=+-@" else line


def find_notebooks(folder: Path) -> list[Path]:
    """Every notebook below the folder, in order; links are not followed."""
    found = [
        Path(top) / name
        for top, _, names in os.walk(folder)
        for name in names
        if name.endswith(".ipynb")
    ]
    return sorted(path for path in found if ".ipynb_checkpoints" not in path.parts)


def read_notebook(path: Path, limits: Limits) -> dict:
    """The notebook as handed in, with only what is graded: each cell's kind, source and tags."""
    if path.is_symlink() or not path.is_file():
        raise Ended("unreadable", "it is a link or no file; ask for the notebook itself")
    if path.stat().st_size > limits.notebook_size * MiB:
        raise Ended(
            "unreadable",
            f"{path.stat().st_size / MiB:.0f} MiB, more than {limits.notebook_size}; ask for it with its outputs cleared",
        )
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        kept = []
        for cell in read["cells"]:
            tags = [str(tag) for tag in cell.get("metadata", {}).get("tags", [])]
            kept.append(
                {
                    "cell_type": str(cell["cell_type"]),
                    "source": "".join(cell["source"]),
                    "tags": tags,
                }
            )
        return {
            "assignment": str(read["metadata"].get("otter", {}).get("assignment_name", "")),
            "cells": kept,
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Ended(
            "unreadable",
            f"not a notebook ({type(error).__name__}); ask for the .ipynb as saved by Jupyter",
        ) from None


def read_tests(course: Path, assignment: str) -> tuple[dict[str, str], dict[str, str]]:
    """The test files of an assignment by task: as students have them, and whole."""
    if not re.fullmatch(r"\w+", assignment) or not (course / assignment).is_dir():
        raise Ended(
            "not of the course",
            f"its metadata names the assignment {plain(assignment)!r}; ask for the student's copy, filled in",
        )
    return tuple(
        {
            path.stem: path.read_text()
            for path in sorted((course / assignment / kind / "tests").glob("*.py"))
        }
        for kind in ("student", "autograder")
    )


def descendants() -> list[psutil.Process]:
    """All processes that this one has started, at any depth. Orphans fall to this one too (`adopt_orphans`)."""
    return psutil.Process().children(recursive=True)


def adopt_orphans() -> None:
    """Processes whose parents end become this one's children, so that none escapes by leaving its group."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def end_all() -> None:
    """Ends every process below this one, again until there is none."""
    for _ in range(200):
        found = descendants()
        if not found:
            return
        for process in found:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(found, timeout=0.1)


def processor_seconds() -> float:
    """What the processes that this one started and that have ended took of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def size_of(folder: Path) -> int:
    """What the files below a folder hold, in bytes."""
    sizes = [
        os.lstat(os.path.join(top, name)).st_size
        for top, _, names in os.walk(folder)
        for name in names
        if os.path.lexists(os.path.join(top, name))
    ]
    return sum(sizes)


def watch(folder: Path, limits: Limits, started: float) -> None:
    """Ends a submission that is past a limit: its processes are looked at together, not only the first."""
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
    """The child's messages, while it keeps within its limits; a line that is none, or has not the token, ends it."""
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
            code = child.wait(5)
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
    """Cells, then visible tests, then hidden ones; the results of all cases. Words are taken from the child only as long as
    it has not been sent the hidden tests."""
    found, at, waiting_for = [], 0, "cells"
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
                    found.append(
                        (
                            str(case["task"]),
                            waiting_for == "hidden",
                            int(case["case"]),
                            case["passed"] is True,
                            shown,
                        )
                    )
                if waiting_for == "hidden":
                    return found
                waiting_for = "hidden"
                os.write(send, json.dumps(whole).encode() + b"\n")
    except (KeyError, TypeError, ValueError, OSError):
        raise Ended("broken report", "it wrote into the grader's pipe") from None
    except Ended as ended:
        outcome, note = ended.args
        raise Ended(outcome, f"{note}, in cell {at}" if at else note) from None
    return found


def places(folder: Path) -> dict[str, list[str]]:
    """What a sealed process may list, read and write: Python, its packages, the system's libraries and the module bivrec;
    its own folder. Not the course, nor other submissions."""
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
    """The child, in a process group, a folder and a home of its own; the pipe to it, the pipe from it, and the token that its
    messages bear."""
    (hear, send), (receive, speak) = os.pipe(), os.pipe()
    told = {
        "hear": hear,
        "speak": speak,
        "sealed": sealed,
        "notebook": str(folder / "submission.json"),
        "preload": preload,
    } | places(folder)
    told |= {
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
        [sys.executable, "-P", str(HERE / "sealed.py"), json.dumps(told)],
        cwd=folder, env=environment, pass_fds=(hear, speak), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(hear)
    os.close(speak)
    fcntl.fcntl(
        send, fcntl.F_SETPIPE_SZ, MiB
    )  # all tests fit in, so that a child that does not read them holds nobody up
    os.set_blocking(send, False)
    token = secrets.token_hex(16)
    os.write(send, f"{token}\n".encode())
    return child, send, receive, token


def add_points(graded: Graded, whole: dict[str, str], found: list[tuple]) -> None:
    """Points by task from the cases that passed, and the hints of those that did not: of a visible test what it said, of a
    hidden one the hint that stands beside it, never its code."""
    passed = {(task, hidden, case): (ok, message) for task, hidden, case, ok, message in found}
    for task, source in whole.items():
        shown = 0
        for number, (_, about) in enumerate(read_cases(source)):
            key = (task, about["hidden"], number if about["hidden"] else shown)
            shown += not about["hidden"]
            ok, message = passed.get(key, (False, ""))
            graded.possible[task] = graded.possible.get(task, 0) + about["points"]
            graded.points[task] = graded.points.get(task, 0) + about["points"] * ok
            if found and not ok:
                graded.hints.setdefault(task, []).append(
                    about.get("failure_message") or "" if about["hidden"] else message
                )


def grade(
    path: Path, name: str, course: Path, limits: Limits, sealed: bool, preload: list[str]
) -> Graded:
    """One submission, from file to points; nothing it does is raised here."""
    graded, started, folder = (
        Graded(plain(name)),
        time.monotonic(),
        Path(tempfile.mkdtemp(prefix="submission-")),
    )
    whole, found, open_pipes, used = {}, [], [], processor_seconds()
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
        found = converse(
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
    add_points(graded, whole, found)
    graded.seconds = round(processor_seconds() - used, 1)
    return graded


def _grade_one(job: tuple) -> Graded:
    return grade(*job)


def write_all(graded: list[Graded], course: Path, out: Path) -> None:
    """grades.csv, a row a submission; tasks.csv, a row a task; feedback/ for the students, without hidden tests; marking/ for
    the lecturer: each written answer above its rubric."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [
        [
            "submission",
            "assignment",
            "outcome",
            "points",
            "of",
            "by hand, of",
            "processor seconds",
            "what happened",
        ]
    ]
    tasks, taken = [["submission", "assignment", "task", "points", "of", "hint"]], []
    for one in graded:
        path = course / one.assignment / "rubrics.json"
        rubrics = json.loads(path.read_text()) if one.assignment and path.is_file() else []
        points, possible = sum(one.points.values()), sum(one.possible.values())
        by_hand = sum(rubric["points"] for rubric in rubrics)
        rows.append(
            [
                one.submission,
                one.assignment,
                one.outcome,
                f"{points:g}",
                f"{possible:g}",
                f"{by_hand:g}",
                one.seconds,
                "; ".join(one.notes),
            ]
        )
        lines = [
            f"# {one.submission}",
            "",
            f"{one.outcome}: {points:g} of {possible:g} points by tests; written answers are marked by hand.",
            "",
        ]
        lines += [f"- {note}" for note in one.notes]
        for task in one.possible:
            hints = [hint for hint in dict.fromkeys(one.hints.get(task, [])) if hint]
            tasks.append(
                [
                    one.submission,
                    one.assignment,
                    task,
                    f"{one.points[task]:g}",
                    f"{one.possible[task]:g}",
                    " | ".join(hints),
                ]
            )
            lines += [
                "",
                f"**{task}**: {one.points[task]:g} of {one.possible[task]:g}",
                *(f"- {hint}" for hint in hints),
            ]
        sheet = [f"# {one.submission}"]
        for number, rubric in enumerate(rubrics):
            answer = (
                one.answers[number]
                if len(one.answers) == len(rubrics)
                else "\n\n".join(one.answers) or "(no answer found)"
            )
            sheet += [
                "",
                f"## {rubric['task']}: ____ of {rubric['points']:g}",
                "",
                *(f"> {line}" for line in answer[:20_000].splitlines()),
                "",
                rubric["text"],
            ]
        file = re.sub(r"[^\w.-]+", "_", one.submission)[-100:]
        taken.append(file)
        file += f"-{taken.count(file)}.md" if taken.count(file) > 1 else ".md"
        for kind, text in (("feedback", lines), ("marking", sheet)):
            (out / kind).mkdir(exist_ok=True)
            (out / kind / file).write_text(
                "\n".join(text) + "\n", encoding="utf-8", errors="replace"
            )
    for name, table in (("grades.csv", rows), ("tasks.csv", tasks)):
        with open(out / f"{name}.part", "w", newline="") as file:
            csv.writer(file).writerows(table)
        os.replace(out / f"{name}.part", out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="notebooks, at any depth")
    parser.add_argument("--course", type=Path, default=COURSE, help="what `make course` wrote")
    parser.add_argument("--out", type=Path, help="where the tables go; <course>/grades unless told")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="submissions side by side"
    )
    parser.add_argument(
        "--unsealed", action="store_true", help="grade although the kernel cannot seal a process"
    )
    parser.add_argument(
        "--preload",
        nargs="*",
        default=["numpy", "torch", "pandas", "bivrec.studies.noise", "bivrec.studies.transfer"],
        help=argparse.SUPPRESS,
    )
    for name, value in vars(Limits()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    asked = parser.parse_args()
    sealed = landlock_version() >= 1
    if not sealed and not asked.unsealed:
        sys.exit(
            "ERROR: this kernel has no Landlock, so a submission could write and read outside its folder; grade in a container or virtual machine of its own and say OPTIONS=--unsealed"
        )
    if asked.folder == Path():
        sys.exit("ERROR: no folder is named; say make grade SUBMISSION=folder")
    if not asked.folder.is_dir():
        sys.exit(f"ERROR: SUBMISSION={asked.folder} is no folder; name one that holds notebooks")
    notebooks = find_notebooks(asked.folder)
    if not notebooks:
        sys.exit(f"ERROR: SUBMISSION={asked.folder} holds no .ipynb; name a folder that does")
    if not any(asked.course.glob("*/autograder/tests/*.py")):
        sys.exit(f"ERROR: {asked.course} holds no course; run `make course` first")
    limits = Limits(**{name: getattr(asked, name) for name in vars(Limits())})
    jobs = [
        (path, str(path.relative_to(asked.folder)), asked.course, limits, sealed, asked.preload)
        for path in notebooks
    ]
    graded = []
    with ProcessPoolExecutor(max(1, asked.jobs)) as pool:
        for one in pool.map(_grade_one, jobs):
            graded.append(one)
            print(
                f"{one.submission}: {one.outcome}, {sum(one.points.values()):g} of {sum(one.possible.values()):g}, {one.seconds:g} s",
                flush=True,
            )
    out = asked.out or asked.course / "grades"
    write_all(graded, asked.course, out)
    print(
        f"Written: {out / 'grades.csv'}, tasks.csv, feedback/ (for students), marking/ (written answers and rubrics)"
    )


if __name__ == "__main__":
    main()
