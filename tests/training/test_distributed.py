"""Several processes share a batch, and train what one would: by torchrun, as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from safetensors.torch import load_file
from shared_steps import CASES

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
STEPS = str(Path(__file__).with_name("shared_steps.py"))
STAGE = """from bivrec.data.domain import Domain
from bivrec.experiment.training import train_models
from bivrec.training.distributed import num_processes
from bivrec.outputs import save_output
changes = {"training.num_steps": 10, "machine.num_workers": 2}
trained = train_models(Domain(dataset, changes), ["bivrec"], [0, 1])
steps = int(trained[1].record.curve["step"].max())
save_output({"processes": num_processes(), "steps": steps}, "result.json")"""


def run(*command: str, cwd: Path, **environment: str) -> None:
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.fixture(scope="module")
def results(root, tmp_path_factory):
    """The losses and weights of one process, and of each of two."""
    folder = tmp_path_factory.mktemp("processes")
    for launcher in ([], TORCHRUN):
        command = [*launcher, STEPS, str(folder)]
        run(*command, cwd=root, OMP_NUM_THREADS="1", PYTHONPATH=str(root))
    return [load_file(folder / f"{name}.safetensors") for name in ("0-of-1", "0-of-2", "1-of-2")]


@pytest.mark.parametrize("case", CASES)
def test_the_same_loss_as_one_process(results, case):
    """Same global batch, same loss within 1e-5, step after step; so the gradients were the same
    too.
    """
    alone, first, second = (result[f"{case}/losses"] for result in results)
    assert alone.std() > 1e-4  # the steps did something
    assert torch.allclose(first, alone, rtol=0, atol=1e-5) and torch.equal(first, second)
    alone, first, second = (result[f"{case}/weights"] for result in results)
    assert torch.allclose(first, alone, rtol=0, atol=1e-5) and torch.equal(first, second)


def test_a_whole_training_ends_with_the_same_weights_everywhere(results):
    """With dropout and noise, which each process draws for itself: other weights than one
    process's.
    """
    alone, first, second = (result["fit/weights"] for result in results)
    assert torch.equal(first, second) and not torch.equal(first, alone)
    assert results[1]["fit/first"].isfinite()


def test_a_stage_in_two_processes(root, tmp_path):
    """The same notebook runs in each, and one of them saves what both computed."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "bivrec").symlink_to(root / "bivrec")
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    parameters = new_code_cell('dataset = "planted"', metadata={"tags": ["parameters"]})
    kernel = {"kernelspec": {"name": "python3", "display_name": "x"}}
    notebook = new_notebook(cells=[parameters, new_code_cell(STAGE)], metadata=kernel)
    nbformat.write(notebook, tmp_path / "notebooks/03_small.ipynb")
    sources = ["-c", "from bivrec.pipeline.notebooks import write_sources; write_sources()"]
    for command in (sources, ["-m", "bivrec", "run", "03_small", "dataset=planted"]):
        run(
            *command,
            cwd=tmp_path,
            BIVREC_ROOT=str(tmp_path),
            PYTHONPATH=str(root),
            BIVREC_TORCHRUN="--standalone --nproc-per-node 2",
        )
    result = json.loads((tmp_path / "results/03_small/planted/result.json").read_text())
    assert result == {"processes": 2, "steps": 10}
    provenance = json.loads((tmp_path / "build/log/provenance.json").read_text())
    assert provenance["made by"][0]["processes"] == 2
    assert not list((tmp_path / "build").glob(".running-*"))
