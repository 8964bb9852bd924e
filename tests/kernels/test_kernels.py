"""Which forms run, and that a training does not depend on it."""

import re

import pytest
import torch

from bivrec.data.domain import Domain
from bivrec.evaluation import mean_metrics, rank_cases
from bivrec.experiment.registry import build_model
from bivrec.experiment.training import train_model
from bivrec.kernels import choose_dtype
from bivrec.model import losses

MACHINERY = re.compile(
    r"autograd\.Function|torch\.distributed|cuda|autocast|torch\.float|bfloat16|\.half\("
)


def test_a_named_precision_is_used():
    assert choose_dtype("float32") is torch.float32
    assert choose_dtype("bfloat16") is torch.bfloat16


@pytest.mark.parametrize(
    ("capabilities", "used", "dtype"),
    [
        ({"avx512_bf16": True}, "AVX512", torch.bfloat16),
        ({"amx_bf16": True}, "AVX512", torch.bfloat16),
        ({"amx_bf16": True}, "AVX2", torch.float32),  # as in a stage
        ({"avx2": True, "avx512_bf16": False}, "AVX2", torch.float32),
        ({"avx2": True, "avx512_bf16": False}, "AVX512", torch.float32),
    ],
)
def test_bfloat16_where_a_cpu_has_it(monkeypatch, capabilities, used, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
    assert choose_dtype("auto") is dtype


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_bfloat16_where_a_gpu_has_it(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert choose_dtype("auto") is dtype


@pytest.mark.parametrize("name", ["bivrec", "sasrec-sum"])
def test_the_setting_chooses_the_forms(name):
    for kernels, is_reference in (("reference", True), ("fast", False)):
        model = build_model(Domain("planted", {"machine.kernels": kernels}), name, 0)
        for part in (model, *getattr(model, "parts", {}).values()):
            assert (part.interest_softmax is losses.interest_softmax) == is_reference


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bivrec", "sasrec"])
def test_both_forms_train_the_same_model(name):
    """Sums are taken in another order, and training amplifies the difference of their rounding.

    Every interest receives the newest patch here. Where its owners alone receive it, a rounding
    that sends one patch to another interest changes what follows.
    """
    found = []
    for kernels in ("reference", "fast"):
        domain = Domain("planted", {"machine.kernels": kernels, "model.newest": "all"})
        trained = train_model(domain, name, 0)
        fold = domain.fold(0)
        metrics = [mean_metrics(rank_cases(trained.model, x)) for x in (fold.validation, fold.test)]
        ndcg = [x.loc[x["metric"] == "ndcg@20", "value"].to_numpy() for x in metrics]
        found.append((ndcg, trained.record.curve["loss"].iloc[-1]))
    (ndcg, loss), (fast_ndcg, fast_loss) = found
    assert fast_loss == pytest.approx(loss, abs=2e-4)
    for reference, fast in zip(ndcg, fast_ndcg):
        assert fast == pytest.approx(reference, abs=3e-3)


def test_the_model_room_holds_no_machinery(root):
    """No manual gradients, processes, CUDA or precision: `kernels` and `training` hold those."""
    for path in sorted((root / "bivrec" / "model").glob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not MACHINERY.search(line), f"{path.name}:{number}: {line.strip()}"
