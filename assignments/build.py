"""`make course`: from the masters to students' copies, autograder bundles, rubrics and test files in build/course, by otter
assign; then every solution is graded as a submission would be, and must have full points."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

HERE = Path(__file__).resolve().parent
COURSE = HERE.parent / "build" / "course"


def masters() -> list[Path]:
    """The master notebooks, in the order of the course."""
    return sorted(HERE.glob("[a-z]_*.ipynb"))


def rubrics_of(master: Path) -> list[dict]:
    """The written tasks of a master: name, points, and the model answer with its rubric."""
    from ruamel.yaml import YAML

    found, task, inside = [], None, False
    for cell in nbformat.read(master, 4).cells:
        first = cell.source.partition("\n")[0] if cell.cell_type == "raw" else ""
        if first == "# BEGIN QUESTION":
            task = YAML(typ="safe").load(cell.source)
        elif first in ("# BEGIN SOLUTION", "# END SOLUTION"):
            inside = first == "# BEGIN SOLUTION"
        elif inside and task.get("manual") and cell.cell_type == "markdown":
            found.append({"task": task["name"], "points": task["points"], "text": cell.source})
    return found


def build(master: Path, course: Path) -> None:
    """One assignment's folder: student/ (to hand out), autograder/ (solution, whole tests, otter's bundle), rubrics.json."""
    from otter.assign import main as otter_assign

    folder = course / master.stem
    shutil.rmtree(folder, ignore_errors=True)
    otter_assign(str(master), str(folder), no_pdfs=True, no_run_tests=True)
    (folder / "rubrics.json").write_text(json.dumps(rubrics_of(master), indent=1))


def run_solutions(course: Path, names: list[str]) -> list[str]:
    """The solutions through the grader; a line for each that lacks points."""
    submissions = course / "solutions"
    shutil.rmtree(submissions, ignore_errors=True)
    submissions.mkdir()
    for name in names:
        shutil.copy(course / name / "autograder" / f"{name}.ipynb", submissions)
    graded = [sys.executable, str(HERE / "grade.py"), str(submissions), "--course", str(course), "--out", str(submissions / "grades")]
    subprocess.run(graded, check=True)
    lines = (submissions / "grades" / "grades.csv").read_text().splitlines()[1:]
    return [line for line in lines if line.split(",")[2] != "graded" or line.split(",")[3] != line.split(",")[4] or not line.endswith(",")]


def main() -> None:
    try:
        import otter  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("ERROR: otter-grader is not installed; run `.venv/bin/pip install -e '.[course]'`, then `make course` again")
    wanted = [master for master in masters() if not sys.argv[1:] or master.stem in sys.argv[1:]]
    COURSE.mkdir(parents=True, exist_ok=True)
    for master in wanted:
        build(master, COURSE)
        print(f"{master.stem}: {(COURSE / master.stem / 'student').relative_to(HERE.parent)}", flush=True)
    short = run_solutions(COURSE, [master.stem for master in wanted])
    if short:
        sys.exit("ERROR: a solution lacks points or raised; mend the master:\n" + "\n".join(short))


if __name__ == "__main__":
    main()
