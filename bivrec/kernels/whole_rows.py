"""Interests after whole rows, for the lists of many users; fast form of `BivRec.encode_rows`."""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from bivrec.kernels.methods import replace_methods
from bivrec.model.attention import GaussianAttention
from bivrec.model.base import ItemRows, Mask, Tables
from bivrec.model.bivrec import BivRec, Encoded
from bivrec.model.clusters import ClusterAttention
from bivrec.model.embedding import PatchLayout

FUSED = "_scaled_dot_product_flash_attention_for_cpu"
PADDING = -1e6  # instead of minus infinity, which makes a row of padding alone NaN


def attend(
    attention: GaussianAttention,
    projected: Float[Tensor, "batch residue patch projection"],
    mask: Bool[Tensor, "batch residue patch"],
    causal: bool,
) -> Float[Tensor, "batch residue patch dim"]:
    r"""`GaussianAttention.attend` for the kernel `rbf`, without a tensor of patches by patches.

    Fused attention returns the weighted mean of the values and the logarithm of the weights' sum;
    their product is the sum that an unnormalised kernel takes. $-\lVert k_j \rVert^2 / 2$ becomes
    one more component of each key. The output at padding differs, and nothing reads it.
    """
    heads = projected.unflatten(-1, (3, attention.num_heads, -1)).flatten(0, 1)
    query, key, value = heads.permute(2, 0, 3, 1, 4)  # row head patch dim
    num_patches, scale = query.shape[2], query.shape[-1] ** -0.5
    bias = attention.distance_bias(num_patches)
    if causal:
        bias = bias + bias.new_full((num_patches, num_patches), -torch.inf).triu(1)
    square = key.square().sum(-1, keepdim=True) / -2
    square = square.masked_fill(~mask.flatten(0, 1)[:, None, :, None], PADDING)
    mean, log_sum = getattr(torch.ops.aten, FUSED)(
        pad(query, (0, 1), value=1.0),
        torch.cat([key, square], -1),
        pad(value, (0, 1)),
        attn_mask=bias[None],
        scale=scale,
    )
    total = (log_sum - query.square().sum(-1) * scale / 2).exp()
    mixed = mean[..., :-1] * total[..., None]
    return mixed.transpose(1, 2).flatten(2).unflatten(0, projected.shape[:2])


def pool_patches(
    shares: Float[Tensor, "batch patch interest"],
    values: Float[Tensor, "batch patch dim"],
    layout: PatchLayout,
) -> Float[Tensor, "batch 1 interest dim"]:
    """`ClusterAttention.pool_patches` for a row that owns all of its patches: no other prefixes."""
    return (shares.transpose(1, 2) @ values / (1 + shares.sum(1)[..., None]))[:, None]


def encode_rows(model: BivRec, items: ItemRows, mask: Mask, tables: Tables) -> Encoded:
    """As `BivRec.encode_rows`, without a gradient; fused attention serves `rbf` on a CPU only."""
    forms = {}
    for part in model.modules():
        if isinstance(part, ClusterAttention):
            forms[part] = "pool_patches", pool_patches
        elif isinstance(part, GaussianAttention) and part.kernel == "rbf":
            if part.out.weight.device.type == "cpu" and hasattr(torch.ops.aten, FUSED):
                forms[part] = "attend", partial(attend, part)
    with replace_methods(forms):
        return model.encode_rows(items, mask, tables)
