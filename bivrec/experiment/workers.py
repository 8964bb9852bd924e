"""Jobs in parallel, one process and one thread each."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from bivrec.data.domain import Domain
from bivrec.experiment.own import load_classes, loaded_families
from bivrec.outputs import progress
from bivrec.training.device import num_workers

PR_SET_PDEATHSIG = 1  # of prctl(2): the signal that this process gets when its parent ends


def _begin_worker(families: list[str]) -> None:
    """One thread, no progress bars, the models of one's own that the caller has loaded; the worker
    ends when the notebook's kernel does, however that ends.
    """
    os.environ["BIVREC_TERMINAL"] = ""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    load_classes(families)


def run_jobs(work: Callable, jobs: Sequence, domain: Domain) -> list:
    """The jobs' results in order; one worker means this process."""
    torch.set_num_threads(1)
    workers = min(num_workers(domain.settings.machine), len(jobs))
    label = work.__name__.strip("_").removesuffix("_work")
    if workers < 2:
        return [work(job) for job in progress(jobs, label, "jobs")]
    context = get_context("spawn")
    begin = {"initializer": _begin_worker, "initargs": (loaded_families(),)}
    with ProcessPoolExecutor(workers, context, **begin) as pool:
        return list(progress(pool.map(work, jobs), label, "jobs", len(jobs)))
