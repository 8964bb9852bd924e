"""Several processes share a batch, and train what one would: by torchrun, as a user starts them."""

import json
import os
import subprocess
import sys

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from safetensors.torch import load_file
from shared_steps import CASES

STAGE = """from bivrec.data.domain import Domain
from bivrec.experiment.training import train_models
from bivrec.training.distributed import num_processes
from bivrec.outputs import save_output
trained = train_models(Domain(dataset, changes={"training.num_steps": 10, "machine.num_workers": 2}), ["bivrec"], [0, 1])
save_output({"processes": num_processes(), "steps": int(trained[1].record.curve["step"].max())}, "found.json")"""


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """What one process found, and what each of two did."""
    folder = tmp_path_factory.mktemp("processes")
    alone = [sys.executable, "tests/shared_steps.py", str(folder)]
    together = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *alone[1:],
    ]
    for command in (alone, together):
        shown = subprocess.run(
            command,
            cwd=root,
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
        )
        assert shown.returncode == 0, shown.stderr[-3000:]
    return {
        name: load_file(folder / f"{name}.safetensors") for name in ("0-of-1", "0-of-2", "1-of-2")
    }


@pytest.mark.parametrize("case", CASES)
def test_the_same_loss_as_one_process(trained, case):
    """Same global batch, same loss within 1e-5, step after step; so the gradients were the same too."""
    alone, first, second = (found[f"{case}/losses"] for found in trained.values())
    assert alone.std() > 1e-4  # the steps did something
    assert torch.allclose(first, alone, rtol=0, atol=1e-5) and torch.equal(first, second)
    weights = [found[f"{case}/weights"] for found in trained.values()]
    assert torch.allclose(weights[1], weights[0], rtol=0, atol=1e-5) and torch.equal(
        weights[1], weights[2]
    )


def test_a_whole_training_ends_alike_everywhere(trained):
    """With dropout and noise, each process's own: the same weights on all, another course than one process's."""
    alone, first, second = (found["fit/weights"] for found in trained.values())
    assert torch.equal(first, second) and not torch.equal(first, alone)
    assert trained["0-of-2"]["fit/first"].isfinite()


def test_a_stage_in_two_processes(root, tmp_path):
    """The same notebook in each, and one of them keeps what both found."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "bivrec").symlink_to(root / "bivrec")
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    cells = [
        new_code_cell('dataset = "planted"', metadata={"tags": ["parameters"]}),
        new_code_cell(STAGE),
    ]
    nbformat.write(
        new_notebook(
            cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "x"}}
        ),
        tmp_path / "notebooks/03_small.ipynb",
    )
    told = {
        "BIVREC_ROOT": str(tmp_path),
        "PYTHONPATH": str(root),
        "BIVREC_TORCHRUN": "--standalone --nproc-per-node 2",
    }
    sources = ["-c", "from bivrec.pipeline.notebooks import write_sources; write_sources()"]
    for command in (sources, ["-m", "bivrec", "run", "03_small", "dataset=planted"]):
        shown = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=os.environ | told,
            capture_output=True,
            text=True,
        )
        assert shown.returncode == 0, shown.stderr[-3000:]
    kept = json.loads((tmp_path / "results/03_small/planted/found.json").read_text())
    assert kept["processes"] == 2 and kept["steps"] == 10
    assert (
        json.loads((tmp_path / "build/log/provenance.json").read_text())["made by"][0]["processes"]
        == 2
    )
    assert not list((tmp_path / "build").glob(".running-*"))
