"""Data, store and settings, checked before a study runs."""

import hashlib
import itertools
import json
import re
import sys
from typing import get_args

from bivrec.data.download import checksums
from bivrec.errors import SettingsError
from bivrec.outputs import write_atomically
from bivrec.pipeline.provenance import run_and_read_lines
from bivrec.settings import Stage, check_params, load_settings, pick, profile_folder, project_root


def check_store() -> None:
    """Raises SettingsError if a file of dvcstore/ does not have the content its name says."""
    root = project_root()
    for path in sorted((root / "dvcstore" / "files" / "md5").glob("*/*")):
        named = path.parent.name + path.name.removesuffix(".dir")
        if hashlib.md5(path.read_bytes()).hexdigest() != named:
            raise SettingsError(
                f"{path.relative_to(root)} is damaged: its content is not that of its name; "
                f"`git checkout dvcstore` restores it; then run `make restore`"
            )


def check_data() -> None:
    """Raises SettingsError if data/ differs from data.dvc, before DVC records a new version."""
    command = (sys.executable, "-m", "dvc", "data", "status", "--granular", "--json")
    status = json.loads("".join(run_and_read_lines(*command)) or "{}").get("uncommitted", {})
    for change in ("modified", "deleted", "added"):
        names = [name for name in status.get(change, ()) if re.fullmatch("data/.*[^/]", name)]
        if names := sorted(names):
            more = f" and {len(names) - 1} more are" if names[1:] else " is"
            raise SettingsError(
                f"{names[0]}{more} {change}: data/ differs from what data.dvc records; "
                f"`make restore` restores it; if the change is intended, run `dvc add data`"
            )


def record_raw_files(profile: str) -> None:
    """Writes the checksums of each dataset's files to build/raw, on which the stages depend.

    Raises DataError if files are missing or have changed. Also makes a folder for every study of
    every profile, on which the report depends: it stays empty where a profile lacks the study."""
    build, settings = project_root() / "build", load_settings(profile=profile)
    transfers = settings.studies.transfers.values()
    ends = itertools.chain.from_iterable((pair.source, pair.target) for pair in transfers)
    for name in dict.fromkeys((*settings.studies.datasets, *ends)):
        dataset = settings.datasets[name]
        files = {} if dataset.source == "planted" else checksums(name, dataset)
        write_atomically(build / "raw" / f"{name}.json", json.dumps(files, indent=1) + "\n")
    for known, stage in itertools.product(settings.profiles, get_args(Stage)):
        (profile_folder("build", known) / stage).mkdir(parents=True, exist_ok=True)


def choose(names: list[str]) -> str:
    """Writes the datasets to study into params.yaml, with a transfer each way between any two of
    the same source. Returns what was done; raises SettingsError and changes nothing if it fails."""
    path, datasets = project_root() / "params.yaml", load_settings().datasets
    sources = {name: pick(datasets, name, "dataset").source for name in dict.fromkeys(names)}
    pairs = [(a, b) for a, b in itertools.permutations(sources, 2) if sources[a] == sources[b]]
    lines = [f"    {a}-to-{b}: {{source: {a}, target: {b}}}\n" for a, b in pairs]
    listed = f"[{', '.join(sources)}]"
    text = path.read_text("utf-8")
    text = re.sub(r"(?m)^(  datasets: )\[[^\]]*\]", rf"\g<1>{listed}", text, count=1)
    transfers = f"  transfers:{'' if pairs else ' {}'}\n{''.join(lines)}"
    # the entries, with the comments and blank lines between them
    old = r"(?m)^  transfers:.*\n((?:[ \t]*(?:#.*)?\n)*    [^\s#].*\n)*"
    text = re.sub(old, transfers, text, count=1)
    write_atomically(trial := project_root() / "build" / "params.yaml", text)
    chosen = check_params(trial).studies
    if chosen.datasets != tuple(sources) or len(chosen.transfers) != len(pairs):
        raise SettingsError(
            "params.yaml: the lines `datasets:` and `transfers:` of `studies` are not where they "
            "were; set them by hand"
        )
    write_atomically(path.resolve(), text)
    trial.unlink()
    undo = "`git checkout params.yaml` undoes it, and every other edit that is not committed"
    return f"params.yaml: studies.datasets is now {listed}, with {len(pairs)} transfers; {undo}"
