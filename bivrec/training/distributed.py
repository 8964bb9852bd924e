"""Processes: under torchrun several share each batch, on one machine or many. Each encodes its rows; contrasts see them all."""

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor


def join_processes(way: str) -> None:
    """Meets the other processes that torchrun started, if it started any; a second time it does nothing."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group(way)


def num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def place() -> int:
    """This process's number among them, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_rows(count: int) -> slice:
    """This process's share of a batch's rows: neighbours, as many for each as can be."""
    return slice(count * place() // num_processes(), count * (place() + 1) // num_processes())


class _Gather(torch.autograd.Function):
    """Each process's rows at their places in a whole that all then hold; the gradient of a row is the sum over all."""

    @staticmethod
    def forward(ctx, rows, places, count):
        ctx.places = places
        whole = rows.new_zeros(count, *rows.shape[1:])
        whole[places] = rows
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx, upstream):
        whole = upstream.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(whole)
        return whole[ctx.places], None, None


def gather(
    rows: Float[Tensor, "own *shape"], count: int, places: Int64[Tensor, "own"] | None = None
) -> Float[Tensor, "whole *shape"]:
    """All processes' rows, `count` of them, of which this one's stand at `places`, or are its `own_rows`. What all compute
    from them alike counts once when gradients are averaged over the processes."""
    return (
        rows
        if num_processes() == 1
        else _Gather.apply(rows, own_rows(count) if places is None else places, count)
    )


def alike(drawn: Tensor) -> Tensor:
    """What was drawn at random, the same for every process."""
    if num_processes() > 1:
        dist.broadcast(drawn, 0)
    return drawn


def agree(number: int, device: torch.device) -> bool:
    """Whether every process holds the same number."""
    told = torch.tensor([number, -number], device=device)
    if num_processes() > 1:
        dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told.sum() == 0)


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """The mean of the processes' gradients, in one message."""
    if num_processes() > 1:
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        whole = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(whole)
        torch._foreach_copy_(
            grads,
            [
                part.view_as(grad)
                for part, grad in zip(
                    whole.div_(num_processes()).split([g.numel() for g in grads]), grads
                )
            ],
        )
