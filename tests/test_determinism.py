"""The same numbers again: whatever stands beside a model, whatever state the process is in, and, within tolerances, whatever
the number of threads and the instruction set."""

import ast
import itertools
import json
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.experiment.training import train_model, train_models
from bivrec.settings import load_settings
from bivrec.training.seeds import derive_seed

SHORT = {"training.num_steps": 12, "training.warmup_steps": 4, "training.evaluate_every": 6}
LONG = bool(
    os.environ.get("TRUST_RECORD")
)  # `make trust`: a whole training of planted, every set of instructions, figures kept
STEPS = 120 if LONG else 20
TOLERANCES = {
    "loss": 1e-5,
    "scores": 1e-3 if LONG else 1e-4,
    "ndcg@20": 0.005,
}  # of the largest value; the last one as `make verify` allows at least
OLDEST = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
WAYS = {"two threads": (2, {}), "the oldest instructions": (1, OLDEST)}
WAYS |= {name: (1, {"ATEN_CPU_CAPABILITY": name}) for name in ("default", "avx2", "avx512") if LONG}
WAYS |= {f"MKL {name}": (1, {"MKL_CBWR": name}) for name in ("COMPATIBLE", "AVX2") if LONG}
TRAIN = f"""
import json, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from bivrec.data.domain import Domain
from bivrec.experiment.training import train_model
domain = Domain("planted", {SHORT | {"training.num_steps": STEPS, "training.evaluate_every": STEPS // 2}!r})
trained = train_model(domain, "bivrec", 0)
curve = trained.record.curve
cases = domain.fold(0).test
scores = trained.model.score(cases.histories[:8])
told = {{
    "capability": torch.backends.cpu.get_cpu_capability(),
    "loss": curve.drop_duplicates("step")["loss"].tolist(),
    "ndcg@20": curve.loc[(curve["metric"] == "ndcg@20") & (curve["step"] == {STEPS}), "value"].tolist(),
    "scores": scores["both"].double().softmax(-1).sqrt().flatten().tolist(),
}}
print(json.dumps(told))
"""


def run(root, threads: int = 1, **environment: str) -> dict:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MKL_", "OMP_", "ATEN_"))
    }
    settings = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": str(root),
        **environment,
    }
    shown = subprocess.run(
        [sys.executable, "-c", TRAIN, str(threads)],
        capture_output=True,
        text=True,
        env=kept | settings,
        cwd=root,
    )
    assert shown.returncode == 0, shown.stderr[-500:]
    return json.loads(shown.stdout)


@pytest.fixture(scope="module")
def usual(root) -> dict:
    return run(root)


def test_two_processes_give_the_same_bits(root, usual):
    assert run(root) == usual


@pytest.mark.parametrize("way", WAYS)
def test_threads_and_instruction_sets_stay_within_tolerances(root, usual, way):
    threads, environment = WAYS[way]
    other, told = run(root, threads, **environment), {}
    for name, tolerance in TOLERANCES.items():
        ours, theirs = np.array(usual[name]), np.array(other[name])
        moved = float(np.abs(ours - theirs).max()) / (
            1 if name == "ndcg@20" else float(np.abs(ours).max())
        )
        told[name] = moved
        assert moved <= tolerance, f"{name} moved by {moved:.2e}"
    if LONG:
        with open(os.environ["TRUST_RECORD"], "a") as file:
            file.write(
                json.dumps({"way": way, "capability": other["capability"], "steps": STEPS, **told})
                + "\n"
            )


def test_a_model_beside_another_moves_none_of_its_numbers():
    alone = train_models(Domain("planted", SHORT), ["sasrec"])
    beside = train_models(
        Domain("planted", SHORT | {"machine.num_workers": 1}),
        ["popularity", "gru4rec", "pure-mm", "sasrec", "itemknn"],
    )
    ours, theirs = alone[0], next(trained for trained in beside if trained.name == "sasrec")
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours.model.state_dict().values(), theirs.model.state_dict().values())
    )
    assert ours.record.curve.drop(columns="seconds").equals(
        theirs.record.curve.drop(columns="seconds")
    )


def test_the_state_of_the_process_moves_nothing():
    first = train_model(Domain("planted", SHORT), "bivrec", 0)
    for number in (1, 2):
        random.seed(number), np.random.seed(number), torch.manual_seed(number)
        torch.rand(number)
    again = train_model(Domain("planted", SHORT), "bivrec", 0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.model.state_dict().values(), again.model.state_dict().values())
    )


def test_every_random_source_has_a_seed_of_its_own():
    settings = load_settings()
    models = [*settings.models, *settings.ablations]
    named = {
        (seed, *names)
        for seed in range(50)
        for names in [("batches",), ("adapt",), ("adapt", "noise"), ("adapt", "batches")]
    }
    named |= {
        (seed, name, what)
        for seed, name, what in itertools.product(range(50), models, ("weights", "noise"))
    }
    assert len({derive_seed(seed, *names) for seed, *names in named}) == len(named) > 3000


def test_no_random_source_is_without_a_seed(root):
    """The module draws from generators that were given a seed, or from PyTorch's after a seed was set."""
    for path in sorted((root / "bivrec").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"random", "secrets", "uuid"}, (
                    path.name
                )
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                allowed = (
                    called in ("np.random.Generator", "np.random.PCG64", "np.random.SFC64")
                    and node.args
                )
                assert allowed or not re.fullmatch(r"(np\.)?random\.\w+", called), (
                    f"{path.name}: {ast.unparse(node)}"
                )
