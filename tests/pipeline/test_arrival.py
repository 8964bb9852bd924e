"""How the project arrives and is set up: cloned under another git setting, unpacked from a zip,
moved, set up in parallel, with an index that is misconfigured."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

INSTALLER = """#!/bin/sh
for line in $(seq 200); do echo "WARNING: Retrying, Connection to proxy failed ($line)" >&2; done
[ "$1 $FAILS" = "install yes" ] || exit 0
echo "ERROR: No matching distribution found for torch==2.13.0" >&2; exit 1
"""
MADE = """#!/bin/sh
[ "$1" = -m ] || exit 0
mkdir -p .venv/bin
printf '%s' "$INSTALLER" >.venv/bin/pip
printf '#!/bin/sh\\n' >.venv/bin/python
chmod +x .venv/bin/pip .venv/bin/python
echo "command = /usr/bin/python3 -m venv $PWD/.venv" >.venv/pyvenv.cfg
"""


class Arrived:
    """The project's files that `make` reads, in a folder outside any repository."""

    def __init__(self, source: Path, root: Path):
        self.source, self.root = source, root
        for name in ("Makefile", "requirements.lock", "pyproject.toml"):
            self.copy(name)

    def copy(self, name: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (self.source / name).is_dir() else shutil.copy2
        copy(self.source / name, self.root / name)

    def program(self, name: str, script: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
        return path

    def set_up(self, python: str = "exit 0", at: str = "") -> None:
        """A .venv that is ready, made at that path, with DVC and a stub in Python's place."""
        self.program(".venv/bin/python", f"#!/bin/sh\n{python}\n")
        self.program(".venv/bin/dvc", f'#!/bin/sh\nexec {sys.executable} -m dvc "$@"\n')
        if at:
            (self.root / ".venv/pyvenv.cfg").write_text(f"command = python3 -m venv {at}\n")
        (self.root / ".venv/ready").touch()

    def make(self, *words: str, **environment: str) -> subprocess.CompletedProcess:
        """Runs `make` as from a terminal, even where the tests themselves run under `make`."""
        here = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        here |= {"BIVREC_ROOT": str(self.root), "PYTHONPATH": str(self.source)}
        here |= {"INSTALLER": INSTALLER, **environment}
        command = ["make", *words]
        return subprocess.run(command, cwd=self.root, capture_output=True, text=True, env=here)


@pytest.fixture
def arrived(root, tmp_path) -> Arrived:
    return Arrived(root, tmp_path / "project")


def git(*words: str, cwd: Path) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.autocrlf=false")
    command = ["git", *identity, *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_a_clone_under_autocrlf_has_the_same_bytes(arrived, tmp_path):
    for name in (".gitattributes", ".ci", "dvcstore", "raw/plain-example", "params.yaml"):
        arrived.copy(name)
    (arrived.root / "results").mkdir()
    (arrived.root / "results/table.csv").write_bytes(b"a\r\n1\n")
    before = {path: path.read_bytes() for path in arrived.root.rglob("*") if path.is_file()}
    git("init", "-q", cwd=arrived.root)
    git("add", "-A", cwd=arrived.root)
    git("commit", "-qm", "x", cwd=arrived.root)
    git("add", "--renormalize", ".", cwd=arrived.root)
    assert not git("status", "--porcelain", cwd=arrived.root)
    for number, setting in enumerate(("core.autocrlf=true", "core.eol=crlf")):
        clone = tmp_path / str(number)
        command = ["git", "-c", setting, "clone", "-q", "--config", setting, arrived.root, clone]
        subprocess.run(command, check=True)
        assert not git("-c", setting, "status", "--porcelain", cwd=clone)
        for path, content in before.items():
            copy = clone / path.relative_to(arrived.root)
            assert copy.read_bytes() == content, copy


def test_no_committed_text_has_other_line_ends(root):
    if not (root / ".git").exists():
        pytest.skip("no git repository")
    for line in git("ls-files", "--eol", cwd=root).splitlines():
        assert not line.startswith(("i/crlf", "i/mixed")) or "attr/-text" in line, line


def test_a_zip_without_a_repository_gets_its_data(arrived):
    for name in (".dvc/config", ".dvcignore", ".gitignore", "data.dvc", "dvcstore"):
        arrived.copy(name)
    arrived.set_up()
    done = arrived.make("data")
    assert done.returncode == 0, done.stderr
    assert (arrived.root / "data/movielens-latest-small/ratings.csv").is_file()
    (arrived.root / "data/README.md").write_text("damaged")
    done = arrived.make("restore")
    assert done.returncode == 0 and "fatal" not in done.stderr, done.stderr
    assert (arrived.root / "data/README.md").read_text() != "damaged"


def test_data_that_cannot_be_had_is_not_silent(arrived):
    for name in (".dvc/config", "data.dvc"):
        arrived.copy(name)
    arrived.set_up()
    done = arrived.make("data")
    assert done.returncode != 0 and "ERROR: failed to pull" in done.stderr


def test_a_folder_that_was_moved(arrived):
    arrived.set_up(at="/somewhere/else/.venv")
    done = arrived.make("setup")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    assert done.returncode != 0 and line == (
        "ERROR: .venv was set up as /somewhere/else/.venv, and its commands still look there; "
        "`make clean setup` rebuilds it here"
    )


def test_a_folder_reached_by_another_name_was_not_moved(arrived, tmp_path):
    (tmp_path / "link").symlink_to(arrived.root)
    arrived.set_up(at=f"{tmp_path}/link/.venv")
    assert arrived.make("setup").returncode == 0


def test_clean_and_setup_in_parallel(arrived):
    arrived.set_up()
    (arrived.root / ".venv/old").touch()
    done = arrived.make("-j8", f"PYTHON={arrived.program('python', MADE)}", "clean", "setup")
    assert done.returncode == 0, done.stderr
    assert (arrived.root / ".venv/ready").is_file() and not (arrived.root / ".venv/old").exists()


def test_the_installers_warnings_bury_nothing(arrived):
    python = f"PYTHON={arrived.program('python', MADE)}"
    done = arrived.make(python, "setup")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Setting up .venv") and done.stdout.count("\n") == 1
    assert not done.stderr
    assert (arrived.root / ".venv/install.log").read_text().count("WARNING") == 400


def test_a_failed_installation_shows_its_end(arrived):
    python = f"PYTHON={arrived.program('python', MADE)}"
    done = arrived.make(python, "setup", FAILS="yes")
    lines = done.stderr.splitlines()
    assert done.returncode != 0 and len(lines) < 20
    assert "ERROR: No matching distribution found for torch==2.13.0" in lines
    assert any("could not be installed" in line and ".venv/install.log" in line for line in lines)
    assert not (arrived.root / ".venv/ready").exists()


@pytest.mark.parametrize("name", ["O'Brien", "Zoë & Co; x", 'say "hi"', "5$$ $HOME", "`id`"])
def test_any_folder_may_be_graded(arrived, name):
    arrived.set_up('[ "$1" = -c ] || printf "%s\\n" "$@"')
    done = arrived.make("grade", f"SUBMISSION=hand-ins/{name}", "OPTIONS=--seconds 9")
    assert done.stdout.splitlines() == [
        "assignments/grade.py",
        f"hand-ins/{name}",
        "--seconds",
        "9",
    ], done.stderr
