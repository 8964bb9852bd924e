"""The fused form of Gaussian attention computes what the model's does."""

import pytest
import torch

from bivrec.model.attention import GaussianAttention
from bivrec.portable.attention import attend, fused_attention


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_the_fused_form_is_the_models(causal):
    attention = GaussianAttention(dim=16, num_heads=2, kernel="rbf", max_length=12)
    torch.nn.init.normal_(attention.bias)
    x = torch.randn(5, 3, 12, 48)
    mask = torch.arange(12) >= torch.tensor([0, 1, 5, 11, 12])[:, None, None]  # the last: padding
    mask = mask.expand(5, 3, 12)
    wanted, found = attention.attend(x, mask, causal), attend(attention, x, mask, causal)
    assert found.isfinite().all()
    assert torch.allclose(wanted[mask], found[mask], rtol=1e-5, atol=1e-5)


def test_it_serves_only_within_and_only_its_kernel():
    kernels = [GaussianAttention(4, 1, kernel, 4) for kernel in ("rbf", "softmax")]
    model = torch.nn.ModuleList(kernels)
    with fused_attention(model):
        assert ["attend" in vars(part) for part in model] == [True, False]
    assert not any("attend" in vars(part) for part in model)
