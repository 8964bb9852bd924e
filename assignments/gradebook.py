"""Grades in a file that Canvas or Moodle imports: `assignments/gradebook.py canvas export.csv`.

`export.csv` is the platform's own export, which names the students: the gradebook of Canvas, or the
grading worksheet of a Moodle assignment. The points are those of `make grade` and those that you
entered by hand, less what lateness costs.
"""

import argparse
import csv
import math
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

GRADES = Path(__file__).resolve().parent.parent / "build" / "course" / "grades"
NEEDED = {
    "canvas": ("Student", "ID", "Section"),
    "moodle": ("Identifier", "Grade", "Last modified (grade)"),
}
KEYS = {
    "canvas": ("ID", "SIS User ID", "SIS Login ID"),
    "moodle": ("Identifier", "ID number", "Email address"),
}
# how each platform names the files that it lets you download: the student's number
NAMED = {
    "canvas": re.compile(r"(?:^|/)[^/_]+(?:_LATE)?_(\d+)_\d+_[^/]*$"),
    "moodle": re.compile(r"(?:^|/)[^/]*_(\d+)_assignsubmission_"),
}


@dataclass(frozen=True)
class Late:
    """What lateness costs. A day is 24 hours; one that has begun counts."""

    due: datetime
    grace_days: int = 0
    percent_per_day: float = 0.0

    def days(self, time: datetime) -> int:
        """The days by which a submission is late, grace days not yet subtracted."""
        late = time.astimezone(UTC) - self.due.astimezone(UTC)
        return max(0, math.ceil(late.total_seconds() / 86400))

    def kept(self, time: datetime) -> float:
        """The share of the points that remains, 0 to 1."""
        charged = max(0, self.days(time) - self.grace_days)
        return max(0.0, 1 - charged * self.percent_per_day / 100)


@dataclass
class Grade:
    """A submission's points, the points possible, and the comment for its student."""

    submission: str
    assignment: str
    points: float
    possible: float
    comment: str
    is_marked: bool  # not if points by hand are missing


def stop(message: str) -> None:
    sys.exit(f"ERROR: {message} (nothing was written)")


def read_table(path: Path, needed: Iterable[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV.

    Ends with one sentence if the file or a column is missing, or the file is not in UTF-8."""
    if not path.is_file():
        stop(f"{path} is not a file; name one that exists")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows, columns = list(reader), list(reader.fieldnames or [])
    except UnicodeDecodeError:
        stop(f"{path} is not in UTF-8; save it as CSV UTF-8")
    for name in needed:
        if name not in columns:
            stop(f"{path} has no column {name!r}; export it again, in English, with commas")
    return columns, rows


def parse_time(text: str, zone: tzinfo) -> datetime:
    """An ISO 8601 time; without an offset, it is of the zone."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        stop(f"{text!r} is not a time; write it as 2026-10-01T23:59 or 2026-10-01T23:59+02:00")
    return time if time.tzinfo else time.replace(tzinfo=zone)


def read_grades(folder: Path, only: str | None) -> list[Grade]:
    """The grades of `make grade`: points by tests and by hand.

    Leaves out submissions to no assignment, and those to others than `only`."""
    _, rows = read_table(folder / "grades.csv", ("submission", "assignment", "by hand"))
    _, tasks = read_table(folder / "tasks.csv", ("submission", "assignment", "task", "hint"))
    known, grades = sorted({row["assignment"] for row in rows} - {""}), []
    if only not in (None, *known):
        stop(
            f"--assignment {only} is not in {folder / 'grades.csv'}; name one of {', '.join(known)}"
        )
    for row in rows:
        name, lines = row["submission"], []
        written = points_in(row, "by hand, of")
        possible = points_in(row, "of") + written
        if not possible or only not in (None, row["assignment"]):
            continue
        points = points_in(row, "points") + points_by_hand(row)
        if row["outcome"] != "graded":
            lines.append(f"{row['outcome']}: {row['what happened']}")
        own = (name, row["assignment"])
        for task in (task for task in tasks if (task["submission"], task["assignment"]) == own):
            hint = f" ({task['hint']})" if task["hint"] else ""
            lines.append(f"{task['task']}: {task['points']} of {task['of']}{hint}")
        if written:
            marked = row["by hand"] or "not marked yet"
            lines.append(f"written answers: {marked} of {row['by hand, of']}")
        is_marked = bool(row["by hand"] or not written)
        grades.append(Grade(*own, points, possible, "\n".join(lines), is_marked))
    return grades


def charge(grades: Iterable[Grade], late: Late, times: dict[str, datetime]) -> None:
    """Takes what lateness costs from the points of grades of one assignment."""
    if len(names := sorted({grade.assignment for grade in grades})) > 1:
        stop(f"--due is of one assignment, the grades of {', '.join(names)}; use --assignment")
    for grade in grades:
        if grade.submission not in times:
            stop(
                f"the file of --times has no row for {grade.submission!r}; "
                "add its time of submission"
            )
        time = times[grade.submission]
        if days := late.days(time):
            kept = f"{late.kept(time):.0%} of the points"
            grade.comment += f"\n{days} days late, {late.grace_days} free: {kept}"
        grade.points *= late.kept(time)


def parse_number(text: str) -> float:
    """The number that a cell holds, nan if it holds none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def points_in(row: dict[str, str], column: str) -> float:
    """The points in a cell of grades.csv; ends with one sentence if it holds none."""
    points = parse_number(row[column])
    if not 0 <= points < math.inf:
        place = f"grades.csv: {row['submission']}, {column}"
        stop(f"{place}: {row[column]!r} is not a number of points, 0 or more; write it as 2.5")
    return points


def points_by_hand(row: dict[str, str]) -> float:
    """The points entered by hand; an empty cell is 0.

    Prints a warning for more points than are possible, which may be a bonus."""
    text, most = row["by hand"], row["by hand, of"]
    points = points_in(row, "by hand") if text else 0.0
    if points > float(most):
        print(
            f"WARNING: {row['submission']}, by hand: {text} points are more than the {most} "
            "possible; correct them in grades.csv unless they are a bonus",
            file=sys.stderr,
        )
    return points


def rows_of(submission: str, students: list[dict], form: str) -> set[int]:
    """The rows of the student who is named by the number in the platform's own file names, or by
    the name of the file or of its first folder: a login, number or email address."""
    path, keys = Path(submission), KEYS[form]
    wanted = {path.stem.lower(), path.parts[0].lower()}
    if found := NAMED[form].search(submission):
        wanted, keys = {found[1]}, keys[:1]
    names = [
        {student.get(key, "").strip().lower().removeprefix("participant ") for key in keys}
        for student in students
    ]
    return {at for at, own in enumerate(names) if wanted & own}


def match(grades: Iterable[Grade], students: list[dict], form: str) -> dict[tuple, Grade]:
    """Grades by row of the roster and assignment; prints the submissions that match no row.

    Ends with one sentence if a student has two submissions to one assignment."""
    found = {}
    for grade in grades:
        at = rows_of(grade.submission, students, form)
        if len(at) != 1:
            print(
                f"{grade.submission}: no student of the roster; "
                "name the file by login or number alone, as anna.ipynb"
            )
            continue
        place = (*at, grade.assignment)
        if place in found:
            both = f"{found[place].submission!r} and {grade.submission!r}"
            stop(
                f"{both} are of one student and {grade.assignment}; "
                "remove the file of one, and its row in grades.csv"
            )
        found[place] = grade
    return found


def number(points: float) -> str:
    return f"{round(points, 2):g}"


def for_canvas(columns: list[str], rows: list[dict], found: dict[tuple, Grade]) -> list[list[str]]:
    """A gradebook with one column for each assignment, under the row of points possible.

    Students without a submission keep what the export has."""
    most = {name: number(grade.possible) for (_, name), grade in found.items()}
    table, possible = [], dict(sorted(most.items()))
    own = {
        name: next((x for x in columns if re.fullmatch(rf"{name}( \(\d+\))?", x)), name)
        for name in possible
    }
    identity = columns[: columns.index("Section") + 1]
    if not any("Points Possible" in row["Student"] for row in rows):
        table.append(["    Points Possible", *[""] * (len(identity) - 1), *possible.values()])
    for at, row in enumerate(rows):
        is_head = "Points Possible" in row["Student"]
        cells = [
            possible[name] if is_head
            else number(found[at, name].points) if (at, name) in found
            else row.get(column, "")
            for name, column in own.items()
        ]  # fmt: skip
        table.append([*(row[name] for name in identity), *cells])
    return [[*identity, *own.values()], *table]


def for_moodle(columns: list[str], rows: list[dict], found: dict[tuple, Grade]) -> list[list[str]]:
    """The grading worksheet with the columns Grade and Feedback comments filled in."""
    if len(names := sorted({name for _, name in found})) > 1:
        stop(
            f"a worksheet is of one assignment, the grades of {', '.join(names)}; use --assignment"
        )
    for (at, _), grade in found.items():
        most = rows[at].get("Maximum Grade") or number(grade.possible)
        if parse_number(most.replace(",", ".")) != grade.possible:
            stop(
                f"Maximum Grade is {most}; set it to {number(grade.possible)} in Moodle, export again"
            )
        rows[at]["Grade"] = number(grade.points)
        if "Feedback comments" in columns:
            rows[at]["Feedback comments"] = grade.comment
    return [columns, *([row[name] for name in columns] for row in rows)]


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("form", choices=("canvas", "moodle"))
    parser.add_argument("roster", type=Path, help="the platform's export, which names the students")
    parser.add_argument("--grades", type=Path, default=GRADES, help="the output of `make grade`")
    parser.add_argument("--out", type=Path, help="default: canvas.csv or moodle.csv in --grades")
    parser.add_argument("--assignment", help="only this one, as d_gaussian")
    parser.add_argument("--due", help="ISO 8601: 2026-10-01T23:59, or with an offset, +02:00")
    parser.add_argument("--times", type=Path, help="CSV with the columns submission and time")
    parser.add_argument("--zone", default="UTC", help="of times without an offset: Europe/Berlin")
    parser.add_argument("--grace-days", type=int, default=0, help="late days that cost nothing")
    parser.add_argument("--percent-per-day", type=float, default=0.0, help="of the points earned")
    options = parser.parse_args(arguments)
    if bool(options.due) != bool(options.times):
        stop("--due and --times belong together; give both or neither")
    if options.grace_days < 0:
        stop(f"--grace-days is {options.grace_days}; give 0 or more")
    if not 0 <= options.percent_per_day <= 100:
        stop(f"--percent-per-day is {options.percent_per_day:g}; give a number from 0 to 100")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments)
    try:
        zone = ZoneInfo(options.zone)
    except (ZoneInfoNotFoundError, ValueError):
        stop(f"--zone {options.zone} is not a time zone; name one as Europe/Berlin")
    late, times = None, {}
    if options.due:
        due = parse_time(options.due, zone)
        late = Late(due, options.grace_days, options.percent_per_day)
        _, rows = read_table(options.times, ("submission", "time"))
        times = {row["submission"]: parse_time(row["time"], zone) for row in rows}
    grades = read_grades(options.grades, options.assignment)
    columns, rows = read_table(options.roster, NEEDED[options.form])
    found = match(grades, rows, options.form)
    if late:
        charge(found.values(), late, times)
    table = {"canvas": for_canvas, "moodle": for_moodle}[options.form](columns, rows, found)
    out = options.out or options.grades / f"{options.form}.csv"
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    print(f"Wrote {out}")
    if unmarked := sum(not grade.is_marked for grade in found.values()):
        have = "1 submission has" if unmarked == 1 else f"{unmarked} submissions have"
        print(f"{have} answers that are not marked yet; these count 0")


if __name__ == "__main__":
    main()
