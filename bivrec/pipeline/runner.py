"""A notebook run as a stage, in a separate kernel; its results replace the old ones at the end."""

import json
import logging
import os
import platform
import re
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import nbformat

from bivrec.errors import LeftOut, NotebookError
from bivrec.outputs import LEFT_OUT, write_atomically
from bivrec.pipeline.environment import kernel_environment
from bivrec.pipeline.notebooks import write_scrubbed, write_sources
from bivrec.pipeline.provenance import record_stage
from bivrec.settings import check_params, pick, profile_folder, project_root

UNTRAINED = ("01", "02", "08")  # notebooks that train nothing
NO_LOCKS = (
    "; jobs in parallel need a writable /dev/shm: make it so, or set machine.num_workers to 1 in "
    "params.yaml"
)
DATASETS = ("dataset", "source", "target")  # parameters that name one, in the order of a label
PLACES = ("results", "top", "build", "log")  # see outputs.output_folder


@contextmanager
def quiet_stderr(log: Path) -> Iterator[int]:
    """Sends what a kernel prints while it starts or stops to a file; errors inside cells come back
    separately. Yields the descriptor of the former stderr."""
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
    """A folder for one run, on the disk of the results; removes those of killed runs first."""
    build = project_root() / "build"
    build.mkdir(exist_ok=True)
    for left in build.glob(f".running-*-{platform.node()}-*"):  # another machine may share the disk
        if not Path("/proc", left.name.split("-")[1]).exists():
            shutil.rmtree(left, ignore_errors=True)
    prefix = f".running-{os.getpid()}-{platform.node()}-"
    with tempfile.TemporaryDirectory("", prefix, build, ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


def is_main_process() -> bool:
    """Of the processes of a machine, one saves the results, which are identical on all."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def run_kernel(
    source: Path, output: Path, parameters: Mapping[str, Any], folders: Mapping[str, str]
) -> None:
    """Executes one notebook in a kernel of its own, from the folder notebooks/.

    Raises LeftOut if a cell did, and NotebookError for a wrong parameter, a cell that fails and a
    kernel that dies or does not start."""
    import papermill
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # tasks of an interrupted run
    if not source.is_file():
        raise NotebookError(
            f"there is no notebook {source.name} in build/notebooks; `dvc repro source` fills it "
            "from notebooks/"
        )
    known = papermill.inspect_notebook(str(source))
    for name in sorted(parameters.keys() - known.keys()):
        raise NotebookError(f"{source.name} has no parameter {name!r}; it has {', '.join(known)}")
    root = str(project_root())
    variables = {"BIVREC_ROOT": root, "PYTHONPATH": root, **folders}
    with (
        kernel_environment(output.parent / "kernel", variables),
        quiet_stderr(output.with_suffix(".log")) as terminal,
        _one_sentence(),
    ):
        shown = os.isatty(terminal) and is_main_process()
        os.environ["BIVREC_TERMINAL"] = f"/proc/{os.getpid()}/fd/{terminal}" if shown else ""
        papermill.execute_notebook(
            str(source),
            str(output),
            dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            start_timeout=120,
            cwd=f"{root}/notebooks",
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        )


@contextmanager
def _one_sentence() -> Iterator[None]:
    """Turns what papermill raises into an error of ours, of one sentence."""
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError

    try:
        yield
    except PapermillExecutionError as error:
        if error.ename == "LeftOut":
            raise LeftOut(error.evalue) from None
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(error.evalue)).strip()
        first = text.splitlines()[0] if text else "no message"
        remedy = "; free some space there" if "No space left on device" in text else ""
        if error.ename in ("OSError", "PermissionError", "FileNotFoundError"):
            remedy = remedy if _can_lock() else NO_LOCKS
        message = f"cell {error.exec_count}: {error.ename}: {first}{remedy}"
    except DeadKernelError:
        message = (
            "the kernel died, most likely out of memory; lower machine.num_workers in params.yaml"
        )
    except (NoSuchKernel, RuntimeError) as error:
        name = error.__class__.__name__
        remedy = ".venv is damaged; `make clean setup` rebuilds it"
        message = f"no kernel could be started ({name}): {remedy}"
    else:
        return
    raise NotebookError(message)


def _can_lock() -> bool:
    """Whether processes of this machine can share locks, which on Linux lie in /dev/shm."""
    try:
        get_context("spawn").Lock()
    except OSError:
        return False
    return True


def leave_out(executed: Path, build: Path, reason: str) -> None:
    """Marks a study that its dataset has no features for: the notebook says so where it stopped,
    and the report skips the study."""
    notebook = nbformat.read(executed, as_version=4)
    tag = "papermill-error-cell-tag"
    notebook.cells = [cell for cell in notebook.cells if tag not in cell.metadata.get("tags", ())]
    text = nbformat.v4.new_output("stream", name="stdout", text=f"Left out: {reason}\n")
    for cell in notebook.cells:
        if any(output.output_type == "error" for output in cell.get("outputs", ())):
            cell.outputs = [text]
    nbformat.write(notebook, executed)
    write_atomically(build / LEFT_OUT, json.dumps({"left out": reason}, indent=1) + "\n")


def start_processes(command: list[str]) -> None:
    """Replaces this process by torchrun if BIVREC_TORCHRUN has its arguments: several processes, on
    one machine or many, run the same notebook and share the batches of its trainings."""
    options = os.environ.get("BIVREC_TORCHRUN")
    if options and "RANK" not in os.environ and not command[1].startswith(UNTRAINED):
        torchrun = [sys.executable, "-m", "torch.distributed.run", *shlex.split(options)]
        os.execv(sys.executable, [*torchrun, "-m", "bivrec", *command])


def _parent_of(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def _callers() -> list[int]:
    """The processes above this one: its parent, a shell or torchrun, and those above up to DVC."""
    line = [os.getppid()]
    for _ in range(2 if "RANK" in os.environ else 1):
        line.append(_parent_of(line[-1]))
    return line


def end_with_caller() -> None:
    """Ends this stage, and so its kernel, when the DVC that started it is killed alone (Linux)."""
    callers = _callers()

    def watch() -> None:
        while _callers() == callers:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if callers[-1] and "DVC_STAGE" in os.environ:
        threading.Thread(target=watch, daemon=True).start()


def _check_call(name: str, parameters: Mapping[str, Any]) -> tuple[str, str]:
    """The profile of a run, and its label: the datasets among its parameters."""
    settings = check_params()
    if not re.fullmatch(r"\w+", name):
        raise NotebookError(
            f"{name!r} is a path, not a notebook's name; give a name from the folder notebooks/, "
            f"such as 01_data_prep"
        )
    profile = str(parameters.get("profile", "default"))
    pick(settings.profiles, profile, "profile")
    changes = parameters.get("changes", {})
    if not isinstance(changes, dict):
        form = """'changes={"model.dim": 32}'"""
        raise NotebookError(f"changes is {changes!r}; give JSON with dotted keys, as in {form}")
    datasets = [str(parameters[key]) for key in DATASETS if key in parameters]
    for dataset in datasets:
        pick(settings.datasets, dataset, "dataset")
    return profile, "-".join(datasets) or "all"


def run_notebook(name: str, parameters: Mapping[str, Any]) -> None:
    """Runs a notebook as a stage of its profile. If it fails, the results stay as they were, the
    notebook up to there is saved in build/failed, and NotebookError is raised."""
    started, begun = time.perf_counter(), time.time()
    profile, label = _check_call(name, parameters)
    source = project_root() / "build" / "notebooks" / f"{name}.ipynb"
    partial = profile_folder("build/partial", profile) / name / label
    with running_folder() as temporary:
        folders = {place: temporary / place for place in PLACES}
        for folder in folders.values():
            folder.mkdir()
        variables = {f"BIVREC_{place.upper()}": str(path) for place, path in folders.items()}
        executed = temporary / f"{name}.ipynb"
        try:
            run_kernel(source, executed, parameters, variables | {"BIVREC_PARTIAL": str(partial)})
        except NotebookError as error:
            failed = profile_folder("build/failed", profile) / f"{name}-{label}.ipynb"
            raise NotebookError(f"{name} ({label}), {error}{_save(executed, failed)}") from None
        except LeftOut as error:
            leave_out(executed, folders["build"], str(error))
            print(f"{name} ({label}) is left out: {error}")
        if not is_main_process():
            return
        write_scrubbed(executed, folders["results"] / executed.name)
        put_in_place(folders, profile, f"{name}/{label}")
    remove_unused(partial, begun)
    record_stage(profile, f"{name}/{label}", time.perf_counter() - started)


def remove_unused(trainings: Path, begun: float) -> None:
    """Removes what a run that began then, in seconds since the epoch, neither wrote nor read."""
    for path in trainings.glob("*"):
        if path.stat().st_mtime < begun:
            path.unlink()


def _save(executed: Path, failed: Path) -> str:
    """Keeps a notebook that failed; returns the end of a sentence that says where."""
    if not (executed.is_file() and is_main_process()):
        return ""
    failed.parent.mkdir(parents=True, exist_ok=True)
    os.replace(executed, failed)
    return f"; the notebook up to there: {failed.relative_to(project_root())}"


def put_in_place(folders: Mapping[str, Path], profile: str, stage: str) -> None:
    """Moves what a run wrote to where it belongs; an empty log or results folder stays away."""
    results = profile_folder("results", profile)
    results.mkdir(parents=True, exist_ok=True)
    for path in folders["top"].iterdir():
        os.replace(path, results / path.name)
    for place, target in (("log", "build/log"), ("build", "build"), ("results", "results")):
        if place == "build" or any(folders[place].iterdir()):
            replace_folder(folders[place], profile_folder(target, profile) / stage)


def replace_folder(folder: Path, target: Path) -> None:
    """Swaps a finished folder for its predecessor, which goes with the folder of the run."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        os.replace(target, folder.with_name(f"{folder.name}-old"))
    os.replace(folder, target)


def refresh_notebooks() -> None:
    """Runs every notebook on its defaults and saves it with its outputs, for readers and nbval."""
    root = project_root()
    write_sources()
    for source in sorted((root / "build" / "notebooks").glob("*.ipynb")):
        with running_folder() as temporary:
            executed = temporary / source.name
            try:
                run_kernel(source, executed, {}, {})
            except NotebookError as error:
                raise NotebookError(f"{source.stem} (defaults), {error}") from None
            write_scrubbed(executed, root / "notebooks" / source.name)
