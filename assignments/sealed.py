"""The sealed part of grading, started by grade.py: runs a submission's cells, then the tests.

It exchanges lines of JSON over two pipes. The tests arrive after the cells have run: first the
visible ones, whose messages are returned; then the hidden ones, which return only passed or failed.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import types
from pathlib import Path

LIST, READ, WRITE, OF_FILES = (
    0b1000,
    0b1101,
    0xFFFF,
    0b1100000000000111,
)  # Landlock's access rights as bits; the last: those that apply to files
WATCHED = (
    "builtins",
    "math",
    "numpy",
    "torch",
    "torch.nn.functional",
    "pandas",
    "pandas.testing",
)  # what the tests rely on, besides bivrec


class PastLimit(BaseException):
    """A cell or a test exceeded its time; not an Exception, so that few submissions catch it."""


def landlock_version() -> int:
    """The kernel's version of Landlock; below 1: none."""
    return (
        ctypes.CDLL(None, use_errno=True).syscall(444, None, ctypes.c_size_t(0), 1)
        if sys.platform == "linux"
        else 0
    )


def seal(listed: list[str], readable: list[str], writable: list[str]) -> None:
    """Restricts this process and its children for good.

    They write in `writable` only, read in `writable` and `readable` only (in `listed` they see
    names), and reach no network: Landlock blocks TCP, and a network namespace, where the kernel
    allows one, blocks everything."""
    libc, version = ctypes.CDLL(None, use_errno=True), landlock_version()
    known = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    handled = struct.pack("QQQ", known, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    ruleset = libc.syscall(
        444, handled, ctypes.c_size_t(8 if version < 4 else 16 if version < 6 else 24), 0
    )
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "Landlock refused the rules")
    for names, rights in ((listed, LIST), (readable, READ), (writable, WRITE)):
        for name in filter(os.path.exists, names):
            descriptor = os.open(name, os.O_PATH | os.O_CLOEXEC)
            allowed = rights & known & (0xFFFF if os.path.isdir(name) else OF_FILES)
            libc.syscall(445, ruleset, 1, struct.pack("=Qi", allowed, descriptor), 0)
            os.close(descriptor)
    libc.unshare(
        0x10000000 | 0x40000000
    )  # user and network namespace; if refused, only Landlock's TCP rule applies
    if libc.prctl(38, 1, 0, 0, 0) or libc.syscall(446, ruleset, 0):
        raise OSError(ctypes.get_errno(), "Landlock could not be enforced")
    os.close(ruleset)


def limit(memory: int, file_size: int, processor_seconds: int) -> None:
    """Sets the kernel's limits: memory of a process, size of a file, core dumps, CPU time."""
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (processor_seconds, processor_seconds + 2))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    Path("/proc/self/oom_score_adj").write_text(
        "1000"
    )  # if the machine runs out of memory, kill this first


def timed(seconds: float, work, *arguments):
    """The result of the work. Raises PastLimit after `seconds` of CPU time or four times as much
    wall time (the machine may be busy), and again every second."""

    def ring(*_):
        raise PastLimit(f"ran past {seconds:g} s")

    signal.signal(signal.SIGPROF, ring)
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1)
    signal.setitimer(signal.ITIMER_REAL, 4 * seconds, 1)
    try:
        return work(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def describe_error(error: BaseException | None) -> str:
    """An error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300] if error else ""


def read_cases(source: str) -> list[tuple[types.FunctionType, dict]]:
    """The cases of a test file of `otter assign`: functions and their configuration."""
    cases = []

    class Reader(types.ModuleType):
        @staticmethod
        def test_case(**config):
            return lambda function: cases.append((function, config))

    modules = {name: sys.modules.get(name) for name in ("otter", "otter.test_files")}
    sys.modules |= {
        "otter": types.ModuleType("otter"),
        "otter.test_files": Reader("otter.test_files"),
    }
    try:
        exec(compile(source, "<tests>", "exec"), {})
    finally:
        for name, module in modules.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})
    return cases


def run_case(function: types.FunctionType, names: dict) -> None:
    """Runs a test with the submission's names as arguments; a missing name is None."""
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    function(**{name: names.get(name) for name in wanted})


def run_tests(sources: dict[str, str], hidden: bool, names: dict, seconds: float) -> list[dict]:
    """Whether each visible or each hidden case passed; the visible ones with their message."""
    results = []
    for task, source in sources.items():
        for number, (function, about) in enumerate(read_cases(source)):
            if about["hidden"] != hidden:
                continue
            try:
                timed(seconds, run_case, function, names)
                failed = None
            except BaseException as error:
                failed = error
            message = (
                describe_error(failed)
                .removeprefix("AssertionError: ")
                .removeprefix("PastLimit: the code ")
            )
            results.append(
                {
                    "task": task,
                    "case": number,
                    "passed": failed is None,
                    "message": "" if hidden else message,
                }
            )
    return results


class Grader:
    """Replaces otter.Notebook in the notebook; the tests run later."""

    def __init__(self, *_, **__):
        pass

    def check(self, *_):
        return None

    check_all = export = check


def fingerprint() -> dict[str, object]:
    """The functions and classes, by name, of the libraries on which the tests rely."""
    modules = {
        name: module
        for name, module in list(sys.modules.items())
        if name in WATCHED or name.startswith("bivrec.")
    }
    return {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in vars(module).items()
        if callable(value)
    }


def altered(before: dict[str, object]) -> list[str]:
    """Names that the submission has replaced; a library (torch) may replace its own."""
    now = fingerprint()
    changed = (name for name, value in before.items() if now.get(name) is not value)
    return sorted(
        name
        for name in changed
        if (getattr(now.get(name), "__module__", "") or "").partition(".")[0]
        != name.partition(".")[0]
    )[:5]


def run_cells(notebook: dict, seconds: float, say) -> dict:
    """The notebook's names after all code cells, each bounded in time; errors go to `say`."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(
        config=Config(
            {"HistoryManager": {"enabled": False}, "InteractiveShell": {"colors": "nocolor"}}
        )
    )
    shell.showtraceback = shell.showsyntaxerror = lambda *_, **__: None
    sys.modules["otter"] = types.ModuleType("otter")
    sys.modules["otter"].Notebook = Grader
    for number, cell in enumerate(notebook["cells"], 1):
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        say({"at": number})
        try:
            ran = timed(seconds, lambda source=source: shell.run_cell(source, store_history=False))
            error = ran.error_before_exec or ran.error_in_exec
        except BaseException as raised:
            error = raised
        if error is not None:
            say({"cell": number, "error": describe_error(error)})
    return shell.user_ns


def main(given: str) -> None:
    settings = json.loads(given)
    hear, speak = os.fdopen(settings["hear"]), os.fdopen(settings["speak"], "w", buffering=1)
    token = hear.readline().strip()
    limit(settings["memory"], settings["file_size"], settings["processor_seconds"])
    if settings["sealed"]:
        seal(settings["listed"], settings["readable"], settings["writable"])
    notebook = json.loads(Path(settings["notebook"]).read_text())
    sys.path.insert(0, os.getcwd())
    for name in ("math", *settings["preload"]):
        __import__(name)
    before = fingerprint()

    def say(message: dict) -> None:
        speak.write(json.dumps(message | {"token": token}) + "\n")

    names = run_cells(notebook, settings["cell_seconds"], say)
    say({"ran": True, "altered": altered(before)})
    for hidden in (False, True):
        sources = json.loads(hear.readline())
        say(
            {"hidden": hidden, "cases": run_tests(sources, hidden, names, settings["test_seconds"])}
        )
    speak.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
