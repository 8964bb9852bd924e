"""What GitHub and Zenodo read: workflows, issue templates, and metadata that agree."""

import json
import re
import tomllib

import pytest
from ruamel.yaml import YAML

WORKFLOWS = ("checks", "pages", "smoke")
PINNED = re.compile(r"uses: actions/[a-z-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+\n")


def read_yaml(path) -> dict:
    return YAML(typ="safe").load(path.read_text("utf-8"))


def workflow_path(root, name: str):
    return root / ".github" / "workflows" / f"{name}.yml"


def project_of(root) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]


def test_every_workflow_is_tested(root):
    found = {path.stem for path in workflow_path(root, "checks").parent.iterdir()}
    assert found == {*WORKFLOWS}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_reads_only_and_runs_make(root, name):
    workflow = read_yaml(workflow_path(root, name))
    assert workflow["permissions"] == {"contents": "read"}
    makefile = (root / "Makefile").read_text("utf-8")
    for job in workflow["jobs"].values():
        commands = [step["run"] for step in job["steps"] if "run" in step]
        assert not (commands and "permissions" in job), "only a job that runs none of our code"
        for command in commands:
            make, *words = command.split()
            assert make == "make"
            for target in (word for word in words if "=" not in word):
                assert re.search(rf"(?m)^([^:\n]+ )?{re.escape(target)}:", makefile), command


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_names_actions_by_their_commit(root, name):
    text = workflow_path(root, name).read_text("utf-8")
    assert text.count("uses:") == len(PINNED.findall(text)) > 0
    checkouts = re.findall(r"actions/checkout@.*\n +with:\n +persist-credentials: false\n", text)
    assert len(checkouts) == text.count("actions/checkout@")
    assert text.count("cache: pip") == text.count("actions/setup-python@")


def test_the_checks_run_under_every_python(root):
    job = read_yaml(workflow_path(root, "checks"))["jobs"]["checks"]
    versions = job["strategy"]["matrix"]["python"]
    lowest, highest = (int(version.removeprefix("3.")) for version in (versions[0], versions[-1]))
    assert project_of(root)["requires-python"] == f">=3.{lowest},<3.{highest + 1}"
    assert versions == [f"3.{minor}" for minor in range(lowest, highest + 1)]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make lint", "make .venv/onnx", "make test"]


@pytest.mark.parametrize("name", ["bug", "proposal"])
def test_an_issue_template_is_a_form(root, name):
    form = read_yaml(root / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert form["name"] and form["description"]
    for part in form["body"]:
        needed = {"markdown": "value", "textarea": "label"}[part["type"]]
        assert part["attributes"][needed]


def test_all_files_agree_on_the_version(root):
    bill = json.loads((root / "sbom.json").read_text("utf-8"))
    changes = (root / "CHANGELOG.md").read_text("utf-8")
    versions = {
        "pyproject.toml": project_of(root)["version"],
        "CITATION.cff": read_yaml(root / "CITATION.cff")["version"],
        "sbom.json": bill["metadata"]["component"]["version"],
        "CHANGELOG.md": re.search(r"(?m)^## (\d\S+) - (in preparation|\d{4}-\d\d-\d\d)$", changes)[
            1
        ],
    }
    assert len(set(versions.values())) == 1, versions


def test_zenodo_and_citation_describe_the_same_work(root):
    zenodo = json.loads((root / ".zenodo.json").read_text("utf-8"))
    citation = read_yaml(root / "CITATION.cff")
    assert zenodo["title"] == citation["title"]
    assert zenodo["license"] == citation["license"] == project_of(root)["license"]
    assert zenodo["creators"] == citation["authors"]
    (paper,) = zenodo["related_identifiers"]
    assert paper["identifier"].removeprefix("arXiv:") in citation["preferred-citation"]["url"]
    assert "version" not in zenodo, "Zenodo takes it from the tag"
