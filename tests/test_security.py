"""What SECURITY.md promises: data is never run, names never lead outside, what is installed is
known by its hash."""

import ast
import json
import math
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from papermill.translators import PythonTranslator
from pydantic import TypeAdapter, ValidationError

from bivrec.data import download, encoders
from bivrec.data.readers import amazon, common, plain
from bivrec.pipeline.commands import typed
from bivrec.settings import Amazon, Dataset, FileName, Folder, MovieLens, Name, check_params
from bivrec.settings.types import FILE_NAME, FolderName

UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "telnetlib",
    "ftplib",
    "xml",
    "yaml",  # PyYAML; settings are read by ruamel.yaml
}
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__"}
UNSAFE_METHODS = {
    "system",
    "popen",
    "read_pickle",
    "to_pickle",
    "extractall",
    "unpack_archive",
    "full_load",
    "unsafe_load",
    "mktemp",
}


def unsafe(source: str) -> list[str]:
    """The calls and imports of a source that could run data or write where a name says."""
    problems = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        problems += [f"import {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        last = called.rpartition(".")[2]
        if called in UNSAFE_NAMES or (last in UNSAFE_METHODS and "." in called):
            problems.append(called)
        if given.get("shell", "False") != "False":
            problems.append(f"{called}(shell={given['shell']})")
        if called in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
            problems.append(f"{called} without allow_pickle=False")
        if called == "np.save" and given.get("allow_pickle", "False") != "False":
            problems.append(called)
        if called == "torch.load" and given.get("weights_only") != "True":
            problems.append("torch.load without weights_only=True")
        if called == "torch.save":
            problems.append(called)
        if last == "YAML" and given.get("typ") not in ("'safe'", "'rt'"):
            problems.append(f"{called} of another type than safe")
    return problems


def sources_of(root: Path) -> dict[str, str]:
    """Every source of the project: module, benchmarks, long tests, and the notebooks' cells."""
    files = [
        path
        for folder in ("bivrec", "benchmarks", "tests/trust")
        for path in sorted((root / folder).rglob("*.py"))
    ]
    texts = {str(path.relative_to(root)): path.read_text() for path in files}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, 4).cells
        texts[path.name] = "\n".join(
            re.sub(r"(?m)^\s*[%!].*$", "", cell.source)
            for cell in cells
            if cell.cell_type == "code"
        )
    return texts


def test_no_source_runs_data(root):
    texts = sources_of(root)
    assert len(texts) > 60
    assert {name: found for name, text in texts.items() if (found := unsafe(text))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(x)",
        "exec(x)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "torch.save(x, y)",
        "YAML()",
        "YAML(typ='unsafe')",
        "import yaml",
        "archive.extractall(x)",
        "pd.read_pickle(x)",
        "shutil.unpack_archive(x)",
    ],
)
def test_the_check_finds_what_it_looks_for(source):
    assert unsafe(source)


OUTSIDE = [
    "..",
    ".",
    "",
    "../x",
    "a/b",
    "/etc",
    "a\\b",
    "C:\\x",
    "~",
    ".hidden",
    "a\0",
    "a\n",
    "a ",
    "a/../b",
    "a" * 300 + "/",
    "é/..",
    "%2e%2e",
    "$HOME",
    "-rf",
    "a;b",
]


@pytest.mark.parametrize("kind", [Name, FileName, FolderName])
def test_a_name_is_one_step_inside_a_folder(kind, tmp_path):
    adapter = TypeAdapter(kind)
    for name in OUTSIDE:
        with pytest.raises(ValidationError):
            adapter.validate_python(name)
    pattern = "[a-z0-9][a-z0-9._-]{0,63}" if kind is Name else FILE_NAME

    @budget(max_examples=200, deadline=None)
    @given(st.from_regex(re.compile(pattern), fullmatch=True) | st.text(max_size=12))
    def check(name):
        try:
            adapter.validate_python(name)
        except ValidationError:
            return
        assert (tmp_path / name).resolve().parent == tmp_path.resolve() and name not in (".", "..")

    check()


def test_every_name_that_becomes_a_path_is_such_a_name():
    settings = check_params()
    for names in (
        settings.datasets,
        settings.profiles,
        settings.models,
        settings.ablations,
        settings.grids,
    ):
        assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name) for name in names)
    for section in (Dataset, MovieLens, Amazon, Folder):
        for field in section.__dataclass_fields__.values():
            named = field.name in ("folder", "category")
            assert not named or field.type in (FileName, FolderName), (section, field.name)


def test_what_unpacks_is_bounded():
    assert download.MAX_UNPACKED <= 1 << 34 and amazon.MAX_UNPACKED <= 1 << 34
    assert common.MAX_LINE <= 1 << 20 and plain.MAX_ROWS <= 1 << 29
    assert encoders.MAX_PIXELS <= 50_000_000


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
ATTACKS = [
    '"); import os; os.system("true")#',
    "'''",
    '"""',
    "\\",
    "\\'",
    '\n__import__("os")',
    "{x}",
    "\u2028",
    "a\r\nb",
    "${x}",
    "\x00",
]


def plain_value(node: ast.expr):
    """The value of a literal, or of the float('nan') that stands for a number without one."""
    if isinstance(node, ast.Call):
        assert ast.unparse(node) in ("float('nan')", "float('inf')", "float('-inf')")
        return float(ast.literal_eval(node.args[0]))
    if isinstance(node, ast.List):
        return [plain_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {
            ast.literal_eval(key): plain_value(item) for key, item in zip(node.keys, node.values)
        }
    return ast.literal_eval(node)


def same(a, b) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


@budget(max_examples=300, deadline=None)
@given(value=VALUES | st.sampled_from(ATTACKS) | st.text(st.sampled_from("'\"\\\n#(){}ab")))
def test_a_parameter_enters_a_notebook_as_a_value(value):
    """The cell that papermill puts in holds one assignment of a literal, which is the value."""
    if isinstance(value, str):
        value = typed(value)
    parameters = json.loads(json.dumps({"note": value}))
    (statement,) = ast.parse(PythonTranslator.codify(parameters)).body
    assert isinstance(statement, ast.Assign) and same(
        plain_value(statement.value), parameters["note"]
    )


def locked(text: str) -> dict[str, str]:
    return {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in re.findall(r"(?m)^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", text)
    }


def test_what_is_installed_is_known_by_its_hash(root):
    """Lock, hashes and bill of materials name the same packages; each file has its sha256; nothing
    comes from elsewhere."""
    lock, hashed = (
        (root / "requirements.lock").read_text(),
        (root / "requirements.hashes").read_text(),
    )
    assert locked(lock) == locked(hashed) and len(locked(lock)) > 200
    for text in (lock, hashed):
        assert not re.search(
            r"(?m)^[^#\n]*(https?:|git\+|@|--(extra-)?index-url|--find-links|--trusted-host)", text
        )
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", re.sub(r"(?m)^#.*\n", "", hashed))
    assert all(
        re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry) for entry in entries if entry.strip()
    )
    bill = json.loads((root / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX" and locked(
        "\n".join(f"{part['name']}=={part['version']}" for part in bill["components"])
    ) == locked(lock)


def test_what_the_project_asks_for_is_locked_within_its_bounds(root):
    from packaging.requirements import Requirement

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    known = locked((root / "requirements.lock").read_text())
    for text in project["dependencies"] + project["optional-dependencies"]["study"]:
        asked = Requirement(text)
        version = known[re.sub(r"[-_.]+", "-", asked.name).lower()]
        assert asked.specifier.contains(version) and not asked.url
        assert any(bound.operator in (">=", "==") for bound in asked.specifier) and any(
            bound.operator in ("<", "==") for bound in asked.specifier
        ), text


def test_the_trust_model_is_written_down(root):
    text = (root / "SECURITY.md").read_text()
    for word in (
        "runs code",
        "untrusted",
        "requirements.hashes",
        "sbom.json",
        "make audit",
        "Report",
    ):
        assert word in text


def test_the_figures_of_the_long_part_are_those_of_its_report(root):
    """No figure of tests/README.md is typed: the table is what tests/trust/run.py makes of
    report.json."""
    import runpy

    runner = runpy.run_path(str(root / "tests" / "trust" / "run.py"))
    report = json.loads((root / "tests" / "trust" / "report.json").read_text())
    assert set(report) <= set(runner["PARTS"])
    counts = [runner["differ"](files) for files in ([], ["a"], ["a", "b"])]
    more = " (see [Limits](#limits))"
    assert counts == ["0 differ", f"1 differs{more}", f"2 differ{more}"]
    assert runner["write_table"](report) == (root / "tests" / "README.md").read_text()
