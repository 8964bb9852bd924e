"""The long tests of the course, `make test-course`; they need otter-grader.

They cover every solution, every unsolved copy, every wrong solution and thirty submissions at once.
The fast tests are in tests/test_course.py.
"""

import ast
import csv
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from ruamel.yaml import YAML

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from test_course import MASTERS  # noqa: E402

pytest.importorskip("otter", reason="otter-grader is not installed; `make test-course` installs it")


def run_grader(
    course, submissions, out, *options: str
) -> tuple[dict[str, dict], dict[tuple[str, str], dict]]:
    """grades.csv by submission, and tasks.csv by submission and task."""
    command = [
        sys.executable,
        HERE / "grade.py",
        submissions,
        "--course",
        course,
        "--out",
        out,
        *options,
    ]
    shown = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    with (
        open(out / "grades.csv", newline="") as grades,
        open(out / "tasks.csv", newline="") as tasks,
    ):
        return {row["submission"]: row for row in csv.DictReader(grades)}, {
            (row["submission"], row["task"]): row for row in csv.DictReader(tasks)
        }


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """What `make course` writes; it fails where a solution lacks points."""
    folder = tmp_path_factory.mktemp("course")
    command = [sys.executable, str(HERE / "build.py"), "--course", str(folder)]
    command += ["--repository", "https://github.com/owner/name"]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout[-2000:] + shown.stderr[-3000:]
    return folder


def test_every_solution_has_full_points_within_a_minute(course):
    with open(course / "solutions" / "grades" / "grades.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["assignment"] for row in rows] == MASTERS
    for row in rows:
        assert (
            row["outcome"] == "graded" and row["points"] == row["of"] and not row["what happened"]
        ), row
        assert float(row["processor seconds"]) < 60, row


def test_an_unsolved_copy_scores_nothing_and_raises_nowhere(course, tmp_path):
    for name in MASTERS:
        shutil.copy(course / name / "student" / f"{name}.ipynb", tmp_path)
    rows, tasks = run_grader(course, tmp_path, tmp_path / "grades")
    assert len(rows) == len(MASTERS)
    for row in rows.values():
        assert row["outcome"] == "graded" and row["what happened"] == "", row
    assert {row["points"] for row in tasks.values()} == {"0"}
    assert all(row["hint"] for row in tasks.values())


@pytest.mark.parametrize("name", MASTERS)
def test_a_students_copy_has_hints_and_opens_in_colab(course, name):
    cells = nbformat.read(course / name / "student" / f"{name}.ipynb", 4).cells
    assert cells[0].source.endswith(f"/owner/name/blob/course/course/{name}/{name}.ipynb)")
    assert "google.colab" in cells[1].source and "Initialize Otter" in cells[2].source
    checks = [at for at, cell in enumerate(cells) if cell.source.startswith("grader.check(")]
    coded = [at for at in checks if "<summary>Hint 1" in cells[at - 1].source]
    assert len(coded) == sum("<summary>Hint 3" in cell.source for cell in cells) > 2
    tests = len(list((course / name / "student" / "tests").glob("*.py")))
    assert len(coded) == tests


@pytest.mark.parametrize("name", MASTERS)
def test_a_students_copy_has_neither_solutions_nor_hidden_tests(course, name):
    handed_out = "\n".join(
        path.read_text()
        for path in (course / name / "student").rglob("*")
        if path.is_file() and path.name != "teaching.py"
    )
    master, hidden = nbformat.read(HERE / f"{name}.ipynb", 4), []
    for cell in master.cells:
        if cell.cell_type == "code" and "hidden: true" in cell.source:
            hidden += [
                node.name
                for node in ast.parse(cell.source).body
                if isinstance(node, ast.FunctionDef)
            ]
        for block in re.findall(r"# BEGIN SOLUTION\n(.*?)# END SOLUTION", cell.source, re.S):
            for line in block.splitlines():
                # short text may occur elsewhere too; a long line of code may not
                assert len(line.strip()) < 45 or json.dumps(line)[1:-1] not in handed_out, line
        assert not cell.source.startswith("**Model answer.**") or cell.source[:80] not in handed_out
    assert hidden and not [test for test in hidden if f"def {test}(" in handed_out]


def replace_answer(notebook, function: str, code: str):
    """The solved notebook with one answer's cell replaced."""
    pattern, count = re.compile(rf"^(def {function}\(|{function} =)", re.M), 0
    for cell in notebook.cells:
        if cell.cell_type == "code" and pattern.search(cell.source):
            cell.source, count = code, count + 1
    assert count == 1, function
    return notebook


def test_wrong_solutions_lose_the_right_points_with_a_helpful_hint(course, tmp_path):
    wanted = {}
    for name in MASTERS:
        solved = course / name / "autograder" / f"{name}.ipynb"
        for number, wrong in enumerate(
            YAML(typ="safe").load((HERE / "wrong" / f"{name}.yaml").read_text())
        ):
            made = replace_answer(nbformat.read(solved, 4), wrong["function"], wrong["code"])
            nbformat.write(made, tmp_path / f"{name}-{number}.ipynb")
            wanted[f"{name}-{number}.ipynb"] = wrong
    rows, tasks = run_grader(course, tmp_path, tmp_path / "grades")
    amiss = []
    for submission, wrong in wanted.items():
        own = {task: row for (of, task), row in tasks.items() if of == submission}
        lost = {
            task: float(row["of"]) - float(row["points"])
            for task, row in own.items()
            if row["of"] != row["points"]
        }
        hints = " ".join(own[task]["hint"] for task in wrong["loses"])
        if (
            rows[submission]["outcome"] != "graded"
            or lost != wrong["loses"]
            or wrong["hint"] not in hints
        ):
            amiss.append(
                (submission, wrong["name"], lost, hints, rows[submission]["what happened"])
            )
    assert not amiss, "\n".join(map(str, amiss))


def test_thirty_submissions_one_of_each_hostile_kind(course, tmp_path):
    """Each is bounded, none stops the others, the table reports it, and no hidden test leaks."""
    name, submissions, outside = "d_gaussian", tmp_path / "submissions", tmp_path / "outside"
    submissions.mkdir()
    outside.mkdir()
    (outside / "outside.txt").write_text("unchanged")
    hostile = YAML(typ="safe").load((HERE / "hostile.yaml").read_text())
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        swap = {
            "FUNCTION": "weight",
            "OUTSIDE": str(outside),
            "HIDDEN": str(course / name / "autograder" / "tests" / "d1.py"),
            "PORT": str(server.getsockname()[1]),
        }
        for one in hostile:
            made = nbformat.read(course / name / "autograder" / f"{name}.ipynb", 4)
            made.cells.append(
                nbformat.v4.new_code_cell(
                    re.sub("|".join(swap), lambda match: swap[match[0]], one["code"])
                )
            )
            nbformat.write(made, submissions / f"hostile {one['name']}.ipynb")
        (submissions / "torn.ipynb").write_text('{"cells": [')
        (submissions / "deep.ipynb").write_text("[" * 200_000)
        (submissions / "link.ipynb").symlink_to(course / name / "autograder" / f"{name}.ipynb")
        for number in range(30 - len(hostile) - 3):
            kind = ("autograder", "student")[number % 2]
            shutil.copy(
                course / name / kind / f"{name}.ipynb",
                submissions / f"honest {number} {kind}.ipynb",
            )
        limits = ["--processor-seconds", "20", "--cell-seconds", "5", "--test-seconds", "2"]
        rows, _ = run_grader(course, submissions, tmp_path / "grades", *limits)
        with pytest.raises(TimeoutError):
            server.accept()
    assert len(rows) == 30
    for one in hostile:
        row = rows[f"hostile {one['name']}.ipynb"]
        assert (
            row["outcome"]
            in (one["outcome"] if isinstance(one["outcome"], list) else [one["outcome"]])
            and one.get("note", "") in row["what happened"]
        ), row
        assert float(row["processor seconds"]) < 60 and (
            row["points"] == row["of"] or not one.get("keeps")
        ), row
    for submission, row in rows.items():
        if submission.startswith("honest"):
            assert row["outcome"] == "graded" and row["points"] == (
                "20" if "autograder" in submission else "0"
            ), row
    assert {rows[f"{kind}.ipynb"]["outcome"] for kind in ("torn", "deep", "link")} == {"unreadable"}
    assert [path.name for path in outside.iterdir()] == ["outside.txt"]
    assert not [
        p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "3777"]
    ]
    sent = "\n".join(path.read_text() for path in (tmp_path / "grades" / "feedback").rglob("*.md"))
    for path in (course / name / "autograder" / "tests").glob("*.py"):
        shown = (course / name / "student" / "tests" / path.name).read_text()
        secret = [
            line.strip()
            for line in path.read_text().splitlines()
            if len(line) > 50 and line not in shown and "failure_message" not in line
        ]
        assert secret and not [line for line in secret if line in sent]


def test_otters_own_autograder_agrees(course):
    """The bundle for Gradescope and the like: otter itself gives the solution full points."""
    [bundle] = (course / "d_gaussian" / "autograder").glob("*.zip")
    code = f"from otter.api import grade_submission as g; r = g({str(course / 'd_gaussian' / 'autograder' / 'd_gaussian.ipynb')!r}, {str(bundle)!r}, quiet=True); print(r.total, r.possible)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=course)
    assert shown.stdout.split() == ["20.0", "20"] or shown.stdout.split() == ["20", "20"], (
        shown.stdout + shown.stderr[-2000:]
    )
