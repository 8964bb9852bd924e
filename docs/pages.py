"""The list of all pages, in the order of the menu."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from common import DOCS, PROFILES, ROOT, BuildError, Page, results_folder
from course import student_copy
from reference import render_reference
from render import render_file, render_notebook, slug
from tables import render_claims, render_data

STAGES = {
    "01_data_prep": "Data",
    "02_feature_encoding": "Features",
    "03_training": "Training",
    "04_ablations": "Ablations",
    "05_noise": "Noise",
    "06_cold_start": "Cold start",
    "07_cross_dataset": "Transfer",
    "08_report": "Report",
    "09_tuning": "Tuning",
    "10_protocols": "Protocols",
}
STUDY, GUIDES, COURSE, CHECKS = "The study", "Guides", "Course", "Checks"
DOCUMENTS = [  # group, source, path in the site, label
    (STUDY, "README.md", "index.html", "Overview"),
    (STUDY, "docs/studies.md", "studies.html", "Studies and results"),
    (STUDY, "docs/protocol.md", "protocol.html", "Protocol"),
    (STUDY, "docs/confirmatory.md", "confirmatory.html", "Confirmatory claims"),
    (STUDY, "DIFFERENCES.md", "differences.html", "Differences from the paper"),
    (GUIDES, "docs/tasks.md", "tasks.html", "How do I ...?"),
    (GUIDES, "docs/profiles.md", "profiles.html", "Pipeline and profiles"),
    (GUIDES, "docs/datasets.md", "datasets.html", "Datasets"),
    (GUIDES, "raw/plain-example/README.md", "own-data.html", "Format of your own data"),
    (GUIDES, "docs/own_model.md", "own-model.html", "Your own model"),
    (
        GUIDES,
        "notebooks/11_own_model.ipynb",
        "own-model-example.html",
        "Your own model, an example",
    ),
    (GUIDES, "docs/processes.md", "processes.html", "GPU and several processes"),
    (GUIDES, "docs/experiments.md", "experiments.html", "Your own experiments"),
    (GUIDES, "docs/model_card.md", "model-card.html", "Model card"),
    (GUIDES, "docs/troubleshooting.md", "troubleshooting.html", "Troubleshooting"),
    (GUIDES, "CONTRIBUTING.md", "contributing.html", "Contributing"),
    (GUIDES, "CHANGELOG.md", "changelog.html", "Changelog"),
    (COURSE, "assignments/README.md", "course/readme.html", "About the course"),
    (COURSE, "assignments/HINTS.md", "course/hints.html", "Hints and typical mistakes"),
    (COURSE, "assignments/policy.md", "course/policy.html", "Policy to adapt"),
    (CHECKS, "benchmarks/ml-1m/README.md", "checks/ml-1m.html", "MovieLens-1M"),
    (CHECKS, "benchmarks/amazon-baby/README.md", "checks/amazon-baby.html", "Amazon Baby"),
    (
        CHECKS,
        "benchmarks/amazon-baby-long/README.md",
        "checks/amazon-baby-long.html",
        "Amazon Baby, longer trainings",
    ),
    (
        CHECKS,
        "benchmarks/amazon-instruments/README.md",
        "checks/amazon-instruments.html",
        "Amazon Instruments",
    ),
    (CHECKS, "benchmarks/amazon-games/README.md", "checks/amazon-games.html", "Amazon Games"),
    (CHECKS, "benchmarks/ml-100k/README.md", "checks/ml-100k.html", "MovieLens-100K"),
    (CHECKS, "benchmarks/README.md", "checks/speed.html", "Speed"),
    (CHECKS, "tests/README.md", "checks/tests.html", "Guarantees and their tests"),
    (CHECKS, "SECURITY.md", "checks/security.html", "Security"),
]


def list_documents(group: str) -> list[Page]:
    """The Markdown pages and notebooks of a group that DOCUMENTS lists."""
    return [
        Page(path, label, name, render_document(ROOT / source), source)
        for name, source, path, label in DOCUMENTS
        if name == group
    ]


def render_document(path: Path) -> Callable[[Path], str]:
    if path.suffix == ".md":
        return partial(render_file, path)
    return partial(render_notebook, path, "planted")


def list_notebooks() -> Iterator[Page]:
    """The executed notebooks of every profile."""
    for profile, group in PROFILES.items():
        for stage, name in STAGES.items():
            for path in sorted((results_folder(profile) / stage).glob("*/*.ipynb")):
                yield notebook_page(path, profile, group, name)


def notebook_page(path: Path, profile: str, group: str, name: str) -> Page:
    part, where = path.parent.name, f"profile {profile}"
    if part != "all":
        name = f"{name}: {part.replace('-movies', ' to movies')}"
        where = f"{part}, {where}"
    target = f"{profile}/{path.parent.parent.name}/{part}.html"
    source = str(path.relative_to(ROOT))
    title = f"{name}, {group.lower()}"
    return Page(target, name, group, partial(render_notebook, path, where), source, title)


def list_course() -> list[Page]:
    """The assignments, as students get them, after the page about them and before the others."""
    about, *others = list_documents(COURSE)
    masters = sorted((ROOT / "assignments").glob("[a-z]_*.ipynb"))
    return [about, *map(assignment_page, masters), *others]


def assignment_page(path: Path) -> Page:
    render = partial(render_notebook, path, "course", change=student_copy)
    label, source = path.stem.replace("_", " "), str(path.relative_to(ROOT))
    return Page(f"course/{slug(path.stem)}.html", label, COURSE, render, source)


def list_pages() -> list[Page]:
    """Every page. Raises BuildError if DOCUMENTS lacks a page of docs/ or assignments/."""
    listed = {source for _, source, _, _ in DOCUMENTS}
    for path in sorted([*DOCS.glob("*.md"), *ROOT.glob("assignments/*.md")]):
        name = str(path.relative_to(ROOT))
        if name not in listed:
            raise BuildError(f"{name} is not in DOCUMENTS of docs/pages.py; add it there")
    claims = Page("claims.html", "Claims and verdicts", STUDY, lambda _: render_claims())
    data = Page("data.html", "Data cards", STUDY, lambda _: render_data())
    reference = Page("api.html", "Package reference", "Reference", lambda _: render_reference())
    study, guides, checks = map(list_documents, (STUDY, GUIDES, CHECKS))
    study[2:2] = [claims, data]
    return [*study, *guides, *list_notebooks(), *list_course(), *checks, reference]
