"""The students' copies of the course's notebooks, as the site shows them.

`make course` makes the copies to hand out, with otter-grader, which the site does without.
"""

import importlib.util
import re

from common import ROOT, BuildError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell
from ruamel.yaml import YAML

SOLUTIONS = [  # in code: what marks a solution, and what a student's copy has instead
    (r"(?ms)^ *# BEGIN SOLUTION NO PROMPT$.*?^ *# END SOLUTION\n?", ""),
    (r"(?m)^.*# SOLUTION NO PROMPT\n?", ""),
    (r"(?ms)^( *)# BEGIN SOLUTION$.*?^ *# END SOLUTION$", r"\1..."),
    (r"(?m)^(.*?=).*# SOLUTION$", r"\1 ..."),
    (r'(?m)^""";? *# (BEGIN|END) PROMPT\n?', ""),
]
MARKS = re.compile(r"# (BEGIN|END) [A-Z]|# SOLUTION|\*\*Model answer")


def student_copy(master: NotebookNode) -> NotebookNode:
    """A master without its solutions and tests, with the hints. Raises BuildError for a mark that
    is not understood, since a solution might follow it."""
    cells, task, inside = [], "", False
    for cell in master.cells:
        if cell.cell_type != "raw":
            cells += [] if inside else [without_solution(cell)]
            continue
        mark = cell.source.partition("\n")[0]
        if mark == "# BEGIN QUESTION":
            task = YAML(typ="safe").load(cell.source)["name"]
        elif mark == "# BEGIN TESTS":
            cells.append(new_code_cell(f'grader.check("{task}")'))
        elif mark == "# BEGIN SOLUTION":
            cells.append(new_markdown_cell("*Your answer.*"))
        inside = mark in ("# BEGIN TESTS", "# BEGIN SOLUTION")
    if inside or any(MARKS.search(cell.source) for cell in cells):
        raise BuildError(f"a solution would show on the page of task {task!r}; look at its marks")
    course = course_builder()
    return course.add_to_copy(NotebookNode(master, cells=cells), "", course.read_steps(), None)


def without_solution(cell: NotebookNode) -> NotebookNode:
    source = cell.source
    for mark, prompt in SOLUTIONS if cell.cell_type == "code" else []:
        source = re.sub(mark, prompt, source)
    return NotebookNode(cell, source=source.strip("\n"))


def course_builder():
    """assignments/build.py, which puts the hints into the copies."""
    spec = importlib.util.spec_from_file_location("course", ROOT / "assignments" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
