"""Commands, notebooks and environments that fail: each gets one clear sentence."""

import json
import shutil
import subprocess

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from bivrec.pipeline.cli import main
from bivrec.pipeline.notebooks import read_notebook, write_sources
from bivrec.studies.gather import stage_labels


def test_a_study_that_a_dataset_has_no_features_for_is_left_out(project, capsys):
    project.notebook(
        "before = 1",
        'from bivrec.errors import LeftOut\nraise LeftOut("mine has no features")',
        "print('never')",
    )
    write_sources()
    assert main(["run", "01_small", "dataset=mine"]) == 0
    assert "01_small (mine) is left out: mine has no features" in capsys.readouterr().out
    assert json.loads(
        (project.root / "build" / "01_small" / "mine" / "left-out.json").read_text()
    ) == {"left out": "mine has no features"}
    executed = nbformat.read(project.root / "results" / "01_small" / "mine" / "01_small.ipynb", 4)
    assert [output.text for cell in executed.cells for output in cell.outputs] == [
        "Left out: mine has no features\n"
    ]
    project.replace(
        "params.yaml", "  datasets: [movies-classic, movies-modern]", "  datasets: [mine, planted]"
    )
    (project.root / "build" / "01_small").rename(project.root / "build" / "05_noise")
    assert ("05_noise", "planted") in stage_labels("default") and (
        "05_noise",
        "mine",
    ) not in stage_labels("default")


def test_the_summary_tells_what_ran_and_where_to_look(project, capsys):
    project.notebook("print(1)")
    write_sources()
    assert main(["run", "01_small", "dataset=planted"]) == 0
    assert main(["summary", "default", "2000-01-01 00:00"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("1 stages ran, 0 min ") and told[1].split()[0] == "01_small/planted"
    assert told[2].startswith("Look at results/08_report/all/08_report.ipynb")
    assert main(["summary", "default", "2999-01-01 00:00"]) == 0
    assert capsys.readouterr().out.startswith(
        "Nothing had to run: every result is up to date.\nLook at "
    )


def test_only_datasets_name_the_folder_of_a_run(project):
    write_sources()
    assert main(["run", "01_small", "dataset=mine", "note=planted"]) == 0
    assert (project.root / "results" / "01_small" / "mine").is_dir()


def test_the_data_command_reads_a_dataset_without_running_a_stage(project, capsys):
    assert main(["data", "mine"]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    rows = (project.root / "raw/mine/interactions.csv").read_text().splitlines()[1:]
    assert lines["interactions"].strip() == f"{len(rows):,}"
    assert not (project.root / "build" / "01_data_prep").exists()


def test_the_data_command_names_the_row_that_is_wrong(project, refuses):
    path = project.root / "raw/mine/interactions.csv"
    header, first, *others = path.read_text().splitlines()
    user, item, _ = first.split(",")
    project.write("raw/mine/interactions.csv", "\n".join([header, f"{user},{item},May", *others]))
    told = refuses(["data", "mine"])
    assert "raw/mine/interactions.csv, row 1: time 'May' is not a whole number; fix it" in told


def test_embedded_data_that_are_not_there_name_the_command_that_brings_them(project, refuses):
    told = refuses(["data", "movies-classic"])
    assert "movielens-latest-small/ratings.csv is missing; put it there; `make data` brings" in told


def command(*words: str):
    return lambda project: list(words)


COMMANDS = {
    "a dataset that is a path": (
        command("run", "01_small", "dataset=../../x"),
        "there is no dataset '../../x'; known are mine, planted",
    ),
    "a dataset to fetch that is a path": (
        command("fetch", "../../x"),
        "there is no dataset '../../x'; known are",
    ),
    "a dataset to read that is a path": (
        command("data", "../../x"),
        "there is no dataset '../../x'; known are",
    ),
    "a dataset to choose that is a path": (
        command("choose", "../../x"),
        "there is no dataset '../../x'; known are",
    ),
    "a profile that is a path": (
        command("run", "01_small", "profile=../x"),
        "there is no profile '../x'; known are",
    ),
    "a notebook that is a path": (
        command("run", "../../notebooks/01_small"),
        "'../../notebooks/01_small' is a path, not a notebook's name; give a name",
    ),
    "an absolute notebook": (
        command("run", "/etc/passwd"),
        "'/etc/passwd' is a path, not a notebook's name",
    ),
    "a dataset that is a number": (
        command("run", "01_small", "profile=1"),
        "there is no profile '1'",
    ),
    "datasets in a list": (
        command("run", "01_small", 'dataset=["planted"]'),
        """there is no dataset "['planted']"; known are""",
    ),
    "changes that are no JSON": (
        command("run", "01_small", "changes={model.dim: 3}"),
        "changes is '{model.dim: 3}'; give JSON with dotted keys, as in 'changes={",
    ),
    "an option without a value": (
        command("run", "01_small", "dataset"),
        "'dataset' is no option; write KEY=VALUE, as in dataset=planted",
    ),
    "an unknown command": (
        command("recomend", "planted"),
        "there is no command 'recomend'; did you mean recommend?",
    ),
    "another unknown command": (command("xyz"), "there is no command 'xyz'; see `bivrec --help`"),
    "a missing argument": (command("data"), "data needs DATASET; see `bivrec --help`"),
    "a missing notebook": (command("run"), "run needs NOTEBOOK [KEY=VALUE ...]; see"),
    "an argument too many": (
        command("verify", "now"),
        "verify takes nothing, not now; see `bivrec --help`",
    ),
    "an argument more": (
        command("data", "mine", "planted"),
        "data takes DATASET, not mine planted; see `bivrec --help`",
    ),
    "a parameter that there is not": (
        command("run", "01_small", "seed=1"),
        "01_small.ipynb has no parameter 'seed'; it has dataset, profile, note",
    ),
    "results that are not there": (
        command("verify"),
        "git shows no committed results/runs.csv to compare with",
    ),
    "tables of results that are not there": (
        command("readme"),
        "results/08_report/all/main.csv is missing; `make repro` makes it",
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(project, refuses, case):
    write_sources()
    arrange, told = COMMANDS[case]
    assert told in refuses(arrange(project))


NOTEBOOKS = {
    "a list": "[]",
    "no cells": json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}}),
    "cells that are none": json.dumps(
        {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [1]}
    ),
    "another format": json.dumps(
        {"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}
    ),
    "no UTF-8": b'{"nbformat": 4, "\xff": 1}',
    "no byte": b"",
    "nesting without end": "[" * 100_000,
}


@pytest.mark.parametrize("case", NOTEBOOKS)
def test_notebooks(project, refuses, case):
    project.write("notebooks/01_small.ipynb", NOTEBOOKS[case])
    told = refuses(["source"])
    assert (
        "notebooks/01_small.ipynb is not a notebook" in told
        and "`git checkout notebooks/01_small.ipynb`" in told
    )


def test_two_cells_of_parameters(project, refuses):
    path = project.root / "notebooks" / "01_small.ipynb"
    nbformat.write(
        new_notebook(cells=[new_code_cell("a = 1", metadata={"tags": ["parameters"]})] * 2), path
    )
    assert "01_small.ipynb has 2 cells tagged 'parameters'; it needs exactly one" in refuses(
        lambda: read_notebook(path)
    )


def test_an_error_of_many_lines_is_one_sentence(project, refuses):
    project.notebook("raise ValueError('the first line\\nthe second')")
    write_sources()
    assert (
        "01_small (planted), cell 3: ValueError: the first line; the notebook up to there"
        in refuses(["run", "01_small", "dataset=planted"])
    )


def test_bad_data_in_a_stage_is_the_readers_sentence(project, refuses):
    """From the file through kernel and papermill to the command line."""
    project.replace("raw/mine/interactions.csv", "u1,i1,8\n", "u1,i1,soon\n")
    shutil.copy(project.source / "notebooks" / "01_data_prep.ipynb", project.root / "notebooks")
    write_sources()
    told = refuses(["run", "01_data_prep", "dataset=mine"])
    problem = "raw/mine/interactions.csv, row 10: time 'soon' is not a whole number; fix it"
    assert "01_data_prep (mine), cell" in told and f"DataError: {problem}" in told


def test_a_kernel_that_dies(project, refuses):
    project.notebook("import os; os._exit(1)")
    write_sources()
    told = refuses(["run", "01_small", "dataset=planted"])
    problem = "01_small (planted), the kernel died, most likely out of memory"
    assert f"{problem}; lower machine.num_workers in params.yaml" in told


def test_no_kernel(project, refuses, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def get(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", get)
    write_sources()
    told = refuses(["run", "01_small", "dataset=planted"])
    problem = "01_small (planted), no kernel could be started (NoSuchKernel): .venv is damaged"
    assert f"{problem}; `make clean setup` rebuilds it" in told


def test_a_kernel_that_cannot_start(project, refuses):
    """As of a broken environment: what the kernel imports first is damaged."""
    project.write("ipykernel_launcher.py", "import no_such_package")
    write_sources()
    told = refuses(["run", "01_small", "dataset=planted"])
    problem = "no kernel could be started (RuntimeError): .venv is damaged"
    assert f"{problem}; `make clean setup` rebuilds it" in told


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", '"'])
def test_results_that_are_damaged(project, refuses, content):
    project.write("results/runs.csv", content)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "results"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True, cwd=project.root)
    shown = refuses(["verify"])
    assert "results/runs.csv is" in shown and (
        "`git checkout results/runs.csv` restores it" in shown or "nothing to compare with" in shown
    )
