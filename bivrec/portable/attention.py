"""Gaussian attention for lists of many users on a CPU: the values of `model.attention`, fused."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from bivrec.model.attention import GaussianAttention

NOTHING = -1e6  # in place of minus infinity: a row of padding alone stays finite


def attend(
    attention: GaussianAttention,
    projected: Float[Tensor, "batch residue patch projection"],
    mask: Bool[Tensor, "batch residue patch"],
    causal: bool,
) -> Float[Tensor, "batch residue patch dim"]:
    r"""`GaussianAttention.attend` for the kernel `rbf`, without a tensor of patches by patches.

    Fused attention gives the mean of the values and the logarithm of the weights' sum, whose
    product is the sum that an unnormalised kernel takes. $-\lVert k_j \rVert^2 / 2$ is one more
    number of each key. What stands at padding differs, and is not read."""
    heads = projected.unflatten(-1, (3, attention.num_heads, -1)).flatten(0, 1)
    query, key, value = heads.permute(2, 0, 3, 1, 4)  # row head patch dim
    num_patches, scale = query.shape[2], query.shape[-1] ** -0.5
    bias = attention.distance_bias(num_patches)
    if causal:
        bias = bias + bias.new_full((num_patches, num_patches), -torch.inf).triu(1)
    own = key.square().sum(-1, keepdim=True) / -2
    own = own.masked_fill(~mask.flatten(0, 1)[:, None, :, None], NOTHING)
    mean, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        pad(query, (0, 1), value=1.0),
        torch.cat([key, own], -1),
        pad(value, (0, 1)),
        attn_mask=bias.expand(len(query), -1, -1, -1),
        scale=scale,
    )
    total = (log_sum - query.square().sum(-1) * scale / 2).exp()
    mixed = mean[..., :-1] * total[..., None]
    return mixed.transpose(1, 2).flatten(2).unflatten(0, projected.shape[:2])


@contextmanager
def fused_attention(model: nn.Module) -> Iterator[None]:
    """Within it, the model attends by `attend` where that computes the same."""
    parts = [
        part
        for part in model.modules()
        if isinstance(part, GaussianAttention) and part.kernel == "rbf"
    ]
    parts = parts if parts and parts[0].out.weight.device.type == "cpu" else []
    for part in parts:
        part.attend = partial(attend, part)
    try:
        yield
    finally:
        for part in parts:
            del part.attend
