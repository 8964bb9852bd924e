"""Where the project's files are."""

import os
from pathlib import Path

from bivrec.errors import SettingsError
from bivrec.settings.schema import Studies


def project_root() -> Path:
    """The folder of params.yaml: BIVREC_ROOT, or the nearest one upward from here."""
    if "BIVREC_ROOT" in os.environ:
        return Path(os.environ["BIVREC_ROOT"])
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise SettingsError(
        f"params.yaml is not in {Path.cwd()} nor in a folder above it; start inside the project"
    )


def profile_folder(place: str, profile: str) -> Path:
    """A profile's part of results/, build/ or build/log: the default's is all that stands there, another's a folder of its name."""
    return project_root() / place / ("" if profile == "default" else profile)


def training_profile(profile: str, studies: Studies) -> str:
    """The profile whose trained models a profile's studies read: its own where it trains, else the default's."""
    return profile if "03_training" in studies.stages else "default"
