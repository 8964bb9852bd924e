"""`make course`: from the masters to students' copies, autograder bundles, rubrics and test files in build/course, by otter
assign; then every solution is graded as a submission would be, and must have full points."""

import argparse
import ast
import csv
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


def tasks_of(master: Path) -> list[dict]:
    """The tasks of a master: their config, and each test's config with what it says when it fails."""
    from ruamel.yaml import YAML

    yaml, found, inside = YAML(typ="safe"), [], False
    for cell in nbformat.read(master, 4).cells:
        first = cell.source.partition("\n")[0]
        if cell.cell_type == "raw" and first == "# BEGIN QUESTION":
            found.append({**yaml.load(cell.source), "tests": []})
        elif cell.cell_type == "raw" and first in ("# BEGIN TESTS", "# END TESTS"):
            inside = first == "# BEGIN TESTS"
        elif inside:
            config = yaml.load(
                cell.source.split("# END TEST CONFIG")[0].partition("\n")[2].rstrip('" ')
            )
            asserts = [
                node
                for node in ast.walk(ast.parse(cell.source))
                if isinstance(node, ast.Assert) and node.msg
            ]
            said = [
                node.msg.value
                for node in sorted(asserts, key=lambda node: node.lineno)
                if isinstance(node.msg, ast.Constant)
            ]
            found[-1]["tests"].append(
                {**config, "says": [config["failure_message"]] if config["hidden"] else said}
            )
    return found


def hints() -> str:
    """HINTS.md: what each test says when it fails, and the typical mistakes that wrong/ holds, with what they cost."""
    from ruamel.yaml import YAML

    lines = [
        "# Hints and typical mistakes",
        "",
        "Written by `make course` from the masters and from `wrong/`; not by hand. *Hidden* tests say one sentence, without their inputs.",
        "",
    ]
    for master in masters():
        lines += [
            f"## {master.stem}",
            "",
            "| task | points | test | it says |",
            "|---|---|---|---|",
        ]
        for task in tasks_of(master):
            for test in task["tests"]:
                says = "; ".join(
                    text for text in test["says"] if not text.endswith("returns nothing yet")
                ).replace("|", "\\|")
                lines.append(
                    f"| {task['name']} | {test['points']} of {task['points']} | {'hidden' if test['hidden'] else 'visible'} | {says} |"
                )
            if task.get("manual"):
                lines.append(
                    f"| {task['name']} | {task['points']} | by hand | rubric in the master and in `rubrics.json` |"
                )
        lines += ["", "| typical mistake | it costs |", "|---|---|"]
        for wrong in YAML(typ="safe").load((HERE / "wrong" / f"{master.stem}.yaml").read_text()):
            lines.append(
                f"| {wrong['name']} | {', '.join(f'{lost} of {task}' for task, lost in wrong['loses'].items())} |"
            )
        lines.append("")
    return "\n".join(lines)


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
    graded = [
        sys.executable,
        str(HERE / "grade.py"),
        str(submissions),
        "--course",
        str(course),
        "--out",
        str(submissions / "grades"),
    ]
    subprocess.run(graded, check=True)
    with open(submissions / "grades" / "grades.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        ", ".join(row.values())
        for row in rows
        if row["outcome"] != "graded" or row["points"] != row["of"] or row["what happened"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="assignments; all unless told")
    parser.add_argument("--course", type=Path, default=COURSE, help="the folder that is written")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.names) - {master.stem for master in masters()}):
        sys.exit(
            f"ERROR: there is no assignment {unknown[0]!r}; there are {', '.join(master.stem for master in masters())}"
        )
    try:
        import otter  # noqa: F401
    except ModuleNotFoundError:
        sys.exit(
            "ERROR: otter-grader is not installed; run `make course`, which installs it, or `.venv/bin/pip install -e '.[course]'`"
        )
    wanted = [master for master in masters() if not asked.names or master.stem in asked.names]
    asked.course.mkdir(parents=True, exist_ok=True)
    for master in wanted:
        build(master, asked.course)
        print(f"{master.stem}: {asked.course / master.stem / 'student'}", flush=True)
    if asked.course == COURSE:
        (HERE / "HINTS.md").write_text(hints())
    short = run_solutions(asked.course, [master.stem for master in wanted])
    if short:
        sys.exit("ERROR: a solution lacks points or raised; mend the master:\n" + "\n".join(short))


if __name__ == "__main__":
    main()
