"""Several processes share a batch, and train what one would: by torchrun, as a user starts them."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from shared_steps import CASES


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """What one process found, and what each of two did."""
    folder = tmp_path_factory.mktemp("processes")
    alone = [sys.executable, "tests/shared_steps.py", str(folder)]
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *alone[1:]]
    for command in (alone, together):
        shown = subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)})
        assert shown.returncode == 0, shown.stderr[-3000:]
    return {name: load_file(folder / f"{name}.safetensors") for name in ("0-of-1", "0-of-2", "1-of-2")}


@pytest.mark.parametrize("case", CASES)
def test_the_same_loss_as_one_process(trained, case):
    """Same global batch, same loss within 1e-5, step after step; so the gradients were the same too."""
    alone, first, second = (found[f"{case}/losses"] for found in trained.values())
    assert alone.std() > 1e-4  # the steps did something
    assert torch.allclose(first, alone, rtol=0, atol=1e-5) and torch.equal(first, second)
    weights = [found[f"{case}/weights"] for found in trained.values()]
    assert torch.allclose(weights[1], weights[0], rtol=0, atol=1e-5) and torch.equal(weights[1], weights[2])


def test_a_whole_training_ends_alike_everywhere(trained):
    """With dropout and noise, each process's own: the same weights on all, another course than one process's."""
    alone, first, second = (found["fit/weights"] for found in trained.values())
    assert torch.equal(first, second) and not torch.equal(first, alone)
    assert trained["0-of-2"]["fit/first"].isfinite()
