"""What the reader has set for himself does not enter the results."""

import json
import os
import subprocess
import sys

import pytest
import torch
from papermill import PapermillExecutionError

from bivrec.errors import NotebookError
from bivrec.pipeline import runner
from bivrec.pipeline.cli import main
from bivrec.pipeline.environment import ENVIRONMENT

SURROUNDINGS = """import os, sys
import matplotlib
import matplotlib.pyplot as plt
plt.plot([1, 2])
print(sys.executable)
rc = matplotlib.rcParams
print(rc['text.usetex'], rc['figure.dpi'], 'inline' in plt.get_backend())
print('startup' in globals(), os.environ.get('PYTHONSTARTUP'))
plt.show()"""


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A home with kernels that fail, startup scripts, and a matplotlibrc."""
    home = tmp_path / "home"

    def write(name: str, text: str) -> str:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    spec = {"argv": ["/bin/false"], "display_name": "mine", "language": "python"}
    for data in ("jupyter", ".local/share/jupyter"):
        write(f"{data}/kernels/python3/kernel.json", json.dumps(spec))
    write("ipython/profile_default/startup/00.py", "startup = 1")
    write("ipython/profile_default/ipython_kernel_config.py", "get_config().a")
    startup = write("startup.py", "startup = 1")
    rc = write("matplotlibrc", "text.usetex: True\nfigure.dpi: 31\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("JUPYTER_PATH", str(home / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(home / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(home / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", startup)
    monkeypatch.setenv("MATPLOTLIBRC", rc)
    monkeypatch.setenv("MPLBACKEND", "svg")


@pytest.mark.slow
def test_the_readers_kernels_and_settings_do_not_run_the_study(small, reader):
    small(SURROUNDINGS)
    before = {name: text for name, text in os.environ.items() if name[:4] != "GIT_"}
    assert main(["run", "01_small", "dataset=planted"]) == 0
    assert dict(os.environ) == before
    stage = small.root / "results" / "01_small" / "planted" / "01_small.ipynb"
    outputs = json.loads(stage.read_text())["cells"][-1]["outputs"]
    (stream, figure) = outputs
    assert "".join(stream["text"]).splitlines() == [sys.executable, "False 100.0 True", "False "]
    assert "image/png" in figure["data"]
    assert not list((small.root / "build").glob(".running-*"))


def test_a_read_only_dev_shm_is_one_sentence(monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    context = type("Context", (), {"Lock": refuse})
    monkeypatch.setattr(runner, "get_context", lambda _: context())
    failed = PapermillExecutionError(4, 5, "", "OSError", "[Errno 30] Read-only file system", [])
    with pytest.raises(NotebookError, match="writable /dev/shm.*machine.num_workers to 1"):
        with runner._one_sentence():
            raise failed


@pytest.mark.slow
def test_stages_use_avx2_at_most():
    """On a processor that has it; then `training.precision: auto` is float32 too."""
    if not torch.cpu.get_capabilities().get("avx2"):
        pytest.skip("this processor has no AVX2")
    code = "import torch; from bivrec.kernels import bfloat16_is_native as native\n"
    code += "print(torch.backends.cpu.get_cpu_capability(), torch.cuda.is_available() or native())"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | ENVIRONMENT
    )
    assert shown.stdout.split()[0] == "AVX2" and ENVIRONMENT["MKL_CBWR"] == "AVX2"
    assert torch.cuda.is_available() or shown.stdout.split()[1] == "False"


def test_stages_may_use_every_instruction():
    code = "from bivrec.pipeline.environment import ENVIRONMENT; print(*ENVIRONMENT)"
    own = os.environ | {"BIVREC_INSTRUCTIONS": "native"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=own)
    assert "OMP_NUM_THREADS" in shown.stdout
    assert not {"ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA"} & set(shown.stdout.split())
