"""The notebook runner: nothing half-written, one clear sentence, the same bytes."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest

from bivrec.pipeline import cli
from bivrec.pipeline.cli import main

SAVE = """from bivrec.outputs import save_output
import pandas as pd
save_output(pd.DataFrame({'a': [1]}), 'table.csv')
save_output(pd.DataFrame({'a': [1]}), 'more.csv', 'build')"""


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_stage_saves_and_repeats(small):
    small(SAVE, "print(dataset)\ndataset")
    assert main(["run", "01_small", "dataset=movies-classic"]) == 0
    folder = small.root / "results" / "01_small" / "movies-classic"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {"01_small.ipynb", "table.csv"}
    assert (small.root / "build" / "01_small" / "movies-classic" / "more.csv").is_file()
    assert b"movies-classic" in first["01_small.ipynb"]
    assert str(small.root).encode() not in first["01_small.ipynb"]
    assert main(["run", "01_small", "dataset=movies-classic"]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert not list((small.root / "build").glob(".running-*"))


@pytest.mark.slow
def test_a_stage_that_saves_nothing_has_its_folder_in_build(small):
    """Every stage of dvc.yaml has one, so that the report can depend on it."""
    small("1 + 1")
    assert main(["run", "01_small", "dataset=planted"]) == 0
    assert (small.root / "build" / "01_small" / "planted").is_dir()


@pytest.mark.slow
def test_profiles_have_separate_files(small):
    more = "save_output({'a': 1}, 'top.json', 'top')\nsave_output({'a': 1}, 'log.json', 'log')"
    small(SAVE, f"{more}\nprint(profile)")
    results, build = small.root / "results", small.root / "build"
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


@pytest.mark.slow
def test_a_failing_cell_is_one_sentence_and_loses_nothing(small, capsys):
    small(SAVE)
    assert main(["run", "01_small", "dataset=planted"]) == 0
    before = (small.root / "results" / "01_small" / "planted" / "table.csv").read_bytes()
    small(SAVE.replace("[1]", "[2]"), "raise ValueError('the moon is full')")
    assert main(["run", "01_small", "dataset=planted"]) == 1
    assert capsys.readouterr().err.strip() == (
        "ERROR: 01_small (planted), cell 4: ValueError: the moon is full; "
        "the notebook up to there: build/failed/01_small-planted.ipynb"
    )
    assert (small.root / "results" / "01_small" / "planted" / "table.csv").read_bytes() == before
    assert (small.root / "build" / "failed" / "01_small-planted.ipynb").is_file()
    assert not list((small.root / "build").glob(".running-*"))


BAD_CALLS = {
    "run 01_small datset=planted": "has no parameter 'datset'; it has dataset, profile",
    "run 01_small profile=fool": "there is no profile 'fool'; known are default, smoke, full",
    "check fool": "params.yaml: there is no profile 'fool'; known are default, smoke, full",
    "run 01_small dataset=nowhere": "there is no dataset 'nowhere'",
    "run 01_small dataset=../../x": "there is no dataset '../../x'",
    "run 99_none dataset=planted": "there is no notebook 99_none.ipynb",
    "run ../01_small": "'../01_small' is a path, not a notebook's name",
}


def test_bad_calls(small, capsys):
    small(SAVE)
    for call, message in BAD_CALLS.items():
        assert main(call.split()) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("command", ["check", "fetch", "run"])
def test_every_command_explains_itself(command, capsys):
    assert main([command, "--help"]) == 0 and "bivrec COMMAND" in capsys.readouterr().out


def test_a_bad_params_file_stops_every_command(small, capsys):
    small(SAVE)
    params = small.root / "params.yaml"
    params.write_text(params.read_text().replace("  num_interests: 2", "  num_interest: 2"))
    for command in (["check"], ["source"], ["run", "01_small", "dataset=planted"]):
        assert main(command) == 1
        assert "did you mean 'num_interests'" in capsys.readouterr().err


def environment_of(pid: str) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = [entry for entry in file.read().split(b"\0") if b"=" in entry]
    except OSError:
        return {}
    return dict(entry.decode(errors="replace").partition("=")[::2] for entry in entries)


def kernels_of(root) -> list[str]:
    """The kernels that run for a small."""
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
def test_a_killed_run_leaves_nothing_half_written(small, number):
    small(SAVE, "import time\ntime.sleep(60)")
    # a shell's background jobs ignore SIGINT, and so would their children
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "bivrec", "run", "01_small", "dataset=planted"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, former)
    build = small.root / "build"
    wait_for(lambda: list(build.glob(".running-*/results/table.csv")), 60)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0 and "Traceback" not in error
    assert not (small.root / "results" / "01_small").exists()
    wait_for(lambda: not kernels_of(small.root), 10)  # the kernel notices within a second or two
    assert not kernels_of(small.root)
    small(SAVE)
    assert main(["run", "01_small", "dataset=planted"]) == 0  # and the next run succeeds
    assert not list(build.glob(".running-*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stage_ends_with_the_caller_that_began_it(small):
    """DVC killed alone: the stage that its shell runs, and the kernel, end by themselves."""
    pids = small.root / "kernel"
    write = f"pathlib.Path('{pids}').write_text(f'{{os.getppid()}} {{os.getpid()}}')"
    small(f"import os, pathlib, time\n{write}\ntime.sleep(600)")
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


def test_help_and_unknown_commands(capsys):
    assert main([]) == 0 and "python -m bivrec" in capsys.readouterr().out
    assert main(["nonsense"]) == 2 and main(["run"]) == 2 and not capsys.readouterr().out
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("bivrec ")


@pytest.mark.parametrize("words", ["", "recommend --help"])
@pytest.mark.parametrize("reader", ["closed", "full"])
def test_an_output_that_takes_nothing(words, reader):
    """A reader that has gone ends a command quietly; a full disk is told."""
    if reader == "full":
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        other, output = os.pipe()
        os.close(other)
    here = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "bivrec", *words.split()]
    shown = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, env=here)
    os.close(output)
    told = "ERROR: the output cannot be written (No space left on device); free some space there"
    assert shown.returncode == (reader == "full")
    assert shown.stderr == (f"{told}, or send it elsewhere\n" if reader == "full" else "")


def test_an_output_that_lacks_a_character(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(cli, "find_command", lambda name: (lambda: "Am\u00e9lie \u2192", 0, 0))
    assert main(["store"]) == 0
    assert output.buffer.getvalue() == b"Am\xe9lie \\u2192\n"


TRAINS = """from bivrec.data.domain import Domain
from bivrec.experiment.training import train_model
domain = Domain("planted", {"training.num_steps": 2, "training.learning_rate": RATE})
trained = train_model(domain, "pure-id", 0)"""


@pytest.mark.slow
def test_a_stage_keeps_the_trainings_of_its_last_run(small):
    """Other text trains nothing; a training that no longer belongs to the stage is removed."""
    partial = small.root / "build" / "partial" / "01_small" / "planted"
    found = []
    for rate, text in (("0.01", ""), ("0.01", "\nprint('more')"), ("0.02", "")):
        small(TRAINS.replace("RATE", rate) + text)
        assert main(["run", "01_small", "dataset=planted"]) == 0
        (path,) = partial.iterdir()
        found.append((path.name, path.read_bytes()))
    assert found[0] == found[1] != found[2]
