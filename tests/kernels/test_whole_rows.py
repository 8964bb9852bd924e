"""The fast forms for whole rows compute what the model's do."""

import numpy as np
import pytest
import torch

from bivrec.experiment.registry import build_model
from bivrec.kernels import whole_rows
from bivrec.model.attention import GaussianAttention
from bivrec.model.base import pad


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_fused_attention_is_the_models(causal):
    attention = GaussianAttention(dim=16, num_heads=2, kernel="rbf", max_length=12)
    torch.nn.init.normal_(attention.bias)
    x = torch.randn(5, 3, 12, 48)
    mask = torch.arange(12) >= torch.tensor([0, 1, 5, 11, 12])[:, None, None]  # the last: padding
    mask = mask.expand(5, 3, 12)
    wanted, found = attention.attend(x, mask, causal), whole_rows.attend(attention, x, mask, causal)
    assert found.isfinite().all()
    torch.testing.assert_close(found[mask], wanted[mask], rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["bivrec", "bivrec-one-target", "without-gaussian-attention"])
def test_rows_are_encoded_as_the_model_does(planted, name, fused, monkeypatch):
    used = []

    def record(form):
        def call(*inputs):
            used.append(form.__name__)
            return form(*inputs)

        return call

    if not fused:
        monkeypatch.setattr(whole_rows, "FUSED", "an_operator_that_this_torch_lacks")
    for form in (whole_rows.attend, whole_rows.pool_patches):
        monkeypatch.setattr(whole_rows, form.__name__, record(form))
    model = build_model(planted, name, 0).eval()
    for part in model.modules():
        if isinstance(part, GaussianAttention):
            torch.nn.init.normal_(part.bias)
    rows = pad([np.arange(length) for length in (1, 9, 24)], model.max_length, model.multiple)
    wanted = model.encode_rows(*rows, model.tables())
    assert not used
    found = whole_rows.encode_rows(model, *rows, model.tables())
    fused = fused and name != "without-gaussian-attention"
    assert {*used} == ({"attend", "pool_patches"} if fused else {"pool_patches"})
    assert not any({"attend", "pool_patches"} & vars(part).keys() for part in model.modules())
    is_patch = torch.cat(model.patch_masks(rows[1], every_prefix=False), 1)
    for view, parts in wanted.items():
        torch.testing.assert_close(found[view]["interests"], parts["interests"])
        torch.testing.assert_close(found[view]["logits"][is_patch], parts["logits"][is_patch])
