"""Fast forms of functions in `model/`, equal to them up to rounding (to bfloat16 where
`training.precision` chooses it).

`benchmarks/kernels.csv` (CPU) and `benchmarks/h200.json` (GPU) hold the times with and without.
"""

from functools import partial

import torch
from torch import nn

from bivrec.kernels.interest_softmax import interest_softmax
from bivrec.model.base import SequentialModel


def bfloat16_is_native() -> bool:
    """Whether the GPU (without a GPU, the processor) multiplies bfloat16 in hardware. False on an
    x86 processor restricted to AVX2, as in every pipeline stage."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_dtype(precision: str) -> torch.dtype:
    """The dtype of products over the catalogue: as named, or for `auto` bfloat16 where native."""
    if precision == "auto":
        precision = "bfloat16" if bfloat16_is_native() else "float32"
    return getattr(torch, precision)


def use_fast(model: nn.Module, precision: str) -> None:
    """Replaces the reference forms in a model and its parts (`machine.kernels: fast`)."""
    fast = partial(interest_softmax, dtype=choose_dtype(precision))
    for module in model.modules():
        if isinstance(module, SequentialModel):
            module.interest_softmax = fast
