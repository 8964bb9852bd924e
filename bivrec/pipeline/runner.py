"""A notebook run as a stage."""

import json
import logging
import os
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
from pathlib import Path
from typing import Any

import nbformat

from bivrec.errors import LeftOut, NotebookError
from bivrec.outputs import LEFT_OUT, write_atomically
from bivrec.pipeline.environment import ENVIRONMENT
from bivrec.pipeline.notebooks import scrub, write_sources
from bivrec.pipeline.provenance import record_stage
from bivrec.settings import check_params, pick, profile_folder, project_root


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
    with tempfile.TemporaryDirectory(
        dir=build, prefix=f".running-{os.getpid()}-", ignore_cleanup_errors=True
    ) as temporary:
        yield Path(temporary)


def run_kernel(
    source: Path, output: Path, parameters: Mapping[str, Any], folders: Mapping[str, str]
) -> None:
    """Executes one notebook in a kernel of its own, from the folder notebooks/, with the pipeline's environment."""
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(
        logging.CRITICAL
    )  # an interrupted run leaves tasks behind, of which it would tell at length
    if not source.is_file():
        raise NotebookError(f"there is no notebook {source.name}; see the folder notebooks/")
    known = papermill.inspect_notebook(str(source))
    for name in sorted(parameters.keys() - known.keys()):
        raise NotebookError(f"{source.name} has no parameter {name!r}; it has {', '.join(known)}")
    os.environ.update(
        ENVIRONMENT
        | {"BIVREC_ROOT": str(project_root()), "PYTHONPATH": str(project_root()), **folders}
    )
    options = {
        "kernel_name": "python3",
        "progress_bar": False,
        "start_timeout": 120,
        "config": Config({"KernelManager": {"transport_encryption": "auto"}}),
    }
    try:
        with quiet_stderr(output.with_suffix(".log")) as terminal:
            os.environ["BIVREC_TERMINAL"] = (
                f"/proc/{os.getpid()}/fd/{terminal}"
                if os.isatty(terminal) and keeps_results()
                else ""
            )
            papermill.execute_notebook(
                str(source),
                str(output),
                dict(parameters),
                cwd=str(project_root() / "notebooks"),
                **options,
            )
    except papermill.PapermillExecutionError as error:
        if error.ename == "LeftOut":
            raise LeftOut(error.evalue) from None
        told = re.sub(r"\x1b\[[0-9;]*m", "", str(error.evalue)).strip().splitlines()
        mend = "; free some space there" if "No space left on device" in "".join(told) else ""
        raise NotebookError(
            f"cell {error.exec_count}: {error.ename}: {told[0] if told else 'no message'}{mend}"
        ) from None
    except DeadKernelError:
        raise NotebookError(
            "the kernel died, most likely out of memory; lower machine.num_workers in params.yaml"
        ) from None
    except (NoSuchKernel, RuntimeError) as error:
        raise NotebookError(
            f"no kernel could be started ({error.__class__.__name__}): .venv is damaged; `make clean setup` builds it anew"
        ) from None


def leave_out(executed: Path, build: Path, why: str) -> None:
    """A study that its dataset has no features for: the notebook says so where it stopped, and the report passes it over."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "papermill-error-cell-tag" not in cell.metadata.get("tags", ())
    ]
    for cell in notebook.cells:
        if any(output.output_type == "error" for output in cell.get("outputs", ())):
            cell.outputs = [
                nbformat.v4.new_output("stream", name="stdout", text=f"Left out: {why}\n")
            ]
    nbformat.write(notebook, executed)
    write_atomically(build / LEFT_OUT, json.dumps({"left out": why}, indent=1) + "\n")


def share_among_processes(command: list[str]) -> None:
    """Goes on as several processes, on one machine or many, where BIVREC_TORCHRUN has torchrun's arguments: each runs the
    same notebook, and trainings share their batches. Notebooks that train nothing run once."""
    if (
        (told := os.environ.get("BIVREC_TORCHRUN"))
        and "RANK" not in os.environ
        and not command[1].startswith(("01", "02", "08"))
    ):
        os.execv(
            sys.executable,
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                *shlex.split(told),
                "-m",
                "bivrec",
                *command,
            ],
        )


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
        raise NotebookError(
            f"{name!r} is no notebook's name but a path; name one of the folder notebooks/, as 01_data_prep"
        )
    profile, names = (
        str(parameters.get("profile", "default")),
        [v for k, v in parameters.items() if isinstance(v, str) and k != "profile"],
    )
    pick(settings.profiles, profile, "profile")
    for value in names:
        pick(settings.datasets, value, "dataset")
    label, results = "-".join(names) or "all", profile_folder("results", profile)
    results.mkdir(parents=True, exist_ok=True)
    with running_folder() as temporary:
        folders = {
            f"BIVREC_{place.upper()}": f"{temporary}/{place}"
            for place in ("results", "top", "build", "log")
        }
        for folder in folders.values():
            Path(folder).mkdir()
        folders["BIVREC_PARTIAL"] = str(
            partial := profile_folder("build/partial", profile) / name / label
        )
        output = temporary / f"{name}.ipynb"
        try:
            run_kernel(root / "build" / "notebooks" / f"{name}.ipynb", output, parameters, folders)
        except NotebookError as error:
            told, failed = (
                f"{name} ({label}), {error}",
                profile_folder("build/failed", profile) / f"{name}-{label}.ipynb",
            )
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
        write_atomically(
            temporary / "results" / f"{name}.ipynb",
            nbformat.writes(scrub(nbformat.read(output, as_version=4))) + "\n",
        )
        for path in (temporary / "top").iterdir():
            os.replace(path, results / path.name)
        for place, target in (("log", "build/log"), ("build", "build"), ("results", "results")):
            put_in_place(temporary / place, profile_folder(target, profile) / name / label)
    shutil.rmtree(partial, ignore_errors=True)
    record_stage(profile, f"{name}/{label}", time.perf_counter() - started)


def put_in_place(folder: Path, target: Path) -> None:
    """Swaps a finished folder for the one that stands there, which goes with the folder of the run."""
    if any(folder.iterdir()) or folder.name == "build":
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
            write_atomically(
                root / "notebooks" / source.name,
                nbformat.writes(scrub(nbformat.read(output, as_version=4))) + "\n",
            )
