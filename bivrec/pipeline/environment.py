"""The environment of every kernel that the pipeline starts."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ENVIRONMENT = dict(
    # glibc keeps freed blocks below 32 MiB: fewer page faults in every training step
    MALLOC_MMAP_THRESHOLD_="33554432",
    MALLOC_TRIM_THRESHOLD_="100000000000",
    MALLOC_TOP_PAD_="67108864",
    # one thread per training: reproducible sums, and trainings run in parallel
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    PYTHONHASHSEED="0",
    PYTHONDONTWRITEBYTECODE="1",
    PYTHONWARNINGS="ignore::UserWarning",
    # offline and silent
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TRANSFORMERS_VERBOSITY="error",
    JUPYTER_PREFER_ENV_PATH="1",
    JUPYTER_PLATFORM_DIRS="1",
    PYDEVD_DISABLE_FILE_VALIDATION="1",
    # matplotlib's own defaults, whatever the reader's matplotlibrc says
    MATPLOTLIBRC=os.devnull,
)
CPU_INFO = Path("/proc/cpuinfo")
limited = os.environ.get("BIVREC_INSTRUCTIONS") != "native"
if limited and CPU_INFO.is_file() and " avx2 " in CPU_INFO.read_text("utf-8", "replace"):
    # newer x86 processors compute as older ones do, which brings their results nearer
    ENVIRONMENT |= dict(ATEN_CPU_CAPABILITY="avx2", MKL_CBWR="AVX2", ONEDNN_MAX_CPU_ISA="AVX2")


@contextmanager
def kernel_environment(folder: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """Sets the environment of a kernel while it runs. `folder` is the kernel's home: a kernel spec
    with this Python, and nothing of the reader's kernels, settings or startup scripts."""
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "metadata": {"supported_encryption": ["curve"]},
        "kernel_protocol_version": "5.5",
    }
    path = folder / "kernels" / "python3" / "kernel.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(spec), "utf-8")
    home = dict.fromkeys(
        ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"), str(folder)
    )
    home["JUPYTER_RUNTIME_DIR"] = str(folder / "runtime")
    empty = dict.fromkeys(("JUPYTER_CONFIG_PATH", "PYTHONSTARTUP", "MPLBACKEND"), "")
    former = dict(os.environ)
    os.environ.update(ENVIRONMENT | home | empty | variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(former)


def forget_git() -> None:
    """Removes git's variables from this process: in a hook they name another repository or index,
    which no git or DVC started from here may touch."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        del os.environ[name]
