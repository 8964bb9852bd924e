"""`make audit`: the locked packages' known weaknesses, asked of the package index and of OSV by
pip-audit."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def ask(service: str) -> tuple[int, list[str]] | None:
    """How many packages a service answered for, and each weakness in words; None where it did not
    answer."""
    words = [
        "--requirement",
        "requirements.lock",
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
        "--timeout",
        "30",
    ]
    shown = subprocess.run(
        [sys.executable, "-m", "pip_audit", *words, "--vulnerability-service", service],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    try:
        answered = [
            entry
            for entry in json.loads(shown.stdout)["dependencies"]
            if "skip_reason" not in entry
        ]
    except (ValueError, KeyError):
        return None
    told = [
        f"{entry['name']} {entry['version']}: {weakness['id']}, mended in {', '.join(weakness['fix_versions']) or 'no version'}"
        for entry in answered
        for weakness in entry["vulns"]
    ]
    return (len(answered), told) if answered else None


def main() -> str | None:
    if subprocess.run([sys.executable, "-c", "import pip_audit"], capture_output=True).returncode:
        return "ERROR: pip-audit is not installed; `.venv/bin/pip install --editable '.[trust]'` installs it"
    for service in ("pypi", "osv"):
        if answer := ask(service):
            print(
                "\n".join(
                    [
                        *answer[1],
                        f"{answer[0]} packages asked for at {service}, {len(answer[1])} weaknesses known",
                    ]
                )
            )
            return (
                "ERROR: known weaknesses; raise these versions in requirements.lock"
                if answer[1]
                else None
            )
    return "NOT CHECKED: neither the package index nor OSV told of weaknesses from this network; run `make audit` where one can be reached"


if __name__ == "__main__":
    sys.exit(main())
