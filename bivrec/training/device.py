"""Where trainings run."""

import os

import torch

from bivrec.errors import SettingsError
from bivrec.settings import Machine
from bivrec.training.distributed import init_processes, num_processes


def choose_device(settings: Machine) -> torch.device:
    """The device that `machine.device` names; `auto` is a GPU if there is one, one for each process
    of a machine.

    Joins the processes that torchrun started. `machine.deterministic` makes a GPU repeat itself bit
    for bit, more slowly. Raises SettingsError if a GPU is named and there is none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "params.yaml: machine.device: 'cuda' is set, but PyTorch finds no GPU; "
            "set 'auto' or 'cpu'"
        )
    if settings.device == "cpu" or not torch.cuda.is_available():
        init_processes("gloo")
        return torch.device("cpu")
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    init_processes("nccl")
    return device


def num_workers(settings: Machine) -> int:
    """How many trainings run in parallel: `machine.num_workers`, or (0) one per core on a CPU and
    one on a GPU; one if several processes share each training.
    """
    default = 1 if choose_device(settings).type == "cuda" else len(os.sched_getaffinity(0))
    return 1 if num_processes() > 1 else settings.num_workers or default
