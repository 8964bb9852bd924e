"""Jobs side by side, one process and one thread each."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from bivrec.data.domain import Domain
from bivrec.outputs import progress
from bivrec.training.device import num_workers


def _begin_worker() -> None:
    """One thread and no bars; and the worker ends when the notebook's kernel does, however that ended."""
    os.environ["BIVREC_TERMINAL"] = ""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def run_jobs(work: Callable, jobs: Sequence, domain: Domain) -> list:
    """The jobs' results in order, one job a process and one thread each; with one worker, here."""
    torch.set_num_threads(1)
    workers = min(num_workers(domain.settings.machine), len(jobs))
    told = work.__name__.strip("_").removesuffix("_work")
    if workers < 2:
        return [work(job) for job in progress(jobs, told, "jobs")]
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_begin_worker
    ) as pool:
        return list(progress(pool.map(work, jobs), told, "jobs", len(jobs)))
