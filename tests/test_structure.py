"""Packages and sizes of the module, the pipeline against the code it runs, and the notebooks."""

import ast
import os
import re
import shutil
import statistics
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import nbformat
import pytest
from ruamel.yaml import YAML

from bivrec import PACKAGES
from bivrec.pipeline.runner import UNTRAINED
from bivrec.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "bivrec").rglob("*.py"))
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
RUNNER = ROOT / "bivrec/pipeline/runner.py"
# No figure depends on these.
RECORDS = {ROOT / "bivrec" / name for name in ("__init__.py", "pipeline/provenance.py")}


def file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def imports_of(source: str) -> set[Path]:
    """The files of the module that a source imports."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the package"
            package = file_of(node.module)  # unless all names are its submodules
            modules |= {file_of(f"{node.module}.{alias.name}") or package for alias in node.names}
        if isinstance(node, ast.Import):
            modules |= {file_of(alias.name) for alias in node.names}
    return modules - {None}


IMPORTS = {path: imports_of(path.read_text("utf-8")) - {path} for path in FILES}


def closure(files: set[Path]) -> set[Path]:
    """The files and all that they import in turn."""
    seen: set[Path] = set()
    while new := files - seen:
        seen |= new
        files = files.union(*(IMPORTS[path] for path in new))
    return seen


def package_of(path: Path) -> str:
    return path.relative_to(ROOT / "bivrec").parts[0].removesuffix(".py")


def test_every_file_stands_in_a_room():
    assert {package_of(path) for path in FILES} - {"__init__", "__main__"} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_from_those_before_it(package):
    allowed = {*PACKAGES[: PACKAGES.index(package) + 1]}
    for path in FILES:
        if package_of(path) == package:
            imported = {package_of(other) for other in IMPORTS[path]} - {"__init__"}
            assert imported <= allowed, f"{path.name} imports {sorted(imported - allowed)}"


def test_no_imports_run_in_a_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(path.relative_to(ROOT).as_posix() for path in error.args[1]))


def functions() -> list[tuple[str, int]]:
    """Every function of the module with its number of lines."""
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]


def test_functions_and_files_are_short():
    lengths = functions()
    assert not [named for named in lengths if named[1] > 60]
    assert statistics.median(lines for _, lines in lengths) <= 10
    counts = {path.name: path.read_text("utf-8").count("\n") for path in FILES}
    assert not {name: count for name, count in counts.items() if count > 400}


def stages() -> dict[str, dict]:
    """The stages of dvc.yaml, whatever they are repeated over."""
    tree = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text("utf-8"))
    return {name: stage.get("do", stage) for name, stage in tree["stages"].items()}


def notebooks_of(stage: dict) -> list[str]:
    name = stage["cmd"].split(" run ")[-1].split()[0]
    return stage["matrix"]["notebook"] if name == "${item.notebook}" else [name]


RUNS = [
    (name, notebook)
    for name, stage in stages().items()
    if " run " in stage["cmd"]
    for notebook in notebooks_of(stage)
]


@pytest.mark.parametrize(("name", "notebook"), RUNS)
def test_a_stage_depends_on_the_code_that_its_notebook_imports(name, notebook):
    deps = {dep.replace("${item.notebook}", notebook) for dep in stages()[name]["deps"]}
    assert f"build/notebooks/{notebook}.ipynb" in deps
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", 4).cells
    read = closure({RUNNER}.union(*(imports_of(c.source) for c in cells if c.cell_type == "code")))
    listed = {ROOT / dep for dep in deps if dep.split("/")[0] == "bivrec"}
    assert all(path.exists() for path in listed), "dvc.yaml names a file that is gone"
    packages = {path for path in read if path.name == "__init__.py" and not path.read_text()}
    missing = {p for p in read - packages - RECORDS if not listed & {p, *p.parents}}
    assert not missing, sorted(path.relative_to(ROOT).as_posix() for path in missing)


@pytest.mark.parametrize(("name", "notebook"), RUNS)
def test_a_stage_that_trains_depends_on_the_models_of_own(name, notebook):
    assert "own" in stages()[name]["deps"] or notebook.startswith(UNTRAINED)


def test_an_edit_of_a_figure_or_a_study_retrains_nothing():
    for name in ("training", "tuning_full"):
        deps = set(stages()[name]["deps"])
        assert not {dep for dep in deps if dep.startswith("bivrec/studies")}
        assert not deps & {"bivrec", "bivrec/plots", "bivrec/plots/studies.py", "bivrec/pipeline"}


def test_the_training_runs_again_when_a_section_that_it_reads_changes():
    read_elsewhere = "profiles datasets ablations grids noise cold_start transfer".split()
    listed = next(item for item in stages()["training"]["params"] if isinstance(item, dict))
    sections = {key.partition(".")[0] for key in listed["params.yaml"]}
    assert sections == set(Settings.__dataclass_fields__) - set(read_elsewhere)


def test_profiles_study_what_their_stages_run():
    default, smoke, full = (
        load_settings(profile=profile).studies for profile in ("default", "smoke", "full")
    )
    runs = stages()
    (pair,) = smoke.transfers.values()
    assert runs["studies_smoke"]["matrix"]["dataset"] == list(smoke.datasets) == [pair.source]
    assert runs["training_smoke"]["matrix"]["dataset"] == list(smoke.datasets)
    chained = {*notebooks_of(runs["training_smoke"]), *notebooks_of(runs["studies_smoke"])}
    assert {*smoke.stages} <= chained | {"07_cross_dataset"}
    assert f"source={pair.source} target={pair.target}" in runs["cross_dataset_smoke"]["cmd"]
    assert smoke.stages == default.stages and full.datasets == default.datasets
    studied = {*notebooks_of(runs["studies_full"])}
    assert {*full.stages} == {"03_training", "07_cross_dataset"} | studied
    everything = load_settings()
    assert set(full.ablations) == set(everything.ablations)
    assert set(full.grids) == set(everything.grids)
    for name, stage in runs.items():
        suffix = re.search("_(full|smoke)$", name)
        named = {f"profile={suffix[1]}"} if suffix else {"profile=${key}"} & {*stage["cmd"].split()}
        assert named == set(re.findall(r"profile=\S+", stage["cmd"])), name


def ancestors(target: str) -> set[str]:
    """The stages that DVC runs for a target."""
    command = [sys.executable, "-m", "dvc", "dag", "--dot", target]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split("@")[0] for name in re.findall(r'"([^"]+)"', shown.stdout)}


@pytest.mark.slow
def test_a_profile_runs_its_own_stages_and_those_it_reads():
    data = {"data.dvc", "source", "data_prep", "feature_encoding", "report"}
    studies = {"training", "ablations", "noise", "cold_start", "cross_dataset"}
    assert ancestors("report@default") == data | studies
    full = {"tuning_full", "training_full", "studies_full", "cross_dataset_full"}
    assert ancestors("report@full") == data | full
    smoke = {"training_smoke", "studies_smoke", "cross_dataset_smoke"}
    assert ancestors("report@smoke") == {"data.dvc", "source", "report"} | smoke


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebooks_are_thin(notebook):
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", 4).cells
    cells = [cell for cell in cells if cell.cell_type == "code"]
    assert statistics.median_low(len(cell.source.splitlines()) for cell in cells) <= 5
    for cell in cells:
        machinery = r"^class |\.backward\(|open\(|Path\(|/build|/results"
        assert not re.search(machinery, cell.source, re.M), cell.source
        assert not any(output.output_type == "error" for output in cell.outputs)
        assert cell.execution_count, "saved without outputs: run `make notebooks`"


@pytest.mark.slow
def test_the_lock_matches_the_sources(tmp_path):
    """`dvc repro` would run nothing but what a clone lacks: dvc.lock belongs to these sources,
    settings and data. Asks a copy without build/, so that earlier builds here do not matter."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if not name.startswith("dvcstore/") and (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    if (ROOT / "data").is_dir():  # of a stage that is due, DVC reads every dependency
        shutil.copytree(ROOT / "data", tmp_path / "data")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    write = "from bivrec.pipeline.notebooks import write_sources; write_sources()"
    here = os.environ | {"BIVREC_ROOT": str(tmp_path)}
    subprocess.run([sys.executable, "-c", write], cwd=ROOT, env=here, check=True)
    command = [sys.executable, "-m", "dvc", "repro", "--allow-missing", "--dry", "report@default"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0, f"dvc.lock is behind; run `make repro`: {shown.stderr[-300:]}"
    behind = re.findall(r"Running stage '(?!source')(.+)'", shown.stdout)
    assert not behind, f"dvc.lock is behind; run `make repro`: {behind}"


def test_a_missing_package_is_named_with_what_to_do():
    command = [sys.executable, "-S", "-m", "bivrec", "check"]
    bare = {"PATH": "/usr/bin:/bin"}
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=bare)
    assert shown.returncode == 1
    assert "make setup" in shown.stderr and "Traceback" not in shown.stderr


PAGES = [ROOT / "README.md", ROOT / "DIFFERENCES.md", *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_link_to_what_is_there(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_no_posters_no_weights_and_no_paths_of_one_machine():
    command = ["git", "ls-files"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    refused = (".jpg", ".jpeg", ".webp", ".pkl", ".pt", ".pth")
    assert not [name for name in tracked if name.lower().endswith(refused)]
    for path in (ROOT / "results").rglob("*.ipynb"):
        text = path.read_text("utf-8")
        assert str(ROOT) not in text, path
        assert not re.search(r"/home/|/root/|/tmp/|site-packages", text), path
