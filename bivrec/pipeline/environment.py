"""The environment of every kernel that the pipeline starts."""

import os

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
)


def forget_git() -> None:
    """Removes git's variables from this process: in a hook they name another repository or index,
    which no git or DVC started from here may touch."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        del os.environ[name]
