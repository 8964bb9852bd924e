"""The scores of a model under ONNX Runtime are those of PyTorch."""

import os
import subprocess
import sys

import numpy as np
import pytest

from bivrec.errors import DataError
from bivrec.model.base import pad
from bivrec.portable.folder import export, load
from bivrec.portable.graph import export_onnx

ROWS = ((5, 11, 9), (1,), (24, 3, 3, 17), (2, 2, 30))  # lengths of the histories of a batch


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bivrec", "sasrec", "sasrec-sum"])
def test_onnx_scores_the_same(untrained, name, tmp_path, generator):
    """The export runs by itself: the tests' checks of shapes cannot be traced."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = untrained(name)
    export(model, tmp_path / "taken")
    command = [sys.executable, "-m", "bivrec", "export", "taken", "again", "--onnx"]
    here = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    session = runtime.InferenceSession(tmp_path / "again" / "model.onnx")
    network = model.trained.model
    for lengths in ROWS:
        histories = [generator.integers(0, len(model.items), length) for length in lengths]
        items, mask = pad(histories, network.max_length, network.multiple)
        wanted = network.score(histories)
        assert [output.name for output in session.get_outputs()] == [*wanted]
        found = session.run(None, {"items": items.numpy(), "mask": mask.numpy()})
        for view, scores in zip(wanted, found):
            assert np.abs(wanted[view].numpy() - scores).max() <= 1e-5, (view, lengths)


def test_a_missing_package_or_model_is_named(bivrec, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="popularity has no weights"):
        export_onnx(load("planted", "popularity"), tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DataError, match=r"onnx and onnxscript; `make \.venv/onnx`"):
        export_onnx(bivrec, tmp_path / "model.onnx")
