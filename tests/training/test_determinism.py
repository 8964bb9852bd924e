"""The same bits in another process, and within tolerances whatever the number of threads and the
instruction set.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

# `make trust`: a whole training of planted, every instruction set, results recorded
LONG = bool(os.environ.get("TRUST_RECORD"))
STEPS = 120 if LONG else 20
CHANGES = {
    "training.num_steps": STEPS,
    "training.warmup_steps": 4,
    "training.evaluate_every": STEPS // 2,
}
# relative to the largest value; ndcg@20 absolute
TOLERANCES = {"loss": 1e-5, "scores": 1e-3 if LONG else 1e-4, "ndcg@20": 0.005}
OLDEST = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
WAYS = {"two threads": (2, {}), "the oldest instructions": (1, OLDEST)}
if LONG:
    WAYS |= {name: (1, {"ATEN_CPU_CAPABILITY": name}) for name in ("default", "avx2", "avx512")}
    WAYS |= {f"MKL {name}": (1, {"MKL_CBWR": name}) for name in ("COMPATIBLE", "AVX2")}
TRAIN = f"""
import json, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from bivrec.data.domain import Domain
from bivrec.experiment.training import train_model
domain = Domain("planted", {CHANGES!r})
trained = train_model(domain, "bivrec", 0)
curve = trained.record.curve
last = curve[(curve["metric"] == "ndcg@20") & (curve["step"] == {STEPS})]
scores = trained.model.score(domain.fold(0).test.histories[:8])["both"].double()
print(json.dumps({{
    "capability": torch.backends.cpu.get_cpu_capability(),
    "loss": curve.drop_duplicates("step")["loss"].tolist(),
    "ndcg@20": last["value"].tolist(),
    "scores": scores.softmax(-1).sqrt().flatten().tolist(),
}}))
"""


def train(root, threads: int = 1, **environment: str) -> dict:
    """Loss, metric and scores of a training in a process of its own."""
    ours = ("MKL_", "OMP_", "ATEN_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    counts = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    ran = subprocess.run(
        [sys.executable, "-c", TRAIN, str(threads)],
        capture_output=True,
        text=True,
        env=clean | counts | {"PYTHONPATH": str(root)} | environment,
        cwd=root,
    )
    assert ran.returncode == 0, ran.stderr[-500:]
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def usual(root) -> dict:
    return train(root)


def test_two_processes_give_the_same_bits(root, usual):
    assert train(root) == usual


@pytest.mark.parametrize("way", WAYS)
def test_threads_and_instruction_sets_stay_within_tolerances(root, usual, way):
    threads, environment = WAYS[way]
    other, moved = train(root, threads, **environment), {}
    for name, tolerance in TOLERANCES.items():
        ours, theirs = np.array(usual[name]), np.array(other[name])
        scale = 1 if name == "ndcg@20" else float(np.abs(ours).max())
        moved[name] = float(np.abs(ours - theirs).max()) / scale
        assert moved[name] <= tolerance, f"{name} moved by {moved[name]:.2e}"
    if LONG:
        row = {"way": way, "capability": other["capability"], "steps": STEPS, **moved}
        with open(os.environ["TRUST_RECORD"], "a") as file:
            file.write(json.dumps(row) + "\n")
