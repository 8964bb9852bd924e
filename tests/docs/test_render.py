"""The site's pages made from Markdown and from notebooks."""

import ast
import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

pytest.importorskip("latex2mathml", reason="the site needs it; `make site` installs it")
MASTERS = ["a_sequences", "b_attention", "c_positions", "d_gaussian"]
MASTERS += ["e_cluster", "f_contrast", "g_together", "h_project"]


@pytest.fixture(autouse=True)
def docs(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "docs")


def figures_of(notebook) -> list[bytes]:
    """The PNG files that a notebook contains."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    found = [output.get("data", {}).get("image/png") for output in outputs]
    return [base64.b64decode(text) for text in found if text]


def shown_on(page: str, folder: Path) -> list[bytes]:
    """The PNG files that a page points to."""
    return [(folder / name).read_bytes() for name in re.findall(r'<img[^>]*src="([^"]+)"', page)]


def figure_notebook(path: Path, colour: str) -> Path:
    """A notebook whose only cell shows a small figure of this colour."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    data = {"image/png": base64.b64encode(file.getvalue()).decode()}
    cell = new_code_cell("draw()", outputs=[new_output("display_data", data=data)])
    path.parent.mkdir()
    nbformat.write(new_notebook(cells=[cell]), path)
    return path


def test_pages_of_one_stage_keep_their_own_figures(tmp_path):
    """Both datasets have a notebook of the same name, and their pages share a folder."""
    from render import render_notebook

    pages = {}
    for dataset, colour in (("classic", "red"), ("modern", "blue")):
        path = figure_notebook(tmp_path / dataset / "03_training.ipynb", colour)
        file = tmp_path / "site" / f"{dataset}.html"
        pages[dataset] = (path, render_notebook(path, dataset, file))
    for path, page in pages.values():
        assert shown_on(page, tmp_path / "site") == figures_of(nbformat.read(path, 4)) != []


@pytest.mark.slow
def test_every_page_shows_the_figures_of_its_notebook(root, tmp_path):
    """The committed notebooks, all of them built before any is compared."""
    from pages import list_notebooks

    built = [(page, page.render(tmp_path / page.path)) for page in list_notebooks()]
    assert len(built) > 10 and len({page.path for page, _ in built}) == len(built)
    for page, body in built:
        shown = shown_on(body, (tmp_path / page.path).parent)
        assert shown == figures_of(nbformat.read(root / page.source, 4)), page.path


def test_a_bar_in_a_tables_code_has_no_backslash():
    """As on GitHub; elsewhere a backslash in code is a backslash."""
    from render import markdown

    page = markdown("a `b\\|c`\n\n| h `i\\|j` |\n|---|\n| d `e\\|f` and g \\| $x_1$ |\n")
    assert "<code>e|f</code> and g | <math" in page and "<code>i|j</code></th>" in page
    assert r"<code>b\|c</code>" in page


@pytest.mark.parametrize("master", MASTERS)
def test_a_course_page_has_no_solution_and_no_test(root, master):
    from course import course_builder, student_copy

    path = root / "assignments" / f"{master}.ipynb"
    cells = student_copy(nbformat.read(path, 4)).cells
    text = "\n".join(cell.source for cell in cells)
    for mark in ("SOLUTION", "BEGIN", "CONFIG", "PROMPT", "def test_", "Model answer", "Rubric,"):
        assert mark not in text
    tasks = course_builder().tasks_of(path)
    checks = [task["name"] for task in tasks if not task.get("manual")]
    assert re.findall(r'grader\.check\("(\w+)"\)', text) == checks
    assert text.count("<summary>Hint 3</summary>") == len(checks)
    assert text.count("*Your answer.*") == len(tasks) - len(checks)
    codes = [cell.source for cell in cells if cell.cell_type == "code"]
    assert all(map(ast.parse, codes)) and {cell.cell_type for cell in cells} == {"code", "markdown"}
    assert not [line for line in answers_of(path) if line in "\n".join(codes).splitlines()]


def answers_of(path: Path) -> list[str]:
    """The lines of a master's solutions that say more than `plan = {`, which is in the prompt."""
    blocks = [
        block
        for cell in nbformat.read(path, 4).cells
        for block in re.findall(r"(?s)# BEGIN SOLUTION.*?# END SOLUTION", cell.source)
    ]
    lines = [line for block in blocks for line in block.splitlines()[1:-1]]
    return [line for line in lines if len(line.strip()) > 8]


def test_a_mark_that_is_not_understood_stops_the_site():
    from common import BuildError
    from course import student_copy

    cell = new_code_cell("x = 1\n# BEGIN SOLUTION, of sorts\ny = 2\n# END SOLUTION")
    with pytest.raises(BuildError, match="a solution would show"):
        student_copy(new_notebook(cells=[cell]))


def test_a_solution_leaves_three_dots():
    from course import student_copy

    code = (
        "def f(x):\n    # BEGIN SOLUTION\n    return x\n    # END SOLUTION\n\n\ny = 2  # SOLUTION"
    )
    copy = student_copy(new_notebook(cells=[new_code_cell(code)]))
    assert copy.cells[0].source == "def f(x):\n    ...\n\n\ny = ..."


def test_the_courses_menu_begins_with_the_page_about_it():
    from pages import list_course

    labels = [page.label for page in list_course()]
    assert labels[:2] == ["About the course", "a sequences"] and len(labels) == 11
    assert labels[-2:] == ["Hints and typical mistakes", "Policy to adapt"]


def test_links_to_a_check_lead_to_its_page(root, tmp_path):
    from finish import Finisher
    from pages import list_documents

    finisher = Finisher(tmp_path, list_documents("Checks"))
    for name in ("ml-1m", "ml-100k", "amazon-baby"):
        readme = root / "benchmarks" / name / "README.md"
        assert finisher.find_target(readme, finisher.pages[0], "") == f"checks/{name}.html"


def test_a_notebook_of_a_stage_leads_to_its_executed_page(root, tmp_path):
    from finish import Finisher
    from pages import list_notebooks

    finisher = Finisher(tmp_path, list(list_notebooks()))
    target = finisher.find_target(root / "notebooks" / "03_training.ipynb", finisher.pages[0], "")
    assert target == "default/03_training/movies-classic.html"


def test_a_docstrings_formula_may_begin_a_line_with_plus():
    from reference import render_docstring

    code = 'def f():\n    """F.\n\n    $a = b\n    + c$, where\n    + d\n    """'
    page = render_docstring(ast.parse(code).body[0])
    assert page.count("<math") == 1 and "$" not in page and "<li>d" in page
