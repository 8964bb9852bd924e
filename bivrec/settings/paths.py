"""Where the project's files are."""

import os
from pathlib import Path

from bivrec.errors import SettingsError


def project_root() -> Path:
    """BIVREC_ROOT, else the nearest folder upward from here that has a params.yaml."""
    if "BIVREC_ROOT" in os.environ:
        return Path(os.environ["BIVREC_ROOT"])
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            return folder
    problem = f"params.yaml is not in {here} nor in a folder above it"
    raise SettingsError(f"{problem}; start inside the project")


def profile_folder(place: str, profile: str) -> Path:
    """A profile's folder in results/, build/ or build/log; the default profile's is that folder
    itself."""
    return project_root() / place / ("" if profile == "default" else profile)


def repro_command(profile: str) -> str:
    """The command that regenerates a profile's results."""
    return "make repro" if profile == "default" else f"make repro PROFILE={profile}"
