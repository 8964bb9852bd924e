"""Data, store and settings checked before a study runs."""

import hashlib
import itertools
import json
import os
import re
import sys
from typing import get_args

from bivrec.data.download import checksums
from bivrec.errors import SettingsError
from bivrec.outputs import write_atomically
from bivrec.pipeline.provenance import told_by
from bivrec.settings import (
    Stage,
    check_params,
    load_settings,
    pick,
    profile_folder,
    project_root,
)


def check_store() -> None:
    """Refuses a store whose files are not what their names say, before DVC hands them out."""
    for path in sorted((project_root() / "dvcstore" / "files" / "md5").glob("*/*")):
        if hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.name.removesuffix(
            ".dir"
        ):
            mend = "`git checkout dvcstore` brings it back, then `make restore` the data"
            raise SettingsError(
                f"{path.relative_to(project_root())} is damaged: its content is not that of its name; {mend}"
            )


def check_data() -> None:
    """Refuses a data/ that is not what data.dvc records, before DVC takes it for a new version."""
    status = json.loads(
        "".join(told_by(sys.executable, "-m", "dvc", "data", "status", "--granular", "--json"))
        or "{}"
    )
    for what in ("modified", "deleted", "added"):
        names = sorted(
            name
            for name in status.get("uncommitted", {}).get(what, ())
            if name.startswith("data/") and not name.endswith("/")
        )
        if names:
            those = f"{names[0]} and {len(names) - 1} more are" if names[1:] else f"{names[0]} is"
            differs = "data/ differs from what data.dvc records; `make restore` brings it back; if you meant it, `dvc add data`"
            raise SettingsError(f"{those} {what}: {differs}")


def check_files(profile: str) -> None:
    """Refuses a study whose files are not there or have changed, and tells DVC, in build/raw, which files they are."""
    studies = load_settings(profile=profile).studies
    for name in dict.fromkeys(
        (
            *studies.datasets,
            *(end for pair in studies.transfers.values() for end in (pair.source, pair.target)),
        )
    ):
        dataset = load_settings(profile=profile).datasets[name]
        told = {} if dataset.source == "planted" else checksums(name, dataset)
        write_atomically(
            project_root() / "build" / "raw" / f"{name}.json", json.dumps(told, indent=1) + "\n"
        )
    for known, stage in itertools.product(load_settings().profiles, get_args(Stage)):
        # the report depends on every study's folder, empty where a profile lacks the study
        (profile_folder("build", known) / stage).mkdir(parents=True, exist_ok=True)


def choose(names: list[str]) -> str:
    """Writes which datasets are studied into params.yaml, and the transfers between those of one source, two ways a pair."""
    settings, path = load_settings(), project_root() / "params.yaml"
    known = {name: pick(settings.datasets, name, "dataset").source for name in dict.fromkeys(names)}
    pairs = [
        f"    {a}-to-{b}: {{source: {a}, target: {b}}}\n"
        for a in known
        for b in known
        if a != b and known[a] == known[b]
    ]
    text = re.sub(
        r"(?m)^(  datasets: )\[[^\]]*\]",
        rf"\g<1>[{', '.join(known)}]",
        path.read_text("utf-8"),
        count=1,
    )
    text = re.sub(
        r"(?m)^  transfers:.*\n(    .*\n)*",
        f"  transfers:{'' if pairs else ' {}'}\n{''.join(pairs)}",
        text,
        count=1,
    )
    write_atomically(trial := project_root() / "build" / "params.yaml", text)
    chosen = check_params(trial).studies
    if chosen.datasets != tuple(known) or len(chosen.transfers) != len(pairs):
        raise SettingsError(
            "params.yaml: the lines `datasets:` and `transfers:` of `studies` are not where they were; set them by hand"
        )
    os.replace(trial, path)
    return f"params.yaml: studies.datasets is now [{', '.join(known)}], with {len(pairs)} transfers; `git checkout params.yaml` undoes it"
