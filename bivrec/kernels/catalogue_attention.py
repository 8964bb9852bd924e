"""The recommendation loss by PyTorch's fused attention on a GPU.

The fast form of `losses.interest_softmax` there: interests attend to the catalogue, and no score
reaches memory. `benchmarks/h200.json` holds its speed (`softmax`: the loss of 65,536 rows over
59,047 items).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

GROUP = 4096  # interests that attend together: enough to occupy the device with a small catalogue


def is_supported(interests: Tensor, dtype: torch.dtype) -> bool:
    """Whether the device has fused attention for these interests."""
    if not (interests.is_cuda and dtype == torch.bfloat16 and interests.shape[-1] % 8 == 0):
        return False
    ops = ("_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_backward")
    return torch.cuda.get_device_capability() >= (8, 0) and all(
        hasattr(torch.ops.aten, name) for name in ops
    )


class CatalogueSoftmax(torch.autograd.Function):
    r"""Loss and gradient of `losses.interest_softmax` over the full catalogue.

    Beside its output, fused attention gives $\log Z$ of each interest, and the output, a mean of
    items, is that number's gradient. The table's gradient is what the kernel's backward pass
    returns to its values when the upstream gradient is the interests themselves, each weighted by
    its part of the row's $Z$.
    """

    @staticmethod
    def forward(ctx, interests, table, targets, dtype):
        num_rows, num_interests, dim = interests.shape
        wanted = table[targets][:, None]
        target_scores = (interests * wanted).sum(-1)
        shares = target_scores.softmax(1)[..., None]

        def grouped(x: Tensor) -> Tensor:
            flat = x.flatten(0, 1).to(dtype)
            return pad(flat, (0, 0, 0, -len(flat) % GROUP)).view(-1, 1, GROUP, dim)

        query = grouped(interests)
        key = table.to(dtype).expand(len(query), 1, -1, -1)
        output, log_sums, backward = attend(query, key)
        log_sums = log_sums.flatten()[: num_rows * num_interests].view(num_rows, num_interests)
        log_total = log_sums.logsumexp(1)
        part = (log_sums - log_total[:, None]).exp()[..., None]
        means = output.flatten(0, 2)[: num_rows * num_interests].view(interests.shape)
        table_grad = backward(grouped(part * interests)).sum((0, 1), dtype=table.dtype)
        table_grad.index_add_(0, targets, (shares * interests).sum(1), alpha=-1)
        ctx.save_for_backward(means * part - shares * wanted, table_grad)
        ctx.scale = 1 / max(1, num_rows)
        return (log_total - target_scores.logsumexp(1)).sum() * ctx.scale

    @staticmethod
    def backward(ctx, upstream):
        interests_grad, table_grad = (x * (upstream * ctx.scale) for x in ctx.saved_tensors)
        return interests_grad, table_grad, None, None


def attend(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Callable]:
    """Attention whose values are its keys: output, log-sums, and the gradient of the values.

    The CPU form serves the tests, so that the arithmetic is checked without a GPU.
    """
    aten, exact = torch.ops.aten, {"scale": 1.0}
    if not query.is_cuda:
        forward = aten._scaled_dot_product_flash_attention_for_cpu
        output, log_sums = forward(query, key, key, **exact)
        backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
        inputs = (query, key, key, output, log_sums, 0.0, False)
        return output, log_sums, lambda upstream: backward(upstream, *inputs, **exact)[2]
    forward = aten._scaled_dot_product_flash_attention
    output, log_sums, *context, seed, offset, _ = forward(query, key, key, **exact)
    backward = aten._scaled_dot_product_flash_attention_backward
    inputs = (query, key, key, output, log_sums, *context, 0.0, False, seed, offset)
    return output, log_sums, lambda upstream: backward(upstream, *inputs, **exact)[2]


def catalogue_softmax(
    interests: Tensor, table: Tensor, targets: Tensor, dtype: torch.dtype
) -> Tensor:
    """As `losses.interest_softmax` with the full catalogue; `dtype` is that of the products."""
    return CatalogueSoftmax.apply(interests, table, targets, dtype)
