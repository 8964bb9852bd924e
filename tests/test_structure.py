"""The module reads from top to bottom, and the pipeline lists what it reads."""

import ast
import re
import subprocess
import sys

import nbformat
import pytest
from ruamel.yaml import YAML

from bivrec import READING_ORDER
from bivrec.settings import load_settings

STAGES = [
    "01_data_prep",
    "02_feature_encoding",
    "03_training",
    "04_ablations",
    "05_noise",
    "06_cold_start",
    "07_cross_dataset",
    "08_report",
    "09_tuning",
    "10_protocols",
]


def imports_of(source: str) -> set[str]:
    """The bivrec files that a source imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bivrec."):
            found.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("bivrec.")
            }
    return found


def closure(root, names: set[str]) -> set[str]:
    """The files and all that they import in turn."""
    seen: set[str] = set()
    while names - seen:
        name = (names - seen).pop()
        seen.add(name)
        names = names | imports_of((root / "bivrec" / f"{name}.py").read_text())
    return seen


def test_reading_order_names_every_file(root):
    files = {path.stem for path in (root / "bivrec").glob("*.py")} - {"__init__", "__main__"}
    assert files == set(READING_ORDER)


@pytest.mark.parametrize("name", READING_ORDER)
def test_a_file_imports_only_from_files_above_it(root, name):
    above = READING_ORDER[: READING_ORDER.index(name)]
    assert imports_of((root / "bivrec" / f"{name}.py").read_text()) <= set(above)


def stages_of(root, profile: str) -> dict:
    path = root / ("" if profile == "default" else profile) / "dvc.yaml"
    return {
        name: stage.get("do", stage)
        for name, stage in YAML(typ="safe").load(path.read_text())["stages"].items()
    }


def stage_of(root, profile: str, notebook: str) -> dict | None:
    """The stage that runs a notebook."""
    for stage in stages_of(root, profile).values():
        listed = stage.get("matrix", {}).get("notebook", ())
        if f" {notebook} " in stage["cmd"] or (
            "${item.notebook}" in stage["cmd"] and notebook in listed
        ):
            return stage
    return None


@pytest.mark.parametrize(
    ("profile", "notebook"),
    [(p, n) for p in ("default", "smoke", "full", "wide", "comirec") for n in STAGES],
)
def test_a_stage_lists_the_files_that_its_notebook_reads(root, profile, notebook):
    stage = stage_of(root, profile, notebook)
    if stage is None:
        own = {
            "full": {"03_training", "08_report", "09_tuning"},
            "wide": {"04_ablations", "05_noise", "07_cross_dataset", "08_report", "10_protocols"},
            "comirec": {*STAGES[:3], "08_report"},
        }
        assert notebook not in own.get(profile, {*STAGES} - {"09_tuning", "10_protocols"})
        return
    cells = nbformat.read(root / "notebooks" / f"{notebook}.ipynb", 4).cells
    read = closure(
        root,
        {"pipeline"}.union(
            *(imports_of(cell.source) for cell in cells if cell.cell_type == "code")
        ),
    )
    listed = {
        dep.removeprefix("bivrec/").removesuffix(".py")
        for dep in stage["deps"]
        if dep.startswith("bivrec/")
    }
    if "bivrec" in stage["deps"]:
        listed = set(READING_ORDER)
    assert read <= listed, (
        f"{profile}: the stage of {notebook} does not list {sorted(read - listed)}"
    )
    assert {f"build/notebooks/{notebook}.ipynb", "build/notebooks/${item.notebook}.ipynb"} & set(
        stage["deps"]
    )
    if profile != "default":
        assert stage["wdir"] == ".." and f"profile={profile}" in stage["cmd"]
        assert {f"profiles.{profile}", "params.yaml"} & {*stage.get("params", ()), *stage["deps"]}


def test_profiles_study_what_their_stages_run(root):
    default, smoke, full, wide = (
        load_settings(profile=profile).studies for profile in ("default", "smoke", "full", "wide")
    )
    stages = stages_of(root, "smoke")
    assert all(
        stages[name]["matrix"]["dataset"] == list(smoke.datasets)
        for name in ("training", "studies")
    )
    assert [
        f"source={pair.source} target={pair.target}" in stages["cross_dataset"]["cmd"]
        for pair in smoke.transfers.values()
    ] == [True]
    assert smoke.stages == default.stages and full.datasets == default.datasets
    assert full.stages == ("03_training",) and set(wide.stages) == {
        *stages_of(root, "wide")["studies"]["matrix"]["notebook"],
        "07_cross_dataset",
    }
    everything = load_settings()
    assert set(wide.ablations) == set(everything.ablations) and set(wide.grids) == set(
        everything.grids
    )


def test_full_rests_on_the_default_pipelines_data_and_default_on_no_other(root):
    shown = [
        subprocess.run(
            [sys.executable, "-m", "dvc", "dag", "--dot", target],
            cwd=root,
            capture_output=True,
            text=True,
        )
        for target in ("full/dvc.yaml", "dvc.yaml")
    ]
    assert (
        '"feature_encoding@movies-modern" -> "full/dvc.yaml:training@movies-modern"'
        in shown[0].stdout
    ), shown[0].stderr
    assert (
        '"full/dvc.yaml:training@movies-modern" -> "full/dvc.yaml:report"' in shown[0].stdout
        and '"training@' not in shown[0].stdout
    )
    assert (
        shown[1].returncode == 0
        and '"report"' in shown[1].stdout
        and "full/" not in shown[1].stdout
    )


@pytest.mark.parametrize("notebook", STAGES)
def test_notebooks_are_thin(root, notebook):
    cells = [
        cell
        for cell in nbformat.read(root / "notebooks" / f"{notebook}.ipynb", 4).cells
        if cell.cell_type == "code"
    ]
    lengths = sorted(len(cell.source.splitlines()) for cell in cells)
    assert lengths[len(lengths) // 2] <= 5
    for cell in cells:
        assert not re.search(
            r"^class |\.backward\(|open\(|Path\(|/build|/results", cell.source, re.M
        ), cell.source
        assert not any(output.output_type == "error" for output in cell.outputs)
        assert cell.execution_count, "saved without outputs: run `make notebooks`"


def test_the_lock_matches_the_sources(root, tmp_path):
    """`dvc repro` would run nothing but what a clone lacks: dvc.lock belongs to these sources, settings and data. Asked
    of a copy without build/, so that what was built here before does not matter."""
    import shutil

    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if not name.startswith("dvcstore/") and (root / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tmp_path / name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--allow-missing", "--dry"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    stages = [line for line in shown.stdout.splitlines() if line.startswith("Running stage")]
    assert shown.returncode == 0, f"dvc.lock is behind; run `make repro`: {shown.stderr[-300:]}"
    assert not [line for line in stages if "'source'" not in line], (
        f"dvc.lock is behind; run `make repro`: {stages}"
    )


def test_nothing_is_pickled_or_evaluated(root):
    for path in (root / "bivrec").glob("*.py"):
        text = path.read_text()
        assert not re.search(
            r"\bimport pickle|pickle\.(load|dump)|allow_pickle=True|weights_only=False|(?<![.\w])eval\(|(?<![.\w])exec\(|shell=True",
            text,
        ), path.name


def test_what_is_missing_is_said_by_the_module_itself(root, tmp_path):
    """The command without its environment says how to get one."""
    shown = subprocess.run(
        [sys.executable, "-S", "-m", "bivrec", "check"],
        cwd=root,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert shown.returncode == 1
    assert "make setup" in shown.stderr and "Traceback" not in shown.stderr


def test_what_readme_and_notebooks_point_at_is_there(root):
    texts = [(root / name).read_text() for name in ("README.md", "DIFFERENCES.md")]
    for target in re.findall(r"\]\(([^)#]+)\)", "\n".join(texts)):
        assert target.startswith("https://") or (root / target).exists(), target


def test_no_posters_and_no_paths_of_one_machine(root):
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=root, capture_output=True, text=True
    ).stdout.splitlines()
    assert not [
        name
        for name in tracked
        if name.lower().endswith((".jpg", ".jpeg", ".webp", ".pkl", ".pt", ".pth"))
    ]
    for path in (root / "results").rglob("*.ipynb"):
        text = path.read_text()
        assert str(root) not in text and not re.search(
            r"/home/|/root/|/tmp/|site-packages", text
        ), path.name
