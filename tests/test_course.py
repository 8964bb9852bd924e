"""The fast tests of the course: the parts of the masters, and hostile submissions.

`make test-course` runs the long tests.
"""

import ast
import csv
import importlib.util
import json
import re
import subprocess
import sys

import nbformat
import pytest
from ruamel.yaml import YAML

MASTERS = [
    "a_sequences",
    "b_attention",
    "c_positions",
    "d_gaussian",
    "e_cluster",
    "f_contrast",
    "g_together",
    "h_project",
]
VISIBLE = """from otter.test_files import test_case

OK_FORMAT = False

name = "t1"
points = 3

@test_case(points=1, hidden=False)
def test_three(double):
    assert double(3) == 6, 'twice three is six'
"""
HIDDEN = """
@test_case(points=2, hidden=True,
    failure_message="halves double too")
def test_secret(double):
    assert double(0.03125) == 0.0625
"""
SOLVED = "def double(x):\n    return 2 * x"


def load(root, name: str):
    """Imports a file of assignments/."""
    spec = importlib.util.spec_from_file_location(name, root / "assignments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def grade(root):
    """The grader, if the kernel can seal a process."""
    if load(root, "sealed").landlock_version() < 1:
        pytest.skip("this kernel has no Landlock; grade.py refuses to grade here")
    return load(root, "grade")


@pytest.fixture(scope="module")
def hostile(root):
    return YAML(typ="safe").load((root / "assignments" / "hostile.yaml").read_text())


def questions_of(root, master: str) -> list[dict]:
    """The tasks of a master: configuration, tests, answers and rubric."""
    yaml, tasks, block = YAML(typ="safe"), [], []
    for cell in nbformat.read(root / "assignments" / f"{master}.ipynb", 4).cells:
        first = cell.source.partition("\n")[0]
        if cell.cell_type == "raw" and first.startswith("# BEGIN"):
            block.append(first.removeprefix("# BEGIN "))
            if first == "# BEGIN QUESTION":
                tasks.append({"tests": [], "answers": [], "rubric": "", **yaml.load(cell.source)})
        elif cell.cell_type == "raw" and first.startswith("# END"):
            assert block.pop() == first.removeprefix("# END "), cell.source
        elif block[-1:] == ["TESTS"]:
            tasks[-1]["tests"].append(
                yaml.load(cell.source.split("# END TEST CONFIG")[0].partition("\n")[2].rstrip('" '))
            )
        elif block and cell.cell_type == "code":
            tasks[-1]["answers"].append(cell.source)
        elif block[-1:] == ["SOLUTION"]:
            tasks[-1]["rubric"] = cell.source
    assert not block, "a block has no end"
    return tasks


@pytest.mark.parametrize("master", MASTERS)
def test_a_master_has_its_parts(root, master):
    notebook = nbformat.read(root / "assignments" / f"{master}.ipynb", 4)
    config = YAML(typ="safe").load(notebook.cells[0].source)
    assert notebook.cells[0].source.startswith("# ASSIGNMENT CONFIG") and config["name"] == master
    assert config["tests"] == {"files": True, "ok_format": False}
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells), (
        "a master has no outputs"
    )
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert (
        "What you will learn" in text
        and "$$" in text + "$$" * (master == "h_project")
        and "from teaching import" in str(notebook)
    )
    tasks = questions_of(root, master)
    coded, written = (
        [t for t in tasks if not t.get("manual")],
        [t for t in tasks if t.get("manual")],
    )
    assert [task["name"] for task in tasks] == [
        f"{master[0]}{number}" for number in range(1, len(tasks) + 1)
    ]
    for task in coded:
        assert sum(test["points"] for test in task["tests"]) == task["points"], task["name"]
        assert {test["hidden"] for test in task["tests"]} == {False, True}, (
            f"{task['name']} needs visible and hidden tests"
        )
        assert all(test.get("failure_message") for test in task["tests"] if test["hidden"]), (
            f"{task['name']}: a hidden test without a hint"
        )
        assert any("# BEGIN SOLUTION" in answer for answer in task["answers"]), task["name"]
    assert written and all(
        "**Rubric" in task["rubric"] and "**Model answer.**" in task["rubric"] for task in written
    )
    assert sum(task["points"] for task in tasks) == (
        40
        if master == "h_project"
        else 26 + (master == "g_together") - 2 * (master == "b_attention")
    )


def test_the_questions_on_concepts_are_included(root):
    """Each of a to f has a question on a concept that the paper builds on."""
    positions = "How do positional encodings help transformers handle sequential data"
    heads = (
        "How does multi-head attention differ from single-head attention, "
        "and why is it useful for modeling user interests?"
    )
    contrast = (
        "What is the intuition behind using InfoNCE loss for learning "
        "semantic similarity between representations?"
    )
    kinds = "what are the differences between absolute and relative positional encodings?"
    questions = {
        "a_sequences": positions + "?",
        "b_attention": heads,
        "c_positions": f"{positions}, and {kinds}",
        "d_gaussian": heads,
        "e_cluster": heads,
        "f_contrast": contrast,
    }
    assert list(questions) == MASTERS[:6]
    for master, question in questions.items():
        assert f"*{question}*" in (root / "assignments" / f"{master}.ipynb").read_text(), master


def test_hints_follow_the_masters(root):
    assert (root / "assignments" / "HINTS.md").read_text() == load(root, "build").hints(), (
        "run `make course`"
    )


@pytest.mark.parametrize("master", MASTERS)
def test_wrong_solutions_refer_to_existing_tasks(root, master):
    wrong, tasks = (
        YAML(typ="safe").load((root / "assignments" / "wrong" / f"{master}.yaml").read_text()),
        questions_of(root, master),
    )
    points, answers = (
        {task["name"]: task["points"] for task in tasks},
        [answer for task in tasks for answer in task["answers"]],
    )
    assert len(wrong) == 5 == len({one["name"] for one in wrong})
    for one in wrong:
        assert all(0 < lost <= points[task] for task, lost in one["loses"].items()), one["name"]
        pattern = re.compile(rf"^(def {one['function']}\(|{one['function']} =)", re.M)
        assert sum(bool(pattern.search(answer)) for answer in answers) == 1 and pattern.search(
            one["code"]
        ), one["name"]


@pytest.mark.parametrize("master", MASTERS)
def test_what_answers_and_wrong_solutions_import_exists(root, master):
    wrong = YAML(typ="safe").load((root / "assignments" / "wrong" / f"{master}.yaml").read_text())
    answers = [answer for task in questions_of(root, master) for answer in task["answers"]]
    for code in [*answers, *(one["code"] for one in wrong)]:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def make_course(folder):
    """Writes a course of one small assignment, as `make course` does."""
    for kind, source in (("student", VISIBLE), ("autograder", VISIBLE + HIDDEN)):
        (folder / "tiny" / kind / "tests").mkdir(parents=True)
        (folder / "tiny" / kind / "tests" / "t1.py").write_text(source)
    (folder / "tiny" / "rubrics.json").write_text(
        json.dumps([{"task": "t2", "points": 3, "text": "**Rubric.** one word"}])
    )


def notebook(*cells: str, assignment: str = "tiny") -> str:
    made = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"otter": {"assignment_name": assignment}},
    )
    made.cells.append(
        nbformat.v4.new_markdown_cell("in my words", metadata={"tags": ["otter_answer_cell"]})
    )
    return nbformat.writes(made)


def run_grader(root, course, submissions, *options: str) -> tuple[dict[str, dict], str]:
    """grades.csv by submission, and all feedback to students."""
    command = [
        sys.executable,
        "assignments/grade.py",
        submissions,
        "--course",
        course,
        "--preload",
        *options,
    ]
    shown = subprocess.run(
        list(map(str, command)), cwd=root, capture_output=True, text=True, timeout=300
    )
    assert shown.returncode == 0, shown.stderr
    with open(course / "grades" / "grades.csv", newline="") as file:
        rows = {row["submission"]: row for row in csv.DictReader(file)}
    return rows, "\n".join(
        path.read_text() for path in sorted((course / "grades" / "feedback").rglob("*.md"))
    )


def test_hostile_submissions_are_bounded_and_reported(root, tmp_path, grade, hostile):
    course, submissions, outside = (
        tmp_path / "course",
        tmp_path / "submissions",
        tmp_path / "outside",
    )
    make_course(course)
    submissions.mkdir()
    outside.mkdir()
    chosen = [one for one in hostile if one.get("quick")]
    swap = {
        "FUNCTION": "double",
        "OUTSIDE": str(outside),
        "HIDDEN": str(course / "tiny" / "autograder" / "tests" / "t1.py"),
    }
    for one in chosen:
        code = re.sub("|".join(swap), lambda match: swap[match[0]], one["code"])
        (submissions / f"{one['name'].replace(' ', '-')}.ipynb").write_text(notebook(SOLVED, code))
    (submissions / "honest.ipynb").write_text(notebook(SOLVED))
    (submissions / "wrong.ipynb").write_text(notebook("def double(x):\n    return int(2 * x)"))
    (submissions / "half.ipynb").write_text(
        notebook(SOLVED).replace("in my words", "\\ud800 in half a letter")
    )
    (submissions / "torn.ipynb").write_text(notebook(SOLVED)[:200])
    (submissions / "stranger.ipynb").write_text(notebook(SOLVED, assignment="../../etc"))
    (submissions / "link.ipynb").symlink_to("/etc/passwd")
    rows, sent = run_grader(
        root,
        course,
        submissions,
        "--processor-seconds",
        "5",
        "--cell-seconds",
        "1",
        "--test-seconds",
        "1",
        "--jobs",
        "2",
    )
    assert len(rows) == len(chosen) + 6
    assert (
        rows["honest.ipynb"]["outcome"],
        rows["honest.ipynb"]["points"],
        rows["honest.ipynb"]["of"],
    ) == ("graded", "3", "3")
    assert (
        rows["honest.ipynb"]["by hand, of"] == "3" and rows["honest.ipynb"]["what happened"] == ""
    )
    assert rows["wrong.ipynb"]["points"] == "1" and "halves double too" in sent
    assert rows["half.ipynb"]["points"] == "3"
    assert rows["torn.ipynb"]["outcome"] == rows["link.ipynb"]["outcome"] == "unreadable"
    assert rows["stranger.ipynb"]["outcome"] == "not of the course"
    for one in chosen:
        row = rows[f"{one['name'].replace(' ', '-')}.ipynb"]
        assert (
            row["outcome"]
            in (one["outcome"] if isinstance(one["outcome"], list) else [one["outcome"]])
            and one.get("note", "") in row["what happened"]
        ), row
        assert float(row["processor seconds"]) < 20
        assert row["points"] == "3" or not one.get("keeps"), row
    assert not list(outside.iterdir())
    assert "0.0625" not in sent and "0.03125" not in sent
    assert (
        "> in my words" in (course / "grades" / "marking" / "tiny" / "honest.ipynb.md").read_text()
    )


def test_what_a_student_adds_to_the_cell_of_otter_runs(root, tmp_path, grade):
    make_course(tmp_path / "course")
    (tmp_path / "in").mkdir()
    first = 'import math\nimport otter\ngrader = otter.Notebook("tiny.ipynb")'
    cells = first, "def double(x):\n    return math.ldexp(x, 1)", 'grader.check("t1")'
    (tmp_path / "in" / "anna.ipynb").write_text(notebook(*cells))
    row = run_grader(root, tmp_path / "course", tmp_path / "in")[0]["anna.ipynb"]
    assert (row["points"], row["what happened"]) == ("3", "")


def test_a_spreadsheet_cell_is_not_a_formula(root, grade):
    assert grade.plain("=cmd|' /C calc'!A0") == "'=cmd|' /C calc'!A0"
    assert grade.plain("a\nb\x1b[31m") == "a b [31m"


def test_files_that_vanish_while_they_are_counted(tmp_path, grade, monkeypatch):
    def look_and_remove(path, look=grade.os.lstat):
        seen = look(path)
        for file in tmp_path.iterdir():
            file.unlink()
        return seen

    for name in "ab":
        (tmp_path / name).write_text("12345")
    monkeypatch.setattr(grade.os, "lstat", look_and_remove)
    assert grade.size_of(tmp_path) == 5


def test_a_submission_that_closes_the_pipe_and_keeps_running(tmp_path, grade):
    class Child:
        def wait(self, seconds):
            raise subprocess.TimeoutExpired("sealed.py", seconds)

    receive, speak = grade.os.pipe()
    grade.os.close(speak)
    heard = grade.listen(Child(), receive, "", tmp_path, grade.Limits(), grade.time.monotonic())
    with pytest.raises(grade.Ended) as ended:
        next(heard)
    grade.os.close(receive)
    assert ended.value.args == ("broken report", "it closed the grader's pipe")


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_the_grader_needs_linux(root, system):
    grade = str(root / "assignments" / "grade.py")
    code = (
        f"import runpy, sys; sys.platform = {system!r}; runpy.run_path({grade!r}, {{}}, '__main__')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 1 and shown.stderr.count("\n") == 1
    assert shown.stderr.startswith(f"ERROR: the grader needs Linux, not {system}; ")


def test_what_systems_add_is_not_graded(tmp_path, grade):
    names = "a.ipynb", "b c/d.ipynb", ".ipynb_checkpoints/a-checkpoint.ipynb", "._a.ipynb"
    for name in (*names, "__MACOSX/._a.ipynb", "b c/__MACOSX/d.ipynb", "a.ipynb.txt"):
        (tmp_path / ".hand-ins" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".hand-ins" / name).touch()
    graded = grade.find_notebooks(tmp_path / ".hand-ins")
    assert [path.relative_to(tmp_path / ".hand-ins").as_posix() for path in graded] == [*names[:2]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([""], "no folder is named"),
        (["nowhere"], "is not a folder"),
        (["bivrec"], "contains no .ipynb"),
        (["notebooks", "--course", "docs"], "run `make course` first"),
    ],
)
def test_missing_inputs_give_one_sentence(root, grade, given, message):
    shown = subprocess.run(
        [sys.executable, "assignments/grade.py", *given], cwd=root, capture_output=True, text=True
    )
    assert (
        shown.returncode == 1
        and shown.stderr.startswith("ERROR: ")
        and message in shown.stderr
        and shown.stderr.count("\n") == 1
    )
