"""Broken environments, missing permissions, full disks: each gets one clear sentence."""

import ctypes
import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bivrec.pipeline.cli import main
from bivrec.pipeline.notebooks import write_sources
from bivrec.settings import load_settings


def make(project, *words: str, **environment: str) -> str:
    """What `make` says in a copy of the project's Makefile, having failed."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(project.source / name, project.root)
    before = project.content()
    shown = subprocess.run(
        ["make", *words],
        cwd=project.root,
        capture_output=True,
        text=True,
        env={**os.environ, "MAKEFLAGS": "", **environment},
    )
    assert shown.returncode != 0 and "Traceback" not in shown.stderr, shown.stderr
    assert project.content() == before
    (told,) = [line for line in shown.stderr.splitlines() if line.startswith("ERROR: ")]
    return told


def test_another_python(project):
    code = "import sys; sys.version_info = 3, 8, 0; sys.version = '3.8.0'; exec(sys.argv[1])"
    script = f'#!/bin/sh\nshift\nexec {sys.executable} -c "{code}" "$@"\n'
    old = project.write("python3.8", script)
    old.chmod(0o755)
    assert (
        make(project, f"PYTHON={old}", "setup")
        == "ERROR: bivrec needs Python 3.11 to 3.13; this is 3.8.0. Install one of them, as with "
        "`uv python install 3.12`, and name it: make PYTHON=python3.12 setup"
    )


def ready(project, python: str | None = None) -> None:
    """An environment that was set up: with that Python, or with one that is gone since."""
    script = (
        f'#!/bin/sh\nexec {python} "$@"\n' if python else "#!/usr/lib/no-such-python/bin/python3\n"
    )
    project.write(".venv/bin/python", script).chmod(0o755)
    ready = project.write(".venv/ready", "")
    os.utime(ready, (2**32, 2**32))


def test_a_broken_environment(project):
    ready(project)
    assert (
        make(project, "setup")
        == "ERROR: .venv is broken: its Python does not start; `make clean setup` rebuilds it"
    )


def test_a_damaged_package(project):
    project.write(
        "polars.py", "raise ImportError('libpolars.so: invalid ELF header', name='polars')"
    )
    shown = subprocess.run(
        [sys.executable, "-m", "bivrec", "check"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{project.root}:{project.source}"},
    )
    assert (
        shown.returncode == 1
        and shown.stderr.startswith("ERROR: the package polars is damaged for ")
        and "make clean setup" in shown.stderr
    )


def test_a_flipped_bit_in_the_store(project, refuses):
    """DVC itself hands a damaged file out without a word; `make` looks at the store first."""
    for content in (b"a,b\n1,2\n", b"c\n"):
        digest = hashlib.md5(content).hexdigest()
        last = project.write(f"dvcstore/files/md5/{digest[:2]}/{digest[2:]}", content)
    assert main(["store"]) == 0
    content = bytearray(last.read_bytes())
    content[0] ^= 1
    last.write_bytes(content)
    problem = f"{last.relative_to(project.root)} is damaged: its content is not that of its name"
    assert f"{problem}; `git checkout dvcstore` restores it; then run `make restore`" in refuses(
        ["store"]
    )
    ready(project, sys.executable)
    assert problem in make(project, "restore", PYTHONPATH=str(project.source))
    assert problem in make(project, "data", PYTHONPATH=str(project.source))


@pytest.mark.parametrize(
    "accept, accepted",
    [("yes", True), ("1", True), ("no", False), ("0", False), ("false", False), ("", False)],
)
def test_only_yes_accepts_a_licence(project, accept, accepted):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(project.source / name, project.root)
    command = ["make", "--dry-run", "fetch", "DATASET=baby", f"ACCEPT={accept}"]
    shown = subprocess.run(command, cwd=project.root, capture_output=True, text=True).stdout
    assert "bivrec fetch 'baby'" in shown
    assert ("fetch 'baby' accept" in shown) == accepted


def as_anyone() -> None:
    """A child that may do no more than its files' modes allow, also where the tests run as root."""
    prctl = ctypes.CDLL(None).prctl
    for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
        prctl(24, capability, 0, 0, 0)


def bivrec(*words: str, limit: Callable[[], None] = as_anyone) -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "bivrec", *words], capture_output=True, text=True, preexec_fn=limit
    )
    assert (
        shown.returncode == 1
        and shown.stderr.count("\n") == 1
        and shown.stderr.startswith("ERROR: ")
    ), shown.stderr
    return shown.stderr.strip()


def test_no_permission(project):
    write_sources()
    before = project.content()
    for folder, words, told in (
        (
            "build",
            ("choose", "planted"),
            "(Permission denied); grant read and write access to it, and run it again",
        ),
        (
            "results/01_small",
            ("run", "01_small", "dataset=planted"),
            "results/01_small/planted cannot be read or written (Permission denied)",
        ),
    ):
        path = project.root / folder
        mode = path.stat().st_mode
        path.chmod(0o555)
        sentence = bivrec(*words)
        path.chmod(mode)
        assert told in sentence and str(path) in sentence
    (project.root / "params.yaml").chmod(0)
    assert "params.yaml cannot be read (PermissionError)" in bivrec("check")
    (project.root / "params.yaml").chmod(0o644)
    assert {
        name: told for name, told in project.content().items() if not name.startswith("build/")
    } == {name: told for name, told in before.items() if not name.startswith("build/")}


def test_a_disk_that_is_read_only(project, refuses, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    told = refuses(["choose", "planted"])
    assert (
        "params.yaml" in told
        and "(Read-only file system); grant read and write access to it, and run it again" in told
    )


def test_a_disk_that_is_full(project):
    """No file may grow beyond 2,000 bytes, which the system says as it says that a disk is full."""
    import resource

    sentence = bivrec(
        "choose", "planted", limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    )
    assert "(File too large); free some space there, and run it again" in sentence
    assert load_settings().studies.datasets == ("movies-classic", "movies-modern")
