"""The sealed half of grading: one submission's cells, then its tests, in a process that can harm little. Started by grade.py.

It speaks in lines of JSON over two pipes. The tests arrive after the cells have run: first the visible ones, whose
messages go back; then the hidden ones, of which nothing but passed or failed goes back.
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
)  # Landlock's rights over files, a bit each; those a file can have
WATCHED = (
    "builtins",
    "math",
    "numpy",
    "torch",
    "torch.nn.functional",
    "pandas",
    "pandas.testing",
)  # what the tests rely on, beside bivrec


class PastLimit(BaseException):
    """A cell or a test ran past its seconds; not an Exception, so that few submissions catch it."""


def landlock_version() -> int:
    """Which version of Landlock the kernel knows; below 1 none."""
    return (
        ctypes.CDLL(None, use_errno=True).syscall(444, None, ctypes.c_size_t(0), 1)
        if sys.platform == "linux"
        else 0
    )


def seal(listed: list[str], readable: list[str], writable: list[str]) -> None:
    """From here on this process and its children write below `writable` only, read below it and `readable` only (below
    `listed` they see names), and reach no network: no TCP by Landlock, and nothing at all where the kernel lets a user have
    a network namespace."""
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
            place = os.open(name, os.O_PATH | os.O_CLOEXEC)
            allowed = rights & known & (0xFFFF if os.path.isdir(name) else OF_FILES)
            libc.syscall(445, ruleset, 1, struct.pack("=Qi", allowed, place), 0)
            os.close(place)
    libc.unshare(
        0x10000000 | 0x40000000
    )  # a user and a network namespace; refused, Landlock's rule on TCP stands alone
    if libc.prctl(38, 1, 0, 0, 0) or libc.syscall(446, ruleset, 0):
        raise OSError(ctypes.get_errno(), "Landlock could not be put in force")
    os.close(ruleset)


def limit(memory: int, file_size: int, processor_seconds: int) -> None:
    """What the kernel itself refuses: memory of a process, size of a file, core dumps; and how long a process computes."""
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
    )  # should the machine run out of memory, this goes first


def timed(seconds: float, work, *arguments):
    """The work's result, or PastLimit after so many seconds of the processor, or four times as many on the clock (the machine
    may be busy), and every second again."""

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


def told(error: BaseException | None) -> str:
    """An error in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300] if error else ""


def read_cases(source: str) -> list[tuple[types.FunctionType, dict]]:
    """The cases of a test file that `otter assign` wrote (`ok_format: false`): functions, and what their decorator says."""
    cases = []

    class Reader(types.ModuleType):
        @staticmethod
        def test_case(**told):
            return lambda function: cases.append((function, told))

    held = {name: sys.modules.get(name) for name in ("otter", "otter.test_files")}
    sys.modules |= {
        "otter": types.ModuleType("otter"),
        "otter.test_files": Reader("otter.test_files"),
    }
    try:
        exec(compile(source, "<tests>", "exec"), {})
    finally:
        for name, module in held.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})
    return cases


def run_case(function: types.FunctionType, names: dict) -> None:
    """A test with the submission's names for its parameters; a name that is missing is None."""
    wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
    function(**{name: names.get(name) for name in wanted})


def run_tests(sources: dict[str, str], hidden: bool, names: dict, seconds: float) -> list[dict]:
    """Every visible, or every hidden, case: whether it passed, and of a visible one its message."""
    found = []
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
                told(failed).removeprefix("AssertionError: ").removeprefix("PastLimit: the code ")
            )
            found.append(
                {
                    "task": task,
                    "case": number,
                    "passed": failed is None,
                    "message": "" if hidden else message,
                }
            )
    return found


class Grader:
    """Stands for otter in the notebook; the tests come later."""

    def check(self, *_):
        return None

    check_all = export = check


def fingerprint() -> dict[str, object]:
    """Which objects the libraries that tests rely on hold under which names."""
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
    """Names under which the submission has put other things; what a library puts there itself (torch does) is no alteration."""
    now = fingerprint()
    changed = (name for name, held in before.items() if now.get(name) is not held)
    return sorted(
        name
        for name in changed
        if (getattr(now.get(name), "__module__", "") or "").partition(".")[0]
        != name.partition(".")[0]
    )[:5]


def run_cells(notebook: dict, seconds: float, say) -> dict:
    """The notebook's names after all of its code cells, each bounded in time; what went wrong is said cell by cell."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(
        config=Config(
            {"HistoryManager": {"enabled": False}, "InteractiveShell": {"colors": "nocolor"}}
        )
    )
    shell.showtraceback = shell.showsyntaxerror = lambda *_, **__: None
    for number, cell in enumerate(notebook["cells"], 1):
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        if "otter.Notebook(" in source:
            shell.user_ns["grader"] = Grader()
            continue
        say({"at": number})
        try:
            ran = timed(seconds, lambda source=source: shell.run_cell(source, store_history=False))
            error = ran.error_before_exec or ran.error_in_exec
        except BaseException as raised:
            error = raised
        if error is not None:
            say({"cell": number, "error": told(error)})
    return shell.user_ns


def main(given: str) -> None:
    told_to = json.loads(given)
    hear, speak = os.fdopen(told_to["hear"]), os.fdopen(told_to["speak"], "w", buffering=1)
    token = hear.readline().strip()
    limit(told_to["memory"], told_to["file_size"], told_to["processor_seconds"])
    if told_to["sealed"]:
        seal(told_to["listed"], told_to["readable"], told_to["writable"])
    notebook = json.loads(Path(told_to["notebook"]).read_text())
    sys.path.insert(0, os.getcwd())
    for name in ("math", *told_to["preload"]):
        __import__(name)
    before = fingerprint()

    def say(message: dict) -> None:
        speak.write(json.dumps(message | {"token": token}) + "\n")

    names = run_cells(notebook, told_to["cell_seconds"], say)
    say({"ran": True, "altered": altered(before)})
    for hidden in (False, True):
        sources = json.loads(hear.readline())
        say({"hidden": hidden, "cases": run_tests(sources, hidden, names, told_to["test_seconds"])})
    speak.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
