"""What all parts of the site's builder share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PROFILES = {"default": "Default profile", "full": "Profile full"}


class BuildError(ValueError):
    """The site cannot be built; the message names the file and what to do."""


@dataclass(frozen=True)
class Page:
    """A page of the site. `render(file)` returns the body of the page that becomes this file; it may
    write files into the folder of the same name, without the suffix."""

    path: str  # in the site
    label: str  # in the menu
    group: str  # of the menu
    render: Callable[[Path], str] = field(repr=False)
    source: str = ""  # the file in the repository that it shows
    title: str = ""  # if it differs from the label


def results_folder(profile: str) -> Path:
    return ROOT / "results" / ("" if profile == "default" else profile)
