"""What the benchmarks record: the machine that measured, JSON files, the tables of README.md."""

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent


def processor() -> str:
    cpu = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", cpu.read_text()) if cpu.is_file() else None
    return model.group(1) if model else platform.machine()


def provenance() -> dict:
    """When, on what code and on how many cores a measurement was taken."""

    def git(*words: str) -> str:
        shown = subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True)
        return shown.stdout.strip()

    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": git("rev-parse", "HEAD") or os.environ.get("BIVREC_COMMIT", ""),
        "changed since": git("status", "--porcelain", "--", "../bivrec").splitlines(),
        "cores": len(os.sched_getaffinity(0)),
    }


def read_json(path: Path) -> dict:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def write_json(path: Path, content: dict) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    os.replace(part, path)


def fill(mark: str, lines: Sequence[str], page: Path = HERE / "README.md") -> None:
    """Replaces what stands between the page's marks of this name."""
    between = "\n".join(lines)
    text = re.sub(
        rf"<!-- {mark} -->.*<!-- /{mark} -->",
        lambda _: f"<!-- {mark} -->\n{between}\n<!-- /{mark} -->",
        page.read_text("utf-8"),
        flags=re.DOTALL,
    )
    page.write_text(text, "utf-8")


def last_line(process: subprocess.CompletedProcess) -> str:
    """The error of a measuring process, or its JSON."""
    text = process.stderr if process.returncode else process.stdout
    return (text.strip().splitlines() or ["no message"])[-1]
