"""What surrounds the grader of the course: hints, Colab, gradebooks, lateness, similarity."""

import csv
import os
import re
import subprocess
import sys
import tomllib
import types
from datetime import UTC, datetime, timedelta

import nbformat
import pytest
from test_course import MASTERS, load, make_course, notebook, questions_of

from bivrec.settings import load_settings


@pytest.fixture(scope="module")
def build(root):
    return load(root, "build")


@pytest.fixture(scope="module")
def gradebook(root):
    return load(root, "gradebook")


@pytest.fixture(scope="module")
def similarity(root):
    return load(root, "similarity")


def test_every_task_has_three_hints_and_none_is_a_line_of_its_solution(root, build):
    steps = build.read_steps()
    tasks = [task for name in MASTERS for task in questions_of(root, name) if task["answers"]]
    coded = {task["name"]: "\n".join(task["answers"]) for task in tasks if not task.get("manual")}
    assert list(steps) == list(coded)
    for name, answers in coded.items():
        assert len(steps[name]) == 3, name
        inside = [part.partition("# END SOLUTION")[0] for part in answers.split("# BEGIN SOLUTION")]
        lines = [line.strip() for part in inside[1:] for line in part.splitlines()]
        shown = [line for line in lines if len(line) > 9 and line in " ".join(steps[name])]
        assert not shown, name


def test_a_hint_is_folded_behind_the_one_before_it(build):
    text = build.fold(["one", "two", "three"])
    places = [text.index(part) for part in ("Hint 1", "one", "Hint 2", "two", "Hint 3", "three")]
    assert places == sorted(places) and text.index("</details>") > places[-1]
    assert text.count("<details>") == text.count("</details>") == 3


def test_a_students_copy_has_hints_before_each_check_and_the_cells_for_colab(build):
    cells = ["import otter", "def f(): ...", 'grader.check("t1")', 'grader.check("t2")']
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    copy = build.add_to_copy(made, "tiny", {"t1": ["a", "b", "c"]}, "https://github.com/o/n")
    kinds = [(cell.cell_type, cell.source.partition("\n")[0]) for cell in copy.cells]
    assert kinds[3:] == [
        ("code", "def f(): ..."),
        ("markdown", "<details><summary>Hint 1</summary>"),
        ("code", 'grader.check("t1")'),
        ("code", 'grader.check("t2")'),
    ]
    link = "https://colab.research.google.com/github/o/n/blob/course/course/tiny/tiny.ipynb"
    assert copy.cells[0].source == f"[Open in Colab]({link})" and kinds[1] == ("code", "import sys")
    made.cells = made.cells[2:]
    assert len(build.add_to_copy(made, "tiny", {}, None).cells) == len(kinds) - 2


def test_the_cell_for_colab_does_nothing_elsewhere(build, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path), dict(os.environ)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it runs a command"))
    exec(build.colab_cells("tiny", "https://github.com/o/n")[1].source, {})
    assert (list(sys.path), dict(os.environ)) == before and os.getcwd() == str(tmp_path)


def test_the_cell_for_colab_installs_the_project_and_goes_to_the_tests(
    build, monkeypatch, tmp_path
):
    """Against a fake google.colab and a stubbed pip; Git clones a real repository."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path / "origin")]
    (tmp_path / "origin" / "course" / "tiny").mkdir(parents=True)
    (tmp_path / "origin" / "course" / "tiny" / "teaching.py").touch()
    for command in (["init", "-q", "-b", "course"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], check=True)
    run, installed = subprocess.run, []

    def run_all_but_pip(command, **options):
        return run(command, **options) if command[0] == "git" else installed.append(command)

    for name in ("google", "google.colab"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(subprocess, "run", run_all_but_pip)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("BIVREC_ROOT", "")
    monkeypatch.chdir(tmp_path)
    project, source = tmp_path / "bivrec", build.colab_cells("tiny", f"file://{tmp_path}/origin")[1]
    code = source.source.replace("/content/bivrec", str(project))
    for _ in range(2):  # also after a restart of the kernel, when the clone exists
        exec(code, {})
        assert os.getcwd() == sys.path[0] == str(project / "course" / "tiny")
        assert os.path.isfile("teaching.py") and os.environ["BIVREC_ROOT"] == str(project)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", f"{project}[study,course]"]
    assert installed == [pip, pip]


def test_the_cell_for_colab_installs_what_the_assignments_import(root, build):
    extras = re.search(r"/content/bivrec\[([\w,]+)\]", build.COLAB)[1].split(",")
    known = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    known = [known["dependencies"], *map(known["optional-dependencies"].get, extras)]
    installed = {re.match(r"[\w-]+", package)[0] for part in known for package in part}
    assert {"torch", "numpy", "jaxtyping", "matplotlib", "seaborn", "otter-grader"} <= installed


def test_a_repository_that_colab_cannot_open_is_refused_in_one_sentence(root):
    command = [sys.executable, "assignments/build.py", "--repository", "git@host:owner/name"]
    shown = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert shown.returncode == 1 and shown.stderr.count("\n") == 1
    assert "https://github.com/owner/name" in shown.stderr


def test_where_the_grader_refuses_the_course_ends_with_its_status(build, monkeypatch, tmp_path):
    (tmp_path / "tiny" / "autograder").mkdir(parents=True)
    (tmp_path / "tiny" / "autograder" / "tiny.ipynb").touch()
    (tmp_path / "grade.py").write_text("import sys; sys.exit(3 + ('--unsealed' in sys.argv))")
    monkeypatch.setattr(build, "HERE", tmp_path)
    for unsealed in (False, True):
        with pytest.raises(SystemExit) as ended:
            build.run_solutions(tmp_path, ["tiny"], unsealed)
        assert ended.value.code == 3 + unsealed


def test_the_prose_states_the_settings_of_study_and_course(root):
    text = (root / "assignments" / "e_cluster.ipynb").read_text()
    study, course = (load_settings(name).model for name in ("movies-classic", "planted"))
    assert f"$K = {study.num_interests}$ interests, of which each patch has " in text
    assert f"has $F = {study.num_nearest}$; the planted data of this course have" in text
    assert f"have $K = {course.num_interests}$ and $F = {course.num_nearest}$" in text
    assert study.readout == course.readout and f"`model.readout: {study.readout}`" in text
    assert study.newest == course.newest and f"`model.newest: {study.newest}`" in text


def test_grading_another_folder_keeps_points_rows_and_pages(root, tmp_path):
    grade, out = load(root, "grade"), tmp_path / "grades"
    make_course(tmp_path)

    def write(*names, assignment="tiny"):
        ones = [grade.Graded(name, assignment, "graded", [], {"t": 1}, {"t": 3}) for name in names]
        kept = grade.write_all(ones, tmp_path, out)
        tables = [grade.read_earlier(out, name) for name in grade.TABLES]
        pages = {grade.page_of(*map(row.get, ("submission", "assignment"))) for row in tables[0]}
        assert [grade.key_of(row) for row in tables[0]] == [grade.key_of(row) for row in tables[1]]
        for kind in ("feedback", "marking"):
            found = (out / kind).rglob("*.md")
            assert pages <= {path.relative_to(out / kind) for path in found}
        return kept, {(*grade.key_of(row), row["by hand"]) for row in tables[0]}

    assert write("a.ipynb", "b c.ipynb")[0] == 0 and write("torn.ipynb", assignment="")[0] == 2
    table = out / "grades.csv"
    table.write_text(table.read_text().replace("1,3,,3", "1,3,2.5,3", 1))
    rows = {("a.ipynb", "tiny", "2.5"), ("b c.ipynb", "tiny", ""), ("torn.ipynb", "next", "")}
    assert write("torn.ipynb", assignment="next") == (2, rows)  # now it can be read
    assert write("a.ipynb", assignment="next") == (3, rows | {("a.ipynb", "next", "")})
    assert write("b c.ipynb", "a.ipynb") == (2, rows | {("a.ipynb", "next", "")})
    lines = [line for line in table.read_text().splitlines() if not line.startswith("b c")]
    table.write_text("\n".join(lines))  # the lecturer removes a submission
    assert write("a.ipynb")[1] == {*rows - {("b c.ipynb", "tiny", "")}, ("a.ipynb", "next", "")}
    assert grade.page_of("b c.ipynb", "x") != grade.page_of("b_c.ipynb", "x")
    table.write_text(table.read_text().replace(",", ";"))
    with pytest.raises(SystemExit, match="^ERROR: .*grades.csv has lost its columns; save it"):
        write("a.ipynb")


GRADES = [
    "submission,assignment,outcome,points,of,by hand,by hand, of,processor seconds,what happened",
    "anna_11_901_d_gaussian.ipynb,d_gaussian,graded,17,20,4.5,6,3,",
    "bo_LATE_12_902_d_gaussian-1.ipynb,d_gaussian,graded,20,20,,6,3,",
    "Cy Li_33_assignsubmission_file_/x.ipynb,d_gaussian,time limit,0,20,,6,300,stopped",
    "dee@example.org.ipynb,d_gaussian,graded,8,20,6,6,3,",
    "torn.ipynb,,unreadable,0,0,,0,0,not a notebook",
]
TASKS = [
    ["submission", "assignment", "task", "points", "of", "hint"],
    ["anna_11_901_d_gaussian.ipynb", "d_gaussian", "d1", "1", "4", "a root | no sum"],
    ["dee@example.org.ipynb", "d_gaussian", "d1", "4", "4", ""],
]
CANVAS = """Student,ID,SIS User ID,SIS Login ID,Section,d_gaussian (77),Final Score
    Points Possible,,,,,25,(read only)
"Li, Cy",33,,cy,One,3,
"Ek, Anna",11,902,anna,One,,90
"Ng, Bo",12,s12,bo,Two,,
"Orr, Dee",14,s14,dee@example.org,Two,,
"""
MOODLE = (
    "Identifier,Full name,Email address,Status,Grade,Maximum Grade,Grade can be changed,"
    "Last modified (submission),Last modified (grade),Feedback comments\n"
    "Participant 33,Cy Li,cy@example.org,Submitted,,26.00,Yes,-,-,\n"
    "Participant 34,Dee Orr,Dee@example.org,Submitted,,26.00,Yes,-,-,\n"
    "Participant 11,Anna Ek,a@example.org,No submission,,26.00,Yes,-,-,keep\n"
)


@pytest.fixture
def graded(tmp_path):
    """A folder as `make grade` writes it, with points that the lecturer entered, and rosters."""
    header, *rows = GRADES
    columns = header.replace("by hand, of", '"by hand, of"')
    (tmp_path / "grades.csv").write_text("\n".join([columns, *rows]) + "\n")
    with open(tmp_path / "tasks.csv", "w", newline="") as file:
        csv.writer(file).writerows(TASKS)
    (tmp_path / "roster.csv").write_text(CANVAS, encoding="utf-8-sig")
    (tmp_path / "sheet.csv").write_text(MOODLE)
    (tmp_path / "times.csv").write_text(
        "submission,time\n"
        "anna_11_901_d_gaussian.ipynb,2026-10-01T23:59\n"
        "bo_LATE_12_902_d_gaussian-1.ipynb,2026-10-03T22:00\n"
        "Cy Li_33_assignsubmission_file_/x.ipynb,2026-10-20T12:00\n"
        "dee@example.org.ipynb,2026-10-03T22:00:00+00:00\n"
    )
    return tmp_path


def test_grades_for_canvas(graded, gradebook, capsys):
    gradebook.main(["canvas", str(graded / "roster.csv"), "--grades", str(graded)])
    assert (graded / "canvas.csv").read_bytes().decode() == (
        "Student,ID,SIS User ID,SIS Login ID,Section,d_gaussian (77)\r\n"
        "    Points Possible,,,,,26\r\n"
        '"Li, Cy",33,,cy,One,3\r\n'  # no submission that Canvas named: what the export had
        '"Ek, Anna",11,902,anna,One,21.5\r\n'
        '"Ng, Bo",12,s12,bo,Two,20\r\n'
        '"Orr, Dee",14,s14,dee@example.org,Two,14\r\n'
    )
    shown = capsys.readouterr().out
    assert "Cy Li_33_assignsubmission_file_/x.ipynb: no student" in shown
    assert "1 submission has answers that are not marked yet" in shown  # Bo's; Cy's is left out


def test_assignments_of_several_weeks_stay_apart(graded, gradebook):
    """A later row of an earlier assignment; files of one name."""
    for name, line in (
        ("grades.csv", "dee@example.org.ipynb,a_sequences,graded,9,14,,6,3,\n"),
        ("tasks.csv", "dee@example.org.ipynb,a_sequences,a1,9,20,\n"),
    ):
        (graded / name).write_text((graded / name).read_text() + line)
    lines = CANVAS.splitlines(keepends=True)
    (graded / "roster.csv").write_text("".join([lines[0], *lines[2:]]))
    gradebook.main(["canvas", str(graded / "roster.csv"), "--grades", str(graded)])
    table = list(csv.reader((graded / "canvas.csv").read_text().splitlines()))
    assert table[0][5:] == ["a_sequences", "d_gaussian (77)"] and table[-1][5:] == ["9", "14"]
    assert table[1][5:] == ["20", "26"]  # points possible
    grades = gradebook.read_grades(graded, None)
    assert "d1" not in grades[-1].comment and "a1" not in grades[-2].comment


def test_a_new_column_for_canvas_has_its_points_possible(graded, gradebook):
    lines = CANVAS.replace("d_gaussian (77)", "Essay (1)").splitlines()
    (graded / "roster.csv").write_text("\n".join([lines[0], *lines[2:]]))
    gradebook.main(["canvas", str(graded / "roster.csv"), "--grades", str(graded)])
    table = (graded / "canvas.csv").read_text().splitlines()
    assert table[0].endswith("Section,d_gaussian") and table[1] == "    Points Possible,,,,,26"


def test_grades_for_moodle(graded, gradebook):
    gradebook.main(["moodle", str(graded / "sheet.csv"), "--grades", str(graded)])
    assert (graded / "moodle.csv").read_bytes().decode() == (
        MOODLE.splitlines()[0] + "\r\n"
        "Participant 33,Cy Li,cy@example.org,Submitted,0,26.00,Yes,-,-,"
        '"time limit: stopped\nwritten answers: not marked yet of 6"\r\n'
        "Participant 34,Dee Orr,Dee@example.org,Submitted,14,26.00,Yes,-,-,"
        '"d1: 4 of 4\nwritten answers: 6 of 6"\r\n'
        "Participant 11,Anna Ek,a@example.org,No submission,,26.00,Yes,-,-,keep\r\n"
    )


def test_the_folder_of_out_is_made(graded, gradebook):
    out = graded / "new" / "folder" / "moodle.csv"
    gradebook.main(
        ["moodle", str(graded / "sheet.csv"), "--grades", str(graded), "--out", str(out)]
    )
    assert out.is_file()


def test_moodle_writes_a_decimal_comma(graded, gradebook):
    (graded / "sheet.csv").write_text(MOODLE.replace("26.00", '"26,00"'))
    gradebook.main(["moodle", str(graded / "sheet.csv"), "--grades", str(graded)])
    assert 'Submitted,14,"26,00",Yes' in (graded / "moodle.csv").read_text()


def test_more_points_by_hand_than_possible_are_a_bonus_with_a_warning(graded, gradebook, capsys):
    table = graded / "grades.csv"
    table.write_text(table.read_text().replace("4.5", "60"))
    gradebook.main(["canvas", str(graded / "roster.csv"), "--grades", str(graded)])
    assert "anna,One,77" in (graded / "canvas.csv").read_text()
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "bonus" in shown  # Dee has 6 of 6
    assert "anna_11_901_d_gaussian.ipynb, by hand: 60 points are more than the 6" in shown


def test_a_table_in_another_encoding_ends_in_one_sentence(root, graded, gradebook):
    table, grade = graded / "grades.csv", load(root, "grade")
    table.write_text(table.read_text().replace("torn", "Müller"), encoding="cp1252")  # Excel's
    for read, name in ((gradebook.read_grades, None), (grade.read_earlier, "grades.csv")):
        with pytest.raises(SystemExit, match="^ERROR: .*grades.csv is not in UTF-8; save it as "):
            read(graded, name)


def test_lateness_costs_a_share_of_the_points(graded, gradebook):
    """Due 23:59 in Berlin, 21:59 UTC; Bo and Dee: two days late and three, of which one is free."""
    late = ["--due", "2026-10-01T23:59", "--times", str(graded / "times.csv")]
    late += ["--grace-days", "1", "--percent-per-day", "10", "--zone", "Europe/Berlin"]
    times = graded / "times.csv"
    lines = times.read_text().splitlines(keepends=True)
    times.write_text("".join(line for line in lines if "Cy Li" not in line))  # not in the roster
    gradebook.main(["canvas", str(graded / "roster.csv"), "--grades", str(graded), *late])
    times.write_text("".join(lines))
    with open(graded / "canvas.csv", newline="") as file:
        points = {row["ID"]: row["d_gaussian (77)"] for row in csv.DictReader(file)}
    assert points["11"] == "21.5" and points["12"] == "18" and points["14"] == "11.2"
    gradebook.main(["moodle", str(graded / "sheet.csv"), "--grades", str(graded), *late])
    text = (graded / "moodle.csv").read_text()
    assert "3 days late, 1 free: 80% of the points" in text
    assert "19 days late, 1 free: 0% of the points" in text


@pytest.mark.parametrize(
    ("form", "name", "is_found"),
    [
        ("canvas", "name_1001_5551_file.ipynb", True),
        ("moodle", "Name_1001_assignsubmission_file/file.ipynb", True),
        ("canvas", "anna.ipynb", True),
        ("moodle", "1001.ipynb", True),
        ("moodle", "1001/file.ipynb", True),
        ("canvas", "anna_1001_a.ipynb", False),
    ],
)
def test_the_examples_of_file_names_are_true(root, gradebook, form, name, is_found):
    students = [{"ID": "1001", "SIS Login ID": "anna", "Identifier": "Participant 1001"}]
    assert f"`{name}`" in (root / "assignments" / "README.md").read_text()
    assert gradebook.rows_of(name, students, form) == ({0} if is_found else set())


@pytest.mark.parametrize(
    ("after", "days", "kept"),
    [(-1, 0, 1), (0, 0, 1), (1, 1, 1), (24, 1, 1), (25, 2, 0.75), (72, 3, 0.5), (999, 42, 0)],
)
def test_a_day_that_has_begun_counts(gradebook, after, days, kept):
    late = gradebook.Late(datetime(2026, 10, 1, 12, tzinfo=UTC), 1, 25)
    time = late.due + timedelta(hours=after)
    assert late.days(time) == days and late.kept(time) == kept


def test_a_day_has_24_hours_when_the_clocks_change(gradebook):
    berlin = gradebook.ZoneInfo("Europe/Berlin")
    due, next_day = (gradebook.parse_time(f"2026-10-{d}T23:30", berlin) for d in (24, 25))
    assert gradebook.Late(due).days(next_day) == 2  # 25 hours
    assert gradebook.parse_time("2026-10-24T21:30Z", berlin) == due


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, ["canvas", "sheet.csv"], "has no column 'Student'"),
        ({}, ["canvas", "nowhere.csv"], "is not a file"),
        ({}, ["canvas", "roster.csv", "--due", "2026-10-01"], "belong together"),
        ({}, ["canvas", "roster.csv", "--due", "1/10", "--times", "times.csv"], "is not a time"),
        ({}, ["canvas", "roster.csv", "--zone", "Mars"], "is not a time zone"),
        ({}, ["canvas", "roster.csv", "--grace-days", "-1"], "--grace-days is -1; give 0 or more"),
        *(({}, ["canvas", "roster.csv", "--percent-per-day", text],
           f"--percent-per-day is {text}; give a number from 0 to 100")
          for text in ("-10", "101", "nan")),
        ({"grades.csv": ("bo_", "mo_")},
         ["canvas", "roster.csv", "--due", "2026-10-01", "--times", "times.csv"], "no row for"),
        ({"grades.csv": ("4.5", "4;5")}, ["canvas", "roster.csv"], "not a number of points"),
        *(({"grades.csv": ("4.5", text)}, ["canvas", "roster.csv"], f"'{text}' is not a number")
          for text in ("nan", "inf", "-1")),
        *(({"grades.csv": swap}, ["canvas", "roster.csv"],
           rf"grades.csv: anna.*ipynb, {column}: {text!r} is not a number .*; write it as 2.5")
          for swap, column, text in (
              (("graded,17,20", "graded,,20"), "points", ""),
              (("graded,17,20", 'graded,"16,5",20'), "points", "16,5"),
              (("graded,17,20", "graded,17,"), "of", ""),
              (("4.5,6,", '4.5,"6,0",'), "by hand, of", "6,0"),
          )),
        ({"sheet.csv": ("26.00", "100.00")}, ["moodle", "sheet.csv"], "set it to 26 in Moodle"),
        ({"sheet.csv": ("26.00", "-")}, ["moodle", "sheet.csv"], "is -; set it to 26 in Moodle"),
        ({"grades.csv": ("dee@example.org", "anna")}, ["canvas", "roster.csv"], "of one student"),
        ({}, ["canvas", "roster.csv", "--assignment", "d_gauss"], "name one of d_gaussian"),
        ({"grades.csv": ("d_gaussian,graded,17", "a_sequences,graded,17")},
         ["canvas", "roster.csv", "--due", "2026-10-01", "--times", "times.csv"], "of one assignm"),
    ],
)  # fmt: skip
def test_wrong_gradebooks_end_in_one_sentence(
    graded, gradebook, monkeypatch, change, arguments, message
):
    monkeypatch.chdir(graded)
    for name, swap in change.items():
        (graded / name).write_text((graded / name).read_text().replace(*swap))
    with pytest.raises(SystemExit, match=rf"^ERROR: .*{message}.* \(nothing was written\)$"):
        gradebook.main([*arguments, "--grades", "."])


STARTER = "def entropy(shares):\n    'In nats.'\n    ...\n\n\ndef best(curve, metric):\n    ..."
LOOP = """def entropy(shares):
    total = 0.0
    for share in shares:
        if share > 0:
            total = total - share * math.log(share)
    return total


def best(curve, metric):
    rows = [row for row in curve if row["metric"] == metric]
    return max(rows, key=lambda row: (row["value"], -row["step"]))["step"]"""
RENAMED = """# all my own work
def entropy(p):
    s = 0.0   # the sum
    for x in p:
        if x > 0:
            s = s - x * math.log(x)
    return s


def best(table, name):
    found = [r for r in table if r["metric"] == name]

    return max(found, key=lambda r: (r["value"], -r["step"]))["step"]"""
ARRAYS = """def entropy(shares):
    clipped = np.clip(np.asarray(shares, dtype=float), 1e-12, None)
    return float(-(np.asarray(shares) * np.log(clipped)).sum())


def best(curve, metric):
    table = pd.DataFrame(curve).query("metric == @metric").groupby("step")["value"].mean()
    return int(table.idxmax())"""
BROKEN = "def entropy(shares):\n    return sum(-x * log(x) for x in p\n\n\nwhile True print('a'"


@pytest.fixture
def handed_in(tmp_path):
    """A class of five; the copy also renames variables, and moves cells."""
    make_course(tmp_path / "course")
    (tmp_path / "course" / "tiny" / "student" / "tiny.ipynb").write_text(notebook(STARTER))
    submissions = {"loop": LOOP, "arrays": ARRAYS, "broken": BROKEN, "empty": STARTER}
    (tmp_path / "in").mkdir()
    for name, code in submissions.items():
        (tmp_path / "in" / f"{name}.ipynb").write_text(notebook("x = 1", code))
    entropy, _, best = RENAMED.partition("\n\n\n")
    (tmp_path / "in" / "renamed.ipynb").write_text(notebook(best, "y = 2", entropy))
    (tmp_path / "in" / "stranger.ipynb").write_text(notebook(LOOP, assignment="../tiny"))
    return tmp_path


def test_a_renamed_copy_is_on_top_and_the_starter_alone_is_0(handed_in, similarity, capsys):
    rows = similarity.report(handed_in / "in", handed_in / "course", common=10)
    assert len(rows) == 10 and "stranger.ipynb: left out" in capsys.readouterr().err
    assert rows[0][:4] == ["tiny", "loop.ipynb", "renamed.ipynb", "1.00"] and rows[0][4] > 10
    others = {(first, second): float(value) for _, first, second, value, _ in rows[1:]}
    assert max(others.values()) < 0.2
    assert all(not value for pair, value in others.items() if "empty.ipynb" in pair)
    starter = similarity.fingerprints_of([STARTER], [])
    assert starter and not similarity.fingerprints_of([STARTER], [STARTER])


def test_what_many_submissions_share_does_not_count(similarity):
    grams = {name: {1, 2, number} for number, name in enumerate("abcd", start=10)}
    grams["d"] = {3, 10}
    assert similarity.compare(grams, 10)[0] == ("a", "b", 2 / 3, 2)
    assert similarity.compare(grams, 2)[0] == ("a", "d", 1.0, 1)
    assert similarity.compare({"a": set(), "b": set()}, 10) == [("a", "b", 0.0, 0)]


def test_a_shared_passage_of_17_tokens_is_found_wherever_it_is(similarity):
    passage = "a + b - c * d / e % f ** g // h @ i"
    assert len(similarity.tokens_of(passage)) == similarity.GRAM + similarity.WINDOW - 1
    one, other = f"x = ({passage}) << 1", f"while {passage} not in y[0]: pass"
    found = [similarity.fingerprints_of([code], []) for code in (one, other)]
    assert found[0] & found[1]


def test_similarity_is_written_as_a_table(handed_in, root):
    command = [sys.executable, "assignments/similarity.py", str(handed_in / "in")]
    command += ["--course", str(handed_in / "course")]
    shown = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    lines = (handed_in / "course" / "grades" / "similarity.csv").read_text().splitlines()
    assert lines[0] == "assignment,first,second,similarity,shared" and len(lines) == 11
