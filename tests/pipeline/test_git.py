"""Tests and commands leave the repository alone in which a hook runs them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bivrec.pipeline.environment import forget_git

pytestmark = pytest.mark.slow
IDENTITY = {
    f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}
TESTED = "tests/pipeline/test_bad_runs.py"  # its tests make repositories and commit in them


def run(*command: str, cwd: Path, **environment: str) -> str:
    shown = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=os.environ | IDENTITY | environment
    )
    assert not shown.returncode, shown.stdout[-2000:] + shown.stderr[-2000:]
    return shown.stdout


@pytest.fixture
def linked(root, tmp_path) -> Path:
    """A linked worktree of a copy of this project, whose commits sign and whose hook runs tests."""
    main = tmp_path / "main"
    for name in run("git", "ls-files", "-co", "--exclude-standard", cwd=root).splitlines():
        if not name.startswith("dvcstore/"):
            if (root / name).is_file():
                (main / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, main / name)
    run("git", "init", "-q", "-b", "main", cwd=main)
    run("git", "add", "-A", cwd=main)
    run("git", "commit", "-qm", "first", cwd=main)
    run("git", "worktree", "add", "-q", "-b", "work", "../linked", cwd=main)
    hook = main / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -m pytest -q -p no:cacheprovider {TESTED} -k damaged\n"
    )
    hook.chmod(0o755)
    return tmp_path / "linked"


def test_a_hook_of_a_worktree_may_run_the_tests(linked, tmp_path):
    """After the hook, the commit is the user's and nothing else has changed."""
    config = linked.parent / "main/.git/config"
    before = config.read_bytes()
    first = run("git", "rev-parse", "main", cwd=linked)
    signing = tmp_path / "gitconfig"  # no key: signing fails
    signing.write_text("[commit]\n\tgpgsign = true\n")
    (linked / "note.txt").write_text("mine\n")
    run("git", "add", "note.txt", cwd=linked)
    run(
        *("git", "-c", "commit.gpgsign=false", "commit", "-qm", "second"),
        cwd=linked,
        GIT_CONFIG_GLOBAL=str(signing),
    )
    assert config.read_bytes() == before
    assert run("git", "rev-parse", "main", "work~1", cwd=linked).split() == [first.strip()] * 2
    assert run("git", "show", "--format=%s", "--name-only", "work", cwd=linked).split() == [
        "second",
        "note.txt",
    ]
    assert not run("git", "status", "--porcelain", cwd=linked)
    assert len(run("git", "for-each-ref", cwd=linked).splitlines()) == 2


def test_gits_variables_are_forgotten(monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    forget_git()
    assert not [name for name in os.environ if name.startswith("GIT_")]
