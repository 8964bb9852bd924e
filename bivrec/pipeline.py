"""Pipeline: runs the notebooks for DVC, keeps what they made, and compares it with what is committed."""

import errno
import hashlib
import json
import logging
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd

from bivrec.fetch import checksums, fetch
from bivrec.results import LEFT_OUT, write_whole
from bivrec.settings import LeftOut, SettingsError, check_params, load_settings, pick, profile_folder, project_root

ENVIRONMENT = dict(pair.split("=") for pair in (
    "MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=67108864 "
    "OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 "
    "TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 TRANSFORMERS_VERBOSITY=error "
    "JUPYTER_PREFER_ENV_PATH=1 JUPYTER_PLATFORM_DIRS=1 PYDEVD_DISABLE_FILE_VALIDATION=1 PYTHONWARNINGS=ignore::UserWarning"
).split())  # fmt: skip
PACKAGES = ("torch", "numpy", "scipy", "pandas", "scikit-learn", "sentence-transformers")


class NotebookError(RuntimeError):
    """A notebook that did not run to its end; the message names the cell and what it said."""


def strip(notebook: nbformat.NotebookNode, outputs: bool = False) -> nbformat.NotebookNode:
    """A notebook's sources, with or without outputs: no metadata but tags, and ids by place."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"c{number:03d}"
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code" and not outputs:
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
    return notebook


def scrub(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An executed notebook without times, machine paths and versions: the same bytes whenever and wherever it ran. What a cell
    printed is one text, in however many parts the kernel sent it."""
    for cell in strip(notebook, outputs=True).cells:
        whole = []
        for output in cell.get("outputs", []):
            if whole and output["output_type"] == whole[-1]["output_type"] == "stream" and output["name"] == whole[-1]["name"]:
                whole[-1]["text"] += output["text"]
            else:
                whole.append(output)
        for output in whole:
            if "metadata" in output:
                output["metadata"] = {}
            for key in {"text", "data"} & set(output):
                output[key] = json.loads(json.dumps(output[key]).replace(str(project_root()), "."))
        if whole:
            cell["outputs"] = whole
    return notebook


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook with its one cell of parameters."""
    try:
        nbformat.validate(notebook := nbformat.read(path, as_version=4))
    except Exception as error:
        told = f"notebooks/{path.name} is not a notebook ({error.__class__.__name__})"
        raise NotebookError(f"{told}; restore it with `git checkout notebooks/{path.name}`") from None
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise NotebookError(f"notebooks/{path.name} has {len(tagged)} cells tagged 'parameters'; it needs exactly one")
    return notebook


def write_sources() -> None:
    """The stage `source`: checks params.yaml and every notebook, and writes the notebooks' bare sources to build/notebooks,
    which the stages run, so that saved outputs never count as a change."""
    check_params()
    root = project_root()
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        text = nbformat.writes(strip(read_notebook(path))) + "\n"
        target = root / "build" / "notebooks" / path.name
        if not target.is_file() or target.read_text("utf-8") != text:
            write_whole(target, text)


def typed(text: str) -> Any:
    """A parameter from the command line: a number, true, false, a JSON list or object, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


@contextmanager
def quiet_stderr(log: Path) -> Iterator[int]:
    """Sends what a kernel says while it starts or is ended to a file; errors inside cells come back by themselves. Yields
    where stderr was before."""
    saved = os.dup(2)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield saved
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextmanager
def running_folder() -> Iterator[Path]:
    """A folder for one run, on the disk of the results; what a killed run left is removed first."""
    build = project_root() / "build"
    build.mkdir(exist_ok=True)
    for left in build.glob(".running-*"):
        if not Path("/proc", left.name.split("-")[1]).exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=build, prefix=f".running-{os.getpid()}-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


def run_kernel(source: Path, output: Path, parameters: Mapping[str, Any], folders: Mapping[str, str]) -> None:
    """Executes one notebook in a kernel of its own, from the folder notebooks/, with the pipeline's environment."""
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # an interrupted run leaves tasks behind, of which it would tell at length
    if not source.is_file():
        raise NotebookError(f"there is no notebook {source.name}; see the folder notebooks/")
    known = papermill.inspect_notebook(str(source))
    for name in sorted(parameters.keys() - known.keys()):
        raise NotebookError(f"{source.name} has no parameter {name!r}; it has {', '.join(known)}")
    os.environ.update(ENVIRONMENT | {"BIVREC_ROOT": str(project_root()), "PYTHONPATH": str(project_root()), **folders})
    options = {"kernel_name": "python3", "progress_bar": False, "start_timeout": 120, "config": Config({"KernelManager": {"transport_encryption": "auto"}})}
    try:
        with quiet_stderr(output.with_suffix(".log")) as terminal:
            os.environ["BIVREC_TERMINAL"] = f"/proc/{os.getpid()}/fd/{terminal}" if os.isatty(terminal) and keeps_results() else ""
            papermill.execute_notebook(str(source), str(output), dict(parameters), cwd=str(project_root() / "notebooks"), **options)
    except papermill.PapermillExecutionError as error:
        if error.ename == "LeftOut":
            raise LeftOut(error.evalue) from None
        told = re.sub(r"\x1b\[[0-9;]*m", "", str(error.evalue)).strip().splitlines()
        mend = "; free some space there" if "No space left on device" in "".join(told) else ""
        raise NotebookError(f"cell {error.exec_count}: {error.ename}: {told[0] if told else 'no message'}{mend}") from None
    except DeadKernelError:
        raise NotebookError("the kernel died, most likely out of memory; lower machine.num_workers in params.yaml") from None
    except (NoSuchKernel, RuntimeError) as error:
        raise NotebookError(f"no kernel could be started ({error.__class__.__name__}): .venv is damaged; `make clean setup` builds it anew") from None


def leave_out(executed: Path, build: Path, why: str) -> None:
    """A study that its dataset has no features for: the notebook says so where it stopped, and the report passes it over."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "papermill-error-cell-tag" not in cell.metadata.get("tags", ())]
    for cell in notebook.cells:
        if any(output.output_type == "error" for output in cell.get("outputs", ())):
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"Left out: {why}\n")]
    nbformat.write(notebook, executed)
    write_whole(build / LEFT_OUT, json.dumps({"left out": why}, indent=1) + "\n")


def share_among_processes(command: list[str]) -> None:
    """Goes on as several processes, on one machine or many, where BIVREC_TORCHRUN has torchrun's arguments: each runs the
    same notebook, and trainings share their batches. Notebooks that train nothing run once."""
    if (told := os.environ.get("BIVREC_TORCHRUN")) and "RANK" not in os.environ and not command[1].startswith(("01", "02", "08")):
        os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *shlex.split(told), "-m", "bivrec", *command])


def keeps_results() -> bool:
    """Of a machine's processes, one keeps what all of them found alike."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def end_with_caller() -> None:
    """Ends this stage, and so its kernel, when the DVC that began it is killed alone: nothing runs on unseen (Linux)."""

    def parent_of(process: int) -> int:
        try:
            return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            return 0

    def line() -> list[int]:
        found = [os.getppid()]
        for _ in range(2 if "RANK" in os.environ else 1):  # the shell; or torchrun, and its shell
            found.append(parent_of(found[-1]))
        return found

    callers = line()

    def watch() -> None:
        while line() == callers:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if callers[-1] and "DVC_STAGE" in os.environ:
        threading.Thread(target=watch, daemon=True).start()


def run_notebook(name: str, parameters: Mapping[str, Any]) -> None:
    """Runs a notebook as a stage of its profile. Results are put in place only when all of it ran; after a failure the
    partial notebook waits in build/failed and everything else is as before."""
    root, settings, started = project_root(), check_params(), time.perf_counter()
    if not re.fullmatch(r"\w+", name):
        raise NotebookError(f"{name!r} is no notebook's name but a path; name one of the folder notebooks/, as 01_data_prep")
    profile, names = str(parameters.get("profile", "default")), [v for k, v in parameters.items() if isinstance(v, str) and k != "profile"]
    pick(settings.profiles, profile, "profile")
    for value in names:
        pick(settings.datasets, value, "dataset")
    label, results = "-".join(names) or "all", profile_folder("results", profile)
    results.mkdir(parents=True, exist_ok=True)
    with running_folder() as temporary:
        folders = {f"BIVREC_{place.upper()}": f"{temporary}/{place}" for place in ("results", "top", "build", "log")}
        for folder in folders.values():
            Path(folder).mkdir()
        folders["BIVREC_PARTIAL"] = str(partial := profile_folder("build/partial", profile) / name / label)
        output = temporary / f"{name}.ipynb"
        try:
            run_kernel(root / "build" / "notebooks" / f"{name}.ipynb", output, parameters, folders)
        except NotebookError as error:
            told, failed = f"{name} ({label}), {error}", profile_folder("build/failed", profile) / f"{name}-{label}.ipynb"
            if output.is_file() and keeps_results():
                failed.parent.mkdir(parents=True, exist_ok=True)
                os.replace(output, failed)
                told += f"; the notebook up to there: {failed.relative_to(root)}"
            raise NotebookError(told) from None
        except LeftOut as error:
            leave_out(output, Path(folders["BIVREC_BUILD"]), str(error))
            print(f"{name} ({label}) is left out: {error}")
        if not keeps_results():
            return
        write_whole(temporary / "results" / f"{name}.ipynb", nbformat.writes(scrub(nbformat.read(output, as_version=4))) + "\n")
        for path in (temporary / "top").iterdir():
            os.replace(path, results / path.name)
        for place, target in (("log", "build/log"), ("build", "build"), ("results", "results")):
            put_in_place(temporary / place, profile_folder(target, profile) / name / label)
    shutil.rmtree(partial, ignore_errors=True)
    record_stage(profile, f"{name}/{label}", time.perf_counter() - started)


def told_by(*command: str) -> list[str]:
    """The lines that a command says; none where it fails or is not installed."""
    try:
        shown = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
    except OSError:
        return []
    return [] if shown.returncode else shown.stdout.splitlines()


def record_stage(profile: str, stage: str, seconds: float) -> None:
    """Enters a stage under what made it (commit, machine, versions) into its profile's provenance.json, which lies in
    results/; that of the default profile, whose results are the same bytes on each run, in build/log."""
    results, cpu = profile_folder("results", profile), Path("/proc/cpuinfo")
    path = (profile_folder("build/log", profile) if profile == "default" else results) / "provenance.json"
    processor = re.search(r"model name\s*: (.+)", cpu.read_text()) if cpu.is_file() else None
    maker = {
        "commit": next(iter(told_by("git", "rev-parse", "HEAD")), None),
        "changed since": [line[3:] for line in told_by("git", "status", "--porcelain", "--", "bivrec", "notebooks", "params.yaml", "*dvc.yaml", "data.dvc")],
        "processor": processor.group(1) if processor else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory, GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        **({"processes": int(os.environ["WORLD_SIZE"])} if "WORLD_SIZE" in os.environ else {}),
        "GPU": told_by("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    try:
        makers = json.loads(path.read_text("utf-8"))["made by"]
        for other in makers:
            other["stages"] = {name: known for name, known in other["stages"].items() if name != stage and (results / name).is_dir()}
    except (OSError, ValueError, KeyError, TypeError):
        makers = []
    same = next((other for other in makers if maker.items() <= other.items()), maker | {"stages": {}})
    same["stages"][stage] = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "seconds": round(seconds, 1)}
    makers = [other for other in makers if other["stages"] and other is not same] + [same]
    total = sum(known["seconds"] for other in makers for known in other["stages"].values())
    write_whole(path, json.dumps({"profile": profile, "seconds": round(total, 1), "made by": makers}, indent=1) + "\n")


def summary(profile: str, since: str) -> str:
    """What ran since a minute (UTC, as provenance.json writes it), how long each stage took, and where to look."""
    folder = profile_folder("build/log" if profile == "default" else "results", profile)
    try:
        makers = json.loads((folder / "provenance.json").read_text("utf-8"))["made by"]
        ran = [(told["date"], name, told["seconds"]) for maker in makers for name, told in maker["stages"].items() if told["date"] >= since]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        ran = []
    lines = [f"  {name:<34}{seconds // 60:>4.0f} min {seconds % 60:>2.0f} s" for _, name, seconds in sorted(ran)]
    total = sum(seconds for *_, seconds in ran)
    told = (
        [f"{len(ran)} stages ran, {total // 60:.0f} min {total % 60:.0f} s together:", *lines] if ran else ["Nothing had to run: every result is up to date."]
    )
    results = profile_folder("results", profile).relative_to(project_root())
    return "\n".join([*told, f"Look at {results}/08_report/all/08_report.ipynb (`make lab`), or at `git status results` for what changed."])


def put_in_place(folder: Path, target: Path) -> None:
    """Swaps a finished folder for the one that stands there, which goes with the folder of the run."""
    if any(folder.iterdir()):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            os.replace(target, folder.with_name(f"{folder.name}-old"))
        os.replace(folder, target)


def refresh_notebooks() -> None:
    """Runs every notebook on its defaults and saves it with its outputs, for readers and for nbval to compare with."""
    root = project_root()
    write_sources()
    for source in sorted((root / "build" / "notebooks").glob("*.ipynb")):
        with running_folder() as temporary:
            output = temporary / source.name
            try:
                run_kernel(source, output, {}, {})
            except NotebookError as error:
                raise NotebookError(f"{source.stem} (defaults), {error}") from None
            write_whole(root / "notebooks" / source.name, nbformat.writes(scrub(nbformat.read(output, as_version=4))) + "\n")


def check_store() -> None:
    """Refuses a store whose files are not what their names say, before DVC hands them out."""
    for path in sorted((project_root() / "dvcstore" / "files" / "md5").glob("*/*")):
        if hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.name.removesuffix(".dir"):
            mend = "`git checkout dvcstore` brings it back, then `make restore` the data"
            raise SettingsError(f"{path.relative_to(project_root())} is damaged: its content is not that of its name; {mend}")


def check_data() -> None:
    """Refuses a data/ that is not what data.dvc records, before DVC takes it for a new version."""
    status = json.loads("".join(told_by(sys.executable, "-m", "dvc", "data", "status", "--granular", "--json")) or "{}")
    for what in ("modified", "deleted", "added"):
        names = sorted(name for name in status.get("uncommitted", {}).get(what, ()) if name.startswith("data/") and not name.endswith("/"))
        if names:
            those = f"{names[0]} and {len(names) - 1} more are" if names[1:] else f"{names[0]} is"
            differs = "data/ differs from what data.dvc records; `make restore` brings it back; if you meant it, `dvc add data`"
            raise SettingsError(f"{those} {what}: {differs}")


def spread_tolerances(runs: pd.DataFrame) -> pd.Series:
    """How far a figure may move on another machine: 3 standard errors of a mean over seeds, from the spread over seeds
    of that study's and metric's figures, at least 0.005. Another processor rounds otherwise, which acts like another
    seed."""
    keys = ["dataset", "study", "metric"]
    spread = runs.groupby([*keys, "condition", "model", "view", "split"])["value"].std(ddof=1).groupby(keys).median()
    count = runs.groupby(keys)["seed"].nunique()
    return (3 * spread.fillna(0) * np.sqrt(2 / count)).clip(lower=0.005).rename("tolerance")


def verify() -> str:
    """Compares results/runs.csv with the committed one; means over seeds within the tolerances, or an error."""
    shown, path = told_by("git", "show", "HEAD:results/runs.csv"), project_root() / "results" / "runs.csv"
    if not shown or not path.is_file():
        raise SettingsError(f"results/runs.csv is {'missing; `make repro` makes it' if shown else 'not committed; nothing to compare with'}")
    keys = ["dataset", "study", "metric", "condition", "model", "view", "split"]
    try:
        committed, ours = (pd.read_csv(source, keep_default_na=False) for source in (StringIO("\n".join(shown)), path))
        means = [table[table["metric"].str.contains("@")].groupby(keys)["value"].mean() for table in (committed, ours)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"results/runs.csv is damaged ({error.__class__.__name__}); `git checkout results/runs.csv` brings it back") from None
    if not means[0].index.equals(means[1].index):
        raise SettingsError(f"the runs differ: {len(means[0])} committed figures, {len(means[1])} here; was params.yaml changed?")
    table = (means[1] - means[0]).abs().to_frame("difference").join(spread_tolerances(committed), on=["dataset", "study", "metric"])
    share = table["difference"] / table["tolerance"]
    worst = table.loc[share.idxmax()]
    where = ", ".join(filter(None, share.idxmax()))
    told = f"{len(table)} figures compared; largest difference {worst['difference']:.6f} of {worst['tolerance']:.6f} allowed ({where})"
    if beyond := int((share > 1).sum()):
        raise SettingsError(f"{beyond} of {told}")
    return told


def check_files(profile: str) -> None:
    """Refuses a study whose files are not there or have changed, and tells DVC, in build/raw, which files they are."""
    studies = load_settings(profile=profile).studies
    for name in dict.fromkeys((*studies.datasets, *(end for pair in studies.transfers.values() for end in (pair.source, pair.target)))):
        dataset = load_settings(profile=profile).datasets[name]
        told = {} if dataset.source == "planted" else checksums(name, dataset)
        write_whole(project_root() / "build" / "raw" / f"{name}.json", json.dumps(told, indent=1) + "\n")
    (project_root() / "build" / "07_cross_dataset").mkdir(parents=True, exist_ok=True)  # read by the report, also where there are no transfers


def choose(names: list[str]) -> str:
    """Writes which datasets are studied into params.yaml, and the transfers between those of one source, two ways a pair."""
    settings, path = load_settings(), project_root() / "params.yaml"
    known = {name: pick(settings.datasets, name, "dataset").source for name in dict.fromkeys(names)}
    pairs = [f"    {a}-to-{b}: {{source: {a}, target: {b}}}\n" for a in known for b in known if a != b and known[a] == known[b]]
    text = re.sub(r"(?m)^(  datasets: )\[[^\]]*\]", rf"\g<1>[{', '.join(known)}]", path.read_text("utf-8"), count=1)
    text = re.sub(r"(?m)^  transfers:.*\n(    .*\n)*", f"  transfers:{'' if pairs else ' {}'}\n{''.join(pairs)}", text, count=1)
    write_whole(trial := project_root() / "build" / "params.yaml", text)
    chosen = check_params(trial).studies
    if chosen.datasets != tuple(known) or len(chosen.transfers) != len(pairs):
        raise SettingsError("params.yaml: the lines `datasets:` and `transfers:` of `studies` are not where they were; set them by hand")
    os.replace(trial, path)
    return f"params.yaml: studies.datasets is now [{', '.join(known)}], with {len(pairs)} transfers; `git checkout params.yaml` undoes it"


def main(arguments: list[str] | None = None) -> int:
    """`python -m bivrec COMMAND`: source | run NOTEBOOK [KEY=VALUE ...] | notebooks | check [PROFILE] | verify |
    store | fetch DATASET [accept] | choose DATASET ... | summary PROFILE SINCE"""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["help"]
    try:
        if command == "source":
            write_sources()
            check_files("default")
        elif command == "run" and rest:
            share_among_processes([command, *rest])
            end_with_caller()
            run_notebook(rest[0], {key: typed(value) for key, _, value in (argument.partition("=") for argument in rest[1:])})
        elif command == "notebooks":
            refresh_notebooks()
        elif command == "check":
            pick(check_params().profiles, rest[0] if rest else "default", "profile")
            check_data()
            check_files(rest[0] if rest else "default")
        elif command == "fetch" and rest:
            print(fetch(rest[0], pick(check_params().datasets, rest[0], "dataset"), "accept" in rest[1:]))
        elif command == "choose" and rest:
            print(choose(rest))
        elif command == "summary" and len(rest) == 2:
            print(summary(*rest))
        elif command == "store":
            check_store()
        elif command == "verify":
            print(verify())
        else:
            print(main.__doc__)
            return 0 if command == "help" else 2
    except KeyboardInterrupt:
        print("interrupted; nothing was changed, `make repro` goes on from here", file=sys.stderr)
        return 130
    except (SettingsError, NotebookError, ValueError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        mend = "free some space there" if full else "make it one that you may read and write"
        print(f"ERROR: {error.filename or project_root()} cannot be read or written ({error.strerror or error}); {mend}, and run it again", file=sys.stderr)
        return 1
    return 0
