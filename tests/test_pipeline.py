"""The notebook runner: nothing half-written, one clear sentence, the same bytes."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from bivrec.errors import NotebookError
from bivrec.outputs import save_output
from bivrec.pipeline import provenance
from bivrec.pipeline.cli import main
from bivrec.pipeline.notebooks import read_notebook, scrub, strip, write_sources
from bivrec.pipeline.verify import spread_tolerances
from bivrec.plots.data import draw_histories
from bivrec.plots.style import set_theme

PARAMETERS = 'dataset = "planted"\nprofile = "default"'
SAVE = """from bivrec.outputs import save_output
import pandas as pd
save_output(pd.DataFrame({'a': [1]}), 'table.csv')
save_output(pd.DataFrame({'a': [1]}), 'more.csv', 'build')"""


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    """A separate project: the real settings and module, one small notebook."""
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    (tmp_path / "bivrec").symlink_to(root / "bivrec")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.chdir(tmp_path)

    def write(*sources: str) -> None:
        cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
        cells += [new_code_cell(source) for source in sources]
        kernel = {"kernelspec": {"name": "python3", "display_name": "x"}}
        nbformat.write(new_notebook(cells=cells, metadata=kernel), "notebooks/01_small.ipynb")
        write_sources()

    write.root = tmp_path
    return write


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_stage_saves_and_repeats(project):
    project(SAVE, "print(dataset)\ndataset")
    assert main(["run", "01_small", "dataset=movies-classic"]) == 0
    folder = project.root / "results" / "01_small" / "movies-classic"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {"01_small.ipynb", "table.csv"}
    assert (project.root / "build" / "01_small" / "movies-classic" / "more.csv").is_file()
    assert b"movies-classic" in first["01_small.ipynb"]
    assert str(project.root).encode() not in first["01_small.ipynb"]
    assert main(["run", "01_small", "dataset=movies-classic"]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert not list((project.root / "build").glob(".running-*"))


@pytest.mark.slow
def test_a_stage_that_saves_nothing_has_its_folder_in_build(project):
    """Every stage of dvc.yaml has one, so that the report can depend on it."""
    project("1 + 1")
    assert main(["run", "01_small", "dataset=planted"]) == 0
    assert (project.root / "build" / "01_small" / "planted").is_dir()


@pytest.mark.slow
def test_profiles_have_separate_files(project):
    more = "save_output({'a': 1}, 'top.json', 'top')\nsave_output({'a': 1}, 'log.json', 'log')"
    project(SAVE, f"{more}\nprint(profile)")
    results, build = project.root / "results", project.root / "build"
    assert main(["run", "01_small", "dataset=planted"]) == 0
    before = {**contents(results), **contents(build / "01_small"), **contents(build / "log")}
    names = {path.name for path in contents(results)}
    assert names == {"01_small.ipynb", "table.csv", "top.json"}  # nothing that differs between runs
    assert main(["run", "01_small", "dataset=planted", "profile=smoke"]) == 0
    assert {str(path.relative_to(results / "smoke")) for path in contents(results / "smoke")} == {
        "01_small/planted/01_small.ipynb",
        "01_small/planted/table.csv",
        "top.json",
        "provenance.json",
    }
    assert (build / "smoke/01_small/planted/more.csv").is_file()
    assert (build / "log/smoke/01_small/planted/log.json").is_file()
    assert all(path.read_bytes() == content for path, content in before.items())


def test_provenance_names_what_made_each_stage(project, monkeypatch):
    results, path = project.root / "results", project.root / "results/smoke/provenance.json"

    def record(stage, seconds):
        (results / "smoke" / stage).mkdir(parents=True, exist_ok=True)
        provenance.record_stage("smoke", stage, seconds)
        return json.loads(path.read_text())

    record("03/a", 3.0)
    written = record("03/b", 4.0)
    assert written["profile"] == "smoke" and written["seconds"] == 7.0
    (maker,) = written["made by"]
    assert set(maker["stages"]) == {"03/a", "03/b"}
    assert maker["commit"] is None and "torch" in maker["versions"]
    lines = {"run_and_read_lines": lambda *command: [f"?? {command[0]}"]}  # another machine
    monkeypatch.setattr(provenance, *lines.popitem())
    written = record("03/a", 5.0)
    assert [set(maker["stages"]) for maker in written["made by"]] == [{"03/b"}, {"03/a"}]
    assert written["seconds"] == 9.0
    maker = written["made by"][1]
    assert maker["commit"] == "?? git" and maker["changed since"] == ["git"]
    assert maker["GPU"] == ["?? nvidia-smi"]
    (results / "smoke/03/b").rmdir()
    assert record("03/a", 5.0)["seconds"] == 5.0  # removed results leave the record
    path.write_text("{")
    assert record("03/a", 6.0)["seconds"] == 6.0


def test_the_default_profiles_provenance_stays_out_of_results(project):
    (project.root / "results/03/a").mkdir(parents=True)
    provenance.record_stage("default", "03/a", 1.0)
    written = json.loads((project.root / "build/log/provenance.json").read_text())
    assert written["profile"] == "default" and written["seconds"] == 1.0
    assert not (project.root / "results/provenance.json").exists()


def test_the_summary_lists_what_ran(project):
    (project.root / "results/03/a").mkdir(parents=True)
    provenance.record_stage("default", "03/a", 61.0)
    shown = provenance.summary("default", "2000-01-01 00:00").splitlines()
    assert shown[0] == "1 stages ran, 1 min 1 s together:"
    assert shown[1].split() == ["03/a", "1", "min", "1", "s"]
    assert "results/08_report/all/08_report.ipynb" in shown[2]
    assert provenance.summary("default", "2999-01-01 00:00").startswith("Nothing had to run")


@pytest.mark.slow
def test_a_failing_cell_is_one_sentence_and_loses_nothing(project, capsys):
    project(SAVE)
    assert main(["run", "01_small", "dataset=planted"]) == 0
    before = (project.root / "results" / "01_small" / "planted" / "table.csv").read_bytes()
    project(SAVE.replace("[1]", "[2]"), "raise ValueError('the moon is full')")
    assert main(["run", "01_small", "dataset=planted"]) == 1
    assert capsys.readouterr().err.strip() == (
        "ERROR: 01_small (planted), cell 4: ValueError: the moon is full; "
        "the notebook up to there: build/failed/01_small-planted.ipynb"
    )
    assert (project.root / "results" / "01_small" / "planted" / "table.csv").read_bytes() == before
    assert (project.root / "build" / "failed" / "01_small-planted.ipynb").is_file()
    assert not list((project.root / "build").glob(".running-*"))


BAD_CALLS = {
    "run 01_small datset=planted": "01_small.ipynb has no parameter 'datset'; it has dataset, profile",
    "run 01_small profile=fool": "params.yaml: there is no profile 'fool'; known are default, smoke, full, wide",
    "check fool": "params.yaml: there is no profile 'fool'; known are default, smoke, full",
    "run 01_small dataset=nowhere": "there is no dataset 'nowhere'",
    "run 01_small dataset=../../x": "there is no dataset '../../x'",
    "run 99_none dataset=planted": "there is no notebook 99_none.ipynb",
    "run ../01_small": "'../01_small' is no notebook's name but a path",
}


def test_bad_calls(project, capsys):
    project(SAVE)
    for call, message in BAD_CALLS.items():
        assert main(call.split()) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_bad_notebooks(project, capsys):
    project(SAVE)
    path = project.root / "notebooks" / "01_small.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), path)
    with pytest.raises(NotebookError, match="0 cells tagged 'parameters'"):
        read_notebook(path)
    path.write_text("{")
    assert main(["source"]) == 1
    assert "notebooks/01_small.ipynb is not a notebook" in capsys.readouterr().err


def test_a_bad_params_file_stops_every_command(project, capsys):
    project(SAVE)
    params = project.root / "params.yaml"
    params.write_text(params.read_text().replace("  num_interests: 2", "  num_interest: 2"))
    for command in (["check"], ["source"], ["run", "01_small", "dataset=planted"]):
        assert main(command) == 1
        assert "did you mean 'num_interests'" in capsys.readouterr().err


def test_saved_outputs_never_count(project):
    project("1 + 1")
    source = project.root / "build" / "notebooks" / "01_small.ipynb"
    before, stamp = source.read_bytes(), source.stat().st_mtime_ns
    notebook = nbformat.read(project.root / "notebooks" / "01_small.ipynb", 4)
    cell = notebook.cells[1]
    cell.outputs, cell.execution_count, cell.id = [new_output("stream", text="2")], 7, "other"
    notebook.metadata["widgets"] = {}
    nbformat.write(notebook, project.root / "notebooks" / "01_small.ipynb")
    write_sources()
    assert source.read_bytes() == before and source.stat().st_mtime_ns == stamp


def test_scrub_joins_what_a_cell_printed():
    """The kernel sends text in parts, cut by its clock."""
    cell = new_code_cell("print()")
    parts = [("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d")]
    cell.outputs = [new_output("stream", name=name, text=text) for name, text in parts]
    outputs = scrub(new_notebook(cells=[cell])).cells[0].outputs
    joined = [(output["name"], output["text"]) for output in outputs]
    assert joined == [("stdout", "ab"), ("stderr", "c"), ("stdout", "d")]


def test_scrub_removes_times_and_paths(project):
    project("1")
    tagged = {"papermill": {"duration": 1.5}, "tags": ["injected-parameters"]}
    cell = new_code_cell("x", metadata=tagged)
    data = {"text/plain": f"{project.root}/data"}
    cell.outputs = [new_output("display_data", data, metadata={"when": 3})]
    executed = new_notebook(cells=[cell], metadata={"papermill": {"start_time": "2026"}})
    text = nbformat.writes(scrub(executed))
    assert not re.search(f"2026|duration|when|{project.root}", text)
    assert "./data" in text and "injected-parameters" in text
    assert "outputs" in nbformat.writes(strip(new_notebook(cells=[new_code_cell("x")])))


def environment_of(pid: str) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = [entry for entry in file.read().split(b"\0") if b"=" in entry]
    except OSError:
        return {}
    return dict(entry.decode(errors="replace").partition("=")[::2] for entry in entries)


def kernels_of(root) -> list[str]:
    """The kernels that run for a project."""
    command = ["ps", "-eo", "pid,args"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    kernels = [line.split()[0] for line in lines if "ipykernel" in line]
    return [pid for pid in kernels if environment_of(pid).get("BIVREC_ROOT") == str(root)]


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nothing_half_written(project, number):
    project(SAVE, "import time\ntime.sleep(60)")
    # a shell's background jobs ignore SIGINT, and so would their children
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "bivrec", "run", "01_small", "dataset=planted"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, former)
    build = project.root / "build"
    wait_for(lambda: list(build.glob(".running-*/results/table.csv")), 60)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0 and "Traceback" not in error
    assert not (project.root / "results" / "01_small").exists()
    wait_for(lambda: not kernels_of(project.root), 10)  # the kernel notices within a second or two
    assert not kernels_of(project.root)
    project(SAVE)
    assert main(["run", "01_small", "dataset=planted"]) == 0  # and the next run succeeds
    assert not list(build.glob(".running-*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stage_ends_with_the_caller_that_began_it(project):
    """DVC killed alone: the stage that its shell runs, and the kernel, end by themselves."""
    pids = project.root / "kernel"
    write = f"pathlib.Path('{pids}').write_text(f'{{os.getppid()}} {{os.getpid()}}')"
    project(f"import os, pathlib, time\n{write}\ntime.sleep(600)")
    # the shell stays, as DVC's does
    command = f"{sys.executable} -m bivrec run 01_small dataset=planted; true"
    shell = f"subprocess.Popen(['/bin/sh', '-c', {command!r}], start_new_session=True)"
    begin = f"import subprocess, time; {shell}; time.sleep(600)"
    environment = os.environ | {"DVC_STAGE": "small"}
    caller = subprocess.Popen([sys.executable, "-c", begin], env=environment)
    wait_for(lambda: pids.is_file() and pids.read_text(), 60)
    caller.kill()
    caller.wait()
    started = [f"/proc/{pid}" for pid in pids.read_text().split()]
    wait_for(lambda: not any(map(os.path.exists, started)), 30)
    assert not [path for path in started if os.path.exists(path)]


def test_verify_compares_and_says_what_moved(project, capsys):
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    results = project.root / "results"
    results.mkdir()
    same = dict(profile="default", dataset="d", protocol="by_user", study="training", condition="")
    same |= dict(model="m", view="id", split="test", metric="ndcg@20")
    table = pd.DataFrame([same | dict(seed=s, value=0.2 + 0.01 * s) for s in range(3)])
    table.to_csv(results / "runs.csv", index=False)
    for command in (["init", "-q"], ["add", "results"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True, cwd=project.root)
    assert main(["verify"]) == 0 and "largest difference 0.000000" in capsys.readouterr().out
    allowed = float(spread_tolerances(table).iloc[0])
    assert allowed == pytest.approx(3 * 0.01 * (2 / 3) ** 0.5)
    table.assign(value=table["value"] + 0.9 * allowed).to_csv(results / "runs.csv", index=False)
    assert main(["verify"]) == 0
    table.assign(value=table["value"] + 1.1 * allowed).to_csv(results / "runs.csv", index=False)
    assert main(["verify"]) == 1 and "1 of 1 figures compared" in capsys.readouterr().err
    table[:0].to_csv(results / "runs.csv", index=False)
    assert main(["verify"]) == 1 and "was params.yaml changed?" in capsys.readouterr().err
    (results / "runs.csv").unlink()
    assert main(["verify"]) == 1 and "is missing; `make repro` makes it" in capsys.readouterr().err


def test_help_and_unknown_commands(capsys):
    assert main([]) == 0 and main(["nonsense"]) == 2 and main(["run"]) == 2
    assert "python -m bivrec" in capsys.readouterr().out


def test_figures_and_records_are_the_same_bytes_twice(tmp_path, monkeypatch):
    set_theme()
    monkeypatch.setenv("BIVREC_RESULTS", str(tmp_path))
    for name in ("a", "b"):
        lengths = np.array([5, 9, 30])
        save_output(draw_histories(lengths, lengths), f"{name}.png")
        save_output({"z": 1, "y": [0.5]}, f"{name}.json")
    plt.close("all")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"y": [0.5], "z": 1}
    monkeypatch.delenv("BIVREC_RESULTS")
    save_output({"z": 1}, "c.json")
    assert not (tmp_path / "c.json").exists() and not os.path.exists("c.json")


@pytest.mark.slow
def test_changed_data_is_refused_before_dvc_records_it(project, capsys):
    """DVC would record a damaged data/ as a new version; the check names the file first."""
    dvc = [sys.executable, "-m", "dvc"]
    for command in (["git", "init", "-q"], [*dvc, "init", "-q"]):
        subprocess.run(command, check=True, cwd=project.root)
    ratings = project.root / "data" / "ratings.csv"
    ratings.parent.mkdir()
    for name in ("ratings.csv", "tags.csv"):
        ratings.with_name(name).write_text("a,b\n1,2\n")
    subprocess.run([*dvc, "add", "-q", "data"], check=True, cwd=project.root)
    recorded = (project.root / "data.dvc").read_text()
    assert main(["check", "smoke"]) == 0
    ratings.write_text("a,b\n1\n")
    assert main(["check", "smoke"]) == 1
    differs = "data/ differs from what data.dvc records; `make restore`"
    assert f"ERROR: data/ratings.csv is modified: {differs}" in capsys.readouterr().err
    ratings.unlink()
    assert main(["check", "smoke"]) == 1
    assert "data/ratings.csv" in capsys.readouterr().err
    assert (project.root / "data.dvc").read_text() == recorded
