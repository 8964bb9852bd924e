"""The notebook runner: nothing half-written, one clear sentence, the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from bivrec.errors import NotebookError
from bivrec.pipeline.cli import main
from bivrec.pipeline.notebooks import read_notebook, scrub, strip, write_sources
from bivrec.pipeline.verify import spread_tolerances


@pytest.fixture
def project(root, tmp_path, monkeypatch):
    """A project of its own: the real settings and module, one small notebook."""
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("BIVREC_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.chdir(tmp_path)

    def write(*sources: str) -> None:
        cells = [
            new_code_cell(
                'dataset = "planted"\nprofile = "default"', metadata={"tags": ["parameters"]}
            )
        ] + [new_code_cell(source) for source in sources]
        nbformat.write(
            new_notebook(
                cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "x"}}
            ),
            "notebooks/01_small.ipynb",
        )
        write_sources()

    write.root = tmp_path
    return write


KEEP = "from bivrec.outputs import save_output\nimport pandas as pd\nkeep(pd.DataFrame({'a': [1]}), 'table.csv')\nkeep(pd.DataFrame({'a': [1]}), 'more.csv', 'build')"


def test_runs_keeps_and_repeats(project):
    project(KEEP, "print(dataset)\ndataset")
    assert main(["run", "01_small", "dataset=movies-classic"]) == 0
    folder = project.root / "results" / "01_small" / "movies-classic"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {"01_small.ipynb", "table.csv"}
    assert (project.root / "build" / "01_small" / "movies-classic" / "more.csv").is_file()
    assert (
        b"movies-classic" in first["01_small.ipynb"]
        and str(project.root).encode() not in first["01_small.ipynb"]
    )
    assert main(["run", "01_small", "dataset=movies-classic"]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert not list((project.root / "build").glob(".running-*"))


def _content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_profiles_keep_apart(project):
    project(
        KEEP,
        "save_output({'a': 1}, 'top.json', 'top')\nkeep({'a': 1}, 'log.json', 'log')\nprint(profile)",
    )
    results, build = project.root / "results", project.root / "build"
    assert main(["run", "01_small", "dataset=planted"]) == 0
    before = {**_content(results), **_content(build / "01_small"), **_content(build / "log")}
    assert {path.name for path in _content(results)} == {
        "01_small.ipynb",
        "table.csv",
        "top.json",
    }  # nothing that differs from run to run
    assert main(["run", "01_small", "dataset=planted", "profile=smoke"]) == 0
    smoke = {str(path.relative_to(results / "smoke")) for path in _content(results / "smoke")}
    assert smoke == {
        "01_small/planted/01_small.ipynb",
        "01_small/planted/table.csv",
        "top.json",
        "provenance.json",
    }
    assert (build / "smoke/01_small/planted/more.csv").is_file() and (
        build / "log/smoke/01_small/planted/log.json"
    ).is_file()
    assert all(path.read_bytes() == content for path, content in before.items())


def test_provenance_names_what_made_each_stage(project, monkeypatch):
    from bivrec import pipeline

    def record(stage, seconds, profile="smoke", place="results/smoke"):
        (project.root / "results" / ("" if profile == "default" else profile) / stage).mkdir(
            parents=True, exist_ok=True
        )
        pipeline.record_stage(profile, stage, seconds)
        return json.loads((project.root / place / "provenance.json").read_text())

    record("03/a", 3.0)
    told = record("03/b", 4.0)
    assert told["profile"] == "smoke" and told["seconds"] == 7.0 and len(told["made by"]) == 1
    assert (
        set(told["made by"][0]["stages"]) == {"03/a", "03/b"}
        and told["made by"][0]["commit"] is None
        and "torch" in told["made by"][0]["versions"]
    )
    monkeypatch.setattr(
        pipeline, "told_by", lambda *command: [f"?? {command[0]}"]
    )  # another commit, another machine
    told = record("03/a", 5.0)
    assert [set(maker["stages"]) for maker in told["made by"]] == [{"03/b"}, {"03/a"}] and told[
        "seconds"
    ] == 9.0
    assert (
        told["made by"][1]["commit"] == "?? git"
        and told["made by"][1]["changed since"] == ["git"]
        and told["made by"][1]["GPU"] == ["?? nvidia-smi"]
    )
    (project.root / "results/smoke/03/b").rmdir()
    assert record("03/a", 5.0)["seconds"] == 5.0  # nothing is told of what is gone
    (project.root / "results/smoke/provenance.json").write_text("{")
    assert record("03/a", 6.0)["seconds"] == 6.0
    assert (
        record("03/a", 1.0, "default", "build/log")["profile"] == "default"
        and not (project.root / "results/provenance.json").exists()
    )


def test_a_failing_cell_is_one_sentence_and_loses_nothing(project, capsys):
    project(KEEP)
    assert main(["run", "01_small", "dataset=planted"]) == 0
    before = (project.root / "results" / "01_small" / "planted" / "table.csv").read_bytes()
    project(KEEP.replace("[1]", "[2]"), "raise ValueError('the moon is full')")
    assert main(["run", "01_small", "dataset=planted"]) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert told == [
        "ERROR: 01_small (planted), cell 4: ValueError: the moon is full; the notebook up to there: build/failed/01_small-planted.ipynb"
    ]
    assert (project.root / "results" / "01_small" / "planted" / "table.csv").read_bytes() == before
    assert (project.root / "build" / "failed" / "01_small-planted.ipynb").is_file()
    assert not list((project.root / "build").glob(".running-*"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["run", "01_small", "datset=planted"],
            "01_small.ipynb has no parameter 'datset'; it has dataset, profile",
        ),
        (
            ["run", "01_small", "profile=fool"],
            "params.yaml: there is no profile 'fool'; known are default, smoke, full, wide, comirec",
        ),
        (
            ["check", "fool"],
            "params.yaml: there is no profile 'fool'; known are default, smoke, full",
        ),
        (["run", "01_small", "dataset=nowhere"], "there is no dataset 'nowhere'"),
        (["run", "01_small", "dataset=../../x"], "there is no dataset '../../x'"),
        (["run", "99_none", "dataset=planted"], "there is no notebook 99_none.ipynb"),
    ],
)
def test_bad_calls(project, capsys, arguments, told):
    project(KEEP)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_bad_notebooks(project, capsys):
    project(KEEP)
    path = project.root / "notebooks" / "01_small.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), path)
    with pytest.raises(NotebookError, match="0 cells tagged 'parameters'"):
        read_notebook(path)
    path.write_text("{")
    assert main(["source"]) == 1
    assert "notebooks/01_small.ipynb is not a notebook" in capsys.readouterr().err


def test_a_bad_params_file_stops_every_command(project, capsys):
    project(KEEP)
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
    notebook.cells[1].outputs, notebook.cells[1].execution_count = (
        [nbformat.v4.new_output("stream", text="2")],
        7,
    )
    notebook.cells[1].id, notebook.metadata["widgets"] = "other", {}
    nbformat.write(notebook, project.root / "notebooks" / "01_small.ipynb")
    write_sources()
    assert source.read_bytes() == before and source.stat().st_mtime_ns == stamp


def test_scrub_joins_what_a_cell_printed():
    """The kernel sends text in parts, as its clock has it; a killed run's notebook differed by that alone."""
    cell, streams = (
        new_code_cell("print()"),
        [("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d")],
    )
    cell.outputs = [
        nbformat.v4.new_output("stream", name=name, text=text) for name, text in streams
    ]
    outputs = scrub(new_notebook(cells=[cell])).cells[0].outputs
    assert [(output["name"], output["text"]) for output in outputs] == [
        ("stdout", "ab"),
        ("stderr", "c"),
        ("stdout", "d"),
    ]


def test_scrub_removes_times_and_paths(project):
    project("1")
    cell = new_code_cell(
        "x", metadata={"papermill": {"duration": 1.5}, "tags": ["injected-parameters"]}
    )
    cell.outputs = [
        nbformat.v4.new_output(
            "display_data", {"text/plain": f"{project.root}/data"}, metadata={"when": 3}
        )
    ]
    text = nbformat.writes(
        scrub(new_notebook(cells=[cell], metadata={"papermill": {"start_time": "2026"}}))
    )
    assert (
        "2026" not in text
        and "duration" not in text
        and str(project.root) not in text
        and "when" not in text
    )
    assert "./data" in text and "injected-parameters" in text
    assert "outputs" in nbformat.writes(strip(new_notebook(cells=[new_code_cell("x")])))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nothing_half_written(project, root, number):
    project(KEEP, "import time\ntime.sleep(60)")
    kept = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs ignore it, and so would their children
    process = subprocess.Popen(
        [sys.executable, "-m", "bivrec", "run", "01_small", "dataset=planted"],
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, kept)
    deadline = time.monotonic() + 60
    while (
        not list((project.root / "build").glob(".running-*/results/table.csv"))
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0 and "Traceback" not in error
    assert not (project.root / "results" / "01_small").exists()
    for _ in range(100):  # the kernel notices within a second or two
        alive = [
            line
            for line in subprocess.run(
                ["ps", "-eo", "pid,args"], capture_output=True, text=True
            ).stdout.splitlines()
            if "ipykernel" in line
        ]
        mine = [
            line
            for line in alive
            if _environment(line.split()[0]).get("BIVREC_ROOT") == str(project.root)
        ]
        if not mine:
            break
        time.sleep(0.1)
    assert not mine
    project(KEEP)
    assert main(["run", "01_small", "dataset=planted"]) == 0  # and the next run goes through
    assert not list((project.root / "build").glob(".running-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stage_ends_with_the_caller_that_began_it(project):
    """DVC killed alone: the stage that its shell runs, and the kernel, end by themselves."""
    project(
        f"import os, pathlib, time\npathlib.Path('{project.root}/kernel').write_text(f'{{os.getppid()}} {{os.getpid()}}')\ntime.sleep(600)"
    )
    command = f"{sys.executable} -m bivrec run 01_small dataset=planted; true"  # the shell stays, as DVC's does
    begin = f"import os, subprocess, time; subprocess.Popen(['/bin/sh', '-c', {command!r}], start_new_session=True); time.sleep(600)"
    caller = subprocess.Popen(
        [sys.executable, "-c", begin], env=os.environ | {"DVC_STAGE": "small"}
    )
    told, until = project.root / "kernel", time.time() + 60
    while not (told.is_file() and told.read_text()) and time.time() < until:
        time.sleep(0.1)
    caller.kill()
    caller.wait()
    stage, kernel = told.read_text().split()
    until = time.time() + 30
    while (
        any(os.path.exists(f"/proc/{process}") for process in (stage, kernel))
        and time.time() < until
    ):
        time.sleep(0.2)
    assert not [process for process in (stage, kernel) if os.path.exists(f"/proc/{process}")]


def _environment(pid: str) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return dict(
                entry.decode(errors="replace").partition("=")[::2]
                for entry in file.read().split(b"\0")
                if b"=" in entry
            )
    except OSError:
        return {}


def test_verify_compares_and_says_what_moved(project, capsys):
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    results = project.root / "results"
    results.mkdir()
    rows = [
        (
            "default",
            "d",
            "by_user",
            "training",
            "",
            "m",
            "id",
            seed,
            "test",
            "ndcg@20",
            0.2 + 0.01 * seed,
        )
        for seed in range(3)
    ]
    columns = [
        "profile",
        "dataset",
        "protocol",
        "study",
        "condition",
        "model",
        "view",
        "seed",
        "split",
        "metric",
        "value",
    ]
    table = pd.DataFrame(rows, columns=columns)
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


def test_help_and_unknown_commands(capsys):
    assert main([]) == 0 and main(["nonsense"]) == 2
    assert "python -m bivrec" in capsys.readouterr().out


def test_figures_and_records_are_the_same_bytes_twice(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    from bivrec.outputs import save_output
    from bivrec.plots.data import draw_histories
    from bivrec.plots.style import set_theme

    set_theme()
    monkeypatch.setenv("BIVREC_RESULTS", str(tmp_path))
    for name in ("a", "b"):
        save_output(
            draw_histories(pd.Series([5, 9, 30]).to_numpy(), pd.Series([5, 9, 30]).to_numpy()),
            f"{name}.png",
        )
        save_output({"z": 1, "y": [0.5]}, f"{name}.json")
    plt.close("all")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"y": [0.5], "z": 1}
    monkeypatch.delenv("BIVREC_RESULTS")
    save_output({"z": 1}, "c.json")
    assert not (tmp_path / "c.json").exists() and not os.path.exists("c.json")


def test_changed_data_is_refused_before_it_is_taken_for_new(project, capsys):
    """DVC would record a damaged data/ as a new version; the check names the file and the mend first."""
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True, cwd=project.root)
    (project.root / "data").mkdir()
    for name in ("ratings.csv", "tags.csv"):
        (project.root / "data" / name).write_text("a,b\n1,2\n")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data"], check=True, cwd=project.root)
    recorded = (project.root / "data.dvc").read_text()
    assert main(["check", "smoke"]) == 0
    (project.root / "data" / "ratings.csv").write_text("a,b\n1\n")
    assert main(["check", "smoke"]) == 1
    assert (
        "ERROR: data/ratings.csv is modified: data/ differs from what data.dvc records; `make restore`"
        in capsys.readouterr().err
    )
    (project.root / "data" / "ratings.csv").unlink()
    assert main(["check", "smoke"]) == 1
    assert (
        "data/ratings.csv" in capsys.readouterr().err
        and (project.root / "data.dvc").read_text() == recorded
    )
